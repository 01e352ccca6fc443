"""Run by each job's kernel at its start (PYTHONSTARTUP): tas_lib's log goes to a file, not into the notebook."""


def _log_to_file() -> None:
    import logging
    import os

    handler = logging.FileHandler(os.environ["TAS_LOG"], encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("tas_lib").addHandler(handler)
    logging.getLogger("tas_lib").setLevel(logging.INFO)


_log_to_file()
del _log_to_file
