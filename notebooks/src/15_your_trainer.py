# %% [markdown]
# # 15 · Your data, your trainer: how do I use these batches elsewhere?
#
# *Paper:* §2.3 (Eq. 8), §3 (Eqs. 10-13). *Needs:* the training pairs (01), as a stand-in for your own.
# *Time on the default profile:* about a minute and a half on one core, once the pairs are made.
#
# You have your own triples (a query, a passage that answers it, one that does not) and train with
# [sentence-transformers](https://sbert.net). Two objects bring this paper into its `SentenceTransformerTrainer`: one
# composes the batches, the other is the loss with two teachers. Everything else stays unchanged.

# %% tags=["parameters"]
PROFILE = "docs"  # a file in profiles/
SAMPLING = "tas_balanced"  # random, tas, tas_balanced or hard_margin
STEPS = 60
SEED = 1  # of the batches

# %% [markdown]
# Nothing below depends on this suite's collection: the profile only lends us a few hundred queries, an encoder and a
# ColBERT.

# %%
from itertools import islice
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pandas as pd
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from transformers import PrinterCallback

# %%
from lecture.notebook import check, grid, show
from tas_lib import clustering, config, models, sampling
from tas_lib.data import shipped
from tas_lib.experiment import Experiment
from tas_lib.records import Pairs
from tas_lib.retrieval import pretrained
from tas_lib.train.trainer import DualTeacherLoss, TasBatches, queries_of

settings = config.load(PROFILE)
lab = Experiment(settings)
queries, passages, pairs = lab.collection.sets["train"].queries.texts, lab.collection.passages.texts, lab.pairs

# %% [markdown]
# ## A file of triples
#
# One JSON object per line: query, positive, negative, and the margin that a cross-encoder sees between the two
# passages. This is all that you have to bring. `SAMPLING = "tas"` ignores the margins; only the loss needs them then.

# %%
counts = np.diff(pairs.offsets)
distinct = np.unique(np.array(queries, str), return_index=True)[1]  # some collections ask a question twice
usable = distinct[counts[distinct] > 1]
chosen = np.sort(np.random.default_rng(0).choice(usable, min(500, len(usable)), replace=False))
rows = np.concatenate([np.arange(pairs.offsets[q], pairs.offsets[q + 1]) for q in chosen])
columns = {
    "query": [queries[q] for q in np.repeat(chosen, counts[chosen])],
    "positive": [passages[p] for p in pairs.pos[rows]],
    "negative": [passages[p] for p in pairs.neg[rows]],
    "label": pairs.margins[rows].astype(float),
}
folder = Path(mkdtemp())
pd.DataFrame(columns).to_json(folder / "triples.jsonl", orient="records", lines=True, double_precision=15)
f"{len(rows):,} triples of {len(chosen)} queries, {(folder / 'triples.jsonl').stat().st_size / 1e6:.1f} MB"

# %% [markdown]
# ## The dataset
#
# The trainer wants a `datasets.Dataset`, with the texts in the order query, positive, negative, and the number in a
# column called `label`. Its batches are lists of row numbers of this dataset. The last fifth of the queries is held
# out.

