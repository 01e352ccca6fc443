"""What notebooks tell besides figures and tables: our source in colour, small grids, the check of an exercise."""

import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
from IPython.display import display
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from torch import Tensor

from tas_lib.records import FloatArray

PAPER = (
    "background:#f6f8fa; color:#24292f; padding:.6em .8em; overflow-x:auto; white-space:pre; font:.85em/1.4 monospace"
)


def show(*code: Callable[..., Any]) -> None:
    """The source of functions or classes of the library, in colour and under their names."""
    for thing in code:
        source = textwrap.dedent(inspect.getsource(thing)).strip()
        style = HtmlFormatter(noclasses=True, nobackground=True, prestyles=PAPER)
        name = f"{thing.__module__}.{thing.__qualname__}"
        html = f"<small>{escape(name)}</small>\n{highlight(source, PythonLexer(), style)}"
        display({"text/html": html, "text/plain": f"# {name}\n{source}"}, raw=True)


def grid(rows: Iterable[Sequence[object]], columns: Sequence[str]) -> None:
    """A small table: words to the left, numbers to the right, whole ones with commas, others with three decimals."""
    body = [list(row) for row in rows]
    plain = [list(columns), *([_cell(value) for value in row] for row in body)]
    sides = ["left" if any(isinstance(v, str) for v in column) else "right" for column in zip(*body, strict=True)]
    sides = sides or ["left"] * len(columns)
    lines = [
        "".join(_html(tag, side, text) for side, text in zip(sides, line, strict=True))
        for tag, line in zip(["th", *["td"] * len(body)], plain, strict=True)
    ]
    html = "\n".join(f"<tr>{line}</tr>" for line in lines)
    text = "\n".join(" | ".join(line) for line in plain)
    display({"text/html": f"<table>\n{html}\n</table>", "text/plain": text}, raw=True)


def check(yours: Callable[..., Any], ours: Callable[..., Any], *cases: Sequence[Any]) -> None:
    """Compare an exercise's function with ours on every case, a tuple of arguments.

    An unfilled stub, which returns None, is "Not done yet"; a wrong answer is an AssertionError that shows the first
    case where the two differ. Numbers, arrays and tensors may differ by rounding.
    """
    for number, case in enumerate(cases, 1):
        got, wanted = yours(*case), ours(*case)
        if got is None and number == 1:
            print("Not done yet")
            return
        if not _agree(got, wanted):
            raise AssertionError(
                f"case {number} of {len(cases)}: {yours.__name__} gives {_brief(got)}, "
                f"{_name(ours)} gives {_brief(wanted)}; the arguments were {', '.join(map(_brief, case))}"
            )
    print(f"Right: the same as {_name(ours)} in {len(cases)} case{'s' * (len(cases) > 1)}")


def _name(ours: Callable[..., Any]) -> str:
    return "our answer" if ours.__name__ == "<lambda>" else ours.__name__


def _html(tag: str, side: str, text: str) -> str:
    inside, wrap = escape(text), ""
    if len(text) < 24:
        wrap = "; white-space:nowrap"
    else:  # a qualified name may break after a dot or an underscore
        inside = re.sub(r"(?<=\w)([._])(?=\w)", r"\1<wbr>", inside)
    return f'<{tag} style="text-align:{side}{wrap}">{inside}</{tag}>'


def _cell(value: object) -> str:
    if isinstance(value, bool | str | None):
        return "–" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int | np.integer) else f"{value:,.3f}"


def _agree(got: Any, wanted: Any) -> bool:
    ours, theirs = _numbers(wanted), _numbers(got)
    if ours is not None and theirs is not None:
        exact = ours.dtype.kind in "biu"  # rows and counts; what was computed with fractions may differ by rounding
        close = np.array_equal if exact else functools.partial(np.allclose, rtol=1e-4, atol=1e-6, equal_nan=True)
        return ours.shape == theirs.shape and bool(close(theirs, ours))
    if isinstance(wanted, list | tuple) and isinstance(got, list | tuple):
        return len(got) == len(wanted) and all(map(_agree, got, wanted))
    return bool(got == wanted)


def _numbers(value: Any) -> FloatArray | None:
    try:
        array = np.asarray(_plain(value))
    except ValueError:  # rows of different lengths
        return None
    return array if array.dtype.kind in "biuf" else None


def _plain(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


def _brief(value: Any) -> str:
    """On one line, of arrays the shape and the first numbers."""
    value = _plain(value)
    if isinstance(value, np.ndarray) and value.ndim:
        first = ", ".join(f"{x:.4g}" for x in value.ravel()[:6].tolist())
        return f"an array {value.shape} [{first}{', ...' * (value.size > 6)}]"
    if isinstance(value, np.ndarray | np.number | float):
        return f"{float(value):.6g}"
    return textwrap.shorten(repr(value), 120)
