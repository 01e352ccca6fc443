"""The form of the notebooks (STYLE): what they may hold, how they end, and that text and .ipynb are one."""

import ast
import re
from pathlib import Path

import jupytext
import nbformat
import pytest

from tools import graph, notebooks

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "notebooks" / "src").glob("*.py"))
BUILT = sorted((ROOT / "notebooks").glob("*.ipynb"))
PENDING: set[str] = set()
"""Not run yet with the present experiment (README); `./run_all.sh docs everything deviations` runs them."""
FIGURE = re.compile('<img alt="[^"]{30,}" src="data:image/png;base64,')
ENDING = ["Answer", "Where we differ", "Exercises", "Next"]
ABSOLUTE = re.compile(r"(?<![\w.:/])/(home|root|Users|tmp|var|opt|work|usr|mnt)/|[A-Z]:\\\\")

each_source = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
each_built = pytest.mark.parametrize("path", BUILT, ids=lambda path: path.stem)


def code_cells(source: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebooks.read(source).cells if cell.cell_type == "code"]


def test_every_notebook_is_in_the_graph_and_has_its_pair():
    assert [path.stem for path in SOURCES] == sorted(graph.NOTEBOOKS)
    assert [path.stem for path in BUILT] == [path.stem for path in SOURCES]


@each_source
def test_jupyterlab_opens_a_notebook_that_is_newer_than_its_text(source: Path):
    built = nbformat.read(ROOT / "notebooks" / f"{source.stem}.ipynb", as_version=4)
    built.metadata["jupytext"] = {"notebook_metadata_filter": "-all"}  # as in pyproject.toml
    assert jupytext.writes(built, fmt="py:percent") == source.read_text(encoding="utf-8")  # else it refuses


@each_source
def test_a_notebook_is_short(source: Path):
    cells = [cell.source.splitlines() for cell in code_cells(source) if "answer" not in cell.metadata.get("tags", [])]
    assert len(cells) <= 20
    assert max(map(len, cells)) <= 15, max(cells, key=len)
    assert sum(map(len, cells)) <= 150


@each_source
def test_the_first_code_cell_holds_the_parameters(source: Path):
    first, *others = code_cells(source)
    assert "parameters" in first.metadata.tags
    assert all(isinstance(node, ast.Assign) for node in ast.parse(first.source).body)
    assert "PROFILE" in notebooks.defaults(notebooks.read(source))
    assert not any("parameters" in cell.metadata.get("tags", []) for cell in others)


@each_source
def test_no_def_but_exercises_and_one_literal_loop(source: Path):
    cells = [cell.source for cell in code_cells(source) if "exercise" not in cell.metadata.get("tags", [])]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = [node.name for text in cells for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    explains = source.stem < "07"
    assert len(found) <= (1 if explains else 0), found


@each_source
def test_a_notebook_ends_with_its_answer(source: Path):
    texts = [cell.source for cell in notebooks.read(source).cells if cell.cell_type == "markdown"]
    headings = re.findall(r"^##? (.*)", "\n".join(texts), flags=re.MULTILINE)
    assert [heading.split()[0] for heading in headings[-4:]] == [words.split()[0] for words in ENDING], headings


@pytest.mark.parametrize("source", SOURCES[4:14], ids=lambda path: path.stem)
def test_the_answer_comes_from_the_run_and_names_no_number_of_an_earlier_one(source: Path):
    """Of the notebooks that find something: one short cell, and no value in the text around it."""
    cells = notebooks.read(source).cells
    (at,) = (i for i, cell in enumerate(cells) if "answer" in cell.metadata.get("tags", []))
    assert len(cells[at].source.splitlines()) <= 18 and "answers.say(" in cells[at].source
    _, _, static = (cells[at - 1].source + cells[at + 1].source).partition("## Answer")
    assert not re.search(r"\d*\.\d\d|\d%", static.partition("## Where we differ")[0]), static


@each_built
def test_text_and_notebook_hold_the_same_cells(path: Path):
    text = notebooks.read(path.parent / "src" / f"{path.stem}.py")
    assert notebooks.inputs(nbformat.read(path, 4)) == notebooks.inputs(text), "run: python -m tools.notebooks"


def test_figures_are_shown():
    outputs = [output for path in BUILT for cell in nbformat.read(path, 4).cells for output in cell.get("outputs", [])]
    assert sum(bool(FIGURE.match(output.get("data", {}).get("text/html", ""))) for output in outputs) > 10


@each_built
def test_a_notebook_keeps_the_outputs_of_a_whole_clean_run(path: Path):
    notebook = nbformat.read(path, 4)
    if path.stem in PENDING:  # no results of another experiment stand under its name
        assert not [output for cell in notebook.cells for output in cell.get("outputs", [])]
        return
    ran = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert ran == list(range(1, len(ran) + 1)), "it was not run from top to bottom: ./run_all.sh"
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert nbformat.from_dict(notebooks.clean(notebook)).cells == notebook.cells
    shown = [o.data for o in outputs if o.get("data", {}).get("text/plain", "").startswith("<Figure size")]
    assert all(FIGURE.match(data.get("text/html", "")) for data in shown), "a figure not shown, or without words"
    assert not [o for o in outputs if "image/png" in o.get("data", {})]
    assert path.stat().st_size < 1_000_000
    texts = [text for o in outputs for kind, text in [("text/", o.get("text", "")), *o.get("data", {}).items()]
             if kind.startswith("text/")]  # fmt: skip
    assert not ABSOLUTE.search("\n".join(texts))
