"""Tables: composed from hand-made values, and written as they should be read."""

from statistics import pstdev

import pandas as pd
import pytest
from ir_measures import Measure, R, nDCG

from tas_lib import config
from tas_lib.config import TestSet
from tas_lib.report import rows, tables
from tas_lib.report.published import Printed, paper_table
from tas_lib.report.rows import Column, Row

RESULTS = ("nDCG@10", "MRR@10", "R@1K")
NDCG, RECALL = nDCG @ 10, R @ 100
COLUMNS = [Column("a", "Set A", NDCG, "TREC-DL'19 nDCG@10"), Column("a", "Set A", RECALL, "TREC-DL'19 R@1K")]
PRINTED = {("low", "TREC-DL'19 nDCG@10"): Printed(".602", ""), ("low", "TREC-DL'19 R@1K"): Printed("lost", "k")}
LOW = {f"q{i}": 0.1 + i / 100 for i in range(8)}
HIGH = {query: value + 0.3 + (0.01 if value > 0.14 else 0) for query, value in LOW.items()}


def small_table():
    listed = [
        Row(("None", "Random"), "r", {"a": {NDCG: LOW, RECALL: HIGH}}, paper="low"),
        Row(("Pairwise_T", "TAS"), "t", {"a": {NDCG: HIGH, RECALL: HIGH}}, origin="run file"),
        Row(("ANCE", ""), paper="low", missing="reported", origin="reported"),
        Row(("None", "TAS")),
    ]
    return tables.compose("A & B.", ("Teacher", "Sampling"), listed, COLUMNS, PRINTED)


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
    once, twice = (
        tables.write(small_table(), tmp_path / "labels", "t"),
        tables.write(small_table(), tmp_path / "pairwise/random", "t"),
    )
    assert [p.read_bytes() for p in once] == [p.read_bytes() for p in twice]


def test_letters_stay_within_a_block():
    listed = [
        Row(("x",), "r", {"a": {NDCG: LOW}}, block="pairwise"),
        Row(("y",), "t", {"a": {NDCG: HIGH}}, block="pairwise"),
        Row(("z",), "r", {"a": {NDCG: HIGH}}, block="in-batch"),
    ]
    table = tables.compose("", ("System",), listed, COLUMNS[:1], {})
    assert [row[0].letters for row in table.cells] == ["", "r", ""]


def test_two_measured_rows_of_a_block_need_letters_of_their_own():
    for letters in ("", ""), ("r", "r"):
        listed = [Row((name,), letter, {"a": {NDCG: LOW}}) for name, letter in zip("xy", letters, strict=True)]
        with pytest.raises(ValueError, match="needs a letter of its own"):
            tables.compose("", ("System",), listed, COLUMNS, {})


def test_a_row_that_the_paper_does_not_have_is_refused():
    with pytest.raises(ValueError, match="no row 'Pairwise / Random'"):
        tables.compose("", ("System",), [Row(("x",), paper="Pairwise / Random")], COLUMNS, PRINTED)


def test_equal_values_as_printed_share_the_bold():
    listed = [
        Row(("x",), "a", {"a": {NDCG: {"q": 0.71204}}}),
        Row(("y",), "b", {"a": {NDCG: {"q": 0.71196}}}),
        Row(("z",), "c", {"a": {NDCG: {"q": 0.09}}}),
    ]
    text = tables.markdown(tables.compose("", ("System",), listed, COLUMNS[:1], {}))
    assert text.count("**.712**") == 2
    assert "| .090 |" in text


EVALUATION = config.Evaluation(
    sets=(
        TestSet(name="dev", label="Docs dev"),
        TestSet(name="graded-a", label="Docs A", binarise_at=2, graded=True),
        TestSet(name="graded-b", label="Docs B", binarise_at=2, graded=True),
        TestSet(name="graded-c", label="Docs C", binarise_at=2, graded=True),
    ),
    depth=100,
)


