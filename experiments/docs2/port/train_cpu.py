"""The design on a CPU, one student at a time, with the library's own samplers, clusters and losses.

python train_cpu.py FOLDER OUT.json FIRST_SEED STRIDE N_SEEDS [STEPS]: dual teacher, alpha 10, random / TAS / TAS-Balanced
for each seed. FOLDER: what states.py wrote.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "gpu"), str(HERE.parents[2])]
import common
from frozen import LastLayer, States, fresh_last_layer

from tas_lib import losses, models, sampling
from tas_lib.records import Pairs
from tas_lib.settings import Sampling

ALPHA, RATE, STEPS, WARMUP, K = 10.0, 3e-4, 4000, 100, 250
COLUMNS = np.r_[0:4, 12:16, 24:32, 40:64]  # of the 64 negatives: 4 BM25, 4 dense, 8 deep, 24 random
ARCHIVE = HERE.parent


def student() -> LastLayer:
    """MiniLM's first five layers are in the states; the sixth is drawn anew."""
    model = common.minilm()
    fresh_last_layer(model, 0)
    return LastLayer(model.encoder.layer[-1]).train()


@torch.inference_mode()
def encode(last: LastLayer, texts: States, chunk: int = 256) -> torch.Tensor:
    """Vectors (N, D) of all texts."""
    order = np.argsort(np.diff(texts.offsets), kind="stable")
    out = torch.empty(len(order), 384)
    for start in range(0, len(order), chunk):
        out[torch.from_numpy(order[start : start + chunk])] = last(*texts.rows(order[start : start + chunk]))
    return out


def main(folder: Path, path: str, first: int, stride: int, n_seeds: int, steps: int = STEPS) -> None:
    """Train and measure on tune and stop; the file is rewritten after every student."""
    torch.set_num_threads(1)
    data, scores = common.load(), np.load(ARCHIVE / "teachers" / "scores.npy").astype(np.float32)
    neg = np.load(ARCHIVE / "teachers" / "negatives.npz")["neg"].astype(np.int64)[:, COLUMNS]
    n, width = neg.shape
    margins = scores[:, :1] - scores[:, 1:][:, COLUMNS]
    pairs = Pairs.sort(
        n,
        np.repeat(np.arange(n), width),
        np.repeat(data["train_pos"].astype(np.int64), width),
        neg.ravel(),
        margins.ravel(),
    )
    texts = {
        k: States(np.load(folder / f"states-{k}.npy", mmap_mode="r"), data[f"{k}_off"])
        for k in ("p", "train", "tune", "stop")
    }
    vecs = {k: States(np.load(folder / f"colbert-{k}.npy", mmap_mode="r"), data[f"{k}_off"]) for k in ("p", "train")}
    assigned = np.load(ARCHIVE / "evidence" / "clusters.npz")[f"k{K}"]  # of the baseline's query vectors, by faiss
    members = [np.flatnonzero(assigned == k) for k in range(K) if (assigned == k).any()]
    found = []
    for seed in range(first, first + stride * n_seeds, stride):
        for strategy in ("random", "tas", "tas_balanced"):
            sampler = sampling.make_sampler(strategy, pairs, members, Sampling(clusters=K), seed)
            last = student()
            adam = torch.optim.Adam(last.parameters(), lr=RATE, fused=True)
            start, parts = time.time(), np.zeros(2)
            for step in range(steps):
                batch = sampler.batch(step)
                passages = np.concatenate([batch.pos, batch.neg])
                with torch.no_grad():
                    teacher = models.late_interaction(*vecs["train"].rows(batch.queries), *vecs["p"].rows(passages))
                s = last(*texts["train"].rows(batch.queries)) @ last(*texts["p"].rows(passages)).T
                loss = losses.dual(s, teacher, torch.from_numpy(batch.margins), ALPHA)
                adam.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / WARMUP) * (steps - step) / steps
                adam.zero_grad()
                loss.total.backward()
                adam.step()
                parts += (loss.pairwise.item(), loss.in_batch.item())
                if step % 500 == 499:
                    print(
                        f"{strategy} {seed} step {step + 1}: losses {parts[0] / 500:.2f} {parts[1] / 500:.2f}, {1000 * (time.time() - start) / (step + 1):.0f} ms a step",
                        flush=True,
                    )
                    parts[:] = 0
            last.eval()
            clock = time.time()
            p = encode(last, texts["p"])
            row = {
                "teacher": "dual",
                "sampling": strategy,
                "alpha": ALPHA,
                "rate": RATE,
                "k": K,
                "seed": seed,
                "ms_a_step": 1000 * (clock - start) / steps,
            }
            for name in ("tune", "stop"):
                rank = common.ranks_of(
                    encode(last, texts[name]) @ p.T, torch.from_numpy(data[f"{name}_pos"].astype(np.int64))
                ).numpy()
                row |= {f"{name}_{m}": v for m, v in common.measures(rank).items()} | {
                    f"{name}_ranks": np.minimum(rank, 30000).tolist()
                }
            print(
                {k: v for k, v in row.items() if "ranks" not in k},
                f"measured in {time.time() - clock:.0f} s",
                flush=True,
            )
            found.append(row)
            json.dump(found, open(path, "w"))
            last.train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
