from itertools import combinations, pairwise

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.random import Generator, Philox
from skimage.color import rgb2lab

from tas_lib import clustering, config, sampling
from tas_lib.clustering import Clusters
from tas_lib.records import History, Pairs
from tas_lib.report import figures
from tas_lib.report.figures import Fed, TopicPlane

matplotlib.use("agg")


def rng(seed: int = 0) -> Generator:
    return Generator(Philox(key=[seed, 0]))


def plane(n: int = 8) -> TopicPlane:
    """Topics with the longest examples that there can be; one would be a formula if a dollar meant anything."""
    long = figures.fit("a query of very many words " * 9, figures.LINE)
    places = [rng(i).normal(size=(50, 2)) + 9 * i for i in range(n)]
    return TopicPlane(list(range(0, 100 * n, 100)), places, [[long, "costs $5 or $6_x", "gyp|QÄ"]] * n)


def pair_table(n_queries: int = 200, n: int = 20) -> Pairs:
    margins = 9 - rng().gamma(2, 2, n_queries * n)
    query = np.repeat(np.arange(n_queries), n)
    return Pairs.sort(n_queries, query, query, np.arange(len(query)), margins)


def strategies() -> list[Fed]:
    pairs, assignment = pair_table(), np.arange(200) // 50
    topics = Clusters(assignment, np.zeros((4, 1))).topics
    return [
        figures.feed(
            name, sampling.make_sampler(name, pairs, topics, config.Sampling(), 1), assignment, 10, 0, range(20)
        )
        for name in ("random", "tas", "tas_balanced")
    ]


def history(in_batch: float) -> list[History]:
    return [History(4000 * (i + 1), 0.4 + i / 50 - i * i / 500, 9 / (i + 1), in_batch / (i + 1), 0) for i in range(9)]


FIGURES = {
    "topic map": lambda: figures.topic_map(plane()),
    "topic map of two": lambda: figures.topic_map(plane(2)),
    "topic sizes": lambda: figures.topic_sizes({"spherical": np.arange(9), "euclidean": np.full(9, 40)}, 32).figure,
    "strategies": lambda: figures.sampling_strategies(strategies()),
    "queries by topic": lambda: figures.queries_by_topic(strategies()[0]).figure,
    "pairs by range": lambda: figures.pairs_by_range(strategies()[1]).figure,
    "margins": lambda: figures.margin_distribution(*strategies()[:2], np.linspace(-9, 9, 30)).figure,
    "range frequencies": lambda: (
        figures.range_frequencies({"tas": np.linspace(0, 1, 10), "tas_balanced": np.ones(10)}).figure
    ),
    "history": lambda: figures.training_history(history(20.0), 0.75),
    "history of one loss": lambda: figures.training_history(history(0.0)),
}
each_figure = pytest.mark.parametrize("name", FIGURES)


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


# Files


@each_figure
def test_the_same_figure_gives_the_same_bytes(name, tmp_path):
    for folder in ("one", "two"):
        figures.save(FIGURES[name](), tmp_path / folder, "figure")
    for kind, start in (("svg", b"<?xml"), ("png", b"\x89PNG")):
        one, two = ((tmp_path / folder / f"figure.{kind}").read_bytes() for folder in ("one", "two"))
        assert one == two
        assert one.startswith(start)
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["figure.png", "figure.svg"]


def test_a_figure_is_as_wide_as_a_column_or_a_page_at_200_dots_an_inch(tmp_path):
    for name, width in (("topic map", figures.COLUMN), ("strategies", figures.PAGE), ("history", figures.COLUMN)):
        figures.save(FIGURES[name](), tmp_path, "figure")
        assert plt.imread(tmp_path / "figure.png").shape[1] == pytest.approx(200 * width, abs=1)


def test_the_house_style_does_not_leak():
    before = dict(matplotlib.rcParams)
    FIGURES["topic sizes"]()
    assert dict(matplotlib.rcParams) == before


def test_a_whole_figure_is_left_to_the_caller_to_show():
    FIGURES["topic map"](), FIGURES["strategies"](), FIGURES["history"]()
    assert plt.get_fignums() == []  # else a notebook would show each twice


