"""Claims: the list against the paper, and every branch of the rules by hand."""

import math
import re
from statistics import mean, stdev

import pandas as pd
import pytest
from scipy.stats import ttest_rel

from tas_lib.config import ROOT, Evaluation, TestSet
from tas_lib.evaluation import claims, metrics, paper_claims
from tas_lib.evaluation.claims import ENOUGH
from tas_lib.evaluation.paper_claims import CLAIMS, COLUMNS, ORDERS, Compared, Measured
from tas_lib.report.paper import paper_table, rows

COMPARED = [claim for claim in CLAIMS if isinstance(claim, Compared)]
MEASURED = [claim for claim in CLAIMS if isinstance(claim, Measured)]
PAPER = ROOT.parent / "shared" / "paper" / "tas-balanced.txt"
EVALUATION = Evaluation(
    sets=(
        TestSet(name="dev", label="Dev"),
        TestSet(name="a", label="A", binarise_at=2, graded=True),
        TestSet(name="b", label="B", binarise_at=2, graded=True),
        TestSet(name="more", label="More"),
    ),
    depth=100,
)


def by_key(verdicts):
    return {verdict.claim.key: verdict for verdict in verdicts}


# --- the list ------------------------------------------------------------------------------------------------------


def test_every_claim_has_a_key_of_its_own_and_stands_in_the_results_or_the_method():
    assert len({claim.key for claim in CLAIMS}) == len(CLAIMS) == 67
    assert len({claim.words for claim in CLAIMS}) == len(CLAIMS)
    sections = {"labels", "2.2", "2.3", "2.4", "pairwise/tas", "4.1", "4.2", "4.3", "5.1", "5.2", "5.3", "in_batch/tas"}
    assert {claim.section for claim in CLAIMS} == sections


