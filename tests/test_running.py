"""run_all.sh and what is behind it, with notebooks of a few lines in place of the real ones."""

import doctest
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from tas_lib import config as profiles
from tas_lib.report.latency import Roofline
from tools import estimate, graph, notebooks, progress, setup
from tools import run as runner

ROOT = Path(__file__).resolve().parents[1]
PROFILE = """
source: {kind: docs, packages: [numpy]}
evaluation: {sets: [{name: dev, label: Dev}]}
systems:
  "1": {teacher: none, sampling: random}
  "2": {teacher: pairwise, sampling: random}
  "10": {teacher: dual, sampling: tas_balanced}
"""
NOTEBOOK = """# %% [markdown]
# # {name}

# %% tags=["parameters"]
PROFILE = "docs"
{parameters}

# %%
from tas_lib import profile

settings = profile.load(PROFILE)
settings.figures.mkdir(parents=True, exist_ok=True)
for made in {makes}:
    _ = (settings.figures / made).write_text("made")

# %%
{code}
"""
TRAINING = 'TEACHER = "dual"\nSAMPLING = "tas_balanced"\nLOSS = "margin_mse"\nBATCH_SIZE = 32\nSEED = 1\nVARIANT = ""'


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what runs things, with tiny notebooks and the profiles docs and small."""
    for folder in ("tools", "tas_lib"):
        (tmp_path / folder).mkdir()
        for path in [*(ROOT / folder).glob("*.*")]:
            shutil.copy(path, tmp_path / folder)
    for name in ("Snakefile", "requirements.txt", "run_all.sh"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "profiles").mkdir()
    for name in ("docs", "small"):
        (tmp_path / "profiles" / f"{name}.yaml").write_text(PROFILE)
    for name in graph.NOTEBOOKS:
        write(tmp_path, name)
    return tmp_path


def write(tree: Path, name: str, code: str = "print('told by', PROFILE)") -> None:
    """One tiny notebook; `code` is its last cell."""
    source = tree / "notebooks" / "src" / f"{name}.py"
    source.parent.mkdir(parents=True, exist_ok=True)
    parameters = TRAINING if name == graph.TRAINING else ""
    source.write_text(NOTEBOOK.format(name=name, parameters=parameters, makes=graph.NOTEBOOKS[name].makes, code=code))


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "tools.run", *words]


def run(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What ./run_all.sh does once .venv stands; both streams in one, as a terminal shows them."""
    return subprocess.run(
        command(*words), cwd=tree, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TAS_")}


def last_line(told: str) -> str:
    return told.strip().splitlines()[-1]


def test_help_needs_no_environment():
    told = subprocess.run([ROOT / "run_all.sh", "--help"], capture_output=True, text=True, check=True).stdout
    assert "usage: ./run_all.sh [profile] [target ...]" in told
    assert "--dry-run" in told and "teachers" in told and "./run_all.sh benchmarks" in told


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["smal"], "there is no profile 'smal'; there are: docs, small"),
        (["small", "figure9"], "there is no target 'figure9'; there are: everything, figure1,"),
        (["small", "--fast"], "there is no option --fast"),
        (["docs", "teachers", "figure1"], "teachers is made alone"),
        (["benchmarks", "figure1"], "benchmarks is made alone"),
    ],
)
def test_what_is_unknown_is_one_sentence_before_any_work(tree: Path, words: list[str], sentence: str):
    told = run(tree, *words)
    assert told.returncode == 2
    assert told.stdout.startswith(sentence) and len(told.stdout.splitlines()) == 1
    assert not (tree / "runs").exists()


def test_a_dry_run_says_what_and_why_and_makes_nothing(tree: Path):
    told = run(tree, "figure1", "--dry-run").stdout  # the profile left out is docs
    assert told.splitlines() == [
        "[1/3] 01_collection: not made yet",
        "[2/3] 06_training-pairwise-random: not made yet",
        "[3/3] 04_clustering: not made yet",
    ]
    assert not list(tree.rglob("*.ipynb"))


def test_benchmarks_are_their_own_module_at_full_size_and_hold_the_profile(tree: Path):
    (tree / "benchmarks").mkdir()
    (tree / "benchmarks" / "__init__.py").touch()
    code = "import sys\nfrom tools import run\nprint(sys.argv[1:])\nprint(run.main(['docs', 'figure1']))\n"
    (tree / "benchmarks" / "__main__.py").write_text(code)
    told = run(tree, "benchmarks")
    assert told.returncode == 0, told.stdout
    first, *rest = told.stdout.splitlines()
    assert first == "['--full']"
    assert "another run of profile docs is under way; wait for it, or stop it" in rest
    assert run(tree, "benchmarks", "--dry-run").stdout == ""


