"""Tables 4 and 6 beside other people's figures: which, and from what difference on they are marked."""

import re

import pandas as pd
import pytest

from tas_lib import config
from tas_lib.config import PAPERS_SETS
from tas_lib.evaluation.metrics import PerQuery
from tas_lib.report import compared, rows, tables
from tas_lib.report.published import independent_figures, paper_table
from tools import graph

MSMARCO, CHECKPOINTS, DOCS = (config.load(name) for name in ("msmarco", "checkpoints", "docs"))
NDCG, MRR, RECALL = "nDCG@10", "MRR@10", "R@1K"


def scores_of(settings: config.Profile, values: dict[str, float]) -> dict[str, dict[str, PerQuery]]:
    """What `Experiment.scores` gives, one query a set with the same value in every measure."""
    found: dict[str, dict[str, PerQuery]] = {}
    for key, value in values.items():
        for column in rows.nine_columns(settings.evaluation):
            found.setdefault(key, {}).setdefault(column.test_set, {})[column.measure] = {"q": value}
    return found


def table4(settings: config.Profile, values: dict[str, float]) -> tables.Table:
    return tables.table4(scores_of(settings, values), settings.evaluation, settings.systems)


def table6(settings: config.Profile, values: dict[str, float]) -> tables.Table:
    return tables.table6(scores_of(settings, values), settings.evaluation, settings.systems)


def line(table: tables.Table, row: str, column: str) -> compared.Line:
    [found] = [line for line in table.beside if (line.row, line.column) == (row, column)]
    return found


@pytest.mark.parametrize(
    ("ours", "figure", "off"),
    [
        (0.351, ".347", None),  # exactly .004, though a float says .351 - .347 = .0040000000000000036
        (0.343, ".347", None),
        (0.3511, ".347", ".0041"),
        (0.3429, ".347", "-.0041"),
        (0.35104, ".347", None),  # reads .3510
        (0.35105001, ".347", ".0041"),  # reads .3511
        (0.3484, ".3444", None),
        (0.3485, ".3444", ".0041"),
        (None, ".347", None),
        (0.5, "", None),
    ],
)
def test_a_figure_is_marked_from_forty_one_ten_thousandths_on(ours, figure, off):
    found = compared.apart(ours, figure)
    assert found is None if off is None else str(found) == off.replace(".", "0.")


def test_the_mark_stands_behind_the_figure_and_says_by_how_much():
    # system 2 on dev, MRR@10: the paper's Table 4 has .326, the study .325, Pyserini .3251
    table = table4(MSMARCO, {"pairwise/random": 0.3296})
    text = compared.markdown("Table 4", table.beside)
    name = "Pairwise (BERT_CAT) / Random"
    assert (
        f"| {name} | MSMARCO DEV MRR@10 | .326 | .325 **(+.0046)** | .3251 **(+.0045)** | .3296 | trained here |"
        in text
    )
    assert f"| {name} | MSMARCO DEV nDCG@10 | .385 **(-.0554)** | .382 **(-.0524)** | – | .3296 |" in text
    assert "| None / Random | MSMARCO DEV MRR@10 | .298 | .280 | – | not run | not run |" in text
    # nine figures of the paper and of the study, six of Pyserini; all but the paper's MRR are too far from .3296
    assert "which is so for 23 of 24 figures." in text


def test_latex_and_csv_tell_the_same(tmp_path):
    table = table4(MSMARCO, {"pairwise/random": 0.3296})
    tex = compared.latex("Table 4", table.beside)
    row = (
        r"Pairwise (BERT\_CAT) / Random & MSMARCO DEV MRR@10 & .326 & .325 \textbf{(+.0046)} & .3251 \textbf{(+.0045)}"
    )
    assert f"{row} & .3296 & trained here \\\\" in tex.splitlines()
    assert len([text for text in tex.splitlines() if text.count(" & ") == 6]) == len(table.beside) + 1
    paths = {path.name: path for path in tables.write(table, tmp_path, "table4")}
    stems = ("table4", "table4-compared")
    assert sorted(paths) == sorted(f"{stem}.{ending}" for stem in stems for ending in ("md", "csv", "tex"))
    told = pd.read_csv(paths["table4-compared.csv"], dtype=str, keep_default_na=False)
    found = told[(told.row == "Pairwise (BERT_CAT) / Random") & (told.column == "MSMARCO DEV MRR@10")]
    assert found[["source", "figure", "ours", "difference", "apart"]].values.tolist() == [
        ["paper", ".326", ".3296", "+.0036", ""],
        ["2023 study", ".325", ".3296", "+.0046", "yes"],
        ["Pyserini", ".3251", ".3296", "+.0045", "yes"],
    ]
    assert set(told[told.ours == "not run"].apart) == {""}


