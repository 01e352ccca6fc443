"""Artefacts: complete or absent, made again when their origin changes, through kills, full disks and second runs."""

import errno
import json
import logging
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tas_lib.data import store, versions
from tas_lib.data.store import Store

fork = multiprocessing.get_context("fork")


def numbers(n: int) -> Callable[[Path], None]:
    """Makes an artefact of n numbers."""
    return lambda folder: store.save_arrays(folder, numbers=np.arange(n))


def unused(folder: Path) -> None:
    raise AssertionError("made, though it was there")


def read(folder: Path) -> list[int]:
    return store.load_array(folder / "numbers.npy").tolist()


# --- single files ------------------------------------------------------------------------------------------------


def test_a_file_is_visible_only_when_complete_and_a_failed_write_keeps_the_old_one(tmp_path: Path):
    path = tmp_path / "deep" / "a.txt"
    with store.atomic_write(path) as f:
        f.write("old")
        f.flush()
        assert not path.exists()
    with pytest.raises(KeyError), store.atomic_write(path) as f:
        f.write("half")
        raise KeyError
    assert path.read_text() == "old" and os.listdir(path.parent) == ["a.txt"]


def test_json_reads_back_and_a_broken_file_is_named(tmp_path: Path):
    path = tmp_path / "folder" / "a.json"
    store.write_json(path, {"é": [1, 2.5, None]})
    assert store.read_json(path) == {"é": [1, 2.5, None]}
    for damage in (lambda: path.write_text('{"é": [1'), path.unlink):
        damage()
        with pytest.raises(ValueError, match="folder/a.json is missing or cut off"):
            store.read_json(path)


@pytest.mark.parametrize("left", [5, 200])
def test_a_truncated_array_is_named_and_nothing_is_unpickled(tmp_path: Path, left: int):
    store.save_arrays(tmp_path, a=np.arange(100), none=np.zeros(0))
    assert store.load_array(tmp_path / "a.npy").tolist() == list(range(100))
    assert store.load_array(tmp_path / "none.npy").shape == (0,)
    os.truncate(tmp_path / "a.npy", left)
    np.save(tmp_path / "b.npy", np.array([{"an": "object"}]), allow_pickle=True)
    for name in "ab":
        with pytest.raises(ValueError, match=rf"/{name}.npy is missing, cut off or no array"):
            store.load_array(tmp_path / f"{name}.npy")


def test_digests_distinguish_parameters_arrays_files_and_folders(tmp_path: Path):
    (tmp_path / "a").write_text("text")
    parts = [{"a": 1, "b": 2}, {"a": 1, "b": 3}, np.arange(3), np.arange(4), tmp_path / "a", "text"]
    digests = [store.digest(part) for part in parts]
    assert len(set(digests)) == len(parts) and all(len(digest) == 16 for digest in digests)
    assert store.digest({"b": 2, "a": 1}) == digests[0]
    assert store.folder_digest(Path("someone/model")) == store.digest("someone/model")
    of_folder = [store.folder_digest(tmp_path)]
    for text in ("other text", "text"):
        (tmp_path / "a").write_text(text)
        of_folder.append(store.folder_digest(tmp_path))
    assert of_folder[0] == of_folder[2] != of_folder[1]
    for made in (1, 2):
        store.write_json(tmp_path / "provenance.json", {"made": made})
        of_folder.append(store.folder_digest(tmp_path))
    assert len({*of_folder}) == 4 and json.loads((tmp_path / "provenance.json").read_text()) == {"made": 2}


def test_a_large_file_counts_by_its_size_where_that_is_enough(tmp_path: Path):
    sizes, contents = [], []
    for text in ("0123456789", "9876543210", "98765432100"):
        (tmp_path / "weights").write_text(text)
        sizes.append(store.folder_digest(tmp_path, largest=9))
        contents.append(store.folder_digest(tmp_path, largest=11))
    assert sizes[0] == sizes[1] != sizes[2] and len({*contents}) == 3