def scores_of(values):
    """What `Experiment.scores` gives: key → set → measure → query → value, the same for every set and measure."""
    sets: dict[str, list[Measure]] = {}
    for column in rows.nine_columns(EVALUATION):
        sets.setdefault(column.test_set, []).append(column.measure)
    return {
        key: {name: dict.fromkeys(sets[name], of_query) for name in sets} if of_query else {}
        for key, of_query in values.items()
    }


def rising(value):
    """Four queries, mean 1.15 times the value."""
    return {f"q{i}": value * (1 + i / 10) for i in range(4)}


def column_of(table, number):
    return [row[number] for row in table.cells]


def test_the_papers_sets_stand_beside_ours_by_position_among_their_kind():
    beside = {column.label: column.paper.rpartition(" ")[0] for column in rows.nine_columns(EVALUATION)}
    assert beside == {"Docs dev": "MSMARCO DEV", "Docs A": "TREC-DL'19", "Docs B": "TREC-DL'20", "Docs C": ""}
    recall = [column for column in rows.nine_columns(EVALUATION) if column.test_set == "graded-b"][2]
    assert recall == ("graded-b", "Docs B", R(rel=2) @ 100, "TREC-DL'20 R@1K")


def test_the_short_tables_have_the_papers_six_columns_on_three_sets():
    found = [column.paper for column in rows.six_columns(EVALUATION) if column.paper]
    printed = list(dict.fromkeys(column for _, column in paper_table(3)))
    assert sorted(found) == sorted(printed) == sorted(dict.fromkeys(column for _, column in paper_table(5)))
    assert [column.heading for column in rows.six_columns(EVALUATION)][:3] == [
        "Docs dev MRR@10",
        "Docs dev R@100",
        "Docs A nDCG@10",
    ]


SYSTEMS = {
    "pairwise/random": config.System(teacher="pairwise", sampling="random"),
    "in_batch/random": config.System(teacher="in_batch", sampling="random"),
    "dual/tas_balanced": config.System(),
    "tas_b": config.System(batch_size=64),
    "tas_b/largest": config.System(batch_size=128),
    "BM25 of a friend": config.System(kind="run", source="friend.run"),
}
TABLES = {
    "table3": lambda scores: tables.table3(scores, EVALUATION, SYSTEMS),
    "table4": lambda scores: tables.table4(scores, EVALUATION, SYSTEMS),
    "table5": lambda scores: tables.table5(scores, EVALUATION, SYSTEMS),
    "table6": lambda scores: tables.table6(scores, EVALUATION, SYSTEMS, "Bert 128", 2),
}
each_table = pytest.mark.parametrize("name", TABLES)


@each_table
def test_before_anything_was_run_every_row_stands_there_and_no_cell_has_a_value(name):
    table = TABLES[name]({})
    number = int(name[-1])
    printed = paper_table(number)
    extra = [rows.TABLE4["bm25"].paper] if number == 4 else []
    assert sorted(row.paper for row in table.rows) == sorted({row for row, _ in printed} | set(extra))
    assert all(cell.value is None and not cell.letters for cells in table.cells for cell in cells)
    assert {cell.missing for cells in table.cells for cell in cells} <= {"not run", "reported only"}
    assert {row.origin for row in table.rows} <= {"not run", "reported only"}


@each_table
def test_every_number_of_the_papers_table_stands_beside_its_cell(name):
    number = int(name[-1])
    printed = paper_table(number)
    table = TABLES[name]({})
    shown = {
        (row.paper, column.paper): cell.paper
        for row, cells in zip(table.rows, table.cells, strict=True)
        for column, cell in zip(table.columns, cells, strict=True)
        if column.paper
    }
    results = {key: cell for key, cell in printed.items() if key[1].partition(" ")[2] in RESULTS or "DEV" in key[1]}
    assert results and all(shown[key] == cell for key, cell in results.items())


