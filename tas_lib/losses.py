"""Eqs. 6-8 and Table 3: the training losses. Functions of one step's scores that return a scalar (`dual`: three).

student, teacher: (B, 2B) scores of every query of the batch against every passage of the batch.
Columns 0..B-1 hold the positives, B..2B-1 the negatives; query i owns i and B+i.
margins: (B,) the pairwise teacher's margins M_t(q, p+) - M_t(q, p-) of the queries' own pairs.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

InBatch = Callable[[Tensor, Tensor], Tensor]
"""An in-batch loss: (student, teacher) → scalar."""


class Dual(NamedTuple):
    """Eq. 8 and its two parts, scalars: `total` is optimised, the parts are logged (§4.2: they have one range)."""

    total: Tensor
    pairwise: Tensor
    in_batch: Tensor  # before α


def own_margins(scores: Tensor) -> Tensor:
    """Each query's own positive minus its own negative: (B, 2B) scores to (B,) margins.

    >>> own_margins(torch.tensor([[3.0, 9.0, 1.0, 9.0], [9.0, 0.0, 9.0, 4.0]]))
    tensor([ 2., -4.])
    """
    return scores.diagonal() - scores.diagonal(len(scores))


def crossed_margins(scores: Tensor) -> Tensor:
    """Each query's own positive minus every passage of the batch (§2.3, "cross the representation").

    (B, 2B) scores to (B, 2B) margins; column i of row i, the positive against itself, is 0.
    """
    return scores.diagonal()[:, None] - scores


def margin_mse(student: Tensor, margins: Tensor) -> Tensor:
    """Margin-MSE of the queries' own pairs, Eq. 6.

    student: (B, 2B) scores. margins: (B,) of the teacher; `own_margins(teacher)` where it scored the whole batch.
    """
    return (own_margins(student) - margins).square().mean()


def in_batch_margin_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """In-batch Margin-MSE, Eq. 7, as a mean: every query's positive against the passages of all other queries.

    student, teacher: (B, 2B) scores. A batch of one query has no others and costs 0.

    Reading: as printed, Eq. 7 sums over passages but divides by 2|Q| only, and includes a query's own pair. We leave
    the own pair to Eq. 6 and take half the mean over |Q|(|Q|-1) positives plus half the mean over as many negatives.
    Source: matchmaker 210b9da, train.py, lines 434-457. DEVIATIONS.md, D1.
    """
    b = len(student)
    own = torch.eye(b, dtype=torch.bool, device=student.device).repeat(1, 2)  # (B, 2B)
    errors = (crossed_margins(student) - crossed_margins(teacher)).masked_fill(own, 0)
    return errors.square().sum() / max(2 * b * (b - 1), 1)


def in_batch_margin_mse_as_printed(student: Tensor, teacher: Tensor) -> Tensor:
    """In-batch Margin-MSE, Eq. 7 to the letter: summed over all 2|Q| passages, own pair included, over 2|Q|.

    student, teacher: (B, 2B) scores. About |Q| - 1 times the mean above. DEVIATIONS.md, D1.
    """
    errors = crossed_margins(student) - crossed_margins(teacher)  # (B, 2B)
    return errors.square().sum() / (2 * len(student))


def kldiv_as_published(student: Tensor, teacher: Tensor) -> Tensor:
    """The row KLDiv of Table 3: KL divergence with the student's softmax where its log-softmax belongs.

    student, teacher: (B, 2B) scores; a row is a list. The mean over the queries of Σ t (log t - s), s and t softmaxes.
    It is linear in s, so the best student puts all its weight on the teacher's first passage.

    Source: matchmaker cb1d35d, losses/teacher_kldiv_list.py, reduction "batchmean". DEVIATIONS.md, D4.
    """
    return F.kl_div(student.softmax(dim=1), teacher.softmax(dim=1), reduction="batchmean")


def kldiv(student: Tensor, teacher: Tensor) -> Tensor:
    """KL divergence of the student's softmax from the teacher's: Σ t (log t - log s), the mean over the queries.

    student, teacher: (B, 2B) scores. Not in Table 3: it is `listnet` minus the teacher's entropy, a constant, so both
    have the same gradient.
    """
    return F.kl_div(student.log_softmax(dim=1), teacher.log_softmax(dim=1), reduction="batchmean", log_target=True)


def listnet(student: Tensor, teacher: Tensor) -> Tensor:
    """ListNet with top-one probabilities (Cao et al., ICML 2007): cross-entropy -Σ t log s, the mean over the queries.

    student, teacher: (B, 2B) scores; s and t are their softmaxes over a row.

    Reading: the public code takes log(s + 1e-6), which ignores passages that the student rules out. We take log s.
    Source: matchmaker cb1d35d, losses/listnet.py.
    """
    return F.cross_entropy(student, teacher.softmax(dim=1))


def grades(teacher: Tensor) -> Tensor:
    """The teacher's scores (B, 2B) as relevance grades (B, 2B) for `lambdarank`.

    Reading: the paper does not say how. As in the public code: the softmax over a row, plus 2 where it exceeds .001. So
    all passages that the teacher does not rule out are worth much, and their order still counts a little.
    Source: matchmaker cb1d35d, losses/lambdarank.py, LambdaLossTeacher.

    >>> grades(torch.tensor([[3.0, 3.0, 0.0, -9.0]])).round(decimals=2)
    tensor([[2.4900, 2.4900, 2.0200, 0.0000]])
    """
    share = teacher.softmax(dim=1)
    return share + 2 * (share > 0.001)


def lambdarank(student: Tensor, teacher: Tensor) -> Tensor:
    """The row LambdaRank of Table 3: NDCG-Loss2 of the LambdaLoss framework (Wang et al., CIKM 2018), summed.

    student, teacher: (B, 2B) scores. A pair with grades y_i > y_j costs ρ log2(1 + exp(s_j - s_i)), where
    ρ = (1 / D(d) - 1 / D(d + 1)) (G_i - G_j): d is how many ranks apart the student puts i and j, D(d) = log2(1 + d),
    and G = (2^y - 1) / ideal DCG. Only s has a gradient; ranks and ρ are constants.

    Reading: the public code clips σ(s_i - s_j) at 1e-6, so worse pairs have no gradient. Ours have one.
    Source: matchmaker cb1d35d, losses/lambdarank.py, ndcgLoss2_scheme.
    """
    gains = 2 ** grades(teacher) - 1  # (B, 2B)
    best = gains.sort(dim=1, descending=True).values
    ideal = (best / torch.arange(2, 2 + best.shape[1], device=best.device).log2()).sum(dim=1)  # (B,)
    rank = student.argsort(dim=1, descending=True, stable=True).argsort(dim=1)  # (B, 2B)
    d = (rank[:, :, None] - rank[:, None, :]).abs().clamp(min=1)  # (B, 2B, 2B); the diagonal gains nothing below
    delta = 1 / torch.log2(1 + d) - 1 / torch.log2(2 + d)
    gained = (gains[:, :, None] - gains[:, None, :]).clamp(min=0) / ideal[:, None, None]
    return (delta * gained * F.softplus(student[:, None, :] - student[:, :, None])).sum() / math.log(2)


def dual(
    student: Tensor, teacher: Tensor, margins: Tensor, alpha: float = 0.75, in_batch: InBatch = in_batch_margin_mse
) -> Dual:
    """Dual supervision, Eq. 8: L_Pair from the pairwise teacher plus α times L_InB from the in-batch teacher.

    student, teacher: (B, 2B) scores; the teacher is ColBERT. margins: (B,) of the BERT_CAT ensemble.
    """
    pair, crossed = margin_mse(student, margins), in_batch(student, teacher)
    return Dual(pair + alpha * crossed, pair, crossed)


def ranknet(student: Tensor) -> Tensor:
    """RankNet on binary labels, the standalone row of Table 4: -log σ(own positive - own negative), averaged.

    student: (B, 2B) scores. No teacher: the labels say which passage is better.
    Source: the paper does not name this loss; the public code trains this row with RankNet.
    """
    return F.softplus(-own_margins(student)).mean()
