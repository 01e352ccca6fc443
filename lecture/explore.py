"""What moves: the batches of a sampler, α and the two losses, a search box, Figure 1 with its queries.

A picture is HTML, drawn by a function of the settings. `Panel` puts it below ipywidgets; where no kernel answers these
(an executed notebook, the web site), radio buttons choose among a few pictures drawn in advance, without JavaScript.
"""

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from string import Template
from textwrap import shorten
from typing import Any

import ipywidgets
import numpy as np
import torch
from IPython.display import HTML
from ipywidgets import Dropdown, FloatSlider, IntSlider
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from PIL import Image
from torch import Tensor

from tas_lib import losses, sampling
from tas_lib.clustering import Clusters
from tas_lib.experiment import Experiment
from tas_lib.records import Batch, FloatArray, IntArray, Pairs
from tas_lib.report import style
from tas_lib.report.figures import ClusterPlane
from tas_lib.report.style import CLUSTERS, GREY, INK, LOOKS, PAGE, house_style
from tas_lib.train import teachers


class Panel(ipywidgets.VBox):
    """Controls, and below them what `draw` makes of their values, drawn again whenever one changes."""

    def __init__(self, draw: Callable[..., str], controls: Mapping[str, Any], still: Mapping[str, str]) -> None:
        """draw: the controls' values by name → HTML; its ValueError is shown. still: pictures by label, for `radio`."""
        self.draw, self.controls, self.still = draw, controls, radio(still)
        self.shown, self.state = ipywidgets.HTML(), ipywidgets.HTML()
        for control in controls.values():
            control.continuous_update = False
            control.observe(self.update, "value")
        row = ipywidgets.Box(list(controls.values()), layout=ipywidgets.Layout(flex_flow="row wrap"))
        super().__init__([row, self.state, self.shown])
        self.update()

    def update(self, _: object = None) -> None:
        """Draw what the controls say now."""
        self.state.value = '<span role="status">drawing …</span>'
        try:
            self.shown.value = self.draw(**{name: control.value for name, control in self.controls.items()})
        except ValueError as error:
            self.shown.value = f'<p role="alert">{escape(str(error))}</p>'
        finally:
            self.state.value = '<span role="status">&nbsp;</span>'

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return {**super()._repr_mimebundle_(**kwargs), "text/html": self.still}


def radio(pictures: Mapping[str, str]) -> str:
    """Radio buttons that show one of some pictures at a time; without style sheets, all of them."""
    name = f"s{hashlib.sha256(''.join(pictures.values()).encode()).hexdigest()[:8]}"
    buttons, rules, frames = "", "", ""
    for i, (label, picture) in enumerate(pictures.items()):
        buttons += f'<input type="radio" name="{name}" id="{name}-{i}"{" checked" * (not i)}>'
        buttons += f'<label for="{name}-{i}">{escape(label)}</label>\n'
        rules += f"#{name}-{i}:not(:checked) ~ .{name}-{i} {{ display: none }}\n"
        frames += f'<div class="{name}-{i}">{picture}</div>\n'
    return f"<style>{rules}</style>\n<div>{buttons}{frames}</div>"


def _image(figure: Figure, says: str) -> str:
    """A sentence, and a figure with it as alternative text."""
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    with Image.open(file) as picture:  # a palette takes a third of the bytes
        picture.convert("RGB").quantize(method=Image.Quantize.MAXCOVERAGE).save(file := BytesIO(), "png")
    data = base64.b64encode(file.getvalue()).decode()
    look = "max-width:100%; box-sizing:border-box; padding:.5em; border-radius:.5em; background:white"
    return f'<p>{escape(says)}</p><img alt="{escape(says)}" style="{look}" src="data:image/png;base64,{data}">'


def _matrix(ax: Axes, values: FloatArray, limit: float, label: str) -> None:
    """A matrix (B, 2B) in blue below 0 and red above, each query's own + and -, and a colour bar."""
    b = len(values)
    shown = ax.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    for marker, shift in (("+", 0), ("_", b)):
        ax.plot(np.arange(b) + shift, np.arange(b), marker, color=INK, markersize=min(5, 80 / b), markeredgewidth=0.6)
    ax.axvline(b - 0.5, color=INK, linewidth=0.6)
    ax.set_xticks([b / 2 - 0.5, 1.5 * b - 0.5], [f"{b} positives (+)", f"{b} negatives (-)"])
    ax.tick_params(length=0)
    ax.set_yticks([])
    ax.figure.colorbar(shown, ax=ax, label=label, pad=0.03)