@each_table
def test_every_table_is_written_in_three_formats_with_as_many_cells_a_line(name, tmp_path):
    table = TABLES[name](
        scores_of(
            {
                "pairwise/random": LOW,
                "in_batch/random": LOW,
                "dual/tas_balanced": HIGH,
                "dual/tas_balanced/listnet": LOW,
                "dual/tas_balanced/seed2": LOW,
            }
        )
    )
    markdown, csv, latex = tables.write(table, tmp_path, name)
    lines = [line for line in markdown.read_text().splitlines() if line.startswith("|")]
    assert {line.count(" | ") for line in lines} == {len(table.heads) + len(table.columns) + 1}
    assert len(lines) == 2 + len(table.rows)
    assert len(pd.read_csv(csv)) == len(table.rows) * len(table.columns)
    body = [line for line in latex.read_text().splitlines() if line.endswith(r"\\")]
    assert {line.replace(r"\&", "").count(" & ") for line in body[1:]} == {len(table.heads) + len(table.columns) + 1}


@each_table
def test_the_caption_says_what_stands_beside_what(name):
    caption = TABLES[name]({}).caption
    assert "TREC-DL'19 for Docs A" in caption and "TREC-DL'20 for Docs B" in caption and "R@1K for R@100" in caption


def test_table_3_has_the_papers_letters_and_says_what_is_lost():
    table = tables.table3(
        scores_of({"dual/tas_balanced": HIGH, "dual/tas_balanced/kldiv": LOW, "dual/tas_balanced/listnet": LOW}),
        EVALUATION,
    )
    assert [(row.letter, *row.names) for row in table.rows] == [
        ("k", "KLDiv"),
        ("n", "ListNet"),
        ("l", "Lambdarank"),
        ("m", "Margin-MSE"),
    ]
    assert [row.origin for row in table.rows] == ["trained here", "trained here", "not run", "trained here"]
    ndcg = [c.paper for c in table.columns].index("TREC-DL'19 nDCG@10")
    assert [cell.letters for cell in column_of(table, ndcg)] == ["", "", "", "kn"]
    assert [cell.paper.value for cell in column_of(table, ndcg)] == [".681", ".687", "lost", ".712"]


def test_table_4_compares_the_samplings_of_one_teacher_as_the_paper_does():
    scores = scores_of(
        {
            "bm25": LOW,
            "labels": LOW,
            "pairwise/random": LOW,
            "pairwise/tas": HIGH,
            "in_batch/random": LOW,
            "dual/tas_balanced": HIGH,
        }
    )
    table = tables.table4(scores, EVALUATION)
    assert [(row.letter, row.key) for row in table.rows] == [
        *[
            ("", "bm25"),
            ("", "labels"),
            ("r", "pairwise/random"),
            ("t", "pairwise/tas"),
            ("b", "pairwise/tas_balanced"),
            ("r", "in_batch/random"),
            ("t", "in_batch/tas"),
            ("b", "in_batch/tas_balanced"),
        ],
        *[("r", "dual/random"), ("t", "dual/tas"), ("b", "dual/tas_balanced")],
    ]
    # 3 is better than 2, its teacher's; 10 is better than 1, 2, 5 and BM25 by as much, which are not of its teacher
    assert {row.key: cell.letters for row, cell in zip(table.rows, column_of(table, 0), strict=True)} == {
        **dict.fromkeys(
            [
                "bm25",
                "labels",
                "pairwise/random",
                "pairwise/tas_balanced",
                "in_batch/random",
                "in_batch/tas",
                "in_batch/tas_balanced",
                "dual/random",
                "dual/tas",
                "dual/tas_balanced",
            ],
            "",
        ),
        "pairwise/tas": "r",
    }
    assert [row.origin for row in table.rows][:5] == ["BM25", "trained here", "trained here", "trained here", "not run"]
    assert "better than the row so marked of the same teacher (paired" in table.caption
    assert [cell.paper.value for cell in column_of(table, 0)][:3] == [".241", ".353", ".385"]


