"""The default collection, on docstrings written here and on a small tree of made-up packages."""

from pathlib import Path

import numpy as np
import pytest
import tiny

from tas_lib import config
from tas_lib.config import DocsSource
from tas_lib.data import collection, docstrings, store
from tas_lib.data.sources import docs, questions
from tas_lib.records import Source

# --- one docstring -----------------------------------------------------------------------------------------------

NUMPY = """Return the mean of an array. It is taken over the flattened array
by default.

See :func:`~numpy.average` for weights.

Parameters
----------
a : array_like
    What is averaged.
Returns
-------
m : float
    The mean, in double precision.
Raises
------
ValueError
    If there is nothing.
See Also
--------
average : Weighted average
:func:`nanmean` : Without the missing ones
    indented, text
Notes
-----
Sums are pairwise.
References
----------
.. [1] Somebody, "A book".
Examples
--------
>>> import numpy as np
>>> np.mean([1, 2])
1.5
"""
GOOGLE = """Load a model by its name.
Args:
    name (`str`, *optional*):
        What it is called.
Returns:
    `Model`: What was loaded.
Example:
    >>> load("a")
    Model
"""
SPHINX = """Plan a way between two points.

:param x: where it starts
:type x: Point
:param Point y:
    where it ends
:returns: the plan
:raises ValueError: never
"""


@pytest.mark.parametrize(
    ("text", "query", "passage", "links"),
    [
        (
            NUMPY,
            "Return the mean of an array",
            "It is taken over the flattened array by default. See numpy.average for weights. Sums are pairwise. "
            "The mean, in double precision. a: What is averaged. np.mean([1, 2])",
            ("average", "nanmean"),
        ),
        (GOOGLE, "Load a model by its name.", 'Model : What was loaded. name: What it is called. load("a")', ()),
        # what is on the line of an argument's name is taken for its type
        (SPHINX, "Plan a way between two points.", "the plan x: y: where it ends", ()),
    ],
)
def test_a_query_is_one_sentence_and_prose_comes_first_in_its_passage(
    text: str, query: str, passage: str, links: tuple
):
    assert docstrings.split_docstring(text) == (query, passage, links)


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ("f", ("f",)),
        ("f, g : both do it", ("f", "g")),
        ("f\n    what it does\ng\n    what it does, too", ("f", "g")),
        ("f\n\n\ng", ("f", "g")),
        (":func:`f`, :meth:`A.g`", ("f", "A.g")),
        (":class:`~a.b.C` : what it is", ("a.b.C",)),
        (":func:`the text <a.f>`", ()),  # the text is no name
        ("- f : one of a list", ("f",)),
        ("f, a.g(), `h`, f", ("f", "a.g", "h")),
        ("A tutorial on the web <https://example.org>", ()),
    ],
)
def test_names_under_see_also_by_hand(section: str, names: tuple[str, ...]):
    text = f"One line.\n\nThe body.\n\nSee Also\n--------\n{section}\n\nNotes\n-----\nmore"
    query, body, links = docstrings.split_docstring(text)
    assert links == names
    assert (query, body) == ("One line.", "The body. more")


def test_a_seealso_directive_gives_its_roles_and_leaves_the_body():
    text = """One line.

Before.

.. seealso:: :func:`first`

    :class:`~pkg.Second` is like it, and plain words are no link
    :meth:`Third.go`

After :func:`fourth`.
"""
    links = ("first", "pkg.Second", "Third.go")
    assert docstrings.split_docstring(text) == ("One line.", "Before. After fourth.", links)


