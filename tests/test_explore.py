"""What moves: controls changed as a reader changes them, over a real tiny experiment; Figure 1 in a real Chromium."""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from numpy.random import Generator, Philox

from lecture import explore
from tas_lib import losses
from tas_lib.config import System
from tas_lib.experiment import Experiment
from tas_lib.report import figures
from tests import test_book, tiny
from tools import notebooks

browser = test_book.browser
BM25, UNTRAINED = System(kind="bm25"), System(kind="untrained")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Experiment]:
    place = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAS_RUNS", str(place / "runs"))
        profile = tiny.settings(place, systems={"untrained": UNTRAINED, "labels": System(teacher="none")})
        tiny.put_shipped(profile, tiny.source())
        tiny.put_collection(profile, tiny.source())
        yield Experiment(profile)


@pytest.fixture(scope="module")
def batches(lab: Experiment) -> explore.Panel:
    return explore.batches(lab, 1)


def test_the_batch_is_the_one_that_training_gets_with_its_scores(lab: Experiment, batches, monkeypatch):
    drawn, real = [], explore.batch_figure
    monkeypatch.setattr(explore, "batch_figure", lambda *args: drawn.append(args) or real(*args))
    for strategy in ("tas", "tas_balanced"):
        batches.controls["strategy"].value = strategy
        batches.controls["step"].value += 3
        batch, texts, clusters, _, h, margins, _ = drawn[-1]
        due = lab.sampler(System(sampling=strategy, seed=1)).batch(batches.controls["step"].value)
        assert sorted(zip(*map(list, batch), strict=True)) == sorted(zip(*map(list, due), strict=True))
        assert texts == [lab.collection.sets["train"].queries.texts[query] for query in batch.queries]
        assert clusters.tolist() == sorted(lab.clusters.assignment[due.queries]) and h == 10
        scores = lab.in_batch_teacher.scores(batch, torch.device("cpu"))
        np.testing.assert_allclose(margins, scores.diagonal()[:, None] - scores, atol=2e-2)
    batches.controls["b"].value, batches.controls["h"].value = 8, 3
    assert drawn[-1][5].shape == (8, 16) and drawn[-1][4] == 3


def test_settings_that_allow_no_batch_are_explained_and_can_be_changed_back(batches):
    batches.controls["strategy"].value = "tas"
    batches.controls["n"].value = 8
    assert batches.shown.value.startswith('<p role="alert">8 clusters per batch, but a batch has')
    batches.controls["n"].value = 1
    assert '<img alt="Queries of ' in batches.shown.value


def test_a_panel_says_that_it_is_drawing_and_when_it_has_drawn(monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    panel = explore.Panel(lambda: said.append(panel.state.value) or "x" if said else "", {}, {"a": "b"})
    said.append("first")
    panel.update()
    assert "drawing" in said[1] and "drawing" not in panel.state.value and panel.shown.value == "x"


def test_the_losses_follow_alpha():
    student, teacher = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    panel = explore.two_losses(student, teacher, torch.arange(4.0), alpha=2)
    panel.controls["alpha"].value = 3
    mean = losses.dual(student, teacher, torch.arange(4.0), 3)
    parts = f"L_Pair {mean.pairwise:,.1f}, α · L_InB {3 * mean.in_batch:,.1f}, L_DS {mean.total:,.1f}"
    assert parts in panel.shown.value


def test_search_shows_what_each_system_retrieves_with_its_text(lab: Experiment):
    panel = explore.search(lab, ["bm25", "untrained"], ["plot", "a mean"])
    query = lab.collection.passages.texts[7]
    panel.controls["query"].value, panel.controls["n"].value = query, 3
    rows = [row for system in (BM25, UNTRAINED) for row in lab.runs.retriever(system)([query], 3)[0][0]]
    shown = re.findall("<li><b>(.*?)</b><br>(.*?)</li>", panel.shown.value)
    texts = [(lab.collection.titles[row], lab.collection.passages.texts[row]) for row in rows]
    assert shown == texts and shown[0][1] == query
    assert "<li><b>p" in panel.still and "<br>" not in panel.still
    panel.controls["query"].value = ""
    assert panel.shown.value.count("<section") == 2


def test_an_executed_notebook_keeps_the_picture_and_not_the_widget(batches):
    output = nbformat.v4.new_output("display_data", batches._repr_mimebundle_())
    assert notebooks.WIDGET in output.data
    bar = nbformat.v4.new_output("display_data", {"text/plain": "Loading weights:   0%|      | 0/101 [00:00<?, ?it/s]"})
    cell = nbformat.v4.new_code_cell("x", outputs=[bar, output])
    (kept,) = notebooks.clean(nbformat.v4.new_notebook(cells=[cell])).cells[0].outputs
    assert set(kept.data) == {"text/html", "text/plain"} and kept.data["text/html"].count("<img alt=") == 3


def test_figure_1_names_a_query_and_its_nearest_under_the_mouse_and_the_keys(lab, tmp_path: Path, browser):
    vecs, texts = lab.query_vecs, lab.collection.sets["train"].queries.texts
    plane = figures.lay_out(lab.clusters, vecs, texts, Generator(Philox(key=[42, 1])))
    html = explore.cluster_hover(plane, lab.clusters, vecs, texts, 3).data
    queries = np.concatenate([lab.clusters.members[number] for number in plane.numbers])
    titles = [f"cluster {lab.clusters.assignment[query]}: {texts[query]}" for query in queries]
    assert list(map(unescape, re.findall("<title>(.*?)</title>", html))) == titles  # tooltips, without JavaScript
    unit = vecs[queries] / np.linalg.norm(vecs[queries], axis=1, keepdims=True)
    near = np.argsort(-(unit @ unit.T - 2 * np.eye(len(unit))), axis=1)[:, :3]
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><meta charset=utf-8>{html}" + explore.radio({"a": "<i>A</i>", "b": "<i>B</i>"}))
    browser.open(page.as_uri())
    browser.show(838, "dark")
    box = "const box = document.querySelectorAll('use')[7].getBoundingClientRect();"
    x, y = browser.value(f"(() => {{ {box} return [box.x + box.width / 2, box.y + box.height / 2] }})()")
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    text = "[...document.querySelectorAll('#hover-text :is(b, li)')].map(node => node.textContent)"
    shown = browser.value(text)
    at = titles.index(shown[0])
    assert shown == [titles[i] for i in (at, *near[at])]
    browser.value("document.getElementById('hover').focus()")
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
    assert browser.value(text)[0] == titles[(at + 1) % len(titles)]
    visible = "[...document.querySelectorAll('i')].filter(node => node.checkVisibility()).map(node => node.textContent)"
    assert browser.value(visible) == ["A"]
    browser.value("document.querySelectorAll('input')[1].click()")
    assert browser.value(visible) == ["B"] and not browser.complaints("file:")
