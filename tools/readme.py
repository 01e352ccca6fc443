"""README's Table 4 is the built one: rewritten after a whole run, between its two marks."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACE = re.compile(r"(<!-- table4 -->\n).*?(<!-- /table4 -->)", re.S)


def table(readme: str) -> str:
    """What stands between the marks."""
    found = PLACE.search(readme)
    if found is None:
        raise ValueError("README.md has lost the marks <!-- table4 --> and <!-- /table4 -->")
    return found[0].partition("\n")[2].rpartition("\n")[0].strip()


def update(readme: str, built: str) -> str:
    """README with the built table between the marks."""
    table(readme)
    return PLACE.sub(lambda marks: f"{marks[1]}{built.strip()}\n{marks[2]}", readme)


def publish(built: Path) -> None:
    """Put the table of a whole run into README.md."""
    path = ROOT / "README.md"
    path.write_text(update(path.read_text(encoding="utf-8"), built.read_text(encoding="utf-8")), encoding="utf-8")