def test_a_row_without_a_letter_is_alone_in_its_block():
    listed = [
        Row(("x",), scores={"a": {NDCG: LOW}}, block="one"),
        *[Row((n,), n, {"a": {NDCG: LOW}}, block="two") for n in "yz"],
    ]
    assert [cells[0].letters for cells in tables.compose("", ("System",), listed, COLUMNS[:1], {}).cells] == [""] * 3
    for one, other in ((0, 1), (1, 0)):
        same = [listed[one]._replace(block=""), listed[other]._replace(block="")]
        with pytest.raises(ValueError, match="needs a letter of its own"):
            tables.compose("", ("System",), same, COLUMNS[:1], {})


def test_table_5_ends_with_the_mean_and_the_sample_deviation_by_hand():
    scores = scores_of({key: rising(value / 10) for value, key in enumerate(rows.TABLE5, 1)})
    table = tables.table5(scores, EVALUATION)
    assert [row.names[0] for row in table.rows] == ["A", "B", "C", "D", "E", "Avg.", "StdDev"]
    assert [row.letter for row in table.rows] == ["a", "b", "c", "d", "e", "", ""]
    # means .115 .230 .345 .460 .575: mean .345; squares .0529 + .013225 + 0 + the same two: .13225, over 4, root .182
    assert [round(cell.value, 3) for cell in column_of(table, 0)] == [0.115, 0.230, 0.345, 0.460, 0.575, 0.345, 0.182]
    assert [cell.letters for cell in column_of(table, 0)][4:] == ["abcd", "", ""]
    assert [row.origin for row in table.rows][4:] == ["trained here", "over 5 instances", "over 5 instances"]
    assert [cell.paper.value for cell in column_of(table, 0)][5:] == [".340", ".001"]


def test_mean_and_deviation_want_two_instances_and_are_never_the_best_of_a_column():
    two = tables.table5(
        scores_of({"dual/tas_balanced": rising(0.10), "dual/tas_balanced/seed2": rising(0.20)}), EVALUATION
    )
    assert [cell.value for cell in column_of(two, 0)][5:] == pytest.approx([0.1725, 0.115 / 2**0.5])
    assert two.rows[5].origin == two.rows[6].origin == "over 2 instances"
    same = tables.table5(
        scores_of({"dual/tas_balanced": rising(0.20), "dual/tas_balanced/seed2": rising(0.20)}), EVALUATION
    )  # the mean is .230 too
    assert column_of(same, 0)[5].value == pytest.approx(column_of(same, 0)[0].value)
    assert ["**" in line for line in tables.markdown(same).splitlines()[-7:]] == [True] * 2 + [False] * 5
    assert tables.latex(same).count(r"\textbf") == 2 * len(same.columns)
    one = tables.table5(scores_of({"dual/tas_balanced": rising(0.10)}), EVALUATION)
    assert [cell.value for cell in column_of(one, 0)][5:] == [None, None]
    assert one.rows[6].origin == "not run"


def test_the_papers_own_deviations_are_those_of_a_sample():
    columns = [column.paper for column in rows.six_columns(EVALUATION) if column.paper]
    printed = paper_table(5)
    right = {
        name: sum(f"{deviation([printed[i, c].number for i in 'ABCDE']):.3f}"[1:] == printed["StdDev", c].value
                  for c in columns)
        for name, deviation in (("n - 1", rows.SUMMARY5[1].summary), ("n", pstdev))
    }  # fmt: skip
    assert right == {"n - 1": 5, "n": 3}  # of six; .00249 is printed as .003, from instances with more digits


