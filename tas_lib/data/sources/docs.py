"""The default collection: the documentation of the installed scientific Python packages, read and never imported.

The first sentence of a docstring's summary is a query, the rest of the docstring the passage that answers it, the
qualified name the title, and the "See Also" section, written by people, the source of graded judgements (D19).
"""

import hashlib
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tas_lib.config import ROOT, DocsSource
from tas_lib.data.docstrings import docstrings, split_docstring
from tas_lib.data.sources import questions
from tas_lib.records import QuerySet, Source, Texts


class Documented(NamedTuple):
    """One documented function, class or method: its name, its two texts, the names under "See Also"."""

    name: str
    package: str
    query: str
    passage: str
    see_also: tuple[str, ...]


def read_entries(settings: DocsSource, root: Path) -> tuple[list[Documented], set[str], Counter[str]]:
    """The usable entries, the names of all documented ones, and how many were dropped for each reason."""
    dropped: Counter[str] = Counter()
    entries, known = [], set()
    for package in settings.packages:
        if not (root / package).is_dir():
            raise ValueError(f"the collection needs the package {package!r}; it is not installed in {root.name}")
        for name, text in docstrings(root, package):
            if name in known:
                dropped["the name seen before"] += 1
                continue
            known.add(name)
            query, body, linked = split_docstring(text)
            words = body.split()
            if why := questions.refused(query, settings):
                dropped[why] += 1
            elif len(words) < settings.min_body_words:
                dropped["a body too short"] += 1
            else:
                entries.append(Documented(name, package, query, " ".join(words[: settings.max_passage_words]), linked))
    return entries, known, dropped