def test_a_file_that_a_shipped_model_borrows_counts_once_it_has_changed(tmp_path: Path):
    (tmp_path / "teacher").mkdir()
    (tmp_path / "words").write_text("as they were")
    store.write_json(tmp_path / "teacher" / "provenance.json", {})
    before = store.folder_digest(tmp_path / "teacher")
    line = f"{store.file_digest(tmp_path / 'words')}  ../words\n"
    (tmp_path / "teacher" / store.BORROWED).write_text(line)
    assert store.folder_digest(tmp_path / "teacher") == before
    (tmp_path / "words").write_text("others")
    assert store.folder_digest(tmp_path / "teacher") != before


# --- artefacts ---------------------------------------------------------------------------------------------------


def test_an_artefact_is_made_once_and_records_its_origin(tmp_path: Path):
    origin = ("some/numbers", {"n": 3, "path": Path("x")}, {"texts": "abc"})
    folder = Store(tmp_path).artefact(*origin, numbers(3))
    assert folder == tmp_path / "some" / "numbers"
    assert Store(tmp_path).artefact(*origin, unused) == folder
    note = store.provenance(folder)
    assert (note["parameters"], note["inputs"]) == ({"n": 3, "path": "x"}, {"texts": "abc"})
    assert note["files"] == {"numbers.npy": (folder / "numbers.npy").stat().st_size}
    assert note["versions"]["numpy"] == np.__version__
    assert {"commit"} < note["versions"].keys() and note["seconds"] >= 0
    assert sorted(os.listdir(folder)) == ["numbers.npy", "provenance.json"]
    assert os.listdir(folder.parent) == ["numbers"]


def test_a_flipped_bit_is_found_by_the_digest_of_the_file(tmp_path: Path):
    folder = Store(tmp_path).artefact("numbers", {"n": 3}, {}, numbers(3))
    assert store.damaged(folder) == []
    content = bytearray((folder / "numbers.npy").read_bytes())
    content[-1] ^= 1
    (folder / "numbers.npy").write_bytes(content)
    assert Store(tmp_path).artefact("numbers", {"n": 3}, {}, unused) == folder  # the size is the same
    assert store.damaged(folder) == ["numbers.npy has changed"]
    (folder / "numbers.npy").unlink()
    assert store.damaged(folder) == ["numbers.npy is missing"]


def test_equal_content_has_an_equal_digest_whatever_time_it_took(tmp_path: Path):
    def make(name: str, number: int, seconds: float) -> str:
        def fill(folder: Path) -> None:
            store.write_json(folder / "number.json", number)
            store.write_json(folder / "seconds.json", seconds)

        folder = Store(tmp_path).artefact(name, {}, {}, fill, timed=["seconds.json"])
        assert store.provenance(folder)["files"].keys() == {"number.json", "seconds.json"}
        return store.digest_of(folder)

    assert make("a", 1, 2.5) == make("b", 1, 3.5) != make("c", 2, 2.5)


@pytest.mark.parametrize(
    ("parameters", "inputs", "why"),
    [
        ({"n": 4, "more": 0}, {"texts": "abc"}, "remade, parameters changed: more, n, seed"),
        ({"n": 3, "seed": 1}, {"texts": "xyz"}, "remade, inputs changed: texts"),
    ],
)
def test_a_changed_origin_makes_it_again_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, parameters: dict, inputs: dict, why: str
):
    Store(tmp_path).artefact("numbers", {"n": 3, "seed": 1}, {"texts": "abc"}, numbers(3))
    with caplog.at_level(logging.INFO):
        folder = Store(tmp_path).artefact("numbers", parameters, inputs, numbers(7))
    assert [record.message for record in caplog.records] == [f"numbers: {why}"]
    assert read(folder) == list(range(7))
    assert store.provenance(folder)["parameters"] == parameters
    assert sorted(os.listdir(tmp_path)) == [".locks", "numbers"]


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda folder: os.truncate(folder / "numbers.npy", 130), "numbers.npy is missing or cut off"),
        (lambda folder: (folder / "provenance.json").unlink(), "not made yet"),
        (lambda folder: (folder / "provenance.json").write_text("[1]"), "its provenance cannot be read"),
    ],
)
def test_a_damaged_artefact_is_noticed_and_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], object], why: str
):
    damage(Store(tmp_path).artefact("numbers", {}, {}, numbers(100)))
    with caplog.at_level(logging.INFO):
        folder = Store(tmp_path).artefact("numbers", {}, {}, numbers(100))
    assert why in caplog.text
    assert read(folder) == list(range(100))


