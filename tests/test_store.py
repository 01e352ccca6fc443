import errno
import json
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tas_lib.data import store
from tas_lib.data.store import Store

fork = multiprocessing.get_context("fork")


def numbers(n: int) -> Callable[[Path], None]:
    """Makes an artefact of n numbers."""
    return lambda folder: store.save_arrays(folder, numbers=np.arange(n))


def unused(folder: Path) -> None:
    raise AssertionError("made, though it was there")


def read(place: Path) -> list[int]:
    return store.load_array(place / "numbers.npy").tolist()


# --- one file ----------------------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError), store.atomic_write(path) as f:
        f.write("half")
        raise KeyError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_write_is_seen_only_when_whole(tmp_path: Path):
    path = tmp_path / "deep" / "a.txt"
    with store.atomic_write(path) as f:
        f.write("new")
        f.flush()
        assert not path.exists()
    assert path.read_text() == "new"


def test_json_comes_back_and_a_broken_file_is_named(tmp_path: Path):
    path = tmp_path / "folder" / "a.json"
    store.write_json(path, {"é": [1, 2.5, None]})
    assert store.read_json(path) == {"é": [1, 2.5, None]}
    path.write_text('{"é": [1')
    with pytest.raises(ValueError, match="folder/a.json is missing or cut off"):
        store.read_json(path)
    path.unlink()
    with pytest.raises(ValueError, match="folder/a.json is missing or cut off"):
        store.read_json(path)


@pytest.mark.parametrize("left", [0, 5, 127, 200])
def test_an_array_that_is_cut_off_is_named(tmp_path: Path, left: int):
    store.save_arrays(tmp_path, a=np.arange(100), none=np.zeros(0))
    assert store.load_array(tmp_path / "a.npy").tolist() == list(range(100))
    assert store.load_array(tmp_path / "none.npy").shape == (0,)
    os.truncate(tmp_path / "a.npy", left)
    with pytest.raises(ValueError, match=r"/a.npy is missing, cut off or no array"):
        store.load_array(tmp_path / "a.npy")


def test_nothing_is_unpickled(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.array([{"an": "object"}]), allow_pickle=True)
    with pytest.raises(ValueError, match="no array"):
        store.load_array(tmp_path / "a.npy")
    with pytest.raises(ValueError):
        store.save_arrays(tmp_path, b=np.array([{"an": "object"}]))
    assert os.listdir(tmp_path) == ["a.npy"]


def test_digests_tell_parameters_arrays_and_files_apart(tmp_path: Path):
    (tmp_path / "a").write_text("text")
    parts = [{"a": 1, "b": 2}, {"a": 1, "b": 3}, np.arange(3), np.arange(4), tmp_path / "a", "text"]
    digests = [store.digest(part) for part in parts]
    assert len(set(digests)) == len(parts)
    assert store.digest({"b": 2, "a": 1}) == digests[0]
    assert all(len(digest) == 16 for digest in digests)


# --- artefacts ---------------------------------------------------------------------------------------------------


def test_an_artefact_is_made_once_and_says_what_it_was_made_from(tmp_path: Path):
    place = Store(tmp_path).artefact("some/numbers", {"n": 3, "path": Path("x")}, {"texts": "abc"}, numbers(3))
    assert place == tmp_path / "some" / "numbers"
    assert Store(tmp_path).artefact("some/numbers", {"n": 3, "path": Path("x")}, {"texts": "abc"}, unused) == place
    note = store.provenance(place)
    assert (note["parameters"], note["inputs"]) == ({"n": 3, "path": "x"}, {"texts": "abc"})
    assert note["files"] == {"numbers.npy": (place / "numbers.npy").stat().st_size}
    assert note["versions"]["numpy"] == np.__version__
    assert {"commit"} < note["versions"].keys() and note["seconds"] >= 0
    assert sorted(os.listdir(place)) == ["numbers.npy", "provenance.json"]
    assert os.listdir(place.parent) == ["numbers"]


def test_equal_content_has_an_equal_digest_whenever_it_was_made(tmp_path: Path):
    places = [Store(tmp_path / name).artefact("n", {}, {}, numbers(n)) for name, n in [("a", 3), ("b", 3), ("c", 4)]]
    first, second, third = map(store.digest_of, places)
    assert first == second != third