def test_every_row_of_table_4_stands_beside_the_studys_row_of_its_teacher_and_sampling():
    teachers = {rows.PAIRWISE: "Pairwise", rows.IN_BATCH: "In-Batch", rows.DUAL: "Both", "None": "None"}
    samplings = {"Random": "Random", "TAS": "TAS", "TAS-Balanced": "TAS-B", rows.HARD_MARGIN: rows.HARD_MARGIN}
    table, figures = table4(CHECKPOINTS, {}), independent_figures()
    names = {row.names for row in table.rows if row.key != "bm25"}
    assert len(names) == 13  # ten of the paper, three with hard margins
    for teacher, sampling in names:
        for column in table.columns:
            study = figures["2023 study", f"{teachers[teacher]} / {samplings[sampling]}", column.heading]
            assert line(table, f"{teacher} / {sampling}", column.heading).figures[1] == study


def test_every_trained_row_has_the_teacher_and_sampling_that_its_figures_are_of():
    sampled = {"random": "Random", "tas": "TAS", "tas_balanced": "TAS-B"}
    taught = {"none": "None", "pairwise": "Pairwise", "in_batch": "In-Batch", "dual": "Both"}
    for key in map(str, range(1, 11)):
        system = MSMARCO.systems[key]
        assert compared.OTHERS[key][0].study == f"{taught[system.teacher]} / {sampled[system.sampling]}"
        assert system.batch_size == 32
    for key, (others, *_) in compared.OTHERS.items():
        source = CHECKPOINTS.systems[key].source if key in CHECKPOINTS.systems else ""
        if source.startswith("ielabgroup"):  # Reproduced_Pairwise_In_Batch_TAS-B-HM_Msmarco
            name = source.partition("_")[2].removesuffix("_Msmarco").replace("Pairwise_In_Batch", "Both")
            assert others.study == " / ".join(name.replace("In_Batch", "In-Batch").rsplit("_", 1))
    assert CHECKPOINTS.systems["tas_b/largest"].source.endswith("tas_b-b256-msmarco")
    assert (
        compared.OTHERS["tas_b/largest"] == [compared.Others(pyserini="TAS-B b256")]
        and MSMARCO.systems["tas_b/largest"].batch_size == 256
    )


def test_pyserinis_checkpoints_and_both_bm25s_stand_in_table_6():
    table = table6(MSMARCO, {"bm25": 0.1875, "tas_b/largest": 0.347})
    largest = line(table, "Ours / TAS-Balanced / DistilBERT / 6 / 256", f"MSMARCO DEV {MRR}")
    assert largest.figures == (".347", "", ".3444") and largest.ours == 0.347
    margin_mse = line(table, "Baselines / Margin-MSE (ours) / DistilBERT / 6 / 32", f"TREC-DL'19 {NDCG}")
    assert margin_mse.figures == (".687", ".678", ".6994") and margin_mse.missing == "not run"
    default = line(table, "Baselines / BM25 / – / – / –", f"TREC-DL'20 {RECALL}")
    assert default.figures == (".806", ".803", ".7863")
    tuned = line(table, "BM25, as tuned in Anserini", f"TREC-DL'20 {RECALL}")
    assert tuned.figures == ("", "", ".8031") and tuned.ours == default.ours == 0.1875
    assert (
        line(table, "Baselines / RocketQA / ERNIE-Base / 12 / 4,000", f"MSMARCO DEV {MRR}").missing == "reported only"
    )


def test_a_line_without_any_figure_is_left_out():
    table = table6(CHECKPOINTS, {"tas_b/largest": 0.3, "a run of a friend": 0.4})
    assert not [found for found in table.beside if "friend" in found.row]  # measured, but nobody else has it
    assert not [found for found in table.beside if not any(found.figures)]
    ltre = [found.column for found in table.beside if found.row.startswith("Baselines / LTRe ")]
    assert ltre == [
        f"TREC-DL'19 {NDCG}",
        f"MSMARCO DEV {MRR}",
        f"MSMARCO DEV {RECALL}",
    ]  # the paper has dashes elsewhere


def test_figures_of_one_source_stand_in_no_others_column():
    figures = independent_figures()
    for table in (table4(CHECKPOINTS, {}), table6(CHECKPOINTS, {"Margin-MSE, published": 0.1})):
        for found in table.beside:
            for source, figure in zip(compared.SOURCES[1:], found.figures[1:], strict=True):
                assert not figure or figure in {
                    v for (s, _, c), v in figures.items() if (s, c) == (source, found.column)
                }
    published = line(table, "Added / Margin-MSE, published", f"MSMARCO DEV {MRR}")
    assert published.figures == ("", "", ".3251")


def test_hard_margins_and_the_published_checkpoint_are_rows_where_the_profile_lists_them_and_nowhere_else():
    added = {"Pairwise / TAS-B-HM", "In-Batch / TAS-B-HM", "Both / TAS-B-HM", "Margin-MSE, published"}
    assert added == rows.ADDED and added <= set(CHECKPOINTS.systems)
    for make, keys in ((table4, rows.TABLE4), (table6, rows.TABLE6)):
        nothing: dict[str, dict[str, PerQuery]] = {key: {} for key in keys}  # what a notebook hands over
        for settings in (MSMARCO, DOCS):
            plain = tables.table4 if make is table4 else tables.table6
            assert not added & {row.key for row in plain(nothing, settings.evaluation, settings.systems).rows}
        kept = {row.key for row in make(CHECKPOINTS, dict.fromkeys(keys, 0.1)).rows}
        assert added & set(keys) == added & kept
    letters = {row.names: row.letter for row in table4(CHECKPOINTS, {}).rows}
    assert letters[rows.PAIRWISE, "TAS-B-HM"] == letters[rows.DUAL, "TAS-B-HM"] == "h"


