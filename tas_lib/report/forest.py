"""The steps of Table 4 in one picture: how much each adds here, in the paper and in the 2023 study."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tas_lib.config import Evaluation
from tas_lib.evaluation.comparisons import SEEDS, Scores
from tas_lib.evaluation.metrics import mean, paper_measures, printed_name
from tas_lib.evaluation.significance import Estimate, paired
from tas_lib.records import Families
from tas_lib.report import compared
from tas_lib.report.paper import TABLE4, paper_table
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


COLOURS, MARKS = (BLUE, VERMILION, GREY), "oD^"


class Effect(NamedTuple):
    """A step in one measure, averaged over the test sets; None where it was not run or not printed."""

    step: str
    measure: str
    ours: Estimate | None
    others: Mapping[str, float | None]


def effects(scores: Scores, evaluation: Evaluation, families: Families) -> list[Effect]:
    """Every step in nDCG@10 and recall. Our error has the chance of queries and, if all were run, of Table 5's seeds.

    The test sets are independent, so the variances of their queries add up; a seed moves all sets together.
    """
    lines = []
    for place, theirs in ((0, "nDCG@10"), (2, "R@1K")):
        columns = [(test, paper_measures(test.binarise_at, evaluation.depth)[place]) for test in evaluation.sets]
        sets = [f"{name} {theirs}" for name in ("TREC-DL'19", "TREC-DL'20", "MSMARCO DEV")]
        seeds = [scores.get(key) for key in SEEDS]
        means = [fmean(mean(seed[test.name][m]) for test, m in columns) for seed in seeds if seed]
        deviation = stdev(means) if len(means) == len(SEEDS) else 0.0
        for step, pair in STEPS.items():
            ours = None
            if all(map(scores.get, pair)):
                before, after = (scores[key] for key in pair)
                of_sets = [paired(after[t.name][m], before[t.name][m], families.get(t.name, {})) for t, m in columns]
                ours = average(of_sets).with_seeds(deviation, 2)
            name = printed_name(columns[0][1])
            name += f" (theirs {theirs})" if name != theirs else ""
            lines.append(Effect(step, name, ours, _others(pair, sets)))
    return lines


def average(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates, with Satterthwaite's degrees of freedom."""
    total = sum(one.error**2 for one in estimates)
    parts = sum(one.error**4 / one.freedom for one in estimates)
    error = math.sqrt(total) / len(estimates)
    return Estimate(fmean(one.difference for one in estimates), error, total**2 / parts if parts else math.inf)


def _others(pair: tuple[str, str], columns: Sequence[str]) -> dict[str, float | None]:
    """The same step in the paper and in the 2023 study, averaged over their three sets."""
    printed, figures, result = paper_table(4), compared.others(), dict[str, float | None]()
    for source in ("paper", "2023 study"):
        values = []
        for key in pair:
            if source == "paper":
                values.append([printed[TABLE4[key].paper, column].number for column in columns])
            else:
                found = [figures.get((key, "", source, column)) for column in columns]
                values.append([float(figure) if figure else None for figure in found])
        steps = [b - a for a, b in zip(*values, strict=True) if a is not None and b is not None]
        result[source] = fmean(steps) if len(steps) == len(columns) else None
    return result


@house_style
def forest(found: Sequence[Effect]) -> Figure:
    """A panel per measure and a line per step: our mean with its 95 % interval, the paper's, the 2023 study's.

    In points, hundredths of the measure.
    """
    measures, steps = (list(dict.fromkeys(effect[i] for effect in found)) for i in (1, 0))
    figure, axes = plt.subplots(1, len(measures), figsize=(PAGE, 3.4), sharey=True, squeeze=False, layout="constrained")
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
        ax.set(xlabel=f"{measure}, points, mean over test sets", ylim=(len(steps) - 0.4, -0.6))
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
    plt.close(figure)
    return figure