def test_files_that_tell_times_are_no_part_of_a_digest_and_all_others_are(tmp_path: Path):
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
        ({"n": 4, "seed": 1}, {"texts": "abc"}, "made anew, parameters changed: n"),
        ({"n": 3, "seed": 1, "more": 0}, {"texts": "abc"}, "made anew, parameters changed: more"),
        ({"n": 3}, {"texts": "abc"}, "made anew, parameters changed: seed"),
        ({"n": 3, "seed": 1}, {"texts": "xyz"}, "made anew, inputs changed: texts"),
        ({"n": 3, "seed": 1}, {}, "made anew, inputs changed: texts"),
    ],
)
def test_other_parameters_or_inputs_make_it_anew_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, parameters: dict, inputs: dict, why: str
):
    Store(tmp_path).artefact("numbers", {"n": 3, "seed": 1}, {"texts": "abc"}, numbers(3))
    with caplog.at_level(logging.INFO):
        place = Store(tmp_path).artefact("numbers", parameters, inputs, numbers(7))
    assert [record.message for record in caplog.records] == [f"numbers: {why}"]
    assert read(place) == list(range(7))
    assert store.provenance(place)["parameters"] == parameters
    assert sorted(os.listdir(tmp_path)) == [".locks", "numbers"]


def cut(place: Path) -> None:
    os.truncate(place / "numbers.npy", 130)


def remove(place: Path) -> None:
    (place / "numbers.npy").unlink()


def no_note(place: Path) -> None:
    (place / "provenance.json").unlink()


def half_a_note(place: Path) -> None:
    os.truncate(place / "provenance.json", 40)


def another_note(place: Path) -> None:
    (place / "provenance.json").write_text("[1]")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (cut, "numbers.npy is missing or cut off"),
        (remove, "numbers.npy is missing or cut off"),
        (no_note, "not made yet"),
        (half_a_note, "its provenance cannot be read"),
        (another_note, "its provenance cannot be read"),
    ],
)
def test_a_damaged_artefact_is_noticed_and_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], why: str
):
    place = Store(tmp_path).artefact("numbers", {}, {}, numbers(100))
    damage(place)
    with caplog.at_level(logging.INFO):
        Store(tmp_path).artefact("numbers", {}, {}, numbers(100))
    assert why in caplog.text
    assert read(place) == list(range(100))


def test_an_error_while_making_leaves_what_stood_there(tmp_path: Path):
    place = Store(tmp_path).artefact("numbers", {"n": 3}, {}, numbers(3))

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        Store(tmp_path).artefact("numbers", {"n": 4}, {}, fail)
    assert read(place) == [0, 1, 2]
    assert read(Store(tmp_path).artefact("numbers", {"n": 4}, {}, numbers(4))) == [0, 1, 2, 3]


# --- killed ------------------------------------------------------------------------------------------------------


def killed(folder: Path, make: Callable[[Path], None], parameters: dict[str, int]) -> None:
    """Make the artefact in a child process and kill it where `make` says so."""

    def child() -> None:
        Store(folder).artefact("numbers", parameters, {}, make)
        os._exit(0)

    process = fork.Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_in_the_middle_the_old_artefact_stands_and_the_next_call_goes_on(tmp_path: Path):
    Store(tmp_path).artefact("numbers", {"n": 3}, {}, numbers(3))

    def half(folder: Path) -> None:
        (folder / "first-part").write_text("hours of work")
        with store.atomic_write(folder / "second-part") as f:
            f.write("half")
            f.flush()
            die()

    killed(tmp_path, half, {"n": 4})
    assert read(Store(tmp_path).artefact("numbers", {"n": 3}, {}, unused)) == [0, 1, 2]

    def rest(folder: Path) -> None:
        assert (folder / "first-part").read_text() == "hours of work"
        numbers(4)(folder)

    place = Store(tmp_path).artefact("numbers", {"n": 4}, {}, rest)
    assert sorted(os.listdir(place)) == ["first-part", "numbers.npy", "provenance.json"]  # no draft of the second
    assert sorted(store.provenance(place)["files"]) == ["first-part", "numbers.npy"]


