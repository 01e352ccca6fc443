"""The three architectures of §2 on any BERT- or DistilBERT-like encoder, and batches of ragged token ids for them.

Shapes: N texts or pairs, T tokens, D width of a vector. Loading and saving: `retrieval.pretrained`.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tas_lib.records import IntArray, Ragged

PreTrainedModel: TypeAlias = "transformers.PreTrainedModel"  # by its name: to load the class takes seconds
PRECISION = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class BertDot(nn.Module):
    """BERT_DOT: one vector per text (Eq. 4); the score of a passage for a query is their dot product (Eq. 5)."""

    def __init__(self, encoder: PreTrainedModel, pooling: str = "cls") -> None:
        """pooling: `cls` as in the paper, or `mean` over all tokens but padding."""
        super().__init__()
        self.encoder, self.pooling = encoder, pooling

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: (N, T). Returns (N, D) in fp32."""
        states = states_of(self.encoder, ids, mask, padding=False).float()  # (N, T, D)
        if self.pooling == "cls":
            return states[:, 0]
        weights = mask.unsqueeze(-1).float()
        return (states * weights).sum(1) / weights.sum(1)


class BertCat(nn.Module):
    """BERT_CAT: query and passage read together, the raw CLS vector scored by one linear layer W_s (Eq. 1, D11)."""

    def __init__(self, encoder: PreTrainedModel, bias: bool = False) -> None:
        """W_s starts random. bias: published models have one; it shifts all scores alike and changes no order."""
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, 1, bias=bias)

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        """ids, mask, types: (N, T); types are 0 for the query and 1 for the passage. Returns scores (N,) in fp32."""
        states = states_of(self.encoder, ids, mask, types, padding=False)[:, 0]  # (N, D)
        return _in_fp32(self.head, states).squeeze(-1)


class Classifier(nn.Module):
    """A published cross-encoder with the pooling and the head of `transformers` (D11)."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        """encoder: a sequence classifier with one label."""
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        """ids, mask, types: (N, T), as in `BertCat`. Returns scores (N,) in fp32."""
        type_ids = {"token_type_ids": types} if _has_types(self.encoder) else {}
        return self.encoder(input_ids=ids, attention_mask=mask, **type_ids).logits.float().squeeze(-1)


class ColBert(nn.Module):
    """ColBERT: one vector per token (Eq. 2); each query token takes its best passage token, summed (Eq. 3)."""

    def __init__(self, encoder: PreTrainedModel, dim: int) -> None:
        """dim: width of the token vectors after the linear projection (with bias, D10)."""
        super().__init__()
        self.encoder, self.dim = encoder, dim
        self.head = nn.Linear(encoder.config.hidden_size, dim)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: (N, T). Returns token vectors (N, T, D) in fp32; ignore those of padding."""
        return _in_fp32(self.head, states_of(self.encoder, ids, mask))


def late_interaction(queries: Tensor, query_mask: Tensor, passages: Tensor, passage_mask: Tensor) -> Tensor:
    """Eq. 3 for every query and every passage: scores (B, P) in fp32.

    queries: (B, M, D), query_mask: (B, M). passages: (P, N, D), passage_mask: (P, N). CLS and SEP count (D10).

    >>> one = torch.ones(1, 1, dtype=torch.bool)
    >>> late_interaction(torch.tensor([[[2.0]]]), one, torch.tensor([[[3.0], [9.0]]]), torch.tensor([[True, False]]))
    tensor([[6.]])
    """
    queried, read = unpadded(queries, query_mask), unpadded(passages, passage_mask)
    tokens = torch.cat(queried)  # of all queries
    # passage by passage: on a CPU the products stay in the cache, and their maxima cost next to nothing
    best = torch.stack([best_scores(passage, tokens) for passage in read])  # (P, all queries' tokens)
    return torch.stack([each.sum(1) for each in best.split([*map(len, queried)], dim=1)])  # (B, P)


def best_scores(passages: Tensor, query: Tensor) -> Tensor:
    """The best score of each query token in a passage, in fp32 (D12): (..., N, D) and (M, D) to (..., M)."""
    with torch.autocast(query.device.type, enabled=False):
        return (passages @ query.T).amax(-2)


