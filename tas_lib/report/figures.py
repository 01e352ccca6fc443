"""The paper's Figures 1 and 2 and the history of a training, in the house style."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.random import Generator

from tas_lib import clustering, sampling
from tas_lib.clustering import Clusters
from tas_lib.records import FloatArray, History, IntArray, Pairs
from tas_lib.report import style
from tas_lib.report.style import COLUMN, INK, LOOKS, PAGE, SMALL, house_style
from tas_lib.sampling import Sampler

LINE = 206.0  # points, the width of an example in `cluster_map`


class ClusterPlane(NamedTuple):
    """Some clusters on a plane: their numbers, the (N, 2) points of their queries, and example queries of each."""

    numbers: list[int]
    points: list[FloatArray]
    examples: list[list[str]]


def lay_out(clusters: Clusters, vecs: FloatArray, texts: Sequence[str], rng: Generator) -> ClusterPlane:
    """Eight random clusters by t-SNE of their queries' vectors; the same `rng` gives the same plane on one machine.

    vecs: (Q, D) the vectors that were clustered. texts: (Q,) queries. Examples are the queries nearest to the centroid
    that fit one line of `cluster_map`; if too few fit, longer ones are cut.
    """
    filled = np.flatnonzero(clusters.sizes)
    numbers = np.sort(rng.choice(filled, min(8, len(filled)), replace=False))
    members = [clusters.members[number] for number in numbers]
    chosen = np.concatenate([vecs[queries] for queries in members])  # (N, D)
    perplexity = min(30.0, (len(chosen) - 1) / 3)  # few points allow no more
    from sklearn.manifold import TSNE

    tsne = TSNE(perplexity=perplexity, init="pca", random_state=int(rng.integers(2**31)))
    points = np.split(tsne.fit_transform(chosen), np.cumsum([len(queries) for queries in members])[:-1])
    examples = [
        _examples(texts[query] for query in clustering.nearest(clusters, vecs, number, len(queries)))
        for number, queries in zip(numbers, members, strict=True)
    ]
    return ClusterPlane(numbers.tolist(), points, examples)


def _examples(texts: Iterable[str], n: int = 3) -> list[str]:
    """The first n distinct texts that fit a line of `cluster_map`; if there are too few, longer ones, cut."""
    distinct = list({text.lower(): text for text in (" ".join(t.split()).rstrip(".") for t in texts)}.values())
    whole = list(islice((text for text in distinct if style.text_width(text) <= LINE), n))
    cut = (style.fit(text, LINE) for text in distinct if text not in whole)
    return whole + list(islice(cut, n - len(whole)))


@house_style
def cluster_map(plane: ClusterPlane) -> Figure:
    """Figure 1: the queries of up to eight clusters on the plane; below it, beside its marker, examples of each."""
    height = SMALL * 1.25  # points, a line
    block = (max(map(len, plane.examples)) + 0.6) * height  # points, the examples of a cluster
    above, below = 2.5 * 72, block * len(plane.numbers) + 4
    figure = Figure((COLUMN, (above + below) / 72))
    ax = figure.add_axes((0.045, (below + 14) / (above + below), 0.945, (above - 17) / (above + below)))
    listing = figure.add_axes(
        (0, 0, 1, below / (above + below)), frameon=False, xticks=[], yticks=[], xlim=(0, COLUMN * 72), ylim=(-below, 0)
    )
    for i, (number, points, examples) in enumerate(zip(plane.numbers, plane.points, plane.examples, strict=True)):
        colour, marker = style.CLUSTERS[i]
        look: dict[str, Any] = {"marker": marker, "color": colour, "edgecolor": INK}
        ax.scatter(points[:, 0], points[:, 1], s=8, linewidth=0.2, alpha=0.9, **look)
        y = -i * block - height
        listing.scatter(7, y + 2.2, s=22, linewidth=0.4, **look)
        listing.text(14, y, str(number), fontsize=SMALL, fontweight="bold")
        for line, text in enumerate(examples):
            listing.text(31, y - line * height, text, fontsize=SMALL, parse_math=False)
    for number, points in zip(plane.numbers, plane.points, strict=True):  # above all points
        x, y = np.median(points, axis=0)
        name = ax.text(x, y, str(number), ha="center", va="center", fontsize=8, fontweight="bold")
        name.set_path_effects([patheffects.withStroke(linewidth=2, foreground="white")])
    ax.set(xticks=[], yticks=[])
    ax.set_xlabel("t-SNE dimension 1", labelpad=2)
    ax.set_ylabel("t-SNE dimension 2", labelpad=2)
    return figure


@house_style
def cluster_sizes(sizes: Mapping[str, IntArray], batch_size: int) -> Axes:
    """Queries per cluster, the largest first, one line per clustering; below the batch size, batches are mixed."""
    _, ax = plt.subplots(figsize=(COLUMN, 2.2), layout="constrained")
    for name, values in sizes.items():
        ax.plot(np.arange(1, len(values) + 1), np.sort(values)[::-1], label=LOOKS[name].label, **LOOKS[name].line)
    ax.axhline(batch_size, color=style.GREY, linewidth=0.8)
    ax.annotate(f"one batch ({batch_size})", (0, batch_size), xycoords=("axes fraction", "data"), xytext=(3, 2),
                textcoords="offset points", color=style.GREY, fontsize=SMALL)  # fmt: skip
    ax.set(xlabel="Cluster, by falling size (rank)", ylabel="Queries in the cluster", ylim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    return ax


class Fed(NamedTuple):
    """What a sampling strategy feeds to the student: one batch in detail, and the margins of many (Fig. 2).

    clusters: (B,) cluster of each query of the batch, sorted: those of the largest first. pools: (B, h) share of a
    query's pairs in each of its margin ranges. ranges: (B,) the range of its sampled pair. margins: (N,) teacher
    margins of all pairs of many batches.
    """

    strategy: str
    clusters: IntArray
    pools: FloatArray
    ranges: IntArray
    margins: FloatArray


def feed(strategy: str, sampler: Sampler, assignment: IntArray, n_bins: int, step: int, steps: Iterable[int]) -> Fed:
    """The batch of `step` in detail, the margins of those of `steps`; assignment: (Q,) cluster of each query."""
    batch = sampler.batch(step)
    clusters = np.asarray(assignment)[batch.queries]
    order = np.lexsort((batch.queries, clusters, -np.bincount(clusters)[clusters]))
    pools = range_shares(sampler.pairs, batch.queries, n_bins)
    ranges = sampling.bin_numbers(sampler.pairs, batch.queries, batch.margins, n_bins)
    margins = np.concatenate([sampler.batch(number).margins for number in steps])
    return Fed(strategy, clusters[order], pools[order], ranges[order], margins)


def range_shares(pairs: Pairs, queries: IntArray, n_bins: int) -> FloatArray:
    """(B, h) the share of a query's pairs that lies in each of its margin ranges, Eq. 12."""
    counts = np.diff(sampling.bin_bounds(pairs, queries, n_bins))
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


