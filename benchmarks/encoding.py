"""Encoding passages of MS MARCO's lengths, against `SentenceTransformer.encode`: same model, precision and texts."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from benchmarks import Figure, measure, texts, verdict
from tas_lib import config, models
from tas_lib.data.tokens import load_tokenizer, tokenise
from tas_lib.retrieval import pretrained
from tas_lib.retrieval.encode import ON_CPU, encode

CAP = 200  # tokens per passage (§4.1)


def figures(full: bool = False, n: int = 1_000) -> list[Figure]:
    """The encoder of profile docs: six layers of 384."""
    shipped = config.load("docs").encoder_path
    passages = texts.synthetic(load_tokenizer(shipped), n, texts.MSMARCO["passages"])
    rows = [compare(f"docs' encoder, {n:,} passages", Path(shipped), passages)]
    return [*rows, openvino(Path(shipped), passages)] if find_spec("openvino") else rows


def openvino(model: Path, passages: list[str], repeats: int = 3) -> Figure:
    """From token ids to vectors, by length. Not in requirements.txt: pip install --target DIR openvino."""
    import openvino as ov

    ours, tokens = pretrained.load_dot(str(model)).eval(), tokenise(load_tokenizer(str(model)), passages, CAP)
    ids = torch.ones(2, 8, dtype=torch.int64)
    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    engine = ov.compile_model(ov.convert_model(ours, example_input=(ids, ids)), "CPU", threads)

    def theirs() -> list[object]:
        chunks = models.length_chunks(tokens.lengths, ON_CPU)
        return [engine([part.numpy() for part in models.pad([tokens.row(i) for i in rows])])[0] for rows in chunks]

    theirs()  # compiles for the shapes
    mine, other = measure.in_turn([partial(encode, ours, tokens), theirs], repeats)
    n = len(passages)
    return Figure(
        f"encoding from token ids, {n:,} passages, CPU, fp32",
        f"{n / mine:,.0f} a second",
        f"OpenVINO {ov.__version__.split('-')[0]}: {n / other:,.0f} a second",
        f"{other / mine:.2f} ×",
        "report",
        "–",
        f"chunks of {ON_CPU} texts of similar length for both; OpenVINO pads them",
    )


def compare(what: str, model: Path, passages: list[str], repeats: int = 3) -> Figure:
    """From texts to vectors: ours with the tokenising that a run does only once, theirs with its default batches."""
    ours, theirs = pretrained.load_dot(str(model)).eval(), SentenceTransformer(str(model), device="cpu")
    theirs.max_seq_length = CAP
    tokenizer = load_tokenizer(str(model))
    tokens = tokenise(tokenizer, passages, CAP)
    works: list[Callable[[], object]] = [
        lambda: encode(ours, tokenise(tokenizer, passages, CAP)),
        partial(theirs.encode, passages, show_progress_bar=False),
        partial(encode, ours, tokens),
        partial(tokenise, tokenizer, passages, CAP),
    ]
    some = passages[:50]
    difference = np.abs(encode(ours, tokenise(tokenizer, some, CAP)) - theirs.encode(some)).max()
    mine, other, stored, tokenising = measure.in_turn(works, repeats)
    n = len(passages)
    return Figure(
        f"encoding, {what}, CPU, fp32",
        f"{n / mine:,.0f} a second",
        f"SentenceTransformer.encode: {n / other:,.0f} a second",
        f"{other / mine:.2f} ×",
        "≥ 1.3 ×",
        verdict(other >= 1.3 * mine),
        f"{tokens.lengths.mean():.0f} tokens on average, without padding; from stored tokens, as in a "
        f"run, {n / stored:,.0f} a second ({other / stored:.2f} ×); tokenising alone {tokenising:.1f} s; largest "
        f"difference of a number {difference:.0e}",
    )
