"""Figure 3: recall against cutoff, a panel a set, each line named at its end."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from scipy.optimize import isotonic_regression

from tas_lib.report.style import COLOURS, COLUMN, DASHES, LABELS, PAGE, SMALL, house_style

HEIGHT = 2.9  # inches
LINE = 1.35 * SMALL / (0.7 * HEIGHT * 72)  # a line of text as a share of the height of the axes, with a little to spare
MARKERS = {"bm25": "s", "expanded": "D", "pairwise": "v", "in_batch": "^", "tas_balanced": "o", "fused": "*"}
ROUND = (10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)


class Curve(NamedTuple):
    """A system's line: its name, the concept whose colour, dash and marker it has, and recall in [0, 1] by cutoff."""

    name: str
    concept: str
    recall: Sequence[float]


def cutoffs(depth: int, first: int = 10, n: int = 25) -> list[int]:
    """Whole numbers from the first cutoff to the depth, evenly on a log axis, the round ones among them.

    >>> cutoffs(20, n=4)
    [10, 13, 16, 20]
    """
    first = min(first, depth)
    even = np.geomspace(first, depth, n).round().astype(int).tolist()
    return sorted({*even, *(number for number in ROUND if first <= number <= depth)})


def apart(places: Sequence[float], gap: float) -> list[float]:
    """Where labels go whose lines end at these places: at least `gap` apart, in their order, moved as little as can be.

    >>> [round(place, 3) for place in apart([0.5, 0.9, 0.52], gap=0.1)]
    [0.46, 0.9, 0.56]
    """
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    moved = np.empty(len(places))
    moved[order] = isotonic_regression(np.asarray(places, float)[order] - steps).x + steps
    return [float(place) for place in moved]


@house_style
def recall_curves(panels: Mapping[str, Sequence[Curve]], at: Sequence[int]) -> Figure:
    """Figure 3: recall at the cutoffs `at`, a panel a set; all panels have one axis of recall."""
    figure, axes = plt.subplots(
        1, len(panels), figsize=(PAGE, HEIGHT), sharey=True, squeeze=False, layout="constrained"
    )
    lowest = min(min(curve.recall) for curves in panels.values() for curve in curves)
    for ax, (title, curves) in zip(axes[0], panels.items(), strict=True):
        ax.set_ylim(max(0, np.floor(10 * lowest - 0.2) / 10), 1)
        recall_panel(curves, at, ax)
        ax.set_title(title)
        ax.label_outer()
    plt.close(figure)
    return figure


@house_style
def recall_panel(curves: Sequence[Curve], at: Sequence[int], ax: Axes | None = None) -> Axes:
    """Recall at the cutoffs `at` (log axis), one line a system, its name at the line's end."""
    if ax is None:
        _, ax = plt.subplots(figsize=(COLUMN, HEIGHT), layout="constrained")
        ax.set_ylim(0, 1)
    marked = [place for place, cutoff in enumerate(at) if cutoff in ROUND]
    low, high = ax.get_ylim()
    ends = apart([curve.recall[-1] for curve in curves], LINE * (high - low))
    for curve, end in zip(curves, ends, strict=True):
        colour = COLOURS[curve.concept]
        look: dict[str, Any] = {"color": colour, "linestyle": DASHES.get(curve.concept, "-"), "markevery": marked}
        ax.plot(at, curve.recall, marker=MARKERS.get(curve.concept), markersize=3.5, markeredgewidth=0, **look)
        name, place = curve.name or LABELS[curve.concept], (at[-1], curve.recall[-1])
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 1, "shrinkA": 2, "shrinkB": 3, "relpos": (0, 0.5)}
        ax.annotate(name, place, xytext=(1.06, end), textcoords=("axes fraction", "data"), va="center",
                    fontsize=SMALL, annotation_clip=False, bbox={"pad": 0, "facecolor": "none", "edgecolor": "none"},
                    arrowprops=leader)  # fmt: skip
    ax.set(xscale="log", xlim=(at[0], at[-1]), xlabel="Cutoff (passages, log axis)", ylabel="Recall")
    ax.xaxis.set_major_locator(FixedLocator([cutoff for cutoff in at if cutoff in ROUND]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter("{x:,.0f}")
    return ax
