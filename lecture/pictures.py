"""Pictures that explain: the method on one page, the three architectures, MaxSim, the scores of a batch, Eq. 12."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle

from tas_lib import sampling
from tas_lib.records import FloatArray, IntArray, Pairs
from tas_lib.report.style import BLUE, CLUSTERS, GREY, INK, LOOKS, ORANGE, PAGE, VERMILION, house_style

QUERY, PASSAGE, ANY, BALANCED = ORANGE, BLUE, LOOKS["random"], LOOKS["tas_balanced"]
PAIRWISE, IN_BATCH, BANDS = "#E28E4D", "#B3DCF5", ((GREY, 0.1), (GREY, 0.22))  # paler than in `LOOKS`


def _canvas(height: float) -> tuple[Figure, Axes]:
    figure, right = Figure((PAGE, height / 72)), PAGE * 72  # in points
    return figure, figure.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[], xlim=(0, right), ylim=(0, height))


def _box(ax: Axes, x: float, y: float, width: float, height: float, colour: str, text: str = "", **look: Any) -> None:
    look = {"facecolor": (colour, 0.08 if colour == INK else 0.25), **look, "boxstyle": "round,pad=0,rounding_size=2.5"}
    ax.add_patch(FancyBboxPatch((x, y), width, height, edgecolor=colour, linewidth=0.8, **look))
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center")


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    look = {"arrowstyle": "-|>,head_width=.15,head_length=.3", "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops={"facecolor": INK, **look})


def _vector(ax: Axes, x: float, y: float, colour: str, right: int = 1, up: int = 0) -> None:
    for i in range(4):
        ax.add_patch(Rectangle((x + 5 * right * i, y + 5 * up * i), 5, 5, fc=(colour, 0.6), ec=colour, linewidth=0.5))


def _matrix(ax: Axes, b: int, x: float, y: float, size: float) -> None:
    """The b × 2b scores, row 0 on top, in the colour of the loss that uses them; an own positive has both."""
    for i, j in np.ndindex(b, 2 * b):
        corners = np.array([(j, b - 1 - i), (j + 1, b - 1 - i), (j + 1, b - i), (j, b - i)]) * size + (x, y)
        ax.add_patch(Polygon(corners, facecolor=PAIRWISE if j == b + i else IN_BATCH, edgecolor="white"))
        if i == j:
            ax.add_patch(Polygon(corners[[0, 1, 3]], facecolor=PAIRWISE, edgecolor="white"))


@house_style
def method() -> Figure:
    """The paper on one page: six steps, from training queries to an index."""
    figure, ax = _canvas(240)
    steps = [
        ("1  Cluster once", "Eq. 10", "Training queries fall into k topics,\nonce, before training."),
        ("2  Batch from one topic", "Eq. 11", "All b queries of a batch come from\none random topic."),
        ("3  Balanced pairs", "Eqs. 12, 13", "For each query a random range of\nmargins, then a pair (p⁺, p⁻) in it."),
        ("4  Two teachers", "Eqs. 6, 7", "    BERT_CAT: each query's own pair\n    ColBERT: passages of the others"),
        ("5  Student", "Eqs. 4, 5, 8", "BERT_DOT learns both margins:\nL_DS = L_Pair + α · L_InB"),
        ("6  Index", "§2.2", "Every passage's vector, stored once;\nsearch: the largest products first."),
    ]
    for i, (title, source, text) in enumerate(steps):
        x, y = 2 + 173 * (i % 3), 127 if i < 3 else 2
        _box(ax, x, y, 154, 111, GREY, facecolor="white")
        ax.text(x + 6, y + 98, title, fontsize=8.5, fontweight="bold")
        ax.text(x + 148, y + 98, source, color=GREY, ha="right")
        ax.text(x + 6, y + 6, text, fontsize=7.5, linespacing=1.3)
        if x < 300:
            _arrow(ax, (x + 155, y + 56), (x + 172, y + 56))
    ax.plot((425, 425, 79), (126, 120, 120), color=INK, linewidth=0.8)
    _arrow(ax, (79, 120), (79, 114))
    for i, (middle, (colour, marker)) in enumerate(zip([(30, 54), (70, 78), (120, 54)], CLUSTERS, strict=False)):
        x, y = np.random.Generator(np.random.Philox(key=[i, 1])).normal(middle, (7, 5), (14, 2)).T
        for right, shown in ((2, colour), (175, colour if i == 2 else "#C8C8C8")):
            ax.scatter(x + right, y + 127, s=12, color=shown, marker=marker, edgecolor="white", linewidth=0.3)
    _box(ax, 274, 163, 46, 34, INK, facecolor="none")
    for i, pairs in enumerate([1, 2, 1, 3, 7]):
        ax.add_patch(Rectangle((360 + 26 * i, 165), 26, 54, facecolor=BANDS[i % 2]))
        ax.text(373 + 26 * i, 211, "1/5", ha="center", color=BALANCED.colour, fontweight="bold")
        ax.plot(371 + 26 * i + np.arange(pairs) % 3 * 2, 169 + 5.8 * np.arange(pairs), "o", markersize=4, color=GREY)
    ax.plot(451, 174.8, "o", markersize=4, color=BALANCED.colour)
    ax.text(425, 156, "hard  ←  teacher's margin  →  easy", ha="center")
    _matrix(ax, 4, 27, 40, 13)
    ax.add_patch(Rectangle((8, 18.5), 7, 7, facecolor=PAIRWISE))
    ax.add_patch(Rectangle((8, 7.5), 7, 7, facecolor=IN_BATCH))
    _box(ax, 227, 40, 42, 50, INK, "BERT_\nDOT")
    for name, colour, y in (("query", QUERY, 79), ("passage", PASSAGE, 51)):
        _box(ax, 181, y - 8, 36, 16, colour, name)
        _arrow(ax, (217, y), (227, y))
        _arrow(ax, (269, y), (283, y))
        _vector(ax, 285.5, y - 2.5, colour)
    ax.text(296, 63, "dot product", ha="center")
    _vector(ax, 355.5, 61.5, QUERY)
    _arrow(ax, (379, 64), (398, 64))
    for i in range(6):
        _vector(ax, 401.5, 38.5 + 9.2 * i, PASSAGE)
    _arrow(ax, (426, 64), (442, 64))
    ax.barh((80, 64, 48), (48, 35, 28), 7, left=448, color=(PASSAGE, 0.6))
    return figure


@house_style
def batch_matrix(b: int = 4) -> Figure:
    """The scores of a batch and the two losses that use them: Eq. 6 a query's own two, Eq. 7 all but its negative."""
    (figure, ax), size, left, top = _canvas(22 * b + 46), 22, 44, 8 + 22 * b
    _matrix(ax, b, left, 8, size)
    for i in range(b):
        ax.text(left - 6, top - (i + 0.5) * size, f"query {i}", ha="right", va="center")
        for sign, j in (("⁺", i), ("⁻", b + i)):
            ax.text(left + (j + 0.5) * size, top + 5, f"p{sign} {i}", ha="center")
            ax.text(left + (j + 0.65) * size, top - (i + 0.6) * size, sign, ha="center", fontsize=12)
    ax.text(left + b * size, top + 20, "b positives, then b negatives", ha="center", fontweight="bold")
    pairwise = f"Eq. 6, pairwise teacher\nown positive − own negative: b = {b} margins"
    in_batch = f"Eq. 7, in-batch teacher\nown positive − others' passages: 2b(b − 1) = {2 * b * (b - 1)} margins"
    for down, colour, text in ((24, PAIRWISE, pairwise), (64, IN_BATCH, in_batch)):
        ax.add_patch(Rectangle((left + 2 * b * size + 20, top - down), 11, 11, facecolor=colour))
        ax.text(left + 2 * b * size + 38, top - down + 11, text, va="top", fontsize=7.5, linespacing=1.5)
    return figure