@pytest.mark.skipif(not PAPER.is_file(), reason="no text of the paper at hand")
def test_every_section_is_a_heading_of_the_paper():
    headings = re.findall(r"^([1-6](?:\.[1-9])?) [A-Z]", PAPER.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {claim.section for claim in CLAIMS} <= set(headings)


PIPELINES = {
    key.replace("{tas}", "tas_b"): (7, row.paper) for key, row in rows("7").items() if row.paper and key != row.paper
}
"""The rows of Table 7 that could be run: key → its place in the paper."""


def test_every_system_is_a_row_of_the_papers_tables_or_has_other_clusters():
    known = {*map(str, range(1, 22)), *PIPELINES, "bm25>cat"}
    assert set(paper_claims.SYSTEMS) == known  # and none is trained, or re-ranked, in vain
    for claim in COMPARED:
        assert claim.columns in COLUMNS and claim.need in ENOUGH
        assert (" = " in claim.systems) != (" > " in claim.systems)
        assert claim.pairs and all(better != worse for better, worse in claim.pairs)


def test_a_greater_sign_within_a_key_is_no_comparison():
    claim = Compared("", "", "", "d2q+tas_b>mono>duo > tas_b>duo > tas_b, in_batch/random > bm25", "all columns")
    assert claim.pairs == [("d2q+tas_b>mono>duo", "tas_b>duo"), ("tas_b>duo", "tas_b"), ("in_batch/random", "bm25")]
    assert Compared("", "", "", "tas_b>duo = tas_b, dual/tas_balanced/fewer = dual/tas_balanced", "").pairs == [
        ("tas_b>duo", "tas_b"),
        ("dual/tas_balanced/fewer", "dual/tas_balanced"),
    ]


def test_the_legend_names_every_part_of_every_key():
    words = set(re.findall(r"\w+", claims.LEGEND))
    parts = {part for key in paper_claims.SYSTEMS for part in re.split("[>+]", key)}
    assert {"d2q", "bm25", "mono", "duo", "cat"} == {part for part in parts if not part.isdigit()} <= words


def test_a_measured_claim_has_bounds_and_says_where_they_come_from():
    assert len({claim.fact for claim in MEASURED}) == len(MEASURED)
    assert all(claim.low < claim.high and claim.why for claim in MEASURED)


def test_the_minimum_that_was_asked_for_is_there():
    asked = (
        "tas-pairwise order-pairwise order-in-batch order-dual dual-recall margin-mse-recall steady-graded batch-dev"
    )
    asked += " batch-graded dense clusters one-range sampling-time teacher-labels caps"
    assert set(asked.split()) <= {claim.key for claim in CLAIMS}


TEACHERS = ("Pairwise (BERT_CAT)", "In-Batch Neg. (ColBERT)", "Pairwise + In-Batch")
ROWS = PIPELINES | {
    "bm25>cat": (7, "High latency / BM25 / BERT-Large"),
    "labels": (4, "None / Random"),
    **{
        str(2 + 3 * i + j): (4, f"{teacher} / {sampling}")
        for i, teacher in enumerate(TEACHERS)
        for j, sampling in enumerate(("Random", "TAS", "TAS-Balanced"))
    },
    "dual/tas_balanced/kldiv": (3, "KLDiv"),
    "dual/tas_balanced/listnet": (3, "ListNet"),
    "dual/tas_balanced/lambdarank": (3, "Lambdarank"),
    "tas_b/largest": (6, "Ours / TAS-Balanced / DistilBERT / 256"),
}
PRINTED = {"nDCG": "nDCG@10", "RR": "MRR@10", "R": "R@1K"}
KINDS = {"graded": ("TREC-DL'19", "TREC-DL'20"), "dev": ("MSMARCO DEV",)}


def papers_differences(claim, better, worse):
    """What the paper's own tables print for a comparison, where both cells are numbers."""
    cells = {key: {column: cell for (r, column), cell in paper_table(ROWS[key][0]).items() if r == ROWS[key][1]}
             for key in (better, worse)}  # fmt: skip
    assert all(cells.values())
    for kind, measure in COLUMNS[claim.columns]:
        for test in KINDS[kind]:
            ours, theirs = (cells[key].get(f"{test} {PRINTED[measure]}") for key in (better, worse))
            if ours and theirs and ours.number is not None and theirs.number is not None:
                yield ours.number - theirs.number


@pytest.mark.parametrize("claim", [c for c in COMPARED if " > " in c.systems], ids=lambda claim: claim.key)
def test_no_claim_stands_the_wrong_way_round_against_the_papers_own_tables(claim):
    for better, worse in claim.pairs:
        differences = list(papers_differences(claim, better, worse))
        assert sum(d > 0 for d in differences) > sum(d < 0 for d in differences), (better, worse)


def test_the_papers_own_table_5_keeps_the_bounds_on_its_standard_deviations():
    spread = {column: cell.number for (row, column), cell in paper_table(5).items() if row == "StdDev"}
    highs = {claim.key: claim.high for claim in MEASURED}
    assert max(value for column, value in spread.items() if "TREC" in column) <= highs["steady-graded"]
    assert spread["MSMARCO DEV MRR@10"] <= highs["steady-dev"]


def test_the_papers_own_table_7_has_doct5querys_letters_and_almost_all_results_improved_by_fusion():
    printed = {key: cell for key, cell in paper_table(7).items() if "@" in key[1]}
    letters = [cell.markers for (row, _), cell in printed.items() if row == PIPELINES["d2q"][1]]
    assert ENOUGH["most"](letters.count("b"), len(letters))
    fused, alone = (
        [c.number for (row, _), c in printed.items() if row == PIPELINES[k][1]] for k in ("d2q+tas_b", "tas_b")
    )
    up = sum(a > b for a, b in zip(fused, alone, strict=True))
    assert (up, len(fused)) == (8, 9) and ENOUGH["all but one"](up, len(fused))


def test_the_papers_own_numbers_keep_the_bounds_on_times_and_on_mono_duo():
    bounds = {claim.key: (claim.low, claim.high) for claim in MEASURED}
    ms = {key: cell.number for key, cell in paper_table(1).items()}
    one, ten = (ms[f"Batch size {size}", "Total Avg."] for size in (1, 10))
    assert one <= bounds["fast"][1] and ten / one <= bounds["ten"][1]
    assert ms["Batch size 1", "Total 99th Per."] / one <= bounds["tail"][1]
    table = {key: cell.number for key, cell in paper_table(7).items()}
    fused, alone = (table[PIPELINES[key][1], "Latency (ms)"] for key in ("d2q+tas_b", "tas_b"))
    assert fused - alone == bounds["merging"][1]
    graded = [f"TREC-DL'{year} {measure}@10" for year in (19, 20) for measure in ("nDCG", "MRR")]
    bm25, d2q, tas = (mean(table[PIPELINES[f"{k}>mono>duo"][1], c] for c in graded) for k in ("bm25", "d2q", "tas_b"))
    assert (bm25 + d2q) / 2 - tas >= bounds["high-words"][0]


# --- the rules -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("difference", "spread", "p", "adjusted", "expected"),
    [
        (0.021, 0.01, 0.001, 0.049, 2),  # beyond .02, and p after Holm below .05
        (0.021, 0.01, 0.001, 0.051, 1),  # beyond, p only before Holm
        (0.021, 0.01, 0.9, 1.0, 1),  # beyond, p never
        (0.019, 0.01, 0.001, 0.001, 1),  # p only
        (0.019, 0.01, 0.051, 1.0, 0),  # neither
        (0.0, 0.0, 1.0, 1.0, 0),
        (-0.019, 0.01, 0.051, 1.0, 0),
        (-0.019, 0.01, 0.049, 1.0, -1),
        (-0.021, 0.01, 0.001, 0.049, -2),
    ],
)
def test_a_difference_is_as_strong_as_the_rulers_that_see_it(difference, spread, p, adjusted, expected):
    assert claims.strength(difference, spread, p, adjusted) == expected


