# %% [markdown]
# # 00 · Where do I start?
#
# *Paper:* all of it, from above. *Needs:* nothing. *Time on the default profile:* seconds.
#
# These notebooks reproduce, explain and teach *Efficiently Teaching an Effective Dense Retriever with Balanced Topic
# Aware Sampling* (Hofstätter, Lin, Yang, Lin, Hanbury; SIGIR 2021). Keep the paper on the left and a notebook on the
# right: equations, tables and figures have the same numbers in both.
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
# ./run_all.sh        # sets itself up, then builds every figure and table; --help says more
# ./run_tests.sh      # the same set-up, then the tests
# ```
#
# A notebook is also a program with parameters. This trains one more system, with another order of the batches:
#
# ```
# papermill notebooks/06_training.ipynb out.ipynb -p SAMPLING tas -p SEED 3
# ```
#
# The parameters are the first code cell of every notebook, and the next cell refuses a name or a value that makes no
# sense before any work is done. Here is what stands in the folder today.

# %%
import importlib

from tas_lib import config, losses
from tas_lib.evaluation import metrics
from tas_lib.report.notebook import check, grid, show

settings = config.load(PROFILE)
sources = sorted((config.ROOT / "notebooks" / "src").glob("[0-9]*.py"))
heads = [path.read_text(encoding="utf-8").splitlines()[1] for path in sources]
titles = [head.removeprefix("# # ").split(" · ", 1) for head in heads]
grid(titles, ["notebook", "the question it answers"])

# %%
assert [number for number, _ in titles] == [path.name[:2] for path in sources]

# %% [markdown]
# ## The map
#
# 00 to 06 *explain*, one idea a notebook; 07 to 14 *measure*, one table or figure each. A number without a link is
# still to be written.
#
# | notebook | of the paper | what comes out |
# |---|---|---|
# | [01 collection](01_collection.ipynb) | §4.1 | passages, queries, judgements, BM25 |
# | [02 models](02_models.ipynb) | §2.1, §2.2, Eqs. 1-5 | the three architectures, their shapes and costs |
# | [03 losses](03_losses.ipynb) | §2.3, Eqs. 6-8 | what the two teachers ask of the student |
# | [04 clustering](04_clustering.ipynb) | §3, Eq. 10 | topics, **Figure 1** |
# | [05 sampling](05_sampling.ipynb) | §3, Eqs. 9, 11-13 | batches, **Figure 2** |
# | [06 training](06_training.ipynb) | §4.2, §4.3 | one trained system, and a search box |
# | [07 latency](07_latency.ipynb) | §2.2, §2.4 | **Tables 1 and 2** |
# | [08 losses compared](08_losses_compared.ipynb) | §5.1 | **Table 3** |
# | [09 ablation](09_ablation.ipynb) | §5.1, RQ1 | **Table 4** |
# | [10 robustness](10_robustness.ipynb) | §5.1, RQ2 | **Table 5** |
# | [11 dense retrieval compared](11_dense_compared.ipynb) | §5.2, RQ3 | **Table 6** |
# | [12 recall and pipelines](12_pipelines.ipynb) | §5.3, RQ4 | **Figure 3**, **Table 7** |
# | [13 what held](13_claims.ipynb) | all claims | a verdict on each |
# | [14 deviations](14_deviations.ipynb) | paper against public code | what the other choice changes, when asked for |
#
# In a hurry? Read 03 and 05, which hold the paper's two ideas, then 09. With an afternoon: 01 to 06 in order.
#
# ## A profile: the same notebooks, larger or smaller
#
# A profile is a file of settings: which collection, which encoder, how many steps. `docs` is the default and searches
# the documentation of the Python packages that this suite installs anyway; `smoke` is a few minutes of the same for the
# tests, and its numbers mean nothing. Notebooks and library do not change between them.
#
# A default is the paper's number with its section, or, where the paper is silent, the public code's with its row in
# [DEVIATIONS](../DEVIATIONS.md). For example, how a batch is composed:

# %%
show(config.Sampling)

# %% [markdown]
# A profile states only what it does otherwise, and a misspelt key is an error. *Before you run:* what will a laptop
# have to change, the size of a batch, the number of clusters, the number of training steps?

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
# What is not in this list is the default. The size of a batch and the number of margin ranges $h$ are the method
# itself; no profile of ours touches them. (The encoder, its pooling and the collection differ as well: D19 to D21.)

# %%
assert not {"sampling.batch_size", "sampling.margin_bins"} & {name for name, *_ in changed}

