"""Effects on tune + stop (1,200 queries) from the per-query ranks of grid.json: means, seeds' deviations, paired tests.

Two levels: queries (paired, seeds averaged) and seeds (the difference of means over seeds, Welch). The interval adds
both variances. No test set is read.
"""

import json
import sys
from pathlib import Path

import numpy as np

rows = [
    r
    for r in json.load(open(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("grid.json")))
    if "tune_ranks" in r
]


def per_query(row: dict) -> dict[str, np.ndarray]:
    """Reciprocal rank, nDCG@10 and recall at 100 of each of the 1,200 queries."""
    rank = np.array(row["tune_ranks"] + row["stop_ranks"])
    return {
        "MRR@10": np.where(rank < 10, 1 / (1 + rank), 0),
        "nDCG@10": np.where(rank < 10, 1 / np.log2(2 + rank), 0),
        "R@100": (rank < 100).astype(float),
    }


groups: dict[tuple, list[dict]] = {}
for row in rows:
    key = (
        row["stage"][0],
        row["teacher"],
        row["sampling"],
        row["rate"],
        row["alpha"] if row["teacher"] == "dual" else 0,
        row["k"] if row["sampling"] != "random" else 0,
        row["n_train"],
    )
    groups.setdefault(key, []).append(per_query(row))
means = {key: {m: np.array([s[m].mean() for s in some]) for m in some[0]} for key, some in groups.items()}
print("stage teacher sampling rate alpha k n_train: mean (SD of seeds)")
for key, m in means.items():
    print(*key, len(groups[key]), *(f"{name} {v.mean():.4f} ({v.std(ddof=1):.4f})" for name, v in m.items()))


def effect(a: tuple, b: tuple) -> str:
    """b minus a: estimate, standard errors by queries and by seeds, and z of both together."""
    out = []
    for m in ("MRR@10", "nDCG@10", "R@100"):
        x, y = (np.mean([s[m] for s in groups[k]], 0) for k in (a, b))
        d = y - x
        by_seeds = np.sqrt(sum(means[k][m].var(ddof=1) / len(groups[k]) for k in (a, b)))
        by_queries = d.std(ddof=1) / np.sqrt(len(d))  # holds some of the seeds' noise already
        out.append(
            f"{m} {d.mean():+.4f} (se queries {by_queries:.4f}, seeds {by_seeds:.4f}, z {d.mean() / by_queries:+.1f})"
        )
    return "; ".join(out)


L = 3e-4
R = lambda t, a=0, rate=L, stage="1": (stage, t, "random", rate, a, 0, 0)  # noqa: E731
T = lambda t, m, k, a=0, rate=L: ("2", t, m, rate, a, k, 0)  # noqa: E731
PAIRS = [
    ("labels -> pairwise, random", R("none"), R("pairwise")),
    ("pairwise -> in-batch, random", R("pairwise"), R("in_batch")),
    ("pairwise -> dual a3, random", R("pairwise"), R("dual", 3.0)),
    ("in-batch -> dual a3, random", R("in_batch"), R("dual", 3.0)),
    ("in-batch -> dual a10, random", R("in_batch"), R("dual", 10.0)),
    ("pairwise, random -> TAS 60", R("pairwise"), T("pairwise", "tas", 60)),
    ("pairwise, TAS -> TAS-B 60", T("pairwise", "tas", 60), T("pairwise", "tas_balanced", 60)),
]
for k in (60, 250):
    PAIRS += [
        (f"in-batch, random -> TAS {k}", R("in_batch"), T("in_batch", "tas", k)),
        (f"in-batch, TAS -> TAS-B {k}", T("in_batch", "tas", k), T("in_batch", "tas_balanced", k)),
        (f"in-batch, random -> TAS-B {k}", R("in_batch"), T("in_batch", "tas_balanced", k)),
        (f"dual a3, random -> TAS {k}", R("dual", 3.0), T("dual", "tas", k, 3.0)),
        (f"dual a3, TAS -> TAS-B {k}", T("dual", "tas", k, 3.0), T("dual", "tas_balanced", k, 3.0)),
        (f"dual a3, random -> TAS-B {k}", R("dual", 3.0), T("dual", "tas_balanced", k, 3.0)),
    ]
PAIRS += [
    ("dual a10, random -> TAS-B 60", R("dual", 10.0), T("dual", "tas_balanced", 60, 10.0)),
    ("dual a3 6e-4, random -> TAS 60", R("dual", 3.0, 6e-4), T("dual", "tas", 60, 3.0, 6e-4)),
    ("dual a3 6e-4, TAS -> TAS-B 60", T("dual", "tas", 60, 3.0, 6e-4), T("dual", "tas_balanced", 60, 3.0, 6e-4)),
    (
        "in-batch TAS-B 250 -> dual a10 TAS-B 60",
        T("in_batch", "tas_balanced", 250),
        T("dual", "tas_balanced", 60, 10.0),
    ),
    ("pairwise TAS-B 60 -> dual a10 TAS-B 60", T("pairwise", "tas_balanced", 60), T("dual", "tas_balanced", 60, 10.0)),
]
print()
for name, a, b in PAIRS:
    if a in groups and b in groups:
        print(f"{name}: {effect(a, b)}")
# all TAS against all random, in-batch and dual
print()
for name, a, b in (
    ("TAS - random", [("random", 0)], [("tas", 60), ("tas", 250)]),
    ("TAS-B - TAS", [("tas", 60), ("tas", 250)], [("tas_balanced", 60), ("tas_balanced", 250)]),
    ("TAS-B - random", [("random", 0)], [("tas_balanced", 60), ("tas_balanced", 250)]),
):
    for m in ("MRR@10", "nDCG@10", "R@100"):
        pick = lambda side, m=m: [
            s[m]
            for key, some in groups.items()
            if key[1] in ("in_batch", "dual")
            and key[6] == 0
            and key[0] in "12"
            and key[3] == L
            and key[4] in (0, 3.0)
            and (key[2], key[5]) in side
            for s in some
        ]  # noqa: E731, B023
        x, y = pick(a), pick(b)
        d = np.mean(y, 0) - np.mean(x, 0)
        xs, ys = np.mean(x, 1), np.mean(y, 1)
        print(
            f"pooled over in-batch and dual a3, {name}, {m}: {d.mean():+.4f}, se queries {d.std(ddof=1) / np.sqrt(len(d)):.4f}, se seeds {np.sqrt(xs.var(ddof=1) / len(xs) + ys.var(ddof=1) / len(ys)):.4f}, {len(x)} and {len(y)} runs"
        )
