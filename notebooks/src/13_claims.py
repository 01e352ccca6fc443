# %% [markdown]
# # 13 · What held, and what did not?
#
# *Paper:* §§1-6, whatever its tables, Figure 3, batches and clusters can test. *Needs:* the trained systems (06) and
# the pipelines (12). *Time on the default profile:* one or two minutes, once these have run.
#
# A table shows numbers; a paper says what they mean. Here we test its sentences, one by one, by rules that were fixed
# before the systems of these tables were trained, or the pipelines run.

# %% tags=["parameters"]
PROFILE = "docs"  # a file in profiles/

# %% [markdown]
# The rules are in the library, not in this notebook, so that nobody can bend them while looking at the results. The
# notebook adds the measurements that are not scores: of pairs, clusters, batches, losses, recall and time.

# %%
import math
import re
from functools import partial
from timeit import repeat

import numpy as np
import torch
from IPython.display import Markdown
from numpy.random import Generator, Philox

from lecture.notebook import check, grid, show
from tas_lib import config, experiment, losses, sampling

# %% [markdown]
# ## The claims
#
# Each has its section of the paper, our wording, and a rule. A `>` between spaces claims that the system on its left is
# better; `tas_b>duo`, without spaces, is one system; `=` claims that there is no difference; a number has bounds. The
# legend above the results lists the systems. *Before you look further:* which five would you bet on, and which against?
# %%
from tas_lib.data import shipped, tokens
from tas_lib.evaluation import claims, comparisons, metrics
from tas_lib.report import claims_page, curves, following, latency
from tas_lib.retrieval import cross_encoder, dense, encode, fusion, pretrained
from tas_lib.train import loop, teachers

settings = config.load(PROFILE)
lab, measured = experiment.Experiment(settings), {}
grid([[c.words, f"§{c.section}", c.rule] for c in claims.paper_claims()], ["claim", "paper", "rule"])

# %% [markdown]
# ## Two kinds of chance
#
# A difference between two systems can be due to chance in two ways: other queries might have reversed it, and so might
# another random seed. Its standard error has a part for each (notebook 10): the queries' by families, since linked
# queries are not independent, and the seeds' from all systems with several. And a difference that nobody saw may still
# be there: *no difference* has to be shown, by two one-sided tests, to be less than one point.

# %%
show(comparisons.estimate, comparisons.strength, claims.of_difference, claims.of_no_difference)

# %% [markdown]
# The p values are corrected (Holm) within groups of claims: teachers, sampling, losses and so on. The paper's letters
# are uncorrected and ignore seeds, so our *holds* requires more.
#
# ## Pairs and lengths
#
# > the teacher's signal "confirms in almost all cases the binary relevance ordering" (§2.3)
#
# A margin above 0 is a pair where teacher and label agree. A text at the maximum length may have been cut; so the share
# of such texts is an upper bound on those cut.

# %%
asked = np.concatenate([lab.tokens[name].lengths for name in lab.collection.sets])
at_cap = [np.mean(asked >= settings.tokens.query), np.mean(lab.tokens["passages"].lengths >= settings.tokens.passage)]
measured |= {
    "share of training pairs with a margin above 0": float(np.mean(np.asarray(lab.pairs.margins) > 0)),
    "share of texts at the cap, of queries or of passages": float(max(at_cap)),
}
grid(measured.items(), ["measured", "value"])

# %% [markdown]
# ## Clusters
#
# Two queries from one cluster, a hundred draws per cluster: how often do they share no word of four letters or more?
# Notebook 04 asks the same and shows examples.

# %%
rng = Generator(Philox(key=[0, 13]))
queries, topics = lab.collection.sets["train"].queries.texts, lab.clusters.members
words = [set(re.findall(r"[a-z]{4,}", query.lower())) for query in queries]
mates = [rng.choice(topic, 2, replace=False) for topic in topics if len(topic) > 1 for _ in range(100)]
apart = float(np.mean([words[a].isdisjoint(words[b]) for a, b in mates]))
measured["share of query pairs of a cluster without a common word"] = apart
apart

# %% [markdown]
# ## Batches
#
# The first three hundred batches of the three samplings, as training sees them (notebook 05 explains them). How many
# clusters do they mix, and does any batch occur twice?

