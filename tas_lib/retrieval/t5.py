"""Sequence-to-sequence models: T5 from disk or hub, and what mono and duo ask it (§5.3, Table 7).

A prompt shows the model one passage (mono) or two (duo) and a query; its answer's first word is `true` or `false`.
Sources: Nogueira et al. 2020 (monoT5); Pradeep, Nogueira and Lin 2021 [33] (duoT5); pygaggle 06371f1.
"""

import logging
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase

from tas_lib import models
from tas_lib.data.tokens import load_tokenizer
from tas_lib.records import FloatArray, IntArray

log = logging.getLogger(__name__)
MONO = ("Query:", "Document:", "Relevant:")
DUO = ("Query:", "Document0:", "Document1:", "Relevant:")
STRETCH = 16_384  # prompts in memory at a time


def load(name: str, device: torch.device | str = "cpu") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A sequence-to-sequence model and its tokenizer from a folder or a hub name; ValueError says what is wrong."""
    try:
        model, told = AutoModelForSeq2SeqLM.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    except Exception as error:  # safetensors and the hub raise their own kinds
        raise ValueError(f"no sequence-to-sequence model in {name!r}: {models.first_line(error)}") from error
    if told["missing_keys"]:
        raise ValueError(f"{name!r} lacks weights, such as {sorted(told['missing_keys'])[0]}")
    torch.nn.Module.to(model, device)
    return model.eval(), load_tokenizer(name)


def mono_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[str],
    passages: Sequence[str],
    query: IntArray,
    passage: IntArray,
    cap: int = 512,
    chunk: int = 32,
) -> FloatArray:
    """monoT5: log P(true) of `Query: … Document: … Relevant:` for rows (N,) of queries and passages."""
    return _scores(model, tokenizer, MONO, [(queries, query), (passages, passage)], cap, chunk)


def duo_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[str],
    passages: Sequence[str],
    query: IntArray,
    passage: IntArray,
    rival: IntArray,
    cap: int = 512,
    chunk: int = 32,
) -> FloatArray:
    """duoT5: P(true) of `Query: … Document0: … Document1: … Relevant:` for rows (N,); the rival is Document1."""
    shown = [(queries, query), (passages, passage), (passages, rival)]
    return np.exp(_scores(model, tokenizer, DUO, shown, cap, chunk))


def _scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    labels: Sequence[str],
    shown: Sequence[tuple[Sequence[str], IntArray]],
    cap: int,
    chunk: int,
) -> FloatArray:
    """log P(true) (N,) of prompts that show these texts at these rows (N,), with a word on the progress."""
    n, start = len(shown[0][1]), time.monotonic()
    scores = np.empty(n, np.float32)
    for s in range(0, n, STRETCH):
        columns = [[texts[row] for row in rows[s : s + STRETCH].tolist()] for texts, rows in shown]
        made = prompts(tokenizer, labels, list(zip(*columns, strict=True)), cap)
        scores[s : s + STRETCH] = log_p_true(model, tokenizer, made, chunk)
        log.info("prompts scored: %d of %d, %.0f s", s + len(made), n, time.monotonic() - start)
    return scores


def prompts(
    tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], texts: Sequence[Sequence[str]], cap: int
) -> list[IntArray]:
    """Token ids of `label text label text … label`, special tokens around, `cap` at most: texts are cut, labels never.

    texts: of each prompt, one a label but for the last.
    Reading: pygaggle cuts the whole prompt, so that a long passage loses `Relevant:`. We cut the longest texts.
    """
    distinct = list(dict.fromkeys([*labels, *(text for parts in texts for text in parts)]))
    tokens = tokenizer(distinct, add_special_tokens=False, truncation=True, max_length=cap)["input_ids"]
    ids: dict[str, list[int]] = dict(zip(distinct, tokens, strict=True))
    before, after = _around(tokenizer, labels[-1], ids[labels[-1]])
    room = cap - len(before) - len(after) - sum(len(ids[label]) for label in labels)
    if room < len(labels) - 1:
        raise ValueError(f"a prompt of at most {cap} tokens has no room for its texts beside {' … '.join(labels)}")
    made: list[IntArray] = []
    for parts in texts:
        kept = shares([len(ids[text]) for text in parts], room)
        pieces = [before]
        for label, text, n in zip(labels, parts, kept, strict=False):  # the last label has no text
            pieces += [ids[label], ids[text][:n]]
        made.append(np.concatenate([*pieces, ids[labels[-1]], after]).astype(np.int64))
    return made


def _around(tokenizer: PreTrainedTokenizerBase, text: str, bare: list[int]) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text; T5's puts `</s>` after it."""
    whole = tokenizer(text)["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:start], whole[start + len(bare) :]


def shares(lengths: Sequence[int], room: int) -> list[int]:
    """How many tokens each text keeps of `room`: short ones all of theirs, long ones an even part of the rest.

    >>> shares([3, 40, 5], room=20), shares([3, 40, 50], room=20), shares([3, 4], room=20)
    ([3, 12, 5], [3, 8, 9], [3, 4])
    """
    kept = [0] * len(lengths)
    for waiting, i in zip(range(len(lengths), 0, -1), np.argsort(lengths, kind="stable"), strict=True):
        kept[i] = min(lengths[i], room // waiting)
        room -= kept[i]
    return kept


@torch.inference_mode()
def log_p_true(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[IntArray], chunk: int = 32
) -> FloatArray:
    """log P(true) against `false` as the first word of the answer: (N,), softmax in fp32."""
    found: FloatArray = answers(model.eval(), tokenizer, prompts, chunk).log_softmax(-1)[:, 0].cpu().numpy()
    return found


def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[IntArray], chunk: int = 32
) -> Tensor:
    """fp32 logits (N, 2) of `true` and `false` as the first word of the answer, in length-sorted chunks."""
    words = [_one_token(tokenizer, word) for word in ("true", "false")]
    device = next(model.parameters()).device
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    parts = [torch.empty(0, 2, device=device)]
    for s in range(0, len(order), chunk):
        rows = order[s : s + chunk]
        ids, mask = models.pad([prompts[row] for row in rows], device)  # (n, T)
        start = torch.full((len(rows), 1), model.config.decoder_start_token_id, device=device)
        logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=start, use_cache=False).logits  # (n, 1, V)
        parts.append(logits[:, 0, words].float())
    return torch.cat(parts)[torch.from_numpy(np.argsort(order)).to(device)]


def _one_token(tokenizer: PreTrainedTokenizerBase, word: str) -> int:
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise ValueError(f"this tokenizer has no single token for {word!r}, and mono and duo answer with one")
    return int(ids[0])
