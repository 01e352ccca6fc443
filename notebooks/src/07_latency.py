# %% [markdown]
# # 07 · Where does a millisecond go?
#
# *Paper:* §2.2 and Table 1, latency; §2.4 and Table 2, cost. *Needs:* `pairwise/random` (06). *Time on the default
# profile:* two minutes, and three more if ColBERT's vectors are not there yet.
#
# > "We measure that a single query can be responded to in 64ms" (§2.2)
#
# A query is split into tokens, becomes a vector, and meets every passage of the collection. Which of the three takes
# the time, what could make it faster, and what did the training before it cost?

# %% tags=["parameters"]
PROFILE = "docs"  # a file in profiles/
PASSAGES = 0  # 0: the profile's own; 8_841_823 for table1-full: so many synthetic vectors of 768, and DistilBERT's size

# %% [markdown]
# Times differ from run to run and from machine to machine. The numbers here come from one run on the hardware below;
# the explanations hold anywhere. A GPU is used if there is one; the clock waits until it has finished.

# %%
from functools import partial

import numpy as np
import torch
from IPython.display import Markdown

from lecture.notebook import check, grid, show
from tas_lib import config, experiment
from tas_lib.data import shipped
from tas_lib.data.tokens import load_tokenizer, tokenise
from tas_lib.report import cost, latency, paper, render
from tas_lib.retrieval import cross_encoder, dense, encode, pretrained
from tas_lib.train import loop, teachers

# %%
settings = config.load(PROFILE)
lab, device = experiment.Experiment(settings), encode.device()
hardware, machine = latency.hardware(device), latency.roofline(device)
grid(hardware.items(), ["what", "here"])
print(f"Reads at most {machine.gb_s:,.1f} GB a second, computes at most {machine.gflop_s:,.0f} · 10⁹ fp32 operations.")

# %% [markdown]
# Both limits are measured: a sum over a tensor too large for any cache, a product of two large matrices. Next, the
# retriever: the student that is trained first, with its passages; for `table1-full` an encoder of DistilBERT's size and
# as many vectors as MS MARCO has passages, both filled with random numbers. Time does not depend on the values.

# %%
tokenizer = load_tokenizer(settings.encoder_path)
chosen = [key for key, s in settings.systems.items() if s.kind in ("trained", "checkpoint") and lab.can_run(s)]
chosen = next(iter(chosen if "pairwise/random" not in chosen else ()), "pairwise/random")
if PASSAGES:
    model = latency.paper_encoder(len(tokenizer)).to(device)
    index = latency.unit_vectors(lab.store, PASSAGES, 768).to(device)  # memory-mapped where there is no GPU
else:
    hardware |= {"system": chosen} if chosen != "pairwise/random" else {}
    model, index = lab.bi_encoder(lab.listed[chosen]).load(), lab.vectors(lab.listed[chosen]).to(device)
queries = lab.collection.sets.get("train", lab.collection.sets[settings.evaluation.sets[0].name]).queries.texts
depth, cap = min(settings.evaluation.depth if not PASSAGES else 1_000, len(index)), settings.tokens.query
chunk = 64 if device.type == "cpu" else 2_000
size = f"{len(index):,} vectors of {index.shape[1]} in {str(index.dtype).removeprefix('torch.')}"
print(f"Index: {size}, {index.nbytes / 1e6:,.1f} MB; first {depth:,} retrieved; encoder in fp32, {chunk} at a time.")

# %% [markdown]
# ## What is timed
#
# From text to ranked passages, in three stages with nothing between them: the total includes tokenising and every copy
# to and from the device. Search is exact: every vector is scored.

# %%
show(latency.answering, dense.dense, dense.scan, dense.dot_products)

# %% [markdown]
# A *warm-up* is run and not timed: it fills caches. Then the clock runs for a set time, with new queries at every
# repetition. The *mean* says how much work a server can do; the *tail*, the time that one query in a hundred exceeds,
# what its slowest users see. Below 100 repetitions we report the longest instead, and say so.
#
# *Before you look:* one query, ten, two thousand. By what factor does each stage grow from one row to the next?

# %%
find = partial(dense.dense, passages=index, depth=depth)
answer = partial(latency.answering, model, tokenizer, cap, find, chunk)
found = latency.latencies(answer, queries, seconds=200 if PASSAGES else 5)
told = "; ".join(f"{what}: {here}" for what, here in hardware.items())
caption = (f"Table 1: latency of exact top-{depth:,} retrieval; index: {size}, {index.nbytes / 1e6:,.1f} MB; {told}. "
           "In parentheses the paper's: MS MARCO's passages, DistilBERT and Faiss on a TITAN RTX.")  # fmt: skip