@house_style
def batch_figure(
    batch: Batch, texts: Sequence[str], clusters: IntArray, pairs: Pairs, n_bins: int, margins: FloatArray, limit: float
) -> Figure:
    """A line per query: cluster and text; the margins of its pairs and of the one drawn; its in-batch margins.

    texts, clusters: (B,) of the queries. margins: (B, 2B) own positive minus every passage. limit: where colours end.
    """
    lines = np.arange(len(texts))
    figure = Figure((PAGE, 0.75 + max(0.13 * len(texts), 1.2)), layout="constrained")
    names, strip, matrix = figure.subplots(1, 3, sharey=True, width_ratios=(1.25, 1, 1.45))
    edges = sampling.inner_edges(pairs, batch.queries, n_bins)  # (B, h - 1)
    strip.plot(edges.ravel(), np.repeat(lines, n_bins - 1), "|", color="#AAAAAA", markersize=8, markeredgewidth=0.4)
    own = [pairs.margins[pairs.offsets[query] : pairs.offsets[query + 1]] for query in batch.queries]
    strip.plot(np.concatenate(own), np.repeat(lines, list(map(len, own))), "|", color=INK, markersize=3)
    for rank, cluster in enumerate(np.unique(clusters)):
        colour, marker = CLUSTERS[rank % len(CLUSTERS)]
        y = lines[clusters == cluster]
        names.plot(0 * y, y, marker, color=colour, markersize=4, markeredgecolor=INK, markeredgewidth=0.3)
    for y, text in zip(lines, texts, strict=True):
        names.text(0.15, y, str(clusters[y]), va="center", ha="right")
        names.text(0.18, y, shorten(text, 38, placeholder="…"), va="center", parse_math=False)
    strip.plot(batch.margins, lines, "o", color=style.VERMILION, markersize=3.5)
    strip.set_xlim(float(pairs.margins.min()), float(pairs.margins.max()))
    strip.set_title("Margins of its pairs, • the sampled")
    names.set(xlim=(-0.03, 1), xticks=[], title="Cluster and query")
    names.set_frame_on(False)
    _matrix(matrix, -margins, limit, "Passage's score minus own positive's")
    return figure


def batches(lab: Experiment, seed: int) -> Panel:
    """What strategy, b, n, h, seed and step change about a batch, composed as for training and scored by ColBERT."""
    texts, clusters = lab.collection.sets["train"].queries.texts, lab.clusters
    teacher = teachers.open_in_batch_teacher(lab.profile.model_copy(update={"kept_vectors_gb": 0}), lab.collection)

    def composed(strategy: Any, b: int, n: int, h: int, seed: int, step: int) -> tuple[Batch, FloatArray, float]:
        """A batch with the queries of a cluster together, its in-batch margins, and the mean of those of Eq. 7."""
        changes = {"batch_size": b, "clusters_per_batch": n, "margin_bins": h}
        how = lab.profile.sampling.model_copy(update=changes)
        drawn = sampling.make_sampler(strategy, lab.pairs, clusters.members, how, seed).batch(step)
        order = np.argsort(clusters.assignment[drawn.queries], kind="stable")
        batch = Batch(drawn.queries[order], drawn.pos[order], drawn.neg[order], drawn.margins[order])
        scores = teacher.scores(batch, torch.device("cpu")).numpy()
        margins = scores.diagonal()[:, None] - scores
        return batch, margins, float(margins[~np.tile(np.eye(b, dtype=bool), 2)].mean())

    size, n, h = (getattr(lab.profile.sampling, name) for name in ("batch_size", "clusters_per_batch", "margin_bins"))
    *_, usual = composed("random", size, n, h, seed, 0)

    def draw(h: int, **how: Any) -> str:
        batch, margins, mean = composed(h=h, **how)
        of, asked = clusters.assignment[batch.queries], [texts[query] for query in batch.queries]
        figure = batch_figure(batch, asked, of, lab.pairs, h, margins, 2 * usual)
        n_clusters = len(np.unique(of))
        says = f"Queries of {n_clusters} cluster{'s' * (n_clusters > 1)}; their sampled pairs have a mean margin of "
        says += f"{batch.margins.mean():.1f}. By ColBERT, a query's own positive is on average {mean:.1f} above the "
        says += f"other passages; in a random batch, {usual:.1f}."
        return _image(figure, says)

    names = {LOOKS[name].label: name for name in ("random", "tas", "tas_balanced", "hard_margin")}
    ranges = {"b": (size, 2, size), "n": (n, 1, 8), "h": (h, 1, 20), "seed": (seed, 1, 99), "step": (0, 0, 299)}
    words = {"b": "b, queries", "n": "n, clusters", "h": "h, ranges"}
    controls = {"strategy": Dropdown(options=names, description="Sampling")} | {
        name: IntSlider(value, low, high, description=words.get(name, name))
        for name, (value, low, high) in ranges.items()
    }
    start = {name: value for name, (value, *_) in ranges.items()}
    return Panel(draw, controls, {label: draw(strategy=names[label], **start) for label in [*names][:3]})


