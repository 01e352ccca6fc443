# %% [markdown]
# # 03 · What does the student learn from?
#
# *Paper:* §2.3, Eqs. 6-8; α of §4.2; the losses of Table 3. *Needs:* the collection (01). *Time on the default
# profile:* half a minute on two cores.
#
# > "In this work we combine these two approaches into a novel dual-teacher supervision paradigm that provides the best
# > trade-off between effective teaching and efficient training." (§2.3)
#
# A teacher speaks through a loss. One teacher scores each query's own two passages, the other all passages of the
# batch. This notebook works through both equations by hand, weighs them against each other, and ends with the losses
# that could replace the second.

# %% tags=["parameters"]
PROFILE = "docs"  # a file in profiles/
SEED = 1  # of the batch that is looked at

# %%
import numpy as np
import torch
from torch import tensor

from lecture import explore, pictures
from lecture.notebook import check, grid, show
from tas_lib import config, experiment, losses, models
from tas_lib.config import System
from tas_lib.data import shipped
from tas_lib.retrieval import pretrained
from tas_lib.train import loop as training

settings = config.load(PROFILE)
alpha = settings.training.alpha

# %% [markdown]
# ## The matrix of scores
#
# A batch has $b$ queries, each with a relevant passage $p^+$ and a non-relevant one $p^-$. The student scores every
# query against every passage: $b$ rows, $2b$ columns, first all positives, then all negatives. So query $i$ owns
# columns $i$ and $b + i$; all others are other queries' passages. The picture has four queries, and colours say which
# loss uses a cell; we calculate with two, by hand:

# %%
#                 p+ of 0, of 1, p- of 0, of 1
student = tensor([[3.0, 0.5, 1.0, 0.0], [0.0, 2.0, 1.0, 3.0]])
teacher = tensor([[5.0, 1.0, 2.0, 0.0], [1.0, 4.0, 0.0, 3.0]])
grid(
    [(name, *losses.own_margins(s).tolist()) for name, s in (("student", student), ("teacher", teacher))],
    ["margin", "query 0", "query 1"],
)
pictures.batch_matrix()

# %% [markdown]
# ## Eq. 6: differences, not scores
#
# $$\mathcal{L}_{Pair} = \text{MSE}\big(M_s(Q, P^+) - M_s(Q, P^-),\; M_t(Q, P^+) - M_t(Q, P^-)\big) \quad (6)$$
#
# The student need not reproduce the teacher's scores, only its *margins*: by how much the better passage is better.
# Above, the student's margins are 2 and -1, the teacher's 3 and 1. *Before you run:* what is the mean square error?

# %%
show(losses.margin_mse)
pair = losses.margin_mse(student, losses.own_margins(teacher))
float(pair)

# %% [markdown]
# The errors are -1 and -2, their squares 1 and 4, the mean 2.5. Adding the same number to all scores of a query leaves
# its margin unchanged: a teacher that scores near 10 can teach a student that scores near 100.

# %%
assert pair == 2.5
assert losses.margin_mse(student + 100, losses.own_margins(teacher)) == pair

# %% [markdown]
# ## Eq. 7: the other queries' passages
#
# > "we cross the representation and pair each positive passage with all other passages in the batch" (§2.3)
#
# $$\mathcal{L}_{InB} = \frac{1}{2|Q|} \Big(\sum_i^{|Q|} \sum_{p^-}^{P^-} \mathcal{L}_{Pair}(Q_i, P_i^+, p^-)
# + \sum_i^{|Q|} \sum_{p^+}^{P^+} \mathcal{L}_{Pair}(Q_i, P_i^+, p^+)\Big) \quad (7)$$
#
# The teacher is now ColBERT. In two respects the printed equation differs from the public code (D1). It divides by
# $2|Q|$ although there are $2|Q| \cdot |Q|$ terms, so the loss grows with the batch. And the sums include the query's
# own passages: its positive against itself, which is 0, and its own negative, which Equation (6) already covers. The
# public code takes the mean, over the passages of *other* queries only; so do we. As loops:


