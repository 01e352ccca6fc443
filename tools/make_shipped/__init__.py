"""How `data/docs` is made: run by `./run_all.sh docs teachers` only."""
