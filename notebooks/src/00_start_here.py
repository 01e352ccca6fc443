# %% [markdown]
# # 00 · Where do I start?
#
# *Paper:* all of it, in outline. *Needs:* nothing. *Time on the default profile:* seconds.
#
# These notebooks reproduce, explain and teach *Efficiently Teaching an Effective Dense Retriever with Balanced Topic
# Aware Sampling* (Hofstätter, Lin, Yang, Lin, Hanbury; SIGIR 2021). Keep the paper on the left and a notebook on the
# right: equations, tables and figures carry the same numbers in both.
#
# > "We cluster queries once before training and sample queries out of a cluster per batch. We train our lightweight
# > 6-layer DR model with a novel dual-teacher supervision that combines pairwise and in-batch negative teachers."
# > (Abstract)

# %% tags=["parameters"]
PROFILE = "docs"  # a file in profiles/

# %% [markdown]
# ## Two commands
#
# ```
# ./run_all.sh        # sets itself up, then builds every figure and table; see --help
# ./run_tests.sh      # the same set-up, then the tests
# ```
#
# A notebook is also a program with parameters. This trains one more system, with another random seed:
#
# ```
# papermill notebooks/06_training.ipynb out.ipynb -p SAMPLING tas -p SEED 3
# ```
#
# The parameters are the first code cell of every notebook. The next cell validates them, so that a wrong name or value
# fails before any work is done. Here are the notebooks:

# %%
import importlib

from lecture import pictures
from lecture.notebook import check, grid, show
from tas_lib import config, losses

settings = config.load(PROFILE)
sources = sorted((config.ROOT / "notebooks" / "src").glob("[0-9]*.py"))
heads = [path.read_text(encoding="utf-8").splitlines()[1] for path in sources]
titles = [head.removeprefix("# # ").split(" · ", 1) for head in heads]
grid(titles, ["notebook", "the question it answers"])

# %%
assert [number for number, _ in titles] == [path.name[:2] for path in sources]

# %% [markdown]
# And here is the method on one page. Step 1 happens once, 2 to 5 in every training step, and 6 after training.

# %%
pictures.method()

# %% [markdown]
# ## The map
#
# 00 to 06 *explain*, one idea per notebook; 07 to 14 *measure*, one table or figure each.
#
# | notebook | in the paper | what comes out |
# |---|---|---|
# | [01 collection](01_collection.ipynb) | §4.1 | passages, queries, judgements, BM25 |
# | [02 models](02_models.ipynb) | §2.1, §2.2, Eqs. 1-5 | the three architectures, their shapes and costs |
# | [03 losses](03_losses.ipynb) | §2.3, Eqs. 6-8 | what the two teachers ask of the student |
# | [04 clustering](04_clustering.ipynb) | §3, Eq. 10 | clusters of queries, **Figure 1** |
# | [05 sampling](05_sampling.ipynb) | §3, Eqs. 9, 11-13 | batches, **Figure 2** |
# | [06 training](06_training.ipynb) | §4.2, §4.3 | one trained system, and a search box |
# | [07 latency](07_latency.ipynb) | §2.2, §2.4 | **Tables 1 and 2** |
# | [08 losses compared](08_losses_compared.ipynb) | §5.1 | **Table 3** |
# | [09 ablation](09_ablation.ipynb) | §5.1, RQ1 | **Table 4** |
# | [10 robustness](10_robustness.ipynb) | §5.1, RQ2 | **Table 5** |
# | [11 dense retrieval compared](11_dense_compared.ipynb) | §5.2, RQ3 | **Table 6** |
# | [12 recall and pipelines](12_pipelines.ipynb) | §5.3, RQ4 | **Figure 3**, **Table 7** |
# | [13 what held](13_claims.ipynb) | all claims | a verdict on each |
# | [14 deviations](14_deviations.ipynb) | paper against public code | what the other choice changes (on request) |
# | [15 your trainer](15_your_trainer.ipynb) | §2.3, §3 | batches and loss for sentence-transformers (on request) |
#
# In a hurry? Read 03 and 05, which hold the paper's two ideas, then 09. With an afternoon: 01 to 06 in order.
#
# ## A profile: the same notebooks, larger or smaller
#
# A profile is a file of settings: which collection, which encoder, how many steps. `docs` is the default and searches
# the documentation of the Python packages that this suite installs anyway; `smoke` runs the same in a few minutes for
# the tests; its numbers mean nothing. Notebooks and library do not change between profiles.
#
# Each default is the paper's number, with its section; where the paper is silent, it is the public code's, with its row
# in [DEVIATIONS](../DEVIATIONS.md). For example, how a batch is composed:

# %%
show(config.Sampling)

# %% [markdown]
# A profile states only what it changes, and a misspelt key is an error. *Before you run:* what does a laptop have to
# change: the batch size, the number of clusters, the number of training steps?

# %%
parts = {part: getattr(settings, part) for part in ("tokens", "sampling", "training", "stop")}
compared = [
    (f"{part}.{name}", field.default, getattr(value, name))
    for part, value in parts.items()
    for name, field in type(value).model_fields.items()
]
changed = [(name, str(default), str(here)) for name, default, here in compared if default != here]
grid(changed, ["setting", "default", f"profile {PROFILE}"])

# %% [markdown]
# Everything not listed here keeps its default. The batch size and the number of margin ranges $h$ are the method
# itself; none of our profiles changes them. (The encoder, its pooling and the collection differ as well: D19 to D21.)

# %%
assert not {"sampling.batch_size", "sampling.margin_bins"} & {name for name, *_ in changed}

# %% [markdown]
# ## Notation
#
# | the paper | its meaning | our name |
# |---|---|---|
# | $q$, $q_{1:m}$ | a query, its tokens | `query`; a row of `tokens` |
# | $p$, $p^+$, $p^-$ | a passage, a relevant one, a non-relevant one | `passage`, `pos`, `neg` |
# | $\hat q$, $\hat p$ (2, 4) | vectors, one per text or token | `vecs`, from `models.BertDot`, `models.ColBert` |
# | $W_s$ (1) | the scoring layer | `head` of `models.BertCat` |
# | $\sum\max$ (3) | late interaction | `models.late_interaction` |
# | $M_s$ (6) | the student's scores | `student`, (B, 2B): positives first, then negatives |
# | $M_t$ (6, 7, 12) | a teacher's scores | `teacher` (B, 2B); `margins` (B,), differences of two scores |
# | $Q, P^+, P^-$ (6-8) | the queries and passages of a batch | `records.Batch` |
# | $\mathcal{L}_{Pair}$ (6) | pairwise loss | `losses.margin_mse` |
# | $\mathcal{L}_{InB}$ (7) | in-batch loss | `losses.in_batch_margin_mse` |
# | $\mathcal{L}_{DS}$, $\alpha$ (8) | dual supervision, its weight | `losses.dual`, `training.alpha` |
# | $\mathcal{B}$, $b$ (9) | a batch, its size in queries | `sampler.batch(step)`, `batch_size` |
# | $P_q$ (9) | the training pairs of a query | a slice of `records.Pairs` |
# | $C_i$, $v_i$, $k$ (10) | a cluster, its centroid, how many | `clustering.Clusters`, `sampling.clusters` |
# | $n$ (11) | clusters per batch | `sampling.clusters_per_batch` |
# | $H(P_q, i)$, $h$ (12) | pairs in one margin range, how many ranges | `sampling.bin_bounds`, `sampling.margin_bins` |
# | $rand$ (9-13) | a random draw | `rng`, a function of seed and step |
#
# One-letter names are for sizes only: B queries in a batch, T tokens, D vector width, K clusters. The next cell fails
# if one of these names disappears from the library.

# %%
names = {
    "models": ["BertDot", "BertCat", "ColBert", "late_interaction"],
    "losses": ["margin_mse", "in_batch_margin_mse", "dual"],
    "clustering": ["Clusters"],
    "sampling": ["bin_bounds"],
    "records": ["Batch", "Pairs"],
}
for module, wanted in names.items():
    assert set(wanted) <= set(dir(importlib.import_module(f"tas_lib.{module}"))), module
assert {"clusters", "clusters_per_batch", "margin_bins", "batch_size"} <= set(config.Sampling.model_fields)
assert "alpha" in config.Training.model_fields