@pytest.mark.parametrize(
    ("strengths", "need", "expected"),
    [
        ([2, 2, 0], "most", "holds"),
        ([2, 2, 0], "all", "same direction"),
        ([2, 2, 0], "two thirds", "holds"),
        ([2, 1, 0], "two thirds", "same direction"),
        ([2, 2, 2], "all", "holds"),
        ([2, 2, 2, 0], "all but one", "holds"),
        ([2, 2, 0, 0], "all but one", "same direction"),
        ([2, 2, 2, -1], "all but one", "same direction"),
        ([2, 2, 0, 0], "most", "same direction"),  # half are clear, which is not most
        ([2, 2, 2, -1], "most", "same direction"),  # most are clear, but one is down; 3 up less 1 is half of 4
        ([2, 2, -1], "most", "no difference"),  # 2 up less 1 is a third
        ([1, 1, 1], "most", "same direction"),
        ([1, 0, 0], "most", "no difference"),
        ([0, 0, 0], "all", "no difference"),
        ([1, -1, 2, -2], "most", "no difference"),
        ([-1, 0, 0], "most", "no difference"),
        ([-1, -1, 0], "most", "does not hold"),
        ([-2, -2, 2, -1], "most", "does not hold"),  # 3 down less 1 up is half of 4
    ],
)
def test_a_better_than_claim_by_its_columns(strengths, need, expected):
    assert claims.of_difference(strengths, need) == expected


@pytest.mark.parametrize(
    ("strengths", "need", "expected"),
    [
        ([0, 0, 1], "most", "holds"),
        ([0, 0, -1], "most", "holds"),
        ([0, 0, 0], "all", "holds"),
        ([0, 0, 1], "all", "does not hold"),
        ([0, 0, 2], "most", "same direction"),
        ([0, 0, -2], "most", "same direction"),
        ([0, 1, -1], "most", "does not hold"),
        ([0, 0, 1, 1], "most", "does not hold"),
    ],
)
def test_an_as_good_as_claim_by_its_columns(strengths, need, expected):
    assert claims.of_no_difference(strengths, need) == expected


def test_columns_are_those_of_every_graded_set_and_of_the_first_other_one():
    columns = claims.columns_of("the columns of Tables 3 and 5", EVALUATION)
    printed = [f"{test.label} {measure}" for test, measure in columns]
    assert printed == ["A nDCG@10", "B nDCG@10", "A R(rel=2)@100", "B R(rel=2)@100", "Dev RR@10", "Dev R@100"]
    assert len(claims.columns_of("all columns", EVALUATION)) == 9


# --- judging -------------------------------------------------------------------------------------------------------

LEVELS = dict.fromkeys(paper_claims.SYSTEMS, 0.50) | {
    "dual/tas_balanced/seed2": 0.501,
    "dual/tas_balanced/seed3": 0.499,
    "dual/tas_balanced/seed4": 0.5005,
    "dual/tas_balanced/seed5": 0.4995,
}
# five orders: deviations 0, .001, -.001, .0005, -.0005; their squares sum to 2.5e-6, over 4 is 6.25e-7
SPREAD = math.sqrt(6.25e-7)


