"""docT5query (§5.3, Table 7): a sequence-to-sequence model writes queries for a passage, and BM25 reads them with it.

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
from numpy.random import Philox
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from tas_lib import models
from tas_lib.config import Expansion, Profile
from tas_lib.data import shipped, store
from tas_lib.data.collection import Collection
from tas_lib.records import IntArray
from tas_lib.retrieval import t5 as seq2seq
from tas_lib.retrieval.encode import device

log = logging.getLogger(__name__)


def write_queries(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, passages: Sequence[str], folder: Path, how: Expansion
) -> None:
    """Queries for every passage in `00000.parquet`, ...; a shard that stands there whole is left alone.

    What a shard holds depends on its passages and `how` alone, so interruptions change nothing.
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


def open_queries(profile: Profile, collection: Collection) -> list[list[str]]:
    """The queries of every passage: the shipped ones, by digests of the passages; for all others written now."""
    texts, how = collection.passages.texts, profile.expansion
    source = shipped.model(profile, "expansion")
    known: list[list[str] | None] = [None] * len(texts)
    inputs = {"collection": collection.digest, "model": store.folder_digest(Path(source))}
    if not how.model and (profile.artefacts_folder / "expansions").is_dir():
        place = shipped.folder(profile, "expansions")
        inputs["expansions"] = store.folder_digest(place)
        known = shipped.read_expansions(place / "queries.parquet")(shipped.text_keys(texts))
    lacking = [row for row, queries in enumerate(known) if queries is None]
    if lacking:
        log.info("%d of %d passages have no shipped queries, written now", len(lacking), len(texts))

    def make(folder: Path) -> None:
        if lacking:
            write_queries(*seq2seq.load(source, device()), [texts[row] for row in lacking], folder, how)

    written = iter(read_queries(store.Store(profile.folder).artefact("expansions", how.model_dump(), inputs, make)))
    return [next(written) if queries is None else queries for queries in known]


def read_queries(folder: Path) -> list[list[str]]:
    """The queries of every passage, in the passages' order."""
    shards = sorted(folder.glob("[0-9]*.parquet"))
    return [queries for path in shards for queries in pq.read_table(path)["queries"].to_pylist()]


def queries_for(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, passages: Sequence[str], how: Expansion, first: int = 0
) -> list[list[str]]:
    """Queries for each of these passages, written in length-sorted batches. first: the row of the first of them."""
    texts = [f"{how.prompt} {passage}".strip() for passage in passages]
    tokens = tokenizer(texts, truncation=True, max_length=how.cap)["input_ids"]
    order = np.argsort([len(row) for row in tokens], kind="stable")
    queries: list[list[str]] = [[] for _ in passages]
    for s in range(0, len(order), how.batch):
        rows = order[s : s + how.batch]
        ids = sample(model, [np.array(tokens[row]) for row in rows], how, number=first + s)  # (n * queries, T)
        written = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
        for i, row in enumerate(rows):
            queries[row] = written[i * how.queries : (i + 1) * how.queries]
    return queries


@torch.inference_mode()
def sample(model: PreTrainedModel, passages: Sequence[IntArray], how: Expansion, number: int) -> torch.Tensor:
    """Token ids (N * queries, T) drawn for N passages; the same seed and batch number give the same draws.

    passages: token ids of each. The stream of torch is left as it was found.
    """
    device = next(model.parameters()).device
    ids, mask = models.pad(passages, device)
    settings = GenerationConfig(
        do_sample=True,
        top_k=how.top_k,
        max_new_tokens=how.longest,
        num_return_sequences=how.queries,
        num_beams=1,  # from here on: whatever the model's own settings are
        temperature=1.0,
        top_p=1.0,
        repetition_penalty=1.0,
    )
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(stream(how.seed, number))
        return model.eval().generate(input_ids=ids, attention_mask=mask, generation_config=settings)


def stream(seed: int, number: int) -> int:
    """torch's seed for one batch; `seed + number` would give neighbouring seeds the same streams."""
    return int(Philox(key=[seed, number]).random_raw())


def expanded(texts: Sequence[str], queries: Sequence[Sequence[str]]) -> list[str]:
    """Each passage with its queries behind it, as BM25 indexes it.

    >>> expanded(["Sum of axes."], [["add arrays", "sum an axis"]])
    ['Sum of axes. add arrays sum an axis']
    """
    return [" ".join([text, *own]) for text, own in zip(texts, queries, strict=True)]
