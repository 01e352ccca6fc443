"""Tables: composed from hand-made values, and written as they should be read."""

import pandas as pd
import pytest
from ir_measures import R, nDCG

from tas_lib import profile, tables
from tas_lib.published import Printed
from tas_lib.tables import Column, Row

NDCG, RECALL = nDCG @ 10, R @ 100
COLUMNS = [Column("a", "Set A", NDCG, "TREC-DL'19 nDCG@10"), Column("a", "Set A", RECALL, "TREC-DL'19 R@1K")]
PRINTED = {("low", "TREC-DL'19 nDCG@10"): Printed(".602", ""), ("low", "TREC-DL'19 R@1K"): Printed("lost", "k")}
LOW = {f"q{i}": 0.1 + i / 100 for i in range(8)}
HIGH = {query: value + 0.3 + (0.01 if value > 0.14 else 0) for query, value in LOW.items()}


def small_table():
    rows = [
        Row(("None", "Random"), "r", {"a": {NDCG: LOW, RECALL: HIGH}}, paper="low"),
        Row(("Pairwise_T", "TAS"), "t", {"a": {NDCG: HIGH, RECALL: HIGH}}, origin="run file"),
        Row(("ANCE", ""), paper="low", missing="reported", origin="reported"),
        Row(("None", "TAS")),
    ]
    return tables.compose("A & B.", ("Teacher", "Sampling"), rows, COLUMNS, PRINTED)


def test_cells_hold_the_mean_the_letters_and_the_papers_cell():
    cells = small_table().cells
    # LOW: .10 ... .17, mean .135; HIGH: .3 more, and .01 more for .15, .16, .17: mean .43875
    assert [c.value for c in cells[0]] == pytest.approx([0.135, 0.43875])
    assert [c.letters for c in cells[0]] == ["", ""]
    assert [c.letters for c in cells[1]] == ["r", ""]
    assert [c.paper for c in cells[0]] == [(".602", ""), ("lost", "k")]
    assert [c.paper for c in cells[1]] == [None, None]


def test_a_cell_that_was_not_measured_says_so_and_never_borrows_the_papers_value():
    cells = small_table().cells
    assert [(c.value, c.missing) for c in cells[2]] == [(None, "reported")] * 2
    assert [(c.value, c.missing) for c in cells[3]] == [(None, "not run")] * 2


def test_markdown_is_read_as_the_paper_prints_it():
    assert tables.markdown(small_table()).splitlines() == [
        "A & B. A letter: significantly better than the row so marked (paired t-test, p < .05)."
        " In parentheses the paper's numbers, on MS MARCO: TREC-DL'19 for Set A, R@1K for R@100.",
        "",
        "|  | Teacher | Sampling | Set A<br>nDCG@10 | Set A<br>R@100 | Run |",
        "| --- | --- | --- | ---: | ---: | --- |",
        "| r | None | Random | .135<br>(.602) | **.439**<br>(lost) | trained here |",
        "| t | Pairwise_T | TAS | **.439**<sup>r</sup> | **.439** | run file |",
        "|  | ANCE |  | reported<br>(.602) | reported<br>(lost) | reported |",
        "|  | None | TAS | not run | not run | trained here |",
    ]


def test_latex_has_one_cell_a_column_and_nothing_that_tex_would_take_for_a_command():
    text = tables.latex(small_table())
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(body) == 2 + 4 + 2  # heads; rows of ours; the paper's lines below two of them
    assert [line.replace(r"\&", "").count(" & ") for line in body] == [4] + [5] * 7  # the set's head spans two
    assert r"\begin{tabular}{lllrrl}" in text
    assert r"t & Pairwise\_T & TAS & \textbf{.439}\textsuperscript{r} & \textbf{.439} & run file \\" in body
    assert r" &  &  & \scriptsize (.602) & \scriptsize (lost) &  \\" in body
    assert r"\caption{A \& B. A letter: significantly better than the row so marked (paired t-test, p $<$ .05)" in text


def test_csv_is_one_line_a_cell_with_the_papers_cell_beside(tmp_path):
    paths = tables.write(small_table(), tmp_path, "table0")
    assert [path.name for path in paths] == ["table0.md", "table0.csv", "table0.tex"]
    found = pd.read_csv(tmp_path / "table0.csv", dtype=str, keep_default_na=False)
    assert found.columns.tolist()[:4] == ["row", "column", "value", "markers"]
    assert found.iloc[2].tolist() == [
        "Pairwise_T / TAS",
        "Set A nDCG@10",
        ".4387",
        "r",
        "run file",
        COLUMNS[0].paper,
        "",
        "",
    ]
    assert found.iloc[5].tolist() == ["ANCE", "Set A R@100", "reported", "", "reported", COLUMNS[1].paper, "lost", "k"]


