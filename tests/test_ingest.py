"""Files of any size: what is read in blocks is what is read line by line, and what was killed goes on."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny

from tas_lib.config import LocalSource
from tas_lib.data import blocks, collection, ingest, store, trec
from tas_lib.data.columns import Held, Rows, Stored, stored, take
from tas_lib.data.entries import open_entries, read_entries
from tas_lib.data.growing import Growing
from tas_lib.data.triples import pair_lines, read_triples
from tas_lib.records import Pairs, Source, Texts
from tas_lib.train import pairs as mining

QUERIES = {f"q{i}": i for i in range(7)}
PASSAGES = {f"p{i}": 3 * i for i in range(20)} | {"p7é": 1}


def made_lines(n: int, scored: bool = True, space: str = "\t", seed: int = 0) -> list[str]:
    """n lines in the published format, every digit of the scores; two queries in nine are not asked for."""
    rng = np.random.default_rng(seed)
    lines = []
    for pos_score, neg_score in rng.normal(0, 10.0 ** rng.integers(-8, 9, (n, 1)), (n, 2)).tolist():
        query, pos, neg = rng.integers([9, 20, 20]).tolist()
        scores = [repr(pos_score), repr(neg_score)] if scored else []
        lines.append(space.join([*scores, f"q{query}", f"p{pos}", f"p{neg}"]) + "\n")
    return lines


def line_by_line(path: Path) -> list[tuple[int, int, int, float]]:
    """(query, positive, negative, margin) of the pairs asked for, the plain way."""
    return [
        (QUERIES[query], PASSAGES[pos], PASSAGES[neg], margin)
        for _, query, pos, neg, margin in pair_lines(path)
        if query in QUERIES
    ]


# --- pairs in blocks ---------------------------------------------------------------------------------------------


def underscored(lines: list[str]) -> bytes:
    return "".join(lines).encode() + b"1_0 2 q1 p1 p2\n"


STYLES: dict[str, Callable[[list[str]], bytes]] = {
    "plain": lambda lines: "".join(lines).encode(),
    "gz": lambda lines: gzip.compress("".join(lines).encode()),
    "blank lines": lambda lines: "\n \n".join(lines).encode(),
    "windows line ends and a byte order mark": lambda lines: b"\xef\xbb\xbf" + "\r".join(lines).encode(),
    "no line feed at the end": lambda lines: "".join(lines).rstrip().encode(),
    "two spaces": lambda lines: "".join(lines).replace("\t", "  ").encode(),
    "tabs and spaces": lambda lines: "".join([lines[0].replace("\t", " "), *lines[1:]]).encode(),
    "a number as only Python reads it": underscored,
    "ids beyond ASCII": lambda lines: "".join(lines).replace("p7", "p7é").replace("q8", "q文").encode(),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("space", ["\t", " "])
@pytest.mark.parametrize("size", [400, blocks.SIZE])
def test_pairs_in_blocks_are_those_read_line_by_line_to_the_bit(tmp_path, style, space, size):
    path = tmp_path / "pairs.tsv"
    path.write_bytes(STYLES[style](made_lines(100, space=space)))
    query, pos, neg, margins, left_out = read_triples(path, QUERIES, PASSAGES, size)
    *rows, wanted = zip(*line_by_line(path), strict=True)
    assert [query.tolist(), pos.tolist(), neg.tolist()] == [[*column] for column in rows]
    assert margins is not None and margins.tobytes() == np.array(wanted, np.float32).tobytes()
    assert left_out == sum(1 for _ in pair_lines(path)) - len(query) > 0


def test_plain_lines_are_parsed_by_the_library_and_others_are_not():
    kinds = {"a": blocks.pa.float64(), "b": blocks.pa.string()}
    assert blocks.table(b"1.5 x\n\n2 y\r\n", kinds).to_pydict() == {"a": [1.5, 2.0], "b": ["x", "y"]}
    assert blocks.table("1.5 é\n2 文\n".encode(), kinds).to_pydict() == {"a": [1.5, 2.0], "b": ["é", "文"]}
    for text in (b"1 x y\n", b"1  x\n", b"1 x\n2\ty\n", b"1 x\rz\n", b"1 \n", b"1 \xe9\n", b"1_0 x\n", b"\n"):
        assert blocks.table(text, kinds) is None
    for text in ("1 x\u3000y\n", "\ufeff1 x\n", "1 \xa0x\n", "\u0661 x\n", "1 é\x85\n"):
        assert blocks.table(text.encode(), kinds) is None


def test_spaces_beyond_ascii_are_those_that_python_parts_columns_at():
    for letter in map(chr, [*range(0x80, 0xD800), *range(0xE000, 0x11000), 0x1F600]):
        assert (len(f"a{letter}b".split()) == 2) == bool(blocks.WIDE_SPACES.search(f"a{letter}b".encode())), letter


def test_ids_that_are_not_ascii_or_look_like_something_else_are_words(tmp_path):
    (tmp_path / "pairs.tsv").write_text('NULL\t"a"\té\nnan\t\'\tNA\nnan\t"a"\t\'\n', encoding="utf-8")
    rows = {"NULL": 0, "nan": 1}, {'"a"': 0, "é": 1, "'": 2, "NA": 3}
    for size in (8, blocks.SIZE):  # by the library where it can, and not
        found = read_triples(tmp_path / "pairs.tsv", *rows, size)
        assert (found.query.tolist(), found.pos.tolist(), found.neg.tolist()) == ([0, 1, 1], [0, 2, 0], [1, 3, 2])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("1.0\t2.0\tq1\tp1", "4 columns, expected pos_score neg_score query pos neg"),
        ("q1\tp1\tp2", "3 columns, expected pos_score"),
        ("1.0\tinf\tq1\tp1\tp2", "the scores are 1.0 and inf"),
        ("nan\t1\tq1\tp1\tp2", "the scores are nan and 1"),
        ("\t1\tq1\tp1\tp2", "4 columns"),
        ("1.0\t1\tq8\t\tp2", "4 columns"),
        ("1.0\t1\tq 8\tp1\tp2", "6 columns"),
        ("1.0\t1\tq\u20288\tp1\tp2", "6 columns"),
        ("1.0\thigh\tq1\tp1\tp2", "could not convert string to float: 'high'"),
        ("1.0\t2\tq1\tp1\tx", "passage x is not in the collection"),
        ("1.0\t2\tq1\ty\tx", "passage y is not in the collection"),
    ],
)
@pytest.mark.parametrize("size", [400, blocks.SIZE])
def test_what_is_wrong_in_any_block_is_told_with_its_line(tmp_path, line, told, size):
    lines = made_lines(100)
    lines[76:77] = ["\n", "\n", line + "\n"]  # line 79
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(lines))
    with pytest.raises(ValueError) as error:
        read_triples(path, QUERIES, PASSAGES, size)
    assert str(error.value).startswith(f"{path}, line 79: {told}")


def test_the_first_of_two_errors_is_told_and_an_unknown_passage_of_a_query_left_out_is_none(tmp_path):
    lines = made_lines(100)
    lines[10] = "1\t2\tq8\tx\ty\n"
    lines[60], lines[90] = "1\t2\tq1\tx\ty\n", "1\t2\n"
    (tmp_path / "pairs.tsv").write_text("".join(lines))
    with pytest.raises(ValueError, match="line 61: passage x"):
        read_triples(tmp_path / "pairs.tsv", QUERIES, PASSAGES, 300)


def test_a_packed_file_that_was_cut_off_is_told_after_the_last_line_that_could_be_read(tmp_path):
    path = tmp_path / "pairs.tsv"
    whole = gzip.compress("".join(made_lines(5000)).encode())
    path.write_bytes(whole[: len(whole) // 2])
    told = []
    for read in (lambda: read_triples(path, QUERIES, PASSAGES, 1000), lambda: line_by_line(path)):
        with pytest.raises(ValueError, match="after line [0-9]+: cut off") as error:
            read()
        told.append(str(error.value))
    assert told[0] == told[1]


# --- the table on disk -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [1, 10, 1000])
def test_the_table_written_in_parts_is_that_of_one_sort_to_the_byte(tmp_path, part):
    rng = np.random.default_rng(0)
    query = rng.choice([0, 2, 3, 5], 300, p=[0.7, 0.1, 0.1, 0.1])  # of six queries, two have no pair
    margins = rng.integers(0, 4, 300).astype(np.float32) * np.float32(0.1)  # many ties: they keep their order
    pos, neg = rng.integers(0, 50, 300, dtype=np.int32), np.arange(300)
    ingest.write_pairs(6, query, pos, neg, margins, tmp_path, part)
    store.save_arrays(tmp_path / "once", **Pairs.sort(6, query, pos, neg, margins)._asdict())
    for name in Pairs._fields:
        assert (tmp_path / f"{name}.npy").read_bytes() == (tmp_path / "once" / f"{name}.npy").read_bytes()


def test_pairs_of_a_folder_become_a_table_and_nothing_else_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "collection.tsv").write_text("".join(f"{passage}\tpassage {passage}\n" for passage in PASSAGES))
    for name, ids in {"train": QUERIES, "test": ["t"]}.items():
        (folder / f"queries.{name}.tsv").write_text("".join(f"{query}\task {query}\n" for query in ids))
    trec.write_qrels(folder / "qrels.test.tsv", {"t": {"p1": 1}})
    lines = [line for line in made_lines(200) if line.split()[2] in QUERIES]
    (folder / "pairs.tsv").write_text("".join(lines))
    source = LocalSource(folder=str(folder), stop_queries=1, tune_queries=1)
    profile = tiny.settings(tmp_path, source=source)
    made = collection.open_collection(profile)
    pairs = mining.open_pairs(profile, made, lambda: pytest.fail("scored, though the scores are there"))
    assert {path.name for path in (profile.folder / "pairs").iterdir()} == {
        *(f"{name}.npy" for name in Pairs._fields),
        "provenance.json",
    }
    train = {query: row for row, query in enumerate(made.sets["train"].queries.ids)}
    query, pos, neg, margins, left_out = read_triples(folder / "pairs.tsv", train, made.row)
    assert left_out > 0 and margins is not None
    for ours, wanted in zip(pairs, Pairs.sort(len(train), query, pos, neg, margins), strict=True):
        np.testing.assert_array_equal(ours, wanted)


def test_a_spool_that_a_killed_run_left_is_begun_anew(tmp_path):
    (tmp_path / "pairs.tsv").write_text("".join(made_lines(50)))
    first = ingest.spool_triples(tmp_path / "pairs.tsv", QUERIES, PASSAGES, tmp_path / "spool")
    again = ingest.spool_triples(tmp_path / "pairs.tsv", QUERIES, PASSAGES, tmp_path / "spool")
    assert len(again.query) == len(first.query) == len(line_by_line(tmp_path / "pairs.tsv"))
    (tmp_path / "pairs.tsv").write_text("".join(made_lines(50, scored=False)))
    assert ingest.spool_triples(tmp_path / "pairs.tsv", QUERIES, PASSAGES, tmp_path / "spool").margins is None


# --- arrays that grow --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.uint16, np.int64, np.float32])
def test_an_array_that_grew_is_the_file_that_numpy_writes(tmp_path, kind):
    whole = np.arange(1000).astype(kind)
    with Growing(tmp_path / "grown.npy", kind) as grown:
        for part in np.split(whole, [0, 10, 500]):
            grown.append(part)
    np.save(tmp_path / "saved.npy", whole)
    assert (tmp_path / "grown.npy").read_bytes() == (tmp_path / "saved.npy").read_bytes()


def killed(work: Callable[[], None]) -> None:
    """Run it in a process of its own that is gone before it can close anything."""
    if (child := os.fork()) == 0:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def test_an_array_whose_writer_was_killed_goes_on_with_the_items_that_are_whole(tmp_path):
    path = tmp_path / "a.npy"
    killed(lambda: Growing(path, np.int64).append(np.arange(5)))
    assert len(np.load(path)) == 0  # nobody takes it for a whole one
    with open(path, "ab") as f:
        f.write(b"abc")  # an item that was begun
    with Growing(path, np.int64) as grown:
        assert (len(grown), grown.last()) == (5, 4)
        grown.cut(4)
        grown.append(np.array([9]))
    assert np.load(path).tolist() == [0, 1, 2, 3, 9]


TEXTS = [*tiny.PASSAGES, *reversed(tiny.PASSAGES)]


def test_tokens_written_in_groups_are_those_of_one_call(tmp_path):
    wanted = collection.tokenise(tiny.tokenizer(), TEXTS, 8)
    for group in (1, 5, 100):
        collection.write_tokens(tiny.tokenizer(), TEXTS, 8, tmp_path, f"in-{group}", group)
        store.save_arrays(tmp_path, **{"once-ids": wanted.ids, "once-offsets": wanted.offsets})
        for part in ("ids", "offsets"):
            assert (tmp_path / f"in-{group}-{part}.npy").read_bytes() == (tmp_path / f"once-{part}.npy").read_bytes()
    plain = tiny.tokenizer()(TEXTS, truncation=True, max_length=8)["input_ids"]
    assert [wanted.row(i).tolist() for i in range(len(TEXTS))] == plain


def test_tokens_of_a_killed_run_are_not_made_again(tmp_path):
    def broken(read: int) -> list[str]:
        if read == 2:
            os._exit(0)
        return TEXTS[3 * read : 3 * read + 3]

    asked: list[int] = []

    def whole(read: int) -> list[str]:
        asked.append(read)
        return TEXTS[3 * read : 3 * read + 3]

    tokenizer = tiny.tokenizer()
    tokenizer("", truncation=True, max_length=8)
    killed(lambda: collection.write_tokens(tokenizer, Stored([3] * 4, broken), 8, tmp_path, "p", 3))
    with open(tmp_path / "p-ids.npy", "ab") as f:
        f.write(bytes(20))  # ids without an offset
    done = (tmp_path / "p-offsets.npy").stat().st_size
    collection.write_tokens(tokenizer, Stored([3] * 4, whole), 8, tmp_path, "p", 3)
    wanted = collection.tokenise(tokenizer, TEXTS, 8)
    assert np.load(tmp_path / "p-ids.npy").tolist() == wanted.ids.tolist()
    assert np.load(tmp_path / "p-offsets.npy").tolist() == wanted.offsets.tolist()
    assert done > 128 and 0 not in asked


# --- texts that stay on disk -------------------------------------------------------------------------------------


def test_columns_answer_as_lists_do(tmp_path):
    wanted = [f"text {i}" for i in range(10)]
    ids, texts = Held(wanted), Stored([4, 0, 6], [wanted[:4], [], wanted[4:]].__getitem__)
    for column in (ids, texts):
        assert column == wanted and [*column] == wanted and len(column) == 10 and column != wanted[1:]
        assert [column[i] for i in range(-10, 10)] == [wanted[i] for i in range(-10, 10)]
        assert column[2:9:3] == wanted[2:9:3] and column[np.int64(5)] == "text 5" and column[8:99] == wanted[8:]
        for row in (10, -11):
            with pytest.raises(IndexError, match=f"row {row} of 10"):
                column[row]


def test_texts_in_any_order_cost_each_block_once_however_many_are_remembered():
    read: list[int] = []

    def block(number: int) -> list[int]:
        read.append(number)
        return [*range(10 * number, 10 * number + 10)]

    texts, rows = Stored([10] * 20, block), [(37 * i) % 200 for i in range(150)] + [3, 3]
    assert take(texts, rows) == rows
    assert len(read) == len({*read}) == len({row // 10 for row in rows})


def test_passages_of_many_row_groups_come_back_and_few_groups_are_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "GROUP", 7)
    ids = [f"p{i}" for i in range(100)]
    made = Source(Texts(ids, [f"text {i}" for i in ids]), [f"title {i}" for i in ids], {}, np.zeros(0, int), {})
    place = store.Store(tmp_path).artefact("collection", {}, {}, lambda folder: collection.write(made, folder))
    found = collection.Collection(place)
    assert (found.passages, found.titles) == (made.passages, made.titles)
    assert len(found.passages.texts.sizes) == 15
    assert found.passages.texts.read.cache_info().currsize <= 4
    assert stored(place / "passages.parquet", "text")[50] == "text p50"


def test_many_ids_are_looked_up_at_once_and_a_dictionary_does_as_well():
    rows = Rows.over({"b": 5, "a": 2})
    assert rows.of(["a", "x", "b", "b"]).tolist() == [2, -1, 5, 5]
    assert (rows["a"], len(rows), [*rows], "x" in rows) == (2, 2, ["b", "a"], False)
    assert Rows.over(rows) is rows and Rows([]).of(["a"]).tolist() == [-1] and rows.of([]).tolist() == []


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("size", [1, 30, 1 << 22])
def test_entries_stay_in_their_file_and_are_those_read_one_at_a_time(tmp_path, packed, size):
    text = "".join(f"{i}\t text {i}, é\u2028x \n\n" for i in range(20)).encode()
    path = tmp_path / "a.tsv"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + text) if packed else b"\xef\xbb\xbf" + text)
    ids, entries = open_entries(path, size)
    wanted = [*read_entries(path)]
    assert ids == [entry.id for entry in wanted] and entries == wanted
    assert [entries[i] for i in (19, 0, 7)] == [wanted[i] for i in (19, 0, 7)]


def test_what_is_wrong_with_entries_in_any_block_is_told_as_line_by_line(tmp_path):
    lines = [f"{i}\ttext\n" for i in range(50)]
    for row, line, told in [(40, "3\tagain\n", "line 41: 3 stands twice"), (40, "x\n", "line 41: 1 columns")]:
        (tmp_path / "a.tsv").write_text("".join([*lines[:row], line, *lines[row:]]))
        with pytest.raises(ValueError, match=told):
            open_entries(tmp_path / "a.tsv", 100)
    (tmp_path / "a.tsv").write_text("")
    with pytest.raises(ValueError, match="is empty"):
        open_entries(tmp_path / "a.tsv")
    with pytest.raises(ValueError, match="there is no file"):
        open_entries(tmp_path / "b.tsv")
