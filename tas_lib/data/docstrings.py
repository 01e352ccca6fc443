"""Docstrings of installed packages, read without importing them; and their parts as plain words."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

SKIPPED_FOLDERS = {"tests", "test", "testing", "conftest.py", "_vendor", "vendored", "externals", "third_party"}
SECTION = re.compile(r"^(?P<indent>[ \t]*)(?P<title>[A-Z][A-Za-z ]{2,40})[ \t]*\n[ \t]*[-=~]{3,}[ \t]*$", re.M)
TEMPLATE = re.compile(r"%\(\w+\)s|%s|\{\{?\w+\}?\}|<\w+ description>")
ROLE = re.compile(r":[\w:+-]+:`~?\.?([^`<]*?)(?:\s*<[^>`]*>)?`")
NAME = re.compile(r"[A-Za-z_][\w.]*$")
DROPPED_SECTIONS = {"see also", "references", "bibliography"}


def docstrings(root: Path, package: str) -> Iterator[tuple[str, str]]:
    """(qualified name, docstring) of every public function, class and method below `root/package`, in file order.

    Private modules are left out of the name (`numpy.linalg._linalg.norm` is known as `numpy.linalg.norm`).
    """
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if SKIPPED_FOLDERS & {*parts, path.name}:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError):  # templates that are no Python yet
            continue
        module = [part for part in parts if not part.startswith("_")]
        yield from _documented(tree, module)


def _documented(node: ast.AST, prefix: list[str]) -> Iterator[tuple[str, str]]:
    for child in getattr(node, "body", []):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if child.name.startswith("_"):
                continue
            name = [*prefix, child.name]
            text = ast.get_docstring(child)
            if text and text.strip():
                yield ".".join(name), text.strip()
            if isinstance(child, ast.ClassDef):
                yield from _documented(child, name)
        elif isinstance(child, ast.If | ast.Try):
            yield from _documented(child, prefix)


# --- one docstring -----------------------------------------------------------------------------------------------


def split_docstring(text: str) -> tuple[str, str, tuple[str, ...]]:
    """(summary, body, names under "See Also") of a docstring, as plain words."""
    summary, _, rest = text.partition("\n\n")
    body, linked = [], []
    heads = list(SECTION.finditer(rest))
    bounds = [0, *(head.start() for head in heads), len(rest)]
    body.append(rest[: bounds[1]])
    for head, end in zip(heads, bounds[2:], strict=True):
        content = rest[head.end() : end]
        if head["title"].strip().lower() == "see also":
            linked += _names_in_section(content)
        if head["title"].strip().lower() not in DROPPED_SECTIONS:
            body += [head["title"].strip() + ".", content]
    plain, more = _without_seealso_directives("\n".join(body))
    return to_words(summary), to_words(without_doctest_output(plain)), tuple(dict.fromkeys(linked + more))


def _names_in_section(content: str) -> list[str]:
    lines = [line for line in content.expandtabs().splitlines() if line.strip()]
    if not lines:
        return []
    base = min(len(line) - len(line.lstrip()) for line in lines)
    names = []
    for line in lines:
        if len(line) - len(line.lstrip()) > base:
            continue  # an indented description
        for part in re.split(r"\s:\s|:$", ROLE.sub(r"\1", line.strip()), maxsplit=1)[0].split(","):
            name = part.strip(" `*-.~").removesuffix("()")
            if NAME.match(name):
                names.append(name)
    return names


def _without_seealso_directives(text: str) -> tuple[str, list[str]]:
    kept, names, inside = [], [], None
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if re.match(r"\s*\.\. seealso::", line):
            inside = indent
        elif inside is not None and line.strip() and indent <= inside:
            inside = None
        if inside is None:
            kept.append(line)
        else:
            names += [name for name in ROLE.findall(line) if NAME.match(name)]
    return "\n".join(kept), names


def without_doctest_output(text: str) -> str:
    """Drop the output of doctests, up to the next blank line or prompt; keep their code."""
    kept, output = [], False
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith(("(>>>", ">>>")) or (bare.startswith("...") and output):
            kept.append(bare.lstrip(">. "))
            output = True
        elif not bare:
            output = False
        elif not output:
            kept.append(line)
    return "\n".join(kept)


def to_words(text: str) -> str:
    """Remove markup: roles, literals, directives, rules and unfilled template lines; one space between words."""
    lines = [line for line in text.splitlines() if not TEMPLATE.fullmatch(line.strip())]
    text = ROLE.sub(r"\1", "\n".join(lines))
    text = re.sub(r"^\s*\.\. (\[[^\]]*\]|[\w:+-]+::)", " ", text, flags=re.M)
    text = re.sub(r"^\s*[-=~^*#+|]{3,}\s*$", " ", text, flags=re.M)
    return re.sub(r"\s+", " ", re.sub(r"[`*|]+|::", " ", text)).strip()
