"""Re-ranking: orders worked by hand, and transformers' own logits and generation as the oracle of mono and duo."""

import json
from functools import partial
from itertools import permutations
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase, T5Config, T5ForConditionalGeneration, T5Tokenizer

from tas_lib import metrics, reranking, teachers
from tas_lib.models import BertCat
from tas_lib.profile import Teachers

WORDS = ["true", "false", "Query", "Document", "Relevant", *tiny.WORDS]
QUERIES = ["the mean of an array", "plot", "a linear product"]
PASSAGES = [
    "sum along the axis",
    "the product of a matrix and an array, true or false",
    "graph",
    "the mean along an axis " * 3,
    "",
    "plot: a graph of the sum",
]


def tokenizer(words: list[str] = WORDS) -> PreTrainedTokenizerBase:
    """T5's, with these words and single characters as its pieces."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -3.0) for word in words]
    pieces += [(character, -8.0) for character in "▁:,01abcdefghijklmnopqrstuvwxyz"]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


def t5(seed: int = 0) -> PreTrainedModel:
    """One layer, two heads, random weights, large enough for answers to differ and small enough not to saturate."""
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=len(tokenizer()),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        initializer_factor=2.0,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config).eval()


# --- prompts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [tokenizer(), tiny.tokenizer()], ids=["T5", "BERT"])
def test_prompts_are_tokenised_as_whole_sentences(known: PreTrainedTokenizerBase):
    mono = [(q, p) for q in QUERIES for p in PASSAGES]
    sentences = [f"Query: {q} Document: {p} Relevant:" for q, p in mono]
    found = reranking.prompts(known, reranking.MONO, mono, cap=64)
    assert [ids.tolist() for ids in found] == known(sentences)["input_ids"]
    duo = [(QUERIES[0], *pair) for pair in permutations(PASSAGES, 2)]
    sentences = [f"Query: {q} Document0: {p} Document1: {r} Relevant:" for q, p, r in duo]
    found = reranking.prompts(known, reranking.DUO, duo, cap=100)
    assert [ids.tolist() for ids in found] == known(sentences)["input_ids"]


@pytest.mark.parametrize("cap", [24, 25, 40])
def test_a_long_passage_is_cut_and_what_is_asked_of_it_is_not(cap: int):
    known = tokenizer()
    beginning = known("Query: the mean Document: sum sum", add_special_tokens=False)["input_ids"]
    (ids,) = reranking.prompts(known, reranking.MONO, [("the mean", "sum " * 100)], cap)
    assert len(ids) == cap
    assert ids[: len(beginning)].tolist() == beginning
    assert ids[-3:].tolist() == known("Relevant:")["input_ids"]


def test_of_two_long_passages_each_keeps_half_and_a_short_one_all():
    known = tokenizer()
    mean, matrix = known("mean matrix", add_special_tokens=False)["input_ids"]
    for lengths, kept in [((90, 90), (18, 19)), ((90, 4), (33, 4)), ((4, 90), (4, 33))]:
        texts = ("plot", "mean " * lengths[0], "matrix " * lengths[1])
        (ids,) = reranking.prompts(known, reranking.DUO, [texts], cap=49)
        assert len(ids) == 49 and ids[-3:].tolist() == known("Relevant:")["input_ids"]
        assert ((ids == mean).sum(), (ids == matrix).sum()) == kept


def test_an_endless_query_leaves_its_passage_room():
    known = tokenizer()
    (ids,) = reranking.prompts(known, reranking.MONO, [("mean " * 90, "matrix " * 90)], cap=27)
    mean, matrix = known("mean matrix", add_special_tokens=False)["input_ids"]
    assert ((ids == mean).sum(), (ids == matrix).sum()) == (10, 10)


def test_a_cap_below_the_words_of_the_prompt_is_refused():
    assert len(reranking.prompts(tokenizer(), reranking.MONO, [("plot", "graph")], cap=9)[0]) == 9
    with pytest.raises(ValueError, match="no room"):
        reranking.prompts(tokenizer(), reranking.MONO, [("plot", "graph")], cap=8)


# --- mono and duo against transformers ---------------------------------------------------------------------------


def generated(model: PreTrainedModel, prompt: str) -> torch.Tensor:
    """What transformers' own generation has as logits of `true` and `false` at its first step."""
    known = tokenizer()
    out = model.generate(
        **known(prompt, return_tensors="pt"),
        max_new_tokens=1,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return out.logits[0][0, known.convert_tokens_to_ids(["▁true", "▁false"])]


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_mono_scores_are_those_of_transformers(chunk: int):
    model, known = t5(), tokenizer()
    q, p = np.divmod(np.arange(18)[::-1], 6)
    found = reranking.mono_scores(model, known, QUERIES, PASSAGES, q, p, chunk=chunk)
    wanted = [
        generated(model, f"Query: {QUERIES[i]} Document: {PASSAGES[j]} Relevant:").log_softmax(0)[0].item()
        for i, j in zip(q, p, strict=True)
    ]
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    assert np.std(wanted) > 0.1


def test_duo_scores_are_those_of_transformers():
    model, known = t5(), tokenizer()
    i, j = np.array(list(permutations(range(6), 2))).T
    found = reranking.duo_scores(model, known, QUERIES, PASSAGES, np.zeros(30, int), i, j, chunk=7)
    wanted = [
        generated(model, f"Query: {QUERIES[0]} Document0: {PASSAGES[a]} Document1: {PASSAGES[b]} Relevant:")
        .softmax(0)[0]
        .item()
        for a, b in zip(i, j, strict=True)
    ]
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    assert np.std(wanted) > 0.1


def test_stretches_change_nothing(monkeypatch: pytest.MonkeyPatch):
    q, p = np.divmod(np.arange(18), 6)
    whole = reranking.mono_scores(t5(), tokenizer(), QUERIES, PASSAGES, q, p)
    monkeypatch.setattr(reranking, "STRETCH", 5)
    np.testing.assert_allclose(reranking.mono_scores(t5(), tokenizer(), QUERIES, PASSAGES, q, p), whole, atol=1e-5)
    assert reranking.mono_scores(t5(), tokenizer(), QUERIES, PASSAGES, q[:0], p[:0]).shape == (0,)


def test_a_model_in_training_is_asked_without_dropout():
    model, rows = t5().train(), np.arange(3)
    scores = [reranking.mono_scores(model, tokenizer(), QUERIES, PASSAGES, rows, rows) for _ in range(2)]
    np.testing.assert_array_equal(*scores)


def test_a_tokenizer_that_cannot_answer_is_refused():
    with pytest.raises(ValueError, match="no single token for 'false'"):
        reranking.log_p_true(t5(), tokenizer([word for word in WORDS if word != "false"]), [np.array([3, 1])])


# --- orders ------------------------------------------------------------------------------------------------------

CANDIDATES = np.array([[4, 2, 5, 0, 1, 3], [3, 1, -1, -1, -1, -1], [-1] * 6])
VALUE = np.array([0.5, 0.1, 0.9, 0.3, 0.5, 0.7])  # of a passage, whatever the query


def by_value(_: np.ndarray, passages: np.ndarray) -> np.ndarray:
    return VALUE[passages]


def test_reranking_by_hand():
    # of 4, 2, 5 (.5, .9, .7) the order is 2, 5, 4; what lies below stays: 0, 1, 3
    assert reranking.rerank(CANDIDATES, by_value, 3)[0].tolist() == [2, 5, 4, 0, 1, 3]
    assert reranking.rerank(CANDIDATES, by_value, 6)[0].tolist() == [2, 5, 4, 0, 3, 1]  # 4 and 0 tie: 4 came first
    for depth in (2, 3, 99):
        found = reranking.rerank(CANDIDATES, by_value, depth)
        assert found[1:].tolist() == [[3, 1, -1, -1, -1, -1], [-1] * 6]
    assert CANDIDATES[0].tolist() == [4, 2, 5, 0, 1, 3]


def test_only_what_lies_above_the_depth_is_asked_for():
    asked = []

    def score(queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
        asked.extend(zip(queries.tolist(), passages.tolist(), strict=True))
        return VALUE[passages]

    reranking.rerank(CANDIDATES, score, 2)
    assert asked == [(0, 4), (0, 2), (1, 3), (1, 1)]


def test_a_score_that_is_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        reranking.rerank(CANDIDATES, lambda q, p: np.where(p == 5, np.nan, 1.0), 3)


def test_sym_sum_equals_the_double_loop():
    wins = np.random.default_rng(0).random((5, 5))
    wanted = [sum(wins[i, j] + (1 - wins[j, i]) for j in range(5) if j != i) for i in range(5)]
    np.testing.assert_allclose(reranking.sym_sum(wins, ~np.eye(5, dtype=bool)), wanted)


def test_pairwise_reranking_by_hand():
    # p(first, second): 4 over 2 .6, 2 over 4 .9, 4 over 5 .2, 5 over 4 .2, 2 over 5 .5, 5 over 2 .8
    table = {(4, 2): 0.6, (2, 4): 0.9, (4, 5): 0.2, (5, 4): 0.2, (2, 5): 0.5, (5, 2): 0.8}
    # 4: .6 + .1 + .2 + .8 = 1.7; 2: .9 + .4 + .5 + .2 = 2.0; 5: .2 + .8 + .8 + .5 = 2.3
    asked = []

    def prefer(queries: np.ndarray, passages: np.ndarray, rivals: np.ndarray) -> np.ndarray:
        triples = list(zip(queries.tolist(), passages.tolist(), rivals.tolist(), strict=True))
        asked.extend(triples)
        return np.array([table.get((p, r), 0.5) for _, p, r in triples])

    found = reranking.rerank_pairwise(CANDIDATES, prefer, 3)
    assert found.tolist() == [[5, 2, 4, 0, 1, 3], [3, 1, -1, -1, -1, -1], [-1] * 6]  # 3 and 1 tie
    assert sorted(asked) == sorted([(0, *pair) for pair in permutations([4, 2, 5], 2)] + [(1, 3, 1), (1, 1, 3)])


def test_one_candidate_has_no_rival():
    def never(queries: np.ndarray, passages: np.ndarray, rivals: np.ndarray) -> np.ndarray:
        assert len(queries) == 0
        return np.empty(0)

    assert reranking.rerank_pairwise(np.array([[7, -1], [-1, -1]]), never, 2).tolist() == [[7, -1], [-1, -1]]
    assert reranking.rerank_pairwise(CANDIDATES, never, 1).tolist() == CANDIDATES.tolist()


def test_duo_after_mono_moves_the_first_few_alone():
    mono = reranking.rerank(CANDIDATES, by_value, 5)
    assert mono[0].tolist() == [2, 5, 4, 0, 1, 3]
    duo = reranking.rerank_pairwise(mono, lambda q, p, r: (p < r).astype(float), 3)
    assert duo[0].tolist() == [2, 4, 5, 0, 1, 3]


def test_t5_reranks_as_a_sort_by_its_scores():
    model, known = t5(), tokenizer()
    found = reranking.rerank(CANDIDATES, partial(reranking.mono_scores, model, known, QUERIES, PASSAGES), 6)
    scores = reranking.mono_scores(model, known, QUERIES, PASSAGES, np.zeros(6, int), np.arange(6))
    assert found[0].tolist() == sorted(range(6), key=lambda row: -scores[row])
    prefer = partial(reranking.duo_scores, model, known, QUERIES, PASSAGES)
    p = {pair: prefer(*(np.array([row]) for row in (0, *pair))).item() for pair in permutations(range(6), 2)}
    sums = [sum(p[i, j] + 1 - p[j, i] for j in range(6) if j != i) for i in range(6)]
    assert reranking.rerank_pairwise(CANDIDATES, prefer, 6)[0].tolist() == sorted(range(6), key=lambda row: -sums[row])


def test_bert_cat_reranks_through_the_same_function():
    cat = BertCat(tiny.bert()).eval()
    queries, passages = tiny.texts(3, 8, seed=1), tiny.texts(6, 14, seed=2)
    with torch.inference_mode():
        found = reranking.rerank(CANDIDATES, partial(teachers.score_all, cat, queries, passages, chunk=4), 4)
    scores = teachers.cat_rerank([cat], queries, passages, CANDIDATES, Teachers(bf16=False))
    first = CANDIDATES[0, :4][np.argsort(-scores[0, :4], kind="stable")]
    assert found[0].tolist() == [*first, 1, 3]


# --- remembered --------------------------------------------------------------------------------------------------


def test_a_second_first_stage_asks_only_for_what_is_new():
    asked = []

    def score(queries: np.ndarray, *passages: np.ndarray) -> np.ndarray:
        asked.append(list(zip(*(rows.tolist() for rows in (queries, *passages)), strict=True)))
        return 100 * queries + sum(10.0**-i * rows for i, rows in enumerate(passages))

    remembered = reranking.Remembered(score, n_passages=10)
    q, p = np.array([1, 0, 1, 1]), np.array([9, 5, 2, 9])
    assert remembered(q, p).tolist() == [109, 5, 102, 109]
    assert asked == [[(0, 5), (1, 2), (1, 9)]]  # (1, 9) stands twice, and is asked for once
    assert remembered(np.array([0, 1, 0]), np.array([9, 2, 0])).tolist() == [9, 102, 0]
    assert asked[1:] == [[(0, 0), (0, 9)]]
    assert remembered(q, p).tolist() == [109, 5, 102, 109] and len(asked) == 2
    assert remembered(q[:0], p[:0]).tolist() == [] and len(asked) == 2
    triples = reranking.Remembered(score, n_passages=10)
    assert triples(q, p, p[::-1]).tolist() == [109.9, 5.2, 102.5, 109.9]
    assert triples(q, p[::-1], p).tolist()[0] == 109.9 and len(asked) == 4


def test_what_is_remembered_gives_the_same_order():
    score = partial(reranking.mono_scores, t5(), tokenizer(), QUERIES, PASSAGES)
    remembered = reranking.Remembered(score, len(PASSAGES))
    for depth in (3, 6):
        found, wanted = reranking.rerank(CANDIDATES, remembered, depth), reranking.rerank(CANDIDATES, score, depth)
        assert found.tolist() == wanted.tolist()


def test_more_triples_than_there_are_numbers_are_refused():
    remembered = reranking.Remembered(lambda *rows: np.zeros(len(rows[0])), n_passages=8_841_823)
    one = np.array([8_841_822])
    assert remembered(np.array([6_979]), one, one).tolist() == [0]  # MS MARCO's dev set fits
    with pytest.raises(ValueError, match="too many queries"):
        remembered(np.array([200_000]), one, one)


# --- runs and rows -----------------------------------------------------------------------------------------------


def test_a_run_becomes_rows_and_rows_a_run():
    run = {"q1": {"b": 1.0, "a": 1.0, "c": 3.0}, "q3": {"c": 1.0}}
    row = {"a": 0, "b": 1, "c": 2}
    rows = reranking.candidates_of(run, ["q3", "q2", "q1"], row, depth=4)
    assert rows.tolist() == [[2, -1, -1, -1], [-1] * 4, [2, 0, 1, -1]]  # a and b tie: by id
    assert reranking.candidates_of(run, ["q1"], row, depth=2).tolist() == [[2, 0]]
    back = reranking.ranked_run(["q3", "q2", "q1"], ["a", "b", "c"], rows)
    assert back == {"q3": {"c": 4.0}, "q2": {}, "q1": {"c": 4.0, "a": 3.0, "b": 2.0}}
    assert metrics.ranking(back["q1"]) == metrics.ranking(run["q1"])


def test_a_passage_that_the_collection_has_not_cannot_be_reranked():
    with pytest.raises(ValueError, match="query q1: passage x is not in the collection"):
        reranking.candidates_of({"q1": {"a": 2.0, "x": 1.0}}, ["q1"], {"a": 0}, depth=2)


# --- loading -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    t5().save_pretrained(tmp_path / "t5")
    tokenizer().save_pretrained(tmp_path / "t5")
    return tmp_path / "t5"


def test_a_model_from_a_folder_scores_as_it_did(folder: Path):
    q, p = np.divmod(np.arange(18), 6)
    found, wanted = (
        reranking.mono_scores(*pair, QUERIES, PASSAGES, q, p)
        for pair in (reranking.load_t5(str(folder)), (t5(), tokenizer()))
    )
    np.testing.assert_array_equal(found, wanted)


def test_what_cannot_be_loaded_is_said_in_one_sentence(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read once, at its import
    with pytest.raises(ValueError, match="no sequence-to-sequence model in 'nobody/such-a-model': "):
        reranking.load_t5("nobody/such-a-model")
    with pytest.raises(ValueError, match="no sequence-to-sequence model in .*encoder': "):
        reranking.load_t5(str(tiny.save_encoder(tmp_path / "encoder")))
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text())) + "x")
    with pytest.raises(ValueError, match=r"no sequence-to-sequence model in .*t5': [^\n]+$"):
        reranking.load_t5(str(folder))


def test_a_model_without_all_of_its_weights_is_refused(folder: Path):
    weights = load_file(folder / "model.safetensors")
    gone = next(name for name in weights if name.startswith("decoder.block.0"))
    save_file({k: v for k, v in weights.items() if k != gone}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=rf"lacks weights, such as {gone}"):
        reranking.load_t5(str(folder))
