# %% [markdown]
# # 02 · How does each model read a query and a passage?
#
# *Paper:* §2.1, §2.2, Eqs. 1-5. *Needs:* the collection (01), for its lengths. *Time on the default profile:* half a
# minute on two cores.
#
# > "We use two teacher architectures for the best combination of pairwise (BERT_CAT) and in-batch negative teaching
# > (ColBERT) to train our main dense retrieval model: the dual-encoder BERT_DOT architecture." (§2)
#
# One transformer, three ways to use it. They differ in when the query meets the passage: from the start, at the end
# token by token, or at the end in a single product. That decides what a comparison costs, and so who teaches whom.

# %% tags=["parameters"]
PROFILE = "docs"  # a file in profiles/

# %%
import tempfile
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel

from lecture import pictures
from lecture.notebook import check, grid, show
from tas_lib import config, experiment, models
from tas_lib.data import shipped
from tas_lib.data.tokens import load_tokenizer, tokenise
from tas_lib.retrieval import pretrained

# %%
settings = config.load(PROFILE)
tokenizer = load_tokenizer(settings.encoder_path)
encoder = pretrained.load_encoder(settings.encoder_path).eval()

# %% [markdown]
# The three side by side, from the tokens at the bottom to a score at the top. What a dashed box computes is stored in
# the index; a solid box has to wait for the query.

# %%
pictures.architectures()

# %% [markdown]
# ## Texts become token ids
#
# The profile's encoder takes DistilBERT's place. Here are a query and three passages, cut at the profile's maximum
# lengths: `CLS` goes in front, `SEP` behind, and both count. *Padding* brings texts of different lengths to one length,
# and a mask marks it. *Before you run:* which of the four rows has no padding?

# %%
texts = [
    "invert a square matrix",
    "Compute the inverse of a square array. A singular matrix has none and raises an error.",
    "Draw a histogram of the values in each column.",
    "Find x such that the product of a matrix and x is a given vector, without an inverse.",
]
tokens = tokenise(tokenizer, texts, settings.tokens.passage)
ids, mask = models.pad([tokens.row(row) for row in range(len(texts))])  # (4, T)
query_ids, query_mask = ids[:1, : tokens.lengths[0]], mask[:1, : tokens.lengths[0]]  # (1, M)
grid([(text, int(n)) for text, n in zip(texts, tokens.lengths, strict=True)], ["text", "tokens"])

# %% [markdown]
# The longest has none. This is the query as the model reads it, with rare words split into pieces:

# %%
assert ids.shape == mask.shape == (4, tokens.lengths.max())
assert mask.sum(1).tolist() == tokens.lengths.tolist()
tokenizer.convert_ids_to_tokens(query_ids[0])

# %% [markdown]
# ## BERT_DOT, the student: one vector per text
#
# $$\hat q = \text{BERT}(\text{CLS}; q_{1:m}; \text{SEP})_{\text{CLS}}, \quad
# \hat p = \text{BERT}(\text{CLS}; p_{1:n}; \text{SEP})_{\text{CLS}} \quad (4)$$
#
# $$\text{BERT}_{\text{DOT}}(q_{1:m}, p_{1:n}) = \hat q \cdot \hat p \quad (5)$$
#
# The whole text is represented by the vector of CLS; a profile may ask for the mean over all tokens instead (D21).
# *Before you run:* what shape do the vectors of four texts have, and the score matrix of one query and three passages?

# %%
show(models.BertDot)
dot = pretrained.load_dot(settings.encoder_path, settings.pooling).eval()
with torch.inference_mode():
    vecs = dot(ids, mask)  # (4, D)
scores = vecs[:1] @ vecs[1:].T  # (1, 3)
grid(zip(texts[1:], scores[0].tolist(), strict=True), [f"passage, for the query '{texts[0]}'", "score"])

# %% [markdown]
# The two texts never see each other. So a passage has the same vector alone, in a batch, and before any query is known:
# that is why the index can be built once, and why queries can be clustered (04).

# %%
with torch.inference_mode():
    alone = dot(*models.pad([tokens.row(1)]))  # (1, D)
assert vecs.shape == (4, encoder.config.hidden_size) and scores.shape == (1, 3)
torch.testing.assert_close(alone[0], vecs[1], rtol=1e-4, atol=1e-4)

# %% [markdown]
# ## BERT_CAT, the pairwise teacher: both texts at once
#
# $$\text{BERT}_{\text{CAT}}(q_{1:m}, p_{1:n}) =
# W_s\, \text{BERT}(\text{CLS}; q_{1:m}; \text{SEP}; p_{1:n})_{\text{CLS}} \quad (1)$$
#
# In every layer every word of the query can attend to every word of the passage. Token types tell the two apart. $W_s$
# starts random, so these scores mean nothing yet; the shipped teachers are trained.

