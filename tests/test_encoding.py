"""Vectors in shards: made by several processes, killed, on two machines, cut off; the bytes are those of one run."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml

from tas_lib.config import Profile, System
from tas_lib.data import store
from tas_lib.experiment import Experiment
from tas_lib.retrieval import encode as encoding
from tools import encode

ROOT = Path(__file__).parents[1]
TEN = "import sys; from tas_lib import encoding; encoding.SHARD = 10; from tools import encode; "  # 80 texts, 8 shards
RUN = "sys.exit(encode.main(['tiny', 'X']))"
DIES = """
import os, signal; import numpy as np
save = np.save
def half(f, array, **options):
    if '00002.npy' in f.name:
        f.write(b'half of it')
        f.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(f, array, **options)
np.save = half
"""


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """Of a published checkpoint, X, as a file that other processes can read, with its collection."""
    monkeypatch.setattr(encoding, "SHARD", 10)
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TAS_PROFILES", str(tmp_path))
    encoder = tiny.save_encoder(tmp_path / "tiny" / "encoder")
    tiny.ship(encoder)
    made = tiny.settings(tmp_path, systems={"X": System(kind="checkpoint", source=str(encoder), pooling="mean")})
    written = made.model_dump(mode="json", exclude_unset=True, exclude={"name"})
    written["source"]["kind"] = made.source.kind
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(written))
    tiny.put_collection(made, tiny.source())
    return made


def vectors(lab: Experiment) -> bytes:
    """What `vectors` reads, byte for byte."""
    lab.vectors(lab.profile.systems["X"])
    folder = lab.store.artefact(*lab._vectors_from(lab.profile.systems["X"]), unused)
    assert sorted(os.listdir(folder)) == ["provenance.json", "vectors.npy"]
    return (folder / "vectors.npy").read_bytes()


def unused(*_: object) -> None:
    raise AssertionError("made, though it was there")


def by_one(profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What one process makes, elsewhere."""
    with monkeypatch.context() as patch:
        patch.setenv("TAS_RUNS", str(tmp_path / "one"))
        tiny.put_collection(profile, tiny.source())
        return vectors(Experiment(profile))


