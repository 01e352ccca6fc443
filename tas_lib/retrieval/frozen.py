"""Students whose lower layers are frozen: token states are kept on disk, and of the last layer only CLS is computed.

A student stays an ordinary BERT read at CLS (Eqs. 4-5): it is saved, loaded and searched like any other. Its training
and the encoding of the collection take a short cut, which is exact but for the kept states' rounding to fp16. The
lower layers do not change, so their states are computed once (`encode.open_texts`). Of the last layer only CLS is
read, so the other positions need no query, no output and no feed-forward part, and attention can be reordered: q·(W_k
x) = (W_kᵀ q)·x and Σ a (W_v x) = W_v (Σ a x), so no token is multiplied by a matrix. DEVIATIONS.md, D31.
"""

from typing import Any

import torch
import transformers
from torch import Tensor, nn

from tas_lib.models import BertDot


def trained_part(student: nn.Module, layers: int) -> nn.Module:
    """The part of a student that is trained, with the student's own weights: all of it, or the last layer.

    layers: how many are frozen. From the texts of `encode.open_texts`, the part makes the student's vectors.
    """
    return LastLayer(student, layers) if layers else student


class LowerLayers(nn.Module):
    """The frozen layers of a student: token ids to states."""

    def __init__(self, student: nn.Module, layers: int) -> None:
        """layers: how many are frozen; the student loses the others."""
        super().__init__()
        self.encoder = bert_of(student, layers).eval()
        self.encoder.encoder.layer = self.encoder.encoder.layer[:layers]
        self.dim: int = self.encoder.config.hidden_size

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: (N, T). Returns states (N, T, D)."""
        return self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state


class LastLayer(nn.Module):
    """A student's last layer at CLS: its vectors, from the states of the layers below."""

    def __init__(self, student: nn.Module, layers: int) -> None:
        """layers: how many are frozen."""
        super().__init__()
        self.layer: Any = bert_of(student, layers).encoder.layer[-1]

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """states: (N, T, D), the first token CLS. mask: (N, T). Returns vectors (N, D) in fp32."""
        attention = self.layer.attention.self
        heads, width = attention.num_attention_heads, attention.attention_head_size
        cls = states[:, 0]  # (N, D)
        n, d = cls.shape
        q = attention.query(cls).view(n, heads, width).transpose(0, 1)  # (H, N, W)
        # the keys' bias adds the same to all scores of a query, which softmax ignores
        q = (q @ attention.key.weight.view(heads, width, d)).transpose(0, 1) * width**-0.5  # (N, H, D)
        scores = (q @ states.transpose(1, 2)).masked_fill(~mask[:, None].bool(), -torch.inf)  # (N, H, T)
        read = (attention.dropout(scores.softmax(-1)) @ states).transpose(0, 1)  # (H, N, D)
        values = attention.value.weight.view(heads, width, d).transpose(1, 2)  # (H, D, W)
        context = (read @ values).transpose(0, 1).reshape(n, d) + attention.value.bias
        hidden = self.layer.attention.output(context, cls)
        return self.layer.output(self.layer.intermediate(hidden), hidden).float()


def bert_of(student: nn.Module, layers: int) -> "transformers.BertModel":
    """The student's encoder; ValueError unless it has one layer more, of which CLS is all that is read."""
    if not isinstance(student, BertDot) or student.pooling != "cls":
        pooling = getattr(student, "pooling", None)
        raise ValueError(f"training.frozen_layers needs pooling `cls`; this encoder's is {pooling!r}")
    if not isinstance(student.encoder, transformers.BertModel):
        raise ValueError(f"training.frozen_layers needs a BERT; the encoder is a {student.encoder.config.model_type}")
    if student.encoder.config.num_hidden_layers != layers + 1:
        n = student.encoder.config.num_hidden_layers
        raise ValueError(f"training.frozen_layers must be all but the last: {n - 1} of this encoder's, not {layers}")
    return student.encoder