grids, tidy = cost.table1(found)
render.write(settings.figures, "table1-full" if PASSAGES else "table1", caption, grids, tidy)
Markdown(render.markdown(caption, *grids))

# %% [markdown]
# We can take the paper's own rows apart. Two thousand queries take 4,780 ms, of which encoding and retrieval explain
# little more than half; the rest, we think, is tokenising and copying. And 400K training queries "in one minute" (§2.2)
# are 200 such batches of encoding alone.

# %%
printed = {key: cell.number for key, cell in paper.paper_table(1).items()}
names = ("Query encoding", "Faiss retrieval", "Total")
theirs = {stage: printed["Batch size 2,000", f"{stage} Avg."] for stage in names}
rest = theirs["Total"] - theirs["Query encoding"] - theirs["Faiss retrieval"]
assert rest == 1_992 and 0.4 < rest / theirs["Total"] < 0.45
assert 50 < 400_000 / 2_000 * theirs["Query encoding"] / 1_000 < 60

# %% [markdown]
# ## Mean and tail
#
# > "the 99th percentile of the measured latency is very close to the mean" (§2.2)
#
# The paper credits "the practical effect of always computing roughly the same number of operations". *Before you run:*
# which of the stages does not do the same work for every query?

# %%
quantiles = [0.5, 0.9, 0.99, 1.0]
grid(
    [[stage, len(t.ms), t.mean, *np.quantile(t.ms, quantiles), t.tail / t.mean] for stage, t in found[1].items()],
    ["one query", "repetitions", "mean, ms", *(f"{q:.0%}" for q in quantiles), "tail / mean"],
)

# %% [markdown]
# Retrieval multiplies the same numbers for every query. Tokenising and encoding grow with the length of the query.
# Anything else that stretches a tail comes from outside the retriever: another program on the same cores, a core that
# changes its clock. The shorter a stage, the larger that part of its tail.
#
# ## Batches
#
# With more queries at a time, each waits longer, but the total time falls.

# %%
stages = [latency.TOKENS, latency.ENCODING, latency.RETRIEVAL, latency.TOTAL]
rows = [
    [f"{n:,}", *(found[n][stage].mean / n for stage in stages), 1e3 * n / found[n][latency.TOTAL].mean] for n in found
]
grid(rows, ["batch size", *(f"{stage}, ms a query" for stage in stages), "queries a second"])

# %% [markdown]
# Costs paid once per batch are shared by its queries: calling the layers, and reading the weights and the index from
# memory. Costs paid per query are not: its multiplications, and selecting its best passages. A column that falls from
# row to row is mostly of the first kind; one that stays level, of the second.
#
# ## What bounds it?
#
# No program takes less time than the bytes that it must read divided by the bandwidth, or its operations divided by the
# matrix rate. *Before you run:* for one query over the index, which of the two is larger? And for two thousand?

