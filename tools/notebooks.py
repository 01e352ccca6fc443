"""Notebooks as files: read from percent text, cleaned after a run, and shown in notebooks/.

`python -m tools.notebooks` updates notebooks/*.ipynb from notebooks/src/*.py. Outputs stay where no code cell has
changed; otherwise all go, because the output of a cell may depend on any cell before it.
"""

import ast
import csv
import hashlib
import platform
import re
from collections import Counter
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat import NotebookNode
from nbformat.sign import NotebookNotary

from tas_lib.data.store import atomic_write

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
METADATA = {  # what JupyterLab would write once the kernel has started: else it counts an opened notebook as edited
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
        "version": platform.python_version(),
    },
}
INJECTED = "injected-parameters"  # papermill's tag of the cell that it adds
KEPT = ("lines_to_next_cell", "tags")  # without blank lines as in the text, JupyterLab would not open a newer notebook
SAID = [  # a verdict, of one claim, of several
    ("holds", "holds", "hold"),
    ("same direction", "has the same direction", "have the same direction"),
    ("no difference", "shows no difference", "show no difference"),
    ("undecided", "is undecided", "are undecided"),
    ("does not hold", "does not hold", "do not hold"),
    ("not run", "was not run", "were not run"),
]
BAR = re.compile(r".*\d+%\|.*\| \d+/\d+ \[")  # progress, as tqdm shows it
WIDGET = "application/vnd.jupyter.widget-view+json"
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
TABLE = re.compile(r"(<!-- table4 -->\n)(.*?)(<!-- /table4 -->)", re.S)
VERDICT = re.compile(r"(<!-- verdict -->\n)(.*?)(<!-- /verdict -->)", re.S)


def read(source: Path) -> NotebookNode:
    """The notebook of a percent text, without outputs."""
    return clean(jupytext.read(source, fmt="py:percent"))


def defaults(notebook: NotebookNode) -> dict[str, Any]:
    """Names and values of the cell tagged `parameters`."""
    nodes = [node for cell in notebook.cells if "parameters" in _tags(cell) for node in ast.parse(cell.source).body]
    return {node.targets[0].id: ast.literal_eval(node.value) for node in nodes}


def inputs(notebook: NotebookNode, *kinds: str) -> list[tuple[str, str, list[str]]]:
    """What a notebook says: kind, text and tags of each cell, or of the cells of some kinds."""
    cells = [cell for cell in notebook.cells if not kinds or cell.cell_type in kinds]
    return [(cell.cell_type, cell.source.rstrip(), _tags(cell)) for cell in cells]


def clean(notebook: NotebookNode) -> NotebookNode:
    """The same bytes whenever the same things happened, on any machine with the same Python.

    Removed are times, random cell ids, progress, standard error (it is in the log), memory addresses, and this folder's
    path.
    """
    cells: list[NotebookNode] = []
    count = 0
    for cell in notebook.cells:
        digest = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        kept = {key: cell.metadata[key] for key in KEPT if cell.metadata.get(key, []) != []}
        new = NotebookNode(cell_type=cell.cell_type, source=cell.source, metadata=NotebookNode(kept))
        new.id = f"{digest}-{sum(old.id.startswith(digest) for old in cells)}"
        if cell.cell_type == "code":
            count += bool(cell.get("execution_count"))
            new.execution_count = count if cell.get("execution_count") else None
            new.outputs = _outputs(cell.get("outputs", []), new.execution_count)
        cells.append(new)
    return NotebookNode(cells=cells, metadata=nbformat.from_dict(METADATA), nbformat=4, nbformat_minor=5)


def trust() -> None:
    """Sign the notebooks for this user: JupyterLab strips the panels of one from elsewhere, as a fresh clone's are."""
    notary = NotebookNotary()
    for path in FOLDER.glob("*.ipynb"):
        notary.sign(nbformat.read(path, as_version=4))


