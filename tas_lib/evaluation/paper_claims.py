"""The paper's claims, written down before the runs: what is compared where, and what has to come out.

All that the seven tables, Figure 3, the batches and the topics can test. Left out is what a sentence says of one query
set in particular (ours are others) and of methods that are not among our systems. Of Tables 1, 2 and 7 besides:

- Under 48 hours on one GPU of 11 GB, 2,000 queries that fit into another, 400K encoded in a minute: a student, hardware
  and hours that are not ours; hours projected from a smaller student would test nothing.
- Teacher inference "× 1-4": it counts the teachers of a method, by design. Labels as the cheapest training: stored
  margins cost nothing, and what is left between the two is smaller than the noise of a machine.
- Retrieval as the larger part of a query's time: it follows from the number of passages.
- A pipeline has the recall of its first stage, and takes longer with more candidates: so it is built.
- TAS-Balanced fused with BM25, or re-ranked by BERT_CAT: rows of ours, of which the paper says nothing.
"""

import math
from itertools import pairwise
from typing import NamedTuple

ORDERS = (
    "dual/tas_balanced",
    "dual/tas_balanced/seed2",
    "dual/tas_balanced/seed3",
    "dual/tas_balanced/seed4",
    "dual/tas_balanced/seed5",
)
"""Instances A-E of Table 5: one system, five orders of its batches."""
GRADED = (("graded", "nDCG"), ("graded", "RR"), ("graded", "R"))
DEV = (("dev", "nDCG"), ("dev", "RR"), ("dev", "R"))
COLUMNS = {
    "all columns": GRADED + DEV,
    "the graded sets": GRADED,
    "the dev set": DEV,
    "nDCG and MRR": GRADED[:2] + DEV[:2],
    "nDCG and MRR, graded sets": GRADED[:2],
    "nDCG and MRR, dev set": DEV[:2],
    "recall": (GRADED[2], DEV[2]),
    "recall, graded sets": GRADED[2:],
    "nDCG, graded sets": GRADED[:1],
    "MRR, graded sets": GRADED[1:2],
    "nDCG and recall, graded sets": GRADED[::2],
    "MRR, dev set": DEV[1:2],
    "MRR and recall, dev set": DEV[1:],
    "the columns of Tables 3 and 5": GRADED[::2] + DEV[1:],
}
"""Where a claim is tested: (kind of set, measure). "graded" is every graded set, "dev" the first of the others."""