# %% [markdown]
# ## Notation
#
# | the paper | its meaning | our name |
# |---|---|---|
# | $q$, $q_{1:m}$ | a query, its tokens | `query`; a row of `tokens` |
# | $p$, $p^+$, $p^-$ | a passage, a relevant one, one that is not | `passage`, `pos`, `neg` |
# | $\hat q$, $\hat p$ (2, 4) | vectors, one a text or one a token | `vecs`, from `models.BertDot`, `models.ColBert` |
# | $W_s$ (1) | the scoring layer | `head` of `models.BertCat` |
# | $\sum\max$ (3) | late interaction | `models.late_interaction` |
# | $M_s$ (6) | the student's scores | `student`, (B, 2B): positives first, then negatives |
# | $M_t$ (6, 7, 12) | a teacher's scores | `teacher` (B, 2B); `margins` (B,), differences of two scores |
# | $Q, P^+, P^-$ (6-8) | the queries and passages of a batch | `records.Batch` |
# | $\mathcal{L}_{Pair}$ (6) | pairwise loss | `losses.margin_mse` |
# | $\mathcal{L}_{InB}$ (7) | in-batch loss | `losses.in_batch_margin_mse` |
# | $\mathcal{L}_{DS}$, $\alpha$ (8) | dual supervision, its weight | `losses.dual`, `training.alpha` |
# | $\mathcal{B}$, $b$ (9) | a batch, its queries | `sampler.batch(step)`, `batch_size` |
# | $P_q$ (9) | the training pairs of a query | a slice of `records.Pairs` |
# | $C_i$, $v_i$, $k$ (10) | a cluster, its centroid, how many | `clustering.Clusters`, `sampling.clusters` |
# | $n$ (11) | clusters a batch | `sampling.clusters_per_batch` |
# | $H(P_q, i)$, $h$ (12) | pairs in one range of margins, how many | `sampling.bin_bounds`, `sampling.margin_bins` |
# | $rand$ (9-13) | a random draw | `rng`, a function of seed and step |
#
# One-letter names stand for sizes only: B queries in a batch, T tokens, D width of a vector, K clusters. The next cell
# fails the day one of these names is no longer there.

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
# ## Words
#
# - **Passage, query, judgement.** A short text that can be found; a question; a person's word on how well the one
#   answers the other, a *grade*. The judgements of a set are its *qrels*.
# - **Run.** For every query a list of passages with scores. **Re-ranking** puts such a list into another order.
# - **Dense retrieval.** A model turns every text into one vector; the passages whose vectors have the highest dot
#   product with the query's are found. The vectors of passages are made once, before any query is known: the *index*.
# - **BM25.** The yardstick: counts shared words, rare ones more, with no training at all.
# - **nDCG@10** rewards high grades near the top of the first ten. **MRR@10** is one over the rank of the first relevant
#   passage, 0 beyond ten. **R@100** is the share of the relevant ones among the first hundred (R@1K: thousand).
#   **Judged@10** is the share of the first ten that anybody judged: where it is low, the other numbers are too.
# - **Teacher, student.** A slow and good model whose scores a fast one learns to imitate: *knowledge distillation*.
# - **Margin.** The score of a positive minus that of a negative passage. A large one is an easy pair.
# - **In-batch negatives.** The other queries' passages, already encoded, scored as well.
# - **Topic.** A cluster of training queries whose vectors lie close together.
# - **Baseline.** The student trained on random batches by the pairwise teacher; its vectors give the topics.
# - **System.** A row of a table: a teacher, a sampling, a loss, a batch size, a seed.
# - **Artefact.** What was computed and kept, in a folder of the store, with a note of what it was made from.
#
# ## How a notebook teaches
#
# It says what will happen, asks you to predict it, runs, and says what came out. Claims are followed by an `assert`;
# what has none is marked "we think". `show` prints a function of the library, which is meant to be read:

# %%
show(losses.margin_mse)

# %% [markdown]
# The first line of a docstring has the place in the paper. *Reading* marks what we had to interpret, *Source* what we
# followed; what differs from the print has a row in [DEVIATIONS](../DEVIATIONS.md), D1 and so on.
#
# ## Answer
#
# Start at [01](01_collection.ipynb) if you want the whole path, at [03](03_losses.ipynb) and
# [05](05_sampling.ipynb) if you want the two ideas, and at [09](09_ablation.ipynb) if you want the outcome.
#
# ## Where we differ
#
# The default profile answers the paper's questions on another, much smaller collection, with a smaller encoder and
# fewer steps (rows D19 and following of [DEVIATIONS](../DEVIATIONS.md)). What can be compared is which method beats
# which, not the values. The paper's own values stand beside ours in every table, in parentheses.
#
# ## Exercises
#
# An exercise is a stub and a check. Unfilled it says so, a wrong answer shows the first case that differs.
#
# 1. Order the passages of a run: falling score, equal scores by id. (Why does the rule for ties matter?)


# %% tags=["exercise"]
def my_ranking(passages):
    """Passage ids of {id: score} by falling score, then rising id."""
    # TODO


check(my_ranking, metrics.ranking, ({"b": 1.0, "a": 3.0},), ({"b": 1.0, "a": 1.0, "c": 2.0},))

# %% [markdown]
# 2. The reciprocal rank of one query: one over the place of the first relevant passage, 0 if it is not among the first
#    `k`. `relevant` is a set of ids.


# %% tags=["exercise"]
def my_reciprocal_rank(ranking, relevant, k):
    """What MRR@k averages over queries."""
    # TODO


check(
    my_reciprocal_rank,
    lambda ranking, relevant, k: max((1 / (i + 1) for i, p in enumerate(ranking[:k]) if p in relevant), default=0.0),
    (["a", "b", "c"], {"b", "c"}, 10),
    (["a", "b", "c"], {"c"}, 2),
)

# %% [markdown]
# 3. *Open:* copy `profiles/docs.yaml` to `profiles/mine.yaml`, halve the number of clusters, and run
#    `./run_all.sh mine figure1`. Which of the eight topics would you have split?
#
# ## Next
#
# [01](01_collection.ipynb): what is searched, and who says what is right.