def test_what_was_begun_for_other_parameters_is_not_gone_on_with(tmp_path: Path):
    def half(folder: Path) -> None:
        (folder / "part-of-4").write_text("")
        die()

    killed(tmp_path, half, {"n": 4})
    place = Store(tmp_path).artefact("numbers", {"n": 5}, {}, numbers(5))
    assert sorted(os.listdir(place)) == ["numbers.npy", "provenance.json"]


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_killed_while_it_is_put_in_place_nothing_is_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
):
    """Between the last file and the end there are renames: of provenance.json, of the old folder, of the new one."""
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
        patch.setattr(store.os, "replace", count)
        killed(tmp_path, numbers(4), {"n": 4})
    made = []

    def again(folder: Path) -> None:
        made.append(folder)
        numbers(4)(folder)

    place = Store(tmp_path).artefact("numbers", {"n": 4}, {}, again)
    assert len(made) == (1 if renames == 0 else 0)
    assert read(place) == [0, 1, 2, 3]
    assert sorted(os.listdir(tmp_path)) == [".locks", "numbers"]


# --- two at once -------------------------------------------------------------------------------------------------


@pytest.fixture
def somebody_else(tmp_path: Path) -> Iterator[multiprocessing.process.BaseProcess]:
    """Another process that is making `systems/one` and takes its time."""

    def slow(folder: Path) -> None:
        (tmp_path / "begun").touch()
        time.sleep(60)

    process = fork.Process(target=lambda: Store(tmp_path).artefact("systems/one", {}, {}, slow))
    process.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    yield process
    process.kill()
    process.join()


def test_two_processes_on_one_artefact_the_second_is_refused(tmp_path: Path, somebody_else: object):
    with pytest.raises(ValueError) as refused:
        Store(tmp_path).artefact("systems/one", {}, {}, unused)
    assert str(refused.value) == (
        f"another run is making systems/one in {tmp_path.name} just now; wait for it, or stop it"
    )
    assert read(Store(tmp_path).artefact("systems/two", {}, {}, numbers(2))) == [0, 1]


def test_the_lock_ends_with_the_process_that_held_it(
    tmp_path: Path, somebody_else: multiprocessing.process.BaseProcess
):
    somebody_else.kill()
    somebody_else.join()
    assert read(Store(tmp_path).artefact("systems/one", {}, {}, numbers(1))) == [0]


def test_a_worker_that_outlives_a_killed_run_holds_up_nobody(tmp_path: Path):
    """The workers of a DataLoader notice after seconds only that the run is gone."""

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


# --- parts made beforehand ---------------------------------------------------------------------------------------


def test_parts_made_beforehand_are_taken_over(tmp_path: Path):
    place = Store(tmp_path)
    with place.parts("numbers", {"n": 4}, {}) as folder:
        store.save_arrays(folder, first=np.arange(2))
    with place.parts("numbers", {"n": 4}, {}) as folder:
        assert os.path.exists(folder / "first.npy")
    made = place.artefact("numbers", {"n": 4}, {}, numbers(4))
    assert sorted(os.listdir(made)) == ["first.npy", "numbers.npy", "provenance.json"]
    with place.parts("numbers", {"n": 4}, {}) as folder:
        assert folder == made


def test_parts_of_something_else_are_not_taken_over(tmp_path: Path):
    place = Store(tmp_path)
    with place.parts("numbers", {"n": 4}, {}) as folder:
        store.save_arrays(folder, first=np.arange(2))
    with place.parts("numbers", {"n": 4}, {"model": "another"}) as folder:
        assert os.listdir(folder) == [store.MARK]
    assert sorted(os.listdir(place.artefact("numbers", {"n": 5}, {}, numbers(5)))) == ["numbers.npy", "provenance.json"]


def test_several_bring_parts_at_a_time_and_nobody_makes_the_whole_meanwhile(tmp_path: Path):
    def brings_a_part() -> None:
        with Store(tmp_path).parts("numbers", {"n": 4}, {}):
            (tmp_path / "begun").touch()
            time.sleep(60)

    other = fork.Process(target=brings_a_part)
    other.start()
    try:
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        with Store(tmp_path).parts("numbers", {"n": 4}, {}) as folder:
            store.save_arrays(folder, first=np.arange(2))
        for other_n in (4, 5):
            with pytest.raises(ValueError, match="another run is making numbers"):
                Store(tmp_path).artefact("numbers", {"n": other_n}, {}, unused)
        with pytest.raises(ValueError, match="another run is making numbers"), Store(tmp_path).parts("numbers", {}, {}):
            pass
    finally:
        other.kill()
        other.join()
    assert (Store(tmp_path).artefact("numbers", {"n": 4}, {}, numbers(4)) / "first.npy").exists()


# --- a full disk -------------------------------------------------------------------------------------------------