def test_the_same_table_gives_the_same_bytes(tmp_path):
    once, twice = tables.write(small_table(), tmp_path / "1", "t"), tables.write(small_table(), tmp_path / "2", "t")
    assert [p.read_bytes() for p in once] == [p.read_bytes() for p in twice]


def test_letters_stay_within_a_block():
    rows = [
        Row(("x",), "r", {"a": {NDCG: LOW}}, block="pairwise"),
        Row(("y",), "t", {"a": {NDCG: HIGH}}, block="pairwise"),
        Row(("z",), "r", {"a": {NDCG: HIGH}}, block="in-batch"),
    ]
    table = tables.compose("", ("System",), rows, COLUMNS[:1], {})
    assert [row[0].letters for row in table.cells] == ["", "r", ""]


def test_two_measured_rows_of_a_block_need_letters_of_their_own():
    for letters in ("", ""), ("r", "r"):
        rows = [Row((name,), letter, {"a": {NDCG: LOW}}) for name, letter in zip("xy", letters, strict=True)]
        with pytest.raises(ValueError, match="needs a letter of its own"):
            tables.compose("", ("System",), rows, COLUMNS, {})


def test_a_row_that_the_paper_does_not_have_is_refused():
    with pytest.raises(ValueError, match="no row 'Pairwise / Random'"):
        tables.compose("", ("System",), [Row(("x",), paper="Pairwise / Random")], COLUMNS, PRINTED)


def test_equal_values_as_printed_share_the_bold():
    rows = [
        Row(("x",), "a", {"a": {NDCG: {"q": 0.71204}}}),
        Row(("y",), "b", {"a": {NDCG: {"q": 0.71196}}}),
        Row(("z",), "c", {"a": {NDCG: {"q": 0.09}}}),
    ]
    text = tables.markdown(tables.compose("", ("System",), rows, COLUMNS[:1], {}))
    assert text.count("**.712**") == 2
    assert "| .090 |" in text


EVALUATION = profile.Evaluation(
    sets=(
        profile.TestSet(name="dev", label="Docs dev"),
        profile.TestSet(name="graded-a", label="Docs A", binarise_at=2, graded=True),
        profile.TestSet(name="graded-b", label="Docs B", binarise_at=2, graded=True),
        profile.TestSet(name="graded-c", label="Docs C", binarise_at=2, graded=True),
    ),
    depth=100,
)


def test_the_papers_sets_stand_beside_ours_by_position_among_their_kind():
    beside = {column.label: column.paper.rpartition(" ")[0] for column in tables.columns_of(EVALUATION)}
    assert beside == {"Docs dev": "MSMARCO DEV", "Docs A": "TREC-DL'19", "Docs B": "TREC-DL'20", "Docs C": ""}
    recall = [column for column in tables.columns_of(EVALUATION) if column.test_set == "graded-b"][2]
    assert recall == ("graded-b", "Docs B", R(rel=2) @ 100, "TREC-DL'20 R@1K")


def test_the_caption_of_table_4_says_what_stands_beside_what():
    caption = tables.table4({"1": {}}, EVALUATION).caption
    assert "TREC-DL'19 for Docs A" in caption and "TREC-DL'20 for Docs B" in caption and "R@1K for R@100" in caption


def test_table_4_shows_the_rows_asked_for_in_the_papers_order_with_the_papers_numbers():
    columns = tables.columns_of(EVALUATION)
    scores = {key: {c.test_set: {} for c in columns} for key in ("10", "bm25", "2")}
    for c in columns:
        scores["10"][c.test_set][c.measure], scores["bm25"][c.test_set][c.measure] = HIGH, LOW
    table = tables.table4({**scores, "2": {}}, EVALUATION)
    assert [(row.letter, *row.names) for row in table.rows] == [
        ("a", "BM25", ""),
        ("b", "Pairwise (BERT_CAT)", "Random"),
        ("c", "Pairwise + In-Batch", "TAS-Balanced"),
    ]
    assert [row[0].paper.value for row in table.cells] == [".241", ".385", ".402"]
    assert [row[2].paper.value for row in table.cells] == [".857", ".958", ".975"]
    assert {cell.letters for cell in table.cells[2]} == {"a"}
    assert {(cell.value, cell.missing) for cell in table.cells[1]} == {(None, "not run")}
    assert [row.origin for row in table.rows] == ["BM25", "not run", "trained here"]


def test_all_eleven_rows_can_be_shown_before_any_was_run():
    table = tables.table4({key: {} for key in tables.TABLE4}, EVALUATION)
    assert len(table.rows) == 11
    assert tables.markdown(table).count("not run") == 11 * (12 + 1)  # each cell, and where the run comes from
