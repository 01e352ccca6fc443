"""Encoding passages of MS MARCO's lengths, beside `SentenceTransformer.encode`: same model, precision and texts.

python -m benchmarks.encoding [--passages 20000]
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.random import Generator, Philox
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel, PreTrainedTokenizerBase

from benchmarks import Figure, clock
from tas_lib import config
from tas_lib.data.tokens import load_tokenizer, tokenise
from tas_lib.models import BertDot
from tas_lib.retrieval import encode as encoding
from tas_lib.retrieval import pretrained

CAP, CHUNK, AIM = 200, 64, 1.2  # tokens a passage (§4.1), texts at a time as `write_vectors` takes them


def rows(passages: int = 20_000) -> list[Figure]:
    """The small encoder of profile docs, and 6 layers of 384 with random weights on a twentieth of the passages."""
    shipped = config.load("docs").encoder_path
    tokenizer = load_tokenizer(shipped)
    with tempfile.TemporaryDirectory() as place:
        larger = random_bert(Path(place), tokenizer)
        return [
            compared(f"docs' encoder, {passages:,} passages", Path(shipped), texts(tokenizer, passages), repeats=3),
            compared(
                f"6 layers of 384, {passages // 20:,} passages", larger, texts(tokenizer, passages // 20), repeats=3
            ),
        ]


def compared(what: str, model: Path, passages: list[str], repeats: int) -> Figure:
    """From texts to vectors: ours with the tokenising that a run does only once, the other as it comes, by 32."""
    ours, theirs = pretrained.load_dot(str(model)).eval(), SentenceTransformer(str(model), device="cpu")
    theirs.max_seq_length = CAP
    tokenizer = load_tokenizer(str(model))
    tokens = tokenise(tokenizer, passages, CAP)
    works: list[Callable[[], object]] = [
        lambda: encoding.encode(ours, tokenise(tokenizer, passages, CAP), chunk=CHUNK),
        partial(theirs.encode, passages, show_progress_bar=False),
        partial(encoding.encode, ours, tokens, chunk=CHUNK),
        partial(tokenise, tokenizer, passages, CAP),
    ]
    some = passages[:50]
    apart = np.abs(encoding.encode(ours, tokenise(tokenizer, some, CAP)) - theirs.encode(some)).max()
    mine, other, stored, words = clock.in_turn(works, repeats)
    n, mean = len(passages), tokens.lengths.mean()
    note = (
        f"{mean:.0f} tokens on average, with padding {padded(tokens.lengths):.0f}; from stored tokens, as in a run, "
        f"{n / stored:,.0f} a second ({other / stored:.2f} ×); tokenising alone {words:.1f} s; largest difference of "
        f"a number {apart:.0e}"
    )
    return Figure(
        f"encoding, {what}, CPU, fp32",
        f"{n / mine:,.0f} a second",
        f"SentenceTransformer.encode: {n / other:,.0f} a second",
        f"{other / mine:.2f} ×",
        f"≥ {AIM} ×",
        clock.verdict(other / mine, AIM),
        note,
    )


def texts(tokenizer: PreTrainedTokenizerBase, n: int, seed: int = 0) -> list[str]:
    """n passages of random whole words of the vocabulary, with MS MARCO's lengths.

    Lengths are lognormal with a mean of 75 tokens and σ = .45, special tokens included, at least 10, cut at 200: our
    approximation of a collection whose passages have 56 words on average (BEIR, Thakur et al. 2021, Table 1), 1.3 word
    pieces each, and "few outliers" above 200 tokens (§4.1).
    """
    rng = Generator(Philox(key=[seed, 0]))
    words = sorted(word for word in tokenizer.get_vocab() if word.isalpha() and word.isascii() and len(word) > 2)
    sigma = 0.45
    lengths = rng.lognormal(np.log(75) - sigma**2 / 2, sigma, n).round().astype(int).clip(10, CAP) - 2
    return [" ".join(words[i] for i in rng.integers(0, len(words), length)) for length in lengths]


def padded(lengths: np.ndarray) -> float:
    """Mean tokens of a text with its padding, sorted by length and encoded so many at a time.

    >>> padded(np.array([3] * 64 + [5, 1]))
    3.0606060606060606
    """
    ordered = np.sort(lengths)
    chunks = [ordered[i : i + CHUNK] for i in range(0, len(ordered), CHUNK)]
    return float(sum(len(chunk) * chunk.max() for chunk in chunks) / len(ordered))


def random_bert(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Path:
    """A BERT of MiniLM's shape with random weights, on disk as both load it: as slow as a trained one."""
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1_536,
    )
    pretrained.save(BertDot(BertModel(config, add_pooling_layer=False), "mean"), tokenizer, folder)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser("benchmarks.encoding", description=__doc__.partition("\n")[0])
    parser.add_argument("--passages", type=int, default=20_000)
    clock.show(rows(parser.parse_args().passages))
