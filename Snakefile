# The paper as a graph (tools/graph.py): each figure and table a target, each training run a job, each job one notebook.
#
# ./run_all.sh docs figure1 is the usual way to run it. On a cluster, call Snakemake directly with the same graph:
# snakemake --config profile=msmarco threads=16 --executor slurm --jobs 8 --rerun-triggers mtime params input -- table4

import os
import shlex
import sys

sys.path.insert(0, workflow.basedir)

from tas_lib import config as profiles
from tools import graph

PROFILE = profiles.load(str(config.get("profile", "docs")))
WORDS = [workflow.basedir, sys.executable, PROFILE.name]
JOBS, TARGETS, STAMP = graph.jobs(PROFILE), graph.targets(PROFILE), graph.stamp(PROFILE)
PROFILE.folder.mkdir(parents=True, exist_ok=True)


workdir: str(PROFILE.folder)


def built(names):
    """The executed notebooks of these jobs, and what they make in figures/."""
    made = [str(PROFILE.figures / file) for name in names for file in JOBS[name].makes]
    return [f"notebooks/{name}.ipynb" for name in names] + made


for target in ["everything", *(name for name in TARGETS if name not in JOBS and name != "everything")]:

    rule:
        name:
            target
        input:
            built(TARGETS[target]),


for job in JOBS.values():

    rule:
        name:
            job.name
        input:
            graph.inputs(job, PROFILE),
            expand("notebooks/{name}.ipynb", name=job.needs),
        output:
            f"notebooks/{job.name}.ipynb",
            # the old files stay until the new ones are complete
            *[update(str(PROFILE.figures / file)) for file in job.makes],
        params:
            **job.parameters,
            files=STAMP,
        # one job at a time on one machine, with all its cores, but for jobs that use fewer; also their OMP_NUM_THREADS
        threads: job.cores or int(config.get("threads", os.cpu_count() or 1))
        priority: job.early  # figures and the first table before the many trainings
        shell:
            "cd {}; {} -m tools.execute {} {{rule}}".format(*map(shlex.quote, WORDS))
