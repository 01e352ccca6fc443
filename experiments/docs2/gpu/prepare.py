"""Write data.npz, the arrays that go to the GPU: token ids, answers, BM25's lists. No test set is among them.

python prepare.py OUT.npz. The archived data.npz lacks `train_bm25`,
which only teach.py's phase `p` reads. Its result is teachers/negatives.npz.
"""

import sys
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))
from tas_lib import config
from tas_lib.data.sources import docs
from tas_lib.data.tokens import tokenise
from tas_lib.retrieval.bm25 import Bm25Index


def main(path: str) -> None:
    """Read the collection, tokenise it and search it."""
    source = docs.read(config.load("docs").source)
    tokenizer = AutoTokenizer.from_pretrained(HERE.parents[2] / "data" / "docs" / "encoder")
    row = {name: i for i, name in enumerate(source.passages.ids)}
    bm25 = Bm25Index(source.passages.texts, config.Bm25(k1=0.9, b=0.4))
    arrays = {"barred": np.asarray(source.barred, np.int32)}
    texts = {"p": (source.passages.texts, 64)} | {
        name: (source.sets[name].queries.texts, 30) for name in ("train", "tune", "stop")
    }
    for name, (some, cap) in texts.items():
        arrays[f"{name}_ids"], arrays[f"{name}_off"] = tokenise(tokenizer, some, cap)
        if name != "p":
            arrays[f"{name}_pos"] = np.array([row[q[2:]] for q in source.sets[name].queries.ids], np.int32)
            ranked = bm25.search(some, 1000)[0].astype(np.int16)
            deep = [ranked[:, 100::15]] if name == "train" else []
            arrays[f"{name}_bm25"] = np.concatenate([ranked[:, :100], *deep], axis=1)
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
