"""The paper's Figures 1 and 2 in the house style. What is drawn comes in as small records of arrays.

Functions that draw one panel take an `ax` and return it; those that compose a whole figure return the figure, which a
notebook shows where it is a cell's last word.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.random import Generator
from sklearn.manifold import TSNE

from tas_lib import clustering, sampling
from tas_lib.clustering import Clusters
from tas_lib.records import FloatArray, History, IntArray, Pairs
from tas_lib.report.style import (
    BLUE,
    COLOURS,
    COLUMN,
    DASHES,
    GREEN,
    GREY,
    INK,
    LABELS,
    ORANGE,
    PAGE,
    PURPLE,
    SKY,
    SMALL,
    VERMILION,
    YELLOW,
    fit,
    house_style,
    text_width,
)
from tas_lib.report.style import save as save
from tas_lib.sampling import Sampler

TOPICS = [(BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (VERMILION, "D"),
          (PURPLE, "v"), (SKY, "P"), (YELLOW, "X"), (INK, "*")]  # fmt: skip
"""(colour, marker) of the first, second, ... topic of a figure."""


# --- Figure 1 ----------------------------------------------------------------------------------------------------


class TopicPlane(NamedTuple):
    """Some topics on a plane: the number, the (N, 2) places of the queries, and a few example queries of each."""

    numbers: list[int]
    places: list[FloatArray]
    examples: list[list[str]]


def lay_out(
    clusters: Clusters, vecs: FloatArray, texts: Sequence[str], rng: Generator, n_topics: int = 8, n_examples: int = 3
) -> TopicPlane:
    """Random topics by t-SNE of their queries' vectors; the same `rng` gives the same plane on one machine.

    vecs: (Q, D) the vectors that were clustered. texts: (Q,) queries. Examples are those nearest the centroid among
    the queries that fit one line of `topic_map`; where too few fit, longer ones are cut.
    """
    filled = np.flatnonzero(clusters.sizes)
    numbers = np.sort(rng.choice(filled, min(n_topics, len(filled)), replace=False))
    members = [clusters.topics[number] for number in numbers]
    points = np.concatenate([vecs[rows] for rows in members])  # (N, D)
    seed = int(rng.integers(2**31))
    perplexity = min(30.0, (len(points) - 1) / 3)  # what 30 asks of the number of points
    plane = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)  # (N, 2)
    places = np.split(plane, np.cumsum([len(rows) for rows in members])[:-1])
    examples = [
        _examples([texts[row] for row in clustering.nearest(clusters, vecs, number, len(rows))], n_examples)
        for number, rows in zip(numbers, members, strict=True)
    ]
    return TopicPlane(numbers.tolist(), places, examples)


def _examples(texts: Iterable[str], n: int) -> list[str]:
    """The first n different texts that fit a line of `topic_map`; if there are too few, longer ones, cut."""
    different = list({text.lower(): text for text in (" ".join(t.split()).rstrip(".") for t in texts)}.values())
    whole = list(islice((text for text in different if text_width(text) <= LINE), n))
    cut = (fit(text, LINE) for text in different if text not in whole)
    return whole + list(islice(cut, n - len(whole)))


LINE = 206.0  # points, an example in `topic_map`


@house_style
def topic_map(plane: TopicPlane) -> Figure:
    """Figure 1: the queries of up to eight topics on the plane, and below, beside its marker, examples of each."""
    height = SMALL * 1.25  # points, a line
    block = (max(map(len, plane.examples)) + 0.6) * height  # points, a topic's examples
    above, below = 2.5 * 72, block * len(plane.numbers) + 4
    figure = plt.figure(figsize=(COLUMN, (above + below) / 72))
    ax = figure.add_axes((0.045, (below + 14) / (above + below), 0.945, (above - 17) / (above + below)))
    listing = figure.add_axes(
        (0, 0, 1, below / (above + below)), frameon=False, xticks=[], yticks=[], xlim=(0, COLUMN * 72), ylim=(-below, 0)
    )
    for i, (number, places, examples) in enumerate(zip(plane.numbers, plane.places, plane.examples, strict=True)):
        colour, marker = TOPICS[i]
        look: dict[str, Any] = {"marker": marker, "color": colour, "edgecolor": INK}
        ax.scatter(places[:, 0], places[:, 1], s=8, linewidth=0.2, alpha=0.9, **look)
        y = -i * block - height
        listing.scatter(7, y + 2.2, s=22, linewidth=0.4, **look)
        listing.text(14, y, str(number), fontsize=SMALL, fontweight="bold")
        for line, text in enumerate(examples):
            listing.text(31, y - line * height, text, fontsize=SMALL, parse_math=False)
    for number, places in zip(plane.numbers, plane.places, strict=True):  # above all points
        x, y = np.median(places, axis=0)
        name = ax.text(x, y, str(number), ha="center", va="center", fontsize=8, fontweight="bold")
        name.set_path_effects([patheffects.withStroke(linewidth=2, foreground="white")])
    ax.set(xticks=[], yticks=[])
    ax.set_xlabel("t-SNE dimension 1", labelpad=2)
    ax.set_ylabel("t-SNE dimension 2", labelpad=2)
    plt.close(figure)
    return figure


@house_style
def topic_sizes(sizes: Mapping[str, IntArray], batch_size: int, ax: Axes | None = None) -> Axes:
    """Queries in each topic, the largest first, one line a way of clustering; below `batch_size` batches are mixed."""
    if ax is None:
        _, ax = plt.subplots(figsize=(COLUMN, 2.2), layout="constrained")
    for name, values in sizes.items():
        ranks = np.arange(1, len(values) + 1)
        ax.plot(ranks, np.sort(values)[::-1], color=COLOURS[name], linestyle=DASHES[name], label=LABELS[name])
    ax.axhline(batch_size, color=GREY, linewidth=0.8)
    ax.annotate(f"one batch ({batch_size})", (0, batch_size), xycoords=("axes fraction", "data"), xytext=(3, 2),
                textcoords="offset points", color=GREY, fontsize=SMALL)  # fmt: skip
    ax.set(xlabel="Topic, by falling size (rank)", ylabel="Queries in the topic", ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    return ax


# --- Figure 2 ----------------------------------------------------------------------------------------------------


class Fed(NamedTuple):
    """What a strategy feeds the student: one batch closely, many by their margins (Fig. 2).

    topics: (B,) topic of each query of the batch, those of a topic together, the largest first.
    pools: (B, h) share of a query's pairs in each of its margin ranges. ranges: (B,) the range of the pair drawn.
    margins: (N,) teacher margins of all pairs of many batches.
    """

    strategy: str
    topics: IntArray
    pools: FloatArray
    ranges: IntArray
    margins: FloatArray


def feed(strategy: str, sampler: Sampler, assignment: IntArray, n_bins: int, step: int, steps: Iterable[int]) -> Fed:
    """What a sampler draws at `step`, closely, and the margins of the batches of `steps`.

    assignment: (Q,) topic of each query.
    """
    batch = sampler.batch(step)
    topics = np.asarray(assignment)[batch.queries]
    order = np.lexsort((batch.queries, topics, -np.bincount(topics)[topics]))
    ranges = sampling.bin_numbers(sampler.pairs, batch.queries, batch.margins, n_bins)
    margins = np.concatenate([sampler.batch(number).margins for number in steps])
    return Fed(
        strategy, topics[order], range_shares(sampler.pairs, batch.queries, n_bins)[order], ranges[order], margins
    )


def range_shares(pairs: Pairs, queries: IntArray, n_bins: int) -> FloatArray:
    """(B, h) the share of a query's pairs that lies in each of its margin ranges, Eq. 12."""
    counts = np.diff(sampling.bin_bounds(pairs, queries, n_bins))
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