def stderr(notebook: NotebookNode) -> str:
    """What the cells wrote to standard error."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.get("name") == "stderr")


def not_run(notebook: NotebookNode) -> str:
    """The first "not run: ..." that a cell printed; "" if all were run."""
    texts = [output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output]
    return next((line for line in "".join(texts).splitlines() if line.startswith("not run: ")), "")


def _tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def _outputs(outputs: list[NotebookNode], count: int | None) -> list[NotebookNode]:
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if BAR.match(output.get("data", {}).get("text/plain", "")):
            continue
        output.get("data", {}).pop(WIDGET, None)  # it answers to the kernel of the run alone; what stands for it stays
        for kind, value in output.get("data", {}).items():
            if kind.startswith("text/") and isinstance(value, str):
                output.data[kind] = _portable(value)
        if "execution_count" in output:
            output.execution_count = count
        if "text" in output:
            output.text = _portable(output.text)
            if kept and kept[-1].get("name") == output.name:  # one stream may arrive in several pieces
                kept[-1].text += output.text
                continue
        kept.append(output)
    return kept


def _portable(text: str) -> str:
    return ADDRESS.sub("", text).replace(f"{ROOT}/", "").replace(str(ROOT), ".")


def write(notebook: NotebookNode, path: Path) -> None:
    """Write the whole file or nothing; an equal file is left alone."""
    text = nbformat.writes(nbformat.from_dict(notebook)) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        with atomic_write(path) as f:
            f.write(text)


def publish(executed: Path, source: Path, parameters: dict[str, Any]) -> None:
    """Show a run in notebooks/, if its parameters are the notebook's defaults."""
    known = defaults(read(source))
    if known | parameters == known:
        notebook = nbformat.read(executed, as_version=4)
        notebook.cells = [cell for cell in notebook.cells if INJECTED not in _tags(cell)]
        write(clean(notebook), FOLDER / f"{source.stem}.ipynb")


def publish_table(readme: Path, built: Path) -> None:
    """Put the built Table 4 between its two marks in README.md."""
    _put(readme, TABLE, "table4", built.read_text(encoding="utf-8").strip())


def publish_verdict(readme: Path, built: Path) -> None:
    """Put the number of claims by verdict, from claims.csv, between its two marks in README.md."""
    _put(readme, VERDICT, "verdict", verdict(built.read_text(encoding="utf-8")))


def verdict(built: str) -> str:
    """The sentence about the claims, from the text of claims.csv.

    >>> verdict("claim,verdict\\na,holds\\na,holds\\nb,does not hold\\nc,holds\\n")
    '> **3 claims of the paper, judged here:** 2 hold, 1 does not hold ([which](figures/docs/claims.md)).'
    """
    if built.startswith("not run"):
        return "> **The paper's claims are not judged yet** with this experiment ([list](docs/claims.md))."
    of = {row["claim"]: row["verdict"] for row in csv.DictReader(built.splitlines())}
    found = Counter(of.values())
    counts = ", ".join(f"{found[kind]} {one if found[kind] == 1 else more}" for kind, one, more in SAID if found[kind])
    return f"> **{len(of)} claims of the paper, judged here:** {counts} ([which](figures/docs/claims.md))."


def _put(readme: Path, marks: re.Pattern[str], name: str, block: str) -> None:
    text = readme.read_text(encoding="utf-8")
    new, found = marks.subn(lambda between: f"{between[1]}{block}\n{between[3]}", text)
    if not found:
        raise ValueError(f"{readme.name} has lost the marks <!-- {name} --> and <!-- /{name} -->")
    readme.write_text(new, encoding="utf-8")


def sync(source: Path) -> bool:
    """Update the .ipynb from its percent text; True if it had to be written."""
    path = FOLDER / f"{source.stem}.ipynb"
    new = read(source)
    old = clean(nbformat.read(path, as_version=4)) if path.is_file() else nbformat.v4.new_notebook()
    if inputs(old) == inputs(new):
        return False
    if inputs(old, "code") == inputs(new, "code"):
        ran = iter([cell for cell in old.cells if cell.cell_type == "code"])
        for cell in new.cells:
            if cell.cell_type == "code":
                before = next(ran)
                cell.update(outputs=before.outputs, execution_count=before.execution_count)
    write(new, path)
    return True


def refuse_edited() -> None:
    """ValueError if a notebook was edited but not its text: a run reads the text and would overwrite the notebook."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        source = FOLDER / "src" / f"{path.stem}.py"
        if not source.is_file() or source.stat().st_mtime >= path.stat().st_mtime:
            continue
        if inputs(nbformat.read(path, as_version=4)) != inputs(read(source)):
            name = f"notebooks/{path.name}"
            raise ValueError(f"{name} was edited but its text was not; copy the changes with: jupytext --sync {name}")


def main() -> None:
    """Update every notebook from its percent text."""
    for source in sorted((FOLDER / "src").glob("*.py")):
        if sync(source):
            print(f"notebooks/{source.stem}.ipynb updated from its text")


if __name__ == "__main__":
    main()
