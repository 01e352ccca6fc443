"""Documents, profiles, docstrings and comments mention only files that exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = "tas_lib|lecture|tools|tests|benchmarks|notebooks|profiles|data|docs|figures|\\.ci"
PATH = re.compile(
    rf"(?<![\w./<>*-])(?:(?:{FOLDERS})/[\w./-]*\w/?|[A-Z]{{4,}}\.md|(?:requirements|run_|pyproject)[\w-]*\.\w+)(?![\w<*{{])"
)
OURS = {"data/local", "data/msmarco"}
"""Made by the user or by a run, so not in git."""


def texts() -> Iterator[tuple[str, str]]:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("profiles/*.yaml"), ROOT / "tools/help.txt",
                 ROOT / "data/paper/README.md", ROOT / "benchmarks/results.md"]:  # fmt: skip
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    folders = [ROOT / room for room in ("tas_lib", "lecture", "tools", "benchmarks")]
    for path in [path for folder in folders for path in folder.rglob("*.py")]:
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        source = path.read_text(encoding="utf-8")
        docs = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
        yield path.relative_to(ROOT).as_posix(), "\n".join([*docs, *re.findall(r"# .*", source)])


def missing(text: str) -> list[str]:
    return [path for path in PATH.findall(text) if not (ROOT / path).exists() and path not in OURS]


def test_every_file_that_is_mentioned_exists():
    assert {name: wrong for name, text in texts() if (wrong := missing(text))} == {}


@pytest.mark.parametrize("text", ["see `tas_lib/helpers.py`", "(DESIGN.md)", "tas_lib/gone/", "run_everything.sh"])
def test_a_reference_to_a_missing_file_is_found(text):
    assert len(missing(text)) == 1
