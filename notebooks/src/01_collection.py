# %% [markdown]
# # 01 · What do we search, and who says what is right?
#
# *Paper:* §4.1. *Needs:* nothing. *Time on the default profile:* about a minute on two cores.
#
# > "We use the MSMARCO-Passage collection with the sparsely-judged MSMARCO-DEV query set [...] as well as the
# > densely-judged query sets of 43 and 54 queries derived from TREC-DL '19 and '20" (§4.1)
#
# MS MARCO is a download of several gigabytes. The default profile searches text that everybody who runs this already
# has: the documentation in the Python packages of `requirements.txt`, read as files and never imported. This notebook
# shows what is in it, where the judgements come from, and how well BM25 does. For MS MARCO, or your own collection, it
# shows counts, judgements and BM25; the remarks on documentation do not apply there.

# %% tags=["parameters"]
PROFILE = "docs"  # a file in profiles/
SEED = 1  # which examples are shown

# %%
from collections import Counter, defaultdict
from itertools import product

import numpy as np
import pandas as pd
from numpy.random import Generator, Philox

from lecture.notebook import check, grid, show
from tas_lib import config, experiment
from tas_lib.data import docstrings, versions
from tas_lib.evaluation import metrics, significance
from tas_lib.records import as_run
from tas_lib.retrieval import bm25

# %% [markdown]
# ## From a docstring to a query and a passage
#
# The first sentence of a docstring says what a function does. That is what somebody would ask, so it becomes the
# *query*; the rest is the *passage* that answers it: prose first, then what is returned, the arguments, and the code of
# examples. The section "See Also" names related functions, chosen by a person who knows the package: those links become
# graded judgements. *Before you run:* which words of this one are left out?

# %%
query, passage, linked = docstrings.split_docstring("""Give the middle value of a list.

Half of the values are smaller. An even number of values has two middles, whose mean is taken.

>>> middle([3, 1, 2])
2

See Also
--------
average : The sum divided by the number.
""")
query, passage, linked

# %% [markdown]
# The link is gone from the passage (a judgement must not be readable in the text), and so is the printed result of the
# example; the code itself stays. Section titles, references and argument types are left out, too. Passages are cut at
# the profile's word limit. The qualified name is the *title*, shown to people and never used for ranking.

# %%
assert "average" not in passage and linked == ("average",)
settings = config.load(PROFILE)
lab = experiment.Experiment(settings)
collection = lab.collection
of_docs = settings.source.kind == "docs"
longest = max(len(text.split()) for text in collection.passages.texts)
assert not of_docs or longest <= settings.source.max_passage_words

# %% [markdown]
# ## The packages
#
# The profile's `package_cap` limits the entries per package, so that none dominates; entries with links come first.
# Versions matter: another version has other texts. (Any other collection gives one row.)

# %%
installed = versions.installed(settings.source.packages) if of_docs else {}
words = defaultdict(list)
for name, text in zip(collection.passages.ids, collection.passages.texts, strict=True):
    words[name.partition(".")[0] if of_docs else "passages"].append(len(text.split()))
rows = [(name, installed.get(name, ""), len(words[name]), sum(words[name])) for name in installed or words]
rows.append(("all", "", sum(row[2] for row in rows), sum(row[3] for row in rows)))
assert rows[-1][2] == len(collection.passages.ids)
assert not of_docs or max(row[2] for row in rows[:-1]) <= settings.source.package_cap
grid(rows, ["package", "version", "passages", "words"])

# %% [markdown]
# ## What was dropped, and why
#
# Most documented names never become a passage. Many docstrings are a single line, and a single line answers nothing;
# some summaries ask nothing: a signature, a notice, or words that fit any function. Near-duplicates (the same text
# under two names) are merged into one passage. A summary that several entries share, or that follows a template, fits
# too many passages: only the passage is kept.

# %%
report = collection.report
reasons = sorted(report["dropped"].items(), key=lambda item: -item[1])
grid([*report["read"].items(), *reasons], ["what", "entries"])

# %% [markdown]
# The numbers add up: entries read are either usable or dropped for their form; usable entries are either passages,
# near-duplicates, or beyond their package's cap.

