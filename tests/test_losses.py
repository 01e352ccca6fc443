"""Losses: arithmetic by hand, and literal loops as oracles.

Columns 0..B-1 of a (B, 2B) score matrix are the positives, B..2B-1 the negatives; query i owns i and B+i.
"""

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


def test_the_own_negative_has_no_in_batch_gradient():
    student, teacher = scores(3)
    student.requires_grad_()
    losses.in_batch_margin_mse(student, teacher).backward()
    assert student.grad is not None
    assert student.grad.diagonal(3).tolist() == [0.0] * 3  # own negatives


def test_a_batch_of_one_query_has_no_others():
    student, teacher = scores(1)
    assert losses.in_batch_margin_mse(student, teacher).item() == 0


def test_dual_by_hand_with_any_weight_and_in_batch_loss():
    margins = torch.tensor([3.0, 1.0])
    # Eq. 8: 2.5 + 0.75 · 3.5
    assert [part.item() for part in losses.dual(STUDENT, TEACHER, margins)] == [5.125, 2.5, 3.5]
    # 2.5 + 2 · 4.75
    loss = losses.dual(STUDENT, TEACHER, margins, 2.0, losses.in_batch_margin_mse_as_printed)
    assert [part.item() for part in loss] == [12.0, 2.5, 4.75]
    loss = losses.dual(STUDENT, TEACHER, margins, 2.0, losses.listnet)
    assert loss.total.item() == pytest.approx(2.5 + 2 * losses.listnet(STUDENT, TEACHER).item())


def test_ranknet_by_hand():
    # margins 1 and 2: the mean of log(1 + e^-1) and log(1 + e^-2)
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2))) / 2
    assert losses.ranknet(STUDENT).item() == pytest.approx(expected)


def test_ranknet_equals_the_cross_entropy_loop():
    student, _ = scores(5)
    expected = sum(-torch.log(torch.sigmoid(student[i, i] - student[i, 5 + i])) for i in range(5)) / 5
    torch.testing.assert_close(losses.ranknet(student), expected)


def test_ranknet_is_finite_for_scores_far_apart():
    student = torch.tensor([[-500.0, 500.0]], requires_grad=True)
    loss = losses.ranknet(student)
    loss.backward()
    assert loss.item() == 1000
    assert student.grad is not None
    assert student.grad.tolist() == [[-1.0, 1.0]]


# --- list losses (Table 3) ---------------------------------------------------------------------------------------

LISTS = [losses.kldiv_as_published, losses.kldiv, losses.listnet, losses.lambdarank]


def softmax(row: torch.Tensor) -> list[float]:
    return [math.exp(x) / sum(math.exp(y) for y in row.tolist()) for x in row.tolist()]


def gradient(loss: losses.InBatch, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    student = student.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(student, teacher), student)
    return found


def odds(*shares: float) -> torch.Tensor:
    """One query's scores whose softmax is `shares`."""
    return torch.tensor([shares]).log()


def test_list_losses_by_hand():
    # the student's shares 1/2 and 1/2, the teacher's 3/4 and 1/4; Σ t log t of the teacher:
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    student, teacher = odds(0.5, 0.5), odds(0.75, 0.25)
    assert losses.listnet(student, teacher).item() == pytest.approx(math.log(2))
    assert losses.kldiv(student, teacher).item() == pytest.approx(math.log(2) - entropy)
    # Σ t s = 3/4 · 1/2 + 1/4 · 1/2
    assert losses.kldiv_as_published(student, teacher).item() == pytest.approx(-entropy - 0.5)


@pytest.mark.parametrize(
    ("loss", "term"),
    [
        (losses.kldiv_as_published, lambda s, t: t * (math.log(t) - s)),
        (losses.kldiv, lambda s, t: t * (math.log(t) - math.log(s))),
        (losses.listnet, lambda s, t: -t * math.log(s)),
    ],
)
def test_list_losses_equal_the_double_sum(loss, term):
    b = 4
    student, teacher = scores(b)
    rows = [zip(softmax(s), softmax(t), strict=True) for s, t in zip(student, teacher, strict=True)]
    expected = sum(term(s, t) for row in rows for s, t in row) / b
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_kl_divergence_and_listnet_have_the_same_gradient():
    student, teacher = (5 * x for x in scores(6))
    torch.testing.assert_close(gradient(losses.kldiv, student, teacher), gradient(losses.listnet, student, teacher))
    # both are (s - t) / B
    expected = (student.softmax(1) - teacher.softmax(1)) / 6
    torch.testing.assert_close(gradient(losses.listnet, student, teacher), expected)


def test_kl_divergence_is_least_at_the_teacher_and_its_published_form_is_not():
    _, teacher = scores(4)
    sharper = 3 * teacher  # the same order, further apart
    assert losses.kldiv(teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    assert losses.kldiv(sharper, teacher) > 0.1
    assert gradient(losses.kldiv, teacher, teacher).abs().max() < 1e-6

    assert losses.kldiv_as_published(sharper, teacher) < losses.kldiv_as_published(teacher, teacher)
    assert gradient(losses.kldiv_as_published, teacher, teacher).abs().max() > 0.001


def test_lambdarank_by_hand():
    # the teacher's grades are 3 and 0, the gains 7 and 0, the ideal DCG 7 / log2(2): G is 1 and 0
    # one rank apart: 1 / log2(2) - 1 / log2(3); the worse passage is ahead by ln 3: log2(1 + e^(ln 3)) = 2
    teacher = torch.tensor([[0.0, -99.0]])
    expected = 2 * (1 - 1 / math.log2(3))
    assert losses.lambdarank(odds(0.25, 0.75), teacher).item() == pytest.approx(expected)
    # the right way round: log2(1 + e^(-ln 3)) = log2(4/3)
    expected = math.log2(4 / 3) * (1 - 1 / math.log2(3))
    assert losses.lambdarank(odds(0.75, 0.25), teacher).item() == pytest.approx(expected)


def test_lambdarank_equals_the_triple_loop():
    student, teacher = (4 * x for x in scores(3))
    expected = 0.0
    for i in range(3):
        share = softmax(teacher[i])
        gain = [2 ** (y + 2 * (y > 0.001)) - 1 for y in share]
        ideal = sum(g / math.log2(1 + rank) for rank, g in enumerate(sorted(gain, reverse=True), 1))
        order = sorted(range(6), key=lambda p: -student[i, p].item())
        for p in range(6):
            for n in range(6):
                if share[p] > share[n]:
                    d = abs(order.index(p) - order.index(n))
                    delta = 1 / math.log2(1 + d) - 1 / math.log2(2 + d)
                    cost = math.log2(1 + math.exp((student[i, n] - student[i, p]).item()))
                    expected += delta * (gain[p] - gain[n]) / ideal * cost
    assert losses.lambdarank(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_lambdarank_has_a_finite_gradient_that_raises_the_better_passage():
    teacher = torch.tensor([[0.0, -99.0]])
    up, down = gradient(losses.lambdarank, torch.tensor([[-500.0, 500.0]]), teacher)[0]
    # log2(1 + e^1000) has the slope 1 / ln 2
    assert -up.item() == down.item() == pytest.approx((1 - 1 / math.log2(3)) / math.log(2))


@pytest.mark.parametrize("loss", LISTS)
def test_a_list_loss_is_finite_for_scores_far_apart(loss):
    student, teacher = (500 * x for x in scores(3))
    assert loss(student, teacher).isfinite()
    assert gradient(loss, student, teacher).isfinite().all()
