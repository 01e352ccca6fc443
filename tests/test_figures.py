"""Figures 1 to 3 and pictures that explain: what is drawn, by hand, and that it can be read, in black and white too."""

from itertools import combinations

import matplotlib
import numpy as np
import pytest
import torch
from ir_measures import Measure
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from numpy.random import Generator, Philox
from skimage.color import rgb2lab

from lecture import pictures
from tas_lib import clustering, config, losses, models, sampling
from tas_lib.clustering import Clusters
from tas_lib.config import Evaluation, TestSet
from tas_lib.evaluation.comparisons import SEEDS, STUDENTS
from tas_lib.evaluation.metrics import paper_measures
from tas_lib.evaluation.significance import paired
from tas_lib.records import History, Pairs
from tas_lib.report import curves, figures, forest, style
from tas_lib.report.curves import Curve
from tas_lib.report.figures import ClusterPlane, Fed
from tas_lib.report.style import LOOKS

matplotlib.use("agg")


def rng(seed: int = 0) -> Generator:
    return Generator(Philox(key=[seed, 0]))


def plane() -> ClusterPlane:
    """Clusters with the longest possible examples; one would be a formula if a dollar meant anything."""
    long = style.fit("a query of very many words " * 9, figures.LINE)
    points = [rng(i).normal(size=(50, 2)) + 9 * i for i in range(8)]
    return ClusterPlane(list(range(0, 800, 100)), points, [[long, "costs $5 or $6_x", "gyp|QÄ"]] * 8)


def strategies() -> list[Fed]:
    query, assignment = np.repeat(np.arange(200), 20), np.arange(200) // 50
    pairs = Pairs.sort(200, query, query, np.arange(4000), 9 - rng().gamma(2, 2, 4000))
    members = [np.flatnonzero(assignment == cluster) for cluster in range(4)]
    samplers = {name: sampling.make_sampler(name, pairs, members, config.Sampling(), 1) for name in list(LOOKS)[:3]}
    return [figures.feed(name, sampler, assignment, 10, 0, range(20)) for name, sampler in samplers.items()]


def history(in_batch: float) -> list[History]:
    return [History(4000 * (i + 1), 0.4 + i / 50 - i * i / 500, 9 / (i + 1), in_batch / (i + 1), 0) for i in range(9)]


def figure3(*ends: float) -> Figure:
    """Two panels of five curves with these ends, upwards and downwards."""
    at, concepts = curves.cutoffs(100), ["bm25", "pairwise", "in_batch", "tas_balanced", "fused"]
    values = [np.linspace(end / 2, end, len(at)).tolist() for end in ends]
    five = [Curve(f"System {concept}", concept, line) for concept, line in zip(concepts, values, strict=True)]
    return curves.recall_curves({"Set A": five, "Set B": five[::-1]}, at)


EVALUATION = Evaluation(
    sets=(TestSet(name="a", label="A", graded=True, binarise_at=2), TestSet(name="b", label="B")), depth=100
)


def scored() -> dict[str, dict[str, dict[Measure, dict[str, float]]]]:
    """Random values of the students of Table 4 and the seeds of Table 5; one student was not run."""
    keys, draw = dict.fromkeys([*STUDENTS, *SEEDS]), rng().random
    scores = {
        key: {
            test.name: {m: {f"q{i}": draw() for i in range(30)} for m in paper_measures(test.binarise_at, 100)}
            for test in EVALUATION.sets
        }
        for key in keys
    }
    return scores | {"pairwise/tas": {}}


MARGINS = np.array([0, 1.2, 2.4, 4.6, 6.3, *np.linspace(9.05, 10, 15)])
TOKENS = ["[CLS]", "invert", "a", "gyp", "[SEP]"]
PICTURES = {
    "method": pictures.method,
    "architectures": pictures.architectures,
    "matrix": pictures.batch_matrix,
    "max sim": lambda: pictures.max_sim(rng().normal(size=(5, 20)), TOKENS, TOKENS * 4),
    "margin bins": lambda: pictures.margin_bins(MARGINS, 10, np.arange(20)),
}
FIGURES = PICTURES | {
    "cluster map": lambda: figures.cluster_map(plane()),
    "sizes": lambda: figures.cluster_sizes({"spherical": np.arange(9), "euclidean": np.full(9, 40)}, 32).figure,
    "strategies": lambda: figures.sampling_strategies(strategies()),
    "ranges": lambda: figures.range_frequencies({"tas": np.linspace(0, 1, 10), "tas_balanced": np.ones(10)}).figure,
    "history": lambda: figures.training_history(history(20.0), 0.75),
    "history of one loss": lambda: figures.training_history(history(0.0)),
    "recall": lambda: figure3(0.5, 0.6, 0.7, 0.8, 0.9),
    "recall near 1": lambda: figure3(0.99, 1.0, 0.98, 0.97, 0.3),
}
FIGURES["steps"] = lambda: forest.forest(forest.effects(scored(), EVALUATION, {}))
FIGURES["steps with fewer queries"] = lambda: forest.size_curves(
    {name: forest.at_sizes(*sized(), EVALUATION, {}) for name in ("Queries", "Steps")}
)
each_figure = pytest.mark.parametrize("name", FIGURES)