# %%
b, h, n = settings.sampling.batch_size, settings.sampling.margin_bins, settings.sampling.clusters_per_batch
samplers = {s: lab.sampler(config.System(sampling=s, batch_size=b)) for s in ("random", "tas", "tas_balanced")}
drawn = {name: [sampler.batch(step) for step in range(300)] for name, sampler in samplers.items()}
same = np.mean([(t[:, None] == t).sum() - b for t in (lab.clusters.assignment[one.queries] for one in drawn["random"])])
contents = [(name, frozenset(zip(*one[:3], strict=True))) for name in drawn for one in drawn[name]]
measured["share of mixed batches"] = sampling.mixed_share(drawn["tas"], lab.clusters.assignment, n)
measured["share of a random batch's query pairs from two clusters"] = float(1 - same / (b * (b - 1)))
measured["batches that came twice"] = len(contents) - len(set(contents))
grid(list(measured.items())[-3:], ["measured", "value"])

# %% [markdown]
# Next, which pairs are drawn. TAS-Balanced draws a range of margins first (Equation 13), so all ranges should be
# equally frequent, and the upper half of them, where the negatives are easy, less frequent than before.

# %%
ranges = {}
for name in ("tas", "tas_balanced"):
    q, margins = (np.concatenate([getattr(one, part) for one in drawn[name]]) for part in ("queries", "margins"))
    ranges[name] = np.bincount(sampling.bin_numbers(lab.pairs, q, margins, h), minlength=h)
