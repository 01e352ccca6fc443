"""Depth and number of the fresh layers, rate, alpha, clusters, pool; random first, then TAS."""

import json
import os
import sys

import common as c
import numpy as np
import students as s
import torch
from teach import together

# columns of the 64 negatives: 12 BM25, 12 dense, 16 deep, 24 random
POOLS = {"skew": np.r_[0:4, 12:16, 24:32, 40:64], "mid": np.r_[0:8, 12:20, 24:40, 40:48], "hard": np.r_[0:40]}
ARCHS = {
    "cls5": (5, dict(kind="cls", n=1)),
    "cls4x2": (4, dict(kind="cls", n=2)),
    "cls3x3": (3, dict(kind="cls", n=3)),
}


def one(name: str, colbert: str, steps: int, budget_s: float) -> None:
    """Stage 1: every teacher, random batches. Stage 2: TAS and TAS-Balanced, with other clusters and pools."""
    torch.set_num_threads(1 if s.DEV == "cuda" else 2)
    torch.backends.cuda.matmul.allow_tf32 = True
    depth, spec = ARCHS[name]
    top, lesson = s.Top(**spec), s.Lesson(depth, colbert, POOLS)
    first = [
        ("none", 3e-4, 0),
        ("pairwise", 3e-4, 0),
        ("pairwise", 6e-4, 0),
        ("in_batch", 3e-4, 0),
        ("in_batch", 6e-4, 0),
        ("dual", 3e-4, 0.75),
        ("dual", 3e-4, 3.0),
        ("dual", 6e-4, 3.0),
        ("dual", 3e-4, 10.0),
    ]
    runs = [dict(teacher=t, sampling="random", rate=r, alpha=a, arch=name, pool="skew", k=0) for t, r, a in first]
    untrained = s.evaluate(top, lesson, top.init([0]), keep=False)
    c.log(name, "untrained", untrained)
    flat, rows = s.train(top, lesson, runs, steps, marks=(steps // 3,), budget_s=budget_s)
    s.table(rows, ("arch", "teacher", "sampling", "rate", "alpha"))
    json.dump([{"arch": name, "untrained": untrained}, *rows], open(f"{s.W}/sweep-{name}.json", "w"))
    topics = {k: s.kmeans(s.encode(top, lesson, flat[1:2], "train"), k) for k in (60, 200, 370)}
    second = [
        ("pairwise", "tas", 60, "skew"),
        ("pairwise", "tas_balanced", 60, "skew"),
        ("in_batch", "tas", 60, "skew"),
        ("in_batch", "tas_balanced", 60, "skew"),
        ("in_batch", "tas", 200, "skew"),
        ("in_batch", "tas_balanced", 200, "skew"),
        ("in_batch", "tas", 370, "skew"),
        ("dual", "tas", 60, "skew"),
        ("dual", "tas_balanced", 60, "skew"),
        ("dual", "tas", 200, "skew"),
        ("dual", "tas_balanced", 200, "skew"),
        ("dual", "tas_balanced", 60, "mid"),
        ("dual", "tas_balanced", 60, "hard"),
    ]
    runs = [dict(teacher=t, sampling=m, rate=3e-4, alpha=3.0, arch=name, pool=p, k=k) for t, m, k, p in second]
    flat, more = s.train(top, lesson, runs, steps, topics, budget_s=1.3 * budget_s)
    json.dump([{"arch": name, "untrained": untrained}, *rows, *more], open(f"{s.W}/sweep-{name}.json", "w"))
    s.table(more, ("arch", "teacher", "sampling", "rate", "k", "pool"))


if __name__ == "__main__":
    steps, colbert = int(sys.argv[1]), sys.argv[2]
    names = sys.argv[3].split(",") if len(sys.argv) > 3 else list(ARCHS)
    together([(one, name, colbert, steps, float(os.environ.get("BUDGET", 60))) for name in names])
    json.dump(
        {
            name: json.load(open(f"{s.W}/sweep-{name}.json"))
            for name in names
            if os.path.exists(f"{s.W}/sweep-{name}.json")
        },
        open(f"{s.OUT}/sweep.json", "w"),
    )
