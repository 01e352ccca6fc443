"""First-stage retrieval: exact search over dense vectors, and BM25 (bm25s, Lucene's variant)."""

import operator
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import bm25s
import faiss
import numpy as np
import Stemmer
import torch

from tas_lib.config import Bm25
from tas_lib.records import FloatArray, IntArray

HELD = 2**25  # scores in memory at a time (134 MB)
CACHED = 2**18  # numbers of passages that each core widens and multiplies at a time (1 MB)
SCANNED = 2**24  # bytes of passages from which on one query is scanned; fewer stay in the caches, where products win
INDEXED = 100_000  # passages whose words BM25 cuts and stems at a time
COPIED = 2**17  # passages that are copied to a card at a time
WORKSPACE = 3 * 2**30  # bytes of a GPU that are left to what else is done there
FAISS_DEPTH = 2_048  # FAISS on a GPU finds no more
Search = Callable[[torch.Tensor, int], tuple[IntArray, FloatArray]]
"""From queries (Q, D) and a depth to rows and scores (Q, depth) by falling score; equal scores in any order."""


class Bm25Index:
    """BM25 over passages: lower-cased words (single characters too), English stop words off, Snowball's stemmer."""

    def __init__(self, passages: Sequence[str], settings: Bm25) -> None:
        """Index passages (P,); the row of a passage is its place in the sequence."""
        self._stemmer = Stemmer.Stemmer("english")
        self._bm25 = bm25s.BM25(method="lucene", k1=settings.k1, b=settings.b)
        words: dict[str, int] = {}
        rows = [  # arrays, since lists of numbers would fill 24 GB with 8.8 million passages
            array("i", [words.setdefault(word, len(words)) for word in passage])
            for start in range(0, len(passages), INDEXED)
            for passage in self._words(passages[start : start + INDEXED])
        ]
        self._bm25.index((rows, words), show_progress=False)
        self.size = len(passages)

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        return bm25s.tokenize(
            list(texts),
            token_pattern=r"(?u)\b\w+\b",
            stopwords="en",
            stemmer=self._stemmer,
            return_ids=False,
            show_progress=False,
        )

    def search(self, queries: Sequence[str], depth: int) -> tuple[IntArray, FloatArray]:
        """Rows and scores (Q, depth) by falling score, then row; -1 where no more passages share a word with it."""
        depth = min(depth, self.size)
        rows = np.full((len(queries), depth), -1, np.int64)
        scores = np.zeros((len(queries), depth), np.float32)
        for i, words in enumerate(self._words(queries)):
            known = [word for word in words if word in self._bm25.vocab_dict]
            if not known:
                continue
            found = self._bm25.get_scores(known)
            rows[i], scores[i] = top(found, depth)
            rows[i, scores[i] <= 0] = -1
        return rows, scores


def top(scores: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
    """The k highest of scores (P,) as (rows, scores), ties by rising row.

    >>> top(np.array([1.0, 3.0, 3.0, 0.0]), 3)[0]
    array([1, 2, 0])
    """
    best = np.argpartition(-scores, k - 1)[:k] if k < len(scores) else np.arange(len(scores))
    if k < len(scores):  # of equal scores at the cut, the lowest rows
        best = np.union1d(np.flatnonzero(scores > scores[best].min()), best)
        ties = np.flatnonzero(scores == scores[best].min())
        best = np.concatenate([np.setdiff1d(best, ties), ties])
    order = np.lexsort((best, -scores[best]))[:k]
    return best[order], scores[best[order]]


# --- dense vectors, with what the machine has ---------------------------------------------------------------------


def searcher(passages: torch.Tensor) -> Search:
    """Exact search of these passages (P, D), loaded once: on GPUs if there are any, by FAISS as in the paper or torch.

    The CPU scores what is stored in fp32. FAISS rounds queries to fp16 too, so that near ties may change places (D17).
    """
    cards = range(torch.cuda.device_count())
    free = [max(torch.cuda.mem_get_info(card)[0] - WORKSPACE, 0) for card in cards]
    return chosen(passages.nbytes, faiss.get_num_gpus(), free)(passages)


def chosen(size: int, faiss_gpus: int, free: Sequence[int]) -> Callable[[torch.Tensor], Search]:
    """How vectors of so many bytes are searched where FAISS sees so many GPUs and torch as many free bytes on each.

    FAISS on all GPUs where they can hold the vectors together, else torch's blocked product, on one if there is any.

    >>> [chosen(13, *gpus).__name__ for gpus in [(1, [24]), (2, [8, 8]), (1, [8]), (0, [24]), (0, [])]]
    ['by_faiss', 'by_faiss', 'by_torch_on_gpu', 'by_torch_on_gpu', 'by_torch']
    """
    if faiss_gpus and (not free or size <= sum(free)):
        return by_faiss
    return by_torch_on_gpu if free else by_torch


def by_torch(passages: torch.Tensor) -> Search:
    """`dense` where the passages are."""
    return lambda queries, depth: dense(queries, passages, depth)


def by_torch_on_gpu(passages: torch.Tensor) -> Search:
    """`dense` on a GPU, which keeps the passages if it can hold them and else is handed one block after the other."""
    device = torch.device("cuda")
    if passages.nbytes <= torch.cuda.mem_get_info(device)[0] - WORKSPACE:
        passages = passages.to(device)
    return lambda queries, depth: dense(queries.to(device), passages, depth)


def by_faiss(passages: torch.Tensor) -> Search:
    """FAISS on all GPUs as in the paper (§2.2): flat, inner product, fp16, each GPU with a part of the passages."""
    cards = [flat_on_gpu(card, passages.shape[1]) for card in range(faiss.get_num_gpus())]
    return partial(faiss_search, sharded(passages, cards))


def flat_on_gpu(card: int, width: int) -> faiss.Index:
    """An empty index of vectors (P, width) on one GPU."""
    config = faiss.GpuIndexFlatConfig()
    config.device, config.useFloat16 = card, True
    return faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), width, config)