@house_style
def architectures() -> Figure:
    """BERT_CAT, ColBERT and BERT_DOT side by side: what is read together, what is stored, what is left to do."""
    figure, ax = _canvas(190)
    query, passage, size = ["CLS", "q₁", "q₂", "SEP"], ["CLS", "p₁", "p₂", "p₃", "SEP"], 16.4
    models = [
        ("BERT_CAT (Eq. 1)", "W_s · vector of CLS", "nothing", "each candidate is read again"),
        ("ColBERT (Eqs. 2, 3)", "Σ max, query token by token", "n vectors per passage", "m × n products per passage"),
        ("BERT_DOT (Eqs. 4, 5)", "dot product", "1 vector per passage", "1 product per passage"),
    ]
    for k, (title, operation, stored, work) in enumerate(models):
        x, gap, whole = 8 + 169 * k, 4 * size + 4 * (k > 0), (9 * size + 2.5 if k else 8 * size - 1.5)
        sides = (x, query, QUERY, "per query", "-"), (x + gap, passage[k == 0 :], PASSAGE, "in advance", "--")
        for start, names, colour, when, line in sides:
            if k:
                _box(ax, start, 60, len(names) * size - 1.5, 32, INK, f"transformer,\n{when}", linestyle=line)
            for i, name in enumerate(names):
                middle = start + (i + 0.5) * size - 0.75
                _box(ax, start + i * size, 34, size - 1.5, 14, colour, name)
                _arrow(ax, (middle, 49), (middle, 59))
                if k == 1 or name == "CLS":
                    _arrow(ax, (middle, 93), (middle, 103))
                    _vector(ax, middle - 2.5, 105.5, colour if k else GREY, 0, 1)
                    _arrow(ax, (middle, 127), (middle, 137))
        if k == 0:
            _box(ax, x, 60, whole, 32, INK, "transformer,\nper query and passage")
        _box(ax, x, 138, whole, 24, INK, f"score = {operation}")
        ax.text(x, 176, title, fontsize=8.5, fontweight="bold")
        ax.text(x, 6, f"stored: {stored}\nper query: {work}", linespacing=1.35)
    return figure


