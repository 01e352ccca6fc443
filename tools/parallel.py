"""Train one system, or encode the collection with it, with several GPUs or machines; the notebooks find the result.

    accelerate launch --num_processes 8 -m tools.parallel train msmarco dual/tas_balanced
    accelerate launch -m tools.parallel encode msmarco dual/tas_balanced [--shards 0:45]

`encode`: the processes share the shards. Machines without a common folder take a range each; copy their shards into the
folder that is printed at the end, on the machine that will search. With the last shard all are joined. You can
interrupt both; run the same command again, with any number of processes, and it resumes.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from tas_lib import config
from tas_lib.config import System
from tas_lib.experiment import Experiment
from tas_lib.retrieval import encode as encoding
from tas_lib.train import distributed


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0, or 2 for an unknown profile, system or range of shards, or a broken shard."""
    parser = argparse.ArgumentParser("tools.parallel", description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=("train", "encode"))
    parser.add_argument("profile", help="a file in profiles/")
    parser.add_argument("system", help="its key there; to encode, one that is trained or a checkpoint")
    parser.add_argument("--shards", default=":", help="first:end, as in Python; all by default")
    given = parser.parse_args(arguments)
    try:
        lab = Experiment(config.load(given.profile))
        kinds = ("trained",) if given.task == "train" else ("trained", "untrained", "checkpoint")
        systems = {key: system for key, system in lab.listed.items() if system.kind in kinds}
        if given.system not in systems:
            raise ValueError(f"no system {given.system!r} to {given.task}; there are: {', '.join(systems)}")
        with distributed.joined():
            level = logging.WARNING if given.task == "train" and not distributed.is_main() else logging.INFO
            logging.basicConfig(level=level, format="%(message)s")
            if given.task == "encode":
                encode(lab, systems[given.system], given.shards)
            else:
                folder = lab.trained(systems[given.system])
                if distributed.is_main():
                    print(folder, flush=True)
    except ValueError as error:
        print(error, file=sys.stderr, flush=True)
        return 2
    return 0


def encode(lab: Experiment, system: System, span: str) -> None:
    """Each process makes every n-th shard of the span; the main one then joins all, or says what is missing.

    Raises ValueError for an invalid span or a truncated shard.
    """
    with distributed.main_first():  # it makes what all need: collection, tokens, model, an empty draft
        encoder = lab.bi_encoder(system)
        encoder.encode_shards([])
        numbers = portion(span, len(encoding.shards(len(lab.collection.passages.ids))))
    encoder.encode_shards(numbers[distributed.index() :: distributed.number()])
    distributed.wait()
    if not distributed.is_main():
        return
    folder, missing = encoder.encode_shards([])
    if missing:
        print(f"shards {', '.join(map(str, missing))} are missing in {folder}: encode them, or copy them there")
    else:
        print(f"{len(encoder.vectors()):,} vectors of {system.name} are there")


def portion(span: str, n: int) -> range:
    """The numbers of n shards that a span means, or ValueError.

    >>> portion("2:", 5), portion(":", 5)
    (range(2, 5), range(0, 5))
    """
    first, colon, end = span.partition(":")
    if not colon or not all(part.isdecimal() or not part for part in (first, end)):
        raise ValueError(f"--shards {span}: write it as first:end, such as 0:{n}")
    numbers = range(int(first or 0), int(end or n))
    if not numbers or numbers.stop > n:
        raise ValueError(f"--shards {span}: there are {n} shards, 0:{n} is all of them")
    return numbers


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
