"""Tables: composed from hand-made values, and written as they should be read."""

import pandas as pd
import pytest
from ir_measures import Measure, R, nDCG
from scipy.stats import ttest_rel

from tas_lib import config
from tas_lib.config import System, TestSet
from tas_lib.evaluation.columns import Column, nine_columns, six_columns
from tas_lib.evaluation.comparisons import estimate
from tas_lib.report import paper, render, tables
from tas_lib.report.paper import Printed, Row, paper_table
from tas_lib.report.render import Grid

NDCG, RECALL = nDCG @ 10, R @ 100
COLUMNS = [Column("a", "Set A", NDCG, "TREC-DL'19 nDCG@10"), Column("a", "Set A", RECALL, "TREC-DL'19 R@1K")]
PRINTED = {("low", "TREC-DL'19 nDCG@10"): Printed(".602", ""), ("low", "TREC-DL'19 R@1K"): Printed("lost", "k")}
LOW = {f"q{i}": 0.1 + i / 100 for i in range(8)}
LESS, MORE = ({query: value + off for query, value in LOW.items()} for off in (-0.001, 0.001))
HIGH = {query: value + 0.3 + (0.01 if value > 0.14 else 0) for query, value in LOW.items()}
TAS_B = "dual/tas_balanced"


def small(*rows: tuple[str, str, dict[str, float]], families=None, **blocks: str) -> tables.Table:
    """A table of one column; rows: name, letter, values."""
    made = [Row((name,), letter, block=blocks.get(name, ""), key=name, runs=[name]) for name, letter, _ in rows]
    scores = {name: {"a": {NDCG: values}} for name, _, values in rows}
    return tables.compose("", ("System",), made, [COLUMNS[0]._replace(families=families or {})], {}, scores)


def letters(table: tables.Table) -> list[str]:
    return [cells[0].letters for cells in table.cells]


# --- composing and writing -----------------------------------------------------------------------------------------

TABLE = tables.compose(
    "A & B.",
    ("Teacher", "Sampling"),
    [
        Row(("None", "Random"), "r", "low", key="x", runs=["x", "x/seed2"], origin="trained here, 2 seeds"),
        Row(("Pairwise_T", "TAS"), "t", key="y", runs=["y"], origin="run file"),
        Row(("ANCE", ""), paper="low", missing="reported", origin="reported"),
        Row(("None", "TAS"), origin="not run"),
    ],
    COLUMNS,
    PRINTED,
    {"x": {"a": {NDCG: LESS, RECALL: HIGH}}, "x/seed2": {"a": {NDCG: MORE, RECALL: HIGH}},
     "y": {"a": {NDCG: HIGH, RECALL: HIGH}}},
)  # fmt: skip


def test_a_table_is_written_as_markdown_and_csv(tmp_path):
    # LOW, .001 less and more: .10 ... .17, mean .135, deviation .0014; HIGH: .3 more, and .01 more for .15, .16, .17:
    # mean .43875
    paths = tables.write(TABLE, tmp_path, "table0")
    assert [path.name for path in paths] == ["table0.md", "table0.csv"]
    assert paths[0].read_text().splitlines() == [
        "A & B. Values are means over the seeds in column Run, ± their standard deviation."
        " A letter marks a row that this one beats significantly (paired t-test and random seed, p < .05)."
        " In parentheses the paper's numbers, on MS MARCO: TREC-DL'19 for Set A, R@1K for R@100.",
        "",
        "|  | Teacher | Sampling | Set A<br>nDCG@10 | Set A<br>R@100 | Run |",
        "| --- | --- | --- | ---: | ---: | --- |",
        "| r | None | Random | .135<br>±.001<br>(.602) | **.439**<br>±.000<br>(lost) | trained here, 2 seeds |",
        "| t | Pairwise_T | TAS | **.439**<sup>r</sup> | **.439** | run file |",
        "|  | ANCE |  | reported<br>(.602) | reported<br>(lost) | reported |",
        "|  | None | TAS | not run | not run | not run |",
    ]
    lines = paths[1].read_text().splitlines()
    assert lines[0] == "row,column,value,deviation,markers,origin,paper_column,paper_value,paper_markers"
    assert lines[1] == 'None / Random,Set A nDCG@10,.1350,.0014,,"trained here, 2 seeds",TREC-DL\'19 nDCG@10,.602,'
    assert lines[3] == "Pairwise_T / TAS,Set A nDCG@10,.4387,,r,run file,TREC-DL'19 nDCG@10,,"
    assert lines[6] == "ANCE,Set A R@100,reported,,,reported,TREC-DL'19 R@1K,lost,k"


