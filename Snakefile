# The paper as a graph (tools/graph.py): each figure and table a target, each training run a job, each job one notebook.
#
# ./run_all.sh docs figure1 is the usual way in. Snakemake alone does as well, so a cluster takes the same graph:
# snakemake --config profile=msmarco threads=16 --executor slurm --jobs 8 --rerun-triggers mtime params input -- table4

import os
import shlex
import sys

sys.path.insert(0, workflow.basedir)

from tas_lib import config as profiles
from tools import graph

PROFILE = profiles.load(config.get("profile", "docs"))
JOBS = graph.jobs(PROFILE)
WHOLE = graph.aliases(PROFILE)["everything"]
PROFILE.folder.mkdir(parents=True, exist_ok=True)


workdir: str(PROFILE.folder)


rule everything:
    input:
        expand("notebooks/{name}.ipynb", name=WHOLE),
        [PROFILE.figures / made for name in WHOLE for made in JOBS[name].makes],


for job in JOBS.values():

    rule:
        name:
            job.name
        input:
            graph.inputs(job, PROFILE),
            expand("notebooks/{name}.ipynb", name=job.needs),
        output:
            f"notebooks/{job.name}.ipynb",
            # what stood there is kept until the new one is whole
            *[update(str(PROFILE.figures / made)) for made in job.makes],
        params:
            **job.parameters,
        threads: int(config.get("threads", os.cpu_count() or 1))  # one job at a time on one machine, with all its cores
        priority: job.first  # figures and a first table before the long row of trainings
        shell:
            f"cd {shlex.quote(workflow.basedir)}; {shlex.quote(sys.executable)} -m tools.execute {PROFILE.name} {{rule}}"


for alias, names in graph.aliases(PROFILE).items():
    if alias not in JOBS and alias != "everything":

        rule:
            name:
                alias
            input:
                expand("notebooks/{name}.ipynb", name=names),
                [PROFILE.figures / made for name in names for made in JOBS[name].makes],