# %%
def in_batch_in_loops(student, teacher):
    """Eq. 7 as a mean over the passages of the other queries."""
    b, terms = len(student), []
    for i in range(b):
        for p in range(2 * b):
            if p not in (i, b + i):
                error = (student[i, i] - student[i, p]) - (teacher[i, i] - teacher[i, p])
                terms.append(float(error) ** 2)
    return sum(terms) / len(terms)


# %% [markdown]
# The library uses one matrix, without each query's own columns. *Before you run:* how many terms does the loop have for
# two queries, and which passages are in them?

# %%
show(losses.in_batch_margin_mse, losses.in_batch_margin_mse_as_printed)
cases = {"by hand": (student, teacher)}
cases |= {f"b = {b}": torch.randn(2, b, 2 * b, generator=torch.Generator().manual_seed(b)) for b in (3, 8)}
rows = [(name, in_batch_in_loops(s, t), float(losses.in_batch_margin_mse(s, t))) for name, (s, t) in cases.items()]
grid(rows, ["scores", "in loops", "losses.in_batch_margin_mse"])
assert all(np.isclose(slow, fast, rtol=1e-5) for _, slow, fast in rows)

# %% [markdown]
# The two agree. (Two queries have four terms: each meets the other's two passages.) A loop is slow but leaves no doubt
# about which columns are left out: get one wrong, and a query learns to push its own passage away.

# %% [markdown]
# ## Which loss moves which scores?
#
# A loss moves the scores for which its derivative is not zero. *Before you run:* in a batch of $b$ queries, how many of
# the $2b^2$ scores does Equation (6) touch, and how many Equation (7)?

# %%
b = 32
s, t = torch.randn(2, b, 2 * b, generator=torch.Generator().manual_seed(0))
s.requires_grad_()
touched = {}
for name, loss in {
    "Eq. 6": losses.margin_mse(s, losses.own_margins(t)),
    "Eq. 7, mean": losses.in_batch_margin_mse(s, t),
    "Eq. 7, as printed": losses.in_batch_margin_mse_as_printed(s, t),
}.items():
    (gradient,) = torch.autograd.grad(loss, s)
    touched[name] = int((gradient != 0).sum())
grid([(name, n, n / s.numel()) for name, n in touched.items()], ["loss", "scores", "of all"])

# %% [markdown]
# The pairwise loss sees two scores per query. The passages are encoded anyway, so all the other scores come almost
# free, and the in-batch loss uses them. That is the promise of in-batch negatives; whether those passages are worth
# learning from depends on what else is in the batch, the subject of notebook 05.

# %% [markdown]
# ## Why the in-batch teacher is ColBERT
#
# > "BERT_CAT is the more effective teacher, but prohibitively expensive to use for in-batch negatives as it requires
# > quadratic scaling in the batch size" (§2.3)
#
# To score the whole matrix, a model that reads pairs must read $2b^2$ texts; one that reads queries and passages
# separately must read $3b$.

# %%
assert touched == {"Eq. 6": 2 * b, "Eq. 7, mean": 2 * b * b - b, "Eq. 7, as printed": 2 * b * b}
grid([(b, 2 * b * b, 3 * b) for b in (8, 32, 96, 256)], ["b", "texts for BERT_CAT", "texts for ColBERT"])

# %% [markdown]
# ## Eq. 8: both losses, and what α is for
#
# $$\mathcal{L}_{DS} = \mathcal{L}_{Pair} + \mathcal{L}_{InB} \times \alpha \quad (8)$$
#
# > "we set the dual-teacher combination hyperparameter α to 0.75 to bring both losses into the same range, as the
# > in-batch loss, taking into account more data points, is consistently higher than the pairwise loss" (§4.2)
#
# *Before you run:* suppose the student is wrong by the same amount everywhere. How large is each loss, and under which
# reading of Equation (7) does a factor of .75 bring them together?

# %%
rows = []
for b in (8, 32, 96, 256):
    t = torch.randn(b, 2 * b, generator=torch.Generator().manual_seed(b))
    s = t + torch.randn(b, 2 * b, generator=torch.Generator().manual_seed(b + 1))  # errors of one size
    pair = losses.margin_mse(s, losses.own_margins(t))
    readings = losses.in_batch_margin_mse(s, t), losses.in_batch_margin_mse_as_printed(s, t)
    rows.append((b, float(pair), *(float(0.75 * loss) for loss in readings)))