def two_losses(student: Tensor, teacher: Tensor, margins: Tensor, alpha: float) -> Panel:
    """Eq. 8 on one batch: the two parts and their sum for any α, and how a step would move each score.

    student, teacher: (B, 2B) scores. margins: (B,) of the pairwise teacher. alpha: the profile's.
    """

    @house_style
    def draw(alpha: float) -> str:
        scores = student.clone().requires_grad_()
        dual = losses.dual(scores, teacher, margins, alpha)
        push = -torch.autograd.grad(dual.total, scores)[0].numpy()
        push = np.sign(push) * np.sqrt(np.abs(push))  # else the query's own passages outshine all others
        values = [value.item() for value in (dual.pairwise, alpha * dual.in_batch, dual.total)]
        parts = dict(zip(("L_Pair", "α · L_InB", "L_DS"), values, strict=True))
        figure = Figure((PAGE, 2.6), layout="constrained")
        bars, matrix = figure.subplots(1, 2, width_ratios=(1, 1.7))
        colours = [LOOKS["pairwise"].colour, LOOKS["in_batch"].colour, GREY]
        drawn = bars.bar([*parts], [*parts.values()], color=colours)
        bars.bar_label(drawn, fmt="{:,.1f}")
        bars.set(ylabel="Loss")
        _matrix(matrix, push, float(np.abs(push).max()), "A step lowers (blue) or raises a score (root)")
        return _image(figure, f"α = {alpha:g}: " + ", ".join(f"{name} {value:,.1f}" for name, value in parts.items()))

    controls = {"alpha": FloatSlider(alpha, min=0, max=4 * alpha, step=alpha / 20, description="α")}
    return Panel(draw, controls, {f"α = {value:g}": draw(value) for value in (alpha, 0, alpha / 10, 4 * alpha)})


def search(lab: Experiment, keys: Iterable[str], examples: Sequence[str]) -> Panel:
    """The first passages that some systems retrieve for any query, side by side.

    examples: queries; where no widgets work, the titles of what is retrieved for them are shown, and no text.
    """
    searches = {key: lab.runs.retriever(lab.listed[key]) for key in keys}
    texts, titles = lab.collection.passages.texts, lab.collection.titles

    def draw(query: str, n: int = 5, body: bool = True) -> str:
        columns = ""
        for key, first in searches.items():
            rows = [row for row in first([query], n)[0][0] if row >= 0]
            found = (f"<b>{escape(titles[row])}</b>" + f"<br>{escape(texts[row])}" * body for row in rows)
            items = "".join(f"<li>{one}</li>" for one in found)
            columns += f'<section style="flex:1 1 14em"><b>{escape(key)}</b><ol>{items}</ol></section>'
        look = "display:flex; flex-wrap:wrap; gap:1em; overflow-wrap:break-word; line-height:1.3"
        return f'<div style="{look}">{columns}</div>'

    wide = ipywidgets.Layout(width="36em", max_width="100%")
    controls = {"query": ipywidgets.Text(examples[0], description="Query", layout=wide)}
    controls["n"] = IntSlider(5, 1, 10, description="passages")
    return Panel(draw, controls, {query: draw(query, body=False) for query in examples})


HOVER = Template(Path(__file__).with_name("hover.html").read_text(encoding="utf-8"))


def cluster_hover(plane: ClusterPlane, clusters: Clusters, vecs: FloatArray, texts: Sequence[str], n: int = 5) -> HTML:
    """Figure 1 to point at: a query, its cluster, and the n queries shown whose vectors are nearest by cosine.

    vecs, texts: of all queries that were clustered. Without JavaScript, each point still has its query as a tooltip.
    """
    queries = np.concatenate([clusters.members[number] for number in plane.numbers])
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=min(n, len(queries) - 1), metric="cosine").fit(vecs[queries]).kneighbors()[1]
    low, high = (end(np.concatenate(plane.points), axis=0) for end in (np.min, np.max))
    groups, names, rows = "", "", iter(zip(queries, near.tolist(), strict=True))
    for number, points, (colour, marker) in zip(plane.numbers, plane.points, CLUSTERS, strict=False):
        shape = MarkerStyle(marker)
        corners = np.asarray(shape.get_path().transformed(shape.get_transform()).to_polygons()[0]) * (7, -7)
        groups += f'<g fill="{"currentColor" if colour == INK else colour}"><defs><path id="hover-{number}" d="M'
        groups += "L".join(f"{x:.1f} {y:.1f}" for x, y in corners) + '"/></defs>\n'
        places = np.round((points - low) / (high - low) * (700, -450) + (0, 450)).astype(int)
        for (x, y), (query, others) in zip(places.tolist(), rows, strict=False):
            title = escape(f"cluster {number}: {texts[query]}")
            groups += f'<use href="#hover-{number}" x="{x}" y="{y}" data-near="{" ".join(map(str, others))}">'
            groups += f"<title>{title}</title></use>\n"
        groups += "</g>"
        x, y = np.median(places, axis=0).astype(int)
        names += f'<text x="{x}" y="{y}">{number}</text>'
    label = f"t-SNE of the {len(queries)} queries of {len(plane.numbers)} clusters, as in Figure 1"
    return HTML(HOVER.substitute(label=label, groups=groups, names=names))