def test_on_another_collection_nothing_is_compared(tmp_path):
    for make, name in ((table4, "table4"), (table6, "table6")):
        table = make(DOCS, {"bm25": 0.3, "pairwise/random": 0.3, "dual/tas_balanced": 0.4})
        assert table.beside == []
        assert [path.name for path in tables.write(table, tmp_path, name)] == [
            f"{name}.{e}" for e in ("md", "csv", "tex")
        ]
    assert not list(tmp_path.glob("*compared*"))


def test_another_cutoff_is_another_measure_and_is_not_compared():
    shallow = MSMARCO.evaluation.model_copy(update={"depth": 100})
    table = tables.table4({}, shallow, MSMARCO.systems)
    assert {found.column.rpartition(" ")[2] for found in table.beside} == {NDCG, MRR}


def test_a_set_is_known_by_its_label_and_not_by_its_place():
    turned = MSMARCO.evaluation.model_copy(update={"sets": MSMARCO.evaluation.sets[::-1]})
    one, other = (tables.table4({}, evaluation, MSMARCO.systems).beside for evaluation in (MSMARCO.evaluation, turned))
    assert sorted(one) == sorted(other) and len(one) > 90


def test_the_graph_knows_the_companions_of_ms_marco_alone(tmp_path, monkeypatch):
    for settings, there in ((MSMARCO, True), (CHECKPOINTS, True), (DOCS, False)):
        jobs = graph.jobs(settings)
        for notebook, table in graph.COMPARED.items():
            assert (f"{table}-compared.md" in jobs[notebook].makes) == there
            read = [path for path in graph.inputs(jobs[notebook], settings) if path.endswith("independent.csv")]
            assert bool(read) == there
        assert ("table4-compared" in graph.aliases(settings)) == there


# --- the figures themselves ----------------------------------------------------------------------------------------


def test_others_figures_are_numbers_of_the_papers_columns_and_none_stands_twice():
    figures = independent_figures()
    text = (config.ROOT / "data" / "paper" / "independent.csv").read_text(encoding="utf-8").splitlines()
    assert text[0] == "source,row,column,value" and len(text) - 1 == len(figures) == 14 * 9 + 5 * 6
    columns = {f"{label} {measure}" for label in PAPERS_SETS for measure in (NDCG, MRR, RECALL)}
    digits = {"2023 study": r"\.\d{3}", "Pyserini": r"\.\d{4}"}
    for (source, row, column), value in figures.items():
        assert column in columns and re.fullmatch(digits[source], value), (source, row, column)


@pytest.mark.parametrize(
    ("source", "row", "column", "value"),
    [
        ("2023 study", "BM25", f"MSMARCO DEV {NDCG}", ".234"),
        ("2023 study", "None / Random", f"TREC-DL'20 {RECALL}", ".759"),
        ("2023 study", "Pairwise / TAS-B", f"TREC-DL'19 {MRR}", ".848"),
        ("2023 study", "In-Batch / TAS-B-HM", f"TREC-DL'19 {MRR}", ".872"),
        ("2023 study", "Both / TAS-B", f"MSMARCO DEV {MRR}", ".308"),
        ("2023 study", "Both / TAS-B-HM", f"TREC-DL'20 {RECALL}", ".834"),
        ("Pyserini", "TAS-B b256", f"TREC-DL'20 {NDCG}", ".6854"),
        ("Pyserini", "Margin-MSE T2", f"TREC-DL'19 {RECALL}", ".7653"),
        ("Pyserini", "BM25 default", f"MSMARCO DEV {MRR}", ".1840"),
        ("Pyserini", "docT5query default", f"TREC-DL'20 {RECALL}", ".8452"),
    ],
)
def test_figures_read_by_hand(source, row, column, value):
    assert independent_figures()[source, row, column] == value


def test_the_studys_bm25_is_anserinis_tuned_one():
    figures, paper = independent_figures(), paper_table(7)
    for label in PAPERS_SETS:
        measures = (MRR, RECALL) if "DEV" in label else (NDCG, RECALL)
        for measure in measures:
            tuned = figures["Pyserini", "BM25 tuned", f"{label} {measure}"]
            assert abs(float(tuned) - float(figures["2023 study", "BM25", f"{label} {measure}"])) < 0.0006
        assert (
            figures["2023 study", "BM25", f"{label} {RECALL}"] == paper["Low latency / BM25", f"{label} {RECALL}"].value
        )


def test_every_row_that_is_named_is_there():
    named = {("2023 study", o.study) for others in compared.OTHERS.values() for o in others if o.study}
    named |= {("Pyserini", o.pyserini) for others in compared.OTHERS.values() for o in others if o.pyserini}
    there = {(source, row) for source, row, _ in independent_figures()}
    assert there - named == {("Pyserini", "docT5query default")}  # of Table 7
    assert named <= there
