"""Students whose lower layers are frozen: token states are kept, and of the last layer only CLS is computed.

A student is an ordinary BERT of six layers read at CLS (Eqs. 4-5): saved, loaded and encoded as any other. Only its
training takes a short cut, which is exact. The lower five layers do not change, so their states are computed once; and
the last layer's other positions are never read, so their queries, outputs and feed-forward parts need no computing.
What is left of the attention, q·(W_k x_t) and Σ a_t (W_v x_t), is (W_kᵀ q)·x_t and W_v (Σ a_t x_t): no token is
multiplied by a matrix. A step of 32 queries and 64 passages falls from some 35 to 1.2 GFLOP.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertModel
from transformers.models.bert.modeling_bert import BertLayer

IntArray = np.ndarray
FloatArray = np.ndarray


class States(NamedTuple):
    """Token states of many texts end to end, after the frozen layers: text i is `states[offsets[i]:offsets[i + 1]]`.

    states: (tokens in all, D) fp16, memory-mapped. offsets: (N + 1,).
    """

    states: FloatArray
    offsets: IntArray

    def rows(self, rows: IntArray) -> tuple[Tensor, Tensor]:
        """States (N, T, D) in fp32 and mask (N, T) of these texts; what is under the mask is arbitrary."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        mask = np.arange(lengths.max()) < lengths[:, None]  # (N, T)
        where = np.where(mask, self.offsets[rows][:, None] + np.arange(lengths.max()), self.offsets[rows][:, None])
        return torch.from_numpy(self.states[where]).float(), torch.from_numpy(mask)


@torch.inference_mode()
def frozen_states(encoder: BertModel, rows: Sequence[IntArray], layers: int, chunk: int = 64) -> FloatArray:
    """fp16 states (tokens in all, D) of texts after the first `layers` layers, encoded in length-sorted chunks."""
    lengths = np.array([len(row) for row in rows])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    out = np.empty((offsets[-1], encoder.config.hidden_size), np.float16)
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), chunk):
        some = order[start : start + chunk]
        ids = nn.utils.rnn.pad_sequence([torch.from_numpy(rows[i].astype(np.int64)) for i in some], batch_first=True)
        mask = torch.arange(ids.shape[1]) < torch.from_numpy(lengths[some])[:, None]
        hidden = encoder(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states[layers]
        for i, states, n in zip(some, hidden, lengths[some], strict=True):
            out[offsets[i] : offsets[i] + n] = states[:n].half().numpy()
    return out


class LastLayer(nn.Module):
    """BERT's last layer, its CLS position alone: the vector of Eq. 4 from the states below it."""

    def __init__(self, layer: BertLayer) -> None:
        """layer: a stock layer of `transformers`; its weights are trained in place."""
        super().__init__()
        self.layer = layer
        attention = layer.attention.self
        self.heads, self.width = attention.num_attention_heads, attention.attention_head_size

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """states: (N, T, D), the first token CLS; mask: (N, T). Returns vectors (N, D)."""
        attention = self.layer.attention.self
        cls = states[:, 0]  # (N, D)
        n, d = cls.shape
        q = attention.query(cls).view(n, self.heads, self.width).transpose(0, 1)  # (H, N, W)
        keys = attention.key.weight.view(self.heads, self.width, d)  # its bias moves all scores alike
        asked = (q @ keys).transpose(0, 1) / self.width**0.5  # (N, H, D)
        scores = (asked @ states.transpose(1, 2)).masked_fill(~mask[:, None], -torch.inf)  # (N, H, T)
        read = (scores.softmax(-1) @ states).transpose(0, 1)  # (H, N, D)
        values = attention.value.weight.view(self.heads, self.width, d).transpose(1, 2)  # (H, D, W)
        heads = (read @ values).transpose(0, 1).reshape(n, d) + attention.value.bias
        seen = self.layer.attention.output(heads, cls)
        return self.layer.output(self.layer.intermediate(seen), seen)


def fresh_last_layer(encoder: BertModel, seed: int) -> None:
    """Draw the last layer anew, as BERT draws its weights: N(0, .02), no bias, gains of one."""
    generator = torch.Generator().manual_seed(seed)
    for module in encoder.encoder.layer[-1].modules():
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(0.0, 0.02, generator=generator)
            module.bias.data.zero_()
        elif isinstance(module, nn.LayerNorm):
            module.weight.data.fill_(1.0)
            module.bias.data.zero_()