def test_doctests_keep_their_code_and_lose_their_output():
    text = "Words.\n>>> a = [\n...     1]\n>>> a\n[1]\narray that goes on\n\nWords again.\n... without a prompt\n"
    kept = ["Words.", "a = [", "1]", "a", "Words again.", "... without a prompt"]
    assert docstrings.without_doctest_output(text).splitlines() == kept


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a :class:`~numpy.ndarray` of ``float``", "a numpy.ndarray of float"),
        ("see :ref:`the guide <guide>`", "see the guide"),
        ("*one* **two** |three|", "one two three"),
        ("a\n=====\nb\n-----\nc", "a b c"),
        (".. note::\n   mind this", "mind this"),
        (".. math:: x^2", "x^2"),
        (".. [1] A book", "A book"),
        ("first\n%(params)s\nlast", "first last"),
        ("first\n{see_also}\n<arr description>\nlast", "first last"),
        ("keep {this} in a line", "keep {this} in a line"),
        ("  spread \n\n  out\t ", "spread out"),
        ("::\n\n    code", "code"),
    ],
)
def test_markup_comes_off_by_hand(text: str, words: str):
    assert docstrings.to_words(text) == words


# --- queries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("summary", "why"),
    [
        ("Return the mean of an array along an axis.", ""),
        ("Find {thing} in a sorted array", "an unfilled template"),
        ("Sort the array.", "a summary too short"),
        ("word " * 25, "a summary too short or too long"),
        ("f(a, b) sorts arrays along an axis", "a summary that asks nothing"),
        ("Deprecated: sort arrays along their last axis", "a summary that asks nothing"),
        ("Same as sorting arrays along their last axis", "a summary that asks nothing"),
        ("Return a new object with the values of this array.", "a summary that asks nothing"),  # one content word
    ],
)
def test_summaries_that_are_no_queries(summary: str, why: str):
    refused = questions.refused(summary, DocsSource(packages=()))
    assert refused.startswith(why) and bool(refused) == bool(why)


def test_many_summaries_that_differ_in_a_few_words_are_a_template():
    """Four equal but for one stretch of up to three words, a third of them at most; or five with one opening."""
    line = "Draw {} in the given colour of the map"
    same = [line.format(what) for what in ("lines", "small points", "the largest polygons", "arrows")]
    apart = ["Returns the rank of a matrix", "Return the rank of all graphs", "Return the rank", "Merge the trees"]
    settings = DocsSource(packages=(), template=4, opening=5)
    assert questions.templates([*same, *apart], settings).tolist() == [True] * 4 + [False] * 4
    assert not questions.templates([*same[1:], "Draw dots in the given colour of the atlas"], settings).any()
    short = [f"Draw {what} on maps" for what in ("some lines", "many points", "three arrows", "all polygons")]
    assert not questions.templates(short, settings).any()  # two words are more than a third
    opened = ["return the rank by u v w", "Returns the rank: x y z", *apart]
    assert questions.templates(opened, settings).tolist() == [True] * 5 + [False]


# --- links -------------------------------------------------------------------------------------------------------

KNOWN = {"np.mean", "np.linalg.norm", "np.linalg.solve", "np.ma.mean", "np.fft.fft", "deep.a.f", "deep.b.f"}
KNOWN |= {"sp.linalg.solve", "sp.linalg.norm", "sp.fft.fft", "pd.Series.mean", "pd.Frame.mean", "pd.Frame.sum"}


@pytest.mark.parametrize(
    ("link", "entry", "found"),
    [
        ("np.linalg.norm", "np.mean", "np.linalg.norm"),  # whole
        ("norm", "np.linalg.solve", "np.linalg.norm"),  # the last part, within the package
        ("linalg.norm", "np.mean", "np.linalg.norm"),  # the last parts
        ("mean", "pd.Frame.sum", "pd.Frame.mean"),  # the nearest of two
        ("Series.mean", "pd.Frame.sum", "pd.Series.mean"),
        ("mean", "np.linalg.norm", "np.mean"),  # equally near: the one that lies less deep
        ("f", "deep.c.g", None),  # equally near and deep: a tie
        ("mean", "np.mean", "np.ma.mean"),  # never the entry itself
        ("solve", "pd.Frame.sum", None),  # another package's needs its name
        ("sp.linalg.solve", "np.mean", "sp.linalg.solve"),
        ("sp.solve", "np.mean", "sp.linalg.solve"),  # a short path of another package
        ("nothing", "np.mean", None),
    ],
)
def test_links_are_resolved_by_hand(link: str, entry: str, found: str | None):
    assert docs.resolver(KNOWN)(link, entry, entry.partition(".")[0]) == found


