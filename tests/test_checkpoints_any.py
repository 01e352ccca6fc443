"""Anybody's checkpoints: a row has the model's own vectors and ranking, or a sentence says what the model is."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer import modules as st
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForSequenceClassification

from tas_lib.config import System
from tas_lib.data.tokens import load_tokenizer
from tas_lib.experiment import Experiment
from tas_lib.models import BertCat, ColBert
from tas_lib.retrieval import pretrained
from tas_lib.retrieval.t5 import answer_words

SETTINGS = "config_sentence_transformers.json"
QUERIES = ["plot the graph of a matrix", "mean along axis", "linear product"]
KINDS = ["bert", "distilbert", "roberta", "mpnet", "electra", "albert", "xlm-roberta", "modernbert"]
WIDTH = 16
SHAPE = {
    "vocab_size": len(tiny.tokenizer()),
    **dict.fromkeys(("hidden_size", "dim", "embedding_size"), WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "num_attention_heads", "n_heads"), 2),
    **dict.fromkeys(("intermediate_size", "hidden_dim"), 32),
    "max_position_embeddings": 70,
    "initializer_range": 0.3,  # texts differ, and so do their scores
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0),
}
Pooling = partial(st.Pooling, WIDTH)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """A collection of 80 passages, and a profile without systems."""
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read once, at its import
    tiny.ship(tiny.save_encoder(tmp_path / "tiny" / "encoder"))
    profile = tiny.settings(tmp_path)
    tiny.put_collection(profile, tiny.source())
    return Experiment(profile)


def plain(folder: Path, kind: str = "bert", auto: type = AutoModel, **shape: object) -> str:
    """A random model of `transformers` and its tokenizer."""
    torch.manual_seed(5)
    config = CONFIG_MAPPING[kind]
    known = {key: value for key, value in SHAPE.items() if hasattr(config(), key)}
    auto.from_config(config(**known, **shape)).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def cross_encoder(folder: Path, kind: str = "bert") -> str:
    return plain(folder, kind, AutoModelForSequenceClassification, num_labels=1)


def t5(folder: Path) -> str:
    tiny.t5().save_pretrained(folder)
    tiny.t5_tokenizer().save_pretrained(folder)
    return str(folder)


def published(folder: Path, *modules: nn.Module, **settings: object) -> Path:
    """These modules as sentence-transformers saves them; compared by dot product unless `settings` differ."""
    SentenceTransformer(modules=list(modules), device="cpu").save(str(folder))
    change(folder / SETTINGS, **{"similarity_fn_name": "dot"} | settings)
    return folder


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))


def row(folder: Path | str, **settings: object) -> System:
    return System(kind="checkpoint", source=str(folder), pooling="mean", **settings)


def check(
    lab: Experiment, system: System, folder: Path | str, prompts: tuple[str, str] = ("", ""), **options: bool
) -> None:
    """A row's vectors and first ten passages are those of the model's own `encode`, up to the rounding to fp16."""
    model, passages = SentenceTransformer(str(folder), device="cpu"), list(lab.collection.passages.texts)
    queries = model.encode_query(QUERIES, prompt=prompts[0], **options)
    vecs = model.encode_document(passages, prompt=prompts[1], **options)
    np.testing.assert_allclose(lab.vectors(system).float(), vecs, rtol=1e-3, atol=1e-3)
    own, (indices, scores) = queries @ vecs.T, lab.runs.retriever(system)(QUERIES, 10)
    first, rounding = -np.sort(-own)[:, :10], 1e-3 * np.abs(own).max()
    assert np.ptp(own, axis=1).min() > 50 * rounding  # else any ten would do
    np.testing.assert_allclose(scores, first, atol=rounding)
    np.testing.assert_allclose(np.take_along_axis(own, indices, 1), first, atol=rounding)


# --- vectors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_has_its_own_vectors_with_modules_and_without(lab: Experiment, tmp_path: Path, kind: str):
    folder = plain(tmp_path / "plain", kind)
    check(lab, row(folder), folder)
    whole = published(tmp_path / "whole", Transformer(folder), Pooling("max"), Normalize())
    check(lab, row(whole), whole)


MODULES: dict[str, Callable[[Path], list[nn.Module]]] = {
    **{mode: lambda p, mode=mode: [Transformer(plain(p)), Pooling(mode)] for mode in st.Pooling.POOLING_MODES},
    "two poolings": lambda p: [Transformer(plain(p)), Pooling(("cls", "max"))],
    "Normalize": lambda p: [Transformer(plain(p)), Pooling(), Normalize()],
    "Dense": lambda p: [Transformer(plain(p)), Pooling(), Dense(WIDTH, 12)],
    "LayerNorm": lambda p: [Transformer(plain(p)), Pooling(), st.LayerNorm(WIDTH)],
    "Dropout": lambda p: [Transformer(plain(p)), Pooling(), st.Dropout(0.5)],
    "CNN": lambda p: [Transformer(plain(p)), st.CNN(WIDTH, 8), st.Pooling(24)],
    "six tokens": lambda p: [Transformer(plain(p), max_seq_length=6), Pooling()],
    "T5": lambda p: [Transformer(t5(p)), Pooling(), Dense(WIDTH, 8, bias=False), Normalize()],
    "an encoder per side": lambda p: [
        Router.for_query_document(
            [Transformer(plain(p / "query")), Pooling("cls")],
            [Transformer(plain(p / "passage", "distilbert")), Pooling()],
        )
    ],
    "StaticEmbedding": lambda _: [st.StaticEmbedding(tiny.tokenizer().backend_tokenizer, embedding_dim=WIDTH)],
    "WordEmbeddings and LSTM": lambda _: [
        st.WordEmbeddings(WhitespaceTokenizer(tiny.WORDS, stop_words=[]), torch.randn(len(tiny.WORDS), 8)),
        st.LSTM(8, 8),
        Pooling(),
    ],
}


@pytest.mark.parametrize("modules", MODULES.values(), ids=MODULES)
def test_every_kind_of_module_counts(lab: Experiment, tmp_path: Path, modules: Callable[[Path], list[nn.Module]]):
    whole = published(tmp_path / "whole", *modules(tmp_path / "plain"))
    check(lab, row(whole), whole)


def test_a_hub_name_gives_what_its_folder_gives(lab: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = published(tmp_path / "whole", Transformer(plain(tmp_path / "plain")), Pooling("max"), Dense(WIDTH, 12))
    repository, commit = tmp_path / "hub" / "models--someone--model", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(whole, repository / "snapshots" / commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(repository.parent))
    check(lab, row("someone/model"), whole)
    inputs = load_tokenizer(str(whole))(QUERIES, padding=True, return_tensors="pt")
    vecs = lab.bi_encoder(row("someone/model")).load()(inputs["input_ids"], inputs["attention_mask"])  # as latency does
    np.testing.assert_allclose(vecs.detach(), SentenceTransformer(str(whole), device="cpu").encode(QUERIES), atol=1e-5)


# --- prompts, cosine ---------------------------------------------------------------------------------------------

PROMPTS = "plot ", "the matrix "


@pytest.mark.parametrize(
    ("saved", "default", "expected"),
    [
        ({"query": PROMPTS[0], "passage": PROMPTS[1]}, None, PROMPTS),
        ({"all": "sum "}, "all", ("sum ", "sum ")),
        ({"query": "plot "}, "query", ("plot ", "")),
    ],
)
def test_a_models_own_prompts_count(lab: Experiment, tmp_path: Path, saved, default, expected):
    modules = Transformer(plain(tmp_path / "plain")), Pooling(include_prompt=False)
    whole = published(tmp_path / "whole", *modules, prompts=saved, default_prompt_name=default)
    check(lab, row(whole), whole, expected)


@pytest.mark.parametrize("whole", [False, True])
def test_a_row_states_prompts_and_unit_length_where_the_model_does_not(lab: Experiment, tmp_path: Path, whole: bool):
    folder: Path | str = plain(tmp_path / "plain")
    if whole:
        folder = published(tmp_path / "whole", Transformer(str(folder)), Pooling())
    systems = [
        row(folder, query_prompt=PROMPTS[0], passage_prompt=PROMPTS[1], normalize=unit) for unit in (True, False)
    ]
    check(lab, systems[0], folder, PROMPTS, normalize_embeddings=True)
    assert len({system.name for system in (*systems, row(folder))}) == 3


def test_a_model_that_compares_by_cosine_has_vectors_of_unit_length(lab: Experiment, tmp_path: Path):
    modules = Transformer(plain(tmp_path / "plain")), Pooling()
    whole = published(tmp_path / "whole", *modules, similarity_fn_name="cosine")
    check(lab, row(whole), whole, normalize_embeddings=True)
    change(whole / SETTINGS, similarity_fn_name="euclidean")
    refused(lambda: lab.vectors(row(whole)), "compares vectors by euclidean, not by dot product or cosine")


# --- refusals ----------------------------------------------------------------------------------------------------


def refused(load: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError) as error:
        load()
    assert message in str(error.value) and "\n" not in str(error.value)


def lose(folder: Path | str, part: str) -> str:
    """Remove the first weight whose name contains `part`, and return its name."""
    weights = load_file(Path(folder) / "model.safetensors")
    lost = next(name for name in sorted(weights) if part in name)
    save_file({k: v for k, v in weights.items() if k != lost}, Path(folder) / "model.safetensors", {"format": "pt"})
    return lost


@pytest.mark.parametrize(("kind", "layer"), [("bert", ".layer.0."), ("modernbert", "layers.0.")])
def test_a_missing_weight_is_named_wherever_a_model_is_loaded(lab: Experiment, tmp_path: Path, kind: str, layer: str):
    folder, cat = plain(tmp_path / "plain", kind), cross_encoder(tmp_path / "cat", kind)
    whole = published(tmp_path / "whole", Transformer(folder), Pooling(), Dense(WIDTH, 8))
    dense = shutil.copytree(whole, tmp_path / "dense")
    lose(dense / "2_Dense", "bias")
    refused(lambda: lab.vectors(row(dense)), 'Missing key(s) in state_dict: "linear.bias"')
    lost = {name: f"it lacks weights, such as {lose(name, layer)}" for name in (folder, cat, str(whole))}
    refused(lambda: pretrained.load_cross_encoder(cat), lost[cat])
    refused(lambda: pretrained.load_dot(folder), lost[folder])  # as for a profile's `encoder`
    for name in (folder, str(whole)):
        refused(lambda name=name: lab.vectors(row(name)), lost[name])


@pytest.mark.parametrize("part", ["layer.0.", "weight"])
@pytest.mark.parametrize(
    ("load", "kind", "head"),
    [
        (pretrained.load_cat, BertCat, "_classification_layer"),
        (pretrained.load_colbert, partial(ColBert, dim=8), "compressor"),
    ],
)
def test_a_published_teacher_without_a_weight_is_refused(tmp_path: Path, load: Any, kind: Any, head: str, part: str):
    model = kind(tiny.distilbert(len(tiny.tokenizer())))
    tiny.save_encoder(tmp_path / "base", model.encoder)
    renamed = {k.replace("encoder.", "bert_model.", 1).replace("head", head): v for k, v in model.state_dict().items()}
    save_file(renamed, tmp_path / "model.safetensors")
    change(tmp_path / "config.json", bert_model=str(tmp_path / "base"))
    load(str(tmp_path))
    lost = lose(tmp_path, part if part == "layer.0." else f"{head}.weight")
    refused(lambda: load(str(tmp_path)), lost.removeprefix("bert_model."))


def test_what_has_no_vector_per_text_is_called_by_its_name(lab: Experiment, tmp_path: Path):
    bert, cat, _, _ = plain(tmp_path / "bert"), cross_encoder(tmp_path / "cat"), t5(tmp_path / "t5"), tmp_path / "dpr"
    plain(tmp_path / "dpr", "dpr")
    CrossEncoder(cat, device="cpu").save(str(tmp_path / "reranker"))
    MultiVectorEncoder(bert, device="cpu").save(str(tmp_path / "several"))
    pylate = published(tmp_path / "pylate", Transformer(bert), Dense(WIDTH, 8, module_input_name="token_embeddings"))
    modules = (pylate / "modules.json").read_text()
    (pylate / "modules.json").write_text(
        modules.replace("sentence_transformers.base.modules.dense", "pylate.models.Dense")
    )
    change(Path(shutil.copytree(bert, tmp_path / "stanford")) / "config.json", architectures=["HF_ColBERT"])
    for folder, message in {
        "dpr": "this is one half of a DPR pair",
        "t5": "this is a t5, which needs modules.json",
        "cat": "this is a cross-encoder",
        "reranker": "this is a CrossEncoder of sentence-transformers",
        "several": "this is a MultiVectorEncoder of sentence-transformers",
        "pylate": "this is a PyLate model: a ColBERT",
        "stanford": "this is a ColBERT in Stanford's form",
    }.items():
        refused(lambda folder=folder: lab.vectors(row(tmp_path / folder)), message)
        refused(lambda folder=folder: pretrained.load_colbert(str(tmp_path / folder)), message)


def test_a_teacher_with_a_head_is_no_encoder(lab: Experiment, tmp_path: Path):
    vocabulary = len(tiny.tokenizer())
    for model in (BertCat(tiny.bert(vocabulary)), ColBert(tiny.bert(vocabulary), 8)):
        pretrained.save(model, tiny.tokenizer(), tmp_path)
        refused(lambda: lab.vectors(row(tmp_path)), "this is a BERT_CAT or a ColBERT, with a head")
    (tmp_path / "head.safetensors").unlink()
    change(tmp_path / "config.json", bert_model="someone/encoder")  # published with the public code
    refused(lambda: lab.vectors(row(tmp_path)), "this is a BERT_CAT or a ColBERT, with a head")


def test_a_student_starts_from_cls_or_mean_and_no_other_pooling(tmp_path: Path):
    whole = published(tmp_path / "whole", Transformer(plain(tmp_path / "plain")), Pooling("max"))
    message = "its pooling is max, and a student's is cls or mean"
    refused(lambda: pretrained.load_dot(str(whole)), message)
    old = {"pooling_mode_cls_token": False, "pooling_mode_max_tokens": True}  # before version 6
    (whole / "1_Pooling" / "config.json").write_text(json.dumps(old))
    refused(lambda: pretrained.load_dot(str(whole)), message)


def test_a_cross_encoder_of_sentence_transformers_is_read_unless_it_has_a_template(tmp_path: Path):
    cat, saved = cross_encoder(tmp_path / "cat"), str(tmp_path / "saved")
    CrossEncoder(cat, device="cpu").save(saved)
    pair = [torch.tensor([ids]) for ids in ([2, 7, 3, 9, 3], [1] * 5, [0, 0, 0, 1, 1])]
    torch.testing.assert_close(pretrained.load_cross_encoder(saved)(*pair), pretrained.load_cross_encoder(cat)(*pair))
    change(tmp_path / "saved" / SETTINGS, prompts={"query": "Judge: "})
    refused(lambda: pretrained.load_cross_encoder(saved), "reads query and passage in a template")


@pytest.mark.parametrize("answered", ["yes no", "true false", "sim", ""])
def test_a_monot5_is_read_in_the_words_that_it_answers(answered: str):
    tokenizer = tiny.t5_tokenizer(("true", "false", "yes", "no", "sim", "Query", "Document", "Relevant", *tiny.WORDS))
    model, states = tiny.t5(vocabulary=len(tokenizer)), list[torch.Tensor]()
    model.lm_head.weight = nn.Parameter(0.1 * model.lm_head.weight.clone())  # no longer tied
    model.lm_head.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0][0, 0]))
    answer_words(model, tokenizer)
    for token in tokenizer.convert_tokens_to_ids([f"▁{word}" for word in answered.split()]):
        model.lm_head.weight.data[token] = 30 * states[0] / states[0].square().sum()  # a logit of 30
    if answered == "sim":
        refused(lambda: answer_words(model, tokenizer), "answers 'sim', not true or false, yes or no")
    else:
        assert answer_words(model, tokenizer) == tuple((answered or "true false").split())
