"""docT5query (§5.3, Table 7): a sequence-to-sequence model writes queries for each passage, and BM25 indexes both.

A profile that names no model may ship words instead, which are indexed in the same way (DEVIATIONS.md, D28).
Source: Nogueira and Lin 2019 [31], From doc2query to docTTTTTquery.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from numpy.random import Philox
from transformers import PreTrainedTokenizerBase

from tas_lib import models
from tas_lib.config import Expansion, Profile
from tas_lib.data import shipped, store
from tas_lib.data.collection import Collection
from tas_lib.models import PreTrainedModel
from tas_lib.records import IntArray
from tas_lib.retrieval.encode import device
from tas_lib.retrieval.pretrained import load_seq2seq

log = logging.getLogger(__name__)


def open_queries(profile: Profile, collection: Collection) -> list[list[str]]:
    """The queries of every passage, written by the named model; without one the shipped words, none for a new text."""
    texts, how, source = collection.passages.texts, profile.expansion, shipped.model(profile, "expansion")
    if not how.model:
        words = shipped.read_expansions(Path(source, "queries.parquet"))(shipped.text_keys(texts))
        if missing := words.count(None):
            log.info("%d of %d passages have no shipped words and stay unchanged", missing, len(texts))
        return [own or [] for own in words]

    def make(folder: Path) -> None:
        write_queries(*load_seq2seq(source, device()), texts, folder, how)

    inputs = {"collection": collection.digest, "model": store.folder_digest(Path(source))}
    return read_queries(store.Store(profile.folder).artefact("expansions", how.model_dump(), inputs, make))


def write_queries(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, passages: Sequence[str], folder: Path, how: Expansion
) -> None:
    """Queries for every passage in shards `00000.parquet`, ...; skips shards that exist.

    A shard depends on its passages and the settings alone, so you can interrupt it; run it again and it resumes.
    """
    start = time.monotonic()
    for number, first in enumerate(range(0, len(passages), how.shard)):
        path = folder / f"{number:05d}.parquet"
        if not path.exists():
            queries = queries_for(model, tokenizer, passages[first : first + how.shard], how, first)
            with store.atomic_write(path, "wb") as f:
                pq.write_table(pa.table({"queries": pa.array(queries, pa.list_(pa.string()))}), f, compression="zstd")
            done = min(first + how.shard, len(passages))
            log.info("queries written for %d of %d passages, %.0f s", done, len(passages), time.monotonic() - start)


def read_queries(folder: Path) -> list[list[str]]:
    """The queries of every passage, in the passages' order."""
    shards = sorted(folder.glob("[0-9]*.parquet"))
    return [queries for path in shards for queries in pq.read_table(path)["queries"].to_pylist()]


def queries_for(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, passages: Sequence[str], how: Expansion, first: int = 0
) -> list[list[str]]:
    """Queries for each of these passages, in length-sorted batches. first: index of the first passage."""
    tokens = tokenizer(list(passages), truncation=True, max_length=how.cap)["input_ids"]
    queries: list[list[str]] = [[] for _ in passages]
    n = how.queries
    for number, some in enumerate(models.length_chunks([len(ids) for ids in tokens], how.batch)):
        ids = sample(model, [np.array(tokens[i]) for i in some], how, first + number * how.batch)  # (N * n, T)
        written = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
        for place, i in enumerate(some):
            queries[i] = written[place * n : (place + 1) * n]
    return queries


@torch.inference_mode()
def sample(model: PreTrainedModel, passages: Sequence[IntArray], how: Expansion, number: int) -> torch.Tensor:
    """Token ids (N * queries, T) of queries for N passages, each token sampled from the top-k tokens.

    passages: N arrays of token ids. number: with the seed, it decides the draws. torch's generator is left unchanged.
    """
    device = next(model.parameters()).device
    ids, mask = models.pad(passages, device)
    generation = transformers.GenerationConfig(
        do_sample=True,
        top_k=how.top_k,
        max_new_tokens=how.longest,
        num_return_sequences=how.queries,
        num_beams=1,  # from here on: override the model's own settings
        temperature=1.0,
        top_p=1.0,
        repetition_penalty=1.0,
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # a seed of `seed + number` would give neighbouring seeds the same draws
        torch.manual_seed(int(Philox(key=[how.seed, number]).random_raw()))
        return model.eval().generate(input_ids=ids, attention_mask=mask, generation_config=generation)


def expanded(texts: Sequence[str], queries: Sequence[Sequence[str]]) -> list[str]:
    """Each passage followed by its queries, as BM25 indexes it.

    >>> expanded(["Sum of axes."], [["add arrays", "sum an axis"]])
    ['Sum of axes. add arrays sum an axis']
    """
    return [" ".join([text, *own]) for text, own in zip(texts, queries, strict=True)]
