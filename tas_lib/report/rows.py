"""The paper's result tables before anything is measured: rows by our systems' numbers (DESIGN.md), and columns."""

from collections.abc import Callable, Mapping
from statistics import fmean, stdev
from typing import NamedTuple

from ir_measures import Measure

from tas_lib.config import Evaluation, Profile, System
from tas_lib.evaluation.metrics import PerQuery, paper_measures, printed_name
from tas_lib.report.published import Printed

NOT_RUN, REPORTED = "not run", "reported only"
ORIGIN = {"trained": "trained here", "checkpoint": "checkpoint", "run": "run file", "bm25": "BM25"}
ORIGIN |= {"expanded": "expanded", "fused": "fused", "reranked": "re-ranked"}
"""What the column Run says of each kind of system."""


class Column(NamedTuple):
    """A measure on a test set of ours, and the paper's column that stands beside it ("" where it has none)."""

    test_set: str
    label: str
    measure: Measure
    paper: str = ""

    @property
    def heading(self) -> str:
        """Set and measure on one line."""
        return f"{self.label} {printed_name(self.measure)}"


class Row(NamedTuple):
    """A system: its names as the paper prints them, one a label column, and what was measured.

    scores: test set → measure → query → value. letter: what its rivals' superscripts call it.
    paper: its row in data/paper. origin: where its run comes from. missing: what a cell without a measurement reads.
    block: rows are tested against rows of their block (in Table 4, of their teacher).
    key: its number in the list of systems. summary: no system, but this function of its block's means.
    """

    names: tuple[str, ...]
    letter: str = ""
    scores: Mapping[str, PerQuery] = {}
    paper: str = ""
    origin: str = ORIGIN["trained"]
    missing: str = NOT_RUN
    block: str = ""
    key: str = ""
    summary: Callable[[list[float]], float] | None = None


# --- rows ----------------------------------------------------------------------------------------------------------

TABLE3 = {
    "dual/tas_balanced/kldiv": Row(("KLDiv",), "k", paper="KLDiv"),
    "dual/tas_balanced/listnet": Row(("ListNet",), "n", paper="ListNet"),
    "dual/tas_balanced/lambdarank": Row(("Lambdarank",), "l", paper="Lambdarank"),
    "dual/tas_balanced": Row(("Margin-MSE",), "m", paper="Margin-MSE"),
}
"""In-batch losses."""

PAIRWISE, IN_BATCH, DUAL = "Pairwise (BERT_CAT)", "In-Batch Neg. (ColBERT)", "Pairwise + In-Batch"
LETTERS = {"Random": "r", "TAS": "t", "TAS-Balanced": "b"}
HARD_MARGIN = "TAS-B-HM"
"""The 2023 study's word for the public code's hard-margin mode (D16)."""


def _sampled(teacher: str, sampling: str) -> Row:
    return Row((teacher, sampling), LETTERS[sampling], paper=f"{teacher} / {sampling}", block=teacher)


def _hard_margin(teacher: str) -> Row:
    return Row((teacher, HARD_MARGIN), "h", block=teacher)


TABLE4 = {
    "bm25": Row(("BM25", ""), paper="Low latency / BM25", block="BM25"),
    "labels": Row(("None", "Random"), paper="None / Random", block="None"),
    "pairwise/random": _sampled(PAIRWISE, "Random"),
    "pairwise/tas": _sampled(PAIRWISE, "TAS"),
    "pairwise/tas_balanced": _sampled(PAIRWISE, "TAS-Balanced"),
    f"Pairwise / {HARD_MARGIN}": _hard_margin(PAIRWISE),
    "in_batch/random": _sampled(IN_BATCH, "Random"),
    "in_batch/tas": _sampled(IN_BATCH, "TAS"),
    "in_batch/tas_balanced": _sampled(IN_BATCH, "TAS-Balanced"),
    f"In-Batch / {HARD_MARGIN}": _hard_margin(IN_BATCH),
    "dual/random": _sampled(DUAL, "Random"),
    "dual/tas": _sampled(DUAL, "TAS"),
    "dual/tas_balanced": _sampled(DUAL, "TAS-Balanced"),
    f"Both / {HARD_MARGIN}": _hard_margin(DUAL),
}
"""Samplings within teachers; and BM25, which the paper has in Table 7. Hard margins: see `ADDED`."""

TABLE5 = {
    number: Row((instance,), instance.lower(), paper=instance)
    for number, instance in zip(
        (
            "dual/tas_balanced",
            "dual/tas_balanced/seed2",
            "dual/tas_balanced/seed3",
            "dual/tas_balanced/seed4",
            "dual/tas_balanced/seed5",
        ),
        "ABCDE",
        strict=True,
    )
}
"""Instances that differ in the order alone."""

