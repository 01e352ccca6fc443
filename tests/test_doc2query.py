"""docT5query: transformers' own generation as the oracle of sampling, and a real SIGKILL."""

import multiprocessing
import random
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from numpy.random import Philox
from tiny import t5
from tiny import t5_tokenizer as tokenizer
from transformers import GenerationConfig, PreTrainedModel

from tas_lib import models
from tas_lib.config import Expansion
from tas_lib.data.store import Store, provenance
from tas_lib.retrieval import doc2query

HOW = Expansion(queries=3, top_k=4, longest=6, cap=12, batch=4, shard=8)
PASSAGES = [" ".join(np.random.default_rng(i).choice(tiny.WORDS, 2 + 5 * i % 9)) for i in range(30)]


def rows(texts: list[str]) -> list[np.ndarray]:
    return [np.array(ids) for ids in tokenizer()(texts)["input_ids"]]


# --- sampling ----------------------------------------------------------------------------------------------------


def test_sampling_is_that_of_transformers_whatever_the_models_own_settings():
    model = t5()
    torch.manual_seed(int(Philox(key=[7, 40]).random_raw()))
    expected = model.generate(
        **tokenizer()(PASSAGES[:5], padding=True, return_tensors="pt"),
        do_sample=True,
        top_k=4,
        max_new_tokens=6,
        num_return_sequences=3,
    )
    own = {"temperature": 0.1, "num_beams": 3, "top_p": 0.1, "max_length": 4, "repetition_penalty": 9.0}
    for config in ({}, own):
        model.generation_config = GenerationConfig(**{**model.generation_config.to_dict(), **config})
        ids = doc2query.sample(model, rows(PASSAGES[:5]), HOW.model_copy(update=dict(seed=7)), number=40)
        assert ids.shape == (15, 7) and ids.tolist() == expected.tolist()


@torch.inference_mode()
def literally(model: PreTrainedModel, passages: list[np.ndarray], how: Expansion, seed: int) -> torch.Tensor:
    """Token by token: sampled from the top-k tokens; `</s>` (1) ends a query, padding (0) follows it."""
    torch.manual_seed(seed)
    ids, mask = (part.repeat_interleave(how.queries, 0) for part in models.pad(passages))
    written = torch.zeros(len(ids), 1, dtype=torch.long)
    for _ in range(how.longest):
        logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=written, use_cache=False).logits[:, -1]
        kept = logits >= logits.topk(how.top_k).values[:, -1:]
        drawn = torch.multinomial(logits.masked_fill(~kept, -torch.inf).softmax(-1), 1)
        ended = (written[:, 1:] == 1).any(1, keepdim=True)
        written = torch.cat([written, drawn.masked_fill(ended, 0)], dim=1)
        if (written[:, 1:] == 1).any(1).all():
            break
    return written


@pytest.mark.parametrize("top_k", [1, 3, 10])
def test_sampling_equals_the_literal_loop(top_k: int):
    how = HOW.model_copy(update=dict(top_k=top_k, longest=9))
    expected = literally(t5(), rows(PASSAGES[:5]), how, int(Philox(key=[0, 3]).random_raw()))
    assert doc2query.sample(t5(), rows(PASSAGES[:5]), how, number=3).tolist() == expected.tolist()


def test_draws_depend_on_seed_and_number_alone_and_leave_torchs_generator_unchanged():
    def draw(seed: int, number: int) -> list[list[int]]:
        return doc2query.sample(t5(), rows(PASSAGES[:5]), HOW.model_copy(update=dict(seed=seed)), number).tolist()

    model = t5()
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    doc2query.sample(model, rows(PASSAGES[:2]), HOW, number=0)
    assert torch.equal(torch.rand(4), expected)
    once = draw(0, 1)
    torch.rand(3)
    assert draw(0, 1) == once
    assert len({str(draw(*key)) for key in [(0, 1), (1, 0), (0, 2), (1, 1)]}) == 4


# --- queries of passages -----------------------------------------------------------------------------------------