class Compared(NamedTuple):
    """A claim about systems, by their keys: `7 > 6 > 5` is better, `20 = 10, 21 = 10` makes no difference.

    No space is within a key: `18>duo > 18` says that system 18 re-ranked by duo-T5 is better than 18.
    section: of the paper. words: ours. columns: a key of COLUMNS. need: how many of them, a key of ENOUGH.
    """

    key: str
    section: str
    words: str
    systems: str
    columns: str
    need: str = "most"

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The comparisons, the better system first.

        >>> Compared("", "", "", "7 > 6 > 5, 4 > 2", "").pairs
        [('7', '6'), ('6', '5'), ('4', '2')]
        >>> Compared("", "", "", "18>duo = d2q>duo", "").pairs
        [('18>duo', 'd2q>duo')]
        """
        chains = self.systems.replace(" = ", " > ").split(", ")
        return [pair for chain in chains for pair in pairwise(chain.split(" > "))]

    @property
    def needs(self) -> list[str]:
        """Its systems, and those of the ruler by which they are compared."""
        return list(dict.fromkeys([*(system for pair in self.pairs for system in pair), *ORDERS]))

    @property
    def rule(self) -> str:
        """What has to come out."""
        return f"{self.systems}, in {self.need} of: {self.columns}"


class Measured(NamedTuple):
    """A claim about one number, `fact`, which should lie from `low` to `high`; `why` says where these come from."""

    key: str
    section: str
    words: str
    fact: str
    low: float
    high: float
    why: str

    @property
    def rule(self) -> str:
        """What has to come out.

        >>> Measured("", "", "", "ratio", 0.5, 2, "twice").rule, Measured("", "", "", "share", -INF, 0.1, "few").rule
        ('ratio from 0.5 to 2 (twice)', 'share at most 0.1 (few)')
        """
        bounds = f"from {self.low:g} to {self.high:g}"
        if math.isinf(self.high):
            bounds = f"at least {self.low:g}"
        elif math.isinf(self.low):
            bounds = f"at most {self.high:g}"
        return f"{self.fact} {bounds} ({self.why})"


Claim = Compared | Measured
INF = math.inf

# fmt: off
CLAIMS: tuple[Claim, ...] = (
    # teachers
    Compared("labels", "2.4", "Labels alone teach less than any teacher",
             "pairwise/random > labels, in_batch/random > labels, dual/random > labels", "all columns"),
    Compared("pairwise", "5.1", "The pairwise teacher improves every measure over labels",
             "pairwise/random > labels", "all columns", "all"),
    Compared("in-batch-random", "5.1", "With random batches, the in-batch teacher is worse than the pairwise one",
             "pairwise/random > in_batch/random", "all columns"),
    Compared("dual-recall", "5.1", "Two teachers beat the in-batch one on recall, on every set",
             "dual/random > in_batch/random, dual/tas > in_batch/tas, dual/tas_balanced > in_batch/tas_balanced", "recall", "all"),
    Compared("dual-top", "5.1", "Two teachers beat the in-batch one on nDCG and MRR, on two sets of three",
             "dual/random > in_batch/random, dual/tas > in_batch/tas, dual/tas_balanced > in_batch/tas_balanced", "nDCG and MRR", "two thirds"),
    Compared("dual-pairwise", "1", "Two teachers beat the pairwise one on recall",
             "dual/random > pairwise/random, dual/tas > pairwise/tas, dual/tas_balanced > pairwise/tas_balanced", "recall"),
    Compared("best", "1", "Two teachers with TAS-Balanced are better than one with TAS-Balanced",
             "dual/tas_balanced > pairwise/tas_balanced, dual/tas_balanced > in_batch/tas_balanced", "all columns"),
    # samplings
    Compared("tas-pairwise", "5.1", "TAS alone does little for the pairwise teacher",
             "pairwise/tas = pairwise/random", "all columns"),
    Compared("order-pairwise", "5.1", "Pairwise teacher: TAS-Balanced beats random and TAS",
             "pairwise/tas_balanced > pairwise/random, pairwise/tas_balanced > pairwise/tas", "all columns"),
    Compared("order-in-batch", "5.1", "In-batch teacher: TAS-Balanced beats TAS, which beats random",
             "in_batch/tas_balanced > in_batch/tas > in_batch/random", "all columns"),
    Compared("order-dual", "5.1", "Two teachers: TAS-Balanced beats TAS, which beats random",
             "dual/tas_balanced > dual/tas > dual/random", "all columns"),
    Compared("tas-in-batch", "5.1", "In-batch teacher: TAS is a strong boost on every set",
             "in_batch/tas > in_batch/random", "all columns", "all"),
    Compared("balanced-in-batch", "5.1", "In-batch teacher: TAS-Balanced improves on TAS on two sets of three",
             "in_batch/tas_balanced > in_batch/tas", "all columns", "two thirds"),
    Compared("balanced", "1", "TAS-Balanced improves on random with every teacher",
             "pairwise/tas_balanced > pairwise/random, in_batch/tas_balanced > in_batch/random, dual/tas_balanced > dual/random", "all columns"),
    # in-batch losses
    Compared("margin-mse", "5.1", "Margin-MSE is the best in-batch loss in most measures",
             "dual/tas_balanced > dual/tas_balanced/kldiv, dual/tas_balanced > dual/tas_balanced/listnet, dual/tas_balanced > dual/tas_balanced/lambdarank", "the columns of Tables 3 and 5"),
    Compared("margin-mse-recall", "5.1", "Margin-MSE is the best in-batch loss above all on graded recall",
             "dual/tas_balanced > dual/tas_balanced/kldiv, dual/tas_balanced > dual/tas_balanced/listnet, dual/tas_balanced > dual/tas_balanced/lambdarank", "recall, graded sets", "all"),
    Compared("list-losses", "5.1", "LambdaRank beats ListNet, which beats KLDiv (letters of Table 3)",
             "dual/tas_balanced/lambdarank > dual/tas_balanced/listnet > dual/tas_balanced/kldiv", "MRR, dev set", "all"),
    # the order of batches
    Measured("steady-graded", "5.1", "Another order changes the graded sets by less than a point",
             "largest standard deviation of nDCG and recall, graded sets", -INF, 0.01, "'under a single point'"),
    Measured("steady-dev", "1", "Another order changes MRR on dev hardly at all",
             "standard deviation of MRR, dev set", -INF, 0.0015, "'< .001'; Table 5: what rounds to .001"),
    Measured("steadier-dev", "5.1", "Another order changes dev less than the graded sets",
             "mean standard deviation, graded sets less dev", 0, INF, "'low variability, especially' on dev"),
    Measured("every-order", "6", "TAS-Balanced works in every order",
             "share of orders and columns in which it is above random batches", 0.9, INF, "'consistently'"),
    # other methods, batch size
    Compared("dense", "1", "Dense retrieval beats BM25, however it was trained",
             "labels > bm25, pairwise/random > bm25, in_batch/random > bm25", "all columns"),
    Compared("balanced-bm25", "5.2", "TAS-Balanced beats BM25 on the graded sets",
             "dual/tas_balanced > bm25", "nDCG and recall, graded sets", "all"),
    Compared("balanced-labels", "1", "TAS-Balanced beats training on labels alone",
             "dual/tas_balanced > labels", "nDCG, graded sets", "all"),
    Compared("others-graded", "5.2", "TAS-Balanced beats Margin-MSE and TCT on the graded sets",
             "dual/tas_balanced > pairwise/random, dual/tas_balanced > in_batch/random", "the graded sets"),
    Compared("others-dev", "5.2", "TAS-Balanced beats Margin-MSE and TCT on dev",
             "dual/tas_balanced > pairwise/random, dual/tas_balanced > in_batch/random", "the dev set"),
    Measured("others-recall", "5.2", "Over Margin-MSE and TCT, it gains more in recall than in the first ten",
             "relative gain in recall less that in nDCG or MRR, graded sets", 0.01, INF, "'highest', by a point"),
    Compared("batch-dev", "5.2", "Larger batches are better on dev",
             "tas_b/largest > tas_b > dual/tas_balanced", "the dev set"),
    Compared("batch-graded", "5.2", "Larger batches make no difference on the graded sets",
             "tas_b = dual/tas_balanced, tas_b/largest = dual/tas_balanced", "the graded sets"),
    # topics and batches
    Compared("clusters", "4.2", "The number of clusters makes no difference: half and double",
             "dual/tas_balanced/fewer = dual/tas_balanced, dual/tas_balanced/more = dual/tas_balanced", "all columns"),
    Measured("words", "1", "Topics bring together queries without a common word",
             "share of pairs of a topic without a common word", 0.1, INF, "one in ten is no exception"),
    Measured("one-topic", "4.2", "A batch is small enough to come from one topic",
             "share of mixed batches", -INF, 0.05, "one in twenty; Figure 1: 'from a single cluster'"),
    Measured("random-topics", "3", "The queries of a random batch have completely different topics",
             "share of a random batch's pairs with two topics", 0.95, INF, "'completely', up to one in twenty"),
    Measured("harder", "3", "In a batch of one topic, in-batch negatives are harder",
             "teacher's mean in-batch margin, TAS over random", -INF, 0.9, "a tenth less; easy is far away, §3"),
    Measured("flat", "3", "TAS-Balanced draws all margin ranges alike",
             "chance of the most drawn range over that of the least", -INF, 2, "'uniformly', up to twice"),
    Measured("fewer-easy", "3", "TAS-Balanced draws fewer pairs with a high margin",
             "share of pairs from the upper half of the ranges, over TAS", -INF, 0.9, "a tenth less"),
    Measured("never-twice", "3", "No batch is repeated",
             "batches that came twice", -INF, 0, "'do not repeat the same batch'"),
    Measured("sampling-time", "3", "Composing batches does not slow training down",
             "time of composing over that of a step, rounded up to tenths", -INF, 0.1, "little, even if not alongside"),
    # losses, labels, lengths, stopping
    Measured("one-range", "4.2", "α brings both losses into one range",
             "α times the mean in-batch loss over the mean pairwise loss", 0.33, 3, "within three times"),
    Measured("in-batch-higher", "4.2", "The in-batch loss is consistently higher than the pairwise one",
             "share of evaluations with the in-batch loss above", 0.9, INF, "'consistently'"),
    Measured("teacher-labels", "2.3", "The pairwise teacher orders almost all pairs as the labels do",
             "share of training pairs with a margin above 0", 0.9, INF, "'in almost all cases'"),
    Measured("caps", "4.1", "Few queries or passages reach the cap on their length",
             "share of texts at the cap, of queries or of passages", -INF, 0.05, "'generous bounds with few outliers'"),
    Measured("stopping", "4.3", "Early stopping, and not the last step, ends training",
             "share of systems that stopped before the last step", 0.5, INF, "'usually'"),
    # first stages and fusion
    Compared("low-latency", "5.3", "TAS-Balanced beats BM25 and docT5query by large margins",
             "tas_b > bm25, tas_b > d2q", "all columns"),
    Compared("expanded", "5.3", "docT5query beats BM25 (letters of Table 7)",
             "d2q > bm25", "all columns"),
    Measured("every-cutoff", "5.3", "TAS-Balanced finds more than BM25 and docT5query at every cutoff",
             "share of cutoffs at which tas_b is above bm25 and d2q", 1, INF, "'at all examined cutoffs'"),
    Measured("first-dense", "5.3", "Margin-MSE and TCT do not find more than BM25 and docT5query at every cutoff",
             "larger share of cutoffs at which pairwise/random or in_batch/random is above bm25 and d2q", -INF, 0.99, "'the first' to do so"),
    Measured("every-method", "5.3", "TAS-Balanced finds more than every other method at every cutoff (abstract)",
             "share of cutoffs at which tas_b is above bm25, d2q, pairwise/random and in_batch/random", 1, INF, "'at any cutoff'"),
    Compared("fusion", "5.3", "Fusing TAS-Balanced with docT5query improves almost all results",
             "d2q+tas_b > tas_b", "all columns", "all but one"),
    Compared("fusion-recall", "5.3", "With docT5query fused in, recall is the highest on every set, next TAS-B alone",
             "d2q+tas_b > tas_b > d2q, tas_b > bm25", "recall", "all"),
    Measured("strengths", "5.3", "TAS-Balanced and docT5query have different strengths: fused, they find more",
             "share of cutoffs at which d2q+tas_b is above d2q and tas_b", 0.9, INF, "'another boost of recall'"),
    # re-ranking
    Compared("slower", "5.3", "Slow re-ranking (mono-duo-T5) beats every fast first stage",
             "bm25>mono>duo > bm25, d2q>mono>duo > d2q, tas_b>mono>duo > tas_b, d2q+tas_b>mono>duo > d2q+tas_b", "nDCG and MRR"),
    Compared("slower-bert", "5.3", "Slow re-ranking by a BERT of query and passage beats BM25 (Table 7)",
             "bm25>cat > bm25", "nDCG and MRR"),
    Compared("duo", "5.3", "Re-ranking a few candidates by duo-T5 improves every first stage",
             "bm25>duo > bm25, d2q>duo > d2q, tas_b>duo > tas_b, d2q+tas_b>duo > d2q+tas_b", "nDCG and MRR"),
    Compared("mono-duo", "5.3", "Re-ranking many candidates by mono-duo-T5 improves more than a few by duo-T5",
             "bm25>mono>duo > bm25>duo, d2q>mono>duo > d2q>duo, tas_b>mono>duo > tas_b>duo, d2q+tas_b>mono>duo > d2q+tas_b>duo",
             "nDCG and MRR"),
    Compared("medium", "5.3", "Under duo-T5, TAS-Balanced, fused or alone, is better than BM25 and docT5query",
             "tas_b>duo > bm25>duo, tas_b>duo > d2q>duo, d2q+tas_b>duo > bm25>duo, d2q+tas_b>duo > d2q>duo", "nDCG and MRR"),
    Compared("fused-slower", "6", "TAS-Balanced with docT5query beats slower systems: BM25, docT5query under duo-T5",
             "d2q+tas_b > bm25>duo, d2q+tas_b > d2q>duo", "nDCG and MRR"),
    Compared("high-dev", "5.3", "Under mono-duo-T5, a first stage of higher recall is slightly better on dev",
             "tas_b>mono>duo > bm25>mono>duo, d2q+tas_b>mono>duo > bm25>mono>duo, d2q+tas_b>mono>duo > d2q>mono>duo",
             "nDCG and MRR, dev set"),
    Compared("high-graded", "5.3", "Under mono-duo-T5, BM25 and docT5query are not significantly better, graded sets",
             "tas_b>mono>duo = bm25>mono>duo, tas_b>mono>duo = d2q>mono>duo", "nDCG and MRR, graded sets"),
    Measured("high-words", "5.3", "Under mono-duo-T5, BM25 and docT5query are better than TAS-Balanced, graded sets",
             "mean nDCG and MRR under mono-duo-T5, bm25 and d2q less tas_b", 0, INF, "'better'"),
    # time
    Measured("fast", "2.2", "A single query is answered with low latency",
             "milliseconds of a query, rounded up to tens", -INF, 70, "64 ms; Table 7: 'low latency', '<70ms'"),
    Measured("ten", "2.2", "Ten queries at a time take little longer than one",
             "time of ten queries over that of one, rounded up to fives", -INF, 5, "'only': half of ten times"),
    Measured("tail", "2.2", "The 99th percentile of the latency is very close to the mean",
             "99th percentile over mean of a query's time, rounded up to fifths", -INF, 1.2, "'very close', a fifth"),
    Measured("merging", "5.3", "Fusion takes no time but that of merging two lists",
             "milliseconds of merging two lists, rounded up", -INF, 3, "Table 7: 67 ms less 64 ms"),
    Measured("one-clustering", "1", "Clustering the training queries is a small cost, paid once",
             "time of clustering over the shortest training, rounded up to tenths", -INF, 0.1,
             "small, even for one training; 'under 10 minutes' of 'under 48 hours'"),
    Measured("kept", "2.4", "Keeping what a teacher computed mitigates its cost",
             "in-batch time, kept vectors over new, rounded up to tenths", -INF, 0.5, "'mitigated', by half"),
    Measured("quadratic", "2.3", "BERT_CAT is prohibitively expensive for in-batch negatives, ColBERT is not",
             "in-batch time, ColBERT over BERT_CAT, rounded up to tenths", -INF, 0.1,
             "'prohibitively', ten times"),
)
# fmt: on

SYSTEMS = tuple(dict.fromkeys(s for claim in CLAIMS if isinstance(claim, Compared) for s in claim.needs))
"""All that the claims compare."""
