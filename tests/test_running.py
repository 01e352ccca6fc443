"""run_all.sh and what is behind it, with notebooks of a few lines in place of the real ones."""

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
from nbformat.sign import NotebookNotary

from tas_lib import config
from tas_lib.config import Profile
from tas_lib.report.latency import Roofline
from tools import estimate, execute, graph, notebooks, progress
from tools import run as runner

ROOT = Path(__file__).resolve().parents[1]
PROFILE = """
source: {kind: docs, packages: [numpy]}
evaluation: {sets: [{name: dev, label: Dev}]}
systems:
  labels: {teacher: none, sampling: random}
  pairwise/random: {teacher: pairwise, sampling: random}
  dual/tas_balanced: {teacher: dual, sampling: tas_balanced}
  theirs: {kind: checkpoint, source: someone/encoder}
  bm25+dual/tas_balanced: {kind: fused, of: [bm25, dual/tas_balanced]}
  bm25+dual/tas_balanced>cat: {kind: reranked, first: bm25+dual/tas_balanced}
variants: {slow: {training: {schedule: cosine}}}
deviations: {D3: {teacher: dual, variant: slow}}
"""
NOTEBOOK = """# %% [markdown]
# # {name}

# %% tags=["parameters"]
PROFILE = "docs"
{parameters}

# %%
from tas_lib import config

settings = config.load(PROFILE)
settings.figures.mkdir(parents=True, exist_ok=True)
for file in {files}:
    _ = (settings.figures / file).write_text("made")

# %%
{code}
"""
TRAINING = 'TEACHER = "dual"\nSAMPLING = "tas_balanced"\nLOSS = "margin_mse"\nBATCH_SIZE = 32\nSEED = 1\nVARIANT = ""'
BASELINE, DUAL = "06_training-pairwise-random", "06_training-dual-tas_balanced"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the tools and the library, with tiny notebooks and the profiles docs and small."""
    tmp_path = tmp_path / "a folder"
    for folder in ("tools", "tas_lib", "lecture", "benchmarks", "data/paper"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for name in ("Snakefile", "requirements.txt", "run_all.sh"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "profiles").mkdir()
    for name in ("docs", "small"):
        (tmp_path / "profiles" / f"{name}.yaml").write_text(PROFILE)
    for name in graph.NOTEBOOKS:
        write(tmp_path, name)
    return tmp_path


def write(tree: Path, name: str, code: str = "print('printed for', PROFILE)") -> None:
    """One tiny notebook; `code` is its last cell."""
    source = tree / "notebooks" / "src" / f"{name}.py"
    source.parent.mkdir(parents=True, exist_ok=True)
    parameters, files = TRAINING if name == graph.TRAINING else "", graph.files(*graph.NOTEBOOKS[name].makes)
    source.write_text(NOTEBOOK.format(name=name, parameters=parameters, files=files, code=code))


@pytest.fixture
def small(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.setenv("TAS_PROFILES", str(tree / "profiles"))
    return config.load("small")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "tools.run", *words]


def run(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What ./run_all.sh does once .venv is ready; both streams in one, as a terminal shows them."""
    pipe = subprocess.PIPE
    return subprocess.run(
        command(*words), cwd=tree, env=environment(), stdout=pipe, stderr=subprocess.STDOUT, text=True
    )


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TAS_")}


# --- ./run_all.sh ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["smal"], "there is no profile 'smal'; there are: docs, small"),
        (["small", "figure9"], "no target 'figure9'; the targets are: everything, figure1,"),
        (["docs", "teachers", "figure1"], "teachers is a target to run alone"),
        (["docs", "--dry-run", "figure9"], "no target 'figure9'; the targets are: "),
    ],
)
def test_an_unknown_request_is_one_sentence_before_any_work(
    small: Profile, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
):
    assert runner.main(words) == 2
    output = capsys.readouterr()
    assert output.err.startswith(sentence) and output.err.count("\n") == 1 and not output.out