# To read


def panels(figure: Figure) -> list[Axes]:
    """The axes that hold data; a list of texts has no frame."""
    return [ax for ax in figure.axes if ax.get_frame_on()]


@each_figure
def test_every_axis_says_what_it_shows(name):
    axes = panels(FIGURES[name]())
    assert axes
    for ax in axes:
        below = [other for other in axes if other in ax.get_shared_x_axes().get_siblings(ax)]
        beside = [other for other in axes if other in ax.get_shared_y_axes().get_siblings(ax)]
        assert any(other.get_xlabel() for other in below)
        assert any(other.get_ylabel() for other in beside)


def texts(figure: Figure) -> list[Text]:
    """What there is to read; matplotlib also keeps labels of ticks beyond the limits, undrawn."""
    figure.draw_without_rendering()
    undrawn = set()
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in axis.get_major_ticks():
            if not low <= tick.get_loc() <= high:
                undrawn |= {tick.label1, tick.label2}
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in found if text not in undrawn]


@each_figure
@pytest.mark.parametrize("dpi", [110, 200])
def test_texts_lie_on_the_paper_and_not_on_each_other(name, dpi, tmp_path):
    figure = FIGURES[name]()
    if dpi == 200:  # as in the file
        figures.save(figure, tmp_path, "figure")
        figure.set_dpi(dpi)
    boxes = {text: text.get_window_extent() for text in texts(figure)}
    inside = figure.bbox.padded(-0.01 * dpi)  # a margin of a hundredth of an inch
    for text, box in boxes.items():
        assert inside.x0 <= box.x0 and box.x1 <= inside.x1, text
        assert inside.y0 <= box.y0 and box.y1 <= inside.y1, text
    for (one, a), (other, b) in combinations(boxes.items(), 2):
        width = min(a.x1, b.x1) - max(a.x0, b.x0)
        height = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert width < 1 or height < 0.25 * min(a.height, b.height), (one, other)  # descenders may touch


@each_figure
def test_no_text_is_smaller_than_the_smallest(name):
    assert min(text.get_fontsize() for text in texts(FIGURES[name]())) >= figures.SMALL


def test_a_dollar_is_a_dollar():
    assert "costs $5 or $6_x" in [
        text.get_text() for text in texts(figures.topic_map(plane())) if not text.get_parse_math()
    ]


def test_a_text_is_cut_at_a_word_and_only_if_need_be():
    whole = "Compute the density"
    width = figures.text_width(whole)
    assert figures.fit(whole, width) == whole
    assert figures.fit(whole, width - 0.1) == "Compute the…"
    assert figures.fit("Antidisestablishmentarianism", 20) == "…"


def test_a_panel_is_drawn_where_it_is_asked_for():
    _, (left, right) = plt.subplots(1, 2)
    assert figures.range_frequencies({"tas": np.ones(10)}, left) is left
    assert left.lines and not right.lines