def test_table_6_names_our_encoder_and_batches_with_the_papers_in_parentheses():
    table = TABLES["table6"](scores_of({"pairwise/random": LOW, "dual/tas_balanced": HIGH}))
    names = {row.key: row.names[1:] for row in table.rows}
    assert names["bm25"] == ("BM25", "–", "–", "–")
    assert names["dual/tas_balanced"] == ("TAS-Balanced", "Bert 128 (DistilBERT)", "2 (6)", "32")
    assert names["tas_b"][-1], names["tas_b/largest"][-1] == ("64 (96)", "128 (256)")
    assert names["Baselines / RocketQA / ERNIE-Base / 4,000"] == (
        "RocketQA",
        "ERNIE-Base",
        "dual/tas_balanced/listnet",
        "4,000",
    )
    assert "under its letters: 64 beside 96, 128 beside 256." in table.caption
    sizes = {"dual/tas_balanced": 32, "tas_b": 96, "tas_b/largest": 256}
    same = {key: config.System(batch_size=size) for key, size in sizes.items()}
    full = tables.table6({}, EVALUATION, same)
    assert "beside" not in full.caption
    assert [row.names[2:] for row in full.rows][-3:] == [("DistilBERT", "6", "32"), ("DistilBERT", "6", "96"),
                                                         ("DistilBERT", "6", "256")]  # fmt: skip


def test_table_6_tells_reported_from_not_run_and_tests_what_was_run():
    table = TABLES["table6"](scores_of({"pairwise/random": LOW, "dual/tas_balanced": HIGH, "tas_b": LOW}))
    cells = dict(zip([row.key for row in table.rows], column_of(table, 3), strict=True))
    assert cells["dual/tas_balanced"].letters == "m9" and cells["pairwise/random"].letters == ""
    assert {key: cells[key].missing for key in ("in_batch/random", "Baselines / TCT / BERT-Base / 96")} == {
        "in_batch/random": "not run",
        "Baselines / TCT / BERT-Base / 96": "reported only",
    }
    assert cells["Baselines / TCT / BERT-Base / 96"].paper.value == ".670"
    assert [row.letter for row in table.rows if row.letter] == list("btm392")


def test_runs_made_elsewhere_find_their_row_in_table_6_or_get_one():
    ance = "Baselines / ANCE / BERT-Base / 32"
    scores = scores_of({"pairwise/random": LOW}) | {
        "BM25 of a friend": scores_of({"": HIGH})[""],
        ance: scores_of({"": HIGH})[""],
    }
    systems = SYSTEMS | {ance: config.System(kind="run", source="ance.run")}
    table = tables.table6(scores, EVALUATION, systems)
    found = {row.key: (row.letter, row.names[1], row.origin) for row in table.rows}
    assert found[ance] == ("a", "ANCE", "run file")
    assert found["BM25 of a friend"] == ("c", "BM25 of a friend", "run file") and table.rows[-1].names[0] == "Added"
    assert table.cells[-1][0].letters == "m" and table.cells[-1][0].paper is None
    assert len(table.rows) == 14


def test_a_system_that_the_profile_calls_reported_is_no_run_that_is_missing():
    table = tables.table4(
        {"dual/tas_balanced": {}}, EVALUATION, {"dual/tas_balanced": config.System(kind="reported", source="the paper")}
    )
    assert [row.origin for row in table.rows][-2:] == ["not run", "reported only"]
    assert table.cells[-1][0].missing == "reported only"


# --- between the rows ----------------------------------------------------------------------------------------------


def test_differences_are_second_minus_first_with_the_papers_step_beside():
    table = tables.table4(scores_of({"pairwise/random": LOW, "pairwise/tas": HIGH}), EVALUATION)
    found = tables.differences(
        table, {"to TAS": ("pairwise/random", "pairwise/tas"), "on": ("pairwise/tas", "pairwise/tas_balanced")}
    )
    assert found.columns.tolist() == ["step", "column", "difference", "p", "paper"]
    assert len(found) == 2 * 12
    first = found[found["column"] == "Docs A R@100"].iloc[0]
    # LOW's mean .135, HIGH's .43875; the paper's recall on TREC-DL'19 goes from .767 to .769
    assert first.difference == pytest.approx(0.30375) and first.paper == pytest.approx(0.002) and first.p < 1e-9
    assert found[found.step == "on"].difference.isna().all()
    assert found[found["column"] == "Docs C R@100"].paper.isna().all()


