"""What a reader sees of `show`, `grid` and `check`."""

import logging
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient

from lecture import gaps, live, notebook
from tas_lib import losses, sampling


@pytest.fixture
def seen(monkeypatch) -> list[dict[str, str]]:
    bundles: list[dict[str, str]] = []
    monkeypatch.setattr(notebook, "display", lambda bundle, raw: bundles.append(bundle))
    return bundles


def double(x):
    return 2 * x


def one_of(values, rng):
    return rng.choice(values)


@pytest.fixture
def solutions(monkeypatch):
    """The functions that take the place of notebooks/solutions.py."""
    found = {"double": double, "one_of": one_of}
    monkeypatch.setattr(notebook.runpy, "run_path", lambda path: found)
    return found


def test_shown_code_is_the_source_with_its_name_and_no_path_and_twice_the_same(seen):
    notebook.show(losses.margin_mse, sampling.Sampler.batch, losses.margin_mse)
    first, second, third = seen
    assert first["text/plain"].startswith("# tas_lib.losses.margin_mse\ndef margin_mse(student: Tensor")
    assert "\ndef batch(self" in second["text/plain"], "a method is shown without its indent"
    assert "<pre" in first["text/html"] and "<span" in first["text/html"] and ".py" not in first["text/html"]
    assert first == third


def test_a_grid_puts_words_left_and_numbers_right_and_breaks_long_names(seen):
    rows = [("a <b>", 13783, 0.38125), ("1.5", np.int64(2), None), ("networkx.algorithms.edge_dfs", True, 1)]
    notebook.grid(rows, ["name", "count", "score"])
    notebook.grid([], ["name", "count"])
    assert seen[0]["text/plain"].startswith("name | count | score\na <b> | 13,783 | 0.381\n1.5 | 2 | –\n")
    assert '<td style="text-align:left; white-space:nowrap">a &lt;b&gt;</td>' in seen[0]["text/html"]
    assert '<td style="text-align:right; white-space:nowrap">13,783</td>' in seen[0]["text/html"]
    assert ">networkx.<wbr>algorithms.<wbr>edge_<wbr>dfs<" in seen[0]["text/html"] and ">1.5<" in seen[0]["text/html"]
    assert seen[1]["text/plain"] == "name | count"


def named(name, function):
    function.__name__ = name
    return function


def test_an_unfilled_stub_is_not_done_yet_and_a_correct_answer_is_confirmed(solutions, capsys):
    notebook.check(named("double", lambda x: None), (1,), (2,))
    notebook.check(named("one_of", lambda values, rng: None), ([1, 2],), draws=2_000)
    notebook.check(double, (1,), (torch.ones(2),))
    said = capsys.readouterr().out
    assert said == "Not done yet\nNot done yet\nRight: the same as the solution in 2 cases\n"


def test_a_wrong_answer_names_the_first_case_where_the_two_differ(solutions):
    with pytest.raises(AssertionError, match="case 2 of 3: double gives 3, the solution 2; the arguments were 1"):
        notebook.check(named("double", lambda x: 3 * x), (0,), (1,), (2,))
    with pytest.raises(AssertionError, match="case 2 of 2"):  # None is an answer in a later case
        notebook.check(named("double", lambda x: 2 * x or None), (1,), (0,))


def test_draws_agree_if_they_are_equally_frequent(solutions, capsys):
    notebook.check(named("one_of", lambda values, rng: values[int(2 * rng.random())]), ([1, 2],), draws=2_000)
    assert capsys.readouterr().out.startswith("Right")
    with pytest.raises(AssertionError, match=r"one_of gives '\[[12]\] in \d+ of 2000 draws', the solution"):
        notebook.check(named("one_of", lambda values, rng: rng.choice([1, *values])), ([1, 2],), draws=2_000)


@pytest.mark.parametrize(
    ("answer", "expected", "agree"),
    [
        (1.0000001, torch.tensor(1.0), True),
        (np.float32(0.1), 0.1, True),
        ([1.0, 2.0], np.array([1.0, 2.0]), True),
        ({"a": 1}, {"a": 1}, True),
        (float("nan"), float("nan"), True),
        ([[1], [2, 3]], [(1,), (2, 3)], True),
        (12346, 12345, False),  # integers are exact
        (torch.ones(1), torch.tensor(1.0), False),
        ({"a": 1}, {"a": 2}, False),
    ],
)
def test_answers_agree_if_they_are_equal_but_for_rounding(answer, expected, agree, solutions, capsys):
    solutions["double"] = lambda x: x and expected
    try:
        notebook.check(named("double", lambda x: x and answer), (0,), (1,))
    except AssertionError:
        assert not agree
    assert ("Right" in capsys.readouterr().out) == agree


# --- cells that do not apply -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("profile", "goes_on"), [("docs", False), ("mine", True)])
def test_a_cell_that_does_not_apply_says_so_and_the_notebook_goes_on(profile: str, goes_on: bool, capsys):
    shell = InteractiveShell()
    gaps.Gaps(shell)
    cells = {
        f"PROFILE, rows, total, one = '{profile}', [1], [], 1": True,
        "from tas_lib.records import NotRun": True,
        "kept = 2\nif kept:\n    raise NotRun('no stop set')\nrows = [2]": True,
        "total += rows": True,  # rows is of the cell before: it is not the old value
        "print(kept)": True,
        "assert one == 2\nprint('goes on')": goes_on,
        "no_such_name": False,
        "rows = [3]": True,
        "print(rows, total)": True,
    }
    assert [shell.run_cell(cell).success for cell in cells] == list(cells.values())
    printed = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith(("not run", "False", "goes", "2", "["))
    ]
    assert printed == [
        "not run: no stop set",
        "not run: it needs `rows`, which was not run",
        "2",
        *(["False on this profile: one == 2", "goes on"] if goes_on else []),
        "[3] []",
    ]


LIVE = """
import logging
from lecture import live, notebook
from tas_lib.data import progress

live.show_in(notebook.shell)  # a notebook imports once, a reader may run the cell twice
step = progress.Progress(logging.getLogger("tas_lib.retrieval.encode"), "token vectors", 4)
for _ in range(2):
    step.shown -= progress.EVERY_S
    step.add(1)
logging.getLogger("tas_lib.data").warning("careful")
print("done")
"""


def test_a_live_notebook_shows_the_log_in_one_line_that_is_empty_in_the_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TAS_LOG", raising=False)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(LIVE)])
    client, shown = NotebookClient(notebook), []
    of_message = client.process_message
    monkeypatch.setattr(client, "process_message", lambda *args: shown.append(args[0]) or of_message(*args))
    client.execute()
    texts = [message["content"]["data"]["text/plain"] for message in shown if "data" in message["content"]]
    assert [text.partition(" after")[0] for text in texts] == ["token vectors: 25%", "token vectors: 50%", ""]
    outputs = [output.get("text") or output.data["text/plain"] for output in notebook.cells[0].outputs]
    assert sorted(outputs) == ["", "careful\n", "done\n"]


def test_the_log_is_not_shown_in_a_notebook_that_the_runner_executes_nor_without_a_kernel(monkeypatch):
    log = logging.getLogger("tas_lib")
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setenv("TAS_LOG", "run.log")
    live.show_in(SimpleNamespace(kernel=None))
    monkeypatch.delenv("TAS_LOG")
    live.show_in(InteractiveShell())
    assert not log.handlers
