"""Synthetic texts for the benchmarks: random whole words of a vocabulary, with the lengths of a real collection."""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator, Philox
from transformers import PreTrainedTokenizerBase

from tas_lib.records import IntArray


class Lengths(NamedTuple):
    """Tokens of a text, special tokens included: lognormal with this mean and σ, cut at the cap."""

    mean: float
    sigma: float
    cap: int


DOCS = {"queries": Lengths(16, 0.38, 30), "passages": Lengths(53, 0.22, 64)}  # as measured
MSMARCO = {"queries": Lengths(9, 0.3, 30), "passages": Lengths(75, 0.45, 200)}
"""Our approximation: 56 words per passage (BEIR, Thakur et al. 2021, Table 1), 1.3 word pieces each, and "few outliers"
above 200 tokens (§4.1)."""


def synthetic(tokenizer: PreTrainedTokenizerBase, n: int, lengths: Lengths, seed: int = 0) -> list[str]:
    """n texts; each word is one token."""
    rng = Generator(Philox(key=[seed, 0]))
    words = vocabulary(tokenizer)
    return [" ".join(words[i] for i in rng.integers(0, len(words), n - 2)) for n in sizes(n, lengths, rng)]


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The whole words of a vocabulary."""
    return sorted(word for word in tokenizer.get_vocab() if word.isalpha() and word.isascii() and len(word) > 2)


def sizes(n: int, lengths: Lengths, rng: Generator) -> IntArray:
    """How many tokens n texts have."""
    mean = np.log(lengths.mean) - lengths.sigma**2 / 2
    return rng.lognormal(mean, lengths.sigma, n).round().astype(int).clip(4, lengths.cap)


def padded(lengths: IntArray, chunk: int) -> int:
    """Tokens of texts with padding, encoded in chunks in this order.

    >>> padded(np.array([3, 3, 5, 1]), 2)
    16
    """
    return int(sum(len(part) * part.max() for part in np.split(lengths, range(chunk, len(lengths), chunk))))
