"""Train one system of a profile, alone or over all processes of a launch; the notebooks then find it whole.

accelerate launch --num_processes 8 -m tools.train PROFILE SYSTEM

SYSTEM is a number of the profile or a name (dual-tas_balanced). The first process makes what the system needs,
the baseline and the topics among it, writes all files, and goes on where a killed run was, with any number of others.
"""

import logging
import sys

from tas_lib import config as profiles
from tas_lib.config import System
from tas_lib.experiment import Experiment
from tas_lib.train import distributed


def main(words: list[str]) -> int:
    """The exit status: 0 trained, 2 asked for something unknown, which the last line says."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        if len(words) != 2:
            raise ValueError("usage: accelerate launch --num_processes N -m tools.train PROFILE SYSTEM")
        lab = Experiment(profiles.load(words[0]))
        system = find(lab, words[1])
    except ValueError as error:
        print(error, file=sys.stderr, flush=True)
        return 2
    with distributed.joined():
        if distributed.rank():
            lab.assist()
            return 0
        place = lab.trained(system)
        distributed.tell(None)
    print(place, flush=True)
    return 0


def find(lab: Experiment, wanted: str) -> System:
    """The trained system of this number or name."""
    known = {number: s for number, s in lab.listed.items() if s.kind == "trained"}
    known |= {s.name: s for s in known.values()}
    if wanted not in known:
        raise ValueError(f"there is no system {wanted!r} to train; there are: {', '.join(known)}")
    return known[wanted]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
