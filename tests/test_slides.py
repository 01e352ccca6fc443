"""The slides: every reference resolves, no result is typed, ninety minutes; and how they look to a real Chromium."""

import re
from pathlib import Path

import nbformat
import pytest

from lecture import pictures
from tests.test_book import Browser, browser
from tools import notebooks, slides

REFERENCES = [found for text, *_ in slides.slides() for found in slides.REFERENCE.finditer(text)]
OVER = """[...Reveal.getCurrentSlide().querySelectorAll("*")]
    .filter(node => !node.closest("aside, mjx-assistive-mml"))
    .filter(node => (box => box.width && (box.left < 0 || box.right > innerWidth || box.bottom > innerHeight))(
        node.getBoundingClientRect())).map(node => node.tagName + ": " + node.textContent.trim().slice(0, 60))"""

__all__ = ["browser"]


def test_ninety_minutes_in_about_twenty_five_slides():
    assert sum(minutes for _, minutes, _ in slides.slides()) == 90 and 25 <= len(slides.slides()) <= 28


@pytest.mark.parametrize("found", REFERENCES, ids=lambda found: found[0][-50:])
def test_a_reference_resolves(found: re.Match[str]):
    words, path = slides.wanted(found), slides.ROOT / found[2]
    assert path.is_file() and words.keys() <= {"cell", "picture", "rows", "columns"}
    assert found[1] or path.suffix in (".md", ".ipynb"), "a picture needs alternative text"
    if "picture" in words:
        assert callable(getattr(pictures, words["picture"]))
    if "cell" in words:
        slides.outputs(notebooks.read(path.parent / "src" / f"{path.stem}.py"), words["cell"], found[1])


def test_no_result_is_typed():
    named = r"(Table|Figure|Eq\.|Equation|[Nn]otebooks?|D|BM|docT|SIGIR|arXiv|doi) ?\**\d\S*|2023|\d+ minutes?"
    named += r"|\$\$.*?\$\$|^\d\. |^## \d|\(\d\d(, \d\d)*\)|(and|to) \d\d\b"
    for text, _, notes in slides.slides():
        words = re.sub(named, "", slides.REFERENCE.sub("", f"{text}\n{notes}"), flags=re.M | re.S)
        assert not re.findall(r".{20}\d.*", words)


def test_the_wanted_lines_and_columns_of_a_table():
    table = "Table 1: of c.\n\n| a | b<br>x | c |\n| --- | --- | --- |\n| 1 | 2 | 3 |\n| 4 | 5 | 6 |"
    assert slides.chosen(table, "4", "b x|c") == (
        '| b<br>x | c |\n| --- | --- |\n| 5 | 6 |\n\n<p class="caption">Table 1: of c.</p>'
    )
    assert slides.chosen("- a 1\n- b 2", "b", "") == "- b 2"
    assert not slides.chosen(table, "no such row", "")


def test_what_has_not_been_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slides, "ROOT", tmp_path)
    cell = nbformat.v4.new_code_cell("a = 1")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "a.ipynb")
    (tmp_path / "b.md").write_text("not run: this comes later", encoding="utf-8")
    for wanted, named in (('a.ipynb cell="a ="', "cell 'a =' of a.ipynb"), ("b.md", "b.md"), ("c.svg", "c.svg")):
        with pytest.raises(ValueError, match=f"the slides show {named}, which has not been made yet"):
            slides.REFERENCE.sub(slides.shown, f"![]({wanted})")


@pytest.mark.slow
def test_every_slide_fits_and_asks_no_other_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, browser: Browser):  # noqa: F811
    pytest.importorskip("sphinx_revealjs", reason="./run_all.sh slides installs what the slides need")
    monkeypatch.setattr(slides, "SLIDES", tmp_path / "slides")
    slides.main()
    browser.call("Emulation.setDeviceMetricsOverride", width=1280, height=720, deviceScaleFactor=1, mobile=False)
    browser.open(f"{(tmp_path / 'slides').as_uri()}/index.html")
    browser.wait("window.Reveal?.isReady()")
    places = range(browser.value("Reveal.getTotalSlides()"))
    over = {place + 1: browser.value(f"Reveal.slide({place}); {OVER}") for place in places}
    assert len(places) == len(slides.slides()) and not {place: what for place, what in over.items() if what}
    assert browser.value("document.querySelector('mjx-container') && !document.querySelector('mjx-merror')")
    assert not browser.value("[...document.images].filter(node => !node.naturalWidth || !node.alt).length")
    assert not browser.complaints(f"{(tmp_path / 'slides').as_uri()}/")
