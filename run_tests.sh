#!/usr/bin/env bash
# The same set-up as run_all.sh, then linters and tests; arguments go to pytest: ./run_tests.sh -k store
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

tools/setup.sh
.venv/bin/ruff check
.venv/bin/ruff format --check
.venv/bin/mypy
exec .venv/bin/python -m pytest "$@"
