#!/usr/bin/env bash
# Set up .venv if it is missing or stale, then build the requested targets: ./run_all.sh --help
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

for word in "$@"; do
    if [[ $word == --help || $word == -h ]]; then
        exec cat tools/help.txt
    fi
done
tools/setup.sh
exec .venv/bin/python -m tools.run "$@"