# %% [markdown]
# ## Glossary
#
# - **Passage, query, judgement.** A short text to be found; a question; a person's verdict on how well the one answers
#   the other, as a *grade*. The judgements of a test set are its *qrels*.
# - **Run.** For every query a list of passages with scores. **Re-ranking** reorders such a list.
# - **Dense retrieval.** A model turns every text into one vector; the passages retrieved are those whose vectors have
#   the highest dot product with the query's. Passage vectors are computed once, before any query is known: the *index*.
# - **BM25.** The yardstick: lexical matching that gives rare words more weight, with no training at all.
# - **nDCG@10** rewards high grades near the top of the first ten. **MRR@10** is one over the rank of the first relevant
#   passage, 0 beyond ten. **R@100** is the share of relevant passages among the first hundred (R@1K: thousand).
#   **Judged@10** is the share of the first ten that have a judgement: where it is low, the other measures are too.
# - **Teacher, student.** A slow, accurate model whose scores a fast one learns to imitate: *knowledge distillation*.
# - **Margin.** The score of a positive minus that of a negative passage. A large margin means an easy pair.
# - **In-batch negatives.** The other queries' passages: already encoded, so scored as well.
# - **Cluster.** A group of training queries whose vectors lie close together; the paper's *topic*.
# - **Baseline.** The student trained on random batches by the pairwise teacher; its query vectors are clustered.
# - **System.** A row of a table: a teacher, a sampling strategy, a loss, a batch size, a seed.
# - **Artefact.** A computed result, kept in a folder of the store with a record of what it was made from.
#
# ## How a notebook teaches
#
# It explains, asks for a prediction, runs, and says what came out. Claims are followed by an `assert`; those without
# are marked "we think". `show` prints a function of the library, which is meant to be read:

# %%
show(losses.margin_mse)

# %% [markdown]
# The first line of a docstring gives the place in the paper. *Reading* marks our interpretation, *Source* what we
# followed; each departure from the printed text has a row in [DEVIATIONS](../DEVIATIONS.md), D1 and so on.
#
# ## Answer
#
# Start at [01](01_collection.ipynb) if you want the whole path, at [03](03_losses.ipynb) and [05](05_sampling.ipynb) if
# you want the two ideas, and at [09](09_ablation.ipynb) if you want the outcome.
#
# ## Where we differ
#
# The default profile asks the paper's questions on another, much smaller collection, with a smaller encoder and fewer
# steps (rows D19 and following of [DEVIATIONS](../DEVIATIONS.md)). Compare which method beats which, not the values.
# Every table shows the paper's own values in parentheses beside ours.
#
# ## Exercises
#
# An exercise is a stub and a check. Left empty, it says so; a wrong answer shows the first case that differs from the
# solution.
#
# **1.** Order the passages of a run by descending score, ties by descending id, as trec_eval does. (Why does the tie
# rule matter?)
#
# <details><summary>Hint</summary>
#
# `sorted` compares tuples item by item; its `key` can return one.
#
# </details>


# %% tags=["exercise"]
def my_ranking(passages):
    """Passage ids of {id: score} by falling score, then falling id."""
    # TODO


check(my_ranking, ({"b": 1.0, "a": 3.0},), ({"b": 1.0, "a": 1.0, "c": 2.0},))

# %% [markdown]
# **2.** The reciprocal rank for one query: one over the rank of the first relevant passage, or 0 if none is among the
# first `k`. `relevant` is a set of ids.
#
# <details><summary>Hint</summary>
#
# Ranks begin at 1, and only `ranking[:k]` counts. `enumerate` takes a start.
#
# </details>


# %% tags=["exercise"]
def my_reciprocal_rank(ranking, relevant, k):
    """What MRR@k averages over queries."""
    # TODO


check(my_reciprocal_rank, (["a", "b", "c"], {"b", "c"}, 10), (["a", "b", "c"], {"c"}, 2))

# %% [markdown]
# **3. Open.** Copy `profiles/docs.yaml` to `profiles/mine.yaml`, halve the number of clusters, and run `./run_all.sh
# mine figure1`. Which of the eight clusters would you have split?
#
# ## Next
#
# [01](01_collection.ipynb): what is searched, and who says what is right.