def test_differences_are_read_with_p_and_the_papers_below():
    found = pd.DataFrame(
        [
            ("x", "A R@100", 0.0123, 0.04, -0.01),
            ("x", "B R@100", -0.05, 0.0001, float("nan")),
            ("y", "A R@100", float("nan"), float("nan"), 0.2),
            ("y", "B R@100", 0.0, 1.0, float("nan")),
        ],
        columns=["step", "column", "difference", "p", "paper"],
    )
    assert tables.differences_markdown(found).splitlines() == [
        "| Step | A R@100 | B R@100 |",
        "| --- | ---: | ---: |",
        "| x | **+.012, p .040**<br>(-.010) | **-.050, p &lt; .001** |",
        "| y | not run<br>(+.200) | +.000, p 1.000 |",
    ]


def test_spread_is_the_sample_deviation_of_the_means_that_there_are():
    columns = rows.nine_columns(EVALUATION)
    scores = scores_of(
        {
            "dual/tas_balanced": rising(0.1),
            "dual/tas_balanced/seed2": rising(0.2),
            "dual/tas_balanced/seed3": rising(0.3),
        }
    )
    # means .115, .230, .345: squares .115² + 0 + .115², over 2, root .115
    found = tables.spread(scores, columns)
    assert found.index.tolist() == [column.heading for column in columns]
    assert found.tolist() == pytest.approx([0.115] * 12)
    assert tables.spread(scores_of({"dual/tas_balanced": rising(0.1)}), columns).isna().all()


def test_the_table_of_deviations_compares_all_choices_with_each_other_and_nothing_with_the_paper():
    evaluation = config.load("docs").evaluation
    measures = {c.measure for c in rows.nine_columns(evaluation)}
    sets = {test.name: {m: LOW for m in measures} for test in evaluation.sets}
    better = {name: {m: HIGH for m in measures} for name in sets}
    table = tables.deviations({"dual/tas_balanced": sets, "D2": better}, evaluation)
    assert [row.key for row in table.rows] == ["dual/tas_balanced", "D1", "D2", "D3", "D16"]
    assert {cell.letters for cell in table.cells[2]} == {"a"} and {c.letters for c in table.cells[0]} == {""}
    assert {cell.missing for cell in table.cells[1]} == {"not run"}
    assert "MS MARCO" not in table.caption and not any(cell.paper for cells in table.cells for cell in cells)


# --- Table 7 -----------------------------------------------------------------------------------------------------


def pipelines() -> config.Profile:
    listed = {
        "pairwise/random": config.System(teacher="pairwise", sampling="random"),
        "tas_b": config.System(batch_size=96),
        "d2q": config.System(kind="expanded"),
        "bm25+tas_b": config.System(kind="fused", of=("bm25", "tas_b")),
        "tas_b>cat": config.System(kind="reranked", first="tas_b"),
        "bm25>mono": config.System(kind="reranked", first="bm25", by="mono"),
        "bm25>mono>duo": config.System(kind="reranked", first="bm25>mono", by="duo"),
    }
    source = config.DocsSource(packages=("numpy",))
    return config.Profile(name="x", source=source, evaluation=EVALUATION, systems=listed,
                           reranking=config.Reranking(depth=50))  # fmt: skip