def test_a_dry_run_says_what_and_why_and_makes_nothing(tree: Path):
    lines = run(tree, "figure1", "--dry-run").stdout.splitlines()  # without a profile: docs
    assert [line.partition(" files: ")[0] for line in lines] == [
        "[1/3] 01_collection: Missing output",
        f"[2/3] {BASELINE}: Missing output",
        "[3/3] 04_clustering: Missing output",
    ]
    assert not list(tree.rglob("*.ipynb"))


def test_a_run_builds_its_target_then_only_what_changed(tree: Path):
    first = run(tree, "small", "figure1")
    assert first.returncode == 0, first.stdout
    assert "left" in first.stdout and "figures/small/figure1.svg" in first.stdout
    assert not list((tree / "notebooks").glob("*.ipynb"))  # those show whole runs of docs
    assert "Nothing to do" in run(tree, "small", "figure1").stdout
    (tree / "figures" / "small" / "figure1.svg").unlink()
    output = run(tree, "small", "figure1", "-n").stdout
    assert output == "[1/1] 04_clustering: Missing output files: figures/small/figure1.svg\n"
    write(tree, "04_clustering", "print('changed')")
    lines = run(tree, "small", "table4", "-n").stdout.splitlines()
    reasons = dict(line.partition("] ")[2].split(": ", 1) for line in lines)
    assert reasons.pop("04_clustering") == "Updated input files: notebooks/src/04_clustering.py"
    assert {*reasons} == {"06_training-labels", DUAL, "09_ablation"}


def test_a_model_a_run_file_or_a_collection_of_ones_own_that_changes_makes_notebooks_run_again(tree: Path):
    mine = tree / "mine"
    for file in ("model/config.json", "model/.git/index", "dev.run", "qrels/dev.tsv", "corpus.jsonl", "notes.md"):
        (mine / file).parent.mkdir(parents=True, exist_ok=True)
        (mine / file).touch()
    source = f'source: {{kind: local, folder: "{mine}"}}'
    rows = f'  ours: {{kind: checkpoint, source: "{mine}/model"}}\n'
    rows += '  run: {kind: run, source: "mine/{set}.run"}\n'
    text = PROFILE.replace("source: {kind: docs, packages: [numpy]}", source).replace("  bm25+", f"{rows}  bm25+", 1)
    (tree / "profiles" / "small.yaml").write_text(text)
    assert run(tree, "small", "01_collection").returncode == 0
    (mine / "notes.md").write_text("read by nobody")
    (mine / "model" / ".git" / "index").write_text("read by nobody")
    assert "Nothing to do" in run(tree, "small", "01_collection", "-n").stdout
    changed = ("model/config.json", "dev.run", "qrels/dev.tsv", "corpus.jsonl")
    for file in changed:
        (mine / file).write_text("new")
    said = run(tree, "small", "01_collection", "-n").stdout
    assert "Updated input files" in said and all(f"mine/{file}" in said for file in changed)
    assert run(tree, "small", "01_collection").returncode == 0
    (mine / "dev.run").write_text("a copy")
    os.utime(mine / "dev.run", (1e9, 1e9))  # with the time of its original, which is older than the notebook
    again = run(tree, "small", "01_collection", "-n").stdout
    assert again == "[1/1] 01_collection: Params have changed since last execution\n"
    (mine / "dev{1}.txt").touch()
    assert "dev{1}.txt: Snakemake takes braces in a path" in run(tree, "small", "01_collection", "-n").stdout


def test_a_failing_notebook_leaves_its_copy_and_the_last_line_names_the_cell(tree: Path):
    write(tree, "01_collection", "before = 1\nprint('before')\n1 / 0")
    failed = run(tree, "small", "collection")
    copy = tree / "runs" / "small" / "notebooks" / "01_collection.partial.ipynb"
    assert failed.returncode == 1
    assert failed.stdout.splitlines()[-1] == (
        "01_collection failed in cell In [4] ('before = 1'): ZeroDivisionError: division by zero; "
        "partial copy: runs/small/notebooks/01_collection.partial.ipynb"
    )
    assert "before\n" in [out.get("text") for cell in nbformat.read(copy, 4).cells for out in cell.get("outputs", [])]
    write(tree, "01_collection", "import os\nos._exit(9)")  # as when memory runs out
    last = run(tree, "small", "collection").stdout.splitlines()[-1]
    assert last.startswith("01_collection failed in cell In [4] ('import os'): Kernel died")


