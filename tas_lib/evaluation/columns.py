"""The columns of Tables 3 to 7 on a profile's test sets, and those in which a claim is tested."""

from collections.abc import Mapping
from typing import NamedTuple

from ir_measures import Measure

from tas_lib.config import Evaluation
from tas_lib.evaluation.metrics import paper_measures, printed_name
from tas_lib.records import ALONE, Families

GRADED, DEV = ([(sets, measure) for measure in ("nDCG", "RR", "R")] for sets in ("graded", "dev"))
COLUMNS = {
    "all columns": GRADED + DEV,
    "the graded sets": GRADED,
    "the dev set": DEV,
    "nDCG and MRR": GRADED[:2] + DEV[:2],
    "nDCG and MRR, graded sets": GRADED[:2],
    "nDCG and MRR, dev set": DEV[:2],
    "recall": GRADED[2:] + DEV[2:],
    "recall, graded sets": GRADED[2:],
    "nDCG, graded sets": GRADED[:1],
    "MRR, graded sets": GRADED[1:2],
    "nDCG and recall, graded sets": GRADED[::2],
    "MRR, dev set": DEV[1:2],
    "MRR and recall, dev set": DEV[1:],
    "the columns of Tables 3 and 5": GRADED[::2] + DEV[1:],
}
"""Where a claim is tested: on all graded sets, or on the first of the others, "dev"."""


class Column(NamedTuple):
    """A measure on one of our test sets, and the column of the paper that it is compared with ("" for none).

    families: of the set's queries, for the tests.
    """

    test_set: str
    label: str
    measure: Measure
    paper: str = ""
    families: Mapping[str, int] = {}

    @property
    def heading(self) -> str:
        """Set and measure on one line."""
        return f"{self.label} {printed_name(self.measure)}"


def nine_columns(evaluation: Evaluation, families: Families = ALONE) -> list[Column]:
    """Tables 4 and 6: nDCG@10, MRR@10 and recall on every test set, each beside the paper's set of the same label.

    A profile can name the paper's set for another label (`paper`); other sets have no figures beside them.
    """
    columns = []
    for test in evaluation.sets:
        for measure in paper_measures(test.binarise_at, evaluation.depth)[:3]:
            name = "R@1K" if measure.NAME == "R" else printed_name(measure)
            beside = f"{test.beside} {name}" if test.beside else ""
            columns.append(Column(test.name, test.label, measure, beside, families.get(test.name, {})))
    return columns


def six_columns(evaluation: Evaluation, families: Families = ALONE) -> list[Column]:
    """Tables 3 and 5: nDCG@10 and recall on graded sets, MRR@10 and recall on the others."""
    shown = {test.name: ("nDCG" if test.graded else "RR", "R") for test in evaluation.sets}
    return [column for column in nine_columns(evaluation, families) if column.measure.NAME in shown[column.test_set]]


def columns_of(name: str, evaluation: Evaluation, families: Families = ALONE) -> list[Column]:
    """The columns of a key of COLUMNS on a profile's test sets."""
    tests = {graded: [test.name for test in evaluation.sets if test.graded == graded] for graded in (True, False)}
    sets, columns = {"graded": tests[True], "dev": tests[False][:1]}, nine_columns(evaluation, families)
    return [
        c for kind, measure in COLUMNS[name] for c in columns if c.test_set in sets[kind] and measure == c.measure.NAME
    ]
