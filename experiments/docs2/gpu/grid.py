"""The whole ablation with seeds, then curves over training queries and steps; saved after every stage."""

import json
import os
import shutil

import common as c
import numpy as np
import students as s
import torch
from safetensors.torch import load_file, save_file

POOLS = {"skew": np.r_[0:4, 12:16, 24:32, 40:64], "mid": np.r_[0:8, 12:20, 24:40, 40:48], "hard": np.r_[0:40]}
STEPS, SEEDS, FEW = (2, 1, 1) if os.environ.get("TINY") else (4000, 6, 3)


def runs_of(rows: list[tuple], stage: str) -> list[s.Run]:
    """(teacher, sampling, rate, alpha, k, pool, n_train, seeds) → one run a seed."""
    names = ("teacher", "sampling", "rate", "alpha", "k", "pool", "n_train")
    return [dict(zip(names, row[:-1], strict=True), seed=seed, stage=stage) for row in rows for seed in range(row[-1])]


def main() -> None:
    """All stages in turn."""
    torch.set_num_threads(4 if s.DEV == "cuda" else 1)
    torch.backends.cuda.matmul.allow_tf32 = True
    os.makedirs(s.OUT, exist_ok=True)
    os.makedirs(s.W, exist_ok=True)
    for archived, name in (("negatives.npz", "negs.npz"), ("scores.npy", "scores.npy")):
        shutil.copy(os.path.join(c.TEACHERS, archived), f"{s.W}/{name}")
    encoder, head = (load_file(os.path.join(c.SHIPPED, "colbert", f"{part}.safetensors")) for part in ("model", "head"))
    weights = {f"encoder.{k}": v for k, v in encoder.items()} | {f"head.{k}": v for k, v in head.items()}
    save_file(weights, f"{s.W}/colbert.safetensors")
    top, lesson = s.Top(kind="cls", n=1), s.Lesson(5, f"{s.W}/colbert.safetensors", POOLS)
    found: list[dict] = [{"untrained": s.evaluate(top, lesson, top.init([0]), keep=True)}]
    by = ("stage", "teacher", "sampling", "rate", "alpha", "k", "pool", "n_train")

    def stage(rows: list[tuple], name: str, steps: int, budget_s: float, topics=None):
        runs = runs_of(rows, name)
        flat, more = s.train(top, lesson, runs, steps, topics, budget_s=budget_s)
        found.extend(more)
        json.dump(found, open(f"{s.OUT}/grid.json", "w"))
        s.table(more, by)
        return flat, runs

    n, f, lr = SEEDS, FEW, 3e-4
    flat, runs = stage(
        [
            ("none", "random", lr, 0, 0, "skew", 0, n),
            ("pairwise", "random", lr, 0, 0, "skew", 0, n),
            ("in_batch", "random", lr, 0, 0, "skew", 0, n),
            ("dual", "random", lr, 3.0, 0, "skew", 0, n),
            ("none", "random", 1.5e-4, 0, 0, "skew", 0, f),
            ("pairwise", "random", 1.5e-4, 0, 0, "skew", 0, f),
            ("in_batch", "random", 6e-4, 0, 0, "skew", 0, f),
            ("dual", "random", 6e-4, 3.0, 0, "skew", 0, f),
            ("dual", "random", lr, 10.0, 0, "skew", 0, f),
        ],
        "1 random",
        STEPS,
        42,
    )
    base = s.encode(top, lesson, flat[n : n + 1], "train")
    np.save(f"{s.OUT}/baseline-queries.npy", base.half().cpu().numpy())
    topics = {k: s.kmeans(base, k) for k in (60, 250, 16, 5)}
    for k in (60, 250):
        c.log(
            k,
            "clusters, sizes",
            np.percentile(torch.bincount(topics[k]).cpu().numpy(), (0, 10, 25, 50, 75, 90, 100)).tolist(),
        )
    rows = [
        (t, m, lr, 3.0, 60, "skew", 0, n) for t in ("pairwise", "in_batch", "dual") for m in ("tas", "tas_balanced")
    ]
    rows += [
        (t, m, lr, 3.0, 250, "skew", 0, max(f, n - 1) if f > 1 else 1)
        for t in ("in_batch", "dual")
        for m in ("tas", "tas_balanced")
    ]
    rows += [
        ("dual", "tas", 6e-4, 3.0, 60, "skew", 0, f),
        ("dual", "tas_balanced", 6e-4, 3.0, 60, "skew", 0, f),
        ("dual", "tas_balanced", lr, 10.0, 60, "skew", 0, f),
    ]
    kept, _ = stage(rows, "2 topics", STEPS, 58, topics)
    save_file(
        {"baseline": flat[n].half().cpu(), "dual-tas_balanced": kept[5 * n].half().cpu()},
        f"{s.OUT}/students.safetensors",
    )
    del kept, flat
    few = [
        ("none", "random"),
        ("pairwise", "random"),
        ("in_batch", "random"),
        ("dual", "random"),
        ("dual", "tas"),
        ("dual", "tas_balanced"),
    ]
    stage([(t, m, lr, 3.0, 60, "skew", 0, f) for t, m in few], "5 a quarter of the steps", STEPS // 4, 10, topics)
    stage([(t, m, lr, 3.0, 60, "skew", 0, f - 1 or 1) for t, m in few], "3 twice the steps", 2 * STEPS, 34, topics)
    stage(
        [(t, m, lr, 3.0, k, "skew", size, f - 1 or 1) for size, k in ((1000, 5), (3000, 16)) for t, m in few],
        "4 fewer queries",
        STEPS,
        24,
        topics,
    )


if __name__ == "__main__":
    main()
    c.log("grid.py ends")