def test_queries_are_those_of_their_passages():
    # in batches of one, the s-th passage by length is batch number first + s
    how = HOW.model_copy(update=dict(batch=1, cap=8))
    found = doc2query.queries_for(t5(), tokenizer(), PASSAGES[:6], how, first=100)
    ids = rows(PASSAGES[:6])
    ids = [row if len(row) <= 8 else np.array([*row[:7], 1]) for row in ids]  # cut, </s> kept
    for place, row in enumerate(sorted(range(6), key=lambda row: len(ids[row]))):
        drawn = doc2query.sample(t5(), [ids[row]], how, number=100 + place)
        assert found[row] == tokenizer().batch_decode(drawn, skip_special_tokens=True)
    assert len({len(row) for row in ids}) > 3 and all(len(queries) == 3 for queries in found)


def test_passages_are_cut_at_the_cap():
    def write(passages: list[str]) -> list[list[str]]:
        return doc2query.queries_for(t5(), tokenizer(), passages, HOW)

    long = "mean " * 11
    assert write([long]) == write([long + "graph plot"])  # 11 words and </s> are 12
    assert len({str(write(["mean " * 10 + word])) for word in tiny.WORDS}) > 1  # the eleventh word counts
    assert [len(queries) for queries in write(["", "plot"])] == [3, 3]  # a passage without words has queries too


# --- on disk -----------------------------------------------------------------------------------------------------


def test_shards_hold_the_queries_of_all_passages_and_existing_ones_are_kept(tmp_path: Path):
    doc2query.write_queries(t5(), tokenizer(), PASSAGES, tmp_path, HOW)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{number:05d}.parquet" for number in range(4)]
    expected = [
        queries
        for first in range(0, 30, 8)
        for queries in doc2query.queries_for(t5(), tokenizer(), PASSAGES[first : first + 8], HOW, first)
    ]
    assert doc2query.read_queries(tmp_path) == expected
    assert len({tuple(queries) for queries in expected}) > 25
    shards = {path: path.read_bytes() for path in tmp_path.iterdir()}
    lost, kept = tmp_path / "00001.parquet", tmp_path / "00002.parquet"
    lost.unlink()
    before = kept.stat().st_mtime_ns
    doc2query.write_queries(t5(), tokenizer(), PASSAGES, tmp_path, HOW)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == shards
    assert kept.stat().st_mtime_ns == before


def write_slowly(folder: Path) -> None:
    """Run in another process, which is killed in the middle."""
    torch.set_num_threads(1)
    at_once = doc2query.sample

    def slowly(*args: object, **named: object) -> torch.Tensor:
        time.sleep(0.05)
        return at_once(*args, **named)

    doc2query.sample = slowly
    Store(folder).artefact(
        "expansion",
        HOW.model_dump(),
        {},
        lambda draft: doc2query.write_queries(t5(), tokenizer(), PASSAGES, draft, HOW),
    )


def test_two_sigkills_change_no_byte(tmp_path: Path):
    fresh = multiprocessing.get_context("forkserver")
    fresh.set_forkserver_preload(["tas_lib.retrieval.doc2query", "tas_lib.data.collection", "transformers.models.t5"])
    draft, rng = tmp_path / "killed" / ".expansion.draft", random.Random(3)

    def start(name: str) -> multiprocessing.Process:
        process = fresh.Process(target=write_slowly, args=(tmp_path / name,))
        process.start()
        return process

    start("whole").join()
    for goal in (1, 3):  # of four shards
        tiny.kill(start("killed"), lambda goal=goal: len([*draft.glob("0*.parquet")]) >= goal, rng.uniform(0, 0.05))
    first = (draft / "00000.parquet").stat()
    last = start("killed")
    last.join()
    assert last.exitcode == 0
    whole, killed = (tmp_path / name / "expansion" for name in ("whole", "killed"))
    assert provenance(killed)["digest"] == provenance(whole)["digest"]
    assert doc2query.read_queries(killed) == doc2query.read_queries(whole) and len(doc2query.read_queries(whole)) == 30
    kept = (killed / "00000.parquet").stat()
    assert (kept.st_ino, kept.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
