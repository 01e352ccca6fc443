"""Teachers: negatives, BERT_CAT (folds), its scores, ColBERT; python teach.py [p][c][l], a letter per phase.

Working files are in $W, results in $OUT. TINY=1 rehearses on a CPU, DEV=cuda runs on a GPU.
"""

import multiprocessing as mp
import os
import sys
import time

import common as c
import numpy as np
import torch
from numpy.random import Generator, Philox
from safetensors.torch import load_file, save_file
from torch import nn

W = os.environ.get("W", "work")
OUT = os.environ.get("OUT", "work/out")
TINY = bool(os.environ.get("TINY"))
DEV = os.environ.get("DEV", "cpu")
N_BM, N_DENSE, N_DEEP, N_RANDOM = 12, 12, 16, 24  # negatives a query whose scores are kept
CAT_STEPS, CAT_QUERIES, CAT_NEGS = (2, 2, 3) if TINY else (int(os.environ.get("CAT_STEPS", 2000)), 24, 11)
COL_STEPS, COL_QUERIES, COL_NEGS = (2, 2, 3) if TINY else (int(os.environ.get("COL_STEPS", 2500)), 32, 7)
FOLDS, SEEDS = (1, ((5e-5, 0),)) if TINY else (3, ((1e-4, 1),))
SETS = ("tune", "stop")


def take(rng: Generator, row: np.ndarray, n: int) -> np.ndarray:
    """n of a row's entries >= 0, without replacement while they last."""
    row = row[row >= 0]
    return rng.choice(row, n, replace=len(row) < n) if len(row) else np.zeros(n, np.int64)


def prepare() -> None:
    """MiniLM's own search, union candidates of tune and stop, and each training query's negatives."""
    data = c.load()
    model = c.minilm().to(DEV).eval()
    ids, n = c.tokens(data, "p").padded(64)
    p = c.mean_pooled(c.states(model, ids, n, DEV, (6,))[6], n)
    barred = np.zeros(32768, bool)
    barred[data["barred"]] = True
    saved = {}
    for name in ("train", *SETS):
        ids, n = c.tokens(data, name).padded(30)
        q = c.mean_pooled(c.states(model, ids, n, DEV, (6,))[6], n)
        top = torch.cat([(part @ p.T).topk(min(1000, len(p)), dim=1).indices for part in q.split(2048)]).cpu().numpy()
        pos, bm = data[name + "_pos"].astype(np.int64), data[name + "_bm25"].astype(np.int64)
        hit = top == pos[:, None]
        rank = np.where(hit.any(1), hit.argmax(1), 10**6)
        hit = bm == pos[:, None]
        bm_rank = np.where(hit.any(1), hit.argmax(1), 10**6)
        c.log(name, "MiniLM", c.measures(rank), "BM25", c.measures(bm_rank))
        if name in SETS:
            cand = np.concatenate([bm[:, :100], top[:, :100]], 1)
            for row in cand:
                _, first = np.unique(row, return_index=True)
                again = np.ones(200, bool)
                again[first] = False
                row[again] = -1
            c.log(name, "the union holds the answer for", (cand == pos[:, None]).any(1).mean().round(4))
            saved[name + "_cand"] = cand
            saved[name + "_dense"] = rank
            continue

        def usable(rows: np.ndarray, pos: np.ndarray = pos) -> np.ndarray:
            return np.where((rows >= 0) & ~barred[rows] & (rows != pos[:, None]), rows, -1)

        saved["bm"], saved["dense"] = usable(bm[:, :100]), usable(top[:, :100])
        # deep: BM25's ranks 100-1000 came thinned out in the file; dense ones are thinned here
        saved["deep"] = np.concatenate([usable(bm[:, 100:]), usable(top[:, 100::19])], 1)
        neg = np.zeros((len(pos), N_BM + N_DENSE + N_DEEP + N_RANDOM), np.int16)
        anyone = np.flatnonzero(~barred[: len(p)])
        for i in range(len(pos)):
            rng = Generator(Philox(key=[0, i]))
            neg[i, :N_BM] = (
                take(rng, saved["bm"][i], N_BM) if (saved["bm"][i] >= 0).any() else take(rng, saved["dense"][i], N_BM)
            )
            neg[i, N_BM : N_BM + N_DENSE] = take(rng, saved["dense"][i], N_DENSE)
            neg[i, N_BM + N_DENSE :][:N_DEEP] = take(rng, saved["deep"][i], N_DEEP)
            neg[i, -N_RANDOM:] = rng.choice(anyone[anyone != pos[i]], N_RANDOM, replace=False)
        saved["neg"] = neg
        saved["fold"] = Generator(Philox(key=[0, 0])).permutation(len(pos)) % FOLDS
    np.savez(f"{W}/negs.npz", **saved)
    np.savez_compressed(
        f"{OUT}/negs.npz",
        **{k: saved[k].astype(np.int16) for k in ("neg", "fold", "tune_cand", "stop_cand")},
        tune_dense=saved["tune_dense"],
        stop_dense=saved["stop_dense"],
    )
    c.log("prepared")


