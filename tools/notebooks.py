"""Notebooks as files: read from percent text, cleaned after a run, and the pair in notebooks/ kept in step.

`python -m tools.notebooks` brings notebooks/*.ipynb in step with notebooks/src/*.py. Outputs stay where no code cell
has changed; else all go, for a later cell's output may depend on an earlier cell.
"""

import ast
import hashlib
import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
INJECTED = "injected-parameters"  # papermill's tag of the cell that holds what was asked for
ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def read(source: Path) -> NotebookNode:
    """The notebook of a percent text, without outputs."""
    notebook = jupytext.read(source, fmt="py:percent")
    return clean(notebook)


def defaults(notebook: NotebookNode) -> dict[str, Any]:
    """Names and values of the cell tagged `parameters`."""
    found = {}
    for cell in notebook.cells:
        if "parameters" in _tags(cell):
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    found[node.targets[0].id] = ast.literal_eval(node.value)
    return found


def given(notebook: NotebookNode) -> dict[str, Any]:
    """The parameters that an executed notebook was run with."""
    cells = [nbformat.v4.new_code_cell(c.source) for c in notebook.cells if INJECTED in _tags(c)]
    for cell in cells:
        cell.metadata["tags"] = ["parameters"]
    return defaults(notebook) | defaults(nbformat.v4.new_notebook(cells=cells))


def inputs(notebook: NotebookNode) -> list[tuple[str, str, list[str]]]:
    """What is written in a notebook: kind, text and tags of each cell."""
    return [(cell.cell_type, cell.source.rstrip(), _tags(cell)) for cell in notebook.cells]


def clean(notebook: NotebookNode) -> NotebookNode:
    """A notebook that is the same bytes whenever the same things happened in it, on any machine.

    Gone are times, cell ids made by chance, standard error (it is in the log), memory addresses and this folder's path.
    """
    cells: list[NotebookNode] = []
    for cell in notebook.cells:
        digest = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        new = NotebookNode(cell_type=cell.cell_type, source=cell.source, metadata=NotebookNode())
        new.id = f"{digest}-{sum(old.id.startswith(digest) for old in cells)}"
        if _tags(cell):
            new.metadata["tags"] = _tags(cell)
        if cell.cell_type == "code":
            ran = sum(old.cell_type == "code" and old.execution_count is not None for old in cells)
            new.execution_count = ran + 1 if cell.get("execution_count") else None
            new.outputs = _outputs(cell.get("outputs", []), new.execution_count)
        cells.append(new)
    return NotebookNode(cells=cells, metadata=nbformat.from_dict(METADATA), nbformat=4, nbformat_minor=5)


def stderr(notebook: NotebookNode) -> str:
    """What the cells wrote to standard error."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.get("name") == "stderr")


def _tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def _outputs(outputs: list[NotebookNode], count: int | None) -> list[NotebookNode]:
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if "text" in output:
            output.text = _portable(output.text)
            if kept and kept[-1].get("name") == output.name:  # one stream may arrive in several pieces
                kept[-1].text += output.text
                continue
        for kind, value in output.get("data", {}).items():
            if kind.startswith("text/") and isinstance(value, str):
                output.data[kind] = _portable(value)
        if "execution_count" in output:
            output.execution_count = count
        kept.append(output)
    return kept


def _portable(text: str) -> str:
    return ADDRESS.sub("", text).replace(f"{ROOT}/", "").replace(str(ROOT), ".")


def write(notebook: NotebookNode, path: Path) -> None:
    """The file, whole or not at all; an equal one is left alone."""
    text = nbformat.writes(nbformat.from_dict(notebook)) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def publish(executed: Path, source: Path) -> None:
    """Show a run in notebooks/, if it ran with the parameters that the notebook itself names (its cell says so)."""
    notebook = nbformat.read(executed, as_version=4)
    if given(notebook) == defaults(read(source)):
        notebook.cells = [cell for cell in notebook.cells if INJECTED not in _tags(cell)]
        write(clean(notebook), FOLDER / f"{source.stem}.ipynb")


def sync(source: Path) -> bool:
    """Bring the .ipynb of a percent text in step; True where it had to be written."""
    path = FOLDER / f"{source.stem}.ipynb"
    new = read(source)
    old = clean(nbformat.read(path, as_version=4)) if path.is_file() else nbformat.v4.new_notebook()
    if inputs(old) == inputs(new):
        return False

    def code(notebook: NotebookNode) -> list[NotebookNode]:
        return [cell for cell in notebook.cells if cell.cell_type == "code"]

    if [cell.source for cell in code(old)] == [cell.source for cell in code(new)]:
        for before, after in zip(code(old), code(new), strict=True):
            after.update(outputs=before.outputs, execution_count=before.execution_count)
    write(new, path)
    return True


def refuse_edited() -> None:
    """ValueError where a notebook was edited without its text, which is what a run reads and would write over it."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        source = FOLDER / "src" / f"{path.stem}.py"
        if not source.is_file() or source.stat().st_mtime >= path.stat().st_mtime:
            continue
        if inputs(nbformat.read(path, as_version=4)) != inputs(read(source)):
            name = f"notebooks/{path.name}"
            raise ValueError(f"{name} was edited, but not its text; take it over with: jupytext --sync {name}")


def main() -> None:
    """Bring every notebook in step with its percent text."""
    for source in sorted((FOLDER / "src").glob("*.py")):
        if sync(source):
            print(f"notebooks/{source.stem}.ipynb rewritten from its text")


if __name__ == "__main__":
    main()