# %%
everything = Dataset.from_json(str(folder / "triples.jsonl"), cache_dir=str(folder))
last = chosen[-max(1, len(chosen) // 5) :]
held_out = int(counts[last].sum())
dataset = everything.select(range(len(everything) - held_out))
test = everything.select(range(len(dataset), len(everything))).shuffle(seed=0).select(range(min(600, held_out)))
shares = [("training", len(dataset), len(queries_of(dataset))), ("held out", len(test), len(last))]
grid(shares, ["", "triples", "queries"])

# %% [markdown]
# ## Clusters, from any embeddings
#
# > "We cluster the queries [...] using a k-means clustering algorithm" (§3)
#
# Equation (10) needs one vector per distinct query. The paper takes those of its baseline; the model that you are about
# to train, or any other, will do. *Before you run:* do neighbours in a cluster look alike to you?

# %%
student = SentenceTransformer(str(settings.encoder_path), device="cpu")
student.max_seq_length = settings.tokens.passage
names = queries_of(dataset)
clusters = clustering.kmeans(student.encode(names), max(1, len(names) // 50))
closest = [clustering.nearest(clusters, student.encode(names), k, 4) for k in np.argsort(-clusters.sizes)[:3]]
grid([(k, names[q]) for k, four in enumerate(closest) for q in four], ["cluster", "query"])

# %% [markdown]
# ## The batches
#
# `TasBatches` groups the rows by query, sorts each query's rows by margin and takes the clusters. The trainer calls it
# with its batch size and seed.

# %%
batches = TasBatches(dataset, clusters.members, STEPS, SAMPLING)
show(TasBatches.__call__)

# %% [markdown]
# ## The two teachers
#
# The first teacher is the column `label`. The second is any function that scores every query of a batch against every
# passage, given the student's tokens: here ColBERT (Equation 3), which must therefore have the same tokenizer. Stored
# vectors of any model work as well: `vector_teacher(query_vecs, passage_vecs)`, with labels `[margin, query, positive,
# negative]`, where the last three are indices into the two tables.

# %%
source, ids, mask = shipped.model(settings, "colbert"), "input_ids", "attention_mask"
assert pretrained.tokenizer_of(settings, source).get_vocab() == student.tokenizer.get_vocab()
colbert = pretrained.load_colbert(source)
loss = DualTeacherLoss(
    student,
    lambda q, p: models.late_interaction(colbert(q[ids], q[mask]), q[mask], colbert(p[ids], p[mask]), p[mask]),
    settings.training.alpha,
)
show(DualTeacherLoss.forward)

# %% [markdown]
# ## Training
#
# From here on it is their trainer and their arguments. `steps` above equals `max_steps`, so the training is one epoch:
# the paper has none, since every batch is a fresh draw.

# %%
arguments = SentenceTransformerTrainingArguments(
    output_dir=str(folder / "model"),
    batch_sampler=batches,
    per_device_train_batch_size=settings.sampling.batch_size,
    max_steps=STEPS,
    seed=SEED,
    learning_rate=settings.training.learning_rate,
    lr_scheduler_type="constant",
    logging_steps=max(1, STEPS // 6),
    save_steps=max(1, STEPS // 2),
    report_to="none",
    disable_tqdm=True,
    use_cpu=True,
)

# %%
trainer = SentenceTransformerTrainer(model=student, args=arguments, train_dataset=dataset, loss=loss)
trainer.remove_callback(PrinterCallback)
trainer.train()
logged = ["step", "pairwise", "in_batch"]
grid([[entry[name] for name in logged] for entry in trainer.state.log_history if "loss" in entry], logged)

# %% [markdown]
# `pairwise` and `in_batch` are the two parts of Equation (8), the second already times $\alpha$. Interrupt a training,
# and `trainer.train(resume_from_checkpoint=True)` resumes with the same batches.
#
# ## The same batches as ours
#
# *Before you run:* our loop numbers queries and passages by their index in the collection, the trainer numbers the
# rows of a dataset. Which of the two decides what is drawn?

# %%
n = len(names)
offsets = np.append(0, counts[chosen[:n]].cumsum())
ours = Pairs(offsets, *(table[rows[: offsets[-1]]] for table in pairs[1:]))
how = settings.sampling.model_copy(update={"margin_bins": batches.sampling.margin_bins})
sampler = sampling.make_sampler(SAMPLING, ours, clusters.members, how, SEED)
theirs = trainer.get_train_dataloader().batch_sampler
for step, batch in enumerate(islice(theirs, STEPS)):
    expected, seen = sampler.batch(step), dataset[batch]
    assert seen["query"] == [names[q] for q in expected.queries]
    assert seen["positive"] == [passages[p] for p in expected.pos]
    assert seen["negative"] == [passages[p] for p in expected.neg]
f"{STEPS} batches, row by row the same"

# %% [markdown]
# Neither: the same clusters, margins and seed give the same batches. Here is the beginning of the first one.

# %%
first = sampler.batch(0)
grid([(names[q], float(m)) for q, m in zip(first.queries[:8], first.margins, strict=False)], ["query", "margin"])

# %% [markdown]
# ## Did it learn?
#
# On the held-out queries: how far are the student's margins from the teacher's, and how often does it prefer the
# passage that the teacher prefers?

# %%
result = []
for name, model in {
    "untrained": SentenceTransformer(str(settings.encoder_path), device="cpu"),
    "trained": student,
}.items():
    q, pos, neg = (model.encode(test[column][:]) for column in ("query", "positive", "negative"))
    margins, teacher = ((q * pos).sum(1) - (q * neg).sum(1)), np.array(test["label"][:])
    result.append((name, float(np.abs(margins - teacher).mean()), float(((margins > 0) == (teacher > 0)).mean())))
grid(result, ["student", "mean error of the margin", "agrees with the teacher"])

# %% [markdown]
# ## Answer
#
# With two lines: `batch_sampler=TasBatches(dataset, clusters, steps)` among the trainer's arguments, and
# `loss=DualTeacherLoss(model, teacher)`. The batches are those of this suite, in any process and after interruptions.
# The table above shows how far sixty steps on 400 queries get, which is not far; only a test set shows what a training
# is worth in retrieval (09).
#
# ## Where we differ
#
# - sentence-transformers passes over all rows once per epoch; here, as in §3, every batch is a fresh draw.
# - Its trainer uses AdamW (without weight decay the same as Adam) and, unless told otherwise, a linear decay.
# - Several processes: each takes every N-th batch. With `accelerator_config={"split_batches": True}` they share each
#   batch; then the loss needs `gather_across_devices=True`.
#
# ## Exercises
#
# **1.** With `steps` batches per epoch, what is the number of batch $i$ of epoch $e$?
#
# <details><summary>Hint</summary>
#
# All epochs before it had `steps` batches each; numbers begin at 0.
#
# </details>


# %% tags=["exercise"]
def my_number(epoch, steps, i):
    """The step whose batch it is."""
    # TODO


check(my_number, (0, 60, 7), (2, 60, 7))

# %% [markdown]
# **2.** *Predict, then measure:* run this notebook with `-p SAMPLING random`. From how many clusters will a batch draw?
#
# <details><summary>Hint</summary>
#
# Compare the number of clusters with the number of queries in a batch.
#
# </details>
#
# **3.** Replace ColBERT by the vectors of another model with `vector_teacher`.
#
# <details><summary>Hint</summary>
#
# It needs vectors of queries and passages from the same model.
#
# </details>
#
# **4. Open.** Put your own file in place of `triples.jsonl` and compare both samplings on your own test set, with two
# seeds each.
#
# ## Next
#
# 05 explains the batches, 03 the loss; [README](../README.md) says how to bring a whole collection.