class Cat(nn.Module):
    """BERT_CAT, Eq. 1."""

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = c.minilm(dropout)
        self.encoder.embeddings.requires_grad_(False)  # shared with MiniLM: smaller to ship, and no word is forgotten
        self.head = nn.Linear(384, 1, bias=False)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        x = self.encoder(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state[:, 0]
        with torch.autocast("cuda", enabled=False):
            return self.head(x.float()).squeeze(-1)


def cat_inputs(qt: c.Ragged, pt: c.Ragged, q: np.ndarray, p: np.ndarray) -> tuple[torch.Tensor, ...]:
    """CLS query SEP passage SEP, padded."""
    lq, lp = np.diff(qt.offsets)[q], np.diff(pt.offsets)[p] - 1  # the passage without CLS
    width = (lq + lp).max()
    at = np.arange(width)
    from_q = at < lq[:, None]
    mask = at < (lq + lp)[:, None]
    iq = (qt.offsets[q][:, None] + at).clip(max=len(qt.ids) - 1)
    ip = (pt.offsets[p][:, None] + 1 + at - lq[:, None]).clip(0, len(pt.ids) - 1)
    ids = np.where(from_q, qt.ids[iq], pt.ids[ip]) * mask
    return tuple(torch.from_numpy(a.astype(np.int64)).to(DEV, non_blocking=True) for a in (ids, mask, mask & ~from_q))


def cat_scores(model: Cat, qt: c.Ragged, pt: c.Ragged, q: np.ndarray, p: np.ndarray, chunk: int) -> torch.Tensor:
    """(N,) scores, in chunks sorted by length."""
    order = np.argsort(np.diff(qt.offsets)[q] + np.diff(pt.offsets)[p], kind="stable")
    parts = []
    for s in range(0, len(order), chunk):
        part = order[s : s + chunk]
        with torch.autocast("cuda", torch.bfloat16, enabled=DEV == "cuda"):
            parts.append(model(*cat_inputs(qt, pt, q[part], p[part])))
    return torch.cat(parts)[torch.from_numpy(np.argsort(order)).to(DEV)]


class Pace:
    """How many steps fit a budget of seconds: set at the 60th from the time that the last 50 took."""

    def __init__(self, steps: int, budget_s: float) -> None:
        self.steps, self.budget_s, self.start = steps, budget_s, time.time()

    def tick(self, step: int) -> None:
        if step == 10:
            self.since = time.time()
        if step == 60:
            each = (time.time() - self.since) / 50
            self.steps = int(min(self.steps, 60 + self.budget_s / each))
            c.log(f"{1000 * each:.1f} ms a step: {self.steps} steps")


def optimiser(model: nn.Module, rate: float, pace: Pace):
    """AdamW, a tenth of the steps upwards, then linearly down."""
    adam = torch.optim.AdamW(
        [w for w in model.parameters() if w.requires_grad], lr=rate, weight_decay=0.01, fused=DEV == "cuda"
    )
    return adam, torch.optim.lr_scheduler.LambdaLR(
        adam, lambda s: max(0.0, min(10 * (s + 1) / pace.steps, (pace.steps - s) / (0.9 * pace.steps), 1))
    )


@torch.inference_mode()
def cat_on(model: Cat, data: dict, negs: dict, name: str, pt: c.Ragged, limit: int | None = None) -> np.ndarray:
    """Scores (Q, 200) of a set's union candidates."""
    cand = negs[name + "_cand"][:limit]
    q, place = np.nonzero(cand >= 0)
    out = np.full(cand.shape, -np.inf, np.float32)
    out[q, place] = cat_scores(model, c.tokens(data, name), pt, q, cand[q, place], 2048).cpu().numpy()
    return out


def train_cat(fold: int, seed: int, rate: float) -> None:
    """One BERT_CAT on the queries outside a fold; then its scores of the fold's pairs and of tune and stop."""
    torch.set_num_threads(2)
    data, negs = c.load(), dict(np.load(f"{W}/negs.npz"))
    qt, pt, pos = c.tokens(data, "train"), c.tokens(data, "p"), data["train_pos"].astype(np.int64)
    rows = np.flatnonzero(negs["fold"] != fold) if FOLDS > 1 else np.arange(len(pos))
    torch.manual_seed(seed)
    model = Cat().to(DEV).train()
    pace = Pace(CAT_STEPS, float(os.environ.get("CAT_S", 130)))
    adam, schedule = optimiser(model, rate, pace)
    anyone = np.setdiff1d(np.arange(len(pt.offsets) - 1), data["barred"])
    group, mean, step = 1 + CAT_NEGS, 0.0, -1
    while (step := step + 1) < pace.steps:
        pace.tick(step)
        rng = Generator(Philox(key=[seed, step]))
        asked = rng.choice(rows, CAT_QUERIES, replace=False)
        shown = []
        for i in asked:
            dense = negs["dense"][i] if (negs["dense"][i] >= 0).any() else negs["deep"][i]
            bm = negs["bm"][i] if (negs["bm"][i] >= 0).sum() > 10 else dense
            deep = negs["deep"][i]
            n = (1, 1, 1, 0) if TINY else (4, 3, 3, 1)
            shown += [
                pos[i],
                *take(rng, bm, n[0]),
                *take(rng, dense, n[1]),
                *take(rng, deep, n[2]),
                *rng.choice(anyone, n[3]),
            ]
        scores = cat_scores(model, qt, pt, np.repeat(asked, group), np.array(shown), 144 if DEV == "cuda" else 8)
        loss = nn.functional.cross_entropy(
            scores.view(-1, group), torch.zeros(len(asked), dtype=torch.long, device=DEV)
        )
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        schedule.step()
        if step % 50 == 49:
            mean = loss.item()
        if (step + 1) % (2 if TINY else 500) == 0:
            rank = c.rerank_ranks(
                cat_on(model.eval(), data, negs, "tune", pt, 200), negs["tune_cand"][:200], data["tune_pos"][:200]
            )
            c.log(f"cat {fold}/{seed} step {step + 1} loss {mean:.3f} first 200 of tune {c.measures(rank)}")
            model.train()
    model.eval()
    got = {}
    for name in SETS:
        limit = 4 if TINY else None
        got[name] = cat_on(model, data, negs, name, pt, limit)
        rank = c.rerank_ranks(got[name], negs[name + "_cand"][:limit], data[name + "_pos"][:limit])
        c.log(f"cat {fold}/{seed} {name} {c.measures(rank)}")
    own = np.flatnonzero(negs["fold"] == fold)
    if TINY:
        own = own[:5]
    shown = np.concatenate([pos[own, None], negs["neg"][own]], 1)  # (q, 65)
    with torch.inference_mode():
        found = cat_scores(model, qt, pt, np.repeat(own, shown.shape[1]), shown.ravel().astype(np.int64), 2048)
    np.savez(f"{W}/cat-{fold}-{seed}.npz", own=own, scores=found.cpu().numpy().reshape(shown.shape), **got)
    if seed == SEEDS[-1][1]:
        save_file({k: v.half() for k, v in model.state_dict().items()}, f"{W}/cat-{fold}.safetensors")
    c.log(f"cat {fold}/{seed} done")


def join_cats() -> None:
    """Out-of-fold scores, seeds averaged; measured; margins described."""
    data, negs = c.load(), dict(np.load(f"{W}/negs.npz"))
    scores = np.zeros((len(data["train_pos"]), 1 + negs["neg"].shape[1]), np.float32)
    seen = np.zeros(len(scores), int)
    total: dict[str, list] = {name: [] for name in SETS}
    for fold in range(FOLDS):
        for _, seed in SEEDS:
            path = f"{W}/cat-{fold}-{seed}.npz"
            if not os.path.exists(path):
                c.log("missing", path)
                continue
            got = dict(np.load(path))
            scores[got["own"]] += got["scores"]
            seen[got["own"]] += 1
            for name in SETS:
                total[name].append(got[name])
    scores /= np.maximum(seen, 1)[:, None]
    for name in SETS:
        k = len(total[name][0])
        for what, some in (("all", total[name]), ("one", total[name][:1])):
            rank = c.rerank_ranks(np.mean(some, 0), negs[name + "_cand"][:k], data[name + "_pos"][:k])
            c.log(f"BERT_CAT, mean of {len(some)} ({what}), {name}: {c.measures(rank)}")
        np.save(f"{W}/cat_{name}.npy", np.mean(total[name], 0).astype(np.float16))
    margins = scores[:, :1] - scores[:, 1:]
    for what, part in (
        ("BM25", margins[:, :N_BM]),
        ("dense", margins[:, N_BM : N_BM + N_DENSE]),
        ("deep", margins[:, N_BM + N_DENSE : -N_RANDOM]),
        ("random", margins[:, -N_RANDOM:]),
    ):
        c.log(
            f"margins, {what}: deciles {np.percentile(part, range(0, 101, 10)).round(1).tolist()}, positive {(part > 0).mean():.3f}"
        )
    best = (margins > 0).all(1).mean()
    c.log(f"out of fold, the positive is first of 65 for {best:.3f} of the training queries")
    np.save(f"{W}/scores.npy", scores)
    np.save(f"{OUT}/scores.npy", scores.astype(np.float16))


class ColBert(nn.Module):
    """ColBERT, Eqs. 2-3."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.encoder = c.minilm(dropout)
        self.encoder.embeddings.requires_grad_(False)  # shared with MiniLM: smaller to ship, and no word is forgotten
        self.head = nn.Linear(384, dim)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        with torch.autocast("cuda", enabled=False):
            return self.head(x.float())


def late(q: torch.Tensor, qm: torch.Tensor, p: torch.Tensor, pm: torch.Tensor) -> torch.Tensor:
    """Eq. 3 for all against all: (B, P)."""
    s = (q.flatten(0, 1) @ p.flatten(0, 1).T).view(*q.shape[:2], *p.shape[:2])
    s = s.masked_fill(~pm.bool(), -1000.0)
    return (s.amax(-1) * qm[:, :, None]).sum(1)


def train_colbert(tag: str, dim: int, rate: float, label_weight: float) -> None:
    """ColBERT on the out-of-fold margins of all negatives shown; label_weight: of cross-entropy over the batch."""
    torch.set_num_threads(2)
    data, negs, scores = c.load(), dict(np.load(f"{W}/negs.npz")), np.load(f"{W}/scores.npy")
    pid, pn = c.tokens(data, "p").padded(64)
    qid, qn = c.tokens(data, "train").padded(30)
    pos = data["train_pos"].astype(np.int64)
    torch.manual_seed(0)
    model = ColBert(dim, 0.0).to(DEV).train()
    with torch.no_grad():  # a projection that keeps dot products, scores about as large as the teacher's margins
        model.head.weight.copy_(nn.init.orthogonal_(torch.empty(dim, 384)) * 0.5)
        model.head.bias.zero_()
    pace = Pace(COL_STEPS, float(os.environ.get("COL_S", 50)))
    adam, schedule = optimiser(model, rate, pace)

    def encode(ids: np.ndarray, n: np.ndarray, rows: np.ndarray):
        top = n[rows].max()
        x = torch.from_numpy(ids[rows, :top]).to(DEV)
        m = torch.from_numpy(np.arange(top) < n[rows, None]).to(DEV)
        with torch.autocast("cuda", torch.bfloat16, enabled=DEV == "cuda"):
            return model(x, m.long()), m

    def on(name: str, limit: int | None = None) -> float:
        ids, n = c.tokens(data, name).padded(30)
        cand = negs[name + "_cand"][:limit]
        out = np.full(cand.shape, -np.inf, np.float32)
        with torch.inference_mode():
            for i, row in enumerate(cand):
                kept = row >= 0
                q, qm = encode(ids, n, np.array([i]))
                p, pm = encode(pid, pn, row[kept])
                out[i, kept] = late(q, qm, p, pm)[0].cpu().numpy()
        found = c.measures(c.rerank_ranks(out, cand, data[name + "_pos"][:limit]))
        c.log(f"ColBERT {tag} {name} {found}")
        return found["mrr"]

    step = -1
    while (step := step + 1) < pace.steps:
        pace.tick(step)
        rng = Generator(Philox(key=[7, step]))
        asked = rng.choice(len(pos), COL_QUERIES, replace=False)
        cols = np.stack([rng.choice(negs["neg"].shape[1], COL_NEGS, replace=False) for _ in asked])  # (B, K)
        shown = np.concatenate([pos[asked, None], np.take_along_axis(negs["neg"][asked], cols, 1)], 1).astype(np.int64)
        want = torch.from_numpy(scores[asked, :1] - np.take_along_axis(scores[asked], cols + 1, 1)).to(DEV)  # (B, K)
        q, qm = encode(qid, qn, asked)
        p, pm = encode(pid, pn, shown.ravel())
        s = late(q, qm, p, pm)  # (B, B * (K + 1))
        at = torch.arange(len(asked), device=DEV)[:, None] * (COL_NEGS + 1) + torch.arange(COL_NEGS + 1, device=DEV)
        own = s.gather(1, at)
        loss = ((own[:, :1] - own[:, 1:]) - want).square().mean()
        if label_weight:
            loss = loss + label_weight * nn.functional.cross_entropy(s, at[:, 0])
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        adam.step()
        schedule.step()
        if (step + 1) % (2 if TINY else 500) == 0:
            c.log(f"ColBERT {tag} step {step + 1} loss {loss.item():.3f}")
            model.eval(), on("tune", 200), model.train()
    model.eval()
    got = [on(name, 2 if TINY else None) for name in SETS]
    np.save(f"{W}/colbert-{tag}.npy", np.mean(got))
    save_file({k: v.half() for k, v in model.state_dict().items()}, f"{W}/colbert-{tag}.safetensors")
    c.log("colbert", tag, "done")


def keep(name: str, path: str) -> None:
    """Copy a model without its embeddings, which are MiniLM's, to $OUT."""
    save_file({k: v for k, v in load_file(path).items() if "embeddings" not in k}, f"{OUT}/{name}.safetensors")


def together(jobs: list[tuple]) -> None:
    """Runs functions in forked processes at the same time and waits."""
    started = [mp.get_context("fork").Process(target=job, args=args) for job, *args in jobs]
    for process in started:
        process.start()
    for process in started:
        process.join()
        if process.exitcode:
            c.log("a process failed:", process.exitcode)


if __name__ == "__main__":
    os.makedirs(OUT, exist_ok=True)
    os.makedirs(W, exist_ok=True)
    phase = sys.argv[1]
    if "p" in phase:
        together([(prepare,)])
    if "c" in phase:
        together([(train_cat, fold, seed, rate) for rate, seed in SEEDS for fold in range(FOLDS)])
        join_cats()
    if "l" in phase:
        together([(train_colbert, "b", 64, 2e-4, 0.0), (train_colbert, "c", 64, 1e-4, 1.0)][1 if TINY else 0 :])
        made = [path for path in os.listdir(W) if path.startswith("colbert-") and path.endswith(".npy")]
        best = max(
            made, key=lambda path: np.load(f"{W}/{path}") + 0.008 * ("-b" in path)
        )  # margins alone are preferred: no label seen
        c.log("the best ColBERT:", best)
        os.replace(f"{W}/{best[:-4]}.safetensors", f"{W}/colbert.safetensors")
        keep("colbert", f"{W}/colbert.safetensors")
        if os.path.exists(f"{W}/cat-0.safetensors"):
            keep("cat", f"{W}/cat-0.safetensors")
    c.log("teach.py ends")
