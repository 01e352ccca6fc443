"""Columns 0..B-1 of a (B, 2B) score matrix are the positives, B..2B-1 the negatives; query i owns i and B+i."""

import math

import pytest
import torch

from tas_lib import losses


def scores(b: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    student, teacher = torch.randn(2, b, 2 * b, generator=torch.Generator().manual_seed(seed))
    return student, teacher


def pair(student: torch.Tensor, teacher: torch.Tensor, i: int, p: int) -> torch.Tensor:
    """L_Pair(Q_i, P+_i, p) of Eq. 6 for one query and one passage."""
    return ((student[i, i] - student[i, p]) - (teacher[i, i] - teacher[i, p])) ** 2


# Two queries. Crossed margins by row: student [0 2 1 3] and [3 0 4 2]; teacher [0 1 3 3] and [1 0 1 1].
STUDENT = torch.tensor([[3.0, 1.0, 2.0, 0.0], [1.0, 4.0, 0.0, 2.0]])
TEACHER = torch.tensor([[4.0, 3.0, 1.0, 1.0], [1.0, 2.0, 1.0, 1.0]])


def test_margin_mse_by_hand():
    # own margins: 3-2=1 and 4-2=2; the teacher's 3 and 1; errors -2 and 1; mean square (4+1)/2
    assert losses.margin_mse(STUDENT, torch.tensor([3.0, 1.0])).item() == 2.5


def test_margin_mse_equals_the_loop_over_queries():
    student, teacher = scores(5)
    expected = sum(pair(student, teacher, i, 5 + i) for i in range(5)) / 5
    torch.testing.assert_close(losses.margin_mse(student, losses.own_margins(teacher)), expected)


def test_in_batch_by_hand():
    # others of query 0: columns 1 and 3, errors 2-1=1 and 3-3=0; of query 1: columns 0 and 2, errors 3-1=2, 4-1=3
    # mean of the squares 1, 0, 4, 9
    assert losses.in_batch_margin_mse(STUDENT, TEACHER).item() == 3.5


def test_in_batch_equals_the_double_sum():
    b = 4
    student, teacher = scores(b)
    positives = [pair(student, teacher, i, p) for i in range(b) for p in range(b) if p != i]
    negatives = [pair(student, teacher, i, b + n) for i in range(b) for n in range(b) if n != i]
    assert len(positives) == len(negatives) == b * (b - 1)
    expected = (sum(positives) / (b * (b - 1)) + sum(negatives) / (b * (b - 1))) / 2
    torch.testing.assert_close(losses.in_batch_margin_mse(student, teacher), expected)


def test_in_batch_as_printed_by_hand():
    # all errors: 0 1 -2 0 and 2 0 3 1; squares sum to 1+4+4+9+1=19; over 2|Q| = 4
    assert losses.in_batch_margin_mse_as_printed(STUDENT, TEACHER).item() == 4.75


def test_in_batch_as_printed_equals_the_double_sum():
    b = 4
    student, teacher = scores(b)
    negatives = sum(pair(student, teacher, i, b + n) for i in range(b) for n in range(b))
    positives = sum(pair(student, teacher, i, p) for i in range(b) for p in range(b))
    expected = (negatives + positives) / (2 * b)
    torch.testing.assert_close(losses.in_batch_margin_mse_as_printed(student, teacher), expected)


def test_the_printed_form_is_31_times_the_mean_at_32_and_half_of_eq_6():
    student, teacher = scores(32)
    mean, printed = (
        losses.in_batch_margin_mse(student, teacher),
        losses.in_batch_margin_mse_as_printed(student, teacher),
    )
    own = losses.margin_mse(student, losses.own_margins(teacher)) / 2  # (sum over the own pairs) / 2|Q|
    torch.testing.assert_close(printed, 31 * mean + own)


def test_the_own_pair_teaches_nothing_in_batch():
    student, teacher = scores(3)
    student.requires_grad_()
    losses.in_batch_margin_mse(student, teacher).backward()
    assert student.grad is not None
    assert student.grad.diagonal(3).tolist() == [0.0] * 3  # own negatives


@pytest.mark.parametrize("loss", [losses.in_batch_margin_mse, losses.in_batch_margin_mse_as_printed])
def test_adding_a_constant_to_a_query_changes_no_margin(loss):
    student, teacher = (x.double() for x in scores(4))
    shift = torch.arange(4.0).double()[:, None]
    torch.testing.assert_close(loss(student + shift, teacher - 2 * shift), loss(student, teacher))


@pytest.mark.parametrize("loss", [losses.in_batch_margin_mse, losses.in_batch_margin_mse_as_printed])
def test_a_student_with_the_teachers_margins_costs_nothing(loss):
    student, _ = scores(4)
    assert loss(student + 7, student).item() == pytest.approx(0, abs=1e-10)


def test_a_batch_of_one_query_has_no_others():
    student, teacher = scores(1)
    assert losses.in_batch_margin_mse(student, teacher).item() == 0


def test_dual_by_hand():
    # Eq. 8: 2.5 + 0.75 · 3.5
    loss = losses.dual(STUDENT, TEACHER, torch.tensor([3.0, 1.0]))
    assert [part.item() for part in loss] == [5.125, 2.5, 3.5]


def test_dual_takes_another_weight_and_another_in_batch_loss():
    # 2.5 + 2 · 4.75
    loss = losses.dual(STUDENT, TEACHER, torch.tensor([3.0, 1.0]), 2.0, losses.in_batch_margin_mse_as_printed)
    assert [part.item() for part in loss] == [12.0, 2.5, 4.75]


def test_dual_teaches_by_both_parts():
    student, teacher = scores(3)
    margins = torch.tensor([1.0, 2.0, 3.0])
    student.requires_grad_()
    (whole,) = torch.autograd.grad(losses.dual(student, teacher, margins, 0.5).total, student)
    (pairwise,) = torch.autograd.grad(losses.margin_mse(student, margins), student)
    (in_batch,) = torch.autograd.grad(losses.in_batch_margin_mse(student, teacher), student)
    torch.testing.assert_close(whole, pairwise + 0.5 * in_batch)


def test_ranknet_by_hand():
    # margins 1 and 2: the mean of log(1 + e^-1) and log(1 + e^-2)
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2))) / 2
    assert losses.ranknet(STUDENT).item() == pytest.approx(expected)


def test_ranknet_equals_the_cross_entropy_loop():
    student, _ = scores(5)
    expected = sum(-torch.log(torch.sigmoid(student[i, i] - student[i, 5 + i])) for i in range(5)) / 5
    torch.testing.assert_close(losses.ranknet(student), expected)


def test_ranknet_stays_finite_for_scores_far_apart():
    student = torch.tensor([[-500.0, 500.0]], requires_grad=True)
    loss = losses.ranknet(student)
    loss.backward()
    assert loss.item() == 1000
    assert student.grad is not None
    assert student.grad.tolist() == [[-1.0, 1.0]]
