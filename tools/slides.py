"""Slides for a lecture of ninety minutes: `./run_all.sh slides`.

Nothing is executed and no result is typed. tools/slides.md holds the slides, separated by `---`; `Note:` begins what
the lecturer says, minutes first. A line `![alternative text](file)` shows a file, a figure or a table; with
`cell="..."`, the outputs of the one notebook cell with this code or tag; with `picture="..."`, the drawing of this
function of `pictures.py`. `rows` and `columns` match the lines and headings that are kept. The folder asks no
other host for anything: reveal.js comes from one package, MathJax from another.
"""

import base64
import io
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
import nbformat

from lecture import pictures
from tas_lib.report.style import STYLE
from tools.notebooks import ROOT

SLIDES, SOURCE = ROOT / "slides", ROOT / "tools" / "slides.md"
REFERENCE = re.compile(r"^!\[(.*)\]\((\S+?)( .*)?\)$", re.M)
HOLE = re.compile(r"(?<!\d )not run")  # "0 not run" is a count
BAR = re.compile(r"(?<!\\)\|")


def slides() -> list[tuple[str, int, str]]:
    """Every slide: Markdown, with the references as they were written; how many minutes it takes; notes."""
    parts = [part.split("\nNote:") for part in SOURCE.read_text(encoding="utf-8").split("\n---\n")]
    return [(text.strip(), int(notes.split()[0]), notes.strip()) for text, notes in parts]


def wanted(reference: re.Match[str]) -> dict[str, str]:
    """The words after the file: `cell`, `picture`, `rows` and `columns`."""
    return dict(re.findall(r'(\w+)="(.*?)"', reference[3] or ""))


def shown(reference: re.Match[str]) -> str:
    """What a reference stands for, as HTML or Markdown; ValueError if it has not been made yet."""
    alt, name, words = reference[1], reference[2], wanted(reference)
    parts = []
    if "picture" in words:
        file = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            getattr(pictures, words["picture"])().savefig(file, format="svg")
        parts = [file.getvalue().decode()]
    elif "cell" in words:
        parts = outputs(nbformat.read(ROOT / name, as_version=4), words["cell"], alt)
    elif (ROOT / name).is_file():
        parts = [(ROOT / name).read_text(encoding="utf-8")]
    parts = [chosen(part, words.get("rows", ""), words.get("columns", "")) for part in parts]
    if not any(parts) or any(HOLE.search(part) for part in parts):
        where = f"cell {words['cell']!r} of {name}" if "cell" in words else name
        raise ValueError(f"the slides show {where}, which has not been made yet: ./run_all.sh makes it")
    return "\n\n".join(svg(part, alt) if part.startswith("<?xml") else part for part in parts)


def outputs(notebook: nbformat.NotebookNode, code: str, alt: str) -> list[str]:
    """The pictures of the one cell with this code or tag; without alternative text its tables and sentences instead."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    (cell,) = [c for c in cells if code in c.metadata.get("tags", [])] or [c for c in cells if code in c.source]
    data = [output.get("data", {"text/markdown": output.get("text", "")}) for output in cell.outputs]
    html = "".join(part.get("text/html", "") for part in data)
    if alt:
        return [f'<img alt="{alt}" {source}>' for source in re.findall('src="data:image/png;base64,[^"]*"', html)]
    return [*re.findall("<table.*?</table>", html, re.S), *(part.get("text/markdown", "") for part in data)]


def chosen(text: str, rows: str, columns: str) -> str:
    """The lines of lists and tables that match `rows`, and the columns whose headings match `columns`; caption last."""
    kept = []
    for block in text.strip().split("\n\n") if rows or columns else [text]:
        lines = block.splitlines()
        if block.startswith("|"):
            table = [BAR.split(line)[1:-1] for line in lines]
            places = [i for i, title in enumerate(table[0]) if re.search(columns, title.replace("<br>", " "))]
            found = [i for i, line in enumerate(lines) if i < 2 or re.search(rows, line)]
            lines = [f"|{'|'.join(table[i][j] for j in places)}|" for i in found if len(places) > 1 and len(found) > 2]
        elif block.startswith("Table "):
            lines = [f'<p class="caption">{block}</p>']
        kept.append("\n".join(line for line in lines if block[0] in "|T" or re.search(rows, line)))
    blocks = sorted(filter(None, kept), key=lambda part: part.startswith("<p"))
    return "" if blocks and blocks[0].startswith("<p") else "\n\n".join(blocks)


def svg(text: str, alt: str) -> str:
    """A vector picture inside the page."""
    return f'<img alt="{alt}" src="data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}">'


def main() -> int:
    """Build the whole folder or leave the old one; the exit status."""
    from nbconvert import SlidesExporter

    cells = []
    for text, minutes, notes in slides():
        first = {"slide_type": "slide", "data": {"timing": str(60 * minutes)}}  # for the speaker view's clock
        for part, show in ((REFERENCE.sub(shown, text), first), (notes, {"slide_type": "notes"})):
            cells.append(nbformat.v4.new_markdown_cell(part, metadata={"slideshow": show}))
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"title": "TAS-Balanced"})
    look = {"template_file": str(SOURCE.with_suffix(".html.j2")), "exclude_anchor_links": True}
    page, _ = SlidesExporter(reveal_url_prefix="reveal", reveal_theme="white", **look).from_notebook_node(notebook)
    reveal, mathjax = (find_spec(name) for name in ("sphinx_revealjs", "sphinx-mathjax-offline"))
    assert reveal and reveal.origin and mathjax and mathjax.origin  # of requirements-book.txt
    with TemporaryDirectory() as folder:
        built = Path(folder, "slides")
        for part in ("dist", "plugin/notes"):
            bundled = Path(reveal.origin).parent / "_static" / "revealjs" / part
            shutil.copytree(bundled, built / "reveal" / part, ignore=shutil.ignore_patterns("*.map", "*.esm.js"))
        shutil.copy(Path(mathjax.origin).parent / "static" / "mathjax" / "tex-svg.js", built)
        shutil.copy(SOURCE.with_suffix(".css"), built)
        (built / "index.html").write_text(page, encoding="utf-8")
        shutil.rmtree(SLIDES, ignore_errors=True)
        shutil.move(built, SLIDES)
    print("slides/index.html")
    return 0
