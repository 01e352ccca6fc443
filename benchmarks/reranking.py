"""Re-ranking 30 candidates of a query with docs' BERT_CAT, against sentence-transformers' CrossEncoder at its size."""

from functools import partial

import numpy as np
import torch
from sentence_transformers import CrossEncoder

from benchmarks import Figure, measure, texts, verdict
from tas_lib.config import ROOT, Tokens
from tas_lib.data.tokens import load_tokenizer
from tas_lib.retrieval import cross_encoder, pretrained

MODEL = ROOT / "data" / "docs" / "cat"
DEPTH, QUERIES, MOST_MS = 30, 10, 100


def figures(full: bool = False) -> list[Figure]:
    """Milliseconds a query, texts as long as docs'."""
    model, tokenizer = pretrained.load_cat(str(MODEL)), load_tokenizer(str(MODEL))
    queries = texts.synthetic(tokenizer, QUERIES, texts.DOCS["queries"], seed=1)
    passages = texts.synthetic(tokenizer, DEPTH * QUERIES, texts.DOCS["passages"])
    theirs = CrossEncoder(str(MODEL), num_labels=1, device="cpu", model_kwargs={"dtype": torch.float32})  # not fp16

    def ours() -> None:
        for i in range(QUERIES):
            pairs = np.full(DEPTH, i), np.arange(i * DEPTH, (i + 1) * DEPTH)
            cross_encoder.score_texts(model, tokenizer, (queries, passages), pairs, Tokens(query=30, passage=64))

    pairs = [[(query, passages[i * DEPTH + k]) for k in range(DEPTH)] for i, query in enumerate(queries)]
    predict = partial(theirs.predict, show_progress_bar=False)
    mine, other = (1e3 * seconds / QUERIES for seconds in measure.in_turn([ours, lambda: [*map(predict, pairs)]], 3))
    return [
        Figure(
            f"re-ranking {DEPTH} candidates, docs' BERT_CAT",
            f"{mine:.0f} ms a query",
            f"CrossEncoder.predict: {other:.0f} ms",
            f"{other / mine:.2f} ×",
            f"≤ {MOST_MS} ms",
            verdict(mine <= MOST_MS),
            "tokenising included, and a query's states are not shared: BERT_CAT reads it with every passage",
        )
    ]
