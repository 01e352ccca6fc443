"""What several tests share: random models of toy size, token ids of made-up texts, a tokenizer of a few words."""

import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

from tas_lib.config import DocsSource, Evaluation, Pairing, Profile, Sampling, StopSet, TestSet, Tokens, Training
from tas_lib.data import collection, shipped, store
from tas_lib.models import ColBert
from tas_lib.records import Pairs, QuerySet, Ragged, Source, Texts
from tas_lib.retrieval import pretrained

WORDS = ["the", "mean", "of", "an", "array", "along", "axis", "sum", "product", "matrix", "linear", "plot", "graph"]
QUERIES = ["the mean of an array", "plot", "a linear product"]
PASSAGES = [
    "sum along the axis",
    "the product of a matrix and an array, true or false",
    "graph",
    "the mean along an axis " * 3,
    "",
    "plot: a graph of the sum",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def bert(vocabulary: int = 40, width: int = 16, dropout: float = 0.0, seed: int = 0) -> PreTrainedModel:
    """One layer, two heads, random weights."""
    torch.manual_seed(seed)
    return BertModel(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=2 * width,
            max_position_embeddings=64,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        ),
        add_pooling_layer=False,
    ).eval()


def distilbert(vocabulary: int = 40, width: int = 16, seed: int = 0) -> PreTrainedModel:
    """The same in DistilBERT's architecture."""
    torch.manual_seed(seed)
    config = DistilBertConfig(
        vocab_size=vocabulary, dim=width, n_layers=1, n_heads=2, hidden_dim=2 * width, max_position_embeddings=64
    )
    return DistilBertModel(config).eval()


def tokenizer(words: Sequence[str] = (*WORDS, "true", "false"), seps: int = 1) -> PreTrainedTokenizerBase:
    """Knows these words, with BERT's special tokens; `seps`: SEPs between the two texts of a pair."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *dict.fromkeys(words)])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair=f"[CLS] $A {'[SEP] ' * seps}$B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=64, model_input_names=["input_ids", "attention_mask"], **names
    )


def t5_tokenizer(words: Sequence[str] = ("true", "false", "Query", "Document", "Relevant", *WORDS)) -> T5Tokenizer:
    """T5's own, with these words and single characters as its pieces."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -3.0) for word in words]
    pieces += [(character, -8.0) for character in "▁:,01abcdefghijklmnopqrstuvwxyz"]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


def t5(seed: int = 0, vocabulary: int = len(t5_tokenizer())) -> PreTrainedModel:
    """One layer, two heads, random weights, large enough for answers to differ and small enough not to saturate."""
    torch.manual_seed(seed)
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    config = T5Config(vocab_size=vocabulary, initializer_factor=2.0, **shape)
    config.decoder_start_token_id = 0
    return T5ForConditionalGeneration(config).eval()


def ragged(rows: Sequence[Sequence[int]]) -> Ragged:
    """Token ids of these texts."""
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return Ragged(np.array([i for row in rows for i in row], np.uint16), offsets)


def texts(n: int, longest: int, seed: int, vocabulary: int = 40) -> Ragged:
    """n texts of random ids, 3 to `longest` tokens, CLS (2) and SEP (3) around them."""
    rng = np.random.default_rng(seed)
    return ragged([[2, *rng.integers(5, vocabulary, rng.integers(1, longest - 1)).tolist(), 3] for _ in range(n)])


def pairs(n_queries: int, n_passages: int, each: int = 4, seed: int = 0) -> Pairs:
    """Query q has passage q as positive and `each` others as negatives, with random margins."""
    rng = np.random.default_rng(seed)
    query = np.repeat(np.arange(n_queries), each)
    neg = np.concatenate(
        [rng.choice(np.delete(np.arange(n_passages), q), each, replace=False) for q in range(n_queries)]
    )
    return Pairs.sort(n_queries, query, query, neg, rng.normal(2, 1, len(query)).astype(np.float32))


def save_encoder(folder: Path, model: PreTrainedModel | None = None) -> Path:
    """A tiny encoder with its tokenizer on disk, as `transformers` writes it."""
    (model or bert(len(tokenizer()))).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def kill(process: BaseProcess, ready: Callable[[], bool], wait_s: float) -> None:
    """SIGKILL to a process, this long after it is ready."""
    while not ready():
        assert process.is_alive()
        time.sleep(0.002)
    time.sleep(wait_s)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it had ended before it was killed"


