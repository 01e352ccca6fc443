"""How things are run: `run` (./run_all.sh), `execute` (a job), `notebooks` (the files), `graph` (what needs what)."""
