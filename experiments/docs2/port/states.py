"""Token states (after five layers) or ColBERT's token vectors of all texts, on the CPU: python states.py states|colbert FOLDER."""

import sys
import time
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "gpu"), str(HERE.parents[2])]
import common
from frozen import frozen_states

torch.set_num_threads(1)
what, folder = sys.argv[1], Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
data, model = common.load(), common.minilm().eval()
layers, head = 5, None
if what == "colbert":
    weights = common.restore.load("colbert", model)
    head = weights["weight"].numpy().T, weights["bias"].numpy()
    layers = 6
else:
    model.encoder.layer = model.encoder.layer[:5]
for name in ("train", "tune", "stop", "p"):
    if what == "colbert" and name in ("tune", "stop"):
        continue
    ids, off = data[f"{name}_ids"].astype(np.int64), data[f"{name}_off"]
    start = time.time()
    out = frozen_states(model, [ids[a:b] for a, b in zip(off, off[1:], strict=False)], layers)
    if head is not None:
        out = (out.astype(np.float32) @ head[0] + head[1]).astype(np.float16)
    np.save(folder / f"{what}-{name}.npy", out)
    print(what, name, out.shape, f"{time.time() - start:.0f} s", flush=True)
