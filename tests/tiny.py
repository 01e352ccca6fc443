"""What several tests share: random models of toy size, token ids of made-up texts, a tokenizer of a few words."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
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
)

from tas_lib.records import Pairs, Ragged

WORDS = ["the", "mean", "of", "an", "array", "along", "axis", "sum", "product", "matrix", "linear", "plot", "graph"]
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


def tokenizer() -> PreTrainedTokenizerBase:
    """Knows `WORDS`, with BERT's special tokens."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *dict.fromkeys(WORDS)])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=64, model_input_names=["input_ids", "attention_mask"], **names
    )


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
