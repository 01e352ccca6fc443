"""Every artefact against every setting: after a change, a kept store gives the bytes that an empty one gives."""

import copy
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from pydantic import BaseModel
from transformers import BertConfig, BertModel

from tas_lib import models
from tas_lib.config import ROOT, DocsSource, LocalSource, MsMarcoSource, Profile
from tas_lib.data import store
from tas_lib.experiment import Experiment
from tas_lib.report import following
from tas_lib.retrieval import pretrained

Values = dict[str, Any]
"""Settings as a profile's YAML has them, or the path of each, such as `tokens.query`, to its value."""
OTHER: Values = {
    "source.folder": "{place}/other",
    "source.stop": "more",
    "source.tune": "most",
    "source.stop_queries": 7,
    "source.tune_queries": 3,
    "source.seed": 1,
    "artefacts": "{place}/b",
    "encoder": "{place}/b/encoder",
    "pooling": "mean",
    "cross_encoder": "{place}/b/cat",
    "colbert": "{place}/b/colbert",
    "query_masks": 2,
    "tokens.query": 4,
    "tokens.passage": 6,
    "bm25.k1": 5.0,
    "bm25.b": 1.0,
    "negatives.k1": 5.0,
    "negatives.b": 1.0,
    "pairing.depth": 25,
    "pairing.negatives": 6,
    "pairing.positives": 1,
    "sampling.clusters": 4,
    "sampling.clusters_per_batch": 2,
    "sampling.margin_bins": 2,
    "sampling.margin_cap": 0.1,
    "sampling.spherical": False,
    "sampling.iterations": 1,
    "sampling.queries": 20,
    "training.colbert_mask": "public",
    "training.steps": 2,
    "training.min_steps": 4,
    "training.validate_every": 2,
    "training.patience": 30,
    "training.keep": "last",
    "training.learning_rate": 0.02,
    "training.schedule": "cosine",
    "training.warmup": 2,
    "training.frozen_layers": 1,
    "training.alpha": 9.0,
    "training.list_weights.listnet": 9.0,
    "training.precision": "bf16",
    "training.model_seed": 3,
    "stop.queries": 3,
    "stop.depth": 2,
    "evaluation.sets.0.name": "most",
    "evaluation.sets.0.graded": True,
    "evaluation.sets.0.binarise_at": 2,
    "evaluation.depth": 6,
    "fusion.alphas": [0.01, 100.0],
    "fusion.k": 1,
    "expansion.model": "{place}/b/seq2seq",
    "expansion.queries": 3,
    "expansion.top_k": 2,
    "expansion.longest": 8,
    "expansion.cap": 5,
    "expansion.batch": 8,
    "expansion.shard": 16,
    "expansion.seed": 1,
    "reranking.depth": 6,
    "reranking.duo_depth": 4,
    "reranking.dev_sample": 2,
    "reranking.mono": "{place}/b/seq2seq",
    "reranking.duo": "{place}/b/seq2seq",
    "variants.frozen.training": {"frozen_layers": 1, "learning_rate": 0.02},
    "variants.frozen.sampling": {"clusters": 4},
    "systems.dual.teacher": "none",
    "systems.dual.sampling": "random",
    "systems.dual.loss": "lambdarank",
    "systems.dual.batch_size": 5,
    "systems.dual.seed": 2,
    "systems.dual.variant": "frozen",
    "systems.published.source": "{place}/b/encoder",
    "systems.published.pooling": "mean",
    "systems.published.query_prompt": "plot ",
    "systems.published.passage_prompt": "plot ",
    "systems.published.normalize": True,
    "systems.fused.of": ["bm25", "in_batch"],
    "systems.fused.how": "rrf",
    "systems.cat.first": "d2q",
    "systems.cat.by": "mono",
    "systems.cat.depth": 6,
}
"""Every setting's other value, one that some artefact's bytes depend on; {place} is the folder of models and texts."""
WITH: dict[str, Values] = {
    "pooling": {"variants": {}, "systems.frozen.variant": ""},  # layers are frozen with `cls` alone
}
"""What a value cannot do without."""
NONE = {
    "name": "where artefacts lie",
    "source.kind": "see the test of sources",
    "kept_vectors_gb": "execution: where ColBERT's vectors come from, which are equal up to rounding",
    "sampling.batch_size": "a system has its own",
    "training.workers": "execution",
    "training.chunk": "execution",
    "training.cached_chunk": "execution",
    "training.compile": "execution",
    "training.list_weights.kldiv_as_published": "as the weight of listnet",
    "training.list_weights.lambdarank": "as the weight of listnet",
    "evaluation.sets.*.label": "of tables alone",
    "evaluation.sets.*.paper": "of tables alone",
    "evaluation.alpha": "of tables alone",
    "systems.*.kind": "another kind is another row",
    "deviations": "as systems",
    "repeated": "as systems",
}
"""Settings without another value here, and why."""


