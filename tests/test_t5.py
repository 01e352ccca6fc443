"""monoT5 and duoT5: whole sentences and transformers' own logits as the oracle."""

from itertools import permutations

import numpy as np
import pytest
import tiny
import torch
from tiny import PASSAGES, QUERIES, t5
from tiny import t5_tokenizer as tokenizer
from transformers import PreTrainedTokenizerBase

from tas_lib.retrieval import t5 as module
from tas_lib.retrieval.t5 import DUO, MONO, T5Scorer, answers, prompts


def scorer(**settings: int) -> T5Scorer:
    return T5Scorer(t5(), tokenizer(), QUERIES, PASSAGES, **settings)


def ids_of(text: str) -> list[int]:
    return tokenizer()(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("known", [tokenizer(), tiny.tokenizer()], ids=["T5", "BERT"])
def test_prompts_are_tokenised_as_whole_sentences(known: PreTrainedTokenizerBase):
    mono = [(q, p) for q in QUERIES for p in PASSAGES]
    sentences = [f"Query: {q} Document: {p} Relevant:" for q, p in mono]
    assert [ids.tolist() for ids in prompts(known, MONO, mono, cap=64)] == known(sentences)["input_ids"]
    duo = [(QUERIES[0], *pair) for pair in permutations(PASSAGES, 2)]
    sentences = [f"Query: {q} Document0: {p} Document1: {r} Relevant:" for q, p, r in duo]
    assert [ids.tolist() for ids in prompts(known, DUO, duo, cap=100)] == known(sentences)["input_ids"]


@pytest.mark.parametrize("cap", [24, 25, 40])
def test_a_long_passage_is_cut_and_the_labels_are_not(cap: int):
    beginning = ids_of("Query: the mean Document: sum sum")
    (ids,) = prompts(tokenizer(), MONO, [("the mean", "sum " * 100)], cap)
    assert len(ids) == cap
    assert ids[: len(beginning)].tolist() == beginning
    assert ids[-3:].tolist() == tokenizer()("Relevant:")["input_ids"]


@pytest.mark.parametrize(
    ("labels", "shown", "cap", "kept"),
    [
        (DUO, ("plot", "mean " * 90, "matrix " * 90), 49, (18, 19)),  # long passages keep half each
        (DUO, ("plot", "mean " * 90, "matrix " * 4), 49, (33, 4)),  # a short one all
        (DUO, ("plot", "mean " * 4, "matrix " * 90), 49, (4, 33)),
        (MONO, ("mean " * 90, "matrix " * 90), 27, (10, 10)),  # a long query leaves its passage room
    ],
)
def test_long_texts_share_the_room(labels, shown, cap, kept):
    mean, matrix = ids_of("mean matrix")
    (ids,) = prompts(tokenizer(), labels, [shown], cap)
    assert len(ids) == cap and ids[-3:].tolist() == tokenizer()("Relevant:")["input_ids"]
    assert ((ids == mean).sum(), (ids == matrix).sum()) == kept


def test_a_cap_below_the_labels_of_the_prompt_is_refused():
    assert len(prompts(tokenizer(), MONO, [("plot", "graph")], cap=9)[0]) == 9
    with pytest.raises(ValueError, match="no room"):
        prompts(tokenizer(), MONO, [("plot", "graph")], cap=8)


def generated(prompt: str) -> torch.Tensor:
    """The logits of `true` and `false` in the first step of transformers' own generation."""
    out = t5().generate(
        **tokenizer()(prompt, return_tensors="pt"),
        max_new_tokens=1,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return out.logits[0][0, tokenizer().convert_tokens_to_ids(["▁true", "▁false"])]


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_mono_scores_are_those_of_transformers(chunk: int):
    q, p = np.divmod(np.arange(18)[::-1], 6)
    expected = [
        generated(f"Query: {QUERIES[i]} Document: {PASSAGES[j]} Relevant:").log_softmax(0)[0].item()
        for i, j in zip(q, p, strict=True)
    ]
    np.testing.assert_allclose(scorer(chunk=chunk).mono(q, p), expected, atol=2e-5)
    assert np.std(expected) > 0.1


def test_duo_scores_are_those_of_transformers():
    i, j = np.array(list(permutations(range(6), 2))).T
    expected = [
        generated(f"Query: {QUERIES[0]} Document0: {PASSAGES[a]} Document1: {PASSAGES[b]} Relevant:").softmax(0)[0]
        for a, b in zip(i, j, strict=True)
    ]
    np.testing.assert_allclose(scorer(chunk=7).duo(np.zeros(30, int), i, j), expected, atol=2e-5)
    assert np.std(expected) > 0.1


def test_stretches_change_nothing(monkeypatch: pytest.MonkeyPatch):
    q, p = np.divmod(np.arange(18), 6)
    whole = scorer().mono(q, p)
    monkeypatch.setattr(module, "STRETCH", 5)
    np.testing.assert_allclose(scorer().mono(q, p), whole, atol=1e-5)
    assert scorer().mono(q[:0], p[:0]).shape == (0,)


def test_a_model_in_training_is_scored_without_dropout():
    model, rows = t5().train(), np.arange(3)
    scores = [T5Scorer(model, tokenizer(), QUERIES, PASSAGES).mono(rows, rows) for _ in range(2)]
    np.testing.assert_array_equal(*scores)


def test_a_tokenizer_that_cannot_answer_is_refused():
    with pytest.raises(ValueError, match="no single token for 'false'"):
        answers(t5(), tokenizer(["true", *tiny.WORDS]), [np.array([3, 1])])
