"""Train one system of a profile, alone or with all processes of a launch; the notebooks then find it in the store.

accelerate launch --num_processes 8 -m tools.train PROFILE SYSTEM

SYSTEM is a key of the profile or a name (dual-tas_balanced). You can interrupt it; run it again, with any number of
processes, and it resumes.
"""

import logging
import sys

from tas_lib import config
from tas_lib.experiment import Experiment
from tas_lib.train import distributed


def main(arguments: list[str]) -> int:
    """The exit status: 0 trained, 2 for an unknown profile or system, which the last line says."""
    try:
        if len(arguments) != 2:
            raise ValueError("usage: accelerate launch --num_processes N -m tools.train PROFILE SYSTEM")
        lab = Experiment(config.load(arguments[0]))
        trained = {key: system for key, system in lab.listed.items() if system.kind == "trained"}
        names = trained | {system.name: system for system in trained.values()}
        if arguments[1] not in names:
            raise ValueError(f"there is no system {arguments[1]!r} to train; there are: {', '.join(trained)}")
    except ValueError as error:
        print(error, file=sys.stderr, flush=True)
        return 2
    with distributed.joined():
        level = logging.INFO if distributed.is_main() else logging.WARNING
        logging.basicConfig(level=level, format="%(asctime)s %(message)s")
        folder = lab.trained(names[arguments[1]])
        if distributed.is_main():
            print(folder, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