# --- a whole experiment ------------------------------------------------------------------------------------------

SIZES = {"train": 40, "stop": 6, "tune": 6, "dev": 6, "graded": 5}


def source(seed: int = 0) -> Source:
    """A collection of 80 passages of `WORDS`; each query is made of words of the passage that answers it."""
    rng = np.random.default_rng(seed)
    passages = [" ".join(rng.choice(WORDS, rng.integers(4, 10))) for _ in range(80)]
    ids = [f"p{i}" for i in range(80)]
    left, sets, held_out = list(rng.permutation(80)), {}, []
    for name, size in SIZES.items():
        rows = [left.pop() for _ in range(size)]
        texts = [" ".join(rng.choice(passages[row].split(), 3)) for row in rows]
        graded = {f"p{left[0]}": 1, f"p{left[1]}": 2} if name == "graded" else {}
        qrels = {f"q{row}": {f"p{row}": 3 if graded else 1, **graded} for row in rows}
        sets[name] = QuerySet(name, Texts([f"q{row}" for row in rows], texts), qrels)
        if name != "train":
            held_out += rows
    return Source(Texts(ids, passages), ids, sets, np.array(sorted(held_out)), {"read": {"passages": 80}})


def settings(folder: Path, **changed: object) -> Profile:
    """A profile whose artefacts lie in `folder`; $TAS_RUNS says where what it makes goes."""
    return Profile(
        name="tiny",
        source=DocsSource(packages=("numpy",)),
        artefacts=str(folder / "tiny"),
        encoder=str(folder / "tiny" / "encoder"),
        pooling="mean",
        tokens=Tokens(query=8, passage=16),
        pairing=Pairing(depth=20, negatives=4),
        sampling=Sampling(clusters=3),
        training=Training(steps=6, min_steps=0, validate_every=3, learning_rate=1e-3, workers=0),
        stop=StopSet(queries=6, depth=5),
        evaluation=Evaluation(
            sets=(TestSet(name="dev", label="Dev"), TestSet(name="graded", label="G", binarise_at=2, graded=True)),
            depth=10,
        ),
        systems={},
    ).model_copy(update=changed)


def put_collection(profile: Profile, made: Source) -> collection.Collection:
    """Store it as if it had been read from the installed packages."""
    inputs, _ = collection._source(profile)
    place = store.Store(profile.folder)
    place.artefact("collection", profile.source.model_dump(), inputs, lambda folder: collection.write(made, folder))
    return collection.open_collection(profile)


def ship(folder: Path) -> None:
    """Add the provenance that names the digest of every file there."""
    files = {str(path.relative_to(folder)): store.file_digest(path) for path in folder.rglob("*") if path.is_file()}
    store.write_json(folder / "provenance.json", {"files": files})


def put_shipped(profile: Profile, made: Source) -> None:
    """Encoder, ColBERT, and a score of each training query with each passage: how many words they share."""
    vocabulary, place = len(tokenizer()), profile.artefacts_folder
    ship(save_encoder(place / "encoder"))
    pretrained.save(ColBert(bert(vocabulary, seed=5), 8), tokenizer(), place / "colbert")
    ship(place / "colbert")
    queries, passages = made.sets["train"].queries.texts, made.passages.texts
    score = np.array([len({*q.split()} & {*p.split()}) for q in queries for p in passages], np.float32)
    keys = shipped.text_keys(queries).repeat(len(passages)), np.tile(shipped.text_keys(passages), len(queries))
    (place / "scores").mkdir()
    write_scores(place / "scores" / "scores.parquet", *keys, score, np.zeros(len(score), int))
    ship(place / "scores")


def write_scores(path: Path, query: np.ndarray, passage: np.ndarray, score: np.ndarray, fold: np.ndarray) -> None:
    """The pairwise teacher's scores as they are shipped: a row per (query, passage), sorted by their text keys."""
    order = np.lexsort((passage, query))
    columns = {"query": query, "passage": passage, "score": score.astype(np.float32), "fold": fold.astype(np.int8)}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: column[order] for name, column in columns.items()}), path, compression="zstd")
