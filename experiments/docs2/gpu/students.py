"""Many students at once: R runs of one architecture share every kernel; each has its own batches, weights and rate.

A run's batch follows tas_lib.sampling (Eqs. 9-13), drawn on the device. Only `tune` and `stop` are ever measured.
"""

import os
import time
from typing import Any

import common as c
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

W = os.environ.get("W", "work")
OUT = os.environ.get("OUT", "work/out")
DEV = os.environ.get("DEV", "cpu")
B, BINS, T_Q, T_P = 32, 10, 30, 64
SETS = ("tune", "stop")
Run = dict[str, Any]
"""teacher, sampling, rate, seed; optional: alpha, pool, n_train, k, gain"""


# --- the trainable top of BERT_DOT, for R runs at once -------------------------------------------------------------


def linear(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """x (R, ..., I), w (R, I, O), b (R, O)."""
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    return torch.baddbmm(b[:, None], flat, w).view(*x.shape[:-1], w.shape[-1])


def norm(x: Tensor, g: Tensor, b: Tensor) -> Tensor:
    """LayerNorm of (R, ..., D) with gains and biases (R, D)."""
    shape = (x.shape[0], *[1] * (x.dim() - 2), x.shape[-1])
    return F.layer_norm(x, x.shape[-1:]) * g.view(shape) + b.view(shape)


class Top:
    """Fresh layers over frozen token states.

    kind "cls": `n` BERT layers of which only the CLS position is computed, each reading the frozen token states.
    kind "full": one BERT layer over all tokens (width, ff), then pooling; with a projection if width != 384.
    kind "fullcls": a projection and one layer over all tokens, then one whose CLS position alone is computed.
    """

    def __init__(
        self,
        kind: str,
        n: int = 1,
        width: int = 384,
        ff: int = 1536,
        heads: int = 12,
        pool: str = "cls",
        query: str = "cls",
        gain: float = 1.0,
    ) -> None:
        self.kind, self.n, self.width, self.ff, self.heads, self.pool, self.query, self.gain = (
            kind,
            n,
            width,
            ff,
            heads,
            pool,
            query,
            gain,
        )
        self.names: list[tuple[str, tuple[int, ...], str]] = []
        if width != 384:
            self.names += [
                ("in.w", (384, width), "w"),
                ("in.b", (width,), "0"),
                ("in.g", (width,), "1"),
                ("in.c", (width,), "0"),
            ]
        layers = n + 1 if kind == "fullcls" else n
        for i in range(layers):
            for name in ("q", "k", "v", "o"):
                self.names += [(f"{i}.{name}.w", (width, width), "w"), (f"{i}.{name}.b", (width,), "0")]
            self.names += [(f"{i}.n1.g", (width,), "1"), (f"{i}.n1.b", (width,), "0")]
            self.names += [
                (f"{i}.f1.w", (width, ff), "w"),
                (f"{i}.f1.b", (ff,), "0"),
                (f"{i}.f2.w", (ff, width), "w"),
                (f"{i}.f2.b", (width,), "0"),
            ]
            self.names += [(f"{i}.n2.g", (width,), "gain" if i == layers - 1 else "1"), (f"{i}.n2.b", (width,), "0")]
        self.sizes = [int(np.prod(s)) for _, s, _ in self.names]

    def init(self, seeds: list[int]) -> Tensor:
        """(R, parameters) drawn as BERT's: N(0, .02)."""
        rows = []
        for seed in seeds:
            g = torch.Generator().manual_seed(seed)
            parts = []
            for _, shape, how in self.names:
                if how == "w":
                    parts.append(torch.randn(shape, generator=g).flatten() * 0.02)
                else:
                    parts.append(torch.full(shape, {"0": 0.0, "1": 1.0, "gain": self.gain}[how]).flatten())
            rows.append(torch.cat(parts))
        return torch.stack(rows).to(DEV)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Named parameters (R, ...) of the flat ones."""
        return {
            name: part.view(len(flat), *shape)
            for (name, shape, _), part in zip(self.names, flat.split(self.sizes, 1), strict=True)
        }

    def cls_layer(self, w: dict[str, Tensor], i: int, h: Tensor, x: Tensor, bias: Tensor) -> Tensor:
        """One BERT layer, the CLS position alone: h (R, N, D) reads x (R, N, T, D); bias (R, N, 1, T) hides padding.

        The keys are folded into the query, the values into the output: exact, and no token is multiplied by a matrix.
        """
        r, n, d = h.shape
        k = self.heads
        q = linear(h, w[f"{i}.q.w"], w[f"{i}.q.b"]).view(r, n, k, d // k)
        wk = w[f"{i}.k.w"].view(r, d, k, d // k)
        u = torch.einsum("rnkj,rdkj->rnkd", q, wk) / (d // k) ** 0.5
        a = (torch.matmul(u, x.transpose(2, 3)) + bias).softmax(-1)  # (R, N, K, T)
        m = torch.matmul(a, x)  # (R, N, K, D)
        wv = w[f"{i}.v.w"].view(r, d, k, d // k)
        o = torch.einsum("rnkd,rdkj->rnkj", m, wv).reshape(r, n, d) + w[f"{i}.v.b"][:, None]
        h = norm(h + linear(o, w[f"{i}.o.w"], w[f"{i}.o.b"]), w[f"{i}.n1.g"], w[f"{i}.n1.b"])
        f = linear(F.gelu(linear(h, w[f"{i}.f1.w"], w[f"{i}.f1.b"])), w[f"{i}.f2.w"], w[f"{i}.f2.b"])
        return norm(h + f, w[f"{i}.n2.g"], w[f"{i}.n2.b"])

    def full_layer(self, w: dict[str, Tensor], i: int, x: Tensor, bias: Tensor) -> Tensor:
        """One BERT layer over all tokens: x (R, N, T, D)."""
        r, n, t, d = x.shape
        k = self.heads
        q, key, v = (
            linear(x, w[f"{i}.{s}.w"], w[f"{i}.{s}.b"]).view(r, n, t, k, d // k).transpose(2, 3) for s in "qkv"
        )
        a = (q @ key.transpose(3, 4) / (d // k) ** 0.5 + bias[:, :, None]).softmax(-1)
        o = (a @ v).transpose(2, 3).reshape(r, n, t, d)
        x = norm(x + linear(o, w[f"{i}.o.w"], w[f"{i}.o.b"]), w[f"{i}.n1.g"], w[f"{i}.n1.b"])
        f = linear(F.gelu(linear(x, w[f"{i}.f1.w"], w[f"{i}.f1.b"])), w[f"{i}.f2.w"], w[f"{i}.f2.b"])
        return norm(x + f, w[f"{i}.n2.g"], w[f"{i}.n2.b"])

    def __call__(self, w: dict[str, Tensor], x: Tensor, mask: Tensor) -> Tensor:
        """x (R, N, T, 384) frozen states, mask (R, N, T) → vectors (R, N, D)."""
        bias = torch.zeros(mask.shape, device=x.device).masked_fill_(~mask, -1e4)[:, :, None]
        if self.width != 384:
            x = norm(linear(x, w["in.w"], w["in.b"]), w["in.g"], w["in.c"])
        if self.kind == "cls":
            h = x[:, :, 0] if self.query == "cls" else (x * mask[..., None]).sum(2) / mask.sum(2, keepdim=True)
            for i in range(self.n):
                h = self.cls_layer(w, i, h, x, bias)
            return h
        x = self.full_layer(w, 0, x, bias)
        if self.kind == "fullcls":
            return self.cls_layer(w, 1, x[:, :, 0], x, bias)
        return x[:, :, 0] if self.pool == "cls" else (x * mask[..., None]).sum(2) / mask.sum(2, keepdim=True)


# --- what all runs share ------------------------------------------------------------------------------------------


class Lesson:
    """States, pairs, teacher vectors, on the device."""

    def __init__(self, depth: int, colbert: str | None, pools: dict[str, np.ndarray]) -> None:
        """depth: frozen layers. pools: name → columns of the 64 negatives that a run may use."""
        data, negs = c.load(), dict(np.load(f"{W}/negs.npz"))
        scores = np.load(f"{W}/scores.npy").astype(np.float32)
        model = c.minilm(layers=max(depth, 1)).to(DEV).eval()
        self.n_p = None
        self.x, self.len = {}, {}
        for name, t in (("p", T_P), ("train", T_Q), ("tune", T_Q), ("stop", T_Q)):
            ids, n = c.tokens(data, name).padded(t)
            path = f"{W}/states-{depth}-{name}.npy"
            if DEV == "cpu" and os.path.exists(path):
                self.x[name] = torch.from_numpy(np.load(path, mmap_mode="r"))
            else:
                self.x[name] = c.states(model, ids, n, DEV, (depth,))[depth]
                if DEV == "cpu":
                    np.save(path, self.x[name].numpy())
            self.len[name] = torch.from_numpy(n).to(DEV)
        self.pos = {name: torch.from_numpy(data[name + "_pos"].astype(np.int64)).to(DEV) for name in ("train", *SETS)}
        self.tables = []
        self.pools = list(pools)
        for cols in pools.values():
            neg, margin = (
                negs["neg"].astype(np.int64)[:, cols] % (120 if os.environ.get("TINY") else 32767),
                scores[:, :1] - scores[:, 1:][:, cols],
            )
            order = np.argsort(margin, 1, kind="stable")
            neg, margin = np.take_along_axis(neg, order, 1), np.take_along_axis(margin, order, 1)
            low, high = margin[:, :1], margin[:, -1:]
            bins = np.minimum(((margin - low) / np.maximum(high - low, 1e-6) * BINS).astype(int), BINS - 1)
            count = np.zeros((len(bins), BINS))
            np.add.at(count, (np.arange(len(bins))[:, None], bins), 1)
            weight = 1 / np.take_along_axis(count, bins, 1)
            share = count / count.sum(1, keepdims=True)
            c.log(
                f"pool {list(pools)[len(self.tables)]}: share of pairs by margin range {share.mean(0).round(3).tolist()}, filled {(count > 0).mean().round(3)}"
            )
            self.tables.append((neg, margin, np.cumsum(weight, 1) / weight.sum(1, keepdims=True)))
        self.neg, self.margin, self.cum = (
            torch.from_numpy(np.stack(part)).to(DEV) for part in zip(*self.tables, strict=True)
        )
        self.margin, self.cum = self.margin.float(), self.cum.float()
        self.tv = None
        if colbert:
            self.tv = colbert_vectors(colbert, data)


@torch.inference_mode()
def colbert_vectors(path: str, data: dict) -> dict[str, Tensor]:
    """fp16 token vectors (N, T, D) of passages and training queries."""
    weights = load_file(path)
    model = c.minilm().to(DEV).eval()
    model.load_state_dict({k[8:]: v.float() for k, v in weights.items() if k.startswith("encoder.")}, strict=False)
    w, b = weights["head.weight"].to(DEV), weights["head.bias"].to(DEV)
    out = {}
    for name, t in (("p", T_P), ("train", T_Q)):
        ids, n = c.tokens(data, name).padded(t)
        x = c.states(model, ids, n, DEV, (6,))[6]
        out[name] = torch.cat([(part.float() @ w.float().T + b.float()).half() for part in x.split(1024)])
    return out


# --- training -----------------------------------------------------------------------------------------------------


def train(
    top: Top,
    lesson: Lesson,
    runs: list[Run],
    steps: int,
    topics: dict[int, Tensor] | None = None,
    marks: tuple[int, ...] = (),
    budget_s: float = 1e9,
    schedule: str = "linear",
) -> tuple[Tensor, list[dict]]:
    """Weights (R, parameters) after the last step, and measures at `marks` and at the end.

    topics: k → (Q,) cluster of each training query. A run of more seconds than the budget stops there (and says so).
    """
    r = len(runs)
    flat = top.init([run.get("model_seed", 0) for run in runs]).requires_grad_()
    m, v = torch.zeros_like(flat), torch.zeros_like(flat)
    rate = torch.tensor([run["rate"] for run in runs], device=DEV)[:, None]
    alpha = torch.tensor(
        [{"in_batch": run.get("alpha_only", 1.0)}.get(run["teacher"], run.get("alpha", 0.75)) for run in runs],
        device=DEV,
    )
    is_pair = torch.tensor([run["teacher"] in ("pairwise", "dual") for run in runs], device=DEV)
    is_inb = torch.tensor([run["teacher"] in ("in_batch", "dual") for run in runs], device=DEV)
    is_label = torch.tensor([run["teacher"] == "none" for run in runs], device=DEV)
    with_inb = is_inb.nonzero()[:, 0]
    pool = torch.tensor([lesson.pools.index(run.get("pool", lesson.pools[0])) for run in runs], device=DEV)[:, None]
    balanced = torch.tensor([run["sampling"] == "tas_balanced" for run in runs], device=DEV)[:, None]
    q_all = len(lesson.pos["train"])
    allowed = torch.zeros(r, q_all, device=DEV)
    for i, run in enumerate(runs):
        if run.get("n_train"):
            chosen = np.random.default_rng(5).permutation(q_all)[: run["n_train"]]
            allowed[i] = -100.0
            allowed[i, torch.from_numpy(chosen).to(DEV)] = 0.0
    by_topic = torch.tensor([run["sampling"] != "random" for run in runs], device=DEV)
    if topics:
        assign = torch.stack([topics[run.get("k") or next(iter(topics))] for run in runs])  # (R, Q)
    gens = torch.Generator(device=DEV).manual_seed(1000 + runs[0].get("seed", 0))
    eye = torch.eye(B, dtype=torch.bool, device=DEV).repeat(1, 2)
    out, start = [], time.time()
    per_q, per_p = T_Q, T_P
    step = -1
    while (step := step + 1) <= steps:
        if step == 20:
            since = time.time()
        if step == 70:  # as many steps as fit the budget
            if DEV == "cuda":
                torch.cuda.synchronize()
            each = (time.time() - since) / 50
            steps = int(min(steps, 70 + budget_s / each))
            marks = tuple(m for m in marks if m < steps)
            c.log(f"{len(runs)} runs, {1000 * each:.1f} ms a step: {steps} steps")
        if step in marks or step == steps:
            for i, run in enumerate(runs):
                out.append({**run, "step": step, **evaluate(top, lesson, flat.detach()[i : i + 1], keep=step == steps)})
            c.log(f"step {step}, {time.time() - start:.0f} s")
        if step == steps:
            break
        # Eqs. 9-13
        key = torch.rand(r, q_all, device=DEV, generator=gens) + allowed
        if topics:
            pick = torch.randint(q_all, (r, 1), device=DEV, generator=gens)
            clusters = assign.amax(1, keepdim=True) + 1
            pick = (
                torch.rand(r, 1, device=DEV, generator=gens) * clusters
            ).long()  # clusters are numbered without gaps
            key = key + 10.0 * ((assign == pick) & by_topic[:, None])
        query = key.topk(B, dim=1).indices  # (R, B)
        u = torch.rand(r, B, 1, device=DEV, generator=gens)
        cum = lesson.cum[pool, query]  # (R, B, C)
        width = cum.shape[-1]
        col = torch.where(balanced, (cum < u).sum(-1).clamp(max=width - 1), (u[..., 0] * width).long())
        neg = lesson.neg[pool, query].gather(2, col[..., None])[..., 0]
        want = lesson.margin[pool, query].gather(2, col[..., None])[..., 0]
        passages = torch.cat([lesson.pos["train"][query], neg], 1)  # (R, 2B)
        q, p = vectors(top, lesson, flat, "train", query), vectors(top, lesson, flat, "p", passages)
        s = q @ p.transpose(1, 2)  # (R, B, 2B)
        own = s.diagonal(0, 1, 2) - s.diagonal(B, 1, 2)  # (R, B)
        pair = (own - want).square().mean(1)
        label = F.softplus(-own).mean(1)
        loss = torch.where(is_label, label, torch.where(is_pair, pair, 0.0))
        if len(with_inb):
            with torch.no_grad():
                tq, tp = lesson.tv["train"][query[with_inb]], lesson.tv["p"][passages[with_inb]]  # (I, B, T, D)
                i_n = len(with_inb)
                tp_mask = torch.arange(per_p, device=DEV) < lesson.len["p"][passages[with_inb]][..., None]
                tq_mask = torch.arange(per_q, device=DEV) < lesson.len["train"][query[with_inb]][..., None]
                cross = torch.empty(i_n, B, 2 * B, device=DEV)
                for a in range(0, i_n, 16):
                    z = slice(a, a + 16)
                    full = (
                        tq[z].flatten(1, 2) @ tp[z].flatten(1, 2).transpose(1, 2)
                        if DEV == "cuda"
                        else (tq[z].flatten(1, 2).float() @ tp[z].flatten(1, 2).float().transpose(1, 2))
                    )
                    full = full.view(-1, B, per_q, 2 * B, per_p).masked_fill(~tp_mask[z][:, None, None], -1000.0)
                    cross[z] = (full.amax(-1).float() * tq_mask[z][..., None]).sum(2)
            mine = s[with_inb]
            error = (mine.diagonal(0, 1, 2)[..., None] - mine) - (cross.diagonal(0, 1, 2)[..., None] - cross)
            inb = error.masked_fill(eye, 0).square().sum((1, 2)) / (2 * B * (B - 1))
            loss = loss.index_add(0, with_inb, inb * alpha[with_inb])
        (grad,) = torch.autograd.grad(loss.sum(), flat)
        with torch.no_grad():
            way = (steps - step) / steps if schedule == "linear" else 0.5 * (1 + np.cos(np.pi * step / steps))
            lr = rate * way * min(1.0, (step + 1) / 100)
            m.lerp_(grad, 0.1)
            v.mul_(0.999).addcmul_(grad, grad, value=0.001)
            flat -= lr * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
    return flat.detach(), out


def vectors(top: Top, lesson: Lesson, flat: Tensor, name: str, rows: Tensor) -> Tensor:
    """(R, N, D) of texts (R, N), each run with its own weights."""
    n = lesson.len[name][rows]
    t = int(n.max()) if DEV == "cpu" else lesson.x[name].shape[1]
    x = lesson.x[name][:, :t][rows.to(lesson.x[name].device)].float()
    mask = torch.arange(t, device=rows.device) < n[..., None]
    return top(top.views(flat), x, mask)


@torch.no_grad()
def encode(top: Top, lesson: Lesson, flat: Tensor, name: str, chunk: int = 2048) -> Tensor:
    """(N, D) of all texts of a kind by one run."""
    rows = torch.arange(len(lesson.len[name]), device=DEV)
    return torch.cat(
        [vectors(top, lesson, flat, name, part[None])[0] for part in rows.split(chunk if DEV == "cuda" else 256)]
    )


def evaluate(top: Top, lesson: Lesson, flat: Tensor, keep: bool) -> dict:
    """MRR@10, nDCG@10, R@100 on tune and stop over the whole collection; with the ranks where `keep`."""
    p = encode(top, lesson, flat, "p")
    found = {}
    for name in SETS:
        rank = c.ranks_of(encode(top, lesson, flat, name) @ p.T, lesson.pos[name]).cpu().numpy()
        found |= {f"{name}_{k}": v for k, v in c.measures(rank).items()}
        if keep:
            found[f"{name}_ranks"] = np.minimum(rank, 30000).astype(int).tolist()
    return found


def kmeans(vecs: Tensor, k: int, iterations: int = 10, seed: int = 0) -> Tensor:
    """(Q,) clusters by spherical k-means as in clustering.py (inner product, unit centroids); no empty numbers."""
    g = torch.Generator().manual_seed(seed)
    centres = F.normalize(vecs[torch.randperm(len(vecs), generator=g)[:k].to(vecs.device)], dim=1)
    for _ in range(iterations):
        at = (vecs @ centres.T).argmax(1)
        centres = F.normalize(torch.zeros_like(centres).index_add_(0, at, vecs), dim=1)
        empty = centres.norm(dim=1) < 0.5
        if empty.any():
            centres[empty] = F.normalize(
                vecs[torch.randint(len(vecs), (int(empty.sum()),), generator=g).to(vecs.device)], dim=1
            )
    return torch.unique((vecs @ centres.T).argmax(1), return_inverse=True)[1]


def table(rows: list[dict], by: tuple[str, ...] = ("teacher", "sampling")) -> None:
    """Means and deviations over seeds, printed."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((*[row.get(k) for k in by], row["step"]), []).append(row)
    for key, some in groups.items():
        cells = [
            f"{np.mean([x[k] for x in some]):.4f}±{np.std([x[k] for x in some]):.4f}"
            for k in ("tune_mrr", "tune_ndcg", "tune_r100", "stop_mrr", "stop_ndcg", "stop_r100")
        ]
        print(" ", *key, len(some), *cells, flush=True)
