"""The Answer of a notebook: sentences about the values of this run, grammatical whatever these are."""

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from IPython.display import Markdown
from ir_measures import Measure

from tas_lib.config import Evaluation, TestSet
from tas_lib.evaluation.comparisons import MARGIN, SEEDS, Scores, trained_apart
from tas_lib.evaluation.metrics import paper_measures, printed_name
from tas_lib.evaluation.significance import Estimate, paired
from tas_lib.records import ALONE, Families
from tas_lib.report.render import decimals, signed

SHARE, EQUAL = 0.95, f"equal within {decimals(MARGIN, 2)}"


def say(*sentences: str) -> Markdown:
    """The sentences as a list."""
    return Markdown("\n".join(f"- {sentence}" for sentence in sentences))


def listed(words: Iterable[str]) -> str:
    """An enumeration.

    >>> listed(["a", "b", "c"]), listed(["a"]), listed([])
    ('a, b and c', 'a', 'none')
    """
    *others, last = [*words] or ["none"]
    return f"{', '.join(others)} and {last}" if others else last


def change(old: float, new: float) -> str:
    """What a value does, as a predicate, with the tables' digits.

    >>> change(0.403, 0.415), change(0.415, 0.403), change(0.403, 0.4031)
    ('rises by .012, from .403 to .415', 'falls by .012, from .415 to .403', 'stays at .403')
    """
    moves = f"by {decimals(abs(new - old))}, from {decimals(old)} to {decimals(new)}"
    return f"stays at {decimals(old)}" if " .000," in moves else f"{'rises' if new > old else 'falls'} {moves}"


def verdict(found: Estimate) -> str:
    """What the interval says; a clear difference can be smaller than the margin."""
    side, equal = "above" if found.difference > 0 else "below", EQUAL if found.within(MARGIN) else ""
    if abs(found.difference) > found.reach(SHARE):
        return f"{side} zero" + (f" but {equal}" if equal else "")
    return equal or "no difference shown"


def interval(found: Estimate) -> str:
    """The interval of a difference, infinite where its error is unknown, and its verdict."""
    ends = [signed(found.difference + side) for side in (-found.reach(SHARE), found.reach(SHARE))]
    return f"{' to '.join(ends)}: {verdict(found)}"


class Teller(NamedTuple):
    """Compares systems on the queries of all graded test sets together, or of all sets where none is graded."""

    scores: Scores
    evaluation: Evaluation
    families: Families = ALONE

    @property
    def sets(self) -> Sequence[TestSet]:
        """The test sets that are compared."""
        return [test for test in self.evaluation.sets if test.graded] or self.evaluation.sets

    def measure(self, name: str, test: TestSet) -> Measure:
        """nDCG, RR or R as the tables have it on a test set."""
        return next(m for m in paper_measures(test.binarise_at, self.evaluation.depth) if name == m.NAME)

    @property
    def note(self) -> str:
        """Which queries the sentences are about, and what their intervals cover."""
        where, seeds = listed(test.label for test in self.sets), all(map(self.scores.get, SEEDS))
        chance = "of queries and of random seeds" if seeds else "of queries, not of random seeds"
        return f"Changes are on {where}; in parentheses their {SHARE:.0%} interval, for the chance {chance}."

    def values(self, key: str, name: str) -> dict[str, float]:
        """Set and query → value of the measure of this name; {} unless the system was run on all the sets."""
        ran = [(t.name, self.scores.get(key, {}).get(t.name, {}).get(self.measure(name, t), {})) for t in self.sets]
        return {f"{s} {q}": value for s, of_set in ran for q, value in of_set.items()} if all(v for _, v in ran) else {}

    def estimate(self, old: str, new: str, name: str) -> tuple[float, float, Estimate]:
        """Both means and their difference, on the queries of both; with the chance of the seeds if all were run."""
        before, after = self.values(old, name), self.values(new, name)
        shared, seeds = sorted(before.keys() & after.keys()), [self.values(key, name) for key in SEEDS]
        n, of_sets = len(self.families), enumerate(self.families.items())
        families = {f"{s} {q}": n * label + i for i, (s, of_set) in of_sets for q, label in of_set.items()}
        old_values, new_values = ({query: values[query] for query in shared} for values in (before, after))
        found = paired(new_values, old_values, families)
        if all(seeds):
            deviation = stdev(fmean(values[query] for query in shared) for values in seeds)
            found = found.with_seeds(deviation, trained_apart(new, old))
        return fmean(old_values.values()), fmean(new_values.values()), found

    def step(self, lead: str, old: str, new: str, *names: str) -> str:
        """A sentence: what the measures of these names do from one system to another; `lead` says what changes."""
        if missing := [f"`{key}`" for key in (old, new) if not self.values(key, names[0])]:
            return f"{lead}: not run, without {listed(missing)}."
        clauses = []
        for name in names:
            before, after, found = self.estimate(old, new, name)
            label = printed_name(self.measure(name, self.sets[0]))
            clauses.append(f"{label} {change(before, after)} ({interval(found)})")
        return f"{lead}, {listed(clauses)}."

    def tally(self, pairs: Iterable[tuple[str, str]], *names: str) -> str:
        """The verdicts on (old, new) pairs, set by set and measure by measure, counted in words."""
        ones = [self.evaluation.model_copy(update={"sets": (test,)}) for test in self.evaluation.sets]
        tests = [(self._replace(evaluation=one), *pair, name) for pair in pairs for one in ones for name in names]
        tests = [test for test in tests if all(test[0].values(key, test[3]) for key in test[1:3])]
        verdicts = Counter(verdict(teller.estimate(*test)[2]) for teller, *test in tests)
        return listed(f"{n} of {len(tests)} {words}" for words, n in verdicts.most_common()) if tests else "not run"
