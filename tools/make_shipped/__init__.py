"""How `data/docs` is made: only `./run_all.sh docs teachers` runs this."""
