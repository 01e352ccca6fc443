"""Small profiles of every kind: each target makes what can be made, and says "not run: ..." for the rest."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import yaml

from tas_lib import config
from tas_lib.evaluation import claims
from tas_lib.experiment import BASELINE, Experiment
from tas_lib.models import BertCat, ColBert
from tas_lib.records import NotRun
from tas_lib.report import tables
from tas_lib.report.paper import TABLE3, TABLE4, TABLE5, TABLE6, rows7
from tas_lib.retrieval import pretrained
from tas_lib.retrieval.runs import Runs
from tools import graph

ROOT = Path(__file__).resolve().parents[1]
TRAINED = {
    "labels": {"teacher": "none", "sampling": "random"},
    "pairwise/random": {"teacher": "pairwise", "sampling": "random"},
    "pairwise/tas": {"teacher": "pairwise", "sampling": "tas"},
    "dual/tas_balanced": {"teacher": "dual", "sampling": "tas_balanced"},
    "dual/tas_balanced/seed2": {"teacher": "dual", "sampling": "tas_balanced", "seed": 2},
}
TRAINED = {key: row | {"batch_size": 8} for key, row in TRAINED.items()}
CHECKPOINT = {"tas_b": {"kind": "checkpoint", "source": "{folder}/tiny/encoder", "pooling": "mean"}}
RUNS = {"theirs": {"kind": "run", "source": "{folder}/theirs.{{set}}.run"}}
PIPELINES = {
    "bm25+theirs": {"kind": "fused", "of": ["bm25", "theirs"]},
    "rrf": {"kind": "fused", "of": ["bm25", "theirs"], "how": "rrf"},
    "bm25>cat": {"kind": "reranked", "first": "bm25"},
    "bm25>mono": {"kind": "reranked", "first": "bm25", "by": "mono"},
}
PROFILES = {  # name → sets of the folder, systems
    "test-only": (["dev"], TRAINED | RUNS | PIPELINES),
    "train-test": (["train", "dev"], TRAINED),
    "checkpoint": (["train", "dev", "graded"], CHECKPOINT),
    "runs": (["dev", "graded"], RUNS),
    "pipelines": (["train", "dev"], RUNS | PIPELINES | {"d2q": {"kind": "expanded"}}),
    "one-query": (["train", "one"], TRAINED),
    "zeros": (["train", "zeros"], TRAINED),
    "untrained": (["dev", "graded"], TRAINED | CHECKPOINT),
    "nothing": (["dev"], {}),
    **{f"only-{key.replace('/', '-')}": (["train", "dev"], {key: row}) for key, row in (TRAINED | CHECKPOINT).items()},
}
EASY = ["test-only", "train-test", "checkpoint", "runs", "pipelines", "one-query", "zeros", "nothing"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per profile with its sets, the tiny models, and profiles/<name>.yaml."""
    folder, made = tmp_path_factory.mktemp("matrix"), tiny.source()
    vocabulary = len(tiny.tokenizer())
    tiny.ship(tiny.save_encoder(folder / "tiny" / "encoder"))
    pretrained.save(ColBert(tiny.bert(vocabulary, seed=5), 8), tiny.tokenizer(), folder / "tiny" / "colbert")
    pretrained.save(BertCat(tiny.bert(vocabulary, seed=6)), tiny.tokenizer(), folder / "tiny" / "cat")
    for name in ("colbert", "cat"):
        tiny.ship(folder / "tiny" / name)
    dev, graded = made.sets["dev"], made.sets["graded"]
    sets = made.sets | {"one": dev.only(dev.queries.ids[:1], "one")}
    zeros = {query: {p: int(g > 1 and i > 0) for p, g in graded.qrels[query].items()}
             for i, query in enumerate(graded.queries.ids)}  # fmt: skip
    sets["zeros"] = graded._replace(qrels=zeros)
    for key, (names, systems) in PROFILES.items():
        write_folder(folder / key, made, {name: sets[name] for name in names})
        write_profile(folder, key, names, systems)
    return folder


def write_folder(folder: Path, made: tiny.Source, sets: dict[str, tiny.QuerySet]) -> None:
    folder.mkdir()
    lines = [f"{id}\t{text}\n" for id, text in zip(*made.passages, strict=True)]
    (folder / "collection.tsv").write_text("id\ttext\n" + "".join(lines))
    for name, of_set in sets.items():
        texts = [f"{id}\t{text}\n" for id, text in zip(*of_set.queries, strict=True)]
        judged = [f"{q} 0 {p} {grade}\n" for q, grades in of_set.qrels.items() for p, grade in grades.items()]
        (folder / f"queries.{name}.tsv").write_text("".join(texts))
        (folder / f"qrels.{name}.tsv").write_text("".join(judged))
    run = [f"{query} Q0 p{i} {i} {9 - i} t\n" for query in (*made.sets["dev"].qrels, "q-unjudged") for i in range(5)]
    (folder / "theirs.dev.run").write_text("".join(run))  # five deep, and on one set only