@house_style
def max_sim(scores: FloatArray, query_tokens: Sequence[str], passage_tokens: Sequence[str]) -> Figure:
    """Eq. 3: products of query and passage tokens, the maximum of each row framed, their sum below."""
    (m, n), best = scores.shape, scores.max(axis=1)
    figure = Figure((PAGE, 1.3 + 0.19 * m), layout="constrained")
    ax = figure.subplots()
    figure.colorbar(ax.imshow(scores, cmap="Blues", aspect="auto"), ax=ax, label="Product", pad=0.08)
    for i, j in enumerate(scores.argmax(axis=1)):
        ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=VERMILION, linewidth=1.8))
        ax.text(n - 0.3, i, f"{best[i]:.2f}", va="center")
    ax.text(n - 0.3, -0.7, "maximum")
    ax.text(n - 0.3, m, f"Σ = {best.sum():.2f}", va="center", fontweight="bold")
    ax.set(xlabel="Token of the passage", ylabel="Token of the query")
    ax.set_xticks(range(n), passage_tokens, rotation=90)
    ax.set_yticks(range(m), query_tokens)
    return figure


@house_style
def margin_bins(margins: FloatArray, h: int, drawn: IntArray | None = None) -> Figure:
    """Eq. 12 on one query: its pairs in h ranges, and how likely each pair and each range is under Eqs. 11 and 13.

    margins: (N,), rising. drawn: (N,) how often each pair was drawn, shown as shares beside the probabilities.
    """
    n = len(margins)
    pairs = Pairs(np.array([0, n]), np.zeros(n, int), np.zeros(n, int), np.asarray(margins, float))
    counts = np.diff(sampling.bin_bounds(pairs, np.array([0]), h)[0])  # (h,)
    share = (counts > 0) / np.count_nonzero(counts)  # (h,) balanced: every filled range alike
    edges, probability = np.linspace(margins[0], margins[-1], h + 1), np.repeat(share / counts.clip(1), counts)
    figure = Figure((PAGE, 3.5), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    for ax, i in ((ax, i) for ax in (above, below) for i in range(h)):
        ax.axvspan(edges[i], edges[i + 1], color=BANDS[i % 2], linewidth=0)
    rows = [(above, 1.03, INK, "pairs", counts, "d"), (below, 1.16, ANY.colour, "any", counts / n, ".0%")]
    for ax, y, colour, name, values, form in [*rows, (below, 1.03, BALANCED.colour, "balanced", share, ".0%")]:
        ax.text(-0.01, y, name, ha="right", color=colour, transform=ax.transAxes)
        for x, value in zip((edges[:-1] + edges[1:]) / 2, values, strict=True):
            ax.text(x, y, format(value, form), ha="center", color=colour, transform=ax.get_xaxis_transform())
    above.plot(margins, np.concatenate([np.arange(count) + 1 for count in counts]), "o", markersize=3.5, color=INK)
    below.plot(margins, np.full(n, 1 / n), label="any pair (Eqs. 9, 11)", **ANY.line)
    below.plot(margins, probability, BALANCED.marker, markersize=4, color=BALANCED.colour, label="balanced (Eq. 13)")
    if drawn is not None:
        below.plot(margins, np.asarray(drawn) / np.sum(drawn), "x", markersize=5, color=INK, label="as drawn")
    above.set(ylabel="Pairs, stacked", ylim=(0, None))
    below.set(ylabel="Probability of a pair", xlabel="Teacher margin (score units)", ylim=(0, None))
    figure.legend(loc="outside lower center", ncols=3)
    return figure