# --- similarity ----------------------------------------------------------------------------------------------------


def test_shingle_similarity_equals_sets_compared_in_two_loops():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abc"), rng.integers(1, 9))) for _ in range(60)]

    def shingles(text: str) -> set[tuple[str, ...]]:
        words = text.split() if len(text.split()) > 2 else [*text.split(), ".", ".", "."]
        return set(zip(words, words[1:], words[2:], strict=False))

    for threshold in (0.3, 0.5, 1.0):
        wanted = {
            (i, j)
            for i in range(60)
            for j in range(i + 1, 60)
            if len(shingles(texts[i]) & shingles(texts[j])) >= threshold * len(shingles(texts[i]) | shingles(texts[j]))
        }
        rows, columns = docs.similar_pairs(texts, threshold)
        found = set(zip(rows.tolist(), columns.tolist(), strict=True))
        assert found == wanted and len(rows) == len(wanted) > 0


def test_near_duplicates_are_merged_into_the_shortest_name():
    body = "the same words are in all three of these bodies without any change"
    entries = [
        docs.Documented("p.sub.module.f", "p", "q", body, ()),
        docs.Documented("p.f", "p", "q", body, ()),
        docs.Documented("p.sub.f", "p", "q", body + " more", ()),
        docs.Documented("p.g", "p", "q", "nothing of that kind is written anywhere else here", ()),
    ]
    assert docs._merge(entries, 0.8) == {"p.f": "p.f", "p.sub.module.f": "p.f", "p.sub.f": "p.f", "p.g": "p.g"}


# --- a tree of packages ------------------------------------------------------------------------------------------

SETTINGS = DocsSource(packages=("alpha", "beta"), package_cap=400, min_body_words=8, largest_family=12, largest_group=6)
SETTINGS = config.changed(SETTINGS, dict(graded_queries=12, dev_queries=30, stop_queries=10, tune_queries=15))


def write_packages(root: Path, seed: int = 0) -> Path:
    """Two packages of functions in modules: families that link one another, near-copies, boilerplate, private ones."""
    rng = np.random.default_rng(seed)
    words = [f"word{i}" for i in range(400)]

    def sentence(n: int) -> str:
        return " ".join(rng.choice(words, n))

    for package in SETTINGS.packages:
        for module in range(12):
            lines = ['"""A module."""', "import nothing_that_is_installed", ""]
            for family in range(4):
                body = sentence(20)
                names = [f"f{module}_{family}_{i}" for i in range(int(rng.integers(1, 5)))]
                for i, name in enumerate(names):
                    # the second of a family is half a copy of the first; some summaries are boilerplate
                    own = body.rsplit(" ", 6)[0] + " " + sentence(6) if i == 1 else sentence(20)
                    summary = "The same old summary here." if rng.random() < 0.1 else f"{sentence(6)}."
                    others = ", ".join(other for other in names if other != name) or "unheard_of"
                    text = f"{summary}\n\n    {own if i else body}\n\n    See Also\n    --------\n    {others}\n    "
                    lines += [f"def {name}():", f'    """{text}"""', ""]
                lines += [f"def _private{family}():", f'    """{sentence(8)}\n\n    {sentence(20)}"""', ""]
            path = root / package / ("_hidden" if module % 2 else "open") / f"m{module}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines))
    (root / "alpha" / "broken.py").write_text("def {{ name }}():\n")
    (root / "alpha" / "tests").mkdir()
    tested = f'def tested():\n    """{sentence(8)}\n\n    {sentence(20)}"""\n'
    (root / "alpha" / "tests" / "test_x.py").write_text(tested)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_packages(tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="module")
def source(root: Path) -> Source:
    return docs.read(SETTINGS, root)


HELD_OUT = ("graded-a", "graded-b", "dev", "stop", "tune")


def answers(source: Source, name: str, grade: int = 1) -> set[str]:
    return {p for grades in source.sets[name].qrels.values() for p, g in grades.items() if g >= grade}


