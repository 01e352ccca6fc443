"""Eqs. 6-8: what the student is taught by. Functions of one step's scores; each returns a scalar, except `dual`.

student, teacher: (B, 2B) scores of every query of the batch against every passage of it.
Columns 0..B-1 hold the positives, B..2B-1 the negatives; query i owns i and B+i.
margins: (B,) the pairwise teacher's margins M_t(q, p+) - M_t(q, p-) of the queries' own pairs.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

InBatch = Callable[[Tensor, Tensor], Tensor]
"""An in-batch loss: (student, teacher) → scalar."""


class Dual(NamedTuple):
    """Eq. 8 and its two parts, scalars: `total` is for the optimiser, the parts are for the log (§4.2: one range)."""

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

    Reading: as printed, Eq. 7 sums over passages but divides by 2|Q| only, and lets a query meet its own pair. We leave
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

    student: (B, 2B) scores. The labels alone say which passage is the better; no teacher.
    Source: the paper names no loss here; the public code trains this row with RankNet.
    """
    return F.softplus(-own_margins(student)).mean()