def scores_of(levels, evaluation=EVALUATION, n=40):
    """Every system's value around its level in every column, up and down in a rhythm of its own."""
    found = {}
    for row, (key, level) in enumerate(levels.items(), 2):
        wave = [0.001 * (i % row) for i in range(n)]
        values = {f"q{i}": level + w - mean(wave) for i, w in enumerate(wave)}
        found[key] = {
            test.name: dict.fromkeys(metrics.paper_measures(test.binarise_at, evaluation.depth)[:3], values)
            for test in evaluation.sets
        }
    return found


def test_equal_systems_make_no_difference_and_as_good_as_claims_hold():
    verdicts = by_key(claims.judge(scores_of(LEVELS), {}, EVALUATION))
    assert {verdicts[c.key].verdict for c in COMPARED if " > " in c.systems} == {"no difference"}
    assert {verdicts[c.key].verdict for c in COMPARED if " = " in c.systems} == {"holds"}
    assert verdicts["tas-pairwise"].found == "3 and 2: unseen in 9 of 9, clear in 0"
    cell = verdicts["best"].cells[0]
    assert (cell.better, cell.worse, cell.column) == ("dual/tas_balanced", "pairwise/tas_balanced", "A nDCG@10")
    assert (cell.difference, cell.spread) == (pytest.approx(0, abs=1e-12), pytest.approx(SPREAD))


def test_a_system_that_is_far_better_is_clear_in_every_column():
    verdicts = by_key(claims.judge(scores_of(LEVELS | {"labels": 0.4, "dual/tas_balanced/fewer": 0.6}), {}, EVALUATION))
    assert verdicts["labels"].verdict == verdicts["pairwise"].verdict == verdicts["balanced-labels"].verdict == "holds"
    assert verdicts["dense"].verdict == "does not hold"  # 1 is below BM25, whatever 2 and 5 are
    assert verdicts["dense"].found.startswith("1 and bm25: up in 0 of 9, clearly in 0, down in 9; 2 and bm25: up in 0")
    assert verdicts["clusters"].verdict == "does not hold"


def test_several_comparisons_are_worth_as_much_as_the_weakest():
    verdicts = by_key(claims.judge(scores_of(LEVELS | {"pairwise/tas_balanced": 0.4}), {}, EVALUATION))
    assert verdicts["best"].verdict == "no difference"  # 10 beats 4 clearly, and is as good as 7
    strengths = [cell.strength for cell in verdicts["best"].cells]
    assert strengths == [2] * 9 + [0] * 9


def sampled(scores, keys, queries):
    """The same scores, but of these systems on these queries of the dev set only."""
    few = {key: {measure: {q: values[q] for q in queries} for measure, values in scores[key]["dev"].items()}
           for key in keys}  # fmt: skip
    return scores | {key: scores[key] | {"dev": of_sample} for key, of_sample in few.items()}


RERANKED = [key for key in PIPELINES if ">" in key]


def test_a_sample_is_compared_on_its_own_queries_by_both_rulers():
    sample = [f"q{i}" for i in range(7, 17)]
    scores = sampled(scores_of(LEVELS | {"bm25>duo": 0.51}), RERANKED, sample)
    verdicts = by_key(claims.judge(scores, {}, EVALUATION))
    cells = {(c.better, c.worse, c.column): c for v in verdicts.values() for c in v.cells}
    cell = cells["bm25>duo", "bm25", "Dev nDCG@10"]
    ndcg = next(iter(scores["bm25"]["dev"]))
    values = {key: [scores[key]["dev"][ndcg][query] for query in sample] for key in ("bm25>duo", "bm25", *ORDERS)}
    assert cell.difference == pytest.approx(mean(values["bm25>duo"]) - mean(values["bm25"]))
    assert cell.p == pytest.approx(ttest_rel(values["bm25>duo"], values["bm25"]).pvalue)
    assert cell.spread == pytest.approx(stdev(mean(values[key]) for key in ORDERS))
    assert cell.spread != pytest.approx(SPREAD, rel=1e-3)  # which is that of all forty
    # whole sets stay whole: both systems, or the column, were not sampled
    whole = by_key(claims.judge(scores_of(LEVELS | {"bm25>duo": 0.51}), {}, EVALUATION))
    assert [c[:6] for c in verdicts["low-latency"].cells] == [c[:6] for c in whole["low-latency"].cells]
    assert cells["bm25>duo", "bm25", "A nDCG@10"].spread == pytest.approx(SPREAD)
    # two samples of the same queries are compared like any two systems
    assert len(verdicts["medium"].cells) == 4 * 6


