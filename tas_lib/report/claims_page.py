"""The verdicts on the paper's claims as a page, below the legend of docs/claims.md, and as a table of comparisons."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tas_lib.config import ROOT
from tas_lib.data.store import atomic_write
from tas_lib.evaluation.claims import VERDICTS, Verdict
from tas_lib.evaluation.comparisons import MARGIN, Comparison, Sight
from tas_lib.report.render import Grid, decimals, pipe_table

HEADS = ("claim", "section", "words", "rule", "verdict", "found")


def legend() -> str:
    """How to read systems and verdicts: the second section of docs/claims.md."""
    return (ROOT / "docs" / "claims.md").read_text(encoding="utf-8").split("\n## ")[1].split("\n\n", 1)[1]


def sight_grid(sights: Sequence[Sight]) -> Grid:
    """A line for each column: the smallest effect that it can see, and whether it can show that there is none."""
    columns: dict[str, dict[str, Sight]] = {}
    for one in sights:
        columns.setdefault(one.column, {})[one.rival] = one
    rows = []
    for column, found in columns.items():
        smallest = [decimals(found[rival].smallest) if rival in found else "–" for rival in ("students", "BM25")]
        equal = found["students"].equal_below if "students" in found else 0
        rows.append((column, *smallest, f"below {decimals(equal)}" if equal > 0 else "never"))
    heads = ("Column", "Among students", "Against BM25", f"Students shown equal within {decimals(MARGIN, 2)}")
    return Grid("lrrr", heads, rows)


def markdown(verdicts: Sequence[Verdict], sights: Sequence[Sight] = ()) -> str:
    """The claims by verdict, below the legend, and what the columns can see."""
    blocks = [legend()]
    for verdict in VERDICTS:
        rows = [
            (v.claim.words, f"§{v.claim.section}", v.claim.rule, v.evidence.replace("; ", "<br>"))
            for v in verdicts
            if v.verdict == verdict
        ]
        table = pipe_table(Grid("llll", ("Claim", "Paper", "Rule", "Found"), rows)) if rows else ""
        blocks.append(f"**{verdict.capitalize()}: {len(rows)} of {len(verdicts)}**\n\n{table}")
    if sights:
        blocks.append(f"**What the columns can see**\n\n{pipe_table(sight_grid(sights))}")
    return "\n".join(blocks)


def frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One line per comparison, and one for a claim without any."""
    none = [(None,) * len(Comparison._fields)]
    lines: list[tuple[object, ...]] = []
    for v in verdicts:
        claim = (v.claim.key, v.claim.section, v.claim.words, v.claim.rule, v.verdict, v.evidence)
        comparisons: Sequence[tuple[object, ...]] = v.comparisons or none
        lines += [(*claim, *comparison) for comparison in comparisons]
    return pd.DataFrame(lines, columns=[*HEADS, *Comparison._fields])


def write(verdicts: Sequence[Verdict], sights: Sequence[Sight], folder: Path) -> None:
    """`claims.md` and `claims.csv` in `folder`."""
    with atomic_write(folder / "claims.md") as f:
        f.write(markdown(verdicts, sights))
    with atomic_write(folder / "claims.csv") as f:
        f.write(frame(verdicts).to_csv(index=False, float_format="%.6g", lineterminator="\n"))
