"""Two editions of the executed notebooks, from one source: `./run_all.sh editions`.

Students get open exercises, and no output where they are asked to predict it. Lecturers get all outputs, the solutions
in the exercises, and under every heading the minutes that the section takes. Nothing is executed.
"""

import ast
import re

import nbformat
from nbformat import NotebookNode

from tools import notebooks
from tools.notebooks import ROOT

EDITIONS = ROOT / "editions"
SOLUTIONS = notebooks.FOLDER / "solutions.py"
PROMPT = re.compile(r"\*(?:Before\s+you|Predict)")
WORDS_PER_MINUTE = 130  # of a lecturer, who says about what is written
CODE, GUESS, EXERCISE = 0.5, 1, 8  # minutes: to look at a cell and its output, to predict, to solve


def functions(code: str) -> dict[str, slice]:
    """Where the lines of each function of a module or cell are."""
    nodes = (node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef))
    return {node.name: slice(node.lineno - 1, node.end_lineno) for node in nodes}


def solved(stub: str) -> str:
    """The code of an exercise with the solution in place of its stub."""
    text = SOLUTIONS.read_text(encoding="utf-8")
    solutions, lines = functions(text), stub.splitlines()
    for name, place in functions(stub).items():
        if name in solutions:
            lines[place] = text.splitlines()[solutions[name]]
    return "\n".join(line for line in lines if line.strip() != "# TODO")


def for_students(notebook: NotebookNode) -> None:
    """Clear the outputs that are to be predicted, and those of exercises."""
    asked = False
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            asked = bool(PROMPT.search(cell.source))
        elif asked or is_exercise(cell):
            cell.update(outputs=[], execution_count=None)


def for_lecturers(notebook: NotebookNode) -> None:
    """Insert solutions and minutes."""
    times = iter(minutes(notebook.cells))
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(
                r"^## .*$", lambda found: f"{found[0]}\n\n*About {next(times)} min*", cell.source, flags=re.M
            )
        elif is_exercise(cell):
            cell.update(source=solved(cell.source), outputs=[], execution_count=None)


def minutes(cells: list[NotebookNode]) -> list[int]:
    """Of each section, which begins with a heading of second level."""
    total = [0.0]
    for cell in cells:
        if cell.cell_type == "code":
            total[-1] += EXERCISE if is_exercise(cell) else CODE
            continue
        first, *sections = (
            len(text.split()) / WORDS_PER_MINUTE + GUESS * len(PROMPT.findall(text))
            for text in re.split(r"^(?=## )", cell.source, flags=re.M)
        )
        total[-1] += first
        total += sections
    return [max(1, round(time)) for time in total[1:]]


def is_exercise(cell: NotebookNode) -> bool:
    """Whether the cell holds the stub of an exercise."""
    return "exercise" in cell.metadata.get("tags", [])


def main() -> int:
    """Write both editions; the exit status."""
    for name, change in {"students": for_students, "lecturers": for_lecturers}.items():
        for source in sorted((notebooks.FOLDER / "src").glob("*.py")):
            notebook = nbformat.read(notebooks.FOLDER / f"{source.stem}.ipynb", as_version=4)
            change(notebook)
            for cell in notebook.cells:
                cell.source = cell.source.replace("](../", "](../../")
            notebooks.write(notebooks.clean(notebook), EDITIONS / name / f"{source.stem}.ipynb")
        print(f"editions/{name}/")
    return 0