def test_a_run_builds_its_target_then_only_what_changed(tree: Path):
    told = run(tree, "small", "figure1")
    assert told.returncode == 0, told.stdout
    assert "left" in told.stdout and "figures/small/figure1.svg" in told.stdout
    assert not list((tree / "notebooks").glob("*.ipynb"))  # those show whole runs of docs
    assert "Nothing to do" in run(tree, "small", "figure1").stdout
    (tree / "figures" / "small" / "figure1.svg").unlink()
    assert run(tree, "small", "figure1", "-n").stdout == "[1/1] 04_clustering: missing: figures/small/figure1.svg\n"
    write(tree, "04_clustering", "print('changed')")
    told = run(tree, "small", "table4", "-n")
    reasons = dict(line.partition("] ")[2].split(": ", 1) for line in told.stdout.splitlines())
    assert reasons == {
        "04_clustering": "changed: notebooks/src/04_clustering.py",
        "06_training-labels": "not made yet",
        "06_training-dual-tas_balanced": "not made yet",
        "09_ablation": "not made yet",
    }


def test_a_failing_notebook_leaves_its_copy_and_the_last_line_names_the_cell(tree: Path):
    write(tree, "01_collection", "before = 1\nprint('before')\n1 / 0")
    told = run(tree, "small", "collection")
    copy = tree / "runs" / "small" / "notebooks" / "01_collection.partial.ipynb"
    assert told.returncode == 1
    expected = "01_collection failed in cell In [4] ('before = 1'): ZeroDivisionError: division by zero; as far as it "
    assert last_line(told.stdout) == f"{expected}went: runs/small/notebooks/01_collection.partial.ipynb"
    assert "before\n" in [out.get("text") for cell in nbformat.read(copy, 4).cells for out in cell.get("outputs", [])]
    write(tree, "01_collection", "import os\nos._exit(9)")  # as when memory runs out
    told = run(tree, "small", "collection").stdout
    assert last_line(told).startswith("01_collection failed in cell In [4] ('import os'): Kernel died")


def test_a_job_that_does_not_write_its_figure_fails(tree: Path):
    write(tree, "05_sampling")
    source = tree / "notebooks" / "src" / "05_sampling.py"
    source.write_text(source.read_text().replace("'figure2.png'", "").replace("svg', )", "svg',)"))
    job = subprocess.run([sys.executable, "-m", "tools.execute", "small", "05_sampling"], cwd=tree, env=environment())
    assert job.returncode == 1
    said = (tree / "runs" / "small" / "failed.txt").read_text()
    assert said.startswith("05_sampling ran to its last cell, but did not write figure2.png")


def test_killed_it_goes_on_and_two_at_once_are_refused(tree: Path):
    begin = "import os, time\nfrom pathlib import Path\n\nPath('{0}/began').write_text(str(os.getpid()))\n"
    wait = "while not Path('{0}/go').exists():\n    time.sleep(0.1)"
    write(tree, "04_clustering", (begin + wait).format(tree))
    first = subprocess.Popen(command("small", "figure1"), cwd=tree, env=environment(), stdout=subprocess.DEVNULL)
    until(lambda: (tree / "began").exists())
    told = run(tree, "small", "figure1")
    assert told.stdout == "another run of profile small is under way; wait for it, or stop it\n"
    first.send_signal(signal.SIGKILL)
    first.wait()
    until(lambda: ended(int((tree / "began").read_text())))  # nothing goes on behind the next run's back
    (tree / "go").touch()
    told = run(tree, "small", "figure1")
    assert told.returncode == 0, told.stdout
    assert told.stdout.startswith("[1/1] 04_clustering: it was stopped half way")


def ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def until(true, wait_s: float = 60) -> None:
    end = time.monotonic() + wait_s
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_an_executed_notebook_is_shown_only_with_its_own_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, graph.TRAINING)
    source = tmp_path / "notebooks" / "src" / "06_training.py"
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    executed = notebooks.read(source)
    executed.cells.insert(2, nbformat.v4.new_code_cell("SEED = 2", metadata={"tags": [notebooks.INJECTED]}))
    path = tmp_path / "executed.ipynb"
    notebooks.write(executed, path)
    notebooks.publish(path, source)
    assert not (tmp_path / "06_training.ipynb").exists()
    executed.cells[2].source = "SEED = 1"
    notebooks.write(executed, path)
    notebooks.publish(path, source)
    shown = nbformat.read(tmp_path / "06_training.ipynb", 4)
    assert notebooks.inputs(shown) == notebooks.inputs(notebooks.read(source))


