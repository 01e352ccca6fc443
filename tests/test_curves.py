"""Figure 3: recall by hand, and a picture whose labels can be read."""

import os
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from tas_lib.config import ROOT
from tas_lib.data import trec
from tas_lib.evaluation import metrics
from tas_lib.report import curves, style
from tas_lib.report.curves import Curve

matplotlib.use("agg")
TREC = Path(os.environ.get("TAS_SHARED_DATA", ROOT.parent / "shared" / "data")) / "trec-dl-2020"


def rising(n: int, end: float) -> list[float]:
    return np.linspace(end / 2, end, n).tolist()


def five(at: list[int], ends: tuple[float, ...]) -> list[Curve]:
    concepts = ["bm25", "pairwise", "in_batch", "tas_balanced", "fused"]
    return [Curve(f"System {c}", c, rising(len(at), end)) for c, end in zip(concepts, ends, strict=True)]


def drawn(ends: tuple[float, ...]) -> Figure:
    at = curves.cutoffs(100)
    return curves.recall_curves({"Set A": five(at, ends), "Set B": five(at, ends[::-1])}, at)


def test_recall_curve_by_hand():
    run = {"x": {"a": 3.0, "b": 2.0, "c": 1.0}, "y": {"a": 1.0}}
    qrels = {"x": {"a": 1, "b": 2, "c": 2}, "y": {"a": 2, "b": 2}}
    # from grade 2 on: x has b and c, found second and third; y has a and b, of which a is found first
    assert metrics.recall_curve(run, qrels, [1, 2, 3], binarise_at=2) == [0.25, 0.5, 0.75]
    # from grade 1 on: x has three of three
    assert metrics.recall_curve(run, qrels, [1, 3]) == pytest.approx([(1 / 3 + 1 / 2) / 2, (1 + 1 / 2) / 2])


@pytest.mark.parametrize("depth", [5, 10, 11, 100, 1000])
def test_cutoffs_run_from_ten_to_the_depth_with_the_round_ones(depth):
    at = curves.cutoffs(depth)
    assert at == sorted(set(at)) and (at[0], at[-1]) == (min(10, depth), depth)
    assert {number for number in (10, 20, 50, 100, 200, 500, 1000) if number <= depth} <= set(at)


def test_labels_are_moved_apart_evenly_and_only_where_they_must_be():
    assert curves.apart([0.2, 0.8], 0.1) == pytest.approx([0.2, 0.8])
    # three in one place: the middle one stays
    assert curves.apart([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])
    rng = np.random.default_rng(0)
    for _ in range(20):
        places = rng.random(6)
        moved = np.array(curves.apart(places.tolist(), 0.08))
        assert (np.diff(moved[np.argsort(places)]) >= 0.08 - 1e-9).all()
        assert moved.mean() == pytest.approx(places.mean())


@pytest.mark.parametrize("ends", [(0.9, 0.9, 0.9, 0.9, 0.9), (0.5, 0.6, 0.7, 0.8, 0.9), (0.99, 1.0, 0.98, 0.97, 0.3)])
def test_every_line_is_named_at_its_end_and_no_two_names_overlap(ends):
    figure = drawn(ends)
    figure.draw_without_rendering()
    page = figure.bbox
    for ax in figure.axes:
        names = [child for child in ax.get_children() if isinstance(child, Annotation)]
        assert [name.get_text() for name in names] == [curve.name for curve in five([10], ends)]
        boxes = [matplotlib.text.Text.get_window_extent(name) for name in names]
        assert not [1 for a, b in combinations(boxes, 2) if a.overlaps(b)]
        assert all(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1 for box in boxes)
        assert all(name.get_fontsize() >= style.SMALL for name in names)
        assert all(box.x0 >= ax.get_window_extent().x1 for box in boxes)
        for name, line in zip(names, ax.lines, strict=True):
            assert name.xy == pytest.approx((line.get_xdata()[-1], line.get_ydata()[-1]))


def test_lines_are_told_apart_without_colour():
    ax = drawn((0.5, 0.6, 0.7, 0.8, 0.9)).axes[0]
    assert len({(line.get_linestyle(), line.get_marker()) for line in ax.lines}) == len(ax.lines) == 5
    assert len({line.get_color() for line in ax.lines}) == 5


def test_panels_have_one_axis_of_recall_that_holds_every_point():
    figure = drawn((0.3, 0.6, 0.7, 0.8, 0.9))
    assert {ax.get_ylim() for ax in figure.axes} == {(0.1, 1.0)}
    assert [ax.get_title() for ax in figure.axes] == ["Set A", "Set B"]
    assert figure.axes[0].get_xscale() == "log" and figure.axes[0].get_xlim() == (10, 100)


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        style.save(drawn((0.5, 0.6, 0.7, 0.8, 0.9)), tmp_path, name)
    for kind in ("svg", "png"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


@pytest.mark.skipif(not TREC.is_dir(), reason="no official TREC-DL 2020 runs at hand")
def test_the_papers_two_sparse_curves_are_drawn_from_official_runs():
    qrels = trec.read_qrels(TREC / "qrels.dl20-passage.txt")
    at = curves.cutoffs(1000)
    found = [
        Curve("", concept, metrics.recall_curve(trec.read_run(TREC / f"{run}.run.gz"), qrels, at, binarise_at=2))
        for concept, run in (("bm25", "p_bm25"), ("expanded", "p_d2q_bm25"))
    ]
    assert [round(curve.recall[-1], 4) for curve in found] == [0.7863, 0.8452]  # FACTS §4
    assert all(b > a for a, b in zip(*(curve.recall for curve in found), strict=True))  # expansion at every cutoff
    ax = curves.recall_curves({"TREC-DL'20": found}, at).axes[0]
    assert [text.get_text() for text in ax.texts] == ["BM25", "docT5query"]
