"""How much each step of Table 4 adds: here, in the paper and in the 2023 study; and with fewer training queries."""

from collections.abc import Mapping, Sequence
from itertools import product
from operator import itemgetter
from statistics import fmean
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from tas_lib.config import PAPERS_SETS, Evaluation
from tas_lib.evaluation.columns import nine_columns
from tas_lib.evaluation.comparisons import Scores, estimate, ran
from tas_lib.evaluation.metrics import printed_name
from tas_lib.evaluation.significance import Estimate
from tas_lib.records import Families
from tas_lib.report import compared
from tas_lib.report.paper import TABLE4, Printed, paper_table
from tas_lib.report.style import BLUE, GREY, INK, PAGE, VERMILION, house_style

TEACHERS = {"Pairwise": "pairwise", "In-batch": "in_batch", "Both": "dual"}
STEPS = {
    "Labels → pairwise": ("labels", "pairwise/random"),
    "Pairwise → in-batch": ("pairwise/random", "in_batch/random"),
    "Pairwise → both": ("pairwise/random", "dual/random"),
    "In-batch → both": ("in_batch/random", "dual/random"),
    **{f"{name}: random → TAS": (f"{key}/random", f"{key}/tas") for name, key in TEACHERS.items()},
    **{f"{name}: TAS → TAS-Balanced": (f"{key}/tas", f"{key}/tas_balanced") for name, key in TEACHERS.items()},
}
"""Step → the systems before and after it: teachers with random batches, and samplings with each teacher."""
SIZED = {
    **{name: STEPS[name] for name in ("Labels → pairwise", "Pairwise → both")},
    "Both: random → TAS-Balanced": ("dual/random", "dual/tas_balanced"),
}
"""The steps that are also made with fewer training queries, and with fewer and more training steps."""
COLOURS, MARKS = (BLUE, VERMILION, GREY), "oD^"


class Effect(NamedTuple):
    """A step in one measure, averaged over the test sets; None where it was not run or not printed."""

    step: str
    measure: str
    ours: Estimate | None
    others: Mapping[str, float | None]


def effects(scores: Scores, evaluation: Evaluation, families: Families) -> list[Effect]:
    """Every step in nDCG@10 and recall, with the chance of queries and, if it is known, of random seeds."""
    lines = []
    for measure, theirs in (("nDCG", "nDCG@10"), ("R", "R@1K")):
        columns = [column for column in nine_columns(evaluation, families) if measure == column.measure.NAME]
        sets = [f"{name} {theirs}" for name in PAPERS_SETS]
        name = printed_name(columns[0].measure)
        name += f" (theirs {theirs})" if name != theirs else ""
        for step, (before, after) in STEPS.items():
            both = ran(scores, (before, after), columns)
            ours = estimate(scores, (after, before), columns) if both else None
            lines.append(Effect(step, name, ours, _others((before, after), sets)))
    return lines


def _others(pair: tuple[str, str], columns: Sequence[str]) -> dict[str, float | None]:
    """The same step in the paper and in the 2023 study, averaged over their three sets."""
    table, result = paper_table(4), dict[str, float | None]()
    printed = {(key, "", "paper", column): table[TABLE4[key].paper, column].value for key in pair for column in columns}
    printed = compared.others() | printed
    for source in ("paper", "2023 study"):
        found = ([printed.get((key, "", source, column), "") for column in columns] for key in pair)
        values = [[Printed(figure, "").number for figure in figures] for figures in found]
        steps = [b - a for a, b in zip(*values, strict=True) if a is not None and b is not None]
        result[source] = fmean(steps) if len(steps) == len(columns) else None
    return result


