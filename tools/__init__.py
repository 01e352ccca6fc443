"""How things are run.

`run` (./run_all.sh), `graph` (what needs what), `execute` (a job), `notebooks` (the files).
"""