def test_public_names_come_without_their_private_modules(source: Source):
    ids = source.passages.ids
    assert "alpha.open.m0.f0_0_0" in ids and "alpha.m1.f1_0_0" in ids
    assert not [name for name in ids if "_private" in name or "tested" in name or "hidden" in name]
    assert len(ids) == len(set(ids))


def test_sets_have_the_sizes_of_the_settings(source: Source):
    sizes = {name: len(queries.queries.ids) for name, queries in source.sets.items()}
    assert all(sizes[name] >= least for name, least in zip(HELD_OUT, (12, 12, 30, 10, 15), strict=True))
    assert sizes["train"] > 20


def test_no_query_and_no_wording_is_in_two_sets(source: Source):
    seen: dict[str, str] = {}
    for name, queries in source.sets.items():
        for text in queries.queries.texts:
            assert seen.setdefault(text.lower(), name) == name
    every = [query for queries in source.sets.values() for query in queries.queries.ids]
    assert len(every) == len(set(every))


def test_no_barred_passage_answers_a_training_query(source: Source):
    barred = {source.passages.ids[row] for row in source.barred}
    assert barred and not barred & answers(source, "train")
    for name in HELD_OUT:
        assert answers(source, name) <= barred


def test_similar_passages_are_never_split_between_two_sets(source: Source):
    """Similarity counts between any two sets, links (they are the judgements) only if one of them is graded."""
    home = {p: name for name in source.sets for p in (query[2:] for query in source.sets[name].queries.ids)}
    ids = source.passages.ids
    for i, j in zip(*docs.similar_pairs(source.passages.texts, SETTINGS.akin), strict=True):
        assert len({home[p] for p in (ids[i], ids[j]) if p in home}) < 2
    for name in ("graded-a", "graded-b"):
        for passage in answers(source, name):
            assert home.get(passage, name) == name


def test_grades_by_hand():
    #   0 — 1 — 2 — 3, and 4 is an alias of 0
    links, aliases = [{1}, {0, 2}, {1, 3}, {2}, set()], [{4}, set(), set(), set(), {0}]
    assert docs._grades(0, links, aliases) == {0: 3, 4: 3, 1: 2, 2: 1}
    assert docs._grades(1, links, aliases) == {1: 3, 0: 2, 2: 2, 3: 1}


def test_graded_queries_have_at_least_min_links(source: Source):
    for name in ("graded-a", "graded-b"):
        for query, grades in source.sets[name].qrels.items():
            assert grades[query[2:]] == 3
            assert sum(grade >= 2 for grade in grades.values()) >= 1 + SETTINGS.min_links
            assert set(grades.values()) <= {1, 2, 3}
    for name in ("dev", "stop", "tune", "train"):
        assert all(grades == {query[2:]: 1} for query, grades in source.sets[name].qrels.items())


def test_families_are_joined_by_links_in_graded_sets_and_by_similarity_in_the_others(source: Source):
    """In the tree, "f0_1_*" link each other, and of them "f0_1_0" and "f0_1_1" are similar."""
    for name, queries in source.sets.items():
        assert [*queries.families] == queries.queries.ids
        joined = [q.rpartition("_")[0] if "graded" in name or q[-1] in "01" else q for q in queries.families]
        labels = [*queries.families.values()]
        assert len(set(zip(joined, labels, strict=True))) == len(set(joined)) == len(set(labels)) < len(labels)
    two = source.sets["dev"].only(source.sets["dev"].queries.ids[3:5])
    assert two.families == {query: source.sets["dev"].families[query] for query in two.queries.ids}


def test_no_query_of_an_earlier_test_set_is_in_a_new_one(root: Path, source: Source, tmp_path: Path):
    seen = {query[2:] for name in ("graded-a", "dev") for query in source.sets[name].queries.ids[::4]}
    (tmp_path / "opened.txt").write_text("\n".join(seen))
    again = docs.read(config.changed(SETTINGS, {"opened": str(tmp_path / "opened.txt")}), root)
    assert again.passages == source.passages
    asked = {name: seen & {query[2:] for query in again.sets[name].queries.ids} for name in again.sets}
    assert not asked["graded-a"] | asked["graded-b"] | asked["dev"]
    assert asked["stop"] | asked["tune"] | asked["train"] == seen
    for name in ("graded-a", "graded-b"):  # nor any relative of theirs
        assert not answers(again, name) & seen


