"""Which summaries of docstrings are queries: those that name one thing in distinctive words."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from tas_lib.config import DocsSource
from tas_lib.data.docstrings import TEMPLATE

NO_QUESTION = re.compile(
    r">>>|->|==|=|\bself\b|Args:|TODO|\w\([^)]*,|^\W*\[?\s*(deprecated|discouraged|please|see\b|note\b|warning|alias|"
    r"this (method|function|class) (is|was|has)|internal|same as|equivalent to|implements?\b|overrid|helper)|https?:|"
    r"^\[|\s:\s|^\S+\.\S+ |^\S+_\S+\b|\b(e\.g|for example|as follows)\b|[:,]$|\{\}|\d+ \d+ \d+",
    re.I,
)
WORD = re.compile(r"[a-z][a-z0-9]+(?:[-_][a-z0-9]+)*")
COMMON = frozenset(  # words that occur in any summary
    """
    the for from with without and not are that this its which whether when where than then into over under between
    each all any some one two new given other using used use uses via per return returns returned returning get
    gets set sets compute computes calculate calculates create creates make makes class function method object
    objects instance base abstract value values result results self true false none name names number numbers list
    dict tuple string int float bool type types can may must should will does has have was were been only also such
    same default input output data parameter parameters argument arguments attribute attributes property wrapper
    apply applies perform performs check checks
    """.split()  # noqa: SIM905
)


def content_words(query: str) -> list[str]:
    """The words of a query that distinguish it from others: three letters or more, and not common.

    >>> content_words("Return True if the given graph is strongly connected.")
    ['graph', 'strongly', 'connected']
    """
    return [word for word in WORD.findall(query.lower()) if word not in COMMON and len(word) > 2]


def refused(query: str, settings: DocsSource) -> str:
    """Why a summary cannot be a query, independently of other summaries; "" if it can."""
    if TEMPLATE.search(query):
        return "an unfilled template as summary"
    if not settings.query_words[0] <= len(query.split()) <= settings.query_words[1]:
        return "a summary too short or too long"
    if NO_QUESTION.search(query) or len(content_words(query)) < settings.min_content_words:
        return "a summary that asks nothing: a signature, code, a notice, or common words only"
    return ""


def boilerplate(queries: Sequence[str], settings: DocsSource) -> np.ndarray:
    """(Q,) whether at least `boilerplate` entries share the summary."""
    shared = Counter(query.lower() for query in queries)
    return np.array([shared[query.lower()] >= settings.boilerplate for query in queries], bool)


def templates(queries: Sequence[str], settings: DocsSource) -> np.ndarray:
    """(Q,) whether a query is one of many from a template: equal but for a few words, or with the same opening.

    Each stretch of one to three words is blanked in turn; two thirds of a query's words must remain. `template`
    queries with the same rest are a template, and so are `opening` queries with the same first three words.
    """
    words = [
        [re.sub(r"^(return|compute|calculate|check|get|set|test)s$", r"\1", w) for w in re.findall(r"\w+", q.lower())]
        for q in queries
    ]
    rests: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for i, own in enumerate(words):
        for width in range(1, min(3, len(own) // 3) + 1):
            for start in range(len(own) - width + 1):
                rests[(*own[:start], "", *own[start + width :])].add(i)
    alike = np.zeros(len(queries), bool)
    for same_rest in rests.values():
        if len(same_rest) >= settings.template:
            alike[list(same_rest)] = True
    opening = Counter(tuple(own[:3]) for own in words)
    return alike | np.array([opening[tuple(own[:3])] >= settings.opening for own in words], bool)
