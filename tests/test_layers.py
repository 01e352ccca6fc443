"""The picture in DESIGN.md, enforced: an import runs only to a lower floor."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

FLOORS = [
    ["settings", "records", "store", "docstrings", "blocks", "columns", "growing"],  # ground
    ["profile", "ranks"],  # settings put together; the processes of a launch
    ["trec", "triples", "entries", "published"],  # the field's files, the paper's numbers
    ["sources", "shipped", "ingest"]  # the data, and beside it
    + ["models", "losses", "clustering", "sampling", "metrics", "fusion"],  # the paper: neighbours that do not meet
    ["collection"],  # a landing: what a source gave, on disk
    ["search", "encoding", "teachers", "seq2seq", "latency", "reranking", "checkpoints"],  # run: over texts and models
    ["mining", "expansion", "rerankers", "pretraining", "training", "stopping", "roofline"],
    ["seq2seq_training"],  # run: over those
    ["systems", "remake", "rows", "paper_claims", "style"],  # row; what is shipped, made again; what the paper has
    ["compared"],  # a landing: numbers beside other people's
    ["composing"],  # and in a table
    ["rendering"],  # which is written
    ["figures", "curves", "tables", "cost_tables", "claims", "teaching"],  # tell
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
LIBRARY = Path(__file__).parents[1] / "tas_lib"


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all imports of a file, wherever they stand in it; a relative one begins with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def wrong_arrows(library: Path) -> list[str]:
    """A sentence for every import of the library that runs to its own floor, upwards, or to or from nowhere known."""
    found = []
    for path in sorted(library.rglob("*.py")):
        file = path.relative_to(library)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.name == "__init__.py":
            if [type(node) for node in tree.body] != [ast.Expr] or not ast.get_docstring(tree):
                found.append(f"{file} must be a docstring and no more")
            continue
        module = file.with_suffix("").parts[0]
        if module not in FLOOR:
            found.append(f"{file} stands on no floor")
            continue
        for name in imported(tree):
            package, _, rest = name.partition(".")
            used = rest.split(".")[0]
            if package == "":
                found.append(f"{file} must not import {name} relatively")
            elif package == "tas_lib" and used not in FLOOR:
                found.append(f"{file} must not import {name}, which stands on no floor")
            elif package == "tas_lib" and FLOOR[used] >= FLOOR[module]:
                found.append(f"{file} must not import {used}")
    return found


def test_modules_import_only_from_lower_floors():
    assert list(LIBRARY.rglob("*.py")), "no library found, nothing tested"
    assert wrong_arrows(LIBRARY) == []


def library(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("losses", "from tas_lib import profile, records"),
        ("training", "from tas_lib.losses import dual"),
        ("systems", "import tas_lib.training"),
        ("sources__docs", "from tas_lib.records import Source"),
        ("claims", "import numpy as np, tas_librarian, collections.abc"),
    ],
)
def test_an_arrow_down_is_right(tmp_path, module, line):
    assert wrong_arrows(library(tmp_path, **{module: line})) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("losses", "from tas_lib import training"),  # up
        ("losses", "from tas_lib import profile, training"),
        ("losses", "import tas_lib.training"),
        ("losses", "def late():\n    from tas_lib.training import train"),
        ("losses", "from tas_lib import sampling"),  # beside
        ("losses", "from tas_lib import collection"),  # the paper knows no data
        ("published", "from tas_lib import metrics"),  # nor the data the paper
        ("sources__docs", "from tas_lib.sources import local"),
        ("sources__docs", "from tas_lib import models"),
        ("store", "from tas_lib.records import Pairs"),  # the ground knows nobody
        ("systems", "from tas_lib import helpers"),  # unknown
        ("systems", "from tas_lib import *"),
        ("systems", "import tas_lib"),
        ("systems", "from . import training"),
        ("sources__docs", "from ..records import Source"),
        ("helpers", ""),
        ("utils__helpers", ""),
    ],
)
def test_any_other_arrow_is_found(tmp_path, module, line):
    assert len(wrong_arrows(library(tmp_path, **{module: line}))) == 1


def test_an_init_that_does_something_is_found(tmp_path):
    (tmp_path / "__init__.py").write_text('"""A docstring."""\n')
    assert wrong_arrows(tmp_path) == []
    (tmp_path / "__init__.py").write_text('"""A docstring."""\nfrom tas_lib import losses\n')
    assert wrong_arrows(tmp_path) == ["__init__.py must be a docstring and no more"]