flat, before = ranges["tas_balanced"], ranges["tas"]
upper = flat[h // 2 :].sum() / before[h // 2 :].sum()
measured["chance of the most drawn range over that of the least"] = float(flat.max() / max(flat.min(), 1))
measured["share of pairs from the upper half of the ranges, over TAS"] = float(upper)
grid(list(measured.items())[-2:], ["measured", "value"])

# %% [markdown]
# And the in-batch negatives: the mean margin that the in-batch teacher sees between a query's own positive and the
# *other* queries' passages. A smaller margin is a harder negative. *Before you run:* by how much should drawing a batch
# from one cluster bring it down?

# %%
others = ~torch.eye(b, dtype=torch.bool).repeat(1, 2)  # (B, 2B)
margin = {}
for name in ("random", "tas"):
    scores = [lab.in_batch_teacher.scores(one, torch.device("cpu")) for one in drawn[name][:20]]
    margin[name] = float(torch.stack([losses.crossed_margins(one)[others].mean() for one in scores]).mean())
measured["teacher's mean in-batch margin, TAS over random"] = margin["tas"] / margin["random"]
grid(margin.items(), ["sampling", "mean margin of the in-batch teacher"])

# %% [markdown]
# ## Training
#
# Each training logs both losses and the step at which it stopped. Their ratio is taken after weighting by α, as they
# enter Equation (8), and depends on how Equation (7) is read ([D1](../DEVIATIONS.md)); which loss is higher is judged
# before weighting.

# %%
trained = {key: system for key, system in settings.systems.items() if system.kind == "trained"}
logs = {key: lab.history(system) for key, system in trained.items()}
both = [row for key in ("dual/random", "dual/tas", "dual/tas_balanced") for row in logs.get(key, [])]
if both:
    in_batch, pairwise = (np.array([getattr(row, part) for row in both]) for part in ("in_batch", "pairwise"))
    ratio = settings.training.alpha * in_batch.mean() / pairwise.mean()
    measured["α times the mean in-batch loss over the mean pairwise loss"] = float(ratio)
    measured["share of evaluations with the in-batch loss above"] = float(np.mean(in_batch > pairwise))
can_stop = [(key, s) for key, system in trained.items() if (s := settings.of(system).training).min_steps < s.steps]
ended = [logs[key][-1].step < of_system.steps for key, of_system in can_stop]
if ended:
    measured["share of systems that stopped before the last step"] = float(np.mean(ended))
grid(list(measured.items())[-3:], ["measured", "value"])

# %% [markdown]
# And how far is each student from the in-batch teacher's margins, in batches that it was trained on? Margin-MSE asks
# for the teacher's scores, a list loss for its order (§5.1).

# %%
keys = [f"dual/tas_balanced{loss}" for loss in ("", "/kldiv", "/listnet", "/lambdarank")]
errors = following.margin_errors(lab, [lab.listed[key] for key in keys], drawn["tas_balanced"][:20])
measured["error of in-batch margins, Margin-MSE over the best list loss"] = errors[0] / min(errors[1:])
grid(zip(keys, errors, strict=True), ["system", "root mean squared error of the in-batch margins"])

# %% [markdown]
# > "The random sampling does not slow down our training loop" (§3)
#
# Sampling runs alongside the training loop, and would hardly matter even if it did not. We compare the slowest of the
# three samplings with the fastest training step, evaluations included. Times vary from run to run, so we round up to
# whole tenths.

# %%
slowest = max(min(repeat(lambda s=s: [s.batch(i) for i in range(100)], number=1, repeat=3)) for s in samplers.values())
steps = [(row := rows[-1]).seconds / row.step for rows in logs.values()]
if steps:
    tenths = math.ceil(10 * slowest / 100 / min(steps)) / 10
    measured["time of composing over that of a step, rounded up to tenths"] = tenths
    print(f"composing a batch takes under a tenth of a step: {tenths <= 0.1}")

# %% [markdown]
# ## Recall at every cutoff
#
# Figure 3's lines on the graded sets (notebook 12 draws them): at what share of the cutoffs is one above others?

# %%
at, graded = curves.cutoffs(settings.evaluation.depth), [test for test in settings.evaluation.sets if test.graded]
lines = ("bm25", "d2q", "pairwise/random", "in_batch/random", "tas_b", "d2q+tas_b")
recall = {key: [] for key in lines if key in lab.listed and lab.can_run(lab.listed[key])}
for key, values in recall.items():
    for test in graded:
        run, qrels = lab.run(lab.listed[key], test.name), lab.collection.sets[test.name].qrels
        values += metrics.recall_curve(run, qrels, at, test.binarise_at)
measured |= (shares := claims.from_recall(recall))
grid(shares.items(), ["measured", "value"])

# %% [markdown]
# ## Query latency
#
# > "always computing roughly the same number of operations reduces the volatility of the latency" (§2.2)
#
# A hundred queries, one by one and in tens; notebook 07 takes their times apart. Each is answered ten times, and its
# shortest time counts: other programs make times longer, and the claim is not about them. Fusion needs both lists,
# which can be computed in parallel, and then their sum. All times are rounded as coarsely as the bounds allow, and hold
# for this collection on this machine: a small collection is searched quickly.

# %%
baseline, depth, device = lab.baseline, settings.evaluation.depth, encode.device()
model, tokenizer = lab.bi_encoder(baseline).load(), tokens.load_tokenizer(settings.encoder_path)
find = partial(dense.dense, passages=lab.vectors(baseline).to(device), depth=depth)
answer = partial(latency.answering, model, tokenizer, settings.tokens.query, find, 64)
by_words, one, ten = lab.runs.retriever(experiment.BM25), *(latency.least(answer, queries[:100], n) for n in (1, 10))
two = [lab.run(system, settings.evaluation.sets[0].name) for system in (baseline, experiment.BM25)]
seconds = min(repeat(lambda: fusion.interpolate(*two, alpha=1, depth=depth), number=1, repeat=3))
measured["milliseconds of a query, rounded up to tens"] = 10 * math.ceil(one.mean / 10)
measured["time of ten queries over that of one, rounded up to fives"] = 5 * math.ceil(ten.mean / one.mean / 5)
measured["99th percentile over mean of a query's time, rounded up to fifths"] = math.ceil(5 * one.tail / one.mean) / 5
words = min(repeat(lambda: [by_words([query], depth) for query in queries[:100]], number=1, repeat=3))
measured["milliseconds of merging two lists, rounded up"] = math.ceil(1e3 * seconds / len(two[0]))
measured["time of a query, dense over BM25, rounded up to halves"] = math.ceil(2 * one.mean / (10 * words)) / 2
grid([(name, f"{value:g}") for name, value in [*measured.items()][-5:]], ["measured", "value"])

# %% [markdown]
# ## What is paid once
#
# Clustering, relative to the shortest training that uses it. And the in-batch teacher on one batch: all vectors
# computed afresh, or taken from those that training keeps; for comparison BERT_CAT, which would have to read each query
# of the batch with each passage. We time it on each query's own two; all pairs take that times the number of queries.

# %%
cat = pretrained.load_cross_encoder(shipped.model(settings, "cat")).to(device)
colbert = pretrained.load_colbert(shipped.model(settings, "colbert")).to(device)
batch, texts = drawn["random"][0], (lab.tokens["train"], lab.tokens["passages"])
own = np.tile(batch.queries, 2), np.concatenate([batch.pos, batch.neg])
every = loop.InBatchTeacher(*(teachers.FreshVectors(colbert, of) for of in texts))
calls = [partial(every.scores, batch, device), partial(lab.in_batch_teacher.scores, batch, device),
         partial(cross_encoder.cat_scores, cat, *texts, *own, 32)]  # fmt: skip
with torch.inference_mode():
    fresh, kept, pairs = (min(latency.time_boxed(call, 1, 1).ms) for call in calls)
measured["in-batch time, kept vectors over new, rounded up to tenths"] = math.ceil(10 * kept / fresh) / 10
measured["in-batch time, ColBERT over BERT_CAT, rounded up to tenths"] = math.ceil(10 * fresh / pairs / b) / 10
if times := [logs[key][-1].seconds for key, system in trained.items() if system.sampling != "random"]:
    tenths = math.ceil(10 * lab.clustering_s / min(times)) / 10
    measured["time of clustering over the shortest training, rounded up to tenths"] = tenths
grid([(name, f"{value:g}") for name, value in [*measured.items()][-3:]], ["measured", "value"])

# %% [markdown]
# ## The verdicts
#
# The scores of all systems, query by query, and the measurements above are now judged. A claim about a system that the
# profile does not train reads *not run*.

# %%
scores = lab.scores(dict.fromkeys(system for claim in claims.paper_claims() for system in claim.systems))
verdicts = claims.judge(scores, measured, settings.evaluation, lab.families)
sights = comparisons.sight(scores, settings.evaluation, lab.families)
claims_page.write(verdicts, sights, settings.figures)
Markdown(claims_page.markdown(verdicts, sights))

# %% [markdown]
# How did your bets do? First the counts, then the individual comparisons: how many are significant before (*seen*) and
# after (*clear*) the correction, as claimed and opposite, and how many pairs were shown to be equal?

# %%
grid([(name, sum(v.verdict == name for v in verdicts)) for name in claims.VERDICTS], ["verdict", "claims"])

# %%
cells = claims_page.frame(verdicts)
cells = cells[cells.rule.str.contains(" > ") & cells.difference.notna()].drop_duplicates(["better", "worse", "column"])
sizes = cells.strength.abs()
seen = {"clear": sizes == 2, "seen": sizes >= 1, "shown to be equal": cells.equal == True, "any": sizes >= 0}  # noqa: E712
counts = [(name, *(int((s & (sign * cells.difference > 0)).sum()) for sign in (1, -1))) for name, s in seen.items()]
grid(counts, ["comparisons", "as claimed", "opposite"])

# %% [markdown]
# The last line counts each comparison of systems once. If the claims were empty, its two numbers would be about equal;
# the lines above it say how much of the gap could be due to chance.
#
# ## What failed, and where
#
# For every claim that does not hold, the opposing comparison with the smallest p, with its standard error; a measured
# number is shown with its rule.

# %%
failed = [v for v in verdicts if v.verdict == "does not hold"]
against = [[c for c in v.comparisons if c.difference < 0 or v.claim.kind == "same"] for v in failed]
worst = [min(some, key=lambda c: c.p, default=None) for some in against]
rows = [
    [v.claim.words, f"{c.better} and {c.worse}" if c else v.claim.rule, c.column if c else "",
     f"{c.difference:+.3f}, standard error {c.error:.3f}" if c else v.evidence]
    for v, c in zip(failed, worst, strict=True)
]  # fmt: skip
grid(rows, ["claim", "systems, or the rule", "column", "found"])

# %% [markdown]
# A failure has three possible reasons, and a table alone does not tell which. Ask of each row:
#
# - **Our scale?** One trained layer, thousands of queries, minutes of training: is there room for the effect at all?
#   Would it show on a tune set with more steps, or a larger encoder?
# - **Our code?** Does the sampler, or the loss, do what its equation says (notebooks 03, 05)? Is there a row in
#   [DEVIATIONS](../DEVIATIONS.md) on which this comparison depends?
# - **The paper?** Would its own table pass our tests? Did the 2023 study find the same on MS MARCO?

# %% [markdown]
# ## Answer

# %% tags=["answer"]
from lecture import answers

tell, new = answers.Teller(scores, settings.evaluation, lab.families), "dual/tas_balanced"
same = {name: (f"{name}/random", f"{name}/tas_balanced") for name in ("pairwise", "in_batch", "dual")}
known = [tell.estimate(*same["dual"], "nDCG")] if tell.ran(*same["dual"]) else []
works = ["Not shown" if one.p >= 0.05 else "Yes" if one.difference > 0 else "No" for one in known] or ["Not run"]
least = [answers.decimals(one.smallest()) for one in known] or ["not run"]
steps = {f"**Does TAS-Balanced work?** {works[0]}. Instead of random batches (both teachers)": same["dual"],
         "Instead of BM25": ("bm25", new), "**How large in total?** Instead of labels alone": ("labels", new),
         "With both teachers but random batches instead of labels alone": ("labels", "dual/random")}  # fmt: skip
where = [f"{name}, {tell.tally([pair], 'nDCG', 'RR', 'R')}" for name, pair in same.items()]
answers.say(
    *(tell.step(lead, *pair, "nDCG", "R") for lead, pair in steps.items()),
    f"**Where not?** TAS-Balanced against random batches, by set and measure: {'; '.join(where)}.",
    f"**How sure?** {tell.note} The smallest effect on nDCG@10 that is found four times in five: {least[0]}.",
    f"Claims: {answers.listed(f'{sum(v.verdict == x for v in verdicts)} {x}' for x in claims.VERDICTS)}.",
)

# %% [markdown]
# The table above answers claim by claim: what *holds* is beyond both kinds of chance, in enough columns, after
# correction. *Same direction* means consistent with the paper, but not shown; *undecided*, that this experiment is too
# small to tell, as its last table shows; *no difference*, that any is less than a point. And a claim that *does not
# hold* here does not hold *for this collection, these teachers and this length of training*: one experiment at another
# scale can say no more about it. The method consists of teachers and batches: the claims about labels show what each is
# worth.
#
# ## Where we differ
#
# - The paper's letters are uncorrected t-tests over queries; ours go by family, and *holds* also requires Holm's
#   correction and counts the chance of the seeds.
# - Where the paper gives a word and no number, the bound is ours; the rule quotes the word.
# - Sizes ("by 44%") belong to MS MARCO; we test them as they are printed, beside the directions. We do not test what
#   the paper says of one query set in particular, or of methods other than ours.
# - Of Tables 1 and 2 we test ratios, and the milliseconds of §2.2 on our own collection. GPUs, their memory, hours and
#   the minute for 400K queries belong to another student and other hardware; "× 1-4" counts teachers.
# - One small encoder-decoder replaces the paper's mono and duo, and words chosen by regression replace docT5query's
#   queries ([D28](../DEVIATIONS.md)). Re-ranked systems are compared on the queries that they re-ranked, a sample for
#   the ungraded set.
# - The batch sizes and the numbers of clusters are the profile's (README).
#
# ## Exercises
#
# **1.** Test many claims, and some hold by chance. Write Holm's correction: the smallest of $m$ p values is multiplied
# by $m$, the next by $m - 1$, and so on; no product may exceed 1, and none may be smaller than one before it.
#
# <details><summary>Hint</summary>
#
# `np.argsort` gives the order; keep the largest product so far, and write each result where its p value was.
#
# </details>


# %% tags=["exercise"]
def my_holm(p_values):
    """The adjusted p values, in the order given."""
    # TODO


check(my_holm, ([0.01, 0.04, 0.03],), ([0.6, 0.001, 0.6],), ([0.02],))

# %% [markdown]
# **2.** Take a claim with the verdict *same direction*. Which columns are missing, and why? `claims.csv` has every
# comparison on its own line.
#
# <details><summary>Hint</summary>
#
# Look at the signs first, then at the corrected p values.
#
# </details>
#
# **3.** Find a sentence of the paper that is not in the list and that these systems could test. Write its rule *before*
# you look at the numbers.
#
# <details><summary>Hint</summary>
#
# A rule names two systems, the columns, and what would refute the sentence.
#
# </details>
#
# **4. Open.** One deviation between seeds is used for all systems. Compare that of `dual/random` with that of
# `dual/tas_balanced` (notebook 10): is it the same?
#
# ## Next
#
# Back to [00](00_start_here.ipynb), or to your own question: your own profile, and the same rules.
