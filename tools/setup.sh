#!/usr/bin/env bash
# Make .venv from requirements.txt if it is missing, incomplete or stale.
# The stamp in .venv is written last; it holds what the environment was made from: this folder and requirements.txt.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-python3}"
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
    echo "Python 3.11 or newer is required; '$python' is not. Name one: PYTHON=python3.12 ./run_all.sh" >&2
    exit 1
fi
exec 9< requirements.txt
"$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)' # until this script ends: two set-ups at once take turns

stamp="$PWD"$'\n'"$(cat requirements.txt)"
if [[ ! -e .venv ]]; then
    reason="it does not exist yet"
elif [[ ! -e .venv/stamp ]]; then
    reason="its set-up was interrupted"
elif [[ "$(cat .venv/stamp)" != "$stamp" ]]; then
    reason="requirements.txt has changed, or this folder was moved"
elif ! .venv/bin/python -c ""; then
    reason="its Python no longer starts"
else
    exit 0
fi

echo "Setting up .venv ($reason): two minutes, or as long as downloading PyTorch takes."
trap 'echo "The set-up of .venv failed. Run the same command again to start it over." >&2' ERR
quiet=""
[[ -t 1 ]] || quiet="-qq"
rm -rf .venv
"$python" -m venv .venv
.venv/bin/python -m pip install --disable-pip-version-check $quiet --requirement requirements.txt
# notebooks, JupyterLab and papermill find tas_lib through a line in site-packages
echo "$PWD" > "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tas_lib.pth"
echo "$stamp" > .venv/stamp
