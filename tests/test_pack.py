"""The results pack: another store opens on the same numbers without training, or says why not."""

import logging
from pathlib import Path

import pytest
import tiny

from tas_lib.config import System
from tas_lib.experiment import BM25, Experiment
from tools import pack, verify

SYSTEMS = {
    "labels": System(teacher="none", sampling="random", batch_size=6),
    "pairwise/random": System(teacher="pairwise", sampling="random", batch_size=6),
    "dual/tas_balanced": System(batch_size=6),
    "bm25+dual/tas_balanced": System(kind="fused", of=("bm25", "dual/tas_balanced")),
}
KEYS = ["bm25", *SYSTEMS]


def opened(monkeypatch: pytest.MonkeyPatch, place: Path, name: str, seed: int = 0) -> Experiment:
    """An experiment with a store of its own, in which there is only the collection."""
    monkeypatch.setenv("TAS_RUNS", str(place / name))
    profile = tiny.settings(place, systems=SYSTEMS)
    tiny.put_collection(profile, tiny.source(seed))
    return Experiment(profile)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def packed(place: Path) -> tuple[Path, object]:
    """A pack of a whole run, and what that run measured."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        tiny.put_shipped(tiny.settings(place), tiny.source())
        lab = opened(monkeypatch, place, "first")
        measured = numbers(lab)
        pack.pack(lab.profile, place / "tiny.tar.xz")
        pack.pack(lab.profile, place / "again.tar.xz")
    assert (place / "tiny.tar.xz").read_bytes() == (place / "again.tar.xz").read_bytes()
    return place / "tiny.tar.xz", measured


def numbers(lab: Experiment) -> object:
    histories = [lab.history(lab.listed[key]) for key in ("labels", "dual/tas_balanced")]
    return lab.scores(KEYS), histories, lab.clusters.assignment.tolist()


def test_a_new_store_opens_on_the_same_numbers_without_training(
    place: Path, packed: tuple[Path, object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    lab = opened(monkeypatch, place, "second")
    pack.unpack(lab.profile, packed[0])
    with caplog.at_level(logging.INFO, logger="tas_lib.data.store"):
        assert numbers(lab) == packed[1]
        assert not [line for line in caplog.messages if line.startswith(("systems", "retrieved", "measured", "clust"))]
    assert verify.main(lab.profile) == 0
    ours, theirs = (place / store / "tiny" / "systems" for store in ("second", "first"))
    for weights in ("pairwise-random-b6/model.safetensors", "dual-tas_balanced-b6/model.safetensors"):
        assert (ours / weights).read_bytes() == (theirs / weights).read_bytes()
    assert lab.run(lab.listed["dual/tas_balanced"], "graded") and lab.run(BM25, "dev")
    with pytest.raises(ValueError, match="the weights of labels.* are not here"):
        lab.run(lab.listed["labels"], "dev")
    lab.trained(lab.listed["labels"])  # on request
    assert lab.run(lab.listed["labels"], "dev")


def test_a_pack_that_does_not_fit_is_refused_and_nothing_is_used(
    place: Path, packed: tuple[Path, object], monkeypatch: pytest.MonkeyPatch
):
    lab, damaged = opened(monkeypatch, place, "third"), place / "damaged.tar.xz"
    data = bytearray(packed[0].read_bytes())
    for broken in (data[: len(data) // 2], data[:99] + bytes([data[99] ^ 1]) + data[100:]):
        damaged.write_bytes(broken)
        with pytest.raises(ValueError, match=r"the results pack damaged.tar.xz is damaged"):
            pack.unpack(lab.profile, damaged)
    other = opened(monkeypatch, place, "fourth", seed=1)
    with pytest.raises(ValueError, match="of another collection"):
        pack.unpack(other.profile, packed[0])
    assert not [*lab.profile.folder.glob("[!.]*/*-b6"), *other.profile.folder.glob("[!.]*/*-b6")]