# %%
read, dropped = report["read"], report["dropped"]
assert read["passages"] == len(collection.passages.ids)
if of_docs:
    form = [n for why, n in dropped.items() if why.startswith(("a body", "a summary", "an unfilled template"))]
    assert read["documented entries"] == read["usable entries"] + sum(form)
    more = dropped["a near-duplicate, merged into another"] + dropped["beyond the package's cap"]
    assert read["usable entries"] == read["passages"] + more

# %% [markdown]
# ## Splits and judgements
#
# Two graded sets play the part of TREC-DL '19 and '20: a query's own passage and its aliases have grade 3, passages
# linked directly by "See Also", in either direction, grade 2, and those two links away grade 1. For recall and MRR,
# grade 2 and up is relevant, as in the paper. The other sets are sparse, like MSMARCO-DEV: one relevant passage per
# query, its own. *stop* is for early stopping, *tune* for choosing settings; no table of results uses them.
#
# *Before you run:* TREC's assessors judged hundreds of passages per query. How many does a query have here?

# %%
rows = []
for name, queries in collection.sets.items():
    grades = Counter(grade for judged in queries.qrels.values() for grade in judged.values())
    n = len(queries.queries.ids)
    length = np.mean([len(text.split()) for text in queries.queries.texts])
    assert not of_docs or sum(grades.values()) / n < 50
    rows.append((name, n, float(length), *(grades[g] for g in (3, 2, 1)), sum(grades.values()) / n))
grid(rows, ["set", "queries", "words a query", "grade 3", "grade 2", "grade 1", "judgements a query"])

# %% [markdown]
# Far fewer, and nobody read the passages for us: we call these judgements *link-derived*. An unlinked passage may still
# be a good answer, so we think that scores on these sets are too low rather than too high, for every system alike.
#
# ## No answer leaks into training
#
# Splits are made before anything else: similar entries stay in the same split and, around a graded query, so do linked
# ones. Together they are a query's *family*. Queries of earlier test sets, whose results were seen (the profile's
# `opened`), are in no test set. A passage that answers a test query appears in no training pair, not even as a
# negative, since the student would learn that it is wrong. Links that lead nowhere are counted, not guessed:

# %%
links = report.get("links", {})
rows = [(what, n, round(100 * n / sum(links.values()))) for what, n in links.items()]
grid(rows, ["links", "number", "per cent"]) if rows else print("judgements of this collection come from its files")
barred, sets = set(collection.barred.tolist()), collection.sets
learned, held_out = set(sets) & {"train"}, set(sets) - {"train"}
assert not any(row in barred for name in learned for found in collection.relevant(name) for row in found)
asked = [query for name in held_out for query in sets[name].queries.ids]
assert not any(set(asked) & set(sets[name].queries.ids) for name in learned)
if of_docs:
    assert all(row in barred for name in held_out for found in collection.relevant(name) for row in found)
    assert len(asked) == len(set(asked))
f"{len(barred):,} of {len(collection.passages.ids):,} passages are in no training pair"

# %% [markdown]
# ## A fingerprint
#
# Sixteen digits over every text, split and judgement. Two machines with the same packages print the same ones; if yours
# differ from those kept in this notebook, the numbers in every later table will differ a little, too.

# %%
collection.digest

# %% [markdown]
# ## Twenty at random
#
# From every set in turn: names and queries only. The last column counts the judgements of each grade.

# %%
rng = Generator(Philox(key=[SEED, 0]))
rows = []
for name in sorted([*collection.sets] * 4)[:20]:
    queries = collection.sets[name]
    i = rng.integers(len(queries.queries.ids))
    query = queries.queries.ids[i]
    grades = Counter(queries.qrels[query].values())
    counted = ", ".join(f"{grades[g]} of {g}" for g in sorted(grades, reverse=True))
    rows.append((name, queries.queries.texts[i], query.removeprefix("q/"), counted))
grid(rows, ["set", "query", "passage", "judgements"])

