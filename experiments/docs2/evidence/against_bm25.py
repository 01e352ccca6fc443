"""Best student against BM25 (k1 .9, b .4) on tune + stop, paired over queries; seeds averaged."""

import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
d = np.load(HERE.parent / "gpu" / "data.npz")
bm = []
for s in ("tune", "stop"):
    hit = d[s + "_bm25"].astype(int) == d[s + "_pos"][:, None]
    bm.append(np.where(hit.any(1), hit.argmax(1), 10**6))
bm = np.concatenate(bm)
f = {
    "MRR@10": lambda r: np.where(r < 10, 1 / (1 + r), 0),
    "nDCG@10": lambda r: np.where(r < 10, 1 / np.log2(2 + r), 0),
    "R@100": lambda r: (r < 100) * 1.0,
}
rows = [r for r in json.load(open(HERE / "grid.json"))[1:] if r["stage"][0] in "12"]
for name, want in (
    ("dual a10 TAS-B k60", dict(teacher="dual", sampling="tas_balanced", alpha=10.0)),
    ("in-batch TAS-B k250", dict(teacher="in_batch", sampling="tas_balanced", k=250)),
    ("in-batch random", dict(teacher="in_batch", sampling="random", rate=3e-4)),
    ("pairwise random", dict(teacher="pairwise", sampling="random", rate=3e-4)),
):
    some = [np.array(r["tune_ranks"] + r["stop_ranks"]) for r in rows if all(r[k] == v for k, v in want.items())]
    for m, g in f.items():
        x = np.mean([g(r) for r in some], 0) - g(bm)
        print(
            f"{name} ({len(some)} seeds) - BM25, {m}: {x.mean():+.4f}, se {x.std(ddof=1) / np.sqrt(len(x)):.4f}, z {x.mean() / x.std(ddof=1) * np.sqrt(len(x)):+.1f}"
        )
