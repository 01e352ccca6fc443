"""Bad inputs: each ends a run with one readable line that names the key, or the file and the line."""

import contextlib
import gzip
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load, save

from tas_lib import config
from tas_lib.experiment import Experiment
from tests import tiny
from tests.faults import campaign
from tools import run as runner

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    campaign.put_local(folder)
    (folder / "mine" / "queries.dev.tsv").write_text("q1\tthe mean\n")
    (folder / "mine" / "qrels.dev.tsv").write_text("q1 0 p1 1\n")
    return folder / "mine"


# --- what is broken ----------------------------------------------------------------------------------------------


def edit(old: str, new: str) -> Change:
    """Change the profile."""
    return lambda mine: (mine / "local.yaml").write_text(campaign.LOCAL.format(folder=mine).replace(old, new, 1))


def put(file: str, content: str | bytes | None | Callable[[bytes], bytes]) -> Change:
    """Write a file, remove it (None), or change its content."""

    def change(mine: Path) -> None:
        new = content((mine / file).read_bytes()) if callable(content) else content
        (mine / file).unlink(missing_ok=True)
        if new is not None:
            (mine / file).write_bytes(new.encode() if isinstance(new, str) else new)

    return change


def beir(file: str, content: str) -> Change:
    """BEIR's layout with this file."""

    def change(mine: Path) -> None:
        (mine / "collection.tsv").unlink()
        (mine / "qrels").mkdir()
        for name, text in (BEIR | {file: content}).items():
            (mine / name).write_text(text)

    return change


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def one_weight_less(content: bytes) -> bytes:
    return save(dict([*load(content).items()][1:]), {"format": "pt"})


def a_t5(mine: Path) -> None:
    tiny.t5().save_pretrained(mine / "encoder")
    tiny.t5_tokenizer().save_pretrained(mine / "encoder")


# --- what meets it -----------------------------------------------------------------------------------------------


def request() -> None:
    with contextlib.redirect_stderr(io.StringIO()) as output:
        assert runner.main(["local", "--dry-run"]) == 2
    raise ValueError(output.getvalue().removesuffix("\n"))


def lab() -> Experiment:
    return Experiment(config.load("local"))


def their_run() -> None:
    lab().run(config.System(kind="run", source=f"{lab().profile.source.folder}/their.run"), "dev")


MEETS = {
    "sets": lambda: lab().collection,
    "encoder": lambda: lab().trained(config.System(teacher="none", sampling="random", batch_size=8)),
    "cat": lambda: lab().pairs,
    "colbert": lambda: lab().in_batch_teacher,
    "clusters": lambda: lab().clusters,
}
LINE, HEAD, RUN = "p0\tthe mean\n", "query-id\tcorpus-id\tscore\n", "q1 Q0 p1 1 9 me\n"
BEIR = {"corpus.jsonl": '{"_id": "p1", "text": "a"}\n', "queries.jsonl": '{"_id": "q1", "text": "a"}\n'}
BEIR["qrels/test.tsv"] = f"{HEAD}q1\tp1\t1\n"