def test_clean_takes_out_what_differs_between_machines():
    cell = nbformat.v4.new_code_cell("x", execution_count=7, metadata={"execution": {"iopub.status.busy": "2021"}})
    stream = nbformat.v4.new_output
    cell.outputs = [
        stream("stream", name="stdout", text=f"{notebooks.ROOT}/runs/a\n"),
        stream("stream", name="stderr", text="10%"),
        stream("stream", name="stdout", text="b\n"),
        stream("execute_result", data={"text/plain": "<Thing at 0x7f12ab>"}, execution_count=7),
    ]
    told = notebooks.clean(nbformat.v4.new_notebook(cells=[cell], metadata={"papermill": {"duration": 3}}))
    assert json.loads(nbformat.writes(nbformat.from_dict(told)))["cells"][0] == {
        "cell_type": "code",
        "execution_count": 1,
        "id": "2d711642-0",  # of the text "x"
        "metadata": {},
        "outputs": [
            {"name": "stdout", "output_type": "stream", "text": ["runs/a\n", "b\n"]},
            {
                "data": {"text/plain": ["<Thing>"]},
                "execution_count": 1,
                "metadata": {},
                "output_type": "execute_result",
            },
        ],
        "source": ["x"],
    }


def test_a_notebook_in_step_keeps_outputs_only_while_its_code_stands(tree: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(notebooks, "FOLDER", tree / "notebooks")
    source, path = tree / "notebooks" / "src" / "02_models.py", tree / "notebooks" / "02_models.ipynb"
    assert notebooks.sync(source) and not notebooks.sync(source)
    ran = nbformat.read(path, 4)
    ran.cells[-1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="told\n")]
    notebooks.write(ran, path)
    source.write_text(source.read_text().replace("# # 02_models", "# # Models"))
    assert notebooks.sync(source)
    assert nbformat.read(path, 4).cells[-1].outputs and nbformat.read(path, 4).cells[0].source == "# Models"
    source.write_text(source.read_text().replace('"docs"', '"small"'))
    assert notebooks.sync(source)
    assert not nbformat.read(path, 4).cells[-1].outputs


