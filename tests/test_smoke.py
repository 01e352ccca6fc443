"""The whole suite at small scale: profile smoke through Snakemake, papermill and real kernels, in another folder."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tas_lib import config
from tools import graph, notebooks

ROOT = Path(__file__).resolve().parents[1]
SMOKE = config.load("smoke")
EVERYTHING = graph.targets(SMOKE)["everything"]


def start(folder: Path) -> subprocess.Popen[str]:
    """`./run_all.sh smoke` into `folder`, once .venv is ready."""
    env = os.environ | {"TAS_RUNS": str(folder / "runs"), "TAS_FIGURES": str(folder / "figures")}
    command, pipe = [sys.executable, "-m", "tools.run", "smoke"], subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def finish(folder: Path) -> str:
    """Run to the end; what it printed."""
    process = start(folder)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one whole run, which changes nothing in notebooks/."""
    folder = tmp_path_factory.mktemp("smoke")
    before = {path: path.stat().st_mtime for path in notebooks.FOLDER.glob("*.ipynb")}
    finish(folder)
    assert before == {path: path.stat().st_mtime for path in notebooks.FOLDER.glob("*.ipynb")}
    return folder


def test_every_job_leaves_a_clean_executed_notebook(smoke: Path):
    for name in EVERYTHING:
        path = smoke / "runs" / "smoke" / "notebooks" / f"{name}.ipynb"
        notebook = nbformat.read(path, 4)
        assert not [o for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "error"]
        assert "smoke" in "".join(text for _, text, tags in notebooks.inputs(notebook) if notebooks.INJECTED in tags)
        assert str(ROOT) not in path.read_text()
        assert path.stat().st_size < 1_000_000, name


def test_figures_and_tables_come_out(smoke: Path):
    folder = smoke / "figures" / "smoke"
    for name in EVERYTHING:
        for file in graph.jobs(SMOKE)[name].makes:
            assert (folder / file).stat().st_size > 100, file
    assert (folder / "figure1.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "figure2.svg").read_text()
    with open(folder / "table4.csv", encoding="utf-8") as f:
        assert len(list(csv.reader(f))) > len(SMOKE.systems)


def test_run_again_it_has_nothing_to_do(smoke: Path):
    assert finish(smoke).startswith("Nothing to do")
