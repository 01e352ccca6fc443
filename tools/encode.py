"""Encode a collection with several GPUs or machines, before a notebook needs its vectors.

    accelerate launch -m tools.encode msmarco 10 [--shards 0:45]

The processes share the shards among them. Machines that share no folder take a range each; what one has made is then
copied into the folder that it names at the end, on the machine that will search. When the last shard is there they are
joined. It makes nothing that `./run_all.sh` would not make by itself, and is only sooner. Killed, it goes on.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from datetime import timedelta

import torch
from accelerate import PartialState

from tas_lib import config
from tas_lib.config import System
from tas_lib.experiment import Experiment
from tas_lib.retrieval import encode as encoding

PATIENCE = timedelta(days=7)  # that processes wait for the slowest


def main(words: Sequence[str]) -> int:
    """The exit status: 0 encoded, 2 asked for something unknown or a shard is broken."""
    parser = argparse.ArgumentParser("tools.encode", description=__doc__.partition("\n")[0])
    parser.add_argument("profile", help="a file in profiles/")
    parser.add_argument("system", help="its number there; one that is trained or a checkpoint")
    parser.add_argument("--shards", default=":", help="first:end, as in Python; all by default")
    asked = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)  # sets each process's GPU
    try:
        encode(Experiment(config.load(asked.profile)), asked.system, asked.shards, state)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        state.destroy_process_group()
    return 0


def encode(lab: Experiment, number: str, span: str, state: PartialState) -> None:
    """Each process makes every n-th shard of the span; the first one then joins all, or says what is missing.

    Raises ValueError for a system that has no vectors, a span that is none, a shard that is cut off.
    """
    system = known(lab, number)
    with state.main_process_first():  # it makes what all need: collection, tokens, model, an empty draft
        lab.encode_shards(system, [])
        mine = portion(span, len(encoding.shards(len(lab.collection.passages.ids))))
    lab.encode_shards(system, mine[state.process_index :: state.num_processes])
    state.wait_for_everyone()
    if state.is_main_process:
        folder, missing = lab.encode_shards(system, [])
        if missing:
            print(f"shards {', '.join(map(str, missing))} are missing in {folder}: encode them, or copy them there")
        else:
            print(f"{len(lab.vectors(system)):,} vectors of {system.name} are there")


def known(lab: Experiment, number: str) -> System:
    """The system of that number, or ValueError."""
    dense = {key: system for key, system in lab.listed.items() if system.kind in ("trained", "checkpoint")}
    if number not in dense:
        raise ValueError(f"profile {lab.profile.name!r} has no dense system {number!r}; there are: {', '.join(dense)}")
    return dense[number]


def portion(span: str, n: int) -> range:
    """The numbers of n shards that a span means, or ValueError.

    >>> portion("2:", 5), portion(":", 5)
    (range(2, 5), range(0, 5))
    """
    first, colon, end = span.partition(":")
    if not colon or not all(part.isdecimal() or not part for part in (first, end)):
        raise ValueError(f"--shards {span}: write it as first:end, such as 0:{n}")
    found = range(int(first or 0), int(end or n))
    if not found or found.stop > n:
        raise ValueError(f"--shards {span}: there are {n} shards, 0:{n} is all of them")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
