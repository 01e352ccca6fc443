"""Vectors in shards: made by several processes, killed, on two machines, cut off; the bytes are those of one run."""

import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml

from tas_lib.config import ROOT, Profile, System
from tas_lib.data import store
from tas_lib.experiment import Experiment
from tas_lib.models import BertDot
from tas_lib.retrieval import encode as encoding
from tools import parallel

TEN = "import sys; from tas_lib.retrieval import encode as encoding; encoding.SHARD = 10; "  # 80 texts, 8 shards
RUN = "from tools import parallel; sys.exit(parallel.main(['encode', 'tiny', 'X']))"
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
SHARDS = "sys.path.insert(0, 'tests'); import test_encoding; test_encoding.write(sys.argv[1])"


@pytest.fixture(autouse=True)
def eight_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "SHARD", 10)


def model_and_texts() -> tuple[BertDot, tiny.Ragged]:
    return BertDot(tiny.bert(), "mean"), tiny.texts(80, 12, seed=0)


def write(folder: Path | str, numbers: range | None = None) -> bytes:
    """All vectors in one file, byte for byte; or only some shards."""
    Path(folder).mkdir(exist_ok=True)
    if numbers is not None:
        encoding.write_shards(partial(encoding.encode, *model_and_texts()), 80, Path(folder), numbers)
        return b""
    encoding.write_vectors(partial(encoding.encode, *model_and_texts()), 80, Path(folder))
    assert [path.name for path in Path(folder).glob("*.npy")] == ["vectors.npy"]
    return Path(folder, "vectors.npy").read_bytes()


def never(*_: object) -> None:
    raise AssertionError("encoded again")


def process(code: str, *words: object, **environment: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_killed_run_resumes_and_makes_the_same_bytes(tmp_path: Path):
    folder = tmp_path / "killed"
    killed = process(DIES + TEN + SHARDS, folder)
    output = killed.communicate(timeout=900)[0]
    assert killed.returncode == -signal.SIGKILL, output
    assert encoding.missing(folder, 80) == [2, 3, 4, 5, 6, 7]
    assert {path.name for path in folder.glob("*.npy")} == {"00000.npy", "00001.npy"}  # no half of the third
    kept = (folder / "00001.npy").stat().st_mtime_ns
    write(folder, range(2, 3))
    assert (folder / "00001.npy").stat().st_mtime_ns == kept
    assert write(folder) == write(tmp_path / "one")


def test_two_ranges_made_apart_and_joined_are_the_bytes_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, parallel.portion(":4", 8))
    write(there, parallel.portion("4:", 8))
    assert encoding.missing(here, 80) == [4, 5, 6, 7]
    shutil.copytree(there, here, dirs_exist_ok=True)
    expected = write(tmp_path / "one")
    monkeypatch.setattr(encoding, "encode", never)
    assert write(here) == expected


@pytest.mark.parametrize("left", [0, 200])
def test_a_shard_that_was_cut_off_on_its_way_is_named(tmp_path: Path, left: int):
    write(tmp_path, range(8))
    path = tmp_path / "00005.npy"
    path.write_bytes(path.read_bytes()[:left])
    sentence = r"00005\.npy is missing, cut off or no array: .*; copy it again, or delete it and it is encoded again"
    with pytest.raises(ValueError, match=sentence):
        write(tmp_path)
    path.unlink()
    write(tmp_path)


def test_a_shard_of_another_length_is_named(tmp_path: Path):
    store.save_arrays(tmp_path, **{"00005": np.zeros((9, 16), np.float16)})
    with pytest.raises(ValueError, match=r"00005\.npy holds 9 vectors in float16, not 10; copy it again, or delete it"):
        write(tmp_path, range(1))


@pytest.mark.parametrize("renamed", [False, True])
def test_a_run_killed_while_it_joins_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: bool):
    folder, expected = tmp_path / "killed", write(tmp_path / "one")
    write(folder, range(8))
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
    monkeypatch.setattr(encoding, "encode", never)
    assert write(folder) == expected


def test_vectors_are_mapped_and_are_what_encode_returns(tmp_path: Path):
    expected = encoding.encode(*model_and_texts(), np.arange(30, 40)).astype(np.float16)
    write(tmp_path)
    vecs = encoding.read_vectors(tmp_path)
    assert (vecs.shape, vecs.dtype) == ((80, 16), torch.float16)
    assert np.array_equal(vecs[30:40].numpy(), expected)
    maps = Path("/proc/self/maps")
    if maps.exists():
        address = f"{vecs.data_ptr() // 4096 * 4096:x}-"
        assert any(line.startswith(address) and "vectors.npy" in line for line in maps.read_text().splitlines())


def test_a_single_shard_is_one_file_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoding, "SHARD", 100)
    encoding.write_vectors(partial(encoding.encode, *model_and_texts()), 80, tmp_path)
    assert os.listdir(tmp_path) == ["00000.npy"]
    assert encoding.read_vectors(tmp_path).shape == (80, 16)
    assert encoding.missing(tmp_path, 80) == []


# --- tools/parallel.py -------------------------------------------------------------------------------------------


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """With a published checkpoint, X; in a file that other processes can read, with its collection."""
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


def vectors_of_x(profile: Profile) -> bytes:
    return Experiment(profile).vectors(profile.systems["X"]).numpy().tobytes()


def test_two_processes_make_the_bytes_of_one(profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    common["MASTER_PORT"] = str(tiny.free_port())
    both = [process(TEN + RUN, RANK=rank, LOCAL_RANK=rank, **common) for rank in "01"]
    output = [p.communicate(timeout=900)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0], output
    encoded = [[line.split()[2] for line in text.splitlines() if line.startswith("encoded")] for text in output]
    assert encoded == [["0", "2", "4", "6"], ["1", "3", "5", "7"]]
    assert "80 vectors of" in output[0] and "80 vectors of" not in output[1]
    with monkeypatch.context() as patch:
        patch.setattr(encoding, "encode", never)
        together = vectors_of_x(profile)
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "one"))
    tiny.put_collection(profile, tiny.source())
    assert together == vectors_of_x(profile)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["bm25"], "no system 'bm25' to encode; there are: X"),
        (["X", "--shards", "4"], "--shards 4: write it as first:end, such as 0:8"),
        (["X", "--shards", "4:9"], "--shards 4:9: there are 8 shards, 0:8 is all of them"),
        (["X", "--shards", "4:4"], "--shards 4:4: there are 8 shards, 0:8 is all of them"),
    ],
)
def test_what_cannot_be_encoded_is_said_before_any_work(
    profile: Profile, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words, sentence
):
    monkeypatch.setattr(encoding, "encode", never)
    assert parallel.main(["encode", "tiny", *words]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == sentence
