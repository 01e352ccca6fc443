"""How things are run.

`run` (./run_all.sh), `graph` (what needs what), `execute` (a job), `notebooks` (the files).
"""

import sys

sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # a grammar: a second of nbformat's, unused