def test_a_job_that_does_not_write_its_figure_fails(tree: Path):
    source = tree / "notebooks" / "src" / "05_sampling.py"
    source.write_text(source.read_text().replace("'figure2.png'", ""))
    job = subprocess.run([sys.executable, "-m", "tools.execute", "small", "05_sampling"], cwd=tree, env=environment())
    assert job.returncode == 1
    message = (tree / "runs" / "small" / "failed.txt").read_text()
    assert message.startswith("05_sampling ran to its last cell but did not write figure2.png")


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_ends_at_once_and_resumes_and_a_second_run_is_refused(tree: Path, sent: signal.Signals):
    begin = "import os, time\nfrom pathlib import Path\n\nPath('{0}/began').write_text(str(os.getpid()))\n"
    wait = "while not Path('{0}/go').exists():\n    time.sleep(0.1)"
    write(tree, "04_clustering", (begin + wait).format(tree))
    pipe = subprocess.PIPE
    first = subprocess.Popen(command("small", "figure1"), cwd=tree, env=environment(), stdout=pipe, stderr=pipe)
    until(lambda: (tree / "began").exists())
    for target in ("figure1", "benchmarks") if sent == signal.SIGKILL else ():
        refused = run(tree, "small", target)
        assert refused.stdout == "another run of profile small is in progress; wait for it or stop it\n"
    first.send_signal(sent)
    _, said = first.communicate(timeout=10)
    if sent != signal.SIGKILL:
        assert first.returncode == 128 + sent
        assert said.decode().endswith("Interrupted. Run the same command again to resume.\n")
    until(lambda: ended(int((tree / "began").read_text())), 10)  # nothing continues in the background
    (tree / "go").touch()
    second = run(tree, "small", "figure1")
    assert second.returncode == 0, second.stdout
    assert second.stdout.startswith("[1/1] 04_clustering: ")


def test_a_terminated_job_ends_its_kernel(tree: Path):
    write(
        tree,
        "04_clustering",
        f"import os, time, pathlib\npathlib.Path({str(tree)!r}, 'began').write_text(str(os.getpid()))\ntime.sleep(99)",
    )
    job = subprocess.Popen(
        [sys.executable, "-m", "tools.execute", "small", "04_clustering"], cwd=tree, env=environment()
    )
    until(lambda: (tree / "began").exists())
    job.terminate()
    assert job.wait(10) == 143
    until(lambda: ended(int((tree / "began").read_text())), 10)


