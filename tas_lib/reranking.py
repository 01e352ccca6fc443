"""Re-ranking (§5.3, Table 7): a first stage's candidates in a new order, by monoT5, BERT_CAT or duoT5.

Candidates are passage rows (Q, k), best first, -1 where there are fewer. What stands below the depth that is re-ranked
stays there, in its order. Equal scores keep the order of the stage before.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase

from tas_lib import collection, metrics, models
from tas_lib.records import FloatArray, IntArray, Run, as_run

log = logging.getLogger(__name__)
MONO = ("Query:", "Document:", "Relevant:")
DUO = ("Query:", "Document0:", "Document1:", "Relevant:")
STRETCH = 16_384  # prompts in memory at a time
PairScorer = Callable[[IntArray, IntArray], FloatArray]
"""(query rows, passage rows) → scores, all (N,)"""
Preference = Callable[[IntArray, IntArray, IntArray], FloatArray]
"""(query rows, passage rows, rivals' rows) → probability that the passage is the more relevant of the two, all (N,)"""


def rerank(candidates: IntArray, score: PairScorer, depth: int) -> IntArray:
    """Candidates (Q, k) with the first `depth` of each query ordered by `score`: rows (Q, k).

    >>> rerank(np.array([[4, 7, 9, 1]]), lambda queries, passages: passages.astype(float), depth=3)
    array([[9, 7, 4, 1]])
    """
    query, place = np.nonzero(candidates[:, :depth] >= 0)
    return _reordered(candidates, query, place, score(query, candidates[query, place]))


def rerank_pairwise(candidates: IntArray, prefer: Preference, depth: int) -> IntArray:
    """Candidates (Q, k) with the first `depth` of each query ordered by `sym_sum` over all ordered pairs of them."""
    present = candidates[:, :depth] >= 0
    both = present[:, :, None] & present[:, None, :] & ~np.eye(present.shape[1], dtype=bool)  # (Q, depth, depth)
    query, i, j = np.nonzero(both)
    wins = np.zeros(both.shape)
    wins[query, i, j] = prefer(query, candidates[query, i], candidates[query, j])
    query, place = np.nonzero(present)
    return _reordered(candidates, query, place, sym_sum(wins, both)[query, place])


def sym_sum(wins: FloatArray, both: NDArray[np.bool_]) -> FloatArray:
    """duoT5's SYM-SUM: s_i = Σ_j p_ij + (1 - p_ji), over the pairs that `both` marks.

    wins, both: (..., n, n), p_ij the probability that i is more relevant than j. Returns (..., n).
    Source: Pradeep, Nogueira and Lin 2021 [33]; pygaggle 06371f1, rerank/transformer.py.

    >>> sym_sum(np.array([[0.0, 0.75], [0.5, 0.0]]), ~np.eye(2, dtype=bool))
    array([1.25, 0.75])
    """
    return np.where(both, wins + 1 - np.swapaxes(wins, -1, -2), 0.0).sum(-1)


def _reordered(candidates: IntArray, query: IntArray, place: IntArray, scores: FloatArray) -> IntArray:
    """Candidates with those at these places (N,) sorted by falling score among themselves."""
    if np.isnan(scores).any():
        raise ValueError("a re-ranker's score is NaN, and NaN has no rank")
    order = np.lexsort((place, -scores, query))
    reordered = candidates.copy()
    reordered[query, place] = candidates[query[order], place[order]]
    return reordered


class Remembered:
    """A scorer of pairs or triples that remembers: a second first stage asks only for what is new to it."""

    def __init__(self, score: Callable[..., FloatArray], n_passages: int) -> None:
        """score: a PairScorer or a Preference. n_passages: rows lie below it."""
        self.score, self.n_passages = score, n_passages
        self.keys, self.scores = np.empty(0, np.int64), np.empty(0)

    def __call__(self, queries: IntArray, *passages: IntArray) -> FloatArray:
        """Scores (N,) of these rows, each distinct pair or triple asked for once, ever."""
        if (int(queries.max(initial=0)) + 1) * self.n_passages ** len(passages) > np.iinfo(np.int64).max:
            raise ValueError(f"too many queries to number every {1 + len(passages)}-tuple of their rows")
        keys = queries.astype(np.int64)
        for rows in passages:
            keys = keys * self.n_passages + rows
        asked, first = np.unique(keys, return_index=True)
        new = first[np.isin(asked, self.keys, assume_unique=True, invert=True)]
        if len(new):
            found = self.score(queries[new], *(rows[new] for rows in passages))
            known, scores = np.concatenate([self.keys, keys[new]]), np.concatenate([self.scores, found])
            order = np.argsort(known)
            self.keys, self.scores = known[order], scores[order]
        return self.scores[np.searchsorted(self.keys, keys)]


# --- runs and rows -----------------------------------------------------------------------------------------------


def candidates_of(run: Run, query_ids: Sequence[str], row: Mapping[str, int], depth: int) -> IntArray:
    """A run's first `depth` passages as rows (Q, depth); a query that it misses has none."""
    rows = np.full((len(query_ids), depth), -1, np.int64)
    for i, query in enumerate(query_ids):
        first = metrics.ranking(run.get(query, {}))[:depth]
        if unknown := [passage for passage in first if passage not in row]:
            raise ValueError(f"query {query}: passage {unknown[0]} is not in the collection, and cannot be read")
        rows[i, : len(first)] = [row[passage] for passage in first]
    return rows


def ranked_run(query_ids: Sequence[str], passage_ids: Sequence[str], ranked: IntArray) -> Run:
    """A run from rows (Q, k), best first. Scores are k, k - 1, ...: those of different stages cannot be compared."""
    return as_run(query_ids, passage_ids, ranked, np.broadcast_to(np.arange(ranked.shape[1], 0, -1.0), ranked.shape))


# --- mono and duo ------------------------------------------------------------------------------------------------


def load_t5(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A sequence-to-sequence model and its tokenizer from a folder or a hub name; ValueError says what is wrong."""
    try:
        model, told = AutoModelForSeq2SeqLM.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    except Exception as error:  # safetensors and the hub raise their own kinds
        raise ValueError(f"no sequence-to-sequence model in {name!r}: {models.first_line(error)}") from error
    if told["missing_keys"]:
        raise ValueError(f"{name!r} lacks weights, such as {sorted(told['missing_keys'])[0]}")
    return model.eval(), collection.load_tokenizer(name)


def mono_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[str],
    passages: Sequence[str],
    query: IntArray,
    passage: IntArray,
    cap: int = 512,
    chunk: int = 32,
) -> FloatArray:
    """monoT5: log P(true) of `Query: … Document: … Relevant:` for rows (N,) of queries and passages."""
    return _scores(model, tokenizer, MONO, [(queries, query), (passages, passage)], cap, chunk)


def duo_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[str],
    passages: Sequence[str],
    query: IntArray,
    passage: IntArray,
    rival: IntArray,
    cap: int = 512,
    chunk: int = 32,
) -> FloatArray:
    """duoT5: P(true) of `Query: … Document0: … Document1: … Relevant:` for rows (N,); the rival is Document1."""
    shown = [(queries, query), (passages, passage), (passages, rival)]
    return np.exp(_scores(model, tokenizer, DUO, shown, cap, chunk))


def _scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[str],
    shown: Sequence[tuple[Sequence[str], IntArray]],
    cap: int,
    chunk: int,
) -> FloatArray:
    """log P(true) (N,) of prompts that show these texts at these rows (N,), with a word on the progress."""
    n, start = len(shown[0][1]), time.monotonic()
    scores = np.empty(n, np.float32)
    for s in range(0, n, STRETCH):
        columns = [[texts[row] for row in rows[s : s + STRETCH]] for texts, rows in shown]
        made = prompts(tokenizer, labels, list(zip(*columns, strict=True)), cap)
        scores[s : s + STRETCH] = log_p_true(model, tokenizer, made, chunk)
        log.info("prompts scored: %d of %d, %.0f s", s + len(made), n, time.monotonic() - start)
    return scores


def prompts(
    tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], texts: Sequence[Sequence[str]], cap: int
) -> list[IntArray]:
    """Token ids of `label text label text … label`, special tokens around, `cap` at most: texts are cut, labels never.

    texts: of each prompt, one a label but for the last.
    Reading: pygaggle cuts the whole prompt, so that a long passage loses `Relevant:`. We cut the longest texts.
    """
    distinct = list(dict.fromkeys([*labels, *(text for parts in texts for text in parts)]))
    tokens = tokenizer(distinct, add_special_tokens=False, truncation=True, max_length=cap)["input_ids"]
    ids: dict[str, list[int]] = dict(zip(distinct, tokens, strict=True))
    before, after = _around(tokenizer, labels[-1], ids[labels[-1]])
    room = cap - len(before) - len(after) - sum(len(ids[label]) for label in labels)
    if room < len(labels) - 1:
        raise ValueError(f"a prompt of at most {cap} tokens has no room for its texts beside {' … '.join(labels)}")
    made: list[IntArray] = []
    for parts in texts:
        kept = shares([len(ids[text]) for text in parts], room)
        pieces = [before]
        for label, text, n in zip(labels, parts, kept, strict=False):  # the last label has no text
            pieces += [ids[label], ids[text][:n]]
        made.append(np.concatenate([*pieces, ids[labels[-1]], after]).astype(np.int64))
    return made


def _around(tokenizer: PreTrainedTokenizerBase, text: str, bare: list[int]) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text; T5's puts `</s>` after it."""
    whole = tokenizer(text)["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


def shares(lengths: Sequence[int], room: int) -> list[int]:
    """How many tokens each text keeps of `room`: short ones all of theirs, long ones an even part of the rest.

    >>> shares([3, 40, 5], room=20), shares([3, 40, 50], room=20), shares([3, 4], room=20)
    ([3, 12, 5], [3, 8, 9], [3, 4])
    """
    kept = [0] * len(lengths)
    for waiting, i in zip(range(len(lengths), 0, -1), np.argsort(lengths, kind="stable"), strict=True):
        kept[i] = min(lengths[i], room // waiting)
        room -= kept[i]
    return kept


@torch.inference_mode()
def log_p_true(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[IntArray], chunk: int = 32
) -> FloatArray:
    """log P(true) against `false` as the first word of the answer: (N,), in length-sorted chunks, softmax in fp32."""
    answers = [_one_token(tokenizer, word) for word in ("true", "false")]
    device = next(model.parameters()).device
    model.eval()
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    scores = np.empty(len(prompts), np.float32)
    for s in range(0, len(order), chunk):
        rows = order[s : s + chunk]
        ids, mask = models.pad([prompts[row] for row in rows], device)  # (n, T)
        start = torch.full((len(rows), 1), model.config.decoder_start_token_id, device=device)
        logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=start, use_cache=False).logits  # (n, 1, V)
        scores[rows] = logits[:, 0, answers].float().log_softmax(-1)[:, 0].cpu().numpy()
    return scores


def _one_token(tokenizer: PreTrainedTokenizerBase, word: str) -> int:
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise ValueError(f"this tokenizer has no single token for {word!r}, and mono and duo answer with one")
    return int(ids[0])