def in_child(work: Callable[[], None]) -> str:
    """What `work` raises, in a process of its own."""
    reader, writer = fork.Pipe(duplex=False)

    def child() -> None:
        try:
            work()
            writer.send("nothing")
        except Exception as error:
            writer.send(f"{type(error).__name__}: {error}")

    process = fork.Process(target=child)
    process.start()
    told = reader.recv()
    process.join()
    return str(told)


def too_much(folder: Path) -> None:
    store.save_arrays(folder, numbers=np.arange(100_000))


def test_where_no_more_can_be_written_one_sentence_says_so_and_the_old_artefact_stands(tmp_path: Path):
    place = Store(tmp_path).artefact("numbers", {"n": 3}, {}, numbers(3))

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        Store(tmp_path).artefact("numbers", {"n": 100_000}, {}, too_much)

    told = in_child(work)
    assert told == f"OSError: [Errno {errno.ENOSPC}] the disk is full: numbers was not made, what stood there is kept"
    assert read(place) == [0, 1, 2]
    assert not [path for path in tmp_path.rglob("*.npy*") if path.parent != place], "something half-written is left"


def test_a_single_file_that_does_not_fit_is_named(tmp_path: Path):
    store.save_arrays(tmp_path, numbers=np.arange(3))

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        too_much(tmp_path)

    told = in_child(work)
    assert told.endswith("No space left on device: numbers.npy was not written, what stood there is kept")
    assert read(tmp_path) == [0, 1, 2]
    assert os.listdir(tmp_path) == ["numbers.npy"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("this user may not mount a file system")
    yield disk
    subprocess.run(["umount", disk], check=True)


def by_numpy(folder: Path) -> None:
    too_much(folder)


def by_safetensors(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(100_000)}, folder / "model.safetensors")


def by_parquet(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"n": np.random.default_rng(0).integers(1 << 60, size=100_000)}), folder / "n.parquet")


def by_text(folder: Path) -> None:
    with open(folder / "text", "w") as f:
        f.write("x" * 400_000)


@pytest.mark.parametrize("make", [by_numpy, by_safetensors, by_parquet, by_text])
def test_on_a_full_disk_one_sentence_says_so_whoever_wrote(small_disk: Path, make: Callable[[Path], None]):
    place = Store(small_disk).artefact("numbers", {"n": 3}, {}, numbers(3))
    with pytest.raises(OSError) as full:
        Store(small_disk).artefact("numbers", {"n": 4}, {}, make)
    assert full.value.strerror == "the disk is full: numbers was not made, what stood there is kept"
    assert read(place) == [0, 1, 2]
    assert read(Store(small_disk).artefact("numbers", {"n": 5}, {}, numbers(5))) == [0, 1, 2, 3, 4]


# --- what is installed -------------------------------------------------------------------------------------------


def test_versions_come_without_git_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    store.versions.cache_clear()
    assert store.versions()["commit"] == "unknown"
    store.versions.cache_clear()


def test_packages_other_than_the_pins_are_named(tmp_path: Path):
    found = store.installed(["numpy", "sklearn", "no_such_package"])
    assert found["numpy"] == np.__version__
    assert found["no_such_package"] == "not installed"
    pins = tmp_path / "requirements.txt"
    pins.write_text(
        f"# data\nnumpy=={np.__version__}\nscikit-learn==0.1 ; sys_platform == 'linux'\nno-such.package==2.0\n"
    )
    assert store.off_pins(["numpy", "sklearn", "no_such_package", "scipy"], pins) == [
        f"sklearn {found['sklearn']} (pinned: 0.1)",
        "no_such_package not installed (pinned: 2.0)",
    ]


def test_a_folders_digest_is_that_of_its_provenance_or_of_its_files_and_a_hub_names_its_own(tmp_path: Path):
    assert store.folder_digest(Path("someone/model")) == store.digest("someone/model")
    (tmp_path / "weights").write_text("a")
    bare = store.folder_digest(tmp_path)
    (tmp_path / "weights").write_text("b")
    assert store.folder_digest(tmp_path) != bare
    (tmp_path / "weights").write_text("a")
    assert store.folder_digest(tmp_path) == bare
    store.write_json(tmp_path / "provenance.json", {"made": 1})
    first = store.folder_digest(tmp_path)
    store.write_json(tmp_path / "provenance.json", {"made": 2})
    assert len({bare, first, store.folder_digest(tmp_path)}) == 3
    assert json.loads((tmp_path / "provenance.json").read_text()) == {"made": 2}