def test_the_kernel_is_this_python_and_the_profile_may_have_a_space(tree: Path, monkeypatch: pytest.MonkeyPatch):
    kernel = tree / "jupyter" / "kernels" / "python3" / "kernel.json"  # of an environment that has gone
    kernel.parent.mkdir(parents=True)
    kernel.write_text('{"argv": ["/no/python", "{connection_file}"], "display_name": "Python 3", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tree / "jupyter"))
    (tree / "profiles" / "my own.yaml").write_text(PROFILE)
    write(tree, "01_collection", "import sys\nprint(sys.executable)")
    built = run(tree, "my own", "collection")
    assert built.returncode == 0, built.stdout
    assert sys.executable in (tree / "runs" / "my own" / "notebooks" / "01_collection.ipynb").read_text()


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core runs one job")
def test_trainings_of_a_last_layer_run_side_by_side_with_a_core_each(tree: Path):
    profile = PROFILE + "pooling: cls\ntraining: {frozen_layers: 5}\n"
    (tree / "profiles" / "small.yaml").write_text(profile)
    meet = f"""import os, time
from pathlib import Path

print("threads:", os.environ.get("OMP_NUM_THREADS"))
Path({str(tree)!r}, f"began-{{TEACHER}}").touch()
end = time.monotonic() + 120
while TEACHER != "pairwise" and len(list(Path({str(tree)!r}).glob("began-*"))) < 3:
    assert time.monotonic() < end, "nothing runs beside this training"
    time.sleep(0.1)"""
    write(tree, graph.TRAINING, meet)
    done = subprocess.run(command("small", "06_training"), cwd=tree, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "      06_training-labels: done in" in done.stdout
    for name, threads in ((BASELINE, os.cpu_count()), (DUAL, 1)):
        assert f"threads: {threads}" in (tree / "runs" / "small" / "notebooks" / f"{name}.ipynb").read_text()


def test_a_job_is_never_silent_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    log, naps = tmp_path / "log", iter(["", "pairs\n", "pairs\n"])
    assert execute.SHOW_EVERY_S <= 10
    monkeypatch.setattr("time.sleep", lambda _: log.write_text(next(naps)))
    with pytest.raises(StopIteration):
        execute._show_last_line(log)
    assert capsys.readouterr().out.split("\n") == ["      0 s so far", "      pairs", "      0 s so far", ""]


def test_the_time_left_is_learnt_from_this_run(small: Profile, monkeypatch: pytest.MonkeyPatch):
    jobs = graph.jobs(small)
    monkeypatch.setattr(progress, "JOBS", jobs)
    handler = object.__new__(progress.LogHandler)
    handler.rates, handler.waiting = {"01_collection": 2.0}, ["06_training-labels", "04_clustering"]
    assert handler._left() == ""  # no training has run yet
    handler.rates["06_training"] = 40.0
    seconds = 40 * jobs["06_training-labels"].seconds + 21 * jobs["04_clustering"].seconds
    assert handler._left() == f"; about {progress.duration(seconds)} left"


def ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def until(true, wait_s: float = 120) -> None:
    end = time.monotonic() + wait_s
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


# --- the graph ---------------------------------------------------------------------------------------------------


def test_the_rows_of_a_table_say_which_trainings_it_needs(small: Profile):
    jobs = graph.jobs(small)
    assert jobs["07_latency"].needs == ("01_collection", BASELINE)  # it times the steps for Table 2 itself
    assert jobs[BASELINE].needs == ("01_collection",)
    assert jobs["06_training-labels"].needs == ("01_collection", BASELINE)
    assert jobs[DUAL].needs == ("01_collection", BASELINE, "04_clustering")
    assert jobs["08_losses_compared"].needs == ("01_collection", DUAL)  # of four systems the profile has one
    assert jobs["09_ablation"].needs == ("01_collection", "06_training-labels", BASELINE, DUAL)
    assert jobs["12_pipelines"].needs == ("01_collection", BASELINE, DUAL)  # a pipeline needs its parts
    assert jobs["13_claims"].needs == ("05_sampling", "12_pipelines", "06_training-labels", BASELINE, DUAL)


def test_the_default_run_trains_no_further_seeds(small: Profile):
    key = "dual/tas_balanced"
    jobs, targets = (of(small.model_copy(update={"repeated": {key: 2}})) for of in (graph.jobs, graph.targets))
    assert targets["seeds"] == [DUAL, f"{DUAL}-seed2"] and f"{key}/seed2" in graph.paper.TABLE5
    assert f"{DUAL}-seed2" not in {*targets["everything"], *(name for job in jobs.values() for name in job.needs)}
    listed = small.model_copy(
        update={"systems": small.systems | {f"{key}/seed2": config.System(teacher="dual", seed=2)}}
    )
    assert f"{DUAL}-seed2" in graph.jobs(listed)["10_robustness"].needs  # as in msmarco


def test_early_jobs_are_those_that_the_first_table_needs(small: Profile):
    assert [name for name, job in graph.jobs(small).items() if job.early > 2] == ["07_latency"]
    assert [name for name, job in graph.jobs(small).items() if job.early < 2] == ["06_training-labels", f"{DUAL}-slow"]
    large = small.model_copy(update={"systems": small.systems | {"tas_b": config.System(batch_size=64)}})
    assert {name: job.early for name, job in graph.jobs(large).items() if job.early < 2} == {
        "06_training-labels": 0,
        f"{DUAL}-slow": 0,
        f"{DUAL}-b64": 1,
    }


def test_a_training_of_a_last_layer_takes_one_core_and_the_baseline_all(small: Profile):
    assert not any(job.cores for job in graph.jobs(small).values())
    frozen = small.model_copy(
        update={"variants": {"slow": small.variants["slow"].model_copy(update={"training": {"frozen_layers": 5}})}}
    )
    assert [name for name, job in graph.jobs(frozen).items() if job.cores] == [f"{DUAL}-slow"]
    frozen = small.model_copy(update={"training": config.changed(small.training, {"frozen_layers": 5})})
    alone = {name for name, job in graph.jobs(frozen).items() if not job.cores and not job.on_request}
    assert alone == {BASELINE, "01_collection", "07_latency", "12_pipelines", "13_claims"}  # measured, or large


def test_deviations_and_table_1_at_full_size_are_built_only_on_request(small: Profile):
    jobs, targets = graph.jobs(small), graph.targets(small)
    assert jobs[f"{DUAL}-slow"].parameters["VARIANT"] == "slow"
    assert jobs["14_deviations"].needs == ("01_collection", DUAL, f"{DUAL}-slow")
    assert targets["deviations"] == ["14_deviations"]
    full = jobs["07_latency-full"]
    assert (full.notebook, full.parameters["PASSAGES"], full.makes[0]) == ("07_latency", 8_841_823, "table1-full.md")
    assert targets["table1-full"] == ["07_latency-full"] and targets["07_latency"] == targets["table1"] == [
        "07_latency"
    ]
    assert not {f"{DUAL}-slow", "14_deviations", "07_latency-full"} & {*targets["everything"]}


def test_only_what_a_notebook_imports_makes_it_run_again(tree: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(graph, "ROOT", tree)
    (tree / "tas_lib" / "a.py").write_text("from tas_lib import b\n")
    (tree / "tas_lib" / "b.py").write_text("def late():\n    import tas_lib.records\n")
    source = tree / "source.py"
    source.write_text("import numpy\nfrom tas_lib.a import thing\n")
    names = [path.name for path in graph.library(source)]
    assert sorted(names) == ["__init__.py", "a.py", "b.py", "records.py", "source.py"]


# --- full size, before anything is downloaded --------------------------------------------------------------------


def test_a_dry_run_of_ms_marco_lists_downloads_without_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_connection(*_: object) -> None:
        raise AssertionError("a dry run opened a connection")

    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", no_connection)
    scores = tmp_path / "msmarco-passage" / "train" / "bert_cat_ensemble_msmarcopassage_train_scores_ids.tsv"
    *lines, total = estimate.downloads(config.load("msmarco").source)
    assert len(lines) == 9 and all(line.startswith("missing  ") for line in lines)
    assert f"{scores.name} (2,400.0 MB)  https://zenodo.org/records/4068216/" in lines[-1]
    assert lines[-1].endswith(f" -> {scores.parent}")
    assert total.startswith("To download: 3.5 GB in all")
    scores.parent.mkdir(parents=True)
    scores.touch()
    *lines, total = estimate.downloads(config.load("msmarco").source)
    assert [line.startswith("present") for line in lines] == [False] * 8 + [True]
    assert total.startswith("To download: 1.1 GB in all")
    *lines, total = estimate.downloads(config.load("msmarco-small").source)  # with the candidates for re-ranking
    assert len(lines) == 12 and total.startswith("To download: 1.8 GB in all")


def test_time_and_disk_at_full_size_are_estimated_for_this_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(estimate, "roofline", lambda device: Roofline(gb_s=10, gflop_s=13_000))
    head, columns, *lines = estimate.lines(config.load("msmarco"))
    cards = ["T4*", "RTX", "3090*", "H100*"]
    assert "13,000 GFLOP/s" in head and columns.split() == ["target", "time", "disk", *cards, "memory"]
    times = {line.split()[0]: line.split()[1:3] for line in lines if not line.startswith("*")}
    assert {*times} == {*(f"table{n}" for n in range(1, 8)), "figure1", "figure2", "figure3", "everything"}
    # the baseline alone: 800K steps of 32 × 160 tokens, × 1.66 with padding, three times; 200 validations of 3,200 ×
    # 7,510 tokens and the collection's 663M, × 1.02; 85M operations per token at 6.5 TFLOP/s: 1.73e18 + .42e18 + .06e18
    assert times["figure1"] == ["3.9", "days"]
    published = {line.split()[0]: line.split()[1:5] for line in estimate.lines(config.load("checkpoints"))[2:]}
    assert published["table6"][:2] == ["12.3", "h"]  # five systems encode the collection


def test_what_fits_an_afternoon_is_said_for_each_card(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(estimate, "roofline", lambda device: Roofline(gb_s=10, gflop_s=13_000))
    profile = config.load("msmarco-small")
    *lines, t4, _, h100 = estimate.lines(profile)
    # 9K steps of 32 × 160 tokens × 1.30, in two corners three times and in two four times; 3 validations of 800 × 3,760
    # and 500K × 75 tokens in each, × 1.02; 85M operations per token: 8.7e16 in all, at 9 TFLOP/s
    names = "labels, pairwise/random, dual/random, dual/tas_balanced"
    assert t4 == f"{names} on T4: 2.7 h; three hours allow 10,030 steps each"
    assert h100.startswith(f"{names} on H100: 24.2 min; ")
    figure1 = next(line for line in lines if line.startswith("figure1"))
    assert figure1.endswith("4 GB") and "35.7 min" in figure1  # of which 6 encode the collection
    # weights, gradients, Adam 1.1 GB, CUDA 1; ColBERT .8; 34 × 768 bytes in 6 layers of (2 × 200 + 30) tokens × b
    gb = {b: estimate.memory_gb(profile, config.System(batch_size=b)) for b in (32, 96, 256)}
    assert gb == pytest.approx({32: 5.0, 96: 9.3, 256: 20.1}, abs=0.05)
    assert not profile.evaluation.on_the_papers_sets  # a part of them is not compared with the papers


# --- notebooks as files ------------------------------------------------------------------------------------------


def test_an_executed_notebook_is_shown_only_with_its_own_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, graph.TRAINING)
    source, path = tmp_path / "notebooks" / "src" / "06_training.py", tmp_path / "executed.ipynb"
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    executed = notebooks.read(source)
    executed.cells.insert(2, nbformat.v4.new_code_cell("SEED = 1", metadata={"tags": [notebooks.INJECTED]}))
    notebooks.write(executed, path)
    notebooks.publish(path, source, {"SEED": 2})
    assert not (tmp_path / "06_training.ipynb").exists()
    notebooks.publish(path, source, {"PROFILE": "docs", "SEED": 1})
    shown = nbformat.read(tmp_path / "06_training.ipynb", 4)
    assert notebooks.inputs(shown) == notebooks.inputs(notebooks.read(source))


def test_notebooks_that_unpack_has_marked_are_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    code = nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("display_data", {"text/html": "<b>1</b>"})])
    notebooks.write(nbformat.v4.new_notebook(cells=[code]), tmp_path / "one.ipynb")
    read = nbformat.read(tmp_path / "one.ipynb", 4)
    assert not NotebookNotary().check_signature(read)
    notebooks.trust()
    assert NotebookNotary().check_signature(read)


def test_clean_removes_what_differs_between_machines():
    cell = nbformat.v4.new_code_cell("x", execution_count=7, metadata={"execution": {"iopub.status.busy": "2021"}})
    stream = nbformat.v4.new_output
    cell.outputs = [
        stream("stream", name="stdout", text=f"{notebooks.ROOT}/runs/a\n"),
        stream("stream", name="stderr", text="10%"),
        stream("stream", name="stdout", text="b\n"),
        stream("execute_result", data={"text/plain": "<Thing at 0x7f12ab>"}, execution_count=7),
    ]
    cleaned = notebooks.clean(nbformat.v4.new_notebook(cells=[cell], metadata={"papermill": {"duration": 3}}))
    result = {"data": {"text/plain": ["<Thing>"]}, "execution_count": 1, "metadata": {}}
    assert json.loads(nbformat.writes(nbformat.from_dict(cleaned)))["cells"][0] == {
        "cell_type": "code",
        "execution_count": 1,
        "id": "2d711642-0",  # of the text "x"
        "metadata": {},
        "outputs": [
            {"name": "stdout", "output_type": "stream", "text": ["runs/a\n", "b\n"]},
            result | {"output_type": "execute_result"},
        ],
        "source": ["x"],
    }


def test_an_updated_notebook_keeps_outputs_only_while_its_code_is_the_same(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path / "notebooks")
    write(tmp_path, "02_models")
    source, path = tmp_path / "notebooks" / "src" / "02_models.py", tmp_path / "notebooks" / "02_models.ipynb"
    assert notebooks.sync(source) and not notebooks.sync(source)
    ran = nbformat.read(path, 4)
    ran.cells[-1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="printed\n")]
    notebooks.write(ran, path)
    source.write_text(source.read_text().replace("# # 02_models", "# # Models"))
    assert notebooks.sync(source)
    assert nbformat.read(path, 4).cells[-1].outputs and nbformat.read(path, 4).cells[0].source == "# Models"
    source.write_text(source.read_text().replace('"docs"', '"small"'))
    assert notebooks.sync(source)
    assert not nbformat.read(path, 4).cells[-1].outputs
    notebooks.refuse_edited()
    path.write_text(path.read_text().replace("# Models", "# Edited"))
    with pytest.raises(ValueError, match="02_models.ipynb was edited but its text was not; .*jupytext --sync"):
        notebooks.refuse_edited()


