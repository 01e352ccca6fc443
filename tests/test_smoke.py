"""The whole suite in small: profile smoke through Snakemake, papermill and real kernels, in a folder of its own."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from tas_lib import config as profiles
from tools import graph, notebooks

ROOT = Path(__file__).resolve().parents[1]


def start(folder: Path) -> subprocess.Popen[str]:
    """`./run_all.sh smoke` into `folder`, once .venv stands."""
    moved = {"TAS_RUNS": str(folder / "runs"), "TAS_FIGURES": str(folder / "figures")}
    command = [sys.executable, "-m", "tools.run", "smoke"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | moved, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def whole(folder: Path) -> str:
    """Run to the end; what it told."""
    process = start(folder)
    told, _ = process.communicate()
    assert process.returncode == 0, told
    return told


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of one whole run."""
    folder = tmp_path_factory.mktemp("smoke")
    before = {path: path.stat().st_mtime for path in notebooks.FOLDER.glob("*.ipynb")}
    whole(folder)
    assert before == {path: path.stat().st_mtime for path in notebooks.FOLDER.glob("*.ipynb")}  # smoke shows nothing
    yield folder


def test_every_job_leaves_a_clean_executed_notebook(smoke: Path):
    for name in graph.aliases(profiles.load("smoke"))["everything"]:
        path = smoke / "runs" / "smoke" / "notebooks" / f"{name}.ipynb"
        notebook = nbformat.read(path, 4)
        assert not [o for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "error"]
        assert notebooks.given(notebook)["PROFILE"] == "smoke"
        assert str(ROOT) not in path.read_text()
        assert path.stat().st_size < 1_000_000, name


def test_figures_and_tables_come_out(smoke: Path):
    folder = smoke / "figures" / "smoke"
    settings = profiles.load("smoke")
    for name in graph.aliases(settings)["everything"]:
        for made in graph.jobs(settings)[name].makes:
            assert (folder / made).stat().st_size > 100, made
    assert (folder / "figure1.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "figure2.svg").read_text()
    with open(folder / "table4.csv", encoding="utf-8") as f:
        rows = list(csv.reader(f))
    assert len(rows) > len(settings.systems)


def test_asked_again_it_has_nothing_to_do(smoke: Path):
    assert whole(smoke).startswith("Nothing to do")


@pytest.mark.slow
def test_killed_three_times_it_ends_with_the_same_tables(smoke: Path, tmp_path: Path):
    rng = random.Random(0)
    for _ in range(3):
        process = start(tmp_path)
        time.sleep(rng.uniform(15, 60))
        process.send_signal(signal.SIGKILL)
        process.wait()
    whole(tmp_path)
    timed = {"table1", "table2", "table7"}  # hold milliseconds; the runs behind Table 7 are among the files below
    tables = [path for path in (smoke / "figures").rglob("table*") if path.stem not in timed]
    runs = [path for path in (smoke / "runs").rglob("*.run.gz")]
    assert len(tables) == 3 * 4 and runs
    for path in tables + runs:
        assert path.read_bytes() == (tmp_path / path.relative_to(smoke)).read_bytes(), path.name
