"""README shows what was built, and its links lead somewhere."""

import re
from pathlib import Path

import pytest

from tools import notebooks

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_in_readme_is_the_built_one():
    built = (ROOT / "figures" / "docs" / "table4.md").read_text(encoding="utf-8")
    table = notebooks.TABLE.search(TEXT)
    assert table and table[2].strip() == built.strip()


def test_the_verdict_in_readme_is_that_of_the_built_claims(tmp_path: Path):
    built = ROOT / "figures" / "docs" / "claims.csv"
    shown = notebooks.VERDICT.search(TEXT)
    assert shown and shown[2].strip() == notebooks.verdict(built.read_text(encoding="utf-8"))
    readme, claims = tmp_path / "README.md", tmp_path / "claims.csv"
    readme.write_text("a\n<!-- verdict -->\nold\n<!-- /verdict -->\nb\n")
    judged = "> **2 claims of the paper, judged here:** 2 hold ("
    for text, words in (("claim,verdict\na,holds\na,holds\nb,holds\n", judged), ("not run: later", "not judged yet")):
        claims.write_text(text)
        notebooks.publish_verdict(readme, claims)
        assert words in readme.read_text() and readme.read_text().endswith("\n<!-- /verdict -->\nb\n")


def test_the_table_is_put_between_the_marks_and_nowhere_else(tmp_path: Path):
    readme, built = tmp_path / "README.md", tmp_path / "table4.md"
    built.write_text("new \\1\n")
    for old in ("old\n", ""):
        readme.write_text(f"a\n<!-- table4 -->\n{old}<!-- /table4 -->\nb\n")
        notebooks.publish_table(readme, built)
        assert readme.read_text() == "a\n<!-- table4 -->\nnew \\1\n<!-- /table4 -->\nb\n"
    readme.write_text("a")
    with pytest.raises(ValueError, match="README.md has lost the marks"):
        notebooks.publish_table(readme, built)


def test_links_of_the_documents_lead_to_files():
    for document in ROOT.glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (ROOT / link).exists(), f"{document.name}: {link}"
