"""CPU cost of a training step of the design, by parts: python cost.py THREADS [STEPS]. States are noise, lengths real."""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertModel

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "gpu"))
import common
from frozen import LastLayer, States

torch.set_num_threads(int(sys.argv[1]))
data = common.load()
rng = np.random.default_rng(0)
model = BertModel(
    BertConfig(
        hidden_size=384,
        num_attention_heads=12,
        intermediate_size=1536,
        num_hidden_layers=1,
        hidden_dropout_prob=0,
        attention_probs_dropout_prob=0,
    ),
    add_pooling_layer=False,
)
x, mask = torch.randn(5, 9, 384), torch.arange(9) < torch.tensor([9, 5, 7, 9, 3])[:, None]
last = LastLayer(model.encoder.layer[0])
with torch.no_grad():
    whole = model.encoder.layer[0](x, attention_mask=torch.zeros(5, 1, 1, 9).masked_fill(~mask[:, None, None], -1e9))
    whole = whole[0] if isinstance(whole, tuple) else whole
    print("largest difference from the whole layer:", (whole[:, 0] - last(x, mask)).abs().max().item())
texts = {}
for name, n in (("p", 3000), ("train", 3000)):
    off = data[name + "_off"][: n + 1]
    texts[name] = States(rng.standard_normal((off[-1], 384)).astype(np.float16), off)
vecs = {
    name: States(rng.standard_normal((t.offsets[-1], 64)).astype(np.float16), t.offsets) for name, t in texts.items()
}
adam = torch.optim.Adam(last.parameters(), lr=3e-4, fused=True)


def late(q, qm, p, pm):
    s = (q.flatten(0, 1) @ p.flatten(0, 1).T).view(*q.shape[:2], *p.shape[:2]).masked_fill_(~pm, -1000.0)
    return (s.amax(-1) * qm[:, :, None]).sum(1)


spent = {"student": [0.0, 0.0], "teacher": [0.0, 0.0]}
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 40
for step in range(steps + 5):
    if step == 5:
        spent = {"student": [0.0, 0.0], "teacher": [0.0, 0.0]}
    q, p = rng.choice(3000, 32, replace=False), rng.choice(3000, 64, replace=False)
    t, c = time.perf_counter(), time.process_time()
    with torch.no_grad():
        target = late(*vecs["train"].rows(q), *vecs["p"].rows(p))
    spent["teacher"][0] += time.perf_counter() - t
    spent["teacher"][1] += time.process_time() - c
    t, c = time.perf_counter(), time.process_time()
    s = last(*texts["train"].rows(q)) @ last(*texts["p"].rows(p)).T
    loss = ((s.diagonal()[:, None] - s) - (target.diagonal()[:, None] - target)).square().mean()
    adam.zero_grad()
    loss.backward()
    adam.step()
    spent["student"][0] += time.perf_counter() - t
    spent["student"][1] += time.process_time() - c
for name, (wall, cpu) in spent.items():
    print(
        f"{sys.argv[1]} threads, {name}: {1000 * wall / steps:.1f} ms wall, {1000 * cpu / steps:.1f} ms of CPU a step"
    )