def test_table7_has_all_rows_of_the_paper_in_its_order_and_ours_between_them():
    table = tables.table7({}, pipelines())
    paper = list(dict.fromkeys(row for row, _ in paper_table(7)))
    assert [row.paper for row in table.rows if row.paper] == paper
    assert [row.key for row in table.rows if not row.paper] == [
        "in_batch/random",
        "pairwise/random",
        "bm25+tas_b",
        "bm25>cat",
        "tas_b>cat",
        "bm25+tas_b>cat",
    ]
    by_key = {row.key: row for row in table.rows}
    assert [by_key[key].origin for key in ("bm25", "d2q", "tas_b", "bm25+tas_b", "d2q+tas_b>duo")] == ["not run"] * 5
    assert by_key["Low latency / DeepCT"].origin == by_key["High latency / BM25 / BERT-Large"].origin == "reported only"
    assert by_key["tas_b>cat"].names == ("High latency", "TAS-B", "BERT_CAT", "50", "")
    assert by_key["bm25>mono>duo"].names == ("High latency", "BM25", "mono-duo-T5", "50 (1K)", "(12,800)")
    assert by_key["tas_b>mono>duo"].names == ("High latency", "TAS-B", "mono-duo-T5", "1K", "(12,800)")  # not listed
    assert all(cell.value is None for cells in table.cells for cell in cells)


def test_a_measured_latency_stands_before_the_papers():
    table = tables.table7(
        scores_of({"d2q": LOW}), pipelines(), latencies={"d2q": 5.26, "tas_b": 1234.4, "tas_b>cat": 99.96}
    )
    by_key = {row.key: row for row in table.rows}
    assert [by_key[key].names[-1] for key in ("d2q", "tas_b", "tas_b>cat")] == ["5.3 (64)", "1,234 (64)", "100.0"]
    assert by_key["bm25"].names[-1] == "(55)" and by_key["d2q"].origin == "expanded"


def test_letters_of_table7_compare_first_stages_under_the_same_re_ranker():
    scores = scores_of({"bm25": LOW, "tas_b": HIGH, "bm25+tas_b": HIGH, "bm25>cat": LOW, "tas_b>cat": HIGH})
    table = tables.table7(scores, pipelines())
    letters = {row.key: cells[0].letters for row, cells in zip(table.rows, table.cells, strict=True) if row.scores}
    assert letters == {"bm25": "", "tas_b": "b", "bm25+tas_b": "b", "bm25>cat": "", "tas_b>cat": "b"}
    assert {row.key: row.origin for row in table.rows if row.scores} == {
        "bm25": "BM25", "tas_b": "trained here", "bm25+tas_b": "fused", "bm25>cat": "trained here", "tas_b>cat": "re-ranked"
    }  # fmt: skip
    assert "the row so marked under the same re-ranker" in table.caption


def test_where_one_row_was_measured_on_a_sample_all_rows_are():
    measured = scores_of({"bm25": LOW, "tas_b>cat": HIGH, "pairwise/random": {}})
    few = {"q1": 0.5, "q3": 0.25}
    measured["tas_b>cat"] = {name: dict.fromkeys(sets, few) for name, sets in measured["tas_b>cat"].items()}
    shared, sizes = tables.common(measured)
    name = next(iter(sizes))
    assert sizes[name] == (2, 8)
    assert all(values == {"q1": LOW["q1"], "q3": LOW["q3"]} for values in shared["bm25"][name].values())
    caption = tables.table7(measured, pipelines()).caption
    assert "2 of 8 queries" in caption and "the same for all rows." in caption
    assert "of 8 queries" not in tables.table7(scores_of({"bm25": LOW}), pipelines()).caption


def test_a_run_made_elsewhere_is_a_row_of_table7_with_a_letter_of_its_own():
    table = tables.table7(scores_of({"bm25": LOW, "theirs": HIGH, "nothing": {}}), pipelines())
    last, nothing = table.rows[-2], table.rows[-1]
    assert (last.names[:2], last.letter, table.cells[-2][0].letters) == (("Added", "theirs"), "a", "b")
    assert (nothing.letter, nothing.origin) == ("", "not run")
