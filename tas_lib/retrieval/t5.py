"""monoT5 and duoT5 (§5.3, Table 7): a T5 that reads a query with one passage (mono) or two (duo) and says `true`.

Sources: Nogueira et al. 2020 (monoT5); Pradeep, Nogueira and Lin 2021 [33] (duoT5); pygaggle 06371f1.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tas_lib import models
from tas_lib.data.progress import Progress
from tas_lib.records import FloatArray, IntArray

log = logging.getLogger(__name__)
MONO = ("Query:", "Document:", "Relevant:")
WORDS = ("true", "false"), ("yes", "no")
"""A model's answers for relevant and not: Castorini's, and those of the multilingual monoT5."""
DUO = ("Query:", "Document0:", "Document1:", "Relevant:")
STRETCH = 16_384  # prompts in memory at a time


class T5Scorer(NamedTuple):
    """mono and duo over the queries of a set and the passages of a collection, both given by their indices (N,)."""

    model: models.PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    queries: Sequence[str]
    passages: Sequence[str]
    cap: int = 512  # tokens of a prompt
    chunk: int = 32  # prompts scored together
    words: tuple[str, str] = WORDS[0]

    def mono(self, query: IntArray, passage: IntArray) -> FloatArray:
        """monoT5: log P(true) (N,) of `Query: … Document: … Relevant:`."""
        return self._log_p_true(MONO, (self.queries, query), (self.passages, passage))

    def duo(self, query: IntArray, passage: IntArray, rival: IntArray) -> FloatArray:
        """duoT5: P(true) (N,) of `Query: … Document0: … Document1: … Relevant:`; the rival is Document1."""
        shown = (self.queries, query), (self.passages, passage), (self.passages, rival)
        return np.exp(self._log_p_true(DUO, *shown))

    @torch.inference_mode()
    def _log_p_true(self, labels: Sequence[str], *shown: tuple[Sequence[str], IntArray]) -> FloatArray:
        """log P(true) (N,) against `false`, of prompts that show these texts; logs its progress."""
        n = len(shown[0][1])
        progress = Progress(log, f"scoring {n:,} prompts", n)
        scores = np.empty(n, np.float32)
        for s in range(0, n, STRETCH):
            columns = [[texts[i] for i in indices[s : s + STRETCH].tolist()] for texts, indices in shown]
            made = prompts(self.tokenizer, labels, list(zip(*columns, strict=True)), self.cap)
            logits = answers(self.model.eval(), self.tokenizer, made, self.chunk, self.words, progress)
            scores[s : s + STRETCH] = logits.log_softmax(-1)[:, 0].cpu().numpy()
        return scores


def answers(
    model: models.PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[IntArray],
    chunk: int = 32,
    words: tuple[str, str] = WORDS[0],
    progress: Progress | None = None,
) -> Tensor:
    """fp32 logits (N, 2) of two words as the first of the answer, in length-sorted chunks."""
    indices = [_one_token(tokenizer, word) for word in words]
    chunks, parts = models.length_chunks([len(prompt) for prompt in prompts], chunk), []
    for some in chunks:
        parts.append(_first_word(model, [prompts[i] for i in some])[:, indices].float())
        if progress is not None:
            progress.add(len(some))
    return models.original_order(parts, chunks)


def _first_word(model: models.PreTrainedModel, prompts: Sequence[IntArray]) -> Tensor:
    """Logits (n, V) of the first word of the answers."""
    ids, mask = models.pad(prompts, next(model.parameters()).device)  # (n, T)
    start = torch.full((len(prompts), 1), model.config.decoder_start_token_id, device=ids.device)
    return model(input_ids=ids, attention_mask=mask, decoder_input_ids=start, use_cache=False).logits[:, 0]


@torch.inference_mode()
def answer_words(model: models.PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Which of `WORDS` a model answers, the first if no word stands out; ValueError for another word."""
    prompt = prompts(tokenizer, MONO, [("what is a cat", "A cat is a small animal.")], 64)
    likely, ids = _first_word(model.eval(), prompt)[0].float().softmax(-1).topk(2)
    best = str(tokenizer.convert_ids_to_tokens(ids.tolist())[0]).strip("▁Ġ")
    for words in WORDS:
        if likely.sum() < 0.9 or best in words:
            return words
    raise ValueError(f"{tokenizer.name_or_path!r} answers {best!r}, not true or false, yes or no")


def _one_token(tokenizer: PreTrainedTokenizerBase, word: str) -> int:
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise ValueError(f"this tokenizer has no single token for {word!r}, which mono and duo answer with")
    return int(ids[0])


def prompts(
    tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], texts: Sequence[Sequence[str]], cap: int
) -> list[IntArray]:
    """Token ids of `label text label text … label` with special tokens, at most `cap`: texts are cut, labels never.

    texts: one per label but the last, for each of the N prompts.
    Reading: pygaggle cuts the whole prompt, so a long passage loses `Relevant:`. We cut the longest texts.
    """
    distinct = list(dict.fromkeys([*labels, *(text for parts in texts for text in parts)]))
    tokens = tokenizer(distinct, add_special_tokens=False, truncation=True, max_length=cap)["input_ids"]
    ids: dict[str, list[int]] = dict(zip(distinct, tokens, strict=True))
    before, after = _special_tokens(tokenizer, labels[-1], ids[labels[-1]])
    room = cap - len(before) - len(after) - sum(len(ids[label]) for label in labels)
    if room < len(labels) - 1:
        raise ValueError(f"a prompt of at most {cap} tokens has no room for its texts beside {' … '.join(labels)}")
    made: list[IntArray] = []
    for parts in texts:
        pieces = [before]
        kept = shares([len(ids[text]) for text in parts], room)
        for label, text, n in zip(labels, parts, kept, strict=False):  # the last label has no text
            pieces += [ids[label], ids[text][:n]]
        made.append(np.concatenate([*pieces, ids[labels[-1]], after]).astype(np.int64))
    return made


def _special_tokens(tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int]) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text, whose own ids are given; T5 has `</s>` after it."""
    whole = tokenizer(text)["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(ids)] == ids)
    return whole[:start], whole[start + len(ids) :]


def shares(lengths: Sequence[int], room: int) -> list[int]:
    """How many tokens each text keeps of `room`: short texts all, long ones an equal part of the rest.

    >>> shares([3, 40, 5], room=20), shares([3, 40, 50], room=20), shares([3, 4], room=20)
    ([3, 12, 5], [3, 8, 9], [3, 4])
    """
    kept = [0] * len(lengths)
    for waiting, i in zip(range(len(lengths), 0, -1), np.argsort(lengths, kind="stable"), strict=True):
        kept[i] = min(lengths[i], room // waiting)
        room -= kept[i]
    return kept
