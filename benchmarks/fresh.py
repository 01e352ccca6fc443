"""A function in an interpreter of its own: its memory is its own, and nobody has warmed anything up for it."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CODE = """
import importlib, json, sys
from pathlib import Path
module, function, arguments, answer = sys.argv[1:]
found = getattr(importlib.import_module(module), function)(**json.loads(arguments))
Path(answer).write_text(json.dumps(found))
"""


def call(module: str, function: str, **arguments: object) -> Any:
    """What `function` of `module` returns, called in a new process; arguments and answer go through JSON.

    Raises RuntimeError with the last line of what it said where it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-c", CODE, module, function, json.dumps(arguments), str(answer)]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        told = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.PIPE, text=True)
        if told.returncode or not answer.is_file():
            lines = told.stderr.strip().splitlines() or [f"it ended with status {told.returncode}"]
            raise RuntimeError(f"{module}.{function}: {lines[-1]}")
        return json.loads(answer.read_text(encoding="utf-8"))
