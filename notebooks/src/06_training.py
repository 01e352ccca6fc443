# %% [markdown]
# # 06 · How is one student trained?
#
# *Paper:* §2.3 (Eqs. 6-8), §4.2, §4.3. *Needs:* 01; TAS also needs the baseline, which is trained first.
# *Time on the default profile:* two or three minutes per system on one core.
#
# One row of the ablation, from the shipped encoder to a searchable collection: what a step sees, what both teachers say
# about it, when training stops, and what the trained model finds for your question.

# %% tags=["parameters"]
PROFILE = "docs"  # a file in profiles/
TEACHER = "dual"  # none, pairwise, in_batch or dual
SAMPLING = "tas_balanced"  # random, tas, tas_balanced or hard_margin
LOSS = "margin_mse"  # the in-batch loss: margin_mse, margin_mse_as_printed, kldiv_as_published, listnet or lambdarank
BATCH_SIZE = 32  # b, §4.2
SEED = 1  # of the order of batches; the model has its own
VARIANT = ""  # one of the profile's: other settings of training or sampling

# %% [markdown]
# The parameters are checked before anything else happens: an unknown name or a value out of range gives a one-sentence
# error.

# %%
import pandas as pd
import torch

from lecture.notebook import check, grid, show
from tas_lib import config, experiment
from tas_lib.evaluation import metrics
from tas_lib.report import figures
from tas_lib.retrieval import encode, frozen, pretrained
from tas_lib.train import loop as training

settings, system = config.system(
    PROFILE, seed=SEED, teacher=TEACHER, sampling=SAMPLING, loss=LOSS, batch_size=BATCH_SIZE, variant=VARIANT
)
lab = experiment.Experiment(settings)
system.name

# %% [markdown]
# ## What a step sees
#
# A batch is a function of the seed and the step's number (notebook 05). Each of its queries brings one positive and one
# negative passage; the student encodes every text once and scores all queries against all passages: a matrix of $b$
# rows and $2b$ columns, the positives first.
#
# *Before you run:* how many passages of other queries does a query meet in this batch?

# %%
batch = lab.sampler(system).batch(0)
student = pretrained.load_dot(settings.encoder_path, settings.pooling)
with torch.inference_mode():
    scores = training.score_batch(student, lab.tokens["train"], lab.tokens["passages"], batch)
tuple(scores.shape)

# %% [markdown]
# Two of the columns are its own; the rest belong to the other queries of the batch.

# %%
assert scores.shape == (BATCH_SIZE, 2 * BATCH_SIZE)

# %% [markdown]
# ## What the teachers say
#
# > "BERT_CAT is the more effective teacher, but prohibitively expensive to use for in-batch negatives" (§2.3)
#
# So the pairwise margins $M_t(q, p^+) - M_t(q, p^-)$ come from a file, and ColBERT scores the whole matrix on the fly.
# The loss of a step is Equation (8), or the part of it that this system's teacher provides.

# %%
loss = training.objective(system, settings.of(system).training, lab.in_batch_teacher_of(system))
first = loss(scores, batch)
pd.Series({"total": first.total, "pairwise": first.pairwise, "in-batch": first.in_batch}, dtype=float).round(2)

# %% [markdown]
# That is the untrained student's loss. The loop that brings it down is short enough to read in full:

# %%
show(training.train)

# %% [markdown]
# ## Training until it stops helping
#
# > "we stop training a model after 30 evaluations have not improved the nDCG@10 metric" (§4.3)
#
# Early stopping re-ranks the candidates of the baseline (BM25's, for the baseline itself), with the relevant passages
# added: an approximation of a search over the whole collection, at a fraction of its cost. Step 0 is the untrained
# student.

# %%
part = frozen.trained_part(student.to(encode.device()), settings.of(system).training.frozen_layers)
lab.trained(system)  # now, if it has not been
start = lab.candidates(system).ndcg(part, lab.texts(system))
evaluations = [training.History(0, start, float("nan"), float("nan"), 0.0), *lab.history(system)]
history = pd.DataFrame(evaluations)
history.drop(columns="seconds").round(3)