def test_an_error_while_making_keeps_the_old_artefact(tmp_path: Path):
    folder = Store(tmp_path).artefact("numbers", {"n": 3}, {}, numbers(3))

    def fail(draft: Path) -> None:
        (draft / "half").write_text("half")
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        Store(tmp_path).artefact("numbers", {"n": 4}, {}, fail)
    assert read(folder) == [0, 1, 2]
    assert read(Store(tmp_path).artefact("numbers", {"n": 4}, {}, numbers(4))) == [0, 1, 2, 3]


# --- killed ------------------------------------------------------------------------------------------------------


def killed(root: Path, make: Callable[[Path], None], parameters: dict[str, int]) -> None:
    """Make the artefact in a child process that kills itself where `make` calls `die`."""

    def child() -> None:
        Store(root).artefact("numbers", parameters, {}, make)
        os._exit(0)

    process = fork.Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def half(folder: Path) -> None:
    (folder / "first-part").write_text("hours of work")
    (folder / ".tmpZe02xb").touch()  # as safetensors leaves it
    with store.atomic_write(folder / "second-part") as f:
        f.write("half")
        f.flush()
        die()


def test_killed_halfway_the_old_artefact_stays_and_the_next_call_of_the_same_origin_resumes(tmp_path: Path):
    Store(tmp_path).artefact("numbers", {"n": 3}, {}, numbers(3))
    killed(tmp_path, half, {"n": 4})
    assert read(Store(tmp_path).artefact("numbers", {"n": 3}, {}, unused)) == [0, 1, 2]

    def rest(folder: Path) -> None:
        assert (folder / "first-part").read_text() == "hours of work"
        numbers(4)(folder)

    folder = Store(tmp_path).artefact("numbers", {"n": 4}, {}, rest)
    assert sorted(os.listdir(folder)) == ["first-part", "numbers.npy", "provenance.json"]  # no drafts
    assert sorted(store.provenance(folder)["files"]) == ["first-part", "numbers.npy"]
    killed(tmp_path, half, {"n": 5})
    folder = Store(tmp_path).artefact("numbers", {"n": 6}, {}, numbers(6))
    assert sorted(os.listdir(folder)) == ["numbers.npy", "provenance.json"]  # no draft of other parameters


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_killed_between_two_renames_nothing_is_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
):
    """After the last file, there are renames: of provenance.json, of the old folder, of the new one."""
    Store(tmp_path).artefact("numbers", {"n": 3}, {}, numbers(3))
    really, left = os.replace, 1 + renames  # numbers.npy first

    def count(a: Path, b: Path) -> None:
        nonlocal left
        if left == 0:
            die()
        left -= 1
        really(a, b)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", count)
        killed(tmp_path, numbers(4), {"n": 4})
    made = []

    def again(folder: Path) -> None:
        made.append(folder)
        numbers(4)(folder)

    folder = Store(tmp_path).artefact("numbers", {"n": 4}, {}, again)
    assert len(made) == (1 if renames == 0 else 0)
    assert read(folder) == [0, 1, 2, 3]
    assert sorted(os.listdir(tmp_path)) == [".locks", "numbers"]


# --- several processes -------------------------------------------------------------------------------------------


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Callable[[Callable[[], object]], multiprocessing.process.BaseProcess]]:
    """Starts a process and waits until it has begun its work."""
    started = []

    def start(work: Callable[[], object]) -> multiprocessing.process.BaseProcess:
        started.append(fork.Process(target=work))
        started[-1].start()
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.join()


def test_two_processes_that_need_an_artefact_make_it_once(tmp_path: Path, busy, caplog: pytest.LogCaptureFixture):
    def slow(folder: Path) -> None:
        (tmp_path / "begun").touch()
        time.sleep(0.5)
        numbers(3)(folder)

    caplog.set_level(logging.INFO)
    busy(lambda: Store(tmp_path).artefact("systems/one", {}, {}, slow))
    assert read(Store(tmp_path).artefact("systems/two", {}, {}, numbers(2))) == [0, 1]
    assert read(Store(tmp_path).artefact("systems/one", {}, {}, unused)) == [0, 1, 2]
    assert caplog.messages[-1] == "systems/one: another process is making it; waiting for it"