grid(rows, ["b", "Eq. 6", ".75 · Eq. 7, mean", ".75 · Eq. 7, as printed"])
own = losses.margin_mse(s, losses.own_margins(t))
torch.testing.assert_close(readings[1], (b - 1) * readings[0] + own / 2, rtol=1e-4, atol=1e-4)
assert all(0.3 < mean / pair < 3 and printed / pair > b / 4 for b, pair, mean, printed in rows)

# %% [markdown]
# For these scores, whose errors are equal everywhere, the mean stays close to Equation (6) at every batch size. The sum
# as printed is about $b - 1$ times the mean and drowns out the pairwise teacher. Real errors differ: on `docs` the mean
# needs a weight of 10 ([D1](../DEVIATIONS.md)). The relation between the readings is exact, since they differ only in
# the divisor and in the own negatives, which are Equation (6) again: $\text{printed} = (b - 1) \cdot \text{mean} +
# \frac{1}{2} \mathcal{L}_{Pair}$, with ColBERT's margins.

# %% [markdown]
# ## On a real batch
#
# One random batch of this profile: the student is the untrained encoder, the pairwise margins come from the shipped
# file, and ColBERT scores the matrix. *Before you run:* which teacher's margins will the untrained student be closer
# to?

# %%
lab = experiment.Experiment(settings)
batch = lab.sampler(System(sampling="random", seed=SEED)).batch(0)
untrained = pretrained.load_dot(settings.encoder_path, settings.pooling).eval()
colbert = pretrained.load_colbert(shipped.model(settings, "colbert"))
texts = lab.tokens["train"], lab.tokens["passages"]
rows = batch.queries, np.concatenate([batch.pos, batch.neg])  # (B,), (2B,)
padded = [models.pad([t.row(r) for r in some]) for t, some in zip(texts, rows, strict=True)]
(q_ids, q_mask), (p_ids, p_mask) = padded
with torch.inference_mode():
    s = training.score_batch(untrained, *texts, batch)  # (B, 2B)
    t = models.late_interaction(colbert(q_ids, q_mask), q_mask, colbert(p_ids, p_mask), p_mask)  # (B, 2B)
margins = tensor(np.asarray(batch.margins))
tuple(s.shape), tuple(t.shape), tuple(margins.shape)

# %% [markdown]
# Equation (8) with either reading of Equation (7), and its parts. Below, move α: at which value are the two parts
# equal, and which scores does a step then move?

# %%
both = {
    "mean": losses.dual(s, t, margins, alpha),
    "as printed": losses.dual(s, t, margins, alpha, losses.in_batch_margin_mse_as_printed),
}
parts = {name: (d.pairwise, d.in_batch, alpha * d.in_batch, d.total) for name, d in both.items()}
grid(
    [(name, *map(float, values)) for name, values in parts.items()],
    ["Eq. 7", "pairwise", "in-batch", "α · in-batch", "Eq. 8"],
)
assert both["mean"].pairwise == both["as printed"].pairwise
assert both["as printed"].in_batch > (len(s) - 1) * both["mean"].in_batch
explore.two_losses(s, t, margins, alpha)

# %% [markdown]
# The pairwise part is the same in both rows; the in-batch part is at least $b - 1$ times larger in the lower one. In
# the upper row, the two parts say how far the student is from each teacher. Training brings both down (06 plots them).

# %% [markdown]
# ## Lists instead of pairs
#
# > "we build a ranked list of in-batch and pairwise negatives per query" (§5.1)
#
# Table 3 replaces Equation (7) and keeps Equation (6). A *list loss* takes a query's whole row: a softmax turns the
# teacher's scores into shares $t$ that sum to 1, and the student's into shares $s$. ListNet is the cross-entropy $-\sum
# t \log s$; KL divergence is $\sum t\, (\log t - \log s)$. Where that needs $\log s$, the public code has $s$ (D4).
#
# *Before you run:* four passages, and five students. Under each loss, which student pays least?

