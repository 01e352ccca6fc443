"""Figure 3: recall against cutoff, a panel per test set, each line labelled at its end."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from scipy.optimize import isotonic_regression

from tas_lib.report.style import LOOKS, PAGE, SMALL, house_style

HEIGHT = 2.9  # inches
LINE = 1.35 * SMALL / (0.7 * HEIGHT * 72)  # the height of a line of text as a share of that of the axes, and some slack
ROUND = (10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)


class Curve(NamedTuple):
    """A system's line: its name, the concept whose look it has (style.LOOKS), and recall in [0, 1] by cutoff."""

    name: str
    concept: str
    recall: Sequence[float]


def cutoffs(depth: int, n: int = 25) -> list[int]:
    """Whole numbers from 10 to the depth, even on a log axis, with the round ones among them.

    >>> cutoffs(20, n=4)
    [10, 13, 16, 20]
    """
    first = min(10, depth)
    even = np.geomspace(first, depth, n).round().astype(int).tolist()
    return sorted({*even, *(number for number in ROUND if first <= number <= depth)})


def apart(ends: Sequence[float], gap: float) -> list[float]:
    """Where to put the labels of lines with these ends: in order, at least `gap` apart, moved as little as possible.

    >>> [round(position, 3) for position in apart([0.5, 0.9, 0.52], gap=0.1)]
    [0.46, 0.9, 0.56]
    """
    order = np.argsort(ends, kind="stable")
    steps = gap * np.arange(len(ends))
    moved = np.empty(len(ends))
    moved[order] = isotonic_regression(np.asarray(ends, float)[order] - steps).x + steps
    return [float(position) for position in moved]


@house_style
def recall_curves(panels: Mapping[str, Sequence[Curve]], at: Sequence[int]) -> Figure:
    """Figure 3: recall by cutoff (log axis), a panel per test set; all panels share the axis of recall."""
    figure = Figure((PAGE, HEIGHT), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)
    lowest = min(min(curve.recall) for curves in panels.values() for curve in curves)
    low = max(0, np.floor(10 * lowest - 0.2) / 10)
    marked = [i for i, cutoff in enumerate(at) if cutoff in ROUND]
    for ax, (title, curves) in zip(axes[0], panels.items(), strict=True):
        labels = apart([curve.recall[-1] for curve in curves], LINE * (1 - low))
        for curve, height in zip(curves, labels, strict=True):
            look = LOOKS[curve.concept]
            ax.plot(at, curve.recall, marker=look.marker, markersize=3.5, mew=0, markevery=marked, **look.line)
            ax.annotate(curve.name or look.label, (at[-1], curve.recall[-1]), xytext=(1.06, height),
                        textcoords=("axes fraction", "data"), va="center", fontsize=SMALL, annotation_clip=False,
                        bbox={"pad": 0, "facecolor": "none", "edgecolor": "none"}, arrowprops={
                            "arrowstyle": "-", "color": look.colour, "linewidth": 1, "shrinkA": 2, "shrinkB": 3,
                            "relpos": (0, 0.5)})  # fmt: skip
        ax.set(title=title, xscale="log", xlim=(at[0], at[-1]), ylim=(low, 1))
        ax.set(xlabel="Cutoff (passages, log axis)", ylabel="Recall")
        ax.xaxis.set_major_locator(FixedLocator([at[i] for i in marked]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.label_outer()
    return figure