def test_several_grids_share_a_caption():
    one, other = Grid("lr", ["Row", "Avg."], [["a_1", "1 ms<br>(× > 8)"]]), Grid("l", ["B"], [["✓ –"]])
    assert render.markdown("Both.", one, other) == (
        "Both.\n\n| Row | Avg. |\n| --- | ---: |\n| a_1 | 1 ms<br>(× > 8) |\n\n| B |\n| --- |\n| ✓ – |\n"
    )


@pytest.mark.parametrize(("one", "other"), [("", ""), ("r", "r"), ("", "r"), ("r", "")])
def test_two_measured_rows_of_a_block_need_different_letters(one, other):
    with pytest.raises(ValueError, match="needs a letter of its own"):
        small(("x", one, LOW), ("y", other, LOW))


def test_letters_stay_within_a_block_where_a_row_alone_needs_none():
    rows = ("w", "", HIGH), ("x", "r", LOW), ("y", "t", HIGH), ("z", "r", HIGH)
    assert letters(small(*rows, w="alone", x="one", y="one", z="two")) == ["", "", "r", ""]


def test_letters_name_the_rows_that_are_beaten_significantly():
    # m beats k and l by 1 ± .1 on each query; l beats k on average only, by one lucky query
    low, lucky, high, split = (
        {f"q{i}": value for i, value in enumerate(values)}
        for values in ([0] * 8, [4] + [0] * 7, [5 + n for n in [0.1, -0.1] * 4], [9] * 4 + [1] * 4)
    )
    assert letters(small(("1", "k", low), ("2", "l", lucky), ("3", "m", high))) == ["", "", "kl"]
    assert letters(small(("3", "m", high), ("2", "l", lucky), ("1", "k", low))) == ["lk", "", ""]  # in order of rows
    # two families that gain 9 and 1: t = 5 / 4 with one degree of freedom; eight queries are enough
    rows = ("1", "k", low), ("2", "m", split)
    assert letters(small(*rows, families={f"q{i}": i // 4 for i in range(8)}))[1] == "" and letters(small(*rows))[1]


def test_equal_values_as_printed_share_the_bold():
    values = {"a": 0.71204, "b": 0.71196, "c": 0.09}
    table = small(*((letter, letter, {"q": value}) for letter, value in values.items()))
    assert [line[-2] for line in table.grid.rows] == ["**.712**", "**.712**", ".090"]


# --- columns -------------------------------------------------------------------------------------------------------

EVALUATION = config.Evaluation(
    sets=(
        TestSet(name="dev", label="Docs dev", paper="MSMARCO DEV"),
        TestSet(name="graded-a", label="Docs A", paper="TREC-DL'19", binarise_at=2, graded=True),
        TestSet(name="graded-b", label="Docs B", paper="TREC-DL'20", binarise_at=2, graded=True),
        TestSet(name="graded-c", label="Docs C", binarise_at=2, graded=True),
    ),
    depth=100,
)


def scores_of(values):
    """What `Experiment.scores` gives: key → set → measure → query → value, the same for every set and measure."""
    sets: dict[str, list[Measure]] = {}
    for column in nine_columns(EVALUATION):
        sets.setdefault(column.test_set, []).append(column.measure)
    return {
        key: {name: dict.fromkeys(sets[name], of_query) for name in sets} if of_query else {}
        for key, of_query in values.items()
    }


def rising(value):
    """Four queries, mean 1.15 times the value."""
    return {f"q{i}": value * (1 + i / 10) for i in range(4)}


def column_of(table, number):
    return [cells[number] for cells in table.cells]


def by_key(table):
    return {row.key: row for row in table.rows}


def test_the_papers_sets_are_beside_ours_by_label_or_where_the_profile_names_them():
    beside = {column.label: column.paper.rpartition(" ")[0] for column in nine_columns(EVALUATION)}
    assert beside == {"Docs dev": "MSMARCO DEV", "Docs A": "TREC-DL'19", "Docs B": "TREC-DL'20", "Docs C": ""}
    recall = [column for column in nine_columns(EVALUATION) if column.test_set == "graded-b"][2]
    assert recall == ("graded-b", "Docs B", R(rel=2) @ 100, "TREC-DL'20 R@1K", {})
    sets = (TestSet(name="x", label="X", graded=True), TestSet(name="y", label="TREC-DL'20", graded=True))
    named = nine_columns(config.Evaluation(sets=sets))
    assert [column.paper for column in named][::3] == ["", "TREC-DL'20 nDCG@10"]


def test_the_short_tables_have_the_papers_six_columns_on_three_sets():
    printed = {column.paper for column in six_columns(EVALUATION) if column.paper}
    assert printed == {column for _, column in paper_table(3)} == {column for _, column in paper_table(5)}
    headings = [column.heading for column in six_columns(EVALUATION)]
    assert headings[:3] == ["Docs dev MRR@10", "Docs dev R@100", "Docs A nDCG@10"]


# --- the paper's tables --------------------------------------------------------------------------------------------

SYSTEMS = {
    "pairwise/random": System(teacher="pairwise", sampling="random"),
    "in_batch/random": System(teacher="in_batch", sampling="random"),
    TAS_B: System(),
    "tas_b": System(batch_size=64),
    "tas_b/largest": System(batch_size=128),
    "BM25 of a friend": System(kind="run", source="friend.run"),
    "d2q": System(kind="expanded"),
    "bm25+tas_b": System(kind="fused", of=("bm25", "tas_b")),
    "tas_b>cat": System(kind="reranked", first="tas_b"),
    "bm25>mono": System(kind="reranked", first="bm25", by="mono"),
    "bm25>mono>duo": System(kind="reranked", first="bm25>mono", by="duo"),
}
PROFILE = config.Profile(
    name="x", source=config.DocsSource(packages=("numpy",)), evaluation=EVALUATION, systems=SYSTEMS,
    reranking=config.Reranking(depth=50),
)  # fmt: skip
TABLES = {
    3: lambda scores: tables.table3(scores, EVALUATION, SYSTEMS),
    4: lambda scores: tables.table4(scores, EVALUATION, SYSTEMS),
    5: lambda scores: tables.table5(scores, EVALUATION, SYSTEMS),
    6: lambda scores: tables.table6(scores, EVALUATION, SYSTEMS, "Bert 128", 2),
    7: lambda scores: tables.table7(scores, PROFILE),
}


@pytest.mark.parametrize("number", TABLES)
def test_before_anything_was_run_a_table_has_all_rows_and_numbers_of_the_paper_and_none_of_ours(number):
    table, printed = TABLES[number]({}), paper_table(number)
    extra = [paper.TABLE4["bm25"].paper] if number == 4 else []
    papers = [row.paper for row in table.rows if row.paper]
    assert papers == [*extra, *dict.fromkeys(row for row, _ in printed)]
    assert all(cell.value is None and not cell.letters for cells in table.cells for cell in cells)
    assert {cell.text for cells in table.cells for cell in cells} <= {"not run", "reported only"}
    assert {row.origin for row in table.rows} <= {"not run", "reported only"}
    shown = {
        (row.paper, column.paper): cell.paper
        for row, cells in zip(table.rows, table.cells, strict=True)
        for column, cell in zip(table.columns, cells, strict=True)
        if column.paper
    }
    results = {key: cell for key, cell in printed.items() if key[1].rpartition(" ")[2] in ("nDCG@10", "MRR@10", "R@1K")}
    assert results and all(shown[key] == cell for key, cell in results.items())
    assert "TREC-DL'19 for Docs A" in table.caption and "R@1K for R@100" in table.caption


def test_table_3_has_the_papers_letters_and_says_what_is_lost():
    table = TABLES[3](scores_of({TAS_B: HIGH, f"{TAS_B}/kldiv": LOW, f"{TAS_B}/listnet": LOW}))
    names = [("k", "KLDiv"), ("n", "ListNet"), ("l", "Lambdarank"), ("m", "Margin-MSE")]
    assert [(row.letter, *row.names) for row in table.rows] == names
    assert [row.origin for row in table.rows] == ["trained here", "trained here", "not run", "trained here"]
    cells = column_of(table, [c.paper for c in table.columns].index("TREC-DL'19 nDCG@10"))
    assert [cell.letters for cell in cells] == ["", "", "", "kn"]
    assert [cell.paper.value for cell in cells] == [".681", ".687", "lost", ".712"]


def test_letters_and_steps_are_tested_by_family_and_the_caption_says_so():
    # +.1, +.1, -.1 and +.1 to +.5: eight queries are enough; as two families of three and five they are not
    better = dict(zip(LOW, (0.2, 0.21, 0.02, 0.23, 0.34, 0.45, 0.56, 0.67), strict=True))
    scores = scores_of({"pairwise/random": LOW, "pairwise/tas": better})
    families = {"graded-a": {query: i // 3 for i, query in enumerate(LOW)}}
    table, alone = (tables.table4(scores, EVALUATION, SYSTEMS, some) for some in (families, {}))
    place = [column.heading for column in table.columns].index("Docs A nDCG@10")
    at = list(by_key(table)).index("pairwise/tas")
    assert [column_of(one, place)[at].letters for one in (table, alone)] == ["", "r"]
    assert column_of(table, 0)[at].letters == "r"  # the other sets have no families
    steps = [tables.differences(one, {"": ("pairwise/random", "pairwise/tas")}, scores) for one in (table, alone)]
    p, p_alone = (found[found["column"] == "Docs A nDCG@10"].p.iloc[0] for found in steps)
    assert p > 0.05 > p_alone == pytest.approx(ttest_rel([*better.values()], [*LOW.values()]).pvalue)
    assert "(paired t-test by family, p < .05)" in table.caption and "by family" not in alone.caption


def test_table_4_compares_the_samplings_of_one_teacher_as_the_paper_does():
    low = ("bm25", "labels", "pairwise/random", "in_batch/random")
    table = TABLES[4](scores_of(dict.fromkeys(low, LOW) | {"pairwise/tas": HIGH, TAS_B: HIGH}))
    samplings = (("r", "random"), ("t", "tas"), ("b", "tas_balanced"))
    keys = [(letter, f"{t}/{s}") for t in ("pairwise", "in_batch", "dual") for letter, s in samplings]
    assert [(row.letter, row.key) for row in table.rows] == [("", "bm25"), ("", "labels"), *keys]
    # the last row is better than the first two and two others by as much, but these are not of its teacher
    rows = zip(table.rows, column_of(table, 0), strict=True)
    assert {row.key: cell.letters for row, cell in rows if cell.letters} == {"pairwise/tas": "r"}
    assert [row.origin for row in table.rows][:5] == ["BM25", "trained here", "trained here", "trained here", "not run"]
    assert "marks a row of the same teacher that this one beats significantly (paired" in table.caption
    assert [cell.paper.value for cell in column_of(table, 0)][:3] == [".241", ".353", ".385"]


def test_table_5_ends_with_the_mean_and_the_sample_deviation_by_hand():
    table = TABLES[5](scores_of({key: rising(value / 10) for value, key in enumerate(paper.TABLE5, 1)}))
    assert [row.names[0] for row in table.rows] == ["A", "B", "C", "D", "E", "Avg.", "StdDev"]
    assert [row.letter for row in table.rows] == ["a", "b", "c", "d", "e", "", ""]
    # means .115 .230 .345 .460 .575: mean .345; squares .0529 + .013225 + 0 + the same two: .13225, over 4, root .182
    cells = column_of(table, 0)
    assert [round(cell.value, 3) for cell in cells] == [0.115, 0.230, 0.345, 0.460, 0.575, 0.345, 0.182]
    assert [cell.letters for cell in cells][4:] == ["abcd", "", ""]
    assert [row.origin for row in table.rows][4:] == ["shipped", "over 5 instances", "over 5 instances"]
    assert [cell.paper.value for cell in cells][5:] == [".340", ".001"]


def test_mean_and_deviation_need_two_instances_and_are_never_the_best_of_a_column():
    same = TABLES[5](scores_of({TAS_B: rising(0.20), f"{TAS_B}/seed2": rising(0.20)}))  # the mean is .230 too
    assert [cell.value for cell in column_of(same, 0)][5:] == pytest.approx([0.23, 0])
    assert same.rows[5].origin == same.rows[6].origin == "over 2 instances"
    assert [cell.best for cell in column_of(same, 0)] == [True] * 2 + [False] * 5
    one = TABLES[5](scores_of({TAS_B: rising(0.10)}))
    assert [(cell.value, cell.text) for cell in column_of(one, 0)][5:] == [(None, "not run")] * 2
    assert one.rows[6].origin == "not run"


def test_table_6_names_our_encoder_and_batches_with_the_papers_in_parentheses():
    table = TABLES[6]({})
    names = {key: row.names[1:] for key, row in by_key(table).items()}
    assert names["bm25"] == ("BM25", "–", "–", "–")
    assert names[TAS_B] == ("TAS-Balanced", "Bert 128 (DistilBERT)", "2 (6)", "32")
    assert (names["tas_b"][-1], names["tas_b/largest"][-1]) == ("64 (96)", "128 (256)")
    assert names["Baselines / RocketQA / ERNIE-Base / 4,000"] == ("RocketQA", "ERNIE-Base", "12", "4,000")
    assert "sizes are in the paper's order: 64 beside 96, 128 beside 256." in table.caption
    sizes = {TAS_B: 32, "tas_b": 96, "tas_b/largest": 256}
    full = tables.table6({}, EVALUATION, {key: System(batch_size=size) for key, size in sizes.items()})
    assert "beside" not in full.caption
    assert [row.names[2:] for row in full.rows][-3:] == [("DistilBERT", "6", str(size)) for size in sizes.values()]


def test_table_6_tells_reported_from_not_run_and_tests_what_was_run():
    table = TABLES[6](scores_of({"pairwise/random": LOW, TAS_B: HIGH, "tas_b": LOW}))
    cells, tct = dict(zip(by_key(table), column_of(table, 3), strict=True)), "Baselines / TCT / BERT-Base / 96"
    assert cells[TAS_B].letters == "m9" and cells["pairwise/random"].letters == ""
    texts = cells["in_batch/random"].text, cells[tct].text, cells[tct].paper.value
    assert texts == ("not run", "reported only", ".670")
    assert [row.letter for row in table.rows if row.letter] == list("btm392")


def test_runs_made_elsewhere_have_their_row_in_table_6_or_get_one():
    ance = "Baselines / ANCE / BERT-Base / 32"
    scores = scores_of({"pairwise/random": LOW, "BM25 of a friend": HIGH, ance: HIGH})
    table = tables.table6(scores, EVALUATION, SYSTEMS | {ance: System(kind="run", source="ance.run")})
    found = {key: (row.letter, row.names[1], row.origin) for key, row in by_key(table).items()}
    assert found[ance] == ("a", "ANCE", "run file")
    assert found["BM25 of a friend"] == ("c", "BM25 of a friend", "run file") and table.rows[-1].names[0] == "Added"
    assert table.cells[-1][0].letters == "m" and table.cells[-1][0].paper is None
    assert len(table.rows) == 14


def test_a_system_that_the_profile_calls_reported_is_not_a_missing_run():
    table = tables.table4({TAS_B: {}}, EVALUATION, {TAS_B: System(kind="reported", source="the paper")})
    assert [row.origin for row in table.rows][-2:] == ["not run", "reported only"]
    assert table.cells[-1][0].text == "reported only"


def test_the_table_of_deviations_compares_all_choices_with_each_other_and_nothing_with_the_paper():
    table = tables.deviations(scores_of({TAS_B: LOW, "D2": HIGH}), EVALUATION, {})
    assert [row.key for row in table.rows] == [TAS_B, "D1", "D2", "D3", "D10", "D16", "D33", "D34"]
    assert [{cell.letters for cell in cells} for cells in table.cells] == [{""}, {""}, {"a"}, *[{""}] * 5]
    assert {cell.text for cell in table.cells[1]} == {"not run"}
    assert "MS MARCO" not in table.caption and not any(cell.paper for cells in table.cells for cell in cells)


# --- Table 7 -------------------------------------------------------------------------------------------------------


def test_table_7_has_our_rows_between_the_papers_and_names_candidates_and_latencies():
    latencies = {"d2q": 5.26, "tas_b": 1234.4, "tas_b>cat": 99.96}
    table = tables.table7(scores_of({"d2q": LOW}), PROFILE, latencies=latencies)
    rows = by_key(table)
    assert [row.key for row in table.rows if not row.paper] == [
        "in_batch/random", "pairwise/random", "bm25+tas_b", "bm25>cat", "tas_b>cat", "bm25+tas_b>cat"
    ]  # fmt: skip
    assert [rows[key].origin for key in ("bm25", "d2q", "d2q+tas_b>duo")] == ["not run", "expanded", "not run"]
    assert rows["Low latency / DeepCT"].origin == rows["High latency / BM25 / BERT-Large"].origin == "reported only"
    assert rows["tas_b>cat"].names == ("High latency", "TAS-B", "BERT_CAT", "50", "100.0")
    assert rows["bm25>mono>duo"].names == ("High latency", "BM25", "mono-duo-T5", "50 (1K)", "(12,800)")
    assert rows["tas_b>mono>duo"].names == ("High latency", "TAS-B", "mono-duo-T5", "1K", "(12,800)")  # not listed
    assert [rows[key].names[-1] for key in ("bm25", "d2q", "tas_b")] == ["(55)", "5.3 (64)", "1,234 (64)"]


def test_letters_of_table_7_compare_first_stages_under_the_same_re_ranker():
    scores = scores_of({"bm25": LOW, "tas_b": HIGH, "bm25+tas_b": HIGH, "bm25>cat": LOW, "tas_b>cat": HIGH})
    table = tables.table7(scores, PROFILE)
    rows = zip(table.rows, column_of(table, 0), strict=True)
    assert {row.key: (cell.letters, row.origin) for row, cell in rows if row.runs} == {
        "bm25": ("", "BM25"), "tas_b": ("b", "trained here"), "bm25+tas_b": ("b", "fused"),
        "bm25>cat": ("", "trained here"), "tas_b>cat": ("b", "re-ranked"),
    }  # fmt: skip
    assert "marks a row under the same re-ranker that this one beats" in table.caption


def test_where_one_row_was_measured_on_a_sample_all_rows_are():
    measured = scores_of({"bm25": LOW, "tas_b>cat": {"q1": 0.5, "q3": 0.25}, "pairwise/random": {}})
    shared, sizes = tables.common(measured)
    assert sizes["dev"] == (2, 8)
    assert all(values == {"q1": LOW["q1"], "q3": LOW["q3"]} for values in shared["bm25"]["dev"].values())
    caption = tables.table7(measured, PROFILE).caption
    assert "2 of 8 queries" in caption and "the same for all rows." in caption
    assert "of 8 queries" not in tables.table7(scores_of({"bm25": LOW}), PROFILE).caption


def test_a_run_made_elsewhere_is_a_row_of_table_7_with_a_letter_of_its_own():
    table = tables.table7(scores_of({"bm25": LOW, "theirs": HIGH, "nothing": {}}), PROFILE)
    last, nothing = table.rows[-2], table.rows[-1]
    assert (last.names[:2], last.letter, table.cells[-2][0].letters) == (("Added", "theirs"), "a", "b")
    assert (nothing.letter, nothing.origin) == ("", "not run")


# --- between the rows ----------------------------------------------------------------------------------------------


def test_differences_are_second_minus_first_with_the_papers_step_beside():
    table = TABLES[4](scores := scores_of({"pairwise/random": LOW, "pairwise/tas": HIGH}))
    steps = {"to TAS": ("pairwise/random", "pairwise/tas"), "on": ("pairwise/tas", "pairwise/tas_balanced")}
    found = tables.differences(table, steps, scores)
    assert found.columns.tolist() == ["step", "column", "difference", "p", "paper"] and len(found) == 2 * 12
    first = found[found["column"] == "Docs A R@100"].iloc[0]
    # LOW's mean .135, HIGH's .43875; the paper's recall on TREC-DL'19 goes from .767 to .769
    assert first.difference == pytest.approx(0.30375) and first.paper == pytest.approx(0.002) and first.p < 1e-9
    assert found[found.step == "on"].difference.isna().all()
    assert found[found["column"] == "Docs C R@100"].paper.isna().all()


def test_differences_are_read_with_p_and_the_papers_below():
    nan = float("nan")
    lines = [("x", "A", 0.0123, 0.04, -0.01), ("x", "B", -0.05, 0.0001, nan)]
    lines += [("y", "A", nan, nan, 0.2), ("y", "B", 0.0, 1.0, nan)]
    steps = pd.DataFrame(lines, columns=["step", "column", "difference", "p", "paper"])
    x = ["x", "**+.012, p .040**<br>(-.010)", "**-.050, p &lt; .001**"]
    y = ["y", "not run<br>(+.200)", "+.000, p 1.000"]
    assert tables.step_grid(steps) == ("lrr", ["Step", "A", "B"], [x, y])


def test_tables_average_the_seeds_of_a_row_and_letters_and_steps_count_their_chance():
    # .3 apart on every query, and two seeds that lie .2 apart: too far to tell the rows apart
    values = {"pairwise/random": LOW, "pairwise/tas": HIGH}
    apart = {f"{key}/seed2": {q: v + 0.2 for q, v in values[key].items()} for key in values}
    alone, scores = scores_of(values), scores_of(values | apart)
    table, step = TABLES[4](scores), ("pairwise/random", "pairwise/tas")
    rows, cells = by_key(table), dict(zip(by_key(table), column_of(table, 0), strict=True))
    assert [rows[key].origin for key in (*step, "bm25")] == ["2 seeds, 1 of them trained here"] * 2 + ["not run"]
    assert cells["pairwise/tas"].value == pytest.approx(0.53875)  # LOW's mean .135, HIGH's .43875
    assert cells["pairwise/tas"].deviation == pytest.approx(0.2 / 2**0.5)
    of_one = column_of(TABLES[4](alone), 0)[list(rows).index("pairwise/tas")]
    assert (of_one.letters, cells["pairwise/tas"].letters) == ("r", "")
    found = tables.differences(table, {"": step}, scores)
    expected = [estimate(scores, step[::-1], [column]).p for column in table.columns]
    assert found.p.tolist() == expected and min(expected) > 0.05
    assert "± their standard deviation" in table.caption and "±" not in TABLES[4](alone).caption
    sixth = TABLES[6](scores)
    assert not [key for key in by_key(sixth) if "seed" in key]
    assert tables.table7(scores, PROFILE).rows[-1].key == "pairwise/tas"  # pipelines are run with one seed