def process(code: str, **environment: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_processes_make_the_bytes_of_one(profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [process(TEN + RUN, RANK=rank, LOCAL_RANK=rank, **common) for rank in "01"]
    said = [p.communicate(timeout=900)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    encoded = [[line.split()[2] for line in text.splitlines() if line.startswith("encoded")] for text in said]
    assert encoded == [["0", "2", "4", "6"], ["1", "3", "5", "7"]]
    assert "80 vectors of" in said[0] and "80 vectors of" not in said[1]
    assert vectors(Experiment(profile)) == by_one(profile, tmp_path, monkeypatch)


@pytest.mark.slow
def test_accelerate_launches_it(profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "ten.py").write_text(f"{TEN}{RUN}")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", tmp_path / "ten.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "80 vectors of" in done.stdout
    assert vectors(Experiment(profile)) == by_one(profile, tmp_path, monkeypatch)


def test_a_killed_run_goes_on_and_makes_the_same_bytes(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    killed = process(DIES + TEN + RUN)
    said = killed.communicate(timeout=900)[0]
    assert killed.returncode == -signal.SIGKILL, said
    lab = Experiment(profile)
    folder, missing = lab.encode_shards(profile.systems["X"], [])
    assert missing == [2, 3, 4, 5, 6, 7]
    assert {path.name for path in folder.glob("*.npy")} == {"00000.npy", "00001.npy"}  # no half of the third
    kept = (folder / "00001.npy").stat().st_mtime_ns
    lab.encode_shards(profile.systems["X"], [2])
    assert (folder / "00001.npy").stat().st_mtime_ns == kept
    assert vectors(lab) == by_one(profile, tmp_path, monkeypatch)


def on_another_machine(profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where another machine has made shards 4 to 7."""
    with monkeypatch.context() as patch:
        patch.setenv("TAS_RUNS", str(tmp_path / "there"))
        tiny.put_collection(profile, tiny.source())
        return Experiment(profile).encode_shards(profile.systems["X"], encode.portion("4:", 8))[0]


def test_two_ranges_made_apart_and_joined_are_the_bytes_of_one(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    there, lab = on_another_machine(profile, tmp_path, monkeypatch), Experiment(profile)
    here, missing = lab.encode_shards(profile.systems["X"], encode.portion(":4", 8))
    assert missing == [4, 5, 6, 7]
    shutil.copytree(there, here, dirs_exist_ok=True)
    assert lab.encode_shards(profile.systems["X"], [])[1] == []
    with monkeypatch.context() as patch:
        patch.setattr(encoding, "encode", unused)
        joined = vectors(lab)
    assert joined == by_one(profile, tmp_path, monkeypatch)


@pytest.mark.parametrize("left", [0, 70, 128, 200])
def test_a_shard_that_was_cut_off_on_its_way_is_named(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int
):
    there, lab = on_another_machine(profile, tmp_path, monkeypatch), Experiment(profile)
    here, _ = lab.encode_shards(profile.systems["X"], [])
    (here / "00005.npy").write_bytes((there / "00005.npy").read_bytes()[:left])
    sentence = r"00005\.npy is missing, cut off or no array: .*; copy it again, or delete it and it is encoded again"
    with pytest.raises(ValueError, match=sentence):
        lab.vectors(profile.systems["X"])
    (here / "00005.npy").unlink()
    assert len(lab.vectors(profile.systems["X"])) == 80


def test_a_shard_of_another_length_is_named(profile: Profile):
    lab = Experiment(profile)
    folder, _ = lab.encode_shards(profile.systems["X"], [])
    store.save_arrays(folder, **{"00005": np.zeros((9, 16), np.float16)})
    with pytest.raises(ValueError, match=r"00005\.npy holds 9 vectors in float16, not 10; copy it again, or delete it"):
        lab.encode_shards(profile.systems["X"], [1])


@pytest.mark.parametrize("renamed", [False, True])
def test_killed_while_they_are_joined_nothing_is_lost(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: bool
):
    lab = Experiment(profile)
    folder, _ = lab.encode_shards(profile.systems["X"], range(8))
    really = os.replace

    def stop(a: Path, b: Path) -> None:
        if renamed:
            really(a, b)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            encoding.join(folder, 8)
    assert (folder / "vectors.npy").exists() == renamed
    if renamed:
        (folder / "00003.npy").unlink()  # killed while it deletes them
    with monkeypatch.context() as patch:
        patch.setattr(encoding, "encode", unused)
        joined = vectors(lab)
    assert joined == by_one(profile, tmp_path, monkeypatch)


def test_vectors_are_mapped_and_shards_hold_what_encode_gives(profile: Profile):
    lab, system = Experiment(profile), profile.systems["X"]
    folder, _ = lab.encode_shards(system, [3])
    expected = encoding.encode(lab.load(system), lab._passages(system), np.arange(30, 40)).astype(np.float16)
    assert np.array_equal(np.load(folder / "00003.npy"), expected)
    found = lab.vectors(system)
    assert (found.shape, found.dtype) == ((80, 16), torch.float16)
    assert np.array_equal(found[30:40].numpy(), expected)
    mapped = Path("/proc/self/maps")
    if mapped.exists():
        address = f"{found.data_ptr() // 4096 * 4096:x}-"
        assert any(line.startswith(address) and "vectors.npy" in line for line in mapped.read_text().splitlines())


def test_a_collection_of_one_shard_is_one_file_already(profile: Profile, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoding, "SHARD", 100)
    lab, system = Experiment(profile), profile.systems["X"]
    found = lab.vectors(system)
    folder = lab.store.artefact(*lab._vectors_from(system), unused)
    assert sorted(os.listdir(folder)) == ["00000.npy", "provenance.json"]
    assert found.shape == (80, 16)
    assert lab.encode_shards(system, [0]) == (folder, [])


def test_what_cannot_be_encoded_is_said_before_any_work(
    profile: Profile, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(encoding, "encode", unused)
    for words, sentence in (
        (["tiny", "bm25"], "profile 'tiny' has no dense system 'bm25'; there are: X"),
        (["tiny", "X", "--shards", "4"], "--shards 4: write it as first:end, such as 0:8"),
        (["tiny", "X", "--shards", "4:9"], "--shards 4:9: there are 8 shards, 0:8 is all of them"),
        (["tiny", "X", "--shards", "4:4"], "--shards 4:4: there are 8 shards, 0:8 is all of them"),
    ):
        assert encode.main(words) == 2
        assert capsys.readouterr().err.splitlines()[-1] == sentence