# %% [markdown]
# ## Fifty judgements for you to check
#
# Read the query and the name of a passage that the links call relevant, and ask whether you would want to find it. You
# will not always agree: grade 2 is a link made by a person, but grade 1 is only a link of a link.

# %%
pool = [
    (queries.queries.texts[i], passage, grade)
    for queries in (collection.sets[test.name] for test in settings.evaluation.sets if test.graded)
    for i, query in enumerate(queries.queries.ids)
    for passage, grade in queries.qrels[query].items()
    if grade < 3
]
shown = np.sort(rng.choice(len(pool), min(50, len(pool)), replace=False))
grid([pool[i] for i in shown], ["query", "passage", "grade"]) if pool else "no set of this collection is graded"

# %% [markdown]
# A name is little to judge by. Here are four of these passages in full, chosen because they are short, and quoted from
# the packages installed here, with their licences. Would you give the same grade?

# %%
text_of = dict(zip(collection.passages.ids, collection.passages.texts, strict=True))
enough, rows = [pool[i] for i in shown if len(text_of[pool[i][1]].split()) >= 15], []
for query, passage, grade in sorted(enough, key=lambda judged: len(text_of[judged[1]]))[:4]:
    package = passage.partition(".")[0]
    source = f"{package} {installed[package]}, {versions.licence(package)}" if of_docs else ""
    rows.append((query, passage, text_of[passage], grade, source))
grid(rows, ["query", "passage", "its text", "grade", "quoted from"])

# %% [markdown]
# ## BM25, the yardstick
#
# $$BM25(q, p) = \sum_{t \in q} \log\Big(1 + \frac{N - n_t + .5}{n_t + .5}\Big)
# \cdot \frac{f_t}{f_t + k_1 (1 - b + b\,|p| / \overline{|p|})}$$
#
# (The equation is ours; the paper takes it as known.) A word counts more the fewer of the $N$ passages contain it
# ($n_t$), and more, with diminishing returns, the more often it occurs in this one ($f_t$). $k_1$ sets how soon
# repetition stops counting, $b$ how strongly long passages are penalised. Both are tuned on the *tune* set alone.
# *Before you run:* all passages are cut to the same length. Which of the two can matter little?

# %%
tune, chosen = collection.sets.get("tune"), (settings.bm25.k1, settings.bm25.b)
rr, trials = metrics.paper_measures(1, 100)[1], {}
for k1, b in {chosen, *product((0.6, 0.9, 1.2, 1.5), (0.2, 0.4, 0.6, 0.8))} if tune else ():
    index = bm25.Bm25Index(collection.passages.texts, config.Bm25(k1=k1, b=b))
    rows, found = index.search(tune.queries.texts, 100)
    run = as_run(tune.queries.ids, collection.passages.ids, rows, found)
    trials[k1, b] = metrics.evaluate(run, tune.qrels, [rr])[rr]
means = pd.Series({trial: metrics.mean(values) for trial, values in trials.items()})
means.rename_axis(["k1", "b"]).unstack().sort_index().round(4) if tune else "no set to choose on, nothing is tried"

# %% [markdown]
# MRR@10 for each $k_1$ (rows) and $b$ (columns). The values hardly differ: with passages of similar length $b$ has
# little to penalise, and in a short text words seldom repeat. Is the best trial better than what the profile uses, or
# only the luckiest of many? A paired t-test over the queries gives $p$; the last column corrects it for the number of
# trials (Holm).

# %%
best = max(trials, key=lambda trial: (means[trial], trial), default=None)
others = sorted(set(trials) - {chosen})
p = {trial: significance.paired(trials[trial], trials[chosen]).p for trial in others}
holm = dict(zip(others, significance.holm([p[trial] for trial in others]), strict=True))
both = {"best": best, "profile": chosen} if tune else {}
rows = [(which, *map(str, t), means[t], p.get(t), holm.get(t)) for which, t in both.items()]
better = [t for t in others if means[t] > means[chosen] and holm[t] <= settings.evaluation.alpha]
assert not of_docs or (means.max() - means.min() < 0.05 and not better)
grid(rows, ["trial", "k1", "b", "MRR@10", "p", "p, corrected"])

