"""The house style of all figures: colours, sizes, letters; and `save`, which writes svg and png.

A concept has one colour wherever it appears, and colour never stands alone: a marker, a dash or a label says the same.
"""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from tas_lib.data import store

COLUMN = 3.33  # inches, a column of the paper
PAGE = 7.0  # inches, both columns
SMALL = 6.5  # points, the smallest text

# Okabe and Ito's colours, told apart with any common kind of colour blindness
INK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#6B6B6B"

COLOURS = {
    "random": BLUE,
    "tas": ORANGE,
    "tas_balanced": GREEN,
    "hard_margin": PURPLE,
    "pairwise": VERMILION,
    "in_batch": SKY,
    "ndcg": INK,
    "spherical": GREEN,
    "euclidean": PURPLE,
    "bm25": GREY,
    "expanded": PURPLE,
    "fused": INK,
}
LABELS = {
    "random": "Random",
    "tas": "TAS",
    "tas_balanced": "TAS-Balanced",
    "hard_margin": "Hard margin",
    "pairwise": "pairwise loss (6)",
    "in_batch": "in-batch loss (7)",
    "spherical": "Spherical",
    "euclidean": "Euclidean",
    "bm25": "BM25",
    "expanded": "docT5query",
}
DASHES: dict[str, Any] = {
    "random": (0, (1, 1)),
    "tas": (0, (4, 1.5)),
    "tas_balanced": "-",
    "hard_margin": (0, (4, 1, 1, 1)),
    "pairwise": "-",
    "in_batch": (0, (4, 1.5)),
    "spherical": "-",
    "euclidean": (0, (4, 1.5)),
    "bm25": (0, (4, 1, 1, 1)),
    "expanded": (0, (1, 1)),
    "fused": "-",
}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # matplotlib brings it along, so every machine draws the same
    "font.size": 7,
    "axes.titlesize": 8,
    "axes.labelsize": 7,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.3,
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "tas-balanced",  # else ids are drawn by chance, and every file differs
}
house_style = matplotlib.rc_context(STYLE)  # a decorator


def save(figure: Figure, folder: Path, name: str) -> None:
    """`name`.svg and `name`.png (200 dpi) in `folder`, whole or not at all; the same figure gives the same bytes."""
    _freeze(figure)
    for kind, unwanted in (("svg", "Date"), ("png", "Software")):
        with matplotlib.rc_context(STYLE), store.atomic_write(folder / f"{name}.{kind}", "wb") as f:
            figure.savefig(f, format=kind, dpi=200, metadata={unwanted: None})


def _freeze(figure: Figure) -> None:
    """Leave the axes where the layout puts them, rounded: its last digits differ from one call to the next."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for ax in figure.axes:
        x, y, width, height = np.round(ax.get_position().bounds, 5).tolist()
        ax.set_position((x, y, width, height))


def fit(text: str, width: float, size: float = SMALL) -> str:
    """A text as it is if it is at most `width` points wide in our font, else cut at a word and ended by "…".

    >>> fit("short", 100), fit("a query that is far too long", 80)
    ('short', 'a query that is far too…')
    """
    words = text.split()
    for n in range(len(words), 0, -1):
        shown = " ".join(words[:n]) + ("…" if n < len(words) else "")
        if text_width(shown, size) <= width:
            return shown
    return "…"


def text_width(text: str, size: float = SMALL) -> float:
    """How wide a text is in our font, in points."""
    font = FontProperties(family=STYLE["font.family"], size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])