@house_style
def sampling_strategies(fed: Sequence[Fed]) -> Figure:
    """Figure 2 on real batches, a column per strategy: its clusters, the sampled pair of each query, the margins."""
    figure, ratios = Figure((PAGE, 5.7), layout="constrained"), (0.8, 1.5, 1)
    axes = figure.subplots(3, len(fed), sharex="row", sharey="row", squeeze=False, height_ratios=ratios)
    low, high = np.quantile(np.concatenate([one.margins for one in fed]), (0.001, 0.999))
    edges = np.linspace(low, high, 41).tolist()
    for i, one in enumerate(fed):
        _queries_by_cluster(one, axes[0, i])
        _pairs_by_range(one, axes[1, i])
        _margin_distribution(one, fed[0], edges, axes[2, i])
        axes[0, i].set_title(f"({'abcdefgh'[i]}) {LOOKS[one.strategy].label}", fontweight="bold")
    for ax in axes[:, 1:].flat:
        ax.set_ylabel("")
    first = LOOKS[fed[0].strategy]
    key = [
        Patch(facecolor="#A0A0A0", label="where the query's pairs lie (darker: more of them)"),
        Line2D([], [], linestyle="", marker="o", markersize=3.5, color=INK, label="the pair drawn"),
        Line2D([], [], label=f"{first.label}, to compare", **first.line),
    ]
    figure.legend(handles=key, loc="outside lower center", ncols=3)
    return figure