def test_a_notebook_edited_without_its_text_is_refused(tree: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(notebooks, "FOLDER", tree / "notebooks")
    path = tree / "notebooks" / "02_models.ipynb"
    notebooks.sync(tree / "notebooks" / "src" / "02_models.py")
    notebooks.refuse_edited()
    path.write_text(path.read_text().replace("# 02_models", "# Models"))
    with pytest.raises(ValueError, match="02_models.ipynb was edited, but not its text; .*jupytext --sync"):
        notebooks.refuse_edited()


def test_only_what_a_notebook_imports_makes_it_run_again(tree: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(graph, "ROOT", tree)
    (tree / "tas_lib" / "a.py").write_text("from tas_lib import b\n")
    (tree / "tas_lib" / "b.py").write_text("import tas_lib.records\n")
    source = tree / "source.py"
    source.write_text("import numpy\nfrom tas_lib.a import thing\n")
    assert [path.name for path in graph.library(source)] == ["a.py", "b.py", "records.py"]


def test_standalone_needs_the_baseline_and_only_tas_needs_topics(tree: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TAS_PROFILES", str(tree / "profiles"))
    jobs = graph.jobs(profiles.load("small"))
    baseline = "06_training-pairwise-random"
    assert jobs[baseline].needs == ("01_collection",)
    assert jobs["06_training-labels"].needs == ("01_collection", baseline)
    assert jobs["06_training-dual-tas_balanced"].needs == ("01_collection", baseline, "04_clustering")
    assert len(jobs["09_ablation"].needs) == 3
    assert jobs["08_losses_compared"].needs == ("06_training-dual-tas_balanced",)  # of four the profile has one
    assert jobs["13_claims"].needs == ("05_sampling", "12_pipelines", *jobs["09_ablation"].needs)


def test_deviations_are_made_when_asked_for_and_not_with_everything(tree: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TAS_PROFILES", str(tree / "profiles"))
    more = "variants: {slow: {training: {schedule: cosine}}}\ndeviations:\n  D3: {teacher: dual, variant: slow}\n"
    (tree / "profiles" / "small.yaml").write_text(PROFILE + more)
    small = profiles.load("small")
    jobs, meant = graph.jobs(small), graph.aliases(small)
    trained = "06_training-dual-tas_balanced-slow"
    assert jobs[trained].parameters["VARIANT"] == "slow"
    assert jobs["14_deviations"].needs == ("06_training-dual-tas_balanced", trained)
    assert meant["deviations"] == ["14_deviations"]
    assert not {trained, "14_deviations"} & set(meant["everything"])


def test_the_first_table_comes_before_the_long_row_of_trainings(tree: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TAS_PROFILES", str(tree / "profiles"))
    jobs = graph.jobs(profiles.load("small"))
    later = [name for name, job in jobs.items() if not job.first]
    assert later == ["06_training-labels"]


def test_table_1_at_full_size_is_another_run_of_the_same_notebook_when_asked_for(tree: Path, monkeypatch):
    monkeypatch.setenv("TAS_PROFILES", str(tree / "profiles"))
    small = profiles.load("small")
    job, meant = graph.jobs(small)["07_latency-full"], graph.aliases(small)
    assert (job.notebook, job.parameters["PASSAGES"], job.makes[0]) == ("07_latency", 8_841_823, "table1-full.md")
    assert meant["table1-full"] == ["07_latency-full"] and meant["07_latency"] == meant["table1"] == ["07_latency"]
    assert "07_latency-full" not in meant["everything"]


def test_what_ms_marco_would_fetch_is_told_without_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_connection(*_: object) -> None:
        raise AssertionError("a dry run asked for a connection")

    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", no_connection)
    monkeypatch.setattr("tools.run.snakemake", lambda *_: 0)
    scores = tmp_path / "msmarco-passage" / "train" / "bert_cat_ensemble_msmarcopassage_train_scores_ids.tsv"
    *lines, total = runner.fetched(profiles.load("msmarco"))
    assert len(lines) == 9 and all(line.startswith("to fetch  ") for line in lines)
    assert f"{scores.name} (2,400.0 MB)  https://zenodo.org/records/4068216/" in lines[-1]
    assert lines[-1].endswith(f" -> {scores.parent}")
    assert total.startswith("To fetch: 3.5 GB in all")
    scores.parent.mkdir(parents=True)
    scores.touch()
    *lines, total = runner.fetched(profiles.load("msmarco"))
    assert [line.startswith("there") for line in lines] == [False] * 8 + [True]
    assert total.startswith("To fetch: 1.1 GB in all")
    assert runner.fetched(profiles.load("docs")) == []


def test_reasons_read_well():
    assert doctest.testmod(progress).failed == 0
    assert [progress.duration(s) for s in (40, 170, 7500)] == ["40 s", "3 min", "2 h 5 min"]


def test_the_set_up_knows_when_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    venv = tmp_path / ".venv"
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    monkeypatch.setattr(setup, "VENV", venv)
    monkeypatch.setattr(setup, "STAMP", venv / "stamp")
    monkeypatch.setattr(setup, "PYTHON", Path(sys.executable))
    (tmp_path / "requirements.txt").write_text("numpy==1\n")
    assert setup.stale() == "there is none yet"
    venv.mkdir()
    assert setup.stale() == "it was left half made"
    setup.STAMP.write_text(setup.wanted())
    assert setup.stale() is None
    (tmp_path / "requirements.txt").write_text("numpy==2\n")
    assert setup.stale() == "requirements.txt has changed, or this folder was moved"


def test_an_old_python_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    with pytest.raises(SystemExit, match=r"^Python 3.11 or newer is needed, and this is 3.10.4; name another"):
        setup.main()


def test_every_requirement_is_pinned():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(line.partition(" ;")[0].count("==") == 1 for line in pins)
    assert not [line for line in pins if line.startswith("nvidia") or "+" in line or "/" in line]
    names = [line.partition("==")[0].lower() for line in pins]
    assert len(names) == len(set(names))
    assert "torch==2.13.0" in pins


def test_what_full_size_would_take_is_estimated_for_this_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(estimate, "roofline", lambda device: Roofline(gb_s=10, gflop_s=13_000))
    head, columns, *lines = runner.expected(profiles.load("msmarco"))
    assert "13,000 GFLOP/s" in head and columns.split() == ["target", "time", "disk", "memory"]
    hours = {line.split()[0]: line.split()[1:3] for line in lines}
    wanted = {f"table{n}" for n in range(1, 8)} | {f"figure{n}" for n in (1, 2, 3)} | {"everything"}
    assert set(hours) == wanted
    # the baseline alone: 800K steps of 32 × 160 tokens three times, 200 validations of 3,200 × 7,510 tokens, and the
    # collection's 663M tokens; 85M operations a token at 6.5 TFLOP/s, are 1.0e18 + .41e18 + .06e18 over 6.5e12
    assert hours["figure1"] == ["2.7", "days"]
    published = {line.split()[0]: line.split()[1:3] for line in runner.expected(profiles.load("checkpoints"))[2:]}
    assert published["table6"] == ["9.6", "hours"]  # four systems encode the collection
    assert runner.expected(profiles.load("docs")) == []