def sharded(passages: torch.Tensor, cards: Sequence[faiss.Index]) -> faiss.Index:
    """One index over empty ones, each filled with its part of the passages (P, D), of which few are held twice."""
    whole = faiss.IndexShards(passages.shape[1], True)  # all at the same time; rows are counted through
    for card, part in zip(cards, passages.tensor_split(len(cards)), strict=True):
        for block in part.split(COPIED):
            card.add(block.float().numpy())
        whole.add_shard(card)
    return whole


def faiss_search(index: faiss.Index, queries: torch.Tensor, depth: int) -> tuple[IntArray, FloatArray]:
    """`dense` of the passages in an index; ValueError for a depth that a GPU cannot search to."""
    if depth > FAISS_DEPTH:
        raise ValueError(f"FAISS on a GPU finds {FAISS_DEPTH:,} passages a query at most, not {depth:,}: ask for fewer")
    scores, rows = index.search(queries.float().cpu().numpy(), min(depth, index.ntotal))
    return rows, scores


def dense(
    queries: torch.Tensor, passages: torch.Tensor, depth: int, block: int = 262_144
) -> tuple[IntArray, FloatArray]:
    """Exact maximum-inner-product search: rows and scores (Q, depth) by falling score.

    queries: (Q, D). passages: (P, D), any float type, on CPU or GPU, memory-mapped if need be; scored in fp32.
    block: passages whose scores are held before the best are kept; fewer where many queries would fill the memory.
    A single query over many passages in fp16 on a CPU is answered by `scan` instead.
    """
    depth = min(depth, len(passages))
    queries = queries.float()
    on_cpu_in_fp16 = passages.device.type == "cpu" and passages.dtype == torch.float16
    if len(queries) == 1 and on_cpu_in_fp16 and passages.nbytes >= SCANNED:
        return scan(queries, passages, depth)
    block = min(block, max(HELD // max(len(queries), 1), 4 * depth))
    kept_scores = torch.empty((len(queries), 0), device=queries.device)
    kept_rows = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
    for start in range(0, len(passages), block):
        scores = dot_products(queries, passages[start : start + block])  # (Q, block)
        best, rows = scores.topk(min(depth, scores.shape[1]), dim=1)
        kept_scores = torch.cat([kept_scores, best], dim=1)
        kept_rows = torch.cat([kept_rows, rows + start], dim=1)
        kept_scores, order = kept_scores.topk(min(depth, kept_scores.shape[1]), dim=1)
        kept_rows = kept_rows.gather(1, order)
    return kept_rows.cpu().numpy(), kept_scores.cpu().numpy()


def scan(query: torch.Tensor, passages: torch.Tensor, depth: int) -> tuple[IntArray, FloatArray]:
    """`dense` of one query (1, D) over fp16 passages (P, D) on a CPU, by the loop that FAISS has for stored fp16.

    It widens numbers in registers, where `dot_products` has a place in memory for them: that pays for several queries
    only. Every core has a part of the passages, and keeps its best.
    """
    asked = query[0].contiguous().numpy()
    parts = [part.contiguous().numpy() for part in passages.tensor_split(torch.get_num_threads())]
    rows = np.full((len(parts), depth), -1, np.int64)
    scores = np.full((len(parts), depth), -np.inf, np.float32)
    kind = faiss.ScalarQuantizer(len(asked), faiss.ScalarQuantizer.QT_fp16)
    scanner = kind.select_InvertedListScanner(  # type: ignore[attr-defined]  # not in its stubs
        faiss.METRIC_INNER_PRODUCT, None, True, None, False
    )
    scanner.set_query(faiss.swig_ptr(asked))
    scanner.set_list(0, 0.0)  # rows are counted within a part
    scans = []
    for part, *best in zip(parts, scores, rows, strict=True):
        codes, *heap = (faiss.swig_ptr(np.asarray(array)) for array in (part.view(np.uint8), *best))
        scans.append(partial(scanner.scan_codes, len(part), codes, None, *heap, depth))
    with ThreadPoolExecutor(len(scans)) as pool:
        [*pool.map(operator.call, scans)]
    scanner.__swig_destroy__(scanner)  # or it would stay for ever
    rows += np.cumsum([0, *map(len, parts[:-1])])[:, None]
    rows, scores = rows[scores > -np.inf], scores[scores > -np.inf]
    order = np.argsort(-scores, kind="stable")[:depth]
    return rows[order][None], scores[order][None]


def dot_products(queries: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
    """Scores (Q, P) in fp32 of every query (Q, D), in fp32, with every passage (P, D), of any float type.

    On a CPU a stretch of passages at a time, shared by all cores even for one query: widened to fp32 it still lies in
    their caches when it is multiplied, so that memory is read once, at the width that the vectors are stored in; all
    stretches are widened into the same place, which stays cached too.
    """
    scores = torch.empty(len(queries), len(passages), device=queries.device)
    on_cpu = queries.device.type == "cpu"
    stretch = max(CACHED * torch.get_num_threads() // queries.shape[1], 1) if on_cpu else max(len(passages), 1)
    wide = torch.empty(min(stretch, len(passages)), queries.shape[1], device=queries.device)
    for start in range(0, len(passages), stretch):
        some = passages[start : start + stretch].to(queries.device)
        scores[:, start : start + stretch] = queries @ wide[: len(some)].copy_(some).T
    return scores