def _queries_by_cluster(fed: Fed, ax: Axes) -> None:
    """Bars: how many queries of the batch come from its largest cluster, its second, ..."""
    b, counts = len(fed.clusters), np.sort(np.unique(fed.clusters, return_counts=True)[1])[::-1]
    ax.bar(np.arange(1, len(counts) + 1), counts, width=0.75, color=LOOKS[fed.strategy].colour)
    topics = "1 topic" if len(counts) == 1 else f"{len(counts)} topics"
    ax.text(0.97, 0.9, f"{b} queries of {topics}", ha="right", va="top", transform=ax.transAxes)
    ax.set(xlabel="Cluster of the batch, by size (rank)", ylabel="Queries of the cluster")
    ax.set(xlim=(0, b + 1), xticks=_ticks(b), ylim=(0, b + 1), yticks=[0, *_ticks(b)[1:]])


def _ticks(b: int) -> list[int]:
    """1 and the quarters of a batch."""
    return sorted({1, *(b * i // 4 for i in range(1, 5))} - {0})


def _pairs_by_range(fed: Fed, ax: Axes) -> None:
    """A line per query: in grey, how its pairs are spread over its margin ranges; a dot for the sampled pair."""
    b, h = fed.pools.shape
    ax.imshow(fed.pools, cmap="Greys", vmin=0, vmax=0.6, aspect="auto", extent=(0.5, h + 0.5, b + 0.5, 0.5))
    colour = LOOKS[fed.strategy].colour
    ax.scatter(fed.ranges + 1, np.arange(1, b + 1), s=11, color=colour, edgecolor="white", linewidth=0.5)
    ax.set(xlabel=f"Margin range, hard (1) to easy ({h})", ylabel="Query of the batch")
    ax.set(xticks=range(1, h + 1), yticks=_ticks(b))


def _margin_distribution(fed: Fed, reference: Fed, edges: Sequence[float], ax: Axes) -> None:
    """The teacher margins of many batches as a density over `edges`, and dotted those of a reference strategy."""
    import seaborn as sns  # takes a second, with scipy.stats, and other figures do without

    density: dict[str, Any] = {"bins": edges, "stat": "density", "element": "step", "ax": ax}
    sns.histplot(x=fed.margins, color=LOOKS[fed.strategy].colour, alpha=0.45, **density)
    if fed.strategy != reference.strategy:
        sns.histplot(x=reference.margins, fill=False, **LOOKS[reference.strategy].line, **density)
    ax.set(xlabel="Teacher margin (score units)", ylabel="Density (per score unit)")


@house_style
def range_frequencies(shares: Mapping[str, FloatArray]) -> Axes:
    """How often each margin range was sampled, one line per strategy.

    shares: (h,) each, in [0, 1].
    """
    _, ax = plt.subplots(figsize=(COLUMN, 2.2), layout="constrained")
    for (name, values), marker in zip(shares.items(), "os^Dv", strict=False):
        numbers = np.arange(1, len(values) + 1)
        ax.plot(numbers, values, marker=marker, markersize=4, label=LOOKS[name].label, **LOOKS[name].line)
    ax.set(xlabel=f"Margin range of the query, from hard (1) to easy ({len(numbers)})", xticks=numbers)
    ax.set(ylabel="Share of the pairs drawn", ylim=(0, None))
    ax.legend()
    return ax


@house_style
def training_history(history: Sequence[History], alpha: float = 1.0) -> Figure:
    """nDCG@10 on the early-stopping set by step, its best value marked, and below the losses that were in use.

    alpha: the in-batch loss is drawn times α, as it enters Eq. 8 (§4.2: both losses in one range).
    """
    steps, ndcg, pairwise, in_batch = np.array([entry[:4] for entry in history]).T
    figure = Figure((COLUMN, 3.4), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    best = int(ndcg.argmax())
    above.plot(steps, ndcg, color=INK, marker=".", markersize=4)
    above.plot(steps[best], ndcg[best], "o", markersize=8, fillstyle="none", color=style.VERMILION)
    above.set_title(f"best: {ndcg[best]:.3f}, step {steps[best]:,.0f}", loc="right", fontsize=SMALL)
    weight = "" if alpha == 1 else f" × α = {alpha:g}"
    for name, values, note in [("pairwise", pairwise, ""), ("in_batch", alpha * in_batch, weight)]:
        if np.nansum(values):  # step 0 has none
            below.plot(steps, values, label=LOOKS[name].label + note, **LOOKS[name].line)
    above.set_ylabel("nDCG@10, early stopping")
    below.set(xlabel="Training step", ylabel="Mean loss of a step", ylim=(0, None))
    below.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    below.legend()
    return figure