SUMMARY5 = [Row(("Avg.",), paper="Avg.", summary=fmean), Row(("StdDev",), paper="StdDev", summary=stdev)]
"""Below the instances. Reading: the sample's deviation, n - 1 below the sum: n gives .004 where the paper has .005."""

TABLE6 = {
    "bm25": Row(("Baselines", "BM25"), "b", paper="Baselines / BM25"),
    "in_batch/random": Row(("Baselines", "TCT (ours)"), "t", paper="Baselines / TCT (ours) / DistilBERT / 32"),
    "pairwise/random": Row(
        ("Baselines", "Margin-MSE (ours)"), "m", paper="Baselines / Margin-MSE (ours) / DistilBERT / 32"
    ),
    "dual/tas_balanced": Row(("Ours", "TAS-Balanced"), "3", paper="Ours / TAS-Balanced / DistilBERT / 32"),
    "tas_b": Row(("Ours", "TAS-Balanced"), "9", paper="Ours / TAS-Balanced / DistilBERT / 96"),
    "tas_b/largest": Row(("Ours", "TAS-Balanced"), "2", paper="Ours / TAS-Balanced / DistilBERT / 256"),
    "Margin-MSE, published": Row(("Added", "Margin-MSE, published", "", "", "")),
}
"""What is run for the table of dense retrieval, under the paper's letters; "ours" is the paper's word."""

ADDED = {key for key, row in (TABLE4 | TABLE6).items() if not row.paper}
"""Rows that the paper does not have and others do: they stand in a table where the profile lists such a system."""


def listed(rows: Mapping[str, Row], systems: Mapping[str, System]) -> dict[str, Row]:
    """The rows without those of `ADDED` that the profile does not list."""
    return {key: row for key, row in rows.items() if key in systems or key not in ADDED}


DEVIATIONS = {
    "dual/tas_balanced": Row(("", "as it is"), "a"),
    "D1": Row(("D1", "Eq. 7 as printed, about 31 times the mean"), "p"),
    "D2": Row(("D2", "Euclidean k-means"), "e"),
    "D3": Row(("D3", "cosine learning rate"), "c"),
    "D16": Row(("D16", "hard margin: TAS with a cap on the margin"), "h"),
}
"""Dual TAS-Balanced, and the same with the other choice in a row of DEVIATIONS.md. Not in the paper."""

LABELS6 = ("Encoder", "L#", "Batch Size")


def rows6(
    printed: Mapping[tuple[str, str], Printed], systems: Mapping[str, System], encoder: str, layers: int
) -> dict[str, Row]:
    """All rows of Table 6 in the paper's order by system, or by their name in data/paper where none of ours is such.

    A system's encoder, layers and batch size are its own, with the paper's in parentheses where they differ.
    """
    keys = {row.paper: key for key, row in TABLE6.items()}
    rows = {}
    for paper in dict.fromkeys(row for row, _ in printed):
        key = keys.get(paper, paper)
        row = TABLE6.get(key) or Row(tuple(paper.split(" / ")[:2]), paper=paper, missing=REPORTED)
        theirs = [printed[paper, label].value for label in LABELS6]
        ours = theirs
        if key in systems and systems[key].kind == "trained":
            ours = [encoder, str(layers), str(systems[key].batch_size)]
        labels = [a if a == b else f"{a} ({b})" for a, b in zip(ours, theirs, strict=True)]
        rows[key] = row._replace(names=(*row.names, *labels))
    return rows


LABELS7 = ("Re-ranking Model", "Re-ranking #", "Latency (ms)")
STAGES7 = {
    "BM25": ("bm25", "b"),
    "docT5query": ("d2q", "d"),
    "TAS-B": ("{tas}", "t"),
    "TAS-B + docT5query": ("d2q+{tas}", "q"),
}
"""First stages of the paper that are ours too: key and letter; {tas} is the TAS-Balanced system."""
RERANKERS7 = {"–": "", "duo-T5": ">duo", "mono-duo-T5": ">mono>duo"}
ADDED7 = {
    "Low latency / docT5query": [
        ("in_batch/random", "TCT (ours)", "c", ""),
        ("pairwise/random", "Margin-MSE (ours)", "m", ""),
    ],
    "Low latency / TAS-B": [("bm25+{tas}", "TAS-B + BM25", "f", "")],
    "High latency / TAS-B + docT5query / mono-duo-T5": [
        ("bm25>cat", "BM25", "b", "BERT_CAT"),
        ("{tas}>cat", "TAS-B", "t", "BERT_CAT"),
        ("bm25+{tas}>cat", "TAS-B + BM25", "f", "BERT_CAT"),
    ],
}
"""Rows that the paper's Table 7 does not have, behind those that it has: key, first stage, letter, re-ranker."""


