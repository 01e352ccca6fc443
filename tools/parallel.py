"""Train one system with several GPUs: the processes of a launch share every batch, and the notebooks find the result.

    accelerate launch --num_processes 8 -m tools.parallel msmarco dual/tas_balanced

You can interrupt it; run the same command again, with any number of processes, and it resumes.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from tas_lib import config
from tas_lib.experiment import Experiment
from tas_lib.train import distributed


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0, or 2 for an unknown profile or system."""
    parser = argparse.ArgumentParser("tools.parallel", description=__doc__.partition("\n")[0])
    parser.add_argument("profile", help="a file in profiles/")
    parser.add_argument("system", help="its key there")
    given = parser.parse_args(arguments)
    try:
        lab = Experiment(config.load(given.profile))
        systems = {key: system for key, system in lab.listed.items() if system.kind == "trained"}
        if given.system not in systems:
            raise ValueError(f"no system {given.system!r} to train; there are: {', '.join(systems)}")
        with distributed.joined():
            level = logging.INFO if distributed.is_main() else logging.WARNING
            logging.basicConfig(level=level, format="%(message)s")
            folder = lab.trained(systems[given.system])
            if distributed.is_main():
                print(folder, flush=True)
    except ValueError as error:
        print(error, file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