@each_figure
def test_the_same_figure_gives_the_same_bytes_in_the_width_of_the_paper(name, tmp_path):
    for folder in ("one", "two"):
        style.save(FIGURES[name](), tmp_path / folder, "figure")
    for kind, start in (("svg", b"<?xml"), ("png", b"\x89PNG")):
        one, two = ((tmp_path / folder / f"figure.{kind}").read_bytes() for folder in ("one", "two"))
        assert one == two and one.startswith(start)
    width = style.PAGE if name.startswith(("strategies", "recall", "steps", *PICTURES)) else style.COLUMN
    assert plt.imread(tmp_path / "one" / "figure.png").shape[1] == pytest.approx(200 * width, abs=1)


def test_the_house_style_does_not_leak_and_whole_figures_are_closed():
    plt.close("all")
    before = dict(matplotlib.rcParams)
    for name in ("cluster map", "strategies", "history", "recall", "steps", *PICTURES):
        FIGURES[name]()
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []  # otherwise a notebook would show each twice


def panels(figure: Figure) -> list[Axes]:
    """The axes that hold data; a list of texts has no frame, and a colour bar has one axis only."""
    return [ax for ax in figure.axes if ax.get_frame_on() and ax.get_label() != "<colorbar>"]


def texts(figure: Figure) -> list[Text]:
    """The texts that are drawn; matplotlib also keeps labels of ticks beyond the limits."""
    with matplotlib.rc_context(style.STYLE):  # as in `save`: ticks depend on it
        figure.draw_without_rendering()
    undrawn = set()
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in axis.get_major_ticks():
            if not low <= tick.get_loc() <= high:
                undrawn |= {tick.label1, tick.label2}
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in undrawn]


@each_figure
@pytest.mark.parametrize("dpi", [110, 200])
def test_axes_are_labelled_and_texts_are_on_the_page_not_on_each_other_and_not_too_small(name, dpi, tmp_path):
    figure = FIGURES[name]()
    if dpi == 200:  # as in the file
        style.save(figure, tmp_path, "figure")
        figure.set_dpi(dpi)
    for ax in (axes := panels(figure)):
        below = [other for other in axes if other in ax.get_shared_x_axes().get_siblings(ax)]
        beside = [other for other in axes if other in ax.get_shared_y_axes().get_siblings(ax)]
        assert any(other.get_xlabel() for other in below) and any(other.get_ylabel() for other in beside)
    boxes = {text: Text.get_window_extent(text) for text in texts(figure)}
    inside = figure.bbox.padded(-0.01 * dpi)  # a margin of a hundredth of an inch
    for text, box in boxes.items():
        assert inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1, text
        assert text.get_fontsize() >= style.SMALL
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert width < 1 or height < 0.25 * min(a.height, b.height), (one, other)  # descenders may touch


def test_an_example_is_no_formula_and_is_cut_at_a_word_only_if_it_is_too_long():
    assert "costs $5 or $6_x" in [t.get_text() for t in texts(FIGURES["cluster map"]()) if not t.get_parse_math()]
    width = style.text_width("Compute the density")
    assert style.fit("Compute the density", width) == "Compute the density"
    assert style.fit("Compute the density", width - 0.1) == "Compute the…"
    assert style.fit("Antidisestablishmentarianism", 20) == "…"


# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
BLIND = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TOGETHER = [
    ["random", "tas", "tas_balanced", "hard_margin"],
    ["pairwise", "in_batch"],
    ["spherical", "euclidean"],
    ["bm25", "pairwise", "in_batch", "tas_balanced", "fused"],
    ["bm25", "expanded", "pairwise", "in_batch", "tas_balanced"],
]
"""Concepts of one panel."""


