"""The sentences of an Answer: grammatical and true for every outcome."""

import math
from statistics import stdev

import numpy as np
import pytest

from lecture import answers
from tas_lib.config import Evaluation, TestSet
from tas_lib.evaluation.comparisons import SEEDS
from tas_lib.evaluation.metrics import PerQuery, paper_measures
from tas_lib.evaluation.significance import Estimate, combined, paired

SETS = (*(TestSet(name=name, label=f"Set {name.upper()}", binarise_at=2, graded=True) for name in "ab"),
        TestSet(name="dev", label="Dev"))  # fmt: skip
EVALUATION = Evaluation(sets=SETS, depth=100)
NOISE = {test.name: np.random.default_rng(i).normal(0, 0.1, 30) for i, test in enumerate(SETS)}
FAMILIES = {test.name: {f"q{i}": i // 3 for i in range(30)} for test in SETS}


def system(level: float, noise: float = 0.0) -> dict[str, PerQuery]:
    """A system whose every measure has this mean; `noise` is what chance among queries adds."""
    of_set = {name: {f"q{i}": level + noise * x for i, x in enumerate(xs - xs.mean())} for name, xs in NOISE.items()}
    return {t.name: {m: of_set[t.name] for m in paper_measures(t.binarise_at, 100)} for t in SETS}


SCORES = {"old": system(0.403), "better": system(0.415, 0.1), "worse": system(0.391, 0.1), "open": system(0.415, 1.0),
          "equal": system(0.4031, 0.01), "little": system(0.408, 0.01), "none": {}}  # fmt: skip


@pytest.mark.parametrize(
    ("new", "says", "concludes"),
    [
        ("better", "rises by .012, from .403 to .415 (+.0", ": above zero)."),
        ("worse", "falls by .012, from .403 to .391 (-.0", ": below zero)."),
        ("open", "rises by .012, from .403 to .415 (-.0", ": no difference shown)."),
        ("equal", "stays at .403 (-.000 to +.000", ": equal within .01)."),
        ("little", "rises by .005, from .403 to .408 (+.00", ": above zero but equal within .01)."),
    ],
)
def test_a_step_says_what_changed_by_how_much_and_how_sure(new: str, says: str, concludes: str):
    sentence = answers.Teller(SCORES, EVALUATION).step("With the new one", "old", new, "nDCG")
    assert sentence.startswith(f"With the new one, nDCG@10 {says}") and sentence.endswith(concludes), sentence


def test_two_measures_are_one_sentence_and_a_missing_system_is_not_run():
    teller = answers.Teller(SCORES, EVALUATION)
    assert " zero) and R@100 rises by .012" in teller.step("So", "old", "better", "nDCG", "R")
    assert teller.step("With it", "old", "none", "nDCG") == "With it: not run, missing `none`."
    assert teller.step("With it", "no such", "none", "R") == "With it: not run, missing `no such` and `none`."
    partly = SCORES | {"none": {"a": SCORES["old"]["a"]}}  # a run on one of two graded sets
    assert "not run" in answers.Teller(partly, EVALUATION).step("With it", "old", "none", "nDCG")


def test_graded_sets_are_averaged_by_family_or_all_sets_where_none_is_graded():
    found = answers.Teller(SCORES, EVALUATION, FAMILIES).estimate("old", "open", "nDCG")
    of_sets = [paired({f"q{i}": 0.012 + x for i, x in enumerate(NOISE[name] - NOISE[name].mean())},
                      {f"q{i}": 0.0 for i in range(30)}, FAMILIES[name]) for name in "ab"]  # fmt: skip
    by_hand = combined(0.012, [(one.error**2 / 4, one.freedom) for one in of_sets])
    assert found == pytest.approx(by_hand) and 9 < found.freedom <= 18
    dev = answers.Teller(SCORES, Evaluation(sets=SETS[2:], depth=100))
    assert dev.estimate("old", "open", "RR").freedom == pytest.approx(29)
    assert dev.note.startswith("Changes are in Dev, rounded last; in parentheses, 95%")


def test_a_system_that_was_run_on_a_sample_is_compared_on_that_sample():
    sample = {m: {q: v for q, v in values.items() if q < "q2"} for m, values in SCORES["open"]["a"].items()}
    teller = answers.Teller({"old": SCORES["open"], "new": {"a": sample}}, Evaluation(sets=SETS[:1], depth=100))
    mean = np.mean([*sample[paper_measures(2, 100)[0]].values()])
    assert f"stays at {answers.decimals(mean)} (" in teller.step("So", "old", "new", "nDCG")


def test_the_chance_of_the_seeds_counts_where_several_were_run():
    levels = (0.40, 0.41, 0.42, 0.43, 0.44)
    alone = answers.Teller(SCORES, EVALUATION)
    teller = alone._replace(scores=SCORES | dict(zip(SEEDS, map(system, levels), strict=True)))
    without, found = (one.estimate("old", "better", "nDCG") for one in (alone, teller))
    assert found.error == pytest.approx(math.sqrt(without.error**2 + 2 * stdev(levels) ** 2))
    assert "no difference shown" in teller.step("With it", "old", "better", "nDCG")
    assert alone.note.endswith("queries, not in random seeds.")
    assert teller.note.endswith("in queries and in random seeds, as seen in 5 runs of one system.")


def test_a_tally_counts_verdicts_set_by_set_and_leaves_out_what_was_not_run():
    teller, pairs = answers.Teller(SCORES, EVALUATION), [("old", "better"), ("old", "open"), ("old", "none")]
    assert teller.tally(pairs, "nDCG", "R") == "6 of 12 above zero and 6 of 12 no difference shown"
    assert teller.tally(pairs[2:], "nDCG") == "not run"


def test_one_family_shows_nothing():
    assert answers.interval(Estimate(0.2, math.inf, math.inf)) == "-inf to +inf: no difference shown"


def test_sentences_are_a_list():
    assert answers.say("One.", "Two.").data == "- One.\n- Two."