# %%
show(losses.kldiv, losses.kldiv_as_published, losses.listnet)
told = tensor([[0.4, 0.3, 0.2, 0.1]]).log()  # what the teacher says of four passages; its softmax gives the shares back
students = {"the teacher": told, "flatter": told / 2, "sharper": 3 * told, "all on the first": 30 * told}
students |= {"upside down": -told}
lists = losses.kldiv, losses.kldiv_as_published, losses.listnet
costs = {name: [float(loss(one, told)) for loss in lists] for name, one in students.items()}
grid([(name, *row) for name, row in costs.items()], ["student", *(loss.__name__ for loss in lists)])

# %% [markdown]
# KL divergence and ListNet are lowest when the student *is* the teacher. KL divergence as published is lowest when the
# first passage gets everything: it reads $\sum t \log t - \sum t s$, and a share is best spent where $t$ is largest.
# Fully optimised, it teaches neither by how much the first passage is better nor how to order the rest.

# %% [markdown]
# The correct KL divergence is not a fourth row for Table 3. It is ListNet minus the teacher's entropy $-\sum t \log t$,
# a number that no student can change. *Before you run:* what does that say about the gradients of the two, here on the
# real batch?

# %%
best = {loss.__name__: min(costs, key=lambda name: costs[name][i]) for i, loss in enumerate(lists)}
assert best == {"kldiv": "the teacher", "kldiv_as_published": "all on the first", "listnet": "the teacher"}
s, t = s.clone().requires_grad_(), t.clone()
kl, net, published = (torch.autograd.grad(loss(s, t), s)[0] for loss in (losses.kldiv, losses.listnet, lists[1]))
apart, entropy = losses.listnet(s, t) - losses.kldiv(s, t), losses.listnet(t, t)  # H(t) = -Σ t log t
grid([("ListNet minus KL divergence", apart.item()), ("the teacher's entropy", entropy.item())], ["", "value"])
torch.testing.assert_close(kl, net, rtol=1e-3, atol=1e-6)
assert torch.isclose(apart, entropy, rtol=1e-3) and not torch.allclose(published, net, rtol=0.5, atol=1e-3)

# %% [markdown]
# The same gradient, so the same training. That is why the row KLDiv is the published form: the correct one would repeat
# ListNet's row.

# %% [markdown]
# *LambdaRank* (NDCG-Loss2 of Wang et al., 2018) looks at the pairs to which the teacher gives different grades and asks
# only for their order, weighting each pair by its effect on nDCG. Grades come from the teacher's shares. *Before you
# run:* what does a student with the teacher's order pay, and one with a pair the wrong way round?

# %%
show(losses.grades, losses.lambdarank)
scale = tensor([[8.0, 7.0, 4.0, 0.0]])  # of the teacher: the last passage is out of the question
swaps = {"the teacher": [8, 7, 4, 0], "three times as far apart": [24, 21, 12, 0], "first two swapped": [7, 8, 4, 0]}
swaps |= {"last two swapped": [8, 7, 0, 4], "upside down": [0, 4, 7, 8]}
paid = {name: float(losses.lambdarank(tensor([row], dtype=torch.float), scale)) for name, row in swaps.items()}
grid(paid.items(), ["student", "LambdaRank"])
assert paid["three times as far apart"] < paid["the teacher"] < paid["first two swapped"] < paid["last two swapped"]
assert paid["last two swapped"] < paid["upside down"]

# %% [markdown]
# The teacher's own scores are not the optimum: the same order, further apart, is cheaper still, without limit. Of the
# two swaps, the one that promotes the hopeless passage costs more. That "list-based losses only observe ordering"
# (§5.1) is true of this one; ListNet does ask for the teacher's scores, up to a constant per query.

# %% [markdown]
# The same losses on the real batch, beside the paper's choice. Weights that we chose replace α: the paper gives none.