def test_a_sample_of_queries_that_the_other_system_lacks_is_refused():
    scores = scores_of(LEVELS)
    dev = {measure: {"q0": 0.5, "q99": 0.5} for measure in scores["bm25>duo"]["dev"]}
    with pytest.raises(ValueError, match="needs the same queries"):
        claims.judge(scores | {"bm25>duo": scores["bm25>duo"] | {"dev": dev}}, {}, EVALUATION)


def test_pipelines_are_judged_like_systems():
    levels = LEVELS | {key: 0.6 for key in PIPELINES if key.endswith(">duo")} | {"tas_b>mono>duo": 0.59, "d2q": 0.52}
    verdicts = by_key(claims.judge(sampled(scores_of(levels), RERANKED, [f"q{i}" for i in range(20)]), {}, EVALUATION))
    found = {key: verdicts[key].verdict for key in ("slower", "duo", "expanded", "fusion", "low-latency", "high-dev")}
    assert found == {
        "slower": "holds",
        "duo": "holds",
        "expanded": "holds",
        "fusion": "no difference",
        "low-latency": "does not hold",  # 18 is as good as BM25, and worse than docT5query
        "high-dev": "does not hold",  # 18 is worse than BM25, whatever the fused run is
    }
    assert verdicts["high-graded"].verdict == "does not hold"
    assert verdicts["high-words"].verdict == "holds"
    some = verdicts["duo"].found
    assert some.startswith("bm25>duo and bm25: up in 6 of 6, clearly in 6, down in 0; d2q>duo and d2q: up in 6 of 6")


def test_holms_correction_is_for_all_comparisons_of_the_table_each_counted_once():
    frame = claims.frame(
        claims.judge(scores_of(LEVELS | {"labels": 0.4993, "in_batch/tas_balanced": 0.5004}), {}, EVALUATION)
    ).dropna()
    once = frame.drop_duplicates(["better", "worse", "column"]).sort_values("p")
    assert len(once) < len(frame)
    highest = 0.0
    for rank, (p, adjusted) in enumerate(zip(once.p, once.adjusted, strict=True)):
        highest = max(highest, p * (len(once) - rank))
        assert adjusted == pytest.approx(min(1.0, highest))
    assert (frame.groupby(["better", "worse", "column"]).adjusted.nunique() == 1).all()


def test_what_was_not_run_is_said_and_does_not_count_among_the_tests():
    scores = scores_of(LEVELS | {"labels": 0.4993})
    few = {**scores, "dual/tas_balanced/fewer": {}, "dual/tas_balanced/lambdarank": {}}
    verdicts, all_there = by_key(claims.judge(few, {}, EVALUATION)), by_key(claims.judge(scores, {}, EVALUATION))
    assert (verdicts["clusters"].verdict, verdicts["clusters"].found) == ("not run", "without 20")
    without = {claim.key for claim in COMPARED if verdicts[claim.key].verdict == "not run"}
    assert without == {"clusters", "margin-mse", "margin-mse-recall", "list-losses"}
    # system 1 stands a little lower: the fewer tests, the less is its p corrected
    assert verdicts["pairwise"].cells[0].p == all_there["pairwise"].cells[0].p
    assert verdicts["pairwise"].cells[0].adjusted < all_there["pairwise"].cells[0].adjusted < 1


def test_without_the_five_orders_there_is_no_ruler_and_no_comparison():
    scores = scores_of(LEVELS)
    del scores["dual/tas_balanced/seed5"]
    verdicts = by_key(claims.judge(scores, {}, EVALUATION))
    # equal systems gain nothing; to say so, no ruler is needed
    assert [(key, v.verdict) for key, v in verdicts.items() if v.verdict != "not run"] == [
        ("others-recall", "does not hold"),
        ("high-words", "holds"),
    ]
    assert verdicts["labels"].found == "without 17"


