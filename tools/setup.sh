#!/usr/bin/env bash
# Make .venv with the Python that there is; tools/setup.py knows when it is needed.
set -euo pipefail

python="${PYTHON:-python3}"
if ! command -v "$python" > /dev/null; then
    echo "Python 3.11 or newer is needed, and there is no '$python' here; name one: PYTHON=python3.12 ./run_all.sh" >&2
    exit 1
fi
exec "$python" "$(dirname -- "${BASH_SOURCE[0]}")/setup.py"