def test_the_content_of_opened_counts_and_not_its_place(tmp_path: Path):
    def made_from(file: str, text: str) -> tuple[dict, dict[str, str]]:
        (tmp_path / file).write_text(text)
        opened = DocsSource(packages=("numpy",), opened=str(tmp_path / file))
        return opened.model_dump(), collection._source(tiny.settings(tmp_path, source=opened))[0]

    assert made_from("a", "x\ny\n") == made_from("b", "x\ny\n") != made_from("a", "x\n")
    with pytest.raises(ValueError, match="`source.opened` cannot be read: .*nowhere"):
        docs.opened(DocsSource(packages=(), opened="nowhere"))


def test_a_summary_shared_by_many_is_not_a_query(source: Source):
    asked = [text for queries in source.sets.values() for text in queries.queries.texts]
    assert "The same old summary here." not in asked
    assert source.report["dropped"]["a query dropped as boilerplate, its passage kept"] >= SETTINGS.boilerplate


def test_the_report_adds_up(source: Source):
    read, dropped = source.report["read"], source.report["dropped"]
    assert sum(source.report["packages"].values()) == read["passages"] == len(source.passages.ids)
    left = dropped["a near-duplicate, merged into another"] + dropped["beyond the package's cap"]
    assert read["usable entries"] - left == read["passages"]


def test_two_reads_give_the_same_bytes(root: Path, source: Source, tmp_path: Path):
    for name, read in (("a", source), ("b", docs.read(SETTINGS, root))):
        (tmp_path / name).mkdir()
        collection.write(read, tmp_path / name)
    files = [sorted(p.relative_to(tmp_path / x) for p in (tmp_path / x).rglob("*") if p.is_file()) for x in "ab"]
    assert files[0] == files[1] and len(files[0]) == 9
    for file in files[0]:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_the_cap_of_a_package_and_the_seed_of_the_split_have_their_effect(root: Path, source: Source):
    capped = docs.read(config.changed(SETTINGS, {"package_cap": 90}), root)
    assert capped.report["packages"] == {"alpha": 90, "beta": 90}
    other = docs.read(config.changed(SETTINGS, {"seed": 1}), root)
    assert other.passages == source.passages
    assert other.sets["dev"].queries.ids != source.sets["dev"].queries.ids


def test_a_missing_package_and_a_collection_too_small_are_one_sentence(root: Path):
    with pytest.raises(ValueError) as error:
        docs.read(DocsSource(packages=("alpha", "gamma")), root)
    assert str(error.value) == f"the collection needs the package 'gamma'; it is not installed in {root.name}"
    with pytest.raises(ValueError, match="the collection is too small for 1000 queries in the set 'dev'"):
        docs.read(DocsSource(packages=SETTINGS.packages, min_body_words=8, graded_queries=12), root)


# --- on disk -----------------------------------------------------------------------------------------------------


def test_a_collection_comes_back_as_it_was_written(source: Source, tmp_path: Path):
    plain = source.sets["tune"]._replace(name="plain", families={})
    source = source._replace(sets=source.sets | {"plain": plain})
    place = store.Store(tmp_path).artefact("collection", {}, {}, lambda folder: collection.write(source, folder))
    found = collection.Collection(place)
    assert (found.passages, found.titles, found.report) == (source.passages, source.titles, source.report)
    assert found.sets == source.sets
    assert found.barred.tolist() == source.barred.tolist()
    for query, rows in zip(found.sets["graded-a"].queries.ids, found.relevant("graded-a", 2), strict=True):
        wanted = {p for p, grade in source.sets["graded-a"].qrels[query].items() if grade >= 2}
        assert {source.passages.ids[row] for row in rows} == wanted