# Colours

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
BLIND = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def seen(colour: str, kind: str) -> np.ndarray:
    """CIE Lab of a colour as somebody with this kind of colour blindness sees it."""
    srgb = np.array(to_rgb(colour))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = (np.asarray(BLIND[kind]) @ linear).clip(0, 1)
    return rgb2lab(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize("kind", BLIND)
@pytest.mark.parametrize(
    "colours",
    [
        [colour for colour, _ in figures.TOPICS],
        [figures.COLOURS[name] for name in ("random", "tas", "tas_balanced", "hard_margin")],
        [figures.COLOURS[name] for name in ("pairwise", "in_batch", "ndcg")],
        [figures.COLOURS[name] for name in ("spherical", "euclidean")],
    ],
    ids=["topics", "strategies", "losses", "clusterings"],
)
def test_colours_that_meet_are_told_apart(colours, kind):
    # a difference of about 2 is just visible; matplotlib's first eight colours come to 5 with protanopia
    assert min(np.linalg.norm(seen(a, kind) - seen(b, kind)) for a, b in combinations(colours, 2)) > 15


def test_what_has_a_colour_has_another_mark_too():
    assert len({marker for _, marker in figures.TOPICS}) == len(figures.TOPICS) == 8
    for together in (
        ["random", "tas", "tas_balanced", "hard_margin"],
        ["pairwise", "in_batch"],
        ["spherical", "euclidean"],
    ):
        assert len({str(figures.DASHES[name]) for name in together}) == len(together)


# What is drawn


def test_a_plane_shows_each_topics_own_queries_and_the_same_ones_again():
    topic = np.repeat(np.arange(10), 20)
    vecs = (np.eye(10, 16)[topic] * 5 + rng().normal(size=(200, 16))).astype(np.float32)
    clusters = Clusters(topic, np.eye(10, 16))
    queries = [f"query {q} of topic {t}." for q, t in enumerate(topic)]
    one, again = (figures.lay_out(clusters, vecs, queries, rng(3)) for _ in range(2))
    assert one.numbers == again.numbers == sorted(set(one.numbers))
    assert [places.shape for places in one.places] == [(20, 2)] * 8
    assert all(np.array_equal(a, b) for a, b in zip(one.places, again.places, strict=True))
    for number, examples in zip(one.numbers, one.examples, strict=True):
        best = clustering.nearest(clusters, vecs, number, 3)
        assert examples == [f"query {q} of topic {number}" for q in best]


def test_examples_differ_and_long_ones_are_taken_last_and_cut():
    vecs = np.ones((4, 2))
    vecs[:, 1] += [0.0, 0.1, 0.2, 0.3]  # the nearest to (1, 1) first
    long = "long words " * 40
    plane = figures.lay_out(Clusters(np.zeros(4, int), np.ones((1, 2))), vecs, [long, "A.", "a", "b"], rng())
    assert plane.examples[0][:2] in (["A", "b"], ["a", "b"])
    assert plane.examples[0][2].endswith("…")


def test_a_batch_is_fed_with_its_largest_topic_first():
    # queries 0..3 with pairs of margins 0..9: range i holds margin i; topics of 1 and 3 queries
    pairs = Pairs.sort(4, np.repeat(np.arange(4), 10), np.zeros(40, int), np.arange(40), np.tile(np.arange(10.0), 4))
    sampler = sampling.make_sampler("random", pairs, [], config.Sampling(batch_size=4), 1)
    fed = figures.feed("random", sampler, np.array([7, 2, 2, 2]), 10, step=0, steps=range(3))
    batch = sampler.batch(0)
    margin_of = dict(zip(batch.queries.tolist(), batch.margins.tolist(), strict=True))
    assert fed.topics.tolist() == [2, 2, 2, 7]
    assert fed.ranges.tolist() == [margin_of[query] for query in (1, 2, 3, 0)]
    assert fed.margins.tolist() == [m for step in range(3) for m in sampler.batch(step).margins]
    np.testing.assert_allclose(fed.pools, 0.1)


def test_range_shares_by_hand():
    # ranges of width 5: 0, 1, 2 lie in the first, 10 in the second; equal margins fill the last
    pairs = Pairs.sort(2, np.array([0, 0, 0, 0, 1, 1]), *[np.zeros(6, int)] * 2, np.array([0.0, 1, 2, 10, 3, 3]))
    assert figures.range_shares(pairs, np.array([0, 1]), 2).tolist() == [[0.75, 0.25], [0.0, 1.0]]


def test_topics_are_drawn_by_falling_size():
    ax = figures.topic_sizes({"spherical": np.array([3, 9, 5])}, 4)
    assert ax.lines[0].get_ydata().tolist() == [9, 5, 3]
    assert all(a >= b for a, b in pairwise(ax.lines[0].get_ydata()))


def test_the_best_evaluation_is_marked_and_alpha_is_applied():
    above, below = panels(figures.training_history(history(20.0), 0.75))
    ndcg = [row.ndcg for row in history(20.0)]
    (marked,) = [line.get_ydata() for line in above.lines if len(line.get_ydata()) == 1]
    assert marked[0] == max(ndcg)
    assert below.lines[1].get_ydata()[0] == pytest.approx(15.0)
    assert len(panels(figures.training_history(history(0.0)))[1].lines) == 1
