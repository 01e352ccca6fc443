"""Tokenizers, and the token ids of a collection: made once, memory-mapped from then on."""

import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tas_lib.config import Profile
from tas_lib.data import shipped, store
from tas_lib.data.collection import Collection
from tas_lib.records import Ragged

CHUNK = 1 << 16  # texts that are tokenised at a time
log = logging.getLogger(__name__)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder or a hub name; ValueError says why it could not be loaded."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)
        if len(tokenizer) <= len(tokenizer.all_special_ids):  # what `transformers` makes of a folder without one
            raise OSError("its vocabulary is empty")
        return tokenizer
    except Exception as error:  # tokenizers and the hub raise their own errors
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"no tokenizer in {name!r}: {why}") from error


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """The digest of everything that decides the ids, except truncation and padding, which are the caller's."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    return store.digest({name: part for name, part in parts.items() if name not in ("truncation", "padding")})


def tokenise(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], cap: int) -> Ragged:
    """Token ids of texts, CLS and SEP included, cut at `cap` tokens (§4.1)."""
    backend = tokenizer.backend_tokenizer  # called directly, it takes a fifth of the time
    backend.enable_truncation(cap, direction=tokenizer.truncation_side)
    backend.no_padding()
    encodings = backend.encode_batch_fast(list(texts))
    offsets = np.zeros(len(encodings) + 1, np.int64)
    np.cumsum([len(one) for one in encodings], out=offsets[1:])
    ids = chain.from_iterable(one.ids for one in encodings)
    return Ragged(np.fromiter(ids, _id_type(tokenizer), offsets[-1]), offsets)


def _id_type(tokenizer: PreTrainedTokenizerBase) -> type[np.integer]:
    return np.uint16 if len(tokenizer) < 2**16 else np.int32


def write_tokens(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], cap: int, folder: Path, name: str, chunk: int = CHUNK
) -> None:
    """Write `tokenise(texts)` as `<name>-ids.npy` and `<name>-offsets.npy`, unless an interrupted run has done so."""
    if (folder / f"{name}-offsets.npy").exists():  # written last
        return

    def part(start: int) -> Ragged:
        tokens = tokenise(tokenizer, texts[start : start + chunk], cap)
        log.info("%s: tokens of %d of %d texts", name, min(start + chunk, len(texts)), len(texts))
        return tokens

    with ThreadPoolExecutor(2) as pool:  # one chunk becomes an array while the next is tokenised on all cores
        parts = list(pool.map(part, range(0, len(texts), chunk)))
    ids = np.concatenate([np.empty(0, _id_type(tokenizer)), *(tokens.ids for tokens in parts)])
    offsets = np.cumsum(np.concatenate([np.zeros(1, np.int64), *(tokens.lengths for tokens in parts)]))
    store.save_arrays(folder, **{f"{name}-ids": ids, f"{name}-offsets": offsets})


def open_tokens(
    profile: Profile, collection: Collection, another: PreTrainedTokenizerBase | None = None
) -> dict[str, Ragged]:
    """Token ids of the passages (key `passages`) and of each query set, memory-mapped.

    another: a tokenizer to use instead of the encoder's; if it gives the same ids, both share them.
    """
    tokenizer, artefact = load_tokenizer(shipped.encoder(profile)), "tokens"
    digest = store.digest(tokenizer.backend_tokenizer.to_str())
    if another is not None and tokenizer_digest(another) != tokenizer_digest(tokenizer):
        tokenizer, digest = another, tokenizer_digest(another)
        artefact = f"tokens-{digest}"

    def make(folder: Path) -> None:
        write_tokens(tokenizer, collection.passages.texts, profile.tokens.passage, folder, "passages")
        for name, queries in collection.sets.items():
            write_tokens(tokenizer, queries.queries.texts, profile.tokens.query, folder, name)

    inputs = {"collection": collection.digest, "tokenizer": digest}
    folder = store.Store(profile.folder).artefact(artefact, profile.tokens.model_dump(), inputs, make)
    return {
        name: Ragged(store.load_array(folder / f"{name}-ids.npy"), store.load_array(folder / f"{name}-offsets.npy"))
        for name in ("passages", *collection.sets)
    }
