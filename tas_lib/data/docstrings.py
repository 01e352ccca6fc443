"""Docstrings of installed packages, read without importing them, and their parts as plain text."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

SKIPPED_FOLDERS = {"tests", "test", "testing", "conftest.py", "_vendor", "vendored", "externals", "third_party"}
SECTION = re.compile(
    # numpy's, then Google's
    r"^(?P<indent>[ \t]*)(?P<title>[A-Z][A-Za-z ]{2,40})[ \t]*\n[ \t]*[-=~]{3,}[ \t]*$"
    r"|^(?P<indent2>[ \t]*)(?P<title2>Args|Arguments|Parameters|Params|Kwargs|Keyword Args|Keyword Arguments|Inputs?"
    r"|Outputs?|Returns?|Yields|Raises|Attributes|Examples?|Usage|Notes?|References?|See Also|Shape):?:?[ \t]*$",
    re.M,
)
FIELD = re.compile(
    r"^[ \t]*:(?P<kind>param|parameter|arg|keyword|type|rtype|returns?|raises?|yields?)\b(?P<name>[^:\n]*):", re.M
)
NUMPY_ARGUMENT = re.compile(r"^[ \t]*(?P<names>\*{0,2}[A-Za-z_]\w*(?:, ?\*{0,2}\w+)*)[ \t]?:[ \t].*$")
GOOGLE_ARGUMENT = re.compile(
    r"^[ \t]*(?:[-*][ \t]+)?`{0,2}(?P<name>\*{0,2}[A-Za-z_][\w.]*)`{0,2}[ \t]*\([^\n]*?\)[ \t]*:(?=[ \t]|$)"
)
TEMPLATE = re.compile(r"%\(\w+\)s|%s|\{\{?\w+\}?\}|<\w+ description>")
ROLE = re.compile(r":[\w:+-]+:`~?\.?([^`<]*?)(?:\s*<[^>`]*>)?`")
NAME = re.compile(r"[A-Za-z_][\w.]*$")
DROPPED_SECTIONS = {"see also", "references", "reference", "bibliography", "raises", "warns", "shape", "methods"}
ORDER = ("prose", "values", "arguments", "code")  # of a passage's parts
PARTS = dict.fromkeys(("returns", "return", "yields", "output", "outputs"), "values")
PARTS |= dict.fromkeys(("args", "arguments", "parameters", "params", "other parameters", "kwargs"), "arguments")
PARTS |= dict.fromkeys(("keyword args", "keyword arguments", "input", "inputs", "attributes"), "arguments")
PARTS |= dict.fromkeys(("examples", "example", "usage"), "code")
"""Title of a section, lower-cased → the part that it belongs to; any other is prose."""
SENTENCE = re.compile(r"(?<=[a-z0-9)`'\"])\.\s+(?=[A-Z])")


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
    """(query, passage, names under "See Also") of a docstring, as plain text.

    The query is the summary's first sentence. The passage begins with prose (the rest of the summary, the text below
    it, notes and explanations); what is returned, the arguments' descriptions and the code of examples follow.
    """
    summary, _, rest = text.partition("\n\n")
    if head := SECTION.search(summary) or FIELD.search(summary):  # no blank line above the arguments
        summary, rest = summary[: head.start()], f"{summary[head.start() :]}\n\n{rest}"
    query, after = (SENTENCE.split(to_words(summary), maxsplit=1) + [""])[:2]
    parts: dict[str, list[str]] = {kind: [] for kind in ORDER}
    linked: list[str] = []
    heads = list(SECTION.finditer(rest))
    bounds = [0, *(head.start() for head in heads), len(rest)]
    contents = [("", rest[: bounds[1]])]
    contents += [
        ((head["title"] or head["title2"]).strip().lower(), rest[head.end() : end])
        for head, end in zip(heads, bounds[2:], strict=True)
    ]
    for title, content in contents:
        if title == "see also":
            linked += _names_in_section(content)
        if title not in DROPPED_SECTIONS:
            plain, more = _without_seealso_directives(content)
            linked += more
            own = PARTS.get(title, "prose")
            for kind, piece in _without_fields(plain).items():
                parts[own if kind == "prose" else kind].append(piece)
    words = [after]
    for kind in ORDER:
        words += [to_words(_cleaned(kind, piece)) for piece in parts[kind]]
    return query, " ".join(filter(None, words)), tuple(dict.fromkeys(linked))


def _cleaned(kind: str, text: str) -> str:
    """A part without types of arguments, import lines and the output of examples.

    What is on the line of an argument's name is taken for its type, so a description there is lost.
    """
    text = without_doctest_output(text)
    lines = text.splitlines()
    if kind == "values" and lines:  # a type alone, its description indented below it
        below = [*lines[1:], ""]
        lines = [
            a
            for a, b in zip(lines, below, strict=True)
            if not (a.strip() and _indent(b) > _indent(a) and len(a.split()) < 7)
        ]
    if kind in ("arguments", "values"):
        lines = [NUMPY_ARGUMENT.sub(r"\g<names>:", GOOGLE_ARGUMENT.sub(r"\g<name>:", line)) for line in lines]
    return "\n".join(line for line in lines if not re.match(r"\s*(from [\w.]+ )?import ", line))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip()) if line.strip() else -1


def _without_fields(text: str) -> dict[str, str]:
    """Sphinx's `:param x: ...` separated from prose: kind → text."""
    fields = list(FIELD.finditer(text))
    if not fields:
        return {"prose": text}
    ends = [match.start() for match in fields[1:]] + [len(text)]
    parts = {"prose": text[: fields[0].start()], "arguments": "", "values": ""}
    for match, end in zip(fields, ends, strict=True):
        content = text[match.end() : end]
        if match["kind"] in ("param", "parameter", "arg", "keyword"):
            parts["arguments"] += f"{match['name'].split()[-1] if match['name'].split() else ''}: {content}\n"
        elif match["kind"].startswith(("return", "yield")):
            parts["values"] += content + "\n"
    return parts


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
