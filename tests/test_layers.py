"""The picture in docs/design.md, enforced: an import runs to the same room or to a lower one, and never in a circle."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

FLOORS = [
    ["settings", "records", "config"],  # what flows between modules; what a run depends on
    ["losses", "models", "clustering", "sampling"],  # the paper, Eqs. 1-13: neighbours that do not know each other
    ["data"],
    [
        "evaluation",
        "retrieval",
        "train",
    ],  # a row: how good, what is found, how it is learnt; the later uses the earlier
    ["experiment"],
    ["report"],
]
PAPER = set(FLOORS[1])
HEIGHT = {room: height for height, room in enumerate(room for floor in FLOORS for room in floor)}
LIBRARY = Path(__file__).parents[1] / "tas_lib"


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all imports of a file, wherever they are; a relative one begins with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def wrong_arrows(library: Path) -> list[str]:
    """A sentence for every import that runs to a higher room, between the modules of the paper, or in a circle."""
    wrong = []
    graph: dict[str, set[str]] = {}
    for path in sorted(library.rglob("*.py")):
        file = path.relative_to(library)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.name == "__init__.py":
            if [type(node) for node in tree.body] != [ast.Expr] or not ast.get_docstring(tree):
                wrong.append(f"{file} must be a docstring and no more")
            continue
        room = file.with_suffix("").parts[0]
        if room not in HEIGHT:
            wrong.append(f"{file} belongs to no room")
            continue
        uses = graph.setdefault(".".join(file.with_suffix("").parts), set())
        for name in imported(tree):
            package, _, rest = name.partition(".")
            used = rest.split(".")[0]
            if package == "":
                wrong.append(f"{file} must not import {name} relatively")
            elif package in ("tools", "benchmarks", "tests", "lecture"):
                wrong.append(f"{file} must not import {name}: the library stands alone")
            elif package == "tas_lib" and used not in HEIGHT:
                wrong.append(f"{file} must not import {name}, which belongs to no room")
            elif package == "tas_lib":
                if HEIGHT[used] > HEIGHT[room] or (used != room and {used, room} <= PAPER):
                    wrong.append(f"{file} must not import {used}")
                uses |= {rest, rest.rpartition(".")[0]}  # a module, or a name in one
    try:
        [*TopologicalSorter({module: uses - {module} for module, uses in graph.items()}).static_order()]
    except CycleError as error:
        wrong.append(f"a circle: {' → '.join(error.args[1])}")
    return wrong


def test_modules_import_only_from_their_own_room_or_lower_ones():
    assert list(LIBRARY.rglob("*.py")), "no library found, nothing tested"
    assert wrong_arrows(LIBRARY) == []


def test_the_library_is_small():
    modules = [path for path in LIBRARY.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= 9
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in LIBRARY.rglob("*.py")}
    assert [f"{path.name}: {n}" for path, n in lengths.items() if n > 300] == []
    assert sum(lengths.values()) <= 8_750  # docs/design.md, Size


def library(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("losses", "from tas_lib import config, records"),
        ("train__loop", "from tas_lib.losses import dual"),
        ("train__loop", "from tas_lib.train.pairs import open_pairs"),
        ("experiment", "import tas_lib.train.loop"),
        ("train__pairs", "from tas_lib.retrieval import bm25"),
        ("report__tables", "import numpy as np, tas_librarian, collections.abc"),
    ],
)
def test_an_arrow_down_is_right(tmp_path, module, line):
    assert wrong_arrows(library(tmp_path, **{module: line})) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("losses", "from tas_lib.train import loop"),  # up
        ("losses", "import tas_lib.train.loop"),
        ("losses", "def late():\n    from tas_lib.train.loop import train"),
        ("losses", "from tas_lib import sampling"),  # beside
        ("losses", "from tas_lib.data import collection"),  # the paper knows no data
        ("retrieval__encode", "from tas_lib.train import loop"),
        ("data__store", "from tas_lib import experiment"),
        ("config", "from tas_lib import losses"),
        ("experiment", "from tas_lib import helpers"),  # unknown
        ("experiment", "from tas_lib import *"),
        ("experiment", "import tas_lib"),
        ("experiment", "from . import config"),
        ("data__sources__docs", "from ..records import Source"),
        ("experiment", "from tools import graph"),
        ("report__figures", "from lecture import pictures"),
        ("helpers", ""),
        ("utils__helpers", ""),
    ],
)
def test_any_other_arrow_is_found(tmp_path, module, line):
    assert len(wrong_arrows(library(tmp_path, **{module: line}))) == 1


def test_a_circle_within_a_room_is_found(tmp_path):
    files = {"train__loop": "from tas_lib.train import pairs", "train__pairs": "from tas_lib.train.loop import train"}
    assert "a circle" in wrong_arrows(library(tmp_path, **files))[0]


def test_an_init_that_does_something_is_found(tmp_path):
    (tmp_path / "__init__.py").write_text('"""A docstring."""\n')
    assert wrong_arrows(tmp_path) == []
    (tmp_path / "__init__.py").write_text('"""A docstring."""\nfrom tas_lib import losses\n')
    assert wrong_arrows(tmp_path) == ["__init__.py must be a docstring and no more"]