# --- .venv -------------------------------------------------------------------------------------------------------

FAKE = """#!/usr/bin/env bash
# a Python whose venv is a copy of itself
if [[ $1 == -m && $2 == venv ]]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
if [[ $2 == *purelib* ]]; then echo .venv; fi
if [[ $2 == *version_info* ]]; then exit {version}; fi
"""


def test_the_environment_is_made_when_it_is_missing_incomplete_or_stale(tmp_path: Path):
    def setup(version: int = 0) -> str:
        (tmp_path / "python").write_text(FAKE.format(version=version))
        (tmp_path / "python").chmod(0o755)
        words = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        env = os.environ | {"PYTHON": str(tmp_path / "python")}
        return subprocess.run([tmp_path / "tools" / "setup.sh"], env=env, **words).stdout

    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "setup.sh", tmp_path / "tools")
    (tmp_path / "requirements.txt").write_text("numpy==1\n")
    assert setup(version=1).startswith("Python 3.11 or newer is required")
    assert setup().startswith("Setting up .venv (it does not exist yet)")
    assert (tmp_path / ".venv" / "tas_lib.pth").read_text() == f"{tmp_path}\n"
    assert setup() == ""
    (tmp_path / ".venv" / "stamp").unlink()
    assert "(its set-up was interrupted)" in setup()
    (tmp_path / "requirements.txt").write_text("numpy==2\n")
    assert "(requirements.txt has changed, or this folder was moved)" in setup()


def test_every_requirement_is_pinned():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(line.partition(" ;")[0].count("==") == 1 for line in pins)
    assert not [line for line in pins if line.startswith("nvidia") or "+" in line or "/" in line]
    names = [line.partition("==")[0].lower() for line in pins]
    assert len(names) == len(set(names))
    assert "torch==2.13.0" in pins
