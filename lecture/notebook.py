"""What notebooks show besides figures and tables: our source in colour, small tables, the check of an exercise."""

import inspect
import re
import runpy
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from html import escape
from typing import Any

import numpy as np
import transformers
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from torch import Tensor

from lecture import gaps, live  # noqa: F401 - its import sets what happens where a cell does not apply
from tas_lib.config import ROOT


def described(figure: Figure, png: Callable[[Figure], str]) -> str:
    """A figure with its label as alternative text. png: encodes a figure in base64; "" for one without axes."""
    return f'<img alt="{escape(str(figure.get_label() or figure))}" src="data:image/png;base64,{png(figure) or ""}">'


shell = get_ipython()
live.show_in(shell)
transformers.utils.logging.disable_progress_bar()
if hasattr(shell, "kernel"):  # else a figure is shown only if pyplot was used before
    shell.run_line_magic("matplotlib", "inline")
    formats = shell.display_formatter.formatters  # JupyterLab gives an image/png no alternative text, so it is HTML
    formats["text/html"].for_type(Figure, partial(described, png=formats["image/png"].pop(Figure)))

PAPER = (
    "background:#f6f8fa; color:#24292f; padding:.6em .8em; overflow-x:auto; white-space:pre; font:.85em/1.4 monospace"
)


SOLUTIONS = ROOT / "notebooks" / "solutions.py"
CHANCE = 0.06
"""Shares of 2,000 draws that differ by less do so by chance: four standard deviations, at most."""


def show(*code: Callable[..., Any]) -> None:
    """The source of functions or classes of the library, in colour and under their names."""
    for thing in code:
        source = textwrap.dedent(inspect.getsource(thing)).strip()
        html = highlight(source, PythonLexer(), HtmlFormatter(noclasses=True, nobackground=True, prestyles=PAPER))
        name = f"{thing.__module__}.{thing.__qualname__}"
        display({"text/html": f"<small>{escape(name)}</small>\n{html}", "text/plain": f"# {name}\n{source}"}, raw=True)


def grid(rows: Iterable[Sequence[object]], columns: Sequence[str]) -> None:
    """A small table: text to the left, numbers to the right, integers with commas, others with three decimals."""
    body = [list(row) for row in rows]
    sides = ["left" if any(isinstance(v, str) for v in column) else "right" for column in zip(*body, strict=True)]
    lines = [list(columns), *([_shown(value) for value in row] for row in body)]
    html = "<table>\n"
    for tag, line in zip(["th", *["td"] * len(body)], lines, strict=True):
        html += f"<tr>{''.join(map(_html, [tag] * len(line), sides or ['left'] * len(line), line))}</tr>\n"
    display({"text/html": f"{html}</table>", "text/plain": "\n".join(map(" | ".join, lines))}, raw=True)


def _shown(value: object) -> str:
    if isinstance(value, bool | str | None):
        return "–" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int | np.integer) else f"{value:,.3f}"


def _html(tag: str, side: str, text: str) -> str:
    inside, wrap = escape(text), "; white-space:nowrap"
    if len(text) >= 24:  # a long name may break after a dot or an underscore
        inside, wrap = re.sub(r"(?<=\w)([._])(?=\w)", r"\1<wbr>", inside), ""
    return f'<{tag} style="text-align:{side}{wrap}">{inside}</{tag}>'


def check(yours: Callable[..., Any], *cases: Sequence[Any], draws: int = 0) -> None:
    """Compare an exercise's function with the solution of the same name on every case, a tuple of arguments.

    An unfilled stub, which returns None, is "Not done yet"; a wrong answer is an AssertionError that shows the first
    case where the two differ. Numbers, arrays and tensors may differ by rounding. With `draws`, the functions get a
    Generator as last argument and are called that often; we compare how often each result occurs, in any order.
    """
    ours = runpy.run_path(str(SOLUTIONS))[yours.__name__]
    for number, case in enumerate(cases, 1):
        results: list[Any] = [_often(f, case, draws) if draws else f(*case) for f in (yours, ours)]
        answer, expected = results
        if answer is None and number == 1:
            print("Not done yet")
            return
        same = _agree(answer, expected)
        if draws:
            worst = max(sorted({*answer, *expected}), key=lambda what: abs(answer[what] - expected[what]))
            same = abs(answer[worst] - expected[worst]) <= CHANCE * draws
            answer, expected = (f"{worst} in {often[worst]} of {draws} draws" for often in (answer, expected))
        if not same:
            raise AssertionError(
                f"case {number} of {len(cases)}: {yours.__name__} gives {_brief(answer)}, "
                f"the solution {_brief(expected)}; the arguments were {', '.join(map(_brief, case))}"
            )
    print(f"Right: the same as the solution in {len(cases)} case{'s' * (len(cases) > 1)}")


def _often(draw: Callable[..., Any], case: Sequence[Any], draws: int) -> Any:
    rng = np.random.default_rng(1)
    answers = [draw(*case, rng) for _ in range(draws)]
    return None if answers[0] is None else Counter(str(np.sort(answer, axis=None)) for answer in answers)


def _agree(answer: Any, expected: Any) -> bool:
    if isinstance(answer, list | tuple) and isinstance(expected, list | tuple):
        return len(answer) == len(expected) and all(map(_agree, answer, expected))
    theirs, ours = (np.asarray(v.detach().cpu() if isinstance(v, Tensor) else v) for v in (answer, expected))
    if ours.dtype.kind == "f" and theirs.dtype.kind in "biuf":  # integers are indices and counts: exact
        return ours.shape == theirs.shape and np.allclose(theirs, ours, rtol=1e-4, atol=1e-6, equal_nan=True)
    return np.array_equal(theirs, ours)


def _brief(value: Any) -> str:
    return textwrap.shorten(repr(value), 120)