@house_style
def forest(found: Sequence[Effect]) -> Figure:
    """A panel per measure and a line per step: our mean with its 95 % interval, the paper's, the 2023 study's.

    In points, hundredths of the measure.
    """
    measures, steps = (list(dict.fromkeys(effect[i] for effect in found)) for i in (1, 0))
    figure = Figure((PAGE, 3.4), layout="constrained")
    axes = figure.subplots(1, len(measures), sharey=True, squeeze=False)
    for ax, measure in zip(axes[0], measures, strict=True):
        ax.axvline(0, color=INK, linewidth=0.6)
        for first in (4, 7):  # between teachers, TAS and balancing
            ax.axhline(first - 0.5, color=GREY, linewidth=0.4)
        for effect in [effect for effect in found if effect.measure == measure]:
            y, values = steps.index(effect.step), effect.others.values()
            if effect.ours:
                half = 100 * effect.ours.reach(0.95)
                ax.errorbar(100 * effect.ours.difference, y - 0.15, xerr=half, fmt=MARKS[0], color=COLOURS[0], ms=4)
            for value, colour, mark in zip(values, COLOURS[1:], MARKS[1:], strict=True):
                if value is not None:
                    ax.plot(100 * value, y + 0.2, mark, color=colour, markersize=4, fillstyle="none")
        ax.set(xlabel=f"{measure}, points, mean over sets", ylim=(len(steps) - 0.4, -0.6))
        ax.set_yticks(range(len(steps)), steps)
    axes[0, 0].set_ylabel("Step in Table 4")
    names = ("here, with its 95 % interval", *(f"the {source}" for source in found[0].others))
    handles = [
        Line2D([], [], linestyle="", marker=mark, color=colour, markersize=4, label=name)
        for name, colour, mark in zip(names, COLOURS, MARKS, strict=True)
    ]
    for hollow in handles[1:]:
        hollow.set_fillstyle("none")
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


class AtSize(NamedTuple):
    """A step in one measure, averaged over the test sets, for one number of training queries, or of training steps."""

    step: str
    measure: str
    size: int
    effect: Estimate


def at_sizes(scores: Scores, sizes: Mapping[str, int], evaluation: Evaluation, families: Families) -> list[AtSize]:
    """Each of `SIZED` at every size at which it was run. sizes: variant, "" for none → training queries, or steps."""
    lines = []
    by_size = sorted(sizes.items(), key=itemgetter(1))
    for measure, (step, pair), (variant, size) in product(("nDCG", "R"), SIZED.items(), by_size):
        columns = [column for column in nine_columns(evaluation, families) if measure == column.measure.NAME]
        before, after = (f"{key}/{variant}".strip("/") for key in pair)
        if ran(scores, (before, after), columns):
            effect = estimate(scores, (after, before), columns)
            lines.append(AtSize(step, printed_name(columns[0].measure), size, effect))
    return lines


@house_style
def size_curves(found: Mapping[str, Sequence[AtSize]]) -> Figure:
    """The effect of a step, in points with 95 % intervals, by the number of training queries or of training steps.

    found: name of the sizes → steps at these, a row of panels each; a column per measure.
    """
    measures = dict.fromkeys(line.measure for lines in found.values() for line in lines)
    figure = Figure((PAGE, 0.4 + 2 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), len(measures), sharey=True, squeeze=False)
    for (row, name), (column, measure) in product(enumerate(found), enumerate(measures)):
        for i, step in enumerate(SIZED):
            lines = [line for line in found[name] if (line.step, line.measure) == (step, measure)]
            at = [line.size * 1.05 ** (i - 1) for line in lines]  # side by side, not on top of each other
            middle = [100 * line.effect.difference for line in lines]
            half, ax = [100 * line.effect.reach(0.95) for line in lines], axes[row, column]
            ax.errorbar(at, middle, yerr=half, fmt=f"{MARKS[i]}-", color=COLOURS[i], ms=4, lw=0.8, label=step)
        ax.axhline(0, color=INK, linewidth=0.6)
        ax.set(xlabel=f"{name} (log axis)", ylabel=f"{measure}, points", xscale="log")
        ax.xaxis.set_major_locator(FixedLocator(sorted({line.size for line in found[name]})))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter("{x:,.0f}")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(SIZED))
    return figure