def test_who_waits_makes_the_artefact_if_the_other_process_dies(tmp_path: Path, busy):
    def dies(folder: Path) -> None:
        (tmp_path / "begun").touch()
        time.sleep(0.3)
        die()

    busy(lambda: Store(tmp_path).artefact("systems/one", {}, {}, dies))
    assert read(Store(tmp_path).artefact("systems/one", {}, {}, numbers(1))) == [0]


def test_a_worker_that_outlives_a_killed_run_blocks_nobody(tmp_path: Path):
    """The workers of a DataLoader notice only after seconds that the run is gone."""

    def with_a_worker(folder: Path) -> None:
        worker = fork.Process(target=time.sleep, args=(60,))
        worker.start()
        (tmp_path / "worker").write_text(str(worker.pid))
        die()

    killed(tmp_path, with_a_worker, {})
    try:
        assert read(Store(tmp_path).artefact("numbers", {}, {}, numbers(1))) == [0]
    finally:
        os.kill(int((tmp_path / "worker").read_text()), signal.SIGKILL)


# --- a full disk -------------------------------------------------------------------------------------------------


def by_numpy(folder: Path) -> None:
    store.save_arrays(folder, numbers=np.arange(100_000))


def by_arrow(folder: Path) -> None:
    pq.write_table(pa.table({"n": np.random.default_rng(0).integers(1 << 60, size=100_000)}), folder / "n.parquet")


def by_text(folder: Path) -> None:
    (folder / "text").write_text("x" * 400_000)


def by_safetensors(folder: Path) -> None:
    raise ValueError("Error while serializing: I/O error: No space left on device (os error 28)")  # as on a full disk


def with_little_space(work: Callable[[], object]) -> str:
    """What `work` raises in a process that may not write files of 100 kB."""
    reader, writer = fork.Pipe(duplex=False)

    def child() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            work()
            writer.send("nothing")
        except Exception as error:
            writer.send(f"{type(error).__name__}: {error}")

    process = fork.Process(target=child)
    process.start()
    message = reader.recv()
    process.join()
    return str(message)


@pytest.mark.parametrize("make", [by_numpy, by_arrow, by_text, by_safetensors])
def test_without_space_one_sentence_says_so_and_the_old_artefact_stays(tmp_path: Path, make: Callable[[Path], None]):
    folder = Store(tmp_path).artefact("numbers", {"n": 3}, {}, numbers(3))
    message = with_little_space(lambda: Store(tmp_path).artefact("numbers", {"n": 4}, {}, make))
    assert message == f"OSError: [Errno {errno.ENOSPC}] the disk is full: numbers was not made, the old one is kept"
    assert read(folder) == [0, 1, 2]
    assert not [path for path in tmp_path.rglob("*.npy*") if path.parent != folder], "something incomplete is left"
    assert read(Store(tmp_path).artefact("numbers", {"n": 5}, {}, numbers(5))) == [0, 1, 2, 3, 4]


def test_without_space_for_a_single_file_the_old_one_stays(tmp_path: Path):
    store.save_arrays(tmp_path, numbers=np.arange(3))
    message = with_little_space(lambda: by_numpy(tmp_path))
    assert message.endswith("No space left on device: numbers.npy was not written, the old one is kept")
    assert read(tmp_path) == [0, 1, 2] and os.listdir(tmp_path) == ["numbers.npy"]


# --- versions ----------------------------------------------------------------------------------------------------


def test_versions_are_recorded_without_git_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    versions.versions.cache_clear()
    assert versions.versions()["commit"] == "unknown"
    versions.versions.cache_clear()


def test_packages_that_differ_from_the_pins_are_named(tmp_path: Path):
    names = ["numpy", "sklearn", "no_such_package", "scipy"]
    installed = versions.installed(names)
    assert (installed["numpy"], installed["no_such_package"]) == (np.__version__, "not installed")
    pins = tmp_path / "requirements.txt"
    pins.write_text(
        f"# data\nnumpy=={np.__version__}\n\nscikit-learn==0.1 ; sys_platform == 'linux'\nno-such.package==2.0\n"
    )
    assert versions.off_pins(names, pins) == [
        f"sklearn {installed['sklearn']} (pinned: 0.1)",
        "no_such_package not installed (pinned: 2.0)",
    ]