# %%
names = ["margin_mse", "kldiv_as_published", "listnet", "lambdarank"]
functions = [losses.in_batch_margin_mse, losses.kldiv_as_published, losses.listnet, losses.lambdarank]
rows = []
for name, loss in zip(names, functions, strict=True):
    value, weight = loss(s, t), settings.training.weight(name)
    gradient = float(torch.autograd.grad(value, s)[0].norm())
    rows.append((name, value.item(), weight, gradient, weight * gradient))
grid(rows, ["in-batch loss", "value", "weight", "gradient", "weight · gradient"])

# %% [markdown]
# The values mean nothing here (one is negative because of the missing logarithm); what a student learns from is the
# gradient (its norm over all scores). LambdaRank is summed over queries and pairs, the other list losses are means over
# queries; hence the spread. The weights were chosen on the tune set ([CHANGELOG](../CHANGELOG.md)).

# %% [markdown]
# ## Without a teacher
#
# The row "None" of Table 4 learns from labels alone: $p^+$ is relevant, $p^-$ is not. The paper names no loss; the
# public code uses RankNet, $-\log \sigma(M_s(q, p^+) - M_s(q, p^-))$. It is satisfied only by an infinite margin, and
# treats no pair as a near tie.

# %%
show(losses.ranknet)
ours = losses.ranknet(student)
assert torch.isclose(ours, torch.log(1 + torch.exp(-losses.own_margins(student))).mean())
assert losses.ranknet(tensor([[50.0, 0.0]])) < 1e-6 < losses.ranknet(tensor([[5.0, 0.0]]))

# %% [markdown]
# ## Answer
#
# The student learns from differences. The pairwise teacher says how much better a query's own positive is than its own
# negative; the in-batch teacher says the same for all other queries' passages; α puts the two on one scale, and how
# large it must be depends on how Equation (7) is divided. Labels only choose the pairs: swap $p^+$ and $p^-$, and
# Equation (6) is the same.
#
# In place of Equation (7), ListNet asks for the teacher's scores up to a constant, LambdaRank for their order, and KL
# divergence as published for the first passage. Table 3 (08) shows which of them teaches best.
#
# ## Where we differ
#
# Equation (7) is a mean without the own pair (D1); `loss: margin_mse_as_printed` in a profile's system is the other
# reading. The row KLDiv is the public code's form (D4); ListNet and LambdaRank omit its small constants inside
# logarithms, and the weights of all three are ours. Losses are computed in fp32 (D12), and the student reads each text
# once per step (D14). RankNet is the public code's choice. See [DEVIATIONS](../DEVIATIONS.md).
#
# ## Exercises
#
# **1.** *Predict, then compute:* in which cells of a $b \times 2b$ matrix does Equation (6) have a non-zero derivative,
# and with which signs? Write the derivative without autograd. `student` is (B, 2B), `margins` (B,).
#
# <details><summary>Hint</summary>
#
# Equation (6) is the mean of $e_i^2$ over $b$ queries, with $e_i = s_{i,i} - s_{i,b+i} - m_i$. Begin with
# `torch.zeros_like(student)`.
#
# </details>


# %% tags=["exercise"]
def my_gradient(student, margins):
    """(B, 2B): the derivative of Eq. 6 in each of the student's scores."""
    # TODO


scores = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
check(my_gradient, (tensor([[3.0, 1.0]]), tensor([5.0])), (scores[0], scores[1, :, 0]))

# %% [markdown]
# **2.** ListNet with a temperature: both softmaxes are taken of the scores divided by it. What happens to the teacher's
# shares when it grows, and when it goes towards 0?
#
# <details><summary>Hint</summary>
#
# `log_softmax` is safer than the logarithm of `softmax`. Sum over a row, average over the queries.
#
# </details>


# %% tags=["exercise"]
def my_tempered_listnet(student, teacher, temperature):
    """-Σ t log s, where t and s are the shares at this temperature."""
    # TODO


check(my_tempered_listnet, (*scores, 1.0), (*scores, 10.0), (*scores, 0.1))

# %% [markdown]
# **3. Open.** Train the dual system with `-p LOSS margin_mse_as_printed` (06). Does it end up like a system with the
# in-batch teacher alone?
#
# ## Next
#
# [04](04_clustering.ipynb): which queries belong together.
