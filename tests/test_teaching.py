"""What a reader sees of `show`, `grid` and `check`."""

import numpy as np
import pytest
import torch

from tas_lib import losses, sampling
from tas_lib.report import notebook as teaching


@pytest.fixture
def seen(monkeypatch) -> list[dict[str, str]]:
    bundles: list[dict[str, str]] = []
    monkeypatch.setattr(teaching, "display", lambda bundle, raw: bundles.append(bundle))
    return bundles


def stub(x):
    """Nobody has filled this in."""


def double(x):
    return 2 * x


def triple(x):
    return 3 * x


def test_shown_code_is_the_source_with_its_name_and_no_path(seen):
    teaching.show(losses.margin_mse, sampling.Sampler.batch)
    first, second = seen
    assert first["text/plain"].startswith("# tas_lib.losses.margin_mse\ndef margin_mse(student: Tensor")
    assert "\ndef batch(self" in second["text/plain"], "a method is shown without its indent"
    assert "<pre" in first["text/html"] and "Margin-MSE of the queries" in first["text/html"]
    assert ".py" not in first["text/html"]


def test_shown_twice_it_is_the_same_bytes(seen):
    teaching.show(losses.dual)
    teaching.show(losses.dual)
    assert seen[0] == seen[1]


def test_a_grid_puts_words_left_and_numbers_right(seen):
    teaching.grid([("a <b>", 13783, 0.38125), ("none", np.int64(2), None)], ["name", "count", "score"])
    assert seen[0]["text/plain"] == "name | count | score\na <b> | 13,783 | 0.381\nnone | 2 | –"
    assert '<td style="text-align:left; white-space:nowrap">a &lt;b&gt;</td>' in seen[0]["text/html"]
    assert '<td style="text-align:right; white-space:nowrap">13,783</td>' in seen[0]["text/html"]


def test_a_long_name_may_break_in_a_grid_after_its_dots_and_underscores(seen):
    teaching.grid([("networkx.algorithms.edge_dfs", 1), ("1.5", 2)], ["name", "count"])
    assert "networkx.<wbr>algorithms.<wbr>edge_<wbr>dfs" in seen[0]["text/html"]
    assert ">1.5<" in seen[0]["text/html"]


def test_an_empty_grid_is_its_head(seen):
    teaching.grid([], ["name", "count"])
    assert seen[0]["text/plain"] == "name | count"


def test_an_unfilled_stub_is_not_done_yet(capsys):
    teaching.check(stub, double, (1,), (2,))
    assert capsys.readouterr().out == "Not done yet\n"


def test_a_right_answer_is_told(capsys):
    teaching.check(double, double, (1,), (torch.ones(2),))
    assert capsys.readouterr().out == "Right: the same as double in 2 cases\n"


def test_a_wrong_answer_names_the_first_case_where_the_two_differ():
    with pytest.raises(AssertionError, match="case 2 of 3: triple gives 3, double gives 2; the arguments were 1"):
        teaching.check(triple, double, (0,), (1,), (2,))


def test_a_wrong_array_is_shown_by_shape_and_first_numbers():
    with pytest.raises(AssertionError, match=r"triple gives an array \(8,\) \[3, 3, 3, 3, 3, 3, \.\.\.\]"):
        teaching.check(triple, double, (torch.ones(8),))


def test_none_in_a_later_case_is_wrong():
    with pytest.raises(AssertionError, match="case 2 of 2"):
        teaching.check(lambda x: x or None, lambda x: x, (1,), (0,))


@pytest.mark.parametrize(
    ("got", "wanted"),
    [
        (1.0000001, torch.tensor(1.0)),
        (np.float32(0.1), 0.1),
        ([1.0, 2.0], np.array([1.0, 2.0])),
        ((torch.ones(2), "a"), (np.ones(2), "a")),
        ({"a": 1}, {"a": 1}),
        (float("nan"), float("nan")),
        ([[1], [2, 3]], [(1,), (2, 3)]),
    ],
)
def test_equal_but_for_rounding_agrees(got, wanted):
    teaching.check(lambda: got, lambda: wanted, ())


@pytest.mark.parametrize(
    ("got", "wanted"),
    [
        (12346, 12345),  # rows are no measurements
        (1.01, 1.0),
        (torch.ones(1), torch.tensor(1.0)),
        ([1.0], [1.0, 1.0]),
        ("a", "b"),
        ({"a": 1}, {"a": 2}),
        (None, [None, 1]),
    ],
)
def test_what_differs_is_found(got, wanted):
    with pytest.raises(AssertionError, match="case 2"):
        teaching.check(lambda x: x and got, lambda x: x and wanted, (0,), (1,))