def similar_pairs(texts: Sequence[str], threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (i, j), i < j, of texts whose sets of three-word shingles have Jaccard similarity >= threshold."""
    from sklearn.feature_extraction.text import CountVectorizer  # takes a second, and once read, nobody needs it

    shingles = CountVectorizer(ngram_range=(3, 3), token_pattern=r"\S+", binary=True, dtype=np.int32)
    x = shingles.fit_transform([text if len(text.split()) > 2 else f"{text} . . ." for text in texts]).tocsr()
    sizes = np.asarray(x.sum(axis=1)).ravel()
    rows, columns = [], []
    for start in range(0, x.shape[0], 1000):
        shared = (x[start : start + 1000] @ x.T).tocoo()
        i, j = shared.row + start, shared.col
        close = (i < j) & (shared.data >= threshold * (sizes[i] + sizes[j] - shared.data))
        rows.append(i[close])
        columns.append(j[close])
    return np.concatenate(rows), np.concatenate(columns)


def resolver(known: set[str]) -> Callable[[str, str, str], str | None]:
    """A function (link, entry, package) → the documented name that is meant, or None.

    A name is matched whole, then by its last parts within the package; among several, the one with the longest common
    prefix with the entry wins, and a tie is left unresolved.
    """
    by_last = defaultdict(list)
    for name in sorted(known):
        by_last[name.rpartition(".")[2]].append(name)

    def common(a: Sequence[str], b: Sequence[str]) -> int:
        return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))

    def resolve(link: str, entry: str, package: str) -> str | None:
        if link in known:
            return link
        own = link.partition(".")[0]
        others = {name.partition(".")[0] for name in by_last[link.rpartition(".")[2]]}
        if own in others and "." in link:
            package, link = own, link.partition(".")[2]
        names = [
            name
            for name in by_last[link.rpartition(".")[2]]
            if name.startswith(package + ".") and name.endswith("." + link) and name != entry
        ]
        nearness = [(common(entry.split("."), name.split(".")), -name.count(".")) for name in names]
        best = max(nearness, default=None)
        return names[nearness.index(best)] if best and nearness.count(best) == 1 else None

    return resolve


def read(settings: DocsSource, root: Path | None = None) -> Source:
    """The collection with its splits and judgements; the same sources and settings give the same bytes.

    root: the folder that holds the packages, by default the one this Python installs into.
    """
    entries, known, dropped = read_entries(settings, root or Path(sysconfig.get_paths()["purelib"]))
    read_count, documented = len(entries), len(known)
    resolve = resolver(known)
    targets = [[resolve(link, e.name, e.package) for link in e.see_also] for e in entries]
    linked = {name for names in targets for name in names if name}
    linked |= {e.name for e, names in zip(entries, targets, strict=True) if any(names)}

    merged = _merge(entries, settings.same)  # name → the name of the entry that it is merged into
    chosen = _cap([i for i, e in enumerate(entries) if merged[e.name] == e.name], entries, linked, settings)
    dropped["a near-duplicate, merged into another"] = sum(name != kept for name, kept in merged.items())
    dropped["beyond the package's cap"] = read_count - dropped["a near-duplicate, merged into another"] - len(chosen)
    row = {entries[i].name: n for n, i in enumerate(chosen)}
    kept = [entries[i] for i in chosen]

    links: list[set[int]] = [set() for _ in kept]  # undirected
    outcome: Counter[str] = Counter()
    for e, names in zip(entries, targets, strict=True):
        here = row.get(merged[e.name])
        for name in names:
            there = row.get(merged.get(name or "", ""))
            outcome[_outcome(name, here, there)] += 1
            if here is not None and there is not None and here != there:
                links[here].add(there)
                links[there].add(here)

    queries = [e.query for e in kept]
    shared, alike = questions.boilerplate(queries, settings), questions.templates(queries, settings)
    dropped["a query dropped as boilerplate, its passage kept"] = int(shared.sum())
    dropped["a query dropped as one of a template's, its passage kept"] = int((alike & ~shared).sum())
    asks = ~(shared | alike)
    close = similar_pairs([e.passage for e in kept], settings.akin)
    same_query = _equal_pairs([e.query.lower() if asks[i] else f"{i}" for i, e in enumerate(kept)])
    akin = _components(len(kept), [close, same_query])
    edges = np.array([(i, j) for i, neighbours in enumerate(links) for j in sorted(neighbours) if i < j]).reshape(-1, 2)
    families = _components(len(kept), [close, same_query, (edges[:, 0], edges[:, 1])])
    aliases: list[set[int]] = [set() for _ in kept]
    for i, j in zip(*(side.tolist() for side in close), strict=True):
        if kept[i].name.rpartition(".")[2] == kept[j].name.rpartition(".")[2]:
            aliases[i].add(j)
            aliases[j].add(i)

    seen = opened(settings)
    split = _split(kept, asks, np.array([e.name in seen for e in kept]), links, akin, families, settings)
    sets = {}
    for name, rows in split.items():
        graded = name.startswith("graded")
        labels, asked = families if graded else akin, {f"q/{kept[i].name}": i for i in rows}
        qrels = {}
        for query, i in asked.items():
            grades = _grades(i, links, aliases) if graded else {i: 1}
            qrels[query] = {kept[j].name: grade for j, grade in sorted(grades.items())}
        texts = Texts([*asked], [kept[i].query for i in rows])
        sets[name] = QuerySet(name, texts, qrels, {query: int(labels[i]) for query, i in asked.items()})
    barred = np.array(sorted(_barred(split, akin, families)), np.int64)
    report = {
        "packages": dict(Counter(e.package for e in kept)),
        "read": {"documented entries": documented, "usable entries": read_count, "passages": len(kept)},
        "dropped": dict(dropped),
        "links": dict(outcome),
        "barred": {"passages in no training pair": len(barred)},
    }
    return Source(
        Texts([e.name for e in kept], [e.passage for e in kept]), [e.name for e in kept], sets, barred, report
    )


def _merge(entries: Sequence[Documented], threshold: float) -> dict[str, str]:
    """Each name → the name of the first kept entry whose passage is this similar: its own, if there is none."""
    order = sorted(
        range(len(entries)), key=lambda i: (entries[i].name.count("."), len(entries[i].name), entries[i].name)
    )
    near = defaultdict(list)
    for i, j in zip(*(side.tolist() for side in similar_pairs([e.passage for e in entries], threshold)), strict=True):
        near[i].append(j)
        near[j].append(i)
    rank = {i: n for n, i in enumerate(order)}
    into: dict[int, int] = {}
    for i in order:
        into[i] = min((j for j in near[i] if into.get(j) == j), key=rank.__getitem__, default=i)
    return {entries[i].name: entries[into[i]].name for i in order}


def _cap(rows: Sequence[int], entries: Sequence[Documented], linked: set[str], settings: DocsSource) -> list[int]:
    """At most `package_cap` entries per package: those with links first, then in the order of a hash."""
    by_package = defaultdict(list)
    for i in rows:
        by_package[entries[i].package].append(i)
    kept = []
    for package in settings.packages:
        ranked = sorted(
            by_package[package], key=lambda i: (entries[i].name not in linked, _shuffle(entries[i].name, 0))
        )
        kept += ranked[: settings.package_cap]
    return sorted(kept)


def _shuffle(key: str, seed: int) -> str:
    """A sort key that shuffles alike on every machine."""
    return hashlib.sha256(f"{seed}/{key}".encode()).hexdigest()


def _outcome(name: str | None, here: int | None, there: int | None) -> str:
    if name is None:
        return "unresolved or ambiguous"
    if here is None or there is None:
        return "resolved, one end not in the collection"
    return "resolved to the same passage" if here == there else "resolved"


def _equal_pairs(keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    first: dict[str, int] = {}
    pairs = [(first[key], i) for i, key in enumerate(keys) if first.setdefault(key, i) != i]
    both = np.array(pairs, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _components(n: int, edges: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(n,) the connected component of each entry."""
    rows, columns = (np.concatenate([e[side] for e in edges]) for side in (0, 1))
    return connected_components(coo_array((np.ones(len(rows)), (rows, columns)), shape=(n, n)), directed=False)[1]


def _grades(i: int, links: Sequence[set[int]], aliases: Sequence[set[int]]) -> dict[int, int]:
    """3: the entry and its aliases; 2: linked directly, either way; 1: two links away."""
    grades = {k: 1 for j in links[i] for k in links[j]}
    return grades | dict.fromkeys(links[i], 2) | dict.fromkeys(aliases[i], 3) | {i: 3}


def opened(settings: DocsSource) -> set[str]:
    """The names of entries that were queries of an earlier test set, whose results have been seen."""
    if not settings.opened:
        return set()
    try:
        return set((ROOT / settings.opened).read_text(encoding="utf-8").split())
    except OSError as error:
        raise ValueError(f"`source.opened` cannot be read: {error}") from None


def _split(
    kept: Sequence[Documented],
    asks: np.ndarray,
    opened: np.ndarray,
    links: Sequence[set[int]],
    akin: np.ndarray,
    families: np.ndarray,
    settings: DocsSource,
) -> dict[str, list[int]]:
    """Indices of the queries of every set.

    Families (connected by links or similarity) fill the two graded sets in turn, groups (connected by similarity) the
    sparse sets; those that are too large stay in training. No family with a query that was in a test set before
    (`opened`, (N,)) goes to a graded set, and no such group to dev.
    """
    free = np.ones(len(kept), bool)
    sets: dict[str, list[int]] = {"graded-a": [], "graded-b": []}

    def groups(labels: np.ndarray, largest: int) -> Iterator[list[int]]:
        members = defaultdict(list)
        for i, label in enumerate(labels.tolist()):
            members[label].append(i)
        small = [group for group in members.values() if len(group) <= largest]
        yield from sorted(small, key=lambda group: _shuffle(kept[group[0]].name, settings.seed))

    for group in groups(families, settings.largest_family):
        asking = [i for i in group if asks[i] and len(links[i]) >= settings.min_links and not opened[group].any()]
        name = min(("graded-a", "graded-b"), key=lambda n: len(sets[n]))
        if asking and len(sets[name]) < settings.graded_queries:
            sets[name] += asking
            free[group] = False
    sizes = {"dev": settings.dev_queries, "stop": settings.stop_queries, "tune": settings.tune_queries}
    sets |= {name: [] for name in sizes}
    remaining = groups(akin, settings.largest_group)
    for name, size in sizes.items():
        while len(sets[name]) < size:
            group = next(remaining, [])
            if not group:
                raise ValueError(f"the collection is too small for {size} queries in the set {name!r}")
            asking = [i for i in group if asks[i] and free[i]]
            if asking and free[group].all() and not (name == "dev" and opened[group].any()):
                sets[name] += asking
                free[group] = False
    sets["train"] = [i for i in range(len(kept)) if free[i] and asks[i]]
    return {name: sorted(rows) for name, rows in sets.items()}


def _barred(split: dict[str, list[int]], akin: np.ndarray, families: np.ndarray) -> set[int]:
    """Passages that answer a held-out query, with everything that is connected with them."""
    graded = {families[i] for name in ("graded-a", "graded-b") for i in split[name]}
    sparse = {akin[i] for name in ("dev", "stop", "tune") for i in split[name]}
    return {i for i in range(len(akin)) if families[i] in graded or akin[i] in sparse}
