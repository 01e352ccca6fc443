"""The three architectures of §2 on any BERT- or DistilBERT-like encoder, and their form on disk."""

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from tas_lib.records import IntArray, Ragged

MASKED_PASSAGE = -1000.0  # a padded passage token never wins the maximum of Eq. 3 (D10)


class BertDot(nn.Module):
    """BERT_DOT: one vector a text (Eq. 4); a query scores a passage by their dot product (Eq. 5)."""

    def __init__(self, encoder: PreTrainedModel, pooling: str = "cls") -> None:
        """pooling: `cls` as in the paper, or `mean` over all tokens."""
        super().__init__()
        self.encoder, self.pooling = encoder, pooling

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: (N, T). Returns (N, D) in fp32."""
        states = _states(self.encoder, ids, mask).float()  # (N, T, D)
        if self.pooling == "cls":
            return states[:, 0]
        weights = mask.unsqueeze(-1).float()
        return (states * weights).sum(1) / weights.sum(1)


class BertCat(nn.Module):
    """BERT_CAT: query and passage read together, the raw CLS vector scored by one linear layer W_s (Eq. 1, D11)."""

    def __init__(self, encoder: PreTrainedModel, bias: bool = False) -> None:
        """W_s starts random; `load` brings a trained one. bias: of published ones; it is the same for every pair."""
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, 1, bias=bias)

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        """ids, mask, types: (N, T); types are 0 for the query and 1 for the passage. Returns scores (N,) in fp32."""
        states = _states(self.encoder, ids, mask, types)[:, 0]  # (N, D)
        return _in_fp32(self.head, states).squeeze(-1)


class Classifier(nn.Module):
    """A published cross-encoder, with the pooling and the head that `transformers` has for it (D11)."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        """encoder: with a head of one label."""
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        """ids, mask, types: (N, T), as in `BertCat`. Returns scores (N,) in fp32."""
        known = {"token_type_ids": types} if _knows_types(self.encoder) else {}
        return self.encoder(input_ids=ids, attention_mask=mask, **known).logits.float().squeeze(-1)


class ColBert(nn.Module):
    """ColBERT: one vector a token (Eq. 2); every query token takes its best passage token, summed (Eq. 3)."""

    def __init__(self, encoder: PreTrainedModel, dim: int) -> None:
        """dim: width of the token vectors after the linear projection (with bias, D10)."""
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, dim)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: (N, T). Returns token vectors (N, T, D) in fp32; those of padding mean nothing."""
        return _in_fp32(self.head, _states(self.encoder, ids, mask))


def late_interaction(queries: Tensor, query_mask: Tensor, passages: Tensor, passage_mask: Tensor) -> Tensor:
    """Eq. 3 for every query against every passage: scores (B, P).

    queries: (B, M, D), query_mask: (B, M). passages: (P, N, D), passage_mask: (P, N). CLS and SEP count (D10).

    >>> one = torch.ones(1, 1, dtype=torch.bool)
    >>> late_interaction(torch.tensor([[[2.0]]]), one, torch.tensor([[[3.0], [9.0]]]), torch.tensor([[True, False]]))
    tensor([[6.]])
    """
    b, m, _ = queries.shape
    p, n, _ = passages.shape
    scores = queries.flatten(0, 1) @ passages.flatten(0, 1).T  # (B * M, P * N)
    scores = scores.view(b, m, p, n).masked_fill_(~passage_mask.bool(), MASKED_PASSAGE)  # in place: it is large
    return (scores.amax(-1) * query_mask[:, :, None]).sum(1)  # (B, P)


def _in_fp32(head: nn.Linear, states: Tensor) -> Tensor:
    """The last layer in full precision, whatever the encoder's: scores in bf16 would lie 0.06 apart at 10 (D12)."""
    with torch.autocast(states.device.type, enabled=False):
        return head(states.float())