def rows7(
    printed: Mapping[tuple[str, str], Printed],
    settings: Profile,
    tas: str = "tas_b",
    latencies: Mapping[str, float] = {},
) -> dict[str, Row]:
    """All rows of Table 7 in the paper's order, ours of BERT_CAT and of fusion with BM25 among them.

    tas: the key of the TAS-Balanced system. A row's key is its first stage's, with `>` before what re-ranks it.
    latencies: key → milliseconds a query, as measured. The paper's stand beside them in parentheses, as does its
    number of candidates where it is not ours.
    """
    rows = {}
    for paper in dict.fromkeys(row for row, _ in printed):
        group, stage = paper.split(" / ")[:2]
        model, candidates, latency = (printed[paper, label].value for label in LABELS7)
        key, letter = paper, ""
        if stage in STAGES7 and model in RERANKERS7:
            key, letter = STAGES7[stage][0].format(tas=tas) + RERANKERS7[model], STAGES7[stage][1]
        missing = NOT_RUN if letter else REPORTED
        ours = _candidates(settings, key)
        shown = candidates if ours in ("", candidates) else f"{ours} ({candidates})"
        names = (group, stage, model, shown, _beside(latencies.get(key), latency))
        rows[key] = Row(names, letter, paper=paper, missing=missing, block=model if letter else "reported")
        for template, stage, letter, model in ADDED7.get(paper, []):
            key = template.format(tas=tas)
            names = (group, stage, model or "–", _candidates(settings, key) or "–", _beside(latencies.get(key)))
            rows[key] = Row(names, letter, block=model or "–")
    return rows


def _beside(ms: float | None, paper: str = "") -> str:
    """A measured latency, and the paper's in parentheses.

    >>> _beside(5.3, "64"), _beside(1234.5), _beside(None, "64")
    ('5.3 (64)', '1,234', '(64)')
    """
    ours = "" if ms is None else f"{ms:,.0f}" if ms >= 100 else f"{ms:.1f}"
    return " ".join(filter(None, [ours, f"({paper})" if paper else ""]))


def _candidates(settings: Profile, key: str) -> str:
    """How many candidates the first of the re-rankers of a system puts in a new order; "" where none does."""
    found = ""
    while key in settings.systems and settings.systems[key].first:
        found, key = str(settings.candidates(settings.systems[key])), settings.systems[key].first
    return found


def filled(
    rows: Mapping[str, Row], scores: Mapping[str, Mapping[str, PerQuery]], systems: Mapping[str, System]
) -> list[Row]:
    """The rows with what was measured, and where it comes from.

    scores: key → test set → what `evaluate` gave; {} or no such key where it was not run. systems: the profile's.
    """
    kinds = {"bm25": "bm25"} | {key: system.kind for key, system in systems.items()}
    found = []
    for key, row in rows.items():
        kind, measured = kinds.get(key, "trained"), scores.get(key, {})
        missing = REPORTED if kind == "reported" else row.missing
        origin = ORIGIN[kind] if measured else missing
        found.append(row._replace(key=key, scores=measured, origin=origin, missing=missing))
    return found


# --- columns -------------------------------------------------------------------------------------------------------


def nine_columns(evaluation: Evaluation) -> list[Column]:
    """Tables 4 and 6: nDCG@10, MRR@10 and recall on every test set; the paper's sets stand beside ours by position.

    The first graded set is beside TREC-DL'19, the second beside TREC-DL'20, the first other one beside MSMARCO DEV.
    """
    graded, sparse = iter(["TREC-DL'19", "TREC-DL'20"]), iter(["MSMARCO DEV"])
    columns = []
    for test in evaluation.sets:
        theirs = next(graded if test.graded else sparse, "")
        for measure in paper_measures(test.binarise_at, evaluation.depth)[:3]:
            name = "R@1K" if measure.NAME == "R" else printed_name(measure)
            columns.append(Column(test.name, test.label, measure, f"{theirs} {name}" if theirs else ""))
    return columns


def six_columns(evaluation: Evaluation) -> list[Column]:
    """Tables 3 and 5: nDCG@10 and recall on graded sets, MRR@10 and recall on the others."""
    shown = {test.name: ("nDCG" if test.graded else "RR", "R") for test in evaluation.sets}
    return [column for column in nine_columns(evaluation) if column.measure.NAME in shown[column.test_set]]


# --- numbers and words in a cell ------------------------------------------------------------------------------------


def decimals(value: float, digits: int = 3) -> str:
    """A number as the paper prints it, without the leading zero.

    >>> decimals(0.7123), decimals(1.0), decimals(-0.05)
    ('.712', '1.000', '-.050')
    """
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"


def signed(value: float, digits: int = 3) -> str:
    """A difference as `decimals`, with its sign.

    >>> signed(0.0123), signed(-0.05)
    ('+.012', '-.050')
    """
    return ("+" if value >= 0 else "-") + decimals(abs(value), digits)


def tex(text: str) -> str:
    """`text` with what TeX would read as a command made harmless."""
    for special in "&%#_$":
        text = text.replace(special, "\\" + special)
    return text.replace("–", "--").replace("<", "$<$")