@house_style
def sampling_strategies(fed: Sequence[Fed]) -> Figure:
    """Figure 2 on real batches, a column a strategy: its topics, the pair drawn of each query, the margins it feeds."""
    figure, axes = plt.subplots(
        3, len(fed), figsize=(PAGE, 5.7), sharex="row", sharey="row", squeeze=False, layout="constrained",
        height_ratios=(0.8, 1.5, 1),
    )  # fmt: skip
    low, high = np.quantile(np.concatenate([one.margins for one in fed]), (0.001, 0.999))
    edges = np.linspace(low, high, 41)
    for column, one in enumerate(fed):
        queries_by_topic(one, axes[0, column])
        pairs_by_range(one, axes[1, column])
        margin_distribution(one, fed[0], edges, axes[2, column])
        axes[0, column].set_title(f"({'abcdefgh'[column]}) {LABELS[one.strategy]}", fontweight="bold")
    for ax in axes[:, 1:].flat:
        ax.set_ylabel("")
    first = fed[0].strategy
    key = [
        Patch(facecolor="#A0A0A0", label="where the query's pairs lie (darker: more of them)"),
        Line2D([], [], linestyle="", marker="o", markersize=3.5, color=INK, label="the pair drawn"),
        Line2D([], [], linestyle=DASHES[first], color=COLOURS[first], label=f"{LABELS[first]}, to compare"),
    ]
    figure.legend(handles=key, loc="outside lower center", ncols=3)
    plt.close(figure)
    return figure