CASES = [
    (request, put("local.yaml", b"\xff\xfes\0"), "local.yaml is not YAML"),
    (request, put("local.yaml", ""), "local.yaml: source: Field required"),
    (request, edit("systems:", "systems: ["), "local.yaml is not YAML ... line 1"),
    (request, edit("systems:", "systems:\n\tlabels: x\n"), "local.yaml is not YAML ... line 1"),
    (request, edit("  labels: {", "  bm25>cat: {"), "local.yaml ... line 2 ... bm25>cat ... twice"),
    (request, edit("steps: 20", "setps: 20"), "local.yaml: training.setps: Extra inputs are not permitted"),
    (request, edit("1.0e-3", "-1.0e-3"), "training.learning_rate: Input should be greater than 0"),
    (request, edit("1.0e-3", ".nan"), "training.learning_rate: Input should be a finite number"),
    (request, edit("kind: local", "kind: lokal"), "local.yaml: source: Input tag 'lokal'"),
    (request, edit("sets: [", "sets: []} # ["), "local.yaml: evaluation.sets: "),
    (request, edit("name: dev,", "name: graded,"), "local.yaml: evaluation: ... graded"),
    (request, edit("teacher: dual", "teacher: duel"), "systems.dual/random.teacher: Input should be"),
    (request, edit("of: [bm25, dual]", "of: [bm25, d]"), "bm25+dual: no system 'd'"),
    (request, edit("of: [bm25, dual]", "of: [bm25]"), "systems.bm25+dual: `of` names two"),
    (request, edit("batch_size: 8}", "variant: fast}"), "system labels: there is no variant 'fast'"),
    (request, edit("first: bm25,", ""), "systems.bm25>cat: a system of kind 'reranked' needs `first`"),
    ("sets", put("collection.tsv", None), "holds neither of two layouts"),
    ("sets", put("collection.tsv", ""), "collection.tsv is empty"),
    ("sets", put("collection.tsv", f"{LINE}p1 no tab\n"), "collection.tsv, line 2: 1 columns"),
    ("sets", put("collection.tsv", LINE + LINE), "collection.tsv, line 2: p0 occurs twice"),
    ("sets", put("collection.tsv", f"{LINE}p1\tcafé\n".encode("latin-1")), "collection.tsv, ... line"),
    ("sets", put("collection.tsv", gzip.compress(LINE.encode())[:-9]), "collection.tsv, after line ... cut off"),
    ("sets", put("queries.dev.tsv", "q0\ta\n"), "qrels.dev.tsv, line 1: query ... has no text in queries.dev.tsv"),
    ("sets", put("qrels.dev.tsv", "q1 0 p1 1\nq1 0 p2\n"), "qrels.dev.tsv, line 2: 3 columns"),
    ("sets", put("qrels.dev.tsv", "q1 0 p1 yes\n"), "qrels.dev.tsv, line 1: ... 'yes'"),
    ("sets", put("qrels.dev.tsv", "q1 0 p1 1\nq1 0 p1 2\n"), "qrels.dev.tsv, line 2: passage p1 occurs twice"),
    ("sets", put("qrels.dev.txt", "q1 0 p1 1\n"), "qrels.dev.txt ... the set has two files"),
    ("sets", put("pairs.tsv", "1 x q1 p1 p2\n"), "pairs.tsv, line 1: ... 'x'"),
    (
        "sets",
        beir("corpus.jsonl", BEIR["corpus.jsonl"] + "{"),
        "corpus.jsonl, line 2: not JSON, or cut off",
    ),
    ("sets", beir("corpus.jsonl", '{"_id": 1, "text": "a"}\n'), "corpus.jsonl, line 1: _id is 1, not a string"),
    ("sets", beir("qrels/test.tsv", HEAD), "qrels/test.tsv has a head and no judgements"),
    ("sets", beir("qrels/test.tsv", f"{HEAD}q1\tp9\t1\n"), "qrels/test.tsv: of its 1 judged passages, none is in"),
    (their_run, put("their.run", "q1 Q0 p1 1\n"), "their.run, line 1: 4 columns"),
    (their_run, put("their.run", f"{RUN}q1 Q0 p2 2 nan me\n"), "their.run, line 2: the score is nan"),
    (their_run, put("their.run", RUN + RUN), "their.run, line 2: passage p1 occurs twice"),
    ("encoder", put("encoder/tokenizer.json", None), "no tokenizer in ... mine/encoder"),
    ("encoder", put("encoder/config.json", half), "mine/encoder"),
    ("encoder", put("encoder/model.safetensors", half), "no encoder in the folder ... mine/encoder"),
    ("encoder", put("encoder/model.safetensors", one_weight_less), "mine/encoder"),
    ("encoder", a_t5, "no encoder in the folder ... mine/encoder ... this is a t5"),
    ("cat", put("cat/config.json", None), "mine/cat"),
    ("cat", put("cat/head.safetensors", half), "no head.safetensors in the folder ... mine/cat"),
    ("colbert", put("colbert/head.safetensors", None), "no head.safetensors in the folder ... mine/colbert"),
    ("colbert", put("colbert/model.safetensors", one_weight_less), "mine/colbert"),
    ("clusters", edit("clusters: 3", "clusters: 300"), "300 clusters (sampling.clusters) of"),
    ("sets", edit("name: dev,", "name: test,"), "no query set 'test'"),
]


@pytest.mark.parametrize(("meets", "change", "expected"), CASES, ids=[case[-1] for case in CASES])
def test_a_bad_input_is_one_line_that_names_it(good: Path, tmp_path: Path, monkeypatch, meets, change, expected):
    mine = tmp_path / "mine"
    shutil.copytree(good, mine)
    edit("", "")(mine)
    change(mine)
    for name, value in {"TAS_PROFILES": mine, "TAS_RUNS": tmp_path, "HF_HUB_OFFLINE": 1}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(ValueError) as error:
        MEETS.get(meets, meets)()
    message = str(error.value)
    assert "\n" not in message and len(message) < 600, message
    assert all(part in message for part in expected.split(" ... ")), message