def write_profile(folder: Path, key: str, names: list[str], systems: dict[str, dict[str, object]]) -> None:
    filled = {
        name: {field: value.format(folder=folder / ("" if "tiny" in value else key)) if field == "source" else value
               for field, value in row.items()}
        for name, row in systems.items()
    }  # fmt: skip
    settings = {
        "source": {"kind": "local", "folder": str(folder / key), "stop_queries": 6, "tune_queries": 6},
        "artefacts": str(folder / "tiny"), "encoder": str(folder / "tiny" / "encoder"), "pooling": "mean",
        "tokens": {"query": 8, "passage": 16}, "pairing": {"depth": 20, "negatives": 4},
        "sampling": {"clusters": 2, "batch_size": 8},
        "training": {"steps": 4, "min_steps": 0, "validate_every": 2, "learning_rate": 1e-3, "workers": 0},
        "stop": {"queries": 6, "depth": 5}, "reranking": {"depth": 5}, "systems": filled,
        "evaluation": {"depth": 10, "sets": [
            {"name": name, "label": name.title(), "graded": name in ("graded", "zeros")}
            for name in names if name != "train"]},
    }  # fmt: skip
    (folder / "profiles").mkdir(exist_ok=True)
    (folder / "profiles" / f"{key}.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))


@pytest.fixture
def environment(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("profiles", "runs", "figures"):
        monkeypatch.setenv(f"TAS_{name.upper()}", str(place / name))


def load(key: str) -> Experiment:
    return Experiment(config.load(key))


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("key", EASY)
def test_every_table_is_made_of_any_profile(key: str):
    lab = load(key)
    profile, evaluation, systems = lab.profile, lab.profile.evaluation, lab.profile.systems
    made = [
        tables.table3(lab.scores(TABLE3), evaluation, systems).noted(lab.notes),
        tables.table4(lab.scores(TABLE4), evaluation, systems).noted(lab.notes),
        tables.table5(lab.scores(TABLE5), evaluation, systems).noted(lab.notes),
        tables.table6(lab.scores({**TABLE6, **systems}), evaluation, systems).noted(lab.notes),
        tables.table7(lab.scores(rows7(profile)), profile).noted(lab.notes),
    ]
    for table in made:
        assert len(table.tidy) == len(table.rows) * len(table.columns)
        tables.write(table, profile.figures, "table")
    lines = {row.key: row for table in made for row in table.rows}
    for name in systems:
        assert lines[name].runs or lines[name].origin.startswith("not run: "), name
    assert lab.scores(["bm25"])["bm25"].keys() == {test.name for test in evaluation.sets}
    claims.judge(lab.scores(systems), {}, evaluation)


@pytest.mark.usefixtures("environment")
def test_the_column_run_says_why_or_how_deep():
    lab = load("runs")
    scores = lab.scores(["theirs"])
    row = {row.key: row for row in tables.table6(scores, lab.profile.evaluation, {}).noted(lab.notes).rows}
    depth = "5 deep, so R@10 is R@5"
    assert scores["theirs"].keys() == {"dev"}
    assert lab.notes == {
        "theirs": f"{depth}; there is no file {lab.profile.systems['theirs'].source.format(set='graded')}"
    }
    assert row["theirs"].origin.endswith(lab.notes["theirs"])
    with pytest.raises(NotRun, match="there is no file"):
        lab.run(lab.listed["theirs"], "graded")


@pytest.mark.usefixtures("environment")
def test_a_run_over_another_collection_is_refused(tmp_path: Path):
    lab, query = load("runs"), next(iter(tiny.source().sets["dev"].qrels))
    (tmp_path / "a.run").write_text(f"{query} Q0 MARCO_D1 1 9 t\n")
    with pytest.raises(ValueError, match=r"a\.run: none of its passages is in the collection"):
        lab.run(config.System(kind="run", source=str(tmp_path / "a.run")), "dev")


@pytest.mark.usefixtures("environment")
def test_nothing_is_trained_where_no_row_is(place: Path):
    lab = load("checkpoint")
    for ask in (lambda: lab.clusters, lambda: lab.clustering_s, lambda: lab.pairs, lambda: lab.in_batch_teacher,
                lambda: lab.sampler(lab.baseline), lambda: lab.history(lab.listed["tas_b"])):  # fmt: skip
        with pytest.raises(NotRun, match="no row of this profile is trained here|is not trained here"):
            ask()
    assert not (place / "runs" / "checkpoint" / "systems").exists()


@pytest.mark.usefixtures("environment")
def test_the_baseline_is_the_profiles_own_whatever_its_batch_size():
    assert load("train-test").baseline == load("train-test").listed["pairwise/random"]
    assert load("only-dual-tas_balanced").baseline == BASELINE.model_copy(update={"batch_size": 8})


@pytest.mark.usefixtures("environment")
def test_interpolation_needs_a_stop_set_and_rrf_does_not():
    lab = load("test-only")
    scores = lab.scores(["bm25+theirs", "rrf"])
    assert not scores["bm25+theirs"] and scores["rrf"].keys() == {"dev"}
    assert lab.notes["bm25+theirs"] == "there is no set `stop` to choose α on"


def test_a_relative_path_is_in_the_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    system = config.System(kind="run", source="data/{set}.run")
    assert Runs.file(None, system, "dev") == ROOT / "data" / "dev.run"


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("key", PROFILES)
def test_every_target_runs_on_any_profile(key: str, place: Path):
    """All notebooks, by real kernels; every file is written, and a reason is in it where it could not be made."""
    jobs = graph.jobs(config.load(key))
    named = [name for name in jobs if not name.endswith("-full")]
    targets = [name.removeprefix(f"{graph.TRAINING}-") for name in named]
    command = [sys.executable, "-m", "tools.run", key, *targets]
    done = subprocess.run(command, cwd=ROOT, env=os.environ.copy(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in named:
        assert (place / "runs" / key / "notebooks" / f"{name}.ipynb").is_file()
        for file in jobs[name].makes:
            content = (place / "figures" / key / file).read_bytes()
            assert content, file
    assert "not run: " not in (place / "figures" / key / "table6.md").read_text().splitlines()[0]