@house_style
def queries_by_topic(fed: Fed, ax: Axes | None = None) -> Axes:
    """Bars: how many queries of the batch come from its largest topic, its second, ..."""
    if ax is None:
        _, ax = plt.subplots(figsize=(COLUMN, 1.6), layout="constrained")
    counts = np.sort(np.unique(fed.topics, return_counts=True)[1])[::-1]
    ax.bar(np.arange(1, len(counts) + 1), counts, width=0.75, color=COLOURS[fed.strategy])
    topics = "1 topic" if len(counts) == 1 else f"{len(counts)} topics"
    ax.text(0.97, 0.9, f"{len(fed.topics)} queries of {topics}", ha="right", va="top", transform=ax.transAxes)
    b = len(fed.topics)
    ax.set(xlabel="Topic of the batch, by falling size (rank)", ylabel="Queries of the topic")
    ax.set(xlim=(0, b + 1), xticks=_ticks(b), ylim=(0, b + 1), yticks=[0, *_ticks(b)[1:]])
    return ax


def _ticks(b: int) -> list[int]:
    """1 and the quarters of a batch."""
    return sorted({1, *(b * i // 4 for i in range(1, 5))} - {0})


@house_style
def pairs_by_range(fed: Fed, ax: Axes | None = None) -> Axes:
    """A line a query: in grey where its pairs lie among its own margin ranges, a dot where the drawn pair lies."""
    if ax is None:
        _, ax = plt.subplots(figsize=(COLUMN, 2.6), layout="constrained")
    b, h = fed.pools.shape
    ax.imshow(fed.pools, cmap="Greys", vmin=0, vmax=0.6, aspect="auto", extent=(0.5, h + 0.5, b + 0.5, 0.5))
    ax.scatter(fed.ranges + 1, np.arange(1, b + 1), s=11, color=COLOURS[fed.strategy], edgecolor="white", linewidth=0.5)
    ax.set(xlabel=f"Margin range, from hard (1) to easy ({h})", ylabel="Query of the batch")
    ax.set(xticks=range(1, h + 1), yticks=_ticks(b))
    return ax


@house_style
def margin_distribution(fed: Fed, reference: Fed, edges: FloatArray, ax: Axes | None = None) -> Axes:
    """The teacher margins of many batches as a density over `edges`, and dotted those of a reference strategy."""
    if ax is None:
        _, ax = plt.subplots(figsize=(COLUMN, 1.9), layout="constrained")
    colour = COLOURS[fed.strategy]
    sns.histplot(x=fed.margins, bins=list(edges), stat="density", element="step", color=colour, alpha=0.45, ax=ax)
    if fed.strategy != reference.strategy:
        sns.histplot(x=reference.margins, bins=list(edges), stat="density", element="step", fill=False, ax=ax,
                     color=COLOURS[reference.strategy], linestyle=DASHES[reference.strategy])  # fmt: skip
    ax.set(xlabel="Teacher margin (score units)", ylabel="Density (per score unit)")
    return ax


@house_style
def range_frequencies(shares: Mapping[str, FloatArray], ax: Axes | None = None) -> Axes:
    """How often each margin range was drawn, one line a strategy; shares: (h,) each, in [0, 1]."""
    if ax is None:
        _, ax = plt.subplots(figsize=(COLUMN, 2.2), layout="constrained")
    for (name, values), marker in zip(shares.items(), "os^Dv", strict=False):
        ranks = np.arange(1, len(values) + 1)
        look: dict[str, Any] = {"color": COLOURS[name], "linestyle": DASHES[name], "marker": marker}
        ax.plot(ranks, values, markersize=4, label=LABELS[name], **look)
    ax.set(xlabel=f"Margin range of the query, from hard (1) to easy ({len(ranks)})", xticks=ranks)
    ax.set(ylabel="Share of the pairs drawn", ylim=(0, None))
    ax.legend()
    return ax


# --- training ----------------------------------------------------------------------------------------------------


@house_style
def training_history(history: Sequence[History], alpha: float = 1.0) -> Figure:
    """nDCG@10 on the early-stopping set over steps, its best marked, and below the losses that were in use.

    alpha: the in-batch loss is drawn times α, as it enters Eq. 8 (§4.2: both losses in one range).
    """
    steps, ndcg, pairwise, in_batch = np.array([row[:4] for row in history]).T
    figure, (above, below) = plt.subplots(2, 1, figsize=(COLUMN, 3.4), sharex=True, layout="constrained")
    best = int(ndcg.argmax())
    above.plot(steps, ndcg, color=COLOURS["ndcg"], marker=".", markersize=4)
    above.plot(steps[best], ndcg[best], "o", markersize=8, fillstyle="none", color=VERMILION)
    above.set_title(f"best: {ndcg[best]:.3f}, step {steps[best]:,.0f}", loc="right", fontsize=SMALL)
    weight = "" if alpha == 1 else f" × α = {alpha:g}"
    for name, values, note in [("pairwise", pairwise, ""), ("in_batch", alpha * in_batch, weight)]:
        if values.any():
            below.plot(steps, values, color=COLOURS[name], linestyle=DASHES[name], label=LABELS[name] + note)
    above.set_ylabel("nDCG@10, early stopping")
    below.set(xlabel="Training step", ylabel="Mean loss of a step", ylim=(0, None))
    below.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    below.legend()
    plt.close(figure)
    return figure