def _states(encoder: PreTrainedModel, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> Tensor:
    """Last hidden states (N, T, D); token types reach only encoders that know them."""
    if types is not None and _knows_types(encoder):
        return encoder(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
    return encoder(input_ids=ids, attention_mask=mask).last_hidden_state


def _knows_types(encoder: PreTrainedModel) -> bool:
    """Whether it tells a first text from a second; DistilBERT does not, nor RoBERTa, which has one type."""
    takes = inspect.signature(encoder.forward).parameters
    return "token_type_ids" in takes and getattr(encoder.config, "type_vocab_size", 2) > 1


# --- from ragged token ids to tensors ----------------------------------------------------------------------------


def pad(rows: Sequence[IntArray], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Token ids of different lengths as (N, T) ids and mask; padding has id 0 and mask 0."""
    lengths = np.array([len(row) for row in rows])
    ids = np.zeros((len(rows), lengths.max()), np.int64)
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids[mask] = np.concatenate(rows)
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask.astype(np.int64)).to(device)


def encode_rows(model: nn.Module, texts: Ragged, rows: IntArray, chunk: int = 32) -> Tensor:
    """Vectors (N, D) of these rows, each distinct one encoded once, in length-sorted chunks against padding waste."""
    distinct, back = np.unique(rows, return_inverse=True)
    order = np.argsort(texts.lengths_of(distinct), kind="stable")
    device = next(model.parameters()).device
    parts = [
        model(*pad([texts.row(row) for row in distinct[order[i : i + chunk]]], device))
        for i in range(0, len(order), chunk)
    ]
    place = torch.from_numpy(np.argsort(order)[back]).to(device)
    return torch.cat(parts)[place]


def cat_inputs(
    queries: Sequence[IntArray], passages: Sequence[IntArray], device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """`CLS query SEP passage SEP` of N pairs as (N, T) ids, mask, token types; each text brings its own CLS and SEP."""
    ids, mask = pad([np.concatenate([q, p[1:]]) for q, p in zip(queries, passages, strict=True)], device)
    split = torch.tensor([len(q) for q in queries], device=device)[:, None]
    types = (torch.arange(ids.shape[1], device=device) >= split) & mask.bool()
    return ids, mask, types.long()


# --- on disk -----------------------------------------------------------------------------------------------------


INSIDE = "bert_model"
"""In the public code's published teachers: the config's word for the encoder within, and the prefix of its weights."""


def load_config(name: str) -> dict[str, Any]:
    """What `config.json` of a folder or a hub name says; ValueError where there is none."""
    try:
        config: dict[str, Any] = PretrainedConfig.get_config_dict(name)[0]
        if not config:
            raise OSError("there is no config.json")
        return config
    except Exception as error:  # the hub raises its own kinds
        raise _no("encoder", name, error) from error


def load_encoder(name: str) -> PreTrainedModel:
    """A `transformers` encoder from a folder or a hub name; ValueError says what could not be loaded, and why."""
    inside = load_config(name).get(INSIDE)
    try:
        config = AutoConfig.from_pretrained(inside or name)
        kind: Any = MODEL_MAPPING[type(config)]
        takes = inspect.signature(kind).parameters
        unused = {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}  # Eq. 4 has no such layer
        if not inside:
            return AutoModel.from_pretrained(name, config=config, dtype=torch.float32, **unused)
        encoder = AutoModel.from_config(config, dtype=torch.float32, **unused)
        lacking = encoder.load_state_dict(_part(name, INSIDE), strict=False).missing_keys
        if lacking:
            raise OSError(f"{lacking[0]} is missing")
        return encoder.eval()
    except Exception as error:  # safetensors and the hub raise their own kinds
        raise _no("encoder", name, error) from error


def _no(what: str, name: str, error: Exception) -> ValueError:
    where = "folder" if Path(name).exists() else "hub name (no such folder here, and the hub gave nothing)"
    return ValueError(f"no {what} in the {where} {name!r}: {first_line(error)}")


def _part(name: str, prefix: str) -> dict[str, Tensor]:
    """The weights below a prefix, from a folder or a hub name; of an older file, tensors and nothing else are read."""
    if path := cached_file(name, "model.safetensors", _raise_exceptions_for_missing_entries=False):
        weights = load_file(path)
    else:
        weights = torch.load(str(cached_file(name, "pytorch_model.bin")), map_location="cpu", weights_only=True)
    return {k.removeprefix(f"{prefix}."): v.float() for k, v in weights.items() if k.startswith(f"{prefix}.")}


def first_line(error: Exception) -> str:
    """What went wrong, in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def save(model: BertDot | BertCat | ColBert, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Safetensors, config and tokenizer: `AutoModel` loads the encoder, and `SentenceTransformer` a BERT_DOT whole."""
    model.encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if isinstance(model, BertDot):
        _describe_for_sentence_transformers(folder, model)
    else:
        save_file({k: v.contiguous() for k, v in model.head.state_dict().items()}, folder / "head.safetensors")


def load_dot(folder: str, pooling: str = "cls") -> BertDot:
    """A BERT_DOT; a pooling that the folder states wins over the one asked for."""
    stated = Path(folder) / "1_Pooling" / "config.json"
    if stated.exists():
        config = json.loads(stated.read_text(encoding="utf-8"))
        told = config.get("pooling_mode")  # as sentence-transformers 6 writes it; older ones have a flag a mode
        pooling = told or ("cls" if config.get("pooling_mode_cls_token") else "mean")
    return BertDot(load_encoder(folder), pooling)


def load_cat(name: str) -> BertCat:
    """A trained BERT_CAT: a folder of ours, or one that the public code published."""
    encoder, head = load_encoder(name), _head(name, "_classification_layer")
    if load_config(name).get(INSIDE) and encoder.config.model_type not in ("distilbert", "electra"):
        raise ValueError(f"{name!r} scores the pooled output of its {encoder.config.model_type}, not the raw CLS (D11)")
    model = BertCat(encoder, bias="bias" in head)
    model.head.load_state_dict(head)
    return model.eval()


def load_cross_encoder(name: str) -> BertCat | Classifier:
    """Whatever reads query and passage together: a BERT_CAT, or any classifier of `transformers` with one label."""
    if (Path(name) / "head.safetensors").exists() or load_config(name).get(INSIDE):
        return load_cat(name)
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True
        )
        if info["missing_keys"]:
            raise OSError(f"it has no trained {min(info['missing_keys'])}")
        if model.config.num_labels != 1:
            raise OSError(f"it has {model.config.num_labels} labels where a score is one")
    except Exception as error:  # safetensors and the hub raise their own kinds
        raise _no("cross-encoder", name, error) from error
    return Classifier(model).eval()


def load_colbert(name: str) -> ColBert:
    """A trained ColBERT: a folder of ours, or one that the public code published (D10)."""
    encoder, head = load_encoder(name), _head(name, "compressor")
    model = ColBert(encoder, len(head["weight"]))
    model.head.load_state_dict(head)
    return model.eval()


def _head(name: str, theirs: str) -> dict[str, Tensor]:
    """The last layer: `head.safetensors` of ours; in a published teacher, the part that the public code calls so."""
    if load_config(name).get(INSIDE):
        if head := _part(name, theirs):
            return head
        raise ValueError(f"{name!r} is another kind of model: it has no {theirs}")
    try:
        return {k: v.float() for k, v in load_file(Path(name) / "head.safetensors").items()}
    except Exception as error:  # safetensors raises its own kinds
        raise ValueError(f"{name}/head.safetensors is missing or cut off: {error}") from error


def _describe_for_sentence_transformers(folder: Path, model: BertDot) -> None:
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    pooling = {
        "word_embedding_dimension": model.encoder.config.hidden_size,
        "pooling_mode_cls_token": model.pooling == "cls",
        "pooling_mode_mean_tokens": model.pooling == "mean",
    }
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(modules, indent=1) + "\n")
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling, indent=1) + "\n")
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"similarity_fn_name": "dot"}, indent=1) + "\n"
    )