def test_nothing_run_is_not_run_and_no_column_is_no_verdict():
    assert {v.verdict for v in claims.judge({}, {}, EVALUATION)} == {"not run"}
    no_dev = Evaluation(sets=EVALUATION.sets[1:3], depth=100)
    verdicts = by_key(claims.judge(scores_of(LEVELS, no_dev), {}, no_dev))
    assert (verdicts["batch-dev"].verdict, verdicts["batch-dev"].found) == ("not run", "no such column")
    assert verdicts["batch-graded"].verdict == "holds"


def test_facts_that_follow_from_scores_by_hand():
    facts = claims.from_scores(
        scores_of(LEVELS | {"dual/random": 0.4992, "pairwise/random": 0.40, "in_batch/random": 0.25}), EVALUATION
    )
    assert facts["largest standard deviation of nDCG and recall, graded sets"] == pytest.approx(SPREAD)
    assert facts["standard deviation of MRR, dev set"] == pytest.approx(SPREAD)
    assert facts["mean standard deviation, graded sets less dev"] == pytest.approx(0, abs=1e-12)
    # 8 lies at .4992: below four of the orders, above the one at .499
    assert facts["share of orders and columns in which it is above random batches"] == pytest.approx(4 / 5)
    assert facts["mean nDCG and MRR under mono-duo-T5, bm25 and d2q less tas_b"] == pytest.approx(0, abs=1e-12)
    # every measure gains .50 / .40 - 1 over the better of the two
    assert facts["relative gain in recall less that in nDCG or MRR, graded sets"] == pytest.approx(0, abs=1e-9)


def test_the_spread_of_dev_is_taken_from_that_of_the_graded_sets():
    scores = scores_of(LEVELS)
    for key in ORDERS:
        scores[key]["dev"] = scores["dual/tas_balanced"]["dev"]  # on dev, every order is the same
    facts = claims.from_scores(scores, EVALUATION)
    assert facts["standard deviation of MRR, dev set"] == 0
    assert facts["mean standard deviation, graded sets less dev"] == pytest.approx(SPREAD)


def test_the_relative_gain_in_recall_is_against_the_best_rival_and_the_larger_other_gain():
    scores = scores_of(LEVELS | {"pairwise/random": 0.40, "in_batch/random": 0.25})
    ndcg, rr, recall = scores["dual/tas_balanced"]["a"]
    for test in ("a", "b"):
        scores["in_batch/random"][test] = scores["in_batch/random"][test] | {
            recall: dict.fromkeys(scores["in_batch/random"][test][recall], 0.45)
        }
        scores["dual/tas_balanced"][test] = scores["dual/tas_balanced"][test] | {
            rr: dict.fromkeys(scores["dual/tas_balanced"][test][rr], 0.44)
        }
    # recall .50 over .45; nDCG .50 over .40; MRR .44 over .40
    gained = claims.from_scores(scores, EVALUATION)["relative gain in recall less that in nDCG or MRR, graded sets"]
    assert gained == pytest.approx((0.50 / 0.45 - 1) - (0.50 / 0.40 - 1))


def test_mono_duo_over_words_is_their_mean_less_that_over_tas_balanced():
    fact = "mean nDCG and MRR under mono-duo-T5, bm25 and d2q less tas_b"
    scores = scores_of(LEVELS | {"bm25>mono>duo": 0.53, "d2q>mono>duo": 0.45, "tas_b>mono>duo": 0.48})
    for key in ("dev", "more"):
        scores["tas_b>mono>duo"][key] = {}  # only the graded sets are looked at
    assert claims.from_scores(scores, EVALUATION)[fact] == pytest.approx((0.53 + 0.45) / 2 - 0.48)
    assert fact not in claims.from_scores(scores | {"d2q>mono>duo": {}}, EVALUATION)


def test_shares_of_cutoffs_by_hand():
    recall = {
        "bm25": [0.1, 0.2, 0.3, 0.4],
        "d2q": [0.2, 0.3, 0.4, 0.3],
        "pairwise/random": [0.3, 0.2, 0.5, 0.5],  # above both at the first, third and fourth
        "in_batch/random": [0.2, 0.4, 0.3, 0.2],  # at the second; at the first they are equal, which is not above
        "tas_b": [0.3, 0.4, 0.6, 0.4],  # above the two at the first three, above all four at the third only
        "d2q+tas_b": [0.4, 0.4, 0.7, 0.5],  # at the second 18 has as much
    }
    shares = {
        "share of cutoffs at which tas_b is above bm25 and d2q": 3 / 4,
        "larger share of cutoffs at which pairwise/random or in_batch/random is above bm25 and d2q": 3 / 4,
        "share of cutoffs at which tas_b is above bm25, d2q, pairwise/random and in_batch/random": 1 / 4,
        "share of cutoffs at which d2q+tas_b is above d2q and tas_b": 3 / 4,
    }
    assert claims.from_recall(recall) == shares
    assert set(claims.RECALL) == set(recall)
    del recall["pairwise/random"]
    fewer = claims.from_recall(recall)
    assert [fact for fact in shares if fact not in fewer] == [fact for fact in shares if " 2 " in fact]
    assert claims.from_recall({"tas_b": [0.5], "bm25": [0.1]}) == {}


