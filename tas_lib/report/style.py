"""The house style of all figures: colours, sizes, fonts; and `save`, which writes svg and png.

A concept has one look wherever it appears; colour is never the only difference.
"""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.textpath import text_to_path

from tas_lib.data import store

Draw = TypeVar("Draw", bound=Callable[..., Any])
COLUMN = 3.33  # inches, a column of the paper
PAGE = 7.0  # inches, both columns
SMALL = 7.1  # points, the smallest text: 8 at the width at which notebooks show a page

# Okabe and Ito's colours, which people with any common colour blindness can tell apart, and grey
INK, ORANGE, SKY, GREEN, GREY = "#000000", "#E69F00", "#56B4E9", "#009E73", "#6B6B6B"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
CLUSTERS = [*zip((BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, INK), "os^DvPX*", strict=True)]
"""(colour, marker) of the first, second, ... cluster of a figure."""

DOTTED, DASHED, DASH_DOTTED = (0, (1, 1)), (0, (4, 1.5)), (0, (4, 1, 1, 1))


class Look(NamedTuple):
    """How a concept looks: its label, and the colour, dash and marker of its line."""

    label: str
    colour: str
    dash: Any = "-"
    marker: str | None = None

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of `plot`, but for label and marker."""
        return {"color": self.colour, "linestyle": self.dash}


LOOKS = {
    "random": Look("Random", BLUE, DOTTED),
    "tas": Look("TAS", ORANGE, DASHED),
    "tas_balanced": Look("TAS-Balanced", GREEN, marker="o"),
    "hard_margin": Look("Hard margin", PURPLE, DASH_DOTTED),
    "pairwise": Look("pairwise loss (6)", VERMILION, marker="v"),
    "in_batch": Look("in-batch loss (7)", SKY, DASHED, "^"),
    "spherical": Look("Spherical", GREEN),
    "euclidean": Look("Euclidean", PURPLE, DASHED),
    "bm25": Look("BM25", GREY, DASH_DOTTED, "s"),
    "expanded": Look("docT5query", PURPLE, DOTTED, "D"),
    "fused": Look("Fused", INK, marker="*"),
}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same
    "font.size": SMALL,
    "axes.titlesize": 8,
    "axes.labelsize": SMALL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.3,
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "tas-balanced",  # without it ids are random, and every file differs
}
# of two DejaVu Sans, the system's and matplotlib's own, the first one is taken, and their order is chance
fontManager.ttflist.sort(key=lambda font: not font.fname.startswith(matplotlib.get_data_path()))


def house_style(draw: Draw) -> Draw:
    """A decorator: draws in this style; the docstring's first line becomes the figure's label, its alternative text."""

    @wraps(draw)
    def drawn(*args: Any, **kwargs: Any) -> Any:
        with matplotlib.rc_context(STYLE):
            result = draw(*args, **kwargs)
        if isinstance(figure := getattr(result, "figure", result), Figure):
            figure.set_label((draw.__doc__ or "").partition("\n")[0])
        return result

    return cast(Draw, drawn)


def save(figure: Figure, folder: Path, name: str) -> None:
    """`name`.svg and `name`.png (200 dpi) in `folder`, written atomically; the same figure gives the same bytes."""
    with matplotlib.rc_context(STYLE):  # how many ticks there are depends on the size of their labels
        # fix the axes where the layout puts them, rounded: its last digits differ from one call to the next
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for ax in figure.axes:
            x, y, width, height = np.round(ax.get_position().bounds, 5).tolist()
            ax.set_position((x, y, width, height))
        for kind, unwanted in (("svg", "Date"), ("png", "Software")):
            with store.atomic_write(folder / f"{name}.{kind}", "wb") as f:
                figure.savefig(f, format=kind, dpi=200, metadata={unwanted: None})


def fit(text: str, width: float) -> str:
    """The text if it is at most `width` points wide in our smallest font; otherwise cut after a word and ended by "…".

    >>> fit("short", 100), fit("a query that is far too long", 80)
    ('short', 'a query that is far…')
    """
    words = text.split()
    for n in range(len(words), 0, -1):
        shown = " ".join(words[:n]) + ("…" if n < len(words) else "")
        if text_width(shown) <= width:
            return shown
    return "…"


def text_width(text: str) -> float:
    """The width of a text in our smallest font, in points."""
    font = FontProperties(family=STYLE["font.family"], size=SMALL)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])
