"""README shows what was built, and its links lead somewhere."""

import re
from pathlib import Path

import pytest

from tools import readme

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_in_readme_is_the_built_one():
    built = (ROOT / "figures" / "docs" / "table4.md").read_text(encoding="utf-8")
    assert readme.table(TEXT) == built.strip()


def test_the_table_is_put_between_the_marks_and_nowhere_else():
    text = "a\n<!-- table4 -->\nold\n<!-- /table4 -->\nb\n"
    assert readme.update(text, "new \\1\n") == "a\n<!-- table4 -->\nnew \\1\n<!-- /table4 -->\nb\n"
    assert (
        readme.update("a\n<!-- table4 -->\n<!-- /table4 -->\n", "new") == "a\n<!-- table4 -->\nnew\n<!-- /table4 -->\n"
    )
    with pytest.raises(ValueError, match="lost the marks"):
        readme.update("a", "new")


def test_links_of_the_documents_lead_to_files():
    for document in ROOT.glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (ROOT / link).exists(), f"{document.name}: {link}"
