"""The re-rankers of a profile at work on runs (§5.3): which there are, whom they read, and what they have scored."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.random import Generator, Philox

from tas_lib import models
from tas_lib.config import Profile, System
from tas_lib.data import shipped
from tas_lib.data.collection import Collection
from tas_lib.data.tokens import tokenizer_of
from tas_lib.records import FloatArray, Run
from tas_lib.retrieval import cross_encoder
from tas_lib.retrieval import encode as encoding
from tas_lib.retrieval import rerank as reranking
from tas_lib.retrieval import t5 as seq2seq


class Rerankers:
    """BERT_CAT, mono and duo, each loaded when it is first asked, and each score asked for once."""

    def __init__(self, profile: Profile, collection: Collection) -> None:
        """Loads nothing yet."""
        self.profile, self.collection = profile, collection
        self._scorers: dict[tuple[str, str], Callable[..., FloatArray]] = {}
        self._remembered: dict[tuple[str, str], reranking.Remembered] = {}

    def sample(self, name: str) -> Sequence[str]:
        """The queries of a set that are re-ranked: all of a graded one, of another a sample, the same for all rows."""
        ids, wanted = self.collection.sets[name].queries.ids, self.profile.reranking.dev_sample
        if not wanted or any(test.name == name and test.graded for test in self.profile.evaluation.sets):
            return ids
        rows = Generator(Philox(key=[0, 1])).permutation(len(ids))[:wanted]
        return [ids[row] for row in np.sort(rows)]

    def reorder(self, run: Run, system: System, name: str, asked: Sequence[str], remember: bool = True) -> Run:
        """The first stage's run with its first candidates in a new order, for these queries of a set.

        remember: what one first stage asked for, another one gets for nothing.
        """
        passages, place = self.collection.passages.ids, self._place(name)
        queries = np.array([place[query] for query in asked])
        candidates = reranking.candidates_of(run, asked, self.collection.row, self.profile.evaluation.depth)
        score = self._known_first(system.by, name) if remember else self.scorer(system.by, name)
        order = reranking.rerank_pairwise if system.by == "duo" else reranking.rerank
        ranked = order(candidates, lambda q, *p: score(queries[q], *p), self.profile.candidates(system))
        return reranking.ranked_run(asked, passages, ranked)

    def _place(self, name: str) -> dict[str, int]:
        return {query: row for row, query in enumerate(self.collection.sets[name].queries.ids)}

    def _known_first(self, by: str, name: str) -> reranking.Remembered:
        if (by, name) not in self._remembered:
            self._remembered[by, name] = reranking.Remembered(self.scorer(by, name), len(self.collection.passages.ids))
        return self._remembered[by, name]

    def scorer(self, by: str, name: str) -> Callable[..., FloatArray]:
        """Scores of rows of a query set and of passages: a PairScorer, of duo a Preference."""
        if (by, name) not in self._scorers:
            self._scorers[by, name] = self._load(by, name)
        return self._scorers[by, name]

    def _load(self, by: str, name: str) -> Callable[..., FloatArray]:
        source, caps = shipped.model(self.profile, by), self.profile.tokens
        texts = self.collection.sets[name].queries.texts, self.collection.passages.texts
        if by == "cat":
            cat, tokenizer = models.load_cross_encoder(source).to(encoding.device()), tokenizer_of(self.profile, source)
            return lambda q, p: cross_encoder.score_texts(cat, tokenizer, texts, (q, p), caps)
        score = seq2seq.mono_scores if by == "mono" else seq2seq.duo_scores
        return torch.inference_mode()(partial(score, *seq2seq.load(source, encoding.device()), *texts))