KINDS = {
    "data/collection.py": {"collection"},
    "data/tokens.py": {"tokens"},
    "experiment.py": {"checked", "clusters", "systems"},
    "report/following.py": {"following"},
    "report/latency.py": set[str](),  # vectors of no profile
    "retrieval/doc2query.py": {"expansions"},
    "retrieval/encode.py": {"states", "vectors"},
    "retrieval/runs.py": {"measured", "retrieved"},
    "train/pairs.py": {"pairs", "negatives"},
    "train/teachers.py": {"colbert-vectors"},
}
"""The modules that call `Store.artefact`, and what each makes."""


def texts(folder: Path, seed: int) -> None:
    """Sixty passages in MS MARCO's layout; each query is made of words of the passage that answers it."""
    rng = np.random.default_rng(seed)
    passages = [rng.choice(tiny.WORDS, rng.integers(4, 12)) for _ in range(60)]
    folder.mkdir()
    (folder / "collection.tsv").write_text("".join(f"{i}\t{' '.join(words)}\n" for i, words in enumerate(passages)))
    first = 0
    for name, size in {"train": 40, "dev": 6, "more": 5, "most": 5}.items():
        rows = range(first, first := first + size)
        queries = [f"{row}\t{' '.join(rng.choice(passages[row], rng.integers(2, 6)))}\n" for row in rows]
        (folder / f"queries.{name}.tsv").write_text("".join(queries))
        judged = "".join(f"{row} 0 {row} 2\n{row} 0 {row + 1} 1\n" for row in rows)
        (folder / f"qrels.{name}.tsv").write_text(judged)


def bert(vocabulary: int, seed: int) -> BertModel:
    """Two layers, with dropout."""
    torch.manual_seed(seed)
    shape = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=vocabulary, max_position_embeddings=64, initializer_range=0.5, **shape)
    return BertModel(config, add_pooling_layer=False).eval()