def seen(colour: str, kind: str) -> np.ndarray:
    """CIE Lab of a colour as somebody with this kind of colour blindness sees it."""
    srgb = np.array(to_rgb(colour))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = (np.asarray(BLIND[kind]) @ linear).clip(0, 1)
    return rgb2lab(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize("kind", BLIND)
@pytest.mark.parametrize("names", [*TOGETHER[:3], "clusters"])
def test_colours_of_one_panel_can_be_told_apart(names, kind):
    colours = [c for c, _ in style.CLUSTERS] if names == "clusters" else [LOOKS[name].colour for name in names]
    # a difference of about 2 is just visible; matplotlib's first eight colours come to 5 with protanopia
    assert min(np.linalg.norm(seen(a, kind) - seen(b, kind)) for a, b in combinations(colours, 2)) > 15


def test_what_has_a_colour_has_another_mark_too():
    assert len({marker for _, marker in style.CLUSTERS}) == len(style.CLUSTERS) == 8
    for names in TOGETHER[:3]:
        assert len({LOOKS[name].dash for name in names}) == len(names)
    for names in TOGETHER[3:]:
        assert len({LOOKS[name].marker for name in names}) == len({LOOKS[name].colour for name in names}) == len(names)


def test_a_plane_shows_each_clusters_own_queries_and_the_same_ones_again():
    cluster = np.repeat(np.arange(10), 20)
    vecs = (np.eye(10, 16)[cluster] * 5 + rng().normal(size=(200, 16))).astype(np.float32)
    clusters = Clusters(cluster, np.eye(10, 16))
    queries = [f"query {q} of cluster {c}." for q, c in enumerate(cluster)]
    one, again = (figures.lay_out(clusters, vecs, queries, rng(3)) for _ in range(2))
    assert one.numbers == again.numbers == sorted(set(one.numbers))
    assert [points.shape for points in one.points] == [(20, 2)] * 8
    assert all(np.array_equal(a, b) for a, b in zip(one.points, again.points, strict=True))
    for number, examples in zip(one.numbers, one.examples, strict=True):
        best = clustering.nearest(clusters, vecs, number, 3)
        assert examples == [f"query {q} of cluster {number}" for q in best]


def test_examples_are_distinct_and_long_ones_come_last_and_cut():
    vecs = np.ones((4, 2))
    vecs[:, 1] += [0.0, 0.1, 0.2, 0.3]  # the nearest to (1, 1) first
    queries = ["long words " * 40, "A.", "a", "b"]
    (examples,) = figures.lay_out(Clusters(np.zeros(4, int), np.ones((1, 2))), vecs, queries, rng()).examples
    assert examples[:2] == ["a", "b"] and examples[2].startswith("long words long") and examples[2].endswith("…")


def test_clusters_are_drawn_by_falling_size():
    assert figures.cluster_sizes({"spherical": np.array([3, 9, 5])}, 4).lines[0].get_ydata().tolist() == [9, 5, 3]


def test_a_batch_is_shown_with_its_largest_cluster_first():
    # queries 0..3 with pairs of margins 0..9: range i holds margin i; clusters of 1 and 3 queries
    pairs = Pairs.sort(4, np.repeat(np.arange(4), 10), np.zeros(40, int), np.arange(40), np.tile(np.arange(10.0), 4))
    sampler = sampling.make_sampler("random", pairs, [], config.Sampling(batch_size=4), 1)
    fed = figures.feed("random", sampler, np.array([7, 2, 2, 2]), 10, step=0, steps=range(3))
    batch = sampler.batch(0)
    margin_of = dict(zip(batch.queries.tolist(), batch.margins.tolist(), strict=True))
    assert fed.clusters.tolist() == [2, 2, 2, 7]
    assert fed.ranges.tolist() == [margin_of[query] for query in (1, 2, 3, 0)]
    assert fed.margins.tolist() == [m for step in range(3) for m in sampler.batch(step).margins]
    np.testing.assert_allclose(fed.pools, 0.1)


def test_range_shares_by_hand():
    # ranges of width 5: 0, 1, 2 lie in the first, 10 in the second; equal margins fill the last
    pairs = Pairs.sort(2, np.array([0, 0, 0, 0, 1, 1]), *[np.zeros(6, int)] * 2, np.array([0.0, 1, 2, 10, 3, 3]))
    assert figures.range_shares(pairs, np.array([0, 1]), 2).tolist() == [[0.75, 0.25], [0.0, 1.0]]


def test_the_best_evaluation_is_marked_and_alpha_is_applied():
    above, below = panels(figures.training_history(history(20.0), 0.75))
    (marked,) = [line.get_ydata() for line in above.lines if len(line.get_ydata()) == 1]
    assert marked[0] == max(entry.ndcg for entry in history(20.0))
    assert below.lines[1].get_ydata()[0] == pytest.approx(15.0)
    assert len(panels(figures.training_history(history(0.0)))[1].lines) == 1


def test_cutoffs_run_from_ten_to_the_depth_with_the_round_ones():
    at = curves.cutoffs(1000)
    assert at == sorted(set(at)) and (at[0], at[-1]) == (10, 1000)
    assert {10, 20, 50, 100, 200, 500, 1000} <= set(at)
    assert (curves.cutoffs(5), curves.cutoffs(11)) == ([5], [10, 11])


def test_labels_are_moved_apart_evenly_and_only_where_they_must_be():
    assert curves.apart([0.2, 0.8], 0.1) == pytest.approx([0.2, 0.8])
    assert curves.apart([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])
    for seed in range(20):
        ends = rng(seed).random(6)
        moved = np.array(curves.apart(ends.tolist(), 0.08))
        assert (np.diff(moved[np.argsort(ends)]) >= 0.08 - 1e-9).all()
        assert moved.mean() == pytest.approx(ends.mean())


def test_every_line_is_named_at_its_end_and_panels_share_an_axis_that_holds_every_point():
    figure = figure3(0.3, 0.6, 0.7, 0.8, 0.9)
    figure.draw_without_rendering()
    assert [ax.get_title() for ax in figure.axes] == ["Set A", "Set B"]
    for ax in figure.axes:
        assert (ax.get_ylim(), ax.get_xlim(), ax.get_xscale()) == ((0.1, 1.0), (10, 100), "log")
        names = [child for child in ax.get_children() if isinstance(child, Annotation)]
        for name, line in zip(names, ax.lines, strict=True):
            assert name.xy == pytest.approx((line.get_xdata()[-1], line.get_ydata()[-1]))
            assert LOOKS[name.get_text().removeprefix("System ")].colour == line.get_color()
            assert Text.get_window_extent(name).x0 >= ax.get_window_extent().x1
    unnamed = curves.recall_curves({"Set": [Curve("", "bm25", [0.1, 0.2])]}, [10, 20])
    assert [text.get_text() for text in unnamed.axes[0].texts] == ["BM25"]


def test_steps_by_hand():
    scores = scored()
    found = {(effect.step, effect.measure): effect for effect in forest.effects(scores, EVALUATION, {})}
    assert len(found) == 2 * 10 and found["Pairwise: random → TAS", "nDCG@10"].ours is None
    # nDCG@10 of labels .602 .602 .353, pairwise .687 .654 .385: steps .085 .052 .032; the 2023 study .071 .046 .048
    step = found["Labels → pairwise", "nDCG@10"]
    assert step.others == {"paper": pytest.approx(0.169 / 3), "2023 study": pytest.approx(0.165 / 3)}
    recall = found["In-batch: TAS → TAS-Balanced", "R@100 (theirs R@1K)"]  # .799 .826 .968 to .800 .820 .968
    assert recall.others["paper"] == pytest.approx(-0.005 / 3)
    # ours: two independent sets, and two seeds' deviation of the mean over both
    measures = [paper_measures(test.binarise_at, 100)[0] for test in EVALUATION.sets]
    columns = [*zip("ab", measures, strict=True)]
    pairs = [[scores[key][name][m] for key in ("pairwise/random", "labels")] for name, m in columns]
    a, b = (paired(*pair) for pair in pairs)
    means = [np.mean([[*scores[key][name][m].values()] for name, m in columns]) for key in SEEDS]
    assert step.ours.difference == pytest.approx((a.difference + b.difference) / 2)
    assert step.ours.error**2 == pytest.approx((a.error**2 + b.error**2) / 4 + 2 * np.var(means, ddof=1))
    figure = forest.forest([*found.values()])
    drawn = [len(ax.containers) for ax in panels(figure)]
    assert drawn == [8, 8]  # error bars, but for the two steps from and to the system that was not run


def sized() -> tuple[dict[str, dict[str, dict[Measure, dict[str, float]]]], dict[str, int]]:
    """The systems of `scored`, whose training on fewer queries gave half of every value."""
    scores = scored()
    for key in ("labels", "pairwise/random"):
        scores[f"{key}/few"] = {
            name: {measure: {query: value / 2 for query, value in values.items()} for measure, values in sets.items()}
            for name, sets in scores[key].items()
        }
    return scores, {"few": 10, "": 100}


def test_steps_with_fewer_queries_are_the_steps_of_the_systems_trained_on_them():
    found = forest.at_sizes(*sized(), EVALUATION, {})
    whole = {
        (line.step, line.measure.split()[0]): line.ours.difference
        for line in forest.effects(scored(), EVALUATION, {})
        if line.ours
    }
    shown = {(line.step, line.measure, line.size): line.effect.difference for line in found}
    assert {step for step, _, queries in shown if queries == 10} == {"Labels → pairwise"}
    for (step, measure, queries), difference in shown.items():
        if queries == 100 and step in forest.STEPS:
            assert difference == pytest.approx(whole[step, measure])
        if queries == 10:
            assert difference == pytest.approx(shown[step, measure, 100] / 2)


def test_the_bins_of_a_query_show_what_the_library_draws():
    n, queries = len(MARGINS), np.zeros(40_000, int)
    pairs = Pairs(np.array([0, n]), np.zeros(n, int), np.zeros(n, int), MARGINS)
    rows = sampling.balanced_pairs(pairs, 10, queries, rng())
    above, below = pictures.margin_bins(MARGINS, 10, drawn := np.bincount(rows, minlength=n)).axes
    any_pair, balanced, shown = (line.get_ydata() for line in below.lines)
    assert any_pair.sum() == pytest.approx(1) and balanced.sum() == pytest.approx(1)
    np.testing.assert_allclose(any_pair, 1 / 20)
    np.testing.assert_allclose(balanced, drawn / len(rows), atol=0.007)  # 1/6 and 1/90; three standard deviations
    np.testing.assert_array_equal(shown, drawn / len(rows))
    counts = sampling.bin_numbers(pairs, 0, MARGINS, 10)
    assert [text.get_text() for text in above.texts] == ["pairs", *map(str, np.bincount(counts, minlength=10))]
    shares = [text.get_text() for text in below.texts]
    assert shares[:11] == ["any", "5%", "5%", "5%", "0%", "5%", "0%", "5%", "0%", "0%", "75%"]
    assert shares[11:] == ["balanced", "17%", "17%", "17%", "0%", "17%", "0%", "17%", "0%", "0%", "17%"]


def test_the_sum_below_a_heat_map_is_late_interaction():
    vecs = torch.randn(2, 1, 5, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 5)
    figure = pictures.max_sim((vecs[0, 0] @ vecs[1, 0].T).numpy(), TOKENS, TOKENS)
    score = float(models.late_interaction(vecs[0], mask, vecs[1], mask))
    assert figure.axes[0].texts[-1].get_text() == f"Σ = {score:.2f}"


def test_the_cells_of_a_loss_are_those_with_a_gradient():
    student, teacher = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    student.requires_grad_()
    cells: dict[str, set[tuple[int, int]]] = {pictures.PAIRWISE: set(), pictures.IN_BATCH: set()}
    for patch in pictures.batch_matrix(4).axes[0].patches[:36]:  # 32 cells, and a half over each own positive
        left, top = patch.get_path().vertices[:, 0].min(), patch.get_path().vertices[:, 1].max()
        cells[to_hex(patch.get_facecolor()).upper()].add((round((96 - top) / 22), round((left - 44) / 22)))
    crossed = losses.in_batch_margin_mse(student, teacher)
    for colour, loss in ((pictures.PAIRWISE, losses.margin_mse(student, torch.ones(4))), (pictures.IN_BATCH, crossed)):
        (gradient,) = torch.autograd.grad(loss, student)
        assert cells[colour] == {(int(i), int(j)) for i, j in gradient.nonzero()}


def test_the_picture_in_readme_is_the_drawn_one(tmp_path):
    style.save(pictures.method(), tmp_path, "method")
    committed = config.ROOT / "figures" / "method.svg"
    assert (tmp_path / "method.svg").read_bytes() == committed.read_bytes(), "CONTRIBUTING says how to make it again"
