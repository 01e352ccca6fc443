"""The executed notebooks and the documents as a static site, to look at without installing: `./run_all.sh book`.

Nothing is executed. The site asks no other host for anything: MathJax 3 comes from its own package (24 MB, no TeX
or Node.js needed), and the search is Sphinx's, in the reader's browser. Its pages lie in the same folders as their
sources, so that the links between these hold; a link that leads nowhere is an error.
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from tools.notebooks import ROOT

BOOK = ROOT / "book"
PARTS = {  # of the table of contents
    "Notebooks": ["notebooks/*.ipynb"],
    "Tables": ["figures/docs/*.md"],
    "Documents": ["docs/*.md", "DEVIATIONS.md", "CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/results.md",
                  "experiments/*/README.md"],
}  # fmt: skip
# that pages show or link to
FILES = ("figures/*.svg", "figures/docs/*.png", "benchmarks/*.png", "LICENSE", "NOTICE", "CITATION.cff")
TITLES = {
    "claims": "Verdicts on the claims",
    "deviations": "Effect of other choices",
    "table1-full": "Table 1 at full size",
}
NO_EXCERPTS = "if (location.protocol === 'file:') DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false"  # needs requests
SETTINGS = {
    "project": "TAS-Balanced, reproduced, explained, taught",
    "extensions": ["myst_nb", "sphinx-mathjax-offline"],
    "nb_execution_mode": "off",
    "myst_enable_extensions": ["dollarmath", "amsmath"],
    "myst_heading_anchors": 2,
    "highlight_language": "none",
    "html_theme": "furo",
    "html_title": "TAS-Balanced",
    "html_favicon": str(ROOT / "tools" / "book.svg"),
    "html_static_path": [str(ROOT / "tools" / "book.css")],
    "html_css_files": ["book.css"],
    "html_js_files": [(None, {"body": NO_EXCERPTS})],
    "html_copy_source": False,
}


def page(name: str, text: str) -> str:
    """The text of a page, from that of the file `name`: README becomes the index, and a table gets a title."""
    folder, _, file = name.rpartition("/")
    stem = file.removesuffix(".md")
    if name == "README.md":
        return text + "".join(map(contents, PARTS))
    if folder == "figures/docs":
        return f"# {TITLES.get(stem, stem.replace('table', 'Table '))}\n\n{text}"
    return text.replace("](../README.md", "](../index.md")


def contents(part: str) -> str:
    """The directive that puts a part into the sidebar."""
    names = (pattern.rpartition(".")[0] for pattern in PARTS[part])
    return "\n".join(["\n```{toctree}", f":caption: {part}", ":hidden:", ":glob:", *names, "```", ""])


def lay(source: Path) -> None:
    """Lay the pages and pictures out for Sphinx."""
    names = ["README.md", *(name for patterns in PARTS.values() for name in found(*patterns))]
    for name in names:
        target = source / ("index.md" if name == "README.md" else name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page(name, (ROOT / name).read_text(encoding="utf-8")), encoding="utf-8")
    for name in found(*FILES):
        shutil.copy(ROOT / name, source / name)


def found(*patterns: str) -> list[str]:
    """The files of the repository that match, in order."""
    return [str(path.relative_to(ROOT)) for pattern in patterns for path in sorted(ROOT.glob(pattern))]


def main() -> int:
    """Build the whole site or leave the old one; the exit status."""
    from sphinx.application import Sphinx  # of requirements-book.txt

    with TemporaryDirectory() as folder:
        source, built = Path(folder, "source"), Path(folder, "built")
        source.mkdir()
        lay(source)
        app = Sphinx(source, None, built, Path(folder, "read"), "html", SETTINGS, status=None, warningiserror=True)
        app.build()
        if app.statuscode:
            return 1
        shutil.rmtree(BOOK, ignore_errors=True)
        shutil.move(built, BOOK)
    print("book/index.html")
    return 0