def shipped(folder: Path, seed: int) -> None:
    """An encoder, teachers without a tokenizer, which read with the encoder's, and a T5."""
    tokenizer = tiny.tokenizer(["true", "false", *tiny.WORDS[seed:], *tiny.WORDS[:seed]])
    n = len(tokenizer)
    tiny.save_encoder(folder / "encoder", bert(n, seed))
    tokenizer.save_pretrained(folder / "encoder")
    teachers = {"colbert": models.ColBert(bert(n, seed + 1), 8), "cat": models.BertCat(bert(n, seed + 2))}
    for name, model in teachers.items():
        pretrained.save(model, tokenizer, folder / name)
        for path in (folder / name).glob("tokenizer*"):
            path.unlink()
    tiny.t5(seed).save_pretrained(folder / "seq2seq")
    tiny.t5_tokenizer().save_pretrained(folder / "seq2seq")
    for path in folder.iterdir():
        tiny.ship(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all models and texts, and of the store `kept`, in which every artefact is made."""
    folder = tmp_path_factory.mktemp("recorded")
    for seed, (of_texts, of_models) in enumerate([("source", "a"), ("other", "b")]):
        texts(folder / of_texts, seed)
        shipped(folder / of_models, 3 * seed)
    shutil.copytree(folder / "a" / "cat", folder / "published", ignore=shutil.ignore_patterns("*.json", "head*"))
    shutil.copy(folder / "a" / "cat" / "config.json", folder / "published")
    build(settings(folder), folder / "kept")
    return folder


def settings(place: Path) -> Values:
    """A profile with a system of every kind, every teacher and every sampling."""
    t5, small = f"{place}/a/seq2seq", {"batch_size": 6}
    return {
        "name": "tiny",
        "source": {"kind": "local", "folder": f"{place}/source", "stop_queries": 6, "tune_queries": 4},
        "artefacts": f"{place}/a",
        "encoder": f"{place}/a/encoder",
        "tokens": {"query": 6, "passage": 9},
        "pairing": {"depth": 12, "negatives": 4},
        "sampling": {"clusters": 3},
        "training": {
            **{"steps": 4, "min_steps": 0, "validate_every": 1, "patience": 1, "learning_rate": 0.01, "workers": 0},
            "list_weights": {},
        },
        "stop": {"queries": 5, "depth": 5},
        "evaluation": {"sets": [{"name": "dev", "label": "Dev"}], "depth": 8},
        "expansion": {"model": t5, "queries": 2, "longest": 4, "batch": 16, "shard": 32},
        "reranking": {"depth": 4, "duo_depth": 3, "dev_sample": 4, "mono": t5, "duo": t5},
        "variants": {"frozen": {"training": {"frozen_layers": 1}}},
        "systems": {
            "pairwise": {"teacher": "pairwise", "sampling": "random", **small},
            "frozen": {"sampling": "tas", "variant": "frozen", **small},
            "in_batch": {"teacher": "in_batch", "sampling": "hard_margin", **small},
            "dual": {"loss": "listnet", **small},
            "published": {"kind": "checkpoint", "source": f"{place}/published"},
            "d2q": {"kind": "expanded"},
            "fused": {"kind": "fused", "of": ["bm25", "dual"]},
            "rrf": {"kind": "fused", "of": ["d2q", "published"], "how": "rrf"},
            "cat": {"kind": "reranked", "first": "bm25"},
            "mono": {"kind": "reranked", "first": "d2q", "by": "mono"},
            "duo": {"kind": "reranked", "first": "mono", "by": "duo"},
        },
    }


def changed(profile: Values, values: Mapping[str, Any], place: Path) -> Values:
    """The same settings with other values at these paths."""
    profile = copy.deepcopy(profile)
    for path, value in values.items():
        *sections, key = path.split(".")
        section: Any = profile
        for name in sections:
            section = section[int(name)] if isinstance(section, list) else section.setdefault(name, {})
        section[key] = value.format(place=place) if isinstance(value, str) else value
    return profile


def build(profile: Values, runs: Path) -> None:
    """Make every artefact that the runs of all systems need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAS_RUNS", str(runs))
        patch.setattr(os, "fsync", lambda _: None)  # no machine fails here
        lab = Experiment(Profile.model_validate(profile))
        for system in lab.listed.values():
            for test in lab.profile.evaluation.sets:
                lab.evaluate(system, test.name)
        following.margin_errors(lab, [lab.baseline], [lab.sampler(lab.baseline).batch(0)])


def notes(runs: Path) -> dict[str, Path]:
    """The provenance of every artefact, by its name."""
    return {str(path.parent.relative_to(runs)): path for path in sorted(runs.rglob("provenance.json"))}


def content(note: Path) -> Values:
    """The digests of an artefact's files; of a training's history all but its seconds."""
    files = store.read_json(note)["sha256"]
    if "history.json" in files:
        files["history.json"] = [row[:-1] for row in store.read_json(note.parent / "history.json")]
    return files


def link(folder: Path, to: Path) -> None:
    shutil.copytree(folder, to, copy_function=os.link, ignore=shutil.ignore_patterns(".locks"))


def stale(place: Path, values: Mapping[str, Any], tmp_path: Path) -> tuple[list[str], bool]:
    """The artefacts of the kept store that are not as in an empty one, and whether any are others than before."""
    base, kept, fresh = place / "kept", tmp_path / "kept", tmp_path / "fresh"
    profile = changed(settings(place), values, place)
    link(base, kept)
    build(profile, kept)
    before, after = notes(base), notes(kept)
    for name, note in after.items():  # what was made now need not be made twice, unless from something stale
        if name not in before or not note.samefile(before[name]):
            link(note.parent, fresh / name)
    build(profile, fresh)
    expected = {name: content(note) for name, note in notes(fresh).items()}
    differ = any(name not in before or content(before[name]) != files for name, files in expected.items())
    late = [name for name, files in expected.items() if content(after[name]) != files]
    shutil.rmtree(tmp_path)
    return late, differ


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """The path of every setting, with * for a name or number."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from leaves(getattr(value, name), f"{path}.{name}".strip("."))
    elif isinstance(value, dict | tuple) and value and path in ("systems", "variants", "evaluation.sets"):
        for one in value.values() if isinstance(value, dict) else value:
            yield from leaves(one, f"{path}.*")
    else:
        yield path


def test_every_setting_has_another_value_or_a_reason_why_not(place: Path):
    tested = {re.sub(r"^(systems|variants|evaluation\.sets)\.\w+", r"\1.*", path) for path in OTHER}
    assert tested.isdisjoint(NONE)
    assert tested | set(NONE) == set(leaves(Profile.model_validate(settings(place))))


def test_every_kind_of_artefact_is_made_here(place: Path):
    calls = {
        str(path.relative_to(ROOT / "tas_lib")): len(re.findall(r"\bstore\b.*\.artefact[(,]", path.read_text(), re.I))
        for path in (ROOT / "tas_lib").rglob("*.py")
    }
    assert {path: n for path, n in calls.items() if n} == {path: len(kinds) or 1 for path, kinds in KINDS.items()}
    made = {re.sub("^tokens-.*", "tokens", name.split("/")[1]) for name in notes(place / "kept")}
    assert made == set().union(*KINDS.values())


def test_a_collection_records_all_settings_of_its_source_but_paths_and_addresses():
    excluded = {
        (kind.__name__, name)
        for kind in (DocsSource, LocalSource, MsMarcoSource)
        for name, field in kind.model_fields.items()
        if field.exclude
    }
    assert excluded == {("DocsSource", "opened"), ("LocalSource", "folder"), ("MsMarcoSource", "urls")}


SECTIONS = sorted({path.split(".")[0] for path in OTHER} - {"systems"})


@pytest.mark.parametrize("section", SECTIONS)
def test_no_artefact_is_stale_after_a_change_of_a_section(place: Path, section: str, tmp_path: Path):
    values = {path: value for path, value in OTHER.items() if path.split(".")[0] == section}
    assert stale(place, values | WITH.get(section, {}), tmp_path) == ([], True)


@pytest.mark.slow
@pytest.mark.parametrize("path", OTHER)
def test_no_artefact_is_stale_after_a_change_of_one_setting(place: Path, path: str, tmp_path: Path):
    assert stale(place, {path: OTHER[path]} | WITH.get(path, {}), tmp_path) == ([], True)
