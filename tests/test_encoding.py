"""Vectors in shards: a killed run resumes, and the bytes are those of one run."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from tas_lib.config import ROOT
from tas_lib.data import store
from tas_lib.models import BertDot
from tas_lib.retrieval import encode as encoding

TEN = "import sys; from tas_lib.retrieval import encode as encoding; encoding.SHARD = 10; "  # 80 texts, 8 shards
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
WRITE = "sys.path.insert(0, 'tests'); import test_encoding; test_encoding.write(sys.argv[1])"


@pytest.fixture(autouse=True)
def eight_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "SHARD", 10)


def model_and_texts() -> tuple[BertDot, tiny.Ragged]:
    return BertDot(tiny.bert(), "mean"), tiny.texts(80, 12, seed=0)


def write(folder: Path | str) -> bytes:
    """All vectors in one file, byte for byte."""
    Path(folder).mkdir(exist_ok=True)
    encoding.write_vectors(partial(encoding.encode, *model_and_texts()), 80, Path(folder))
    assert [path.name for path in Path(folder).glob("*.npy")] == ["vectors.npy"]
    return Path(folder, "vectors.npy").read_bytes()


def test_a_lower_precision_gives_nearly_the_same_vectors_and_makes_another_artefact():
    exact, rough = (encoding.encode(*model_and_texts(), precision=precision) for precision in ("fp32", "bf16"))
    assert rough.dtype == np.float32 and not np.array_equal(exact, rough)
    np.testing.assert_allclose(rough, exact, atol=0.05)


def never(*_: object) -> None:
    raise AssertionError("encoded again")


def test_a_killed_run_resumes_and_makes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", DIES + TEN + WRITE, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    killed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert {path.name for path in folder.glob("*.npy")} == {"00000.npy", "00001.npy"}  # no half of the third
    encoded: list[int] = []
    encode = encoding.encode
    monkeypatch.setattr(encoding, "encode", lambda *args: encoded.append(args[2][0]) or encode(*args))
    resumed = write(folder)
    assert encoded == [20, 30, 40, 50, 60, 70]
    assert resumed == write(tmp_path / "one")


@pytest.mark.parametrize("renamed", [False, True])
def test_a_run_killed_while_it_joins_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: bool):
    folder, expected = tmp_path / "killed", write(tmp_path / "one")
    folder.mkdir()
    really = os.replace

    def stop(a: Path, b: Path) -> None:
        if b.name != "vectors.npy" or renamed:
            really(a, b)
        if b.name == "vectors.npy":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            write(folder)
    assert (folder / "vectors.npy").exists() == renamed and (folder / "00003.npy").exists()
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
