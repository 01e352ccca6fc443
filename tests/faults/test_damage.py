"""A full disk, damaged files, and two runs at once, with the `local` profile of the campaign."""

import random
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tas_lib import config
from tas_lib.data import store
from tas_lib.report import latency
from tests import tiny
from tests.faults import campaign
from tests.faults.campaign import contents
from tools import run as runner

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("inputs")
    more = campaign.put_local(folder)
    shutil.copytree(folder / "mine" / "encoder", folder / "mine" / "shipped" / "encoder")
    tiny.ship(folder / "mine" / "shipped" / "encoder")
    return more


@pytest.fixture(scope="module")
def whole(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    runs = tmp_path_factory.mktemp("whole")
    assert campaign.work(inputs | {"TAS_RUNS": str(runs)}).startswith("done")
    return runs


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory, if this user may mount one."""
    path = tmp_path / "disk"
    path.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", path]
    if not shutil.which("mount") or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.mark.parametrize("tenth", range(10))
def test_a_disk_that_is_full_sooner_or_later_is_named_and_with_more_space_the_run_resumes(whole, inputs, disk, tenth):
    more = inputs | {"TAS_RUNS": str(disk)}
    used = sum(-path.stat().st_size // 4096 * -4096 for path in whole.rglob("*") if path.is_file())
    subprocess.run(["mount", "-o", f"remount,size={used * (2 * tenth + 1) // 20}", disk], check=True)
    ended = campaign.work(more)
    assert ended.startswith("OSError") and ("the disk is full" in ended or "No space left" in ended), ended
    assert "\n" not in ended
    subprocess.run(["mount", "-o", f"remount,size={used * 4}", disk], check=True)
    assert campaign.work(more).startswith("done")
    assert contents(disk) == contents(whole)


def test_a_large_array_on_a_full_disk_is_an_error_and_does_not_kill_the_process(disk):
    with pytest.raises(OSError, match="the disk is full"):
        latency.unit_vectors(store.Store(disk), 100_000, 8)


def flip_a_bit(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut_the_tail(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: -rng.randint(1, path.stat().st_size)])


@pytest.mark.parametrize("damage", [flip_a_bit, cut_the_tail])
def test_damage_to_each_kind_of_artefact_is_found_and_what_was_damaged_is_made_again(
    whole, inputs, tmp_path, monkeypatch, capsys, damage
):
    more, rng, damaged = inputs | {"TAS_RUNS": str(tmp_path / "runs")}, random.Random(campaign.SEED), {}
    shutil.copytree(whole, tmp_path / "runs")
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    assert runner.main(["local", "--verify"]) == 0
    for kind in sorted({name.split("/")[0] for name in contents(whole)}):
        name = rng.choice([name for name in contents(whole) if name.split("/")[0] == kind])
        folder = tmp_path / "runs" / "local" / name
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "provenance.json"]
        file = rng.choice([path for path in files if path.stat().st_size])
        damage(file, rng)
        damaged[name] = str(file.relative_to(folder))
    if damage is flip_a_bit:
        capsys.readouterr()
        assert runner.main(["local", "--verify"]) == 1
        said = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" has changed")]
        assert said == [f"{name}: {file} has changed" for name, file in sorted(damaged.items())]
    log = campaign.work(more)
    for name, file in damaged.items():
        assert f"{name}: not made yet" in log or f"{name}: remade, {file} is missing or cut off" in log
    assert contents(tmp_path / "runs") == contents(whole)


@pytest.mark.parametrize("damage", [flip_a_bit, cut_the_tail])
def test_damage_to_a_shipped_file_is_found(inputs, tmp_path, monkeypatch, capsys, damage):
    monkeypatch.setenv("TAS_RUNS", str(tmp_path))
    monkeypatch.setenv("TAS_PROFILES", inputs["TAS_PROFILES"])
    weights = config.load("local").artefacts_folder / "encoder" / "model.safetensors"
    before = weights.read_bytes()
    damage(weights, random.Random(campaign.SEED))
    assert runner.main(["local", "--verify"]) == 1
    assert "encoder/model.safetensors is not the file that was shipped" in capsys.readouterr().out
    weights.write_bytes(before)
    assert runner.main(["local", "--verify"]) == 0


def test_of_two_runs_at_once_one_is_refused_and_the_other_is_right(whole, inputs, tmp_path):
    first, second = (campaign.start(tmp_path, ["local", "collection"], inputs) for _ in range(2))
    outputs = [process.communicate()[0] for process in (first, second)]
    assert sorted(process.returncode for process in (first, second)) == [0, 2], outputs
    refused = outputs[first.returncode == 0]
    assert refused == "another run of profile local is in progress; wait for it or stop it\n"
    made = contents(tmp_path / "runs")
    assert "collection" in made and all(contents(whole).get(name, of) == of for name, of in made.items())


def test_of_two_notebooks_at_once_each_is_right(whole, inputs, tmp_path):
    more = inputs | {"TAS_RUNS": str(tmp_path)}
    with ThreadPoolExecutor(2) as threads:
        ended = [*threads.map(campaign.work, [more] * 2)]
    assert all(one.startswith("done") for one in ended), ended
    assert contents(tmp_path) == contents(whole)