def test_every_cutoff_is_every_cutoff():
    verdicts = by_key(claims.judge({}, dict.fromkeys(claims.ABOVE, 53 / 54), EVALUATION))
    found = [verdicts[key].verdict for key in ("every-cutoff", "every-method", "first-dense", "strengths")]
    assert found == ["does not hold", "does not hold", "holds", "holds"]
    verdicts = by_key(claims.judge({}, dict.fromkeys(claims.ABOVE, 1.0), EVALUATION))
    assert [verdicts[key].verdict for key in ("every-cutoff", "first-dense")] == ["holds", "does not hold"]


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0.33, "holds"), (3, "holds"), (0.3299, "does not hold"), (3.001, "does not hold"), (math.nan, "not run")],
)
def test_a_number_holds_within_its_bounds_and_on_them(number, expected):
    fact = next(claim.fact for claim in MEASURED if claim.key == "one-range")
    assert by_key(claims.judge({}, {fact: number}, EVALUATION))["one-range"].verdict == expected


def test_a_number_that_no_claim_is_about_is_refused():
    with pytest.raises(ValueError, match="no claim is about 'share of something'"):
        claims.judge({}, {"share of something": 1.0}, EVALUATION)


# --- writing -------------------------------------------------------------------------------------------------------


def test_the_table_has_every_claim_once_under_its_verdict(tmp_path):
    verdicts = claims.judge(scores_of(LEVELS | {"labels": 0.4}), {}, EVALUATION)
    md, csv = claims.write(verdicts, tmp_path)
    text = md.read_text()
    heads = re.findall(r"^\*\*(.*): (\d+) of 67\*\*$", text, flags=re.MULTILINE)
    assert [head.lower() for head, _ in heads] == list(claims.VERDICTS)
    assert sum(int(n) for _, n in heads) == len(CLAIMS)
    for claim in CLAIMS:
        assert text.count(f"| {claim.words} | §{claim.section} |") == 1
    block = text.split("**Holds")[1].split("**Same direction")[0]
    assert "| Labels alone teach less than any teacher | §2.4 | 2 > 1, 5 > 1, 8 > 1, in most of: all columns |" in block
    found = pd.read_csv(csv, dtype=str, keep_default_na=False)
    assert set(found.claim) == {claim.key for claim in CLAIMS}
    assert len(found) == sum(max(1, len(verdict.cells)) for verdict in verdicts)
    cell = found[(found.claim == "labels") & (found.better == "pairwise/random") & (found.column == "A nDCG@10")].iloc[
        0
    ]
    assert (cell.verdict, cell.worse, cell.difference, cell.strength) == ("holds", "labels", "0.1", "pairwise/random")
    again = claims.write(claims.judge(scores_of(LEVELS | {"labels": 0.4}), {}, EVALUATION), tmp_path / "again")
    assert [path.read_bytes() for path in again] == [md.read_bytes(), csv.read_bytes()]


def test_notebook_13_measures_every_number_that_does_not_follow_from_scores():
    text = (ROOT / "notebooks" / "src" / "13_claims.py").read_text(encoding="utf-8")
    scored = claims.from_scores(scores_of(LEVELS), EVALUATION)
    assert len(scored) == 6 and "claims.from_recall(" in text
    elsewhere = [claim.fact for claim in MEASURED if claim.fact not in {*scored, *claims.ABOVE}]
    assert [fact for fact in elsewhere if f'"{fact}"' not in text] == []


def test_orders_are_table_5s_five():
    assert len(ORDERS) == len({row for row, _ in paper_table(5)} - {"Avg.", "StdDev"}) == 5