def unpadded(vecs: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """The vectors of each text's tokens, (T_i, D) each. vecs: (N, T, D), mask: (N, T)."""
    return vecs[mask.bool()].split(mask.bool().sum(1).tolist())


def _in_fp32(head: nn.Linear, states: Tensor) -> Tensor:
    """The last layer in fp32, whatever the encoder's precision: bf16 scores around 10 would be 0.06 apart (D12)."""
    with torch.autocast(states.device.type, enabled=False):
        return head(states.float())


def states_of(
    encoder: PreTrainedModel, ids: Tensor, mask: Tensor, types: Tensor | None = None, padding: bool = True
) -> Tensor:
    """Last hidden states (N, T, D); token types are passed only to encoders that use them.

    padding: whether its states are computed, too. If not, BERT and DistilBERT skip it on a CPU, and they are 0.
    """
    given = {"token_type_ids": types} if types is not None and _has_types(encoder) else {}
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    attention = encoder.config._attn_implementation
    known = encoder.config.model_type in ("bert", "distilbert") and attention in ("sdpa", "unpadded")
    reads_on = getattr(encoder.config, "is_decoder", False)  # each token only those before it
    if padding or traced or not known or reads_on or ids.device.type != "cpu" or bool(mask.all()):
        return encoder(input_ids=ids, attention_mask=mask, **given).last_hidden_state
    transformers.AttentionInterface.register("unpadded", _attention)  # here, since loading it takes a second
    transformers.AttentionMaskInterface.register("unpadded", transformers.masking_utils.sdpa_mask)
    if attention == "sdpa":
        encoder.set_attn_implementation("unpadded")
    real, position = mask.bool(), torch.arange(ids.shape[1]).expand_as(ids)
    given = {name: value[real][None] for name, value in {**given, "input_ids": ids, "position_ids": position}.items()}
    states = encoder(**given, lengths=real.sum(1).tolist()).last_hidden_state[0]  # (all tokens, D)
    return states.new_zeros(*ids.shape, states.shape[1]).index_put_((real,), states)


def _attention(
    _: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, lengths: Sequence[int] = (), **others: Any
) -> tuple[Tensor, None]:
    """For transformers: attention within each text of these lengths; q, k and v (1, heads, all tokens, W) hold them end
    to end. Without lengths, as always: (N, heads, T, W), and the mask hides padding.
    """
    attend = partial(scaled_dot_product_attention, dropout_p=others["dropout"], scale=others["scaling"])
    if not lengths:
        return attend(q, k, v, mask).transpose(1, 2), None
    texts = zip(*(side.split(lengths, dim=2) for side in (q, k, v)), strict=True)
    return torch.cat([attend(*text) for text in texts], dim=2).transpose(1, 2), None


def _has_types(encoder: PreTrainedModel) -> bool:
    """Whether the encoder has token types; DistilBERT has none and RoBERTa only one."""
    arguments = inspect.signature(encoder.forward).parameters
    return "token_type_ids" in arguments and getattr(encoder.config, "type_vocab_size", 2) > 1


# --- from ragged token ids to tensors ----------------------------------------------------------------------------


def pad(texts: Sequence[IntArray], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Texts of different lengths as ids and mask, both (N, T); padding has id 0 and mask 0.

    texts: ids (T,) each, or states (T, D); then the first result is (N, T, D) in fp32.
    """
    lengths = np.array([len(text) for text in texts])
    shape = np.shape(texts[0])[1:]
    ids = np.zeros((len(texts), lengths.max(), *shape), texts[0].dtype if shape else np.int64)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text)] = text
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    padded = torch.from_numpy(ids).to(device)  # states become fp32 here: torch converts faster than numpy
    return padded.float() if shape else padded, torch.from_numpy(mask).to(device)


def cat_inputs(
    queries: Sequence[IntArray], passages: Sequence[IntArray], device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """`CLS query SEP passage SEP` of N pairs as ids, mask and token types, all (N, T).

    queries, passages: N texts each, with their own CLS and SEP.
    """
    ids, mask = pad([np.concatenate([q, p[1:]]) for q, p in zip(queries, passages, strict=True)], device)
    split = torch.tensor([len(q) for q in queries], device=device)[:, None]
    types = (torch.arange(ids.shape[1], device=device) >= split) & mask.bool()
    return ids, mask, types.long()


def length_chunks(lengths: IntArray | Sequence[int], chunk: int) -> list[IntArray]:
    """Indices of N texts, shortest text first, in chunks: texts of one length together need little padding.

    >>> length_chunks([9, 4, 7, 4], chunk=3)
    [array([1, 3, 2]), array([0])]
    """
    order = np.argsort(lengths, kind="stable")
    return [order[start : start + chunk] for start in range(0, len(order), chunk)]


def original_order(parts: Sequence[Tensor], chunks: Sequence[IntArray]) -> Tensor:
    """The results (n, ...) of all `length_chunks`, one tensor per chunk, as one tensor (N, ...) in the texts' order."""
    index = np.argsort(np.concatenate(chunks))
    return torch.cat([*parts])[torch.from_numpy(index).to(parts[0].device)]


def encode_rows(
    model: nn.Module, texts: Ragged, rows: IntArray, chunk: int = 32, done: Callable[[int], object] = lambda n: None
) -> Tensor:
    """Vectors (N, D) of the texts at `rows` (N,), each encoded once, by length. done: gets tokens per chunk."""
    distinct, inverse = np.unique(rows, return_inverse=True)
    device, lengths = next(model.parameters()).device, texts.lengths_of(distinct)
    chunks, parts = length_chunks(lengths, chunk), []
    for some in chunks:
        parts.append(model(*pad([texts.row(row) for row in distinct[some]], device)))
        done(int(lengths[some].sum()))
    return original_order(parts, chunks)[torch.from_numpy(inverse).to(device)]