# %%
torch.manual_seed(0)
cat = models.BertCat(encoder).eval()
pair_ids, pair_mask, types = models.cat_inputs([tokens.row(0)] * 3, [tokens.row(row) for row in (1, 2, 3)])
with torch.inference_mode():
    pair_scores = cat(pair_ids, pair_mask, types)  # (3,)
    met = models.BertDot(encoder, "cls")(pair_ids, pair_mask)  # (3, D), CLS of each pair
tuple(pair_ids.shape), tuple(pair_scores.shape)

# %% [markdown]
# *Before you run the next cell:* the query is the same in all three rows. Is its CLS vector? Here it is not, because it
# has read the passage too. Nothing can be computed before the query is known, and every pair is a new text.

# %%
assert pair_scores.shape == (3,) and types.sum(1).tolist() == (tokens.lengths[1:] - 1).tolist()
assert not torch.allclose(met[0], met[1], atol=1e-4)

# %% [markdown]
# ## ColBERT, the in-batch teacher: one vector per token
#
# $$\hat q_{1:m} = \text{BERT}(\text{CLS}; q_{1:m}; \text{SEP}), \quad
# \hat p_{1:n} = \text{BERT}(\text{CLS}; p_{1:n}; \text{SEP}) \quad (2)$$
#
# $$\text{ColBERT}(q_{1:m}, p_{1:n}) = \sum_1^m \max_{1..n} \hat q_{1:m}^T \cdot \hat p_{1:n} \quad (3)$$
#
# The texts are read separately, as in BERT_DOT, but all token vectors are kept. Each query token picks the passage
# token that matches it best, and these best products are summed. As loops, it reads like the equation:


# %%
def late_interaction_in_loops(query, passage):
    """Eq. 3 for token vectors (M, D) and (N, D)."""
    score = 0.0
    for q in query:
        score += max(float(q @ p) for p in passage)
    return score


# %% [markdown]
# The library does the same for all queries of a batch in one matrix product per passage. Padding is left out, so it can
# never win a maximum (D10). Here with the shipped teacher:

# %%
show(models.late_interaction)
colbert = pretrained.load_colbert(shipped.model(settings, "colbert"))
with torch.inference_mode():
    q_vecs, p_vecs = colbert(query_ids, query_mask), colbert(ids[1:], mask[1:])  # (1, M, D), (3, N, D)
fast = models.late_interaction(q_vecs, query_mask, p_vecs, mask[1:])  # (1, 3)
slow = [late_interaction_in_loops(q_vecs[0], p_vecs[i, : tokens.lengths[i + 1]]) for i in range(3)]
grid(zip(texts[1:], fast[0].tolist(), slow, strict=True), ["passage", "models.late_interaction", "in loops"])

# %%
torch.testing.assert_close(fast[0], torch.tensor(slow), rtol=1e-4, atol=1e-3)
assert q_vecs.shape == (1, tokens.lengths[0], colbert.head.out_features)

# %% [markdown]
# We can watch it read. A row is a token of the query; a frame marks its best match in the first passage, and the
# maxima add up to the score. *Before you run:* what will `square` and `matrix` choose?

# %%
products = q_vecs[0] @ p_vecs[0, : tokens.lengths[1]].T  # (M, N)
torch.testing.assert_close(products.amax(1).sum(), fast[0, 0], rtol=1e-4, atol=1e-3)
names = [tokenizer.convert_ids_to_tokens(tokens.row(row)) for row in (0, 1)]
pictures.max_sim(products.numpy(), *names)

# %% [markdown]
# ## What each of them costs
#
# Three questions for a collection of $P$ passages. What can be computed before the query arrives? What must be stored
# per passage? What is left to do once the query has arrived? We count multiplications and additions (with torch's
# counter) on texts of the collection's mean lengths: counts are the same on every machine, seconds are not.
#
# BERT_CAT re-ranks only the candidates of a first stage, to the depth of a run; the other two score every passage.

# %%
lab = experiment.Experiment(settings)
m, n = (round(float(lab.tokens[name].lengths.mean())) for name in (settings.evaluation.sets[0].name, "passages"))
depth, passages = settings.evaluation.depth, len(lab.collection.passages.ids)
late = models.ColBert(encoder, dim := 64).eval()  # as wide as the shipped one; all three on the profile's encoder
operations = {}
asked = [("dot q", dot, m), ("dot p", dot, n), ("late q", late, m), ("late p", late, n), ("cat", cat, m + n)]
for name, model, length in asked:
    one = torch.ones(1, length, dtype=torch.long)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(one, one, one) if model is cat else model(one, one)
    operations[name] = counter.get_total_flops()

# %% [markdown]
# *Before you look:* which of the three does the most work before the query, which the most after it, and which stores
# the most?