# %% [markdown]
# After correction no trial is better than the profile's choice: the yardstick is as good as this grid can make it. The
# paper's training negatives come from BM25 too; those of `docs` are shipped, and only some of them are BM25's
# ([D32](../DEVIATIONS.md)).
#
# ## BM25 on every set
#
# From here on we look at the test sets, to report and never to choose. Recall is at the profile's depth. *Before you
# run:* on which sets will the share of judged passages among the first ten be lowest?

# %%
graded = {test.name: test.binarise_at for test in settings.evaluation.sets}
rows = []
for name in [*graded, *(name for name in ("stop", "tune") if name in collection.sets)]:
    wanted = metrics.paper_measures(graded.get(name, 1), settings.evaluation.depth)
    values = metrics.evaluate(lab.run(experiment.BM25, name), collection.sets[name].qrels, wanted)
    rows.append((name, *(metrics.mean(values[measure]) for measure in wanted)))
grid(rows, ["set", *map(metrics.printed_name, wanted)])

# %% [markdown]
# On a sparse set at most one of ten can be judged, and MRR@10 says how early the one relevant passage comes; on a
# graded set several may count. So compare systems on one set, never sets with each other. BM25 is far from 0 and far
# from 1.

# %%
by_set = {name: values for name, *values in rows}
assert all(0 <= value <= 1 for values in by_set.values() for value in values)
if of_docs:
    assert max(by_set[name][3] for name in ("dev", "stop", "tune")) <= 0.1
    assert min(by_set[name][3] for name in ("graded-a", "graded-b")) > 0.1
    assert all(0.2 < value < 0.95 for values in by_set.values() for value in values[:2])

# %% [markdown]
# The whole search, ties included:

# %%
show(bm25.Bm25Index.search, bm25.top)

# %% [markdown]
# ## Answer
#
# We search the documentation of the installed packages, cut into passages of a few dozen words. The authors of that
# documentation say what is relevant: the text that follows a first sentence answers it, and "See Also" names what else
# does. BM25 finds enough of it to be a yardstick and misses enough to leave work for a trained model.
#
# ## Where we differ
#
# A different collection, and judgements from links instead of assessors (D19); recall at another depth (D22). BM25 is
# `bm25s` in Lucene's variant, with Snowball's stemmer and English stop words removed; the paper cites Anserini. See
# [DEVIATIONS](../DEVIATIONS.md).
#
# ## Exercises
#
# **1.** When are two passages *alike*? Compare three-word shingles: of all three-word sequences in either text, at
# least the share `threshold` must occur in both. (Split words at spaces; both texts have three words or more.)
#
# <details><summary>Hint</summary>
#
# Make a set of three-word tuples of each text; `&` and `|` give what is in both and what is in either.
#
# </details>


# %% tags=["exercise"]
def my_alike(a, b, threshold):
    """True where the Jaccard similarity of the texts' three-word shingles is at least the threshold."""
    # TODO


text = "the quick brown fox jumps over the lazy dog"
cases = [(text.replace("lazy", "sleepy"), 0.5), (text.replace("fox", "cat"), 0.5), (text + " again and again", 0.7)]
check(my_alike, *((text, other, threshold) for other, threshold in cases))

# %% [markdown]
# **2.** The weight of a word in BM25 is the logarithm in the equation above. Compute it from the number of passages and
# the number that contain the word. Which weighs more, a stop word or a function's name?
#
# <details><summary>Hint</summary>
#
# $N$ is the number of passages, $n_t$ the number with the word; the logarithm is the natural one.
#
# </details>


# %% tags=["exercise"]
def my_weight(n_passages, n_with_the_word):
    """The first factor of BM25, Lucene's variant."""
    # TODO


check(my_weight, (13_000, 1), (13_000, 9_000), (10, 10))

# %% [markdown]
# **3. Open.** In a copy of the profile, double `max_passage_words`. Does $b$ matter then? Does BM25 get better or
# worse, and would a judge who had read the longer passages agree?
#
# ## Next
#
# [02](02_models.ipynb): three ways for a transformer to read a query and a passage.
