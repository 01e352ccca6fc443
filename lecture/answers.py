"""The Answer of a notebook: sentences about the values of this run, grammatical whatever these are."""

from collections import Counter
from collections.abc import Iterable
from statistics import fmean
from typing import NamedTuple

from IPython.display import Markdown

from tas_lib.config import Evaluation
from tas_lib.evaluation.columns import Column, nine_columns
from tas_lib.evaluation.comparisons import MARGIN, Scores, estimate, pair, ran, repeated
from tas_lib.evaluation.metrics import mean, printed_name
from tas_lib.evaluation.significance import Estimate
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
    """Compares systems on the graded test sets, or on all sets where none is graded: means over the sets."""

    scores: Scores
    evaluation: Evaluation
    families: Families = ALONE

    def columns(self, name: str) -> list[Column]:
        """nDCG, RR or R on the test sets that are compared."""
        sets = [test.name for test in self.evaluation.sets if test.graded] or [t.name for t in self.evaluation.sets]
        nine = nine_columns(self.evaluation, self.families)
        return [column for column in nine if column.test_set in sets and name == column.measure.NAME]

    @property
    def note(self) -> str:
        """Which queries the sentences are about, and what their intervals cover."""
        columns = self.columns("nDCG")
        several = [len(runs) for runs in repeated(self.scores, columns).values() if len(runs) > 1]
        chance = "in queries, not in random seeds"
        if several:
            systems = f"{len(several)} systems" if len(several) > 1 else "one system"
            chance = f"in queries and in random seeds, as seen in {sum(several)} runs of {systems}"
        where = ("the mean over " if len(columns) > 1 else "") + listed(column.label for column in columns)
        return f"Changes are in {where}, rounded last; in parentheses, {SHARE:.0%} intervals covering chance {chance}."

    def ran(self, *keys: str) -> bool:
        """Whether these systems were run on all the sets that are compared."""
        return ran(self.scores, keys, self.columns("nDCG"))

    def estimate(self, old: str, new: str, name: str) -> Estimate:
        """What the measure of this name gains from one system to another."""
        return estimate(self.scores, (new, old), self.columns(name))

    def step(self, lead: str, old: str, new: str, *names: str) -> str:
        """A sentence: what the measures of these names do from one system to another; `lead` says what changes."""
        if missing := [f"`{key}`" for key in (old, new) if not self.ran(key)]:
            return f"{lead}: not run, missing {listed(missing)}."
        clauses = []
        for name in names:
            columns, found = self.columns(name), self.estimate(old, new, name)
            before = fmean(map(mean, pair(self.scores, (new, old), columns).theirs))
            moved = change(before, before + found.difference)
            clauses.append(f"{printed_name(columns[0].measure)} {moved} ({interval(found)})")
        return f"{lead}, {listed(clauses)}."

    def tally(self, pairs: Iterable[tuple[str, str]], *names: str) -> str:
        """The verdicts on (old, new) pairs, set by set and measure by measure, counted in words."""
        ones = [self.evaluation.model_copy(update={"sets": (test,)}) for test in self.evaluation.sets]
        tellers = [self._replace(evaluation=one) for one in ones]
        tests = [(teller, *keys, name) for keys in pairs for teller in tellers if teller.ran(*keys) for name in names]
        verdicts = Counter(verdict(teller.estimate(*test)) for teller, *test in tests)
        return listed(f"{n} of {len(tests)} {words}" for words, n in verdicts.most_common()) if tests else "not run"