# %%
width, million = encoder.config.hidden_size, 1e6
compare = 2 * m * n * dim  # every token of the query with every token of a passage
cost = {
    "BERT_CAT": (cat, 0, 0, depth * operations["cat"]),
    "ColBERT": (late, passages * operations["late p"], n * dim, operations["late q"] + passages * compare),
    "BERT_DOT": (dot, passages * operations["dot p"], width, operations["dot q"] + passages * 2 * width),
}
rows = [
    (name, sum(w.numel() for w in model.parameters()), round(before / million), stored, round(left / million))
    for name, (model, before, stored, left) in cost.items()
]
grid(rows, ["model", "parameters", "10⁶ op. before", "numbers a passage", "10⁶ op. a query"])
f"{passages:,} passages of {n} tokens, queries of {m}; BERT_CAT reads {depth} candidates"

# %% [markdown]
# The parameter counts are nearly the same: it is one encoder. BERT_CAT has nothing to store and everything left to do.
# ColBERT stores many times what BERT_DOT stores, and needs many times as many multiplications per query and passage.
# BERT_DOT does almost all of its work before the query arrives, which is why it is the student.

# %%
after = {name: left for name, (_, _, _, left) in cost.items()}
assert after["BERT_DOT"] < after["ColBERT"] and after["BERT_DOT"] < after["BERT_CAT"] / 4
assert compare > 4 * (2 * width)  # for every passage
assert cost["ColBERT"][2] > 4 * cost["BERT_DOT"][2] > cost["BERT_CAT"][2]
assert max(row[1] for row in rows) < 1.05 * min(row[1] for row in rows)

# %% [markdown]
# ## A model on disk
#
# A saved BERT_DOT is a folder of standard files. `transformers` loads its encoder, `sentence-transformers` all of it,
# pooling included. So what you train here can be used elsewhere without any of our code.

# %%
with tempfile.TemporaryDirectory() as folder:
    pretrained.save(dot, tokenizer, Path(folder))
    files = sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())
    loaded = SentenceTransformer(folder, device="cpu")
    loaded.max_seq_length = settings.tokens.passage
    theirs = loaded.encode(texts, convert_to_tensor=True)
    raw = AutoModel.from_pretrained(folder).eval()
torch.testing.assert_close(theirs, vecs, rtol=1e-3, atol=1e-3)
with torch.inference_mode():
    torch.testing.assert_close(models.BertDot(raw, dot.pooling)(ids, mask), vecs, rtol=1e-4, atol=1e-4)
files

# %% [markdown]
# ## Answer
#
# BERT_CAT reads query and passage as one text, so it sees the most but must be run for every pair. ColBERT reads them
# separately and compares token with token: it scores a whole batch after reading each text once. BERT_DOT compares one
# vector with one vector: cheap enough to search everything. Hence the roles: the first teaches with scores computed in
# advance, the second with scores computed on the fly, and the third learns.
#
# ## Where we differ
#
# A smaller encoder, its last layer re-initialised (D20). ColBERT's projection has a bias, keeps CLS and SEP and adds no
# [MASK] to a query (D10); BERT_CAT scores the raw CLS vector (D11). Scores are fp32 whatever the encoder's precision
# (D12). See [DEVIATIONS](../DEVIATIONS.md).
#
# ## Exercises
#
# **1.** Equation (3) in one line, for one query and one passage without padding.
#
# <details><summary>Hint</summary>
#
# One matrix product gives the similarity of every query token to every passage token, (M, N). Which axis does the
# maximum run over, and which one the sum?
#
# </details>


# %% tags=["exercise"]
def my_late_interaction(query, passage):
    """Eq. 3 for token vectors (M, D) and (N, D)."""
    # TODO


q, p = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(0))
check(my_late_interaction, (q[:4], p), (p, q[:4]), (q[:1], p[:1]))

# %% [markdown]
# **2.** The input of Equation (1): `CLS query SEP passage SEP`, from the ids of two texts that each have a CLS and a
# SEP.
#
# <details><summary>Hint</summary>
#
# Only one of the four special tokens must go.
#
# </details>


# %% tags=["exercise"]
def my_cat_ids(query, passage):
    """Token ids of a pair, as a list."""
    # TODO


check(my_cat_ids, ([2, 9, 3], [2, 7, 8, 3]), ([2, 3], [2, 9, 3]))

# %% [markdown]
# **3.** Why does the mean over tokens need the mask, when CLS does not? Try `models.BertDot(encoder, "mean")` on a text
# with and without padding, and once more with a mask of ones.
#
# <details><summary>Hint</summary>
#
# Where in a row do words come first, and where padding?
#
# </details>
#
# **4. Open.** Train a system with `pooling: mean` and `frozen_layers: 0` in a copy of the profile (06). What changes,
# in effectiveness and in training time?
#
# ## Next
#
# [03](03_losses.ipynb): what the two teachers ask of the student.
