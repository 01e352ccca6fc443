"""Exact maximum-inner-product search over dense vectors, on whatever hardware there is (§2.2).

A search takes queries (Q, D) and a depth, and returns passage indices and scores (Q, depth) by descending score; the
order of equal scores is undefined. Passages (P, D) may be of any float type and memory-mapped; scores are fp32.
"""

import operator
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import faiss
import numpy as np
import torch

from tas_lib.records import FloatArray, IntArray

HELD = 2**25  # scores in memory at a time (134 MB)
CACHED = 2**18  # numbers that each core converts to fp32 and multiplies at a time (1 MB)
SCANNED = 2**24  # bytes of passages from which `scan` answers a single query; fewer stay in cache, where products win
WORKSPACE = 3 * 2**30  # bytes of a GPU left free for other work
Search = Callable[[torch.Tensor, int], tuple[IntArray, FloatArray]]


def searcher(passages: torch.Tensor) -> Search:
    """Exact search of these passages (P, D), loaded once: on the GPU if there is one.

    Passages that do not fit the GPU are copied to it in blocks, for every search.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and passages.nbytes + WORKSPACE <= torch.cuda.mem_get_info()[0]:
        passages = passages.to(device)
    return lambda queries, depth: dense(queries.to(device), passages, depth)


def dense(
    queries: torch.Tensor, passages: torch.Tensor, depth: int, block: int = 262_144
) -> tuple[IntArray, FloatArray]:
    """Search by matrix products, a block of passages at a time, on the device of the queries.

    block: passages scored before the best are kept; fewer if the scores of many queries would fill the memory.
    A single query over many fp16 passages on a CPU goes to `scan`.
    """
    depth = min(depth, len(passages))
    queries = queries.float()
    on_cpu_in_fp16 = passages.device.type == "cpu" and passages.dtype == torch.float16
    if len(queries) == 1 and on_cpu_in_fp16 and passages.nbytes >= SCANNED:
        return scan(queries, passages, depth)
    block = min(block, max(HELD // max(len(queries), 1), 4 * depth))
    best_scores = torch.empty((len(queries), 0), device=queries.device)
    best = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
    for start in range(0, len(passages), block):
        scores = dot_products(queries, passages[start : start + block])  # (Q, block)
        few = None if best_scores.shape[1] < max(depth, 1) else above(scores, best_scores[:, -1:], depth)
        top_scores, top = few or scores.topk(min(depth, scores.shape[1]), dim=1)
        best_scores = torch.cat([best_scores, top_scores], dim=1)
        best = torch.cat([best, top + start], dim=1)
        best_scores, order = best_scores.topk(min(depth, best_scores.shape[1]), dim=1)
        best = best.gather(1, order)
    return best.cpu().numpy(), best_scores.cpu().numpy()


def above(scores: torch.Tensor, least: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The scores (Q, P) above `least` (Q, 1) and their columns, both (Q, n), padded with -inf; None if n > `most`.

    Once the best of some passages are known, few others are better: choosing among these takes a fifth of the time.

    >>> above(torch.tensor([[5.0, 1.0, 7.0]]), torch.tensor([[4.0]]), most=2)
    (tensor([[5., 7.]]), tensor([[0, 2]]))
    """
    better = scores > least
    counts = better.sum(1)
    n = max(counts.tolist(), default=0)
    if n > most:
        return None
    rows, columns = better.nonzero(as_tuple=True)
    places = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    kept = scores.new_full((len(scores), n), -torch.inf)
    where = torch.zeros_like(kept, dtype=torch.int64)
    kept[rows, places], where[rows, places] = scores[rows, columns], columns
    return kept, where


def dot_products(queries: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
    """fp32 scores (Q, P) of fp32 queries (Q, D) and passages (P, D) of any float type.

    On a CPU, passages are converted to fp32 in stretches that fit the caches of all cores, always into the same buffer:
    so memory is read once, at the width in which the vectors are stored. For many queries, stretches are longer.
    """
    scores = torch.empty(len(queries), len(passages), device=queries.device)
    on_cpu = queries.device.type == "cpu"
    cached = max(CACHED * torch.get_num_threads() // queries.shape[1], len(queries), 1)
    stretch = cached if on_cpu else max(len(passages), 1)
    buffer = torch.empty(min(stretch, len(passages)), queries.shape[1], device=queries.device)
    for start in range(0, len(passages), stretch):
        some = passages[start : start + stretch].to(queries.device)
        scores[:, start : start + stretch] = queries @ buffer[: len(some)].copy_(some).T
    return scores


def scan(query: torch.Tensor, passages: torch.Tensor, depth: int) -> tuple[IntArray, FloatArray]:
    """Search for one query (1, D) over fp16 passages (P, D) on a CPU, by FAISS's loop for stored fp16.

    It converts numbers in registers, where `dot_products` needs a buffer, which pays off for several queries only: four
    times as fast. Each core scans a part of the passages and keeps its best.
    """
    vec = query[0].contiguous().numpy()
    parts = [part.contiguous().numpy() for part in passages.tensor_split(torch.get_num_threads())]
    found = np.full((len(parts), depth), -1, np.int64)
    scores = np.full((len(parts), depth), -np.inf, np.float32)
    quantizer = faiss.ScalarQuantizer(len(vec), faiss.ScalarQuantizer.QT_fp16)
    scanner = quantizer.select_InvertedListScanner(  # type: ignore[attr-defined]  # not in its stubs
        faiss.METRIC_INNER_PRODUCT, None, True, None, False
    )
    scanner.set_query(faiss.swig_ptr(vec))
    scanner.set_list(0, 0.0)  # indices are relative to a part
    scans = []
    for part, *heap in zip(parts, scores, found, strict=True):
        codes, *pointers = (faiss.swig_ptr(np.asarray(array)) for array in (part.view(np.uint8), *heap))
        scans.append(partial(scanner.scan_codes, len(part), codes, None, *pointers, depth))
    with ThreadPoolExecutor(len(scans)) as pool:
        [*pool.map(operator.call, scans)]
    scanner.__swig_destroy__(scanner)  # otherwise never freed
    found += np.cumsum([0, *map(len, parts[:-1])])[:, None]
    found, scores = found[scores > -np.inf], scores[scores > -np.inf]
    order = np.argsort(-scores, kind="stable")[:depth]
    return found[order][None], scores[order][None]