# %% [markdown]
# *Before you look:* do the losses fall as long as nDCG@10 rises?

# %%
figures.training_history(evaluations, settings.of(system).training.weight(LOSS))

# %% [markdown]
# The weights kept are those of the best evaluation, as in the paper, or those of the last, if the profile says so: with
# a learning rate that falls to zero, the last are the ones that have settled.

# %%
last = settings.of(system).training.keep == "last"
kept = history.iloc[-1] if last else history.loc[history.ndcg.idxmax()]
f"kept: step {kept.step:.0f}, nDCG@10 {kept.ndcg:.3f} on the early-stopping set; the best: {history.ndcg.max():.3f}"

# %% [markdown]
# ## What it is worth
#
# Every passage is encoded, every test query is answered by exact search, and the run is scored as in §4.1. *nDCG@10*
# and *MRR@10* look at the first ten; *recall* asks what a re-ranker could still find. BM25 is shown for comparison.

# %%
tests, named = settings.evaluation.sets, {"BM25": experiment.BM25, system.name: system}
measured = {name: {test.name: lab.evaluate(row, test.name) for test in tests} for name, row in named.items()}
rows = {
    (test.label, name): {metrics.printed_name(m): metrics.mean(v) for m, v in of_sets[test.name].items()}
    for test in tests
    for name, of_sets in measured.items()
}
pd.DataFrame(rows).T.round(3)

# %% [markdown]
# ## Answer

# %% tags=["answer"]
from lecture import answers

tell = answers.Teller(measured, settings.evaluation, lab.families)
answers.say(
    f"`{system.name}` was trained for {history.step.max():,} steps; on the early-stopping set, nDCG@10 "
    f"{answers.change(start, kept.ndcg)} with the weights of step {kept.step:,.0f}, which are kept.",
    tell.step("With this student instead of BM25", "BM25", system.name, "nDCG", "R"),
    tell.note,
)

# %% [markdown]
# A student is trained to reproduce its teachers' score differences, batch by batch. A single row can only show whether
# it beats BM25 here; whether sampling or teacher is responsible needs the whole ablation (09).
#
# ## Where we differ
#
# Adam and the losses are the paper's; steps, learning rate and schedule, α, patience and the weights kept are the
# profile's, chosen on tune and stop ([CHANGELOG](../CHANGELOG.md)). On `docs` only the student's last layer is trained,
# from random weights, on stored states of the layers below (D20, D31). For the rest see rows D1, D3, D10, D12-D14, D32
# and D34 of [DEVIATIONS](../DEVIATIONS.md).
#
# ## Exercises
#
# **1.** Write Equation (8) in one line; `pair` and `crossed` are Equations (6) and (7).
#
# <details><summary>Hint</summary>
#
# Only one of the two losses has a weight.
#
# </details>


# %% tags=["exercise"]
def my_dual(pair, crossed, alpha):
    """Eq. 8 in one line."""
    # TODO


check(my_dual, (3.0, 2.0, 0.75), (1.0, 0.0, 0.5))

# %% [markdown]
# **2.** *Predict, then measure:* for the untrained student, is the in-batch loss of a random batch higher or lower than
# that of a batch from one cluster? Draw ten batches of each with `lab.sampler`, and average `loss(scores,
# batch).in_batch`.
#
# <details><summary>Hint</summary>
#
# `system.model_copy(update={"sampling": "random"})` is the system for `lab.sampler`; the scores come from
# `training.score_batch`, as above. For which of the two do the teacher's scores vary more?
#
# </details>
#
# **3. Open.** Run this notebook with `-p SAMPLING random` and with `-p SEED 2`. Which of the two changes the table
# more?
#
# ## Next
#
# 09 puts the systems side by side. And now the model is yours: type a question.

# %%
QUESTION = "how do I find the shortest path between two nodes"
found = []
for row in (experiment.BM25, system):
    places, _ = lab.runs.retriever(row)([QUESTION], 10)
    found.append([lab.collection.titles[place] if place >= 0 else "" for place in places[0]])
grid(zip(range(1, 11), *found, strict=True), ["rank", "BM25", "trained"])
