"""data/paper: every cell of the paper's seven tables."""

import re
from statistics import fmean, pstdev, stdev

import pytest

from tas_lib.config import ROOT
from tas_lib.report.paper import TABLE3, TABLE4, TABLE5, TABLE6, paper_table

SETS = ("TREC-DL'19", "TREC-DL'20", "MSMARCO DEV")
NINE = [f"{s} {m}" for s in SETS for m in ("nDCG@10", "MRR@10", "R@1K")]
TABLES = range(1, 8)


def rows(table: int) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for (row, column), cell in paper_table(table).items():
        found.setdefault(row, {})[column] = cell.value
    return found


@pytest.mark.parametrize(
    ("table", "n_rows", "n_numbers", "n_dashes", "n_lost"),
    # numbers: results like .712; dashes in their columns
    [(3, 4, 22, 0, 2), (4, 10, 90, 0, 0), (5, 7, 42, 0, 0), (6, 13, 75, 42, 0), (7, 17, 122, 31, 0)],
)
def test_a_table_of_results_has_the_papers_rows_and_columns(table, n_rows, n_numbers, n_dashes, n_lost):
    results = [cell.value for (_, column), cell in paper_table(table).items() if column in NINE]
    assert len(rows(table)) == n_rows
    assert len([v for v in results if re.fullmatch(r"\.\d{3}", v)]) == n_numbers
    assert results.count("–") == n_dashes
    assert results.count("lost") == n_lost
    assert len(results) == n_numbers + n_dashes + n_lost
    columns = {column for _, column in paper_table(table) if column in NINE}
    assert len(results) == n_rows * len(columns)


def test_the_tables_of_costs_have_the_papers_rows_and_columns():
    assert list(rows(1)) == ["Batch size 1", "Batch size 10", "Batch size 2,000"]
    assert {len(cells) for cells in rows(1).values()} == {6}
    assert list(rows(2)) == ["Standalone", "ANCE", "LTRe", "Margin-MSE", "TCT", "RocketQA", "TAS-Balanced"]
    assert {len([c for c in cells if c != "Reference"]) for cells in rows(2).values()} == {7}


@pytest.mark.parametrize("table", TABLES)
def test_every_cell_is_there_once_and_only_results_have_markers(table):
    lines = (ROOT / "data" / "paper" / f"table{table}.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "row,column,value,markers" and len(lines) - 1 == len(paper_table(table))
    for (row, column), cell in paper_table(table).items():
        assert row and column and cell.value
        if column in NINE and cell.value not in ("–", "lost"):
            assert cell.number is not None and 0 < cell.number < 1, (row, column)
            assert re.fullmatch("[bdklnrtmc239]*", cell.markers)
        else:
            assert cell.markers == "", (row, column)


@pytest.mark.parametrize(
    ("table", "row", "column", "value", "markers"),
    [
        (1, "Batch size 2,000", "Faiss retrieval 99th Per.", "2,524 ms", ""),
        (2, "RocketQA", "Added Cost (per Sample) Teacher inference", "× > 13", ""),
        (3, "Lambdarank", "TREC-DL'19 nDCG@10", "lost", ""),
        (3, "Lambdarank", "TREC-DL'19 R@1K", ".812", "kn"),
        (4, "None / Random", "MSMARCO DEV MRR@10", ".298", ""),
        (4, "Pairwise (BERT_CAT) / TAS-Balanced", "MSMARCO DEV nDCG@10", ".393", "rt"),
        (4, "Pairwise + In-Batch / TAS-Balanced", "TREC-DL'19 nDCG@10", ".712", ""),
        (5, "E", "TREC-DL'20 nDCG@10", ".701", "bc"),
        (6, "Baselines / RocketQA / ERNIE-Base / 4,000", "MSMARCO DEV MRR@10", ".364", ""),
        (6, "Ours / TAS-Balanced / DistilBERT / 256", "MSMARCO DEV MRR@10", ".347", "btm39"),
        (7, "High latency / BM25 / BERT-Large", "MSMARCO DEV MRR@10", ".365", ""),
        (7, "Low latency / TAS-B + docT5query", "TREC-DL'19 nDCG@10", ".753", "bdt"),
        (7, "High latency / TAS-B + docT5query / mono-duo-T5", "Latency (ms)", "12,800", ""),
    ],
)
def test_cells_read_by_hand(table, row, column, value, markers):
    assert paper_table(table)[row, column] == (value, markers)


@pytest.mark.parametrize(
    ("system", "places"),
    [
        ("dual/tas_balanced", {3: "Margin-MSE", 4: "Pairwise + In-Batch / TAS-Balanced", 5: "A"}
         | {6: "Ours / TAS-Balanced / DistilBERT / 32"}),
        ("pairwise/random", {4: "Pairwise (BERT_CAT) / Random", 6: "Baselines / Margin-MSE (ours) / DistilBERT / 32"}),
        ("in_batch/random", {4: "In-Batch Neg. (ColBERT) / Random", 6: "Baselines / TCT (ours) / DistilBERT / 32"}),
        ("tas_b", {6: "Ours / TAS-Balanced / DistilBERT / 96", 7: "Low latency / TAS-B"}),
    ],
)  # fmt: skip
def test_a_system_has_the_same_numbers_in_all_its_tables(system, places):
    first, *others = (rows(table)[row] for table, row in places.items())
    for other in others:
        shared = [column for column in NINE if column in first and column in other]
        assert len(shared) >= 6 and all(first[column] == other[column] for column in shared)
    listed = {3: TABLE3, 4: TABLE4, 5: TABLE5, 6: TABLE6}
    assert all(listed[table][system].paper == row for table, row in places.items() if table in listed)


def test_re_ranking_leaves_the_recall_of_its_first_stage():
    table = rows(7)
    for stage in ("BM25", "docT5query", "TAS-B", "TAS-B + docT5query"):
        for group in (f"Medium latency / {stage} / duo-T5", f"High latency / {stage} / mono-duo-T5"):
            for column in ("TREC-DL'19 R@1K", "TREC-DL'20 R@1K", "MSMARCO DEV R@1K"):
                assert table[group][column] == table[f"Low latency / {stage}"][column]


def test_table_5_ends_with_the_mean_and_the_deviation_of_a_sample():
    cells, right = paper_table(5), {stdev: 0, pstdev: 0}
    for column in rows(5)["A"]:  # the instances are rounded, so ours differ a little: .00249 for .003
        values = [cells[instance, column].number for instance in "ABCDE"]
        assert abs(fmean(values) - cells["Avg.", column].number) < 0.001, column
        for deviation in right:
            right[deviation] += f"{deviation(values):.3f}"[1:] == cells["StdDev", column].value
    assert right == {stdev: 5, pstdev: 3}  # of six columns: n - 1, not n