# %%
layers = [p for name, p in model.encoder.named_parameters() if "embedding" not in name]
weights, bounds = sum(p.numel() for p in layers), []
for n, timed in found.items():
    tokens = tokenise(tokenizer, next(latency.in_turn(queries, n)), cap).lengths.sum()
    chunks = -(-n // chunk)  # each reads all weights once
    works = {latency.ENCODING: (4 * weights * chunks, 2 * weights * tokens),
             latency.RETRIEVAL: (index.nbytes, 2 * n * index.numel())}  # fmt: skip
    for stage, (n_bytes, operations) in works.items():
        reading, computing = 1e-6 * n_bytes / machine.gb_s, 1e-6 * operations / machine.gflop_s
        share = max(reading, computing) / (mean := timed[stage].mean)
        bound = "neither" if share < 0.5 else "reading" if reading >= computing else "computing"
        bounds.append([f"{n:,}", stage, mean, reading, computing, share, bound])
grid(bounds, ["batch size", "stage", "mean, ms", "reading, ms", "computing, ms", "share", "bound by"])

# %% [markdown]
# *Share* is the larger bound over the measured mean. Near 1, only less work or another machine helps. *Neither* means
# that calls, copies and the selection of the best take the time. Above 1, the data came from a cache (a small index
# fits in one), or the machine was busier while its limits were measured.
#
# Reading grows with the index only, computing with index and queries. In fp16 the two are equal at as many queries as
# the machine computes operations in the time it takes to read one byte, whatever the size of the index.

# %%
print(f"Here they meet at {machine.gflop_s / machine.gb_s:,.0f} queries.")  # 2 operations, and 2 bytes, per number

# %% [markdown]
# ## At MS MARCO's size
#
# The same two bounds for 8,841,823 vectors of 768, without running it. The paper's numbers show the least its GPU
# achieved, and that it stored fp16, since fp32 would not have fitted in 24 GB.

# %%
numbers = 8_841_823 * 768
for n in latency.SIZES:
    least_s = 2e-9 * numbers * max(1 / machine.gb_s, n / machine.gflop_s)
    theirs = printed[f"Batch size {n:,}", "Faiss retrieval Avg."]
    reads, computes = 2e-6 * numbers / theirs, 2e-9 * n * numbers / theirs
    print(f"{n:>5,} queries: at least {least_s:,.1f} s here; the paper's {theirs / 1e3:.3f} s mean "
          f"{reads:,.0f} GB and {computes:,.2f} · 10¹² operations a second.")  # fmt: skip
assert 4e-9 * numbers > 24 > 2e-9 * numbers

# %% [markdown]
# `./run_all.sh docs table1-full` runs it: 13.6 GB of vectors are written once and memory-mapped, so that the system's
# page cache holds them and 24 GB are enough. It is slow without a GPU.
#
# ## Why one query uses all cores
#
# FAISS gives each core its own queries: ten queries, ten cores; one query, one core. But a user sends one query. We
# split the *passages*, so that all cores work on every query. *Before you run:* does a second core help, if reading is
# the limit?

# %%
import faiss

vecs = torch.nn.functional.normalize(torch.randn(60_000, 768, generator=torch.Generator().manual_seed(0))).half()
one, cores, rows = vecs[:1].float(), torch.get_num_threads(), []
flat = faiss.IndexFlatIP(768)
flat.add(vecs.float().numpy())
for n in sorted({1, cores}):
    torch.set_num_threads(n)
    rows.append(["ours", "fp16", n, latency.time_boxed(partial(dense.dense, one, vecs, 100), 3, 2).mean])
rows.append(["FAISS flat", "fp32", cores, latency.time_boxed(partial(flat.search, one.numpy(), 100), 3, 2).mean])
grid(rows, ["one query on the CPU", "stored as", "cores allowed", "mean, ms"])

# %% [markdown]
# Ours reads half the bytes per number: `dense.scan` runs FAISS's own loop for stored fp16, which widens numbers in
# registers, on every core's part of the passages. Shared memory limits what several cores gain. And it is exact: here
# are all scores and a full sort, beside what the search found.

# %%
rows, scores = dense.dense(one, vecs, 100)
every = (one @ vecs.float().T).numpy()[0]
assert np.allclose(scores[0], np.sort(every)[::-1][:100], atol=1e-6)
assert np.allclose(every[rows[0]], scores[0], atol=1e-6) and len(set(rows[0])) == 100

# %% [markdown]
# ## What the training cost
#
# Table 2 asks what a method needs beyond plain training. A teacher's price is measured on one batch: BERT_CAT reads the
# two pairs of a sample; ColBERT encodes query and passages, and scores all against all. What is *kept* is cheaper:
# margins are stored, and so are a frozen ColBERT's vectors, which leaves only the scoring.

# %%
batch = lab.sampler(lab.listed[chosen]).batch(0)
train, passages = lab.tokens["train"], lab.tokens["passages"]
cat = pretrained.load_cross_encoder(shipped.model(settings, "cat")).to(device)
colbert = pretrained.load_colbert(shipped.model(settings, "colbert")).to(device)
asked, shown = np.tile(batch.queries, 2), np.concatenate([batch.pos, batch.neg])
fresh = loop.InBatchTeacher(*(teachers.FreshVectors(colbert, texts) for texts in (train, passages)))
with torch.inference_mode():
    calls = {"pairwise": partial(cross_encoder.cat_scores, cat, train, passages, asked, shown, 32),
             "in_batch": partial(fresh.scores, batch, device),
             "kept": partial(lab.in_batch_teacher.scores, batch, device)}  # fmt: skip
    price = {name: latency.time_boxed(f, 1, 3).mean / len(batch.queries) for name, f in calls.items()}
grid(price.items(), ["teacher", "ms per sample"])

# %% [markdown]
# Each training then runs for some steps on a throw-away student, with all cores. Memory counts gradients, Adam's two
# moments, a copy of the weights, and all intermediate results.

# %%
new = {"none": 0, "dual": price["pairwise"] + price["in_batch"]} | price
kept, costs = {"none": 0, "pairwise": 0, "in_batch": price["kept"], "dual": price["kept"]}, {}
for key in cost.TRAINED.values():
    if (system := settings.systems.get(key)) and system.kind == "trained":
        first, last = cost.training(lab, system, 200)()
        step_s = (last.seconds - first.seconds) / (last.step - first.step)
        once = None if system.sampling == "random" else lab.clustering_s
        peak = cost.peak_mb(cost.training(lab, system, 4), device)
        costs[key] = cost.Cost(system.batch_size, step_s, new[system.teacher], kept[system.teacher], peak, once)
caption = f"Table 2: the paper's rows in parentheses, and below what was measured here. {told}."
grids, tidy = cost.table2(costs)
if not PASSAGES:
    render.write(settings.figures, "table2", caption, grids, tidy)
Markdown(render.markdown(caption, *grids))

# %% [markdown]
# Seconds per step are a mean over the second hundred of two hundred, without validation. (On `docs`, steps are too
# short to gain from a second core, so trainings use one each, two at a time.) Hours are those seconds times the paper's
# 800K steps: what *this* student on *this* hardware would take, not DistilBERT. Clustering is paid once, before the
# first step, and serves all TAS and TAS-Balanced trainings.
#
# ## Answer

# %% tags=["answer"]
from lecture import answers

one, whole, most = found[1], found[1][latency.TOTAL], max(found)
largest = max(stages[:3], key=lambda stage: one[stage].mean)
limits = {size: f"{share:.0%}" for size, stage, *_, share, _ in bounds if stage == latency.RETRIEVAL}
steps = settings.training.steps
spent = {key: s.clustering_s / (s.clustering_s + s.step_s * steps) for key, s in costs.items() if s.clustering_s}
answers.say(
    f"One query takes {whole.mean:.1f} ms on average, and the tail is {whole.tail:.1f} ms; the largest part, "
    f"{one[largest].mean / whole.mean:.0%}, is {largest.lower()}.",
    f"In batches of {most:,}, a query takes {found[most][latency.TOTAL].mean / most / whole.mean:.0%} of that mean.",
    f"Reading or computing, whichever takes longer, needs {answers.listed(limits.values())} of retrieval's time in "
    f"batches of {answers.listed(limits)}; it is the bound where that is at least half.",
    *(
        f"Clustering is {share:.1%} of the time of clustering and {steps:,} steps of `{key}`."
        for key, share in spent.items()
    ),
)

# %% [markdown]
# A small index is usually bound by *neither* reading nor computing: calls, copies and selection take the time, and
# larger batches help. Where *reading* is the bound, store fewer bytes; where *computing* is, score fewer vectors.
#
# ## Where we differ
#
# - Hardware, encoder and collection are not the paper's: [D19](../DEVIATIONS.md), [D20](../DEVIATIONS.md). Only
#   `table1-full` has its sizes.
# - Our own exact search runs in fp32 over fp16 vectors; the paper's is Faiss, exact too: [D17](../DEVIATIONS.md).
# - The paper's table does not say what its total includes beyond encoding and retrieval; ours includes tokenising and
#   all copies.
# - ColBERT's vectors are kept during training; the paper computes them in every step.
#
# ## Exercises
#
# **1.** The tail, without the library: the smallest of at least 100 times that 99% of them do not exceed.
#
# <details><summary>Hint</summary>
#
# Sort. How many of 200 times may be longer?
#
# </details>


# %% tags=["exercise"]
def my_tail(times):
    """One number of the list."""
    # TODO


check(my_tail, ([float(i) for i in range(200)],), ([2.0] * 99 + [9.0],))

# %% [markdown]
# **2.** At least how many milliseconds does exact search over `n` fp16 vectors of `width` take for one query, at
# `gb_s` gigabytes a second?
#
# <details><summary>Hint</summary>
#
# An fp16 number has two bytes; a gigabyte here is $10^9$ bytes.
#
# </details>


# %% tags=["exercise"]
def my_least_ms(n, width, gb_s):
    """Bytes over bandwidth."""
    # TODO


check(my_least_ms, (8_841_823, 768, 100.0), (1_000, 8, 0.5))

# %% [markdown]
# **3.** Give the batch of ten the same query ten times. Which stage gets faster, and why not the others?
#
# <details><summary>Hint</summary>
#
# Which stage depends on what the query says?
#
# </details>
#
# **4. Open.** An 8-bit index reads half the bytes and is not exact. Is it twice as fast, and what does nDCG@10 lose?
#
# ## Next
#
# [08 · Losses compared](08_losses_compared.ipynb) starts the tables of effectiveness; latency comes back in 12, where
# re-rankers spend more of it.
