"""Runs that are killed at random moments end with the tables and run files of an undisturbed run."""

import os
import time
from pathlib import Path

import pytest

from tests.faults import campaign

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("words", [["smoke"], campaign.LOCAL_TARGETS], ids=lambda words: words[0])
def test_killed_at_random_moments_a_run_ends_with_the_same_tables(tmp_path: Path, words: list[str]):
    """$TAS_UNDISTURBED may name the folder of an earlier run of smoke, which saves one."""
    more = campaign.put_local(tmp_path) if words[0] == "local" else {}
    expected = Path(os.environ.get("TAS_UNDISTURBED", tmp_path / "whole")) if not more else tmp_path / "whole"
    if not (expected / "runs").is_dir():
        campaign.finished(expected, words, more)
    runs = campaign.kill_often(
        lambda folder, wait_s: campaign.finished(folder, words, more, wait_s), tmp_path / "killed", campaign.WITHIN_S
    )
    assert [campaign.different(expected, folder, words[0]) for folder in runs] == [[]] * len(runs)


def test_killed_at_random_moments_the_library_ends_with_the_same_artefacts(tmp_path: Path):
    more = campaign.put_local(tmp_path)

    def attempt(folder: Path, wait_s: float | None) -> bool:
        ended = campaign.work(more | {"TAS_RUNS": str(folder)}, wait_s)
        assert ended == "killed" or ended.startswith("done"), ended
        return ended != "killed"

    start = time.monotonic()
    assert attempt(tmp_path / "whole", None)
    runs = campaign.kill_often(attempt, tmp_path / "killed", time.monotonic() - start)
    for folder in runs:
        assert campaign.contents(folder) == campaign.contents(tmp_path / "whole")
