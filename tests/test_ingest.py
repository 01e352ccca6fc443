"""Files of any size: pairs read by polars equal those read line by line, and an interrupted run resumes."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny

from tas_lib.config import LocalSource
from tas_lib.data import collection, formats, pair_files, store, texts, tokens
from tas_lib.data.pair_files import pair_lines, read_pairs
from tas_lib.data.texts import Column, Rows
from tas_lib.records import Pairs, Source, Texts
from tas_lib.train import pairs as mining

QUERIES = [f"q{i}" for i in range(7)]
PASSAGES = [*(f"p{i}" for i in range(20)), "p7é"]


def made_lines(n: int, scored: bool = True, space: str = "\t", seed: int = 0) -> list[str]:
    """n lines in the published format, every digit of the scores; two queries in nine are unknown."""
    rng = np.random.default_rng(seed)
    lines = []
    for pos_score, neg_score in rng.normal(0, 10.0 ** rng.integers(-8, 9, (n, 1)), (n, 2)).tolist():
        query, pos, neg = rng.integers([9, 20, 20]).tolist()
        scores = [repr(pos_score), repr(neg_score)] if scored else []
        lines.append(space.join([*scores, f"q{query}", f"p{pos}", f"p{neg}"]) + "\n")
    return lines


# --- pairs -------------------------------------------------------------------------------------------------------

STYLES: dict[str, Callable[[list[str]], bytes]] = {
    "plain": lambda lines: "".join(lines).encode(),
    "spaces": lambda lines: "".join(lines).replace("\t", " ").encode(),
    "gz": lambda lines: gzip.compress("".join(lines).encode()),
    "blank lines": lambda lines: "\n \n".join(lines).encode(),
    "windows line ends and a byte order mark": lambda lines: b"\xef\xbb\xbf" + "\r".join(lines).encode(),
    "no line feed at the end": lambda lines: "".join(lines).rstrip().encode(),
    "two spaces": lambda lines: "".join(lines).replace("\t", "  ").encode(),
    "tabs and spaces": lambda lines: "".join([lines[0].replace("\t", " "), *lines[1:]]).encode(),
    "a number as only Python reads it": lambda lines: "".join(lines).encode() + b"1_0 2 q1 p1 p2\n",
    "ids beyond ASCII": lambda lines: "".join(lines).replace("p7", "p7é").replace("q8", "q文").encode(),
    "without scores": lambda lines: "".join(line.split("\t", 2)[2] for line in lines).encode(),
}


@pytest.mark.parametrize("style", STYLES)
def test_pairs_are_those_read_line_by_line_to_the_bit(tmp_path, style):
    path = tmp_path / "pairs.tsv"
    path.write_bytes(STYLES[style](made_lines(100)))
    pairs = read_pairs(path, QUERIES, PASSAGES)
    expected = [
        (QUERIES.index(query), PASSAGES.index(pos), PASSAGES.index(neg), margin)
        for _, query, pos, neg, margin in pair_lines(path)
        if query in QUERIES
    ]
    *indices, margins = zip(*expected, strict=True)
    assert [pairs.query.tolist(), pairs.pos.tolist(), pairs.neg.tolist()] == [[*column] for column in indices]
    if style == "without scores":
        assert pairs.margins is None and np.isnan(margins).all()
    else:
        assert pairs.margins is not None and pairs.margins.tobytes() == np.array(margins, np.float32).tobytes()
    assert pairs.left_out == sum(1 for _ in pair_lines(path)) - len(pairs.query) > 0


def test_margins_and_indices_by_hand(tmp_path):
    (tmp_path / "pairs.tsv").write_text("9.5\t1.25\tr\ta\tb\n-1\t2\tq\tc\ta\n1\t1\tother\ta\tx\n")
    pairs = read_pairs(tmp_path / "pairs.tsv", ["q", "r"], ["a", "b", "c"])
    assert (pairs.query.tolist(), pairs.pos.tolist(), pairs.neg.tolist()) == ([1, 0], [0, 2], [1, 0])
    assert pairs.margins is not None and pairs.margins.tolist() == [8.25, -3.0]  # 9.5 - 1.25, -1 - 2
    assert pairs.left_out == 1  # its unknown passage does not matter


def test_plain_files_are_read_by_polars_alone(tmp_path, monkeypatch):
    (tmp_path / "pairs.tsv").write_text("".join(made_lines(100)))
    read: list[Path] = []
    parsed = pair_files._parsed
    monkeypatch.setattr(pair_files, "_parsed", lambda path, *rest: read.append(path) or parsed(path, *rest))
    read_pairs(tmp_path / "pairs.tsv", QUERIES, PASSAGES)
    assert read == [tmp_path / "pairs.tsv"]  # no copy was made


def test_ids_that_look_like_something_else_are_strings(tmp_path):
    (tmp_path / "pairs.tsv").write_text('NULL\t"a"\té\nnan\t\'\tNA\nnan\t"a"\t\'\n', encoding="utf-8")
    pairs = read_pairs(tmp_path / "pairs.tsv", ["NULL", "nan"], ['"a"', "é", "'", "NA"])
    assert (pairs.query.tolist(), pairs.pos.tolist(), pairs.neg.tolist()) == ([0, 1, 1], [0, 2, 0], [1, 3, 2])


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("1.0\t2.0\tq1\tp1", "4 columns, expected pos_score neg_score query pos neg"),
        ("q1\tp1\tp2", "3 columns, expected pos_score"),
        ("1.0\tinf\tq1\tp1\tp2", "the scores are 1.0 and inf"),
        ("nan\t1\tq1\tp1\tp2", "the scores are nan and 1"),
        ("\t1\tq1\tp1\tp2", "4 columns"),
        ("1.0\t1\tq8\t\tp2", "4 columns"),
        ("1.0\t1\tq 8\tp1\tp2", "6 columns"),
        ("1.0\t1\tq\u20288\tp1\tp2", "6 columns"),
        ("1.0\t1\tq8\tp\x1c1\tp2", "6 columns"),
        ("1.0\thigh\tq1\tp1\tp2", "could not convert string to float: 'high'"),
        ("1.0\t2\tq1\tp1\tx", "passage x is not in the collection"),
        ("1.0\t2\tq1\ty\tx", "passage y is not in the collection"),
    ],
)
def test_an_error_is_reported_with_its_line(tmp_path, line, complaint):
    lines = made_lines(100)
    lines[76:77] = ["\n", "\n", line + "\n"]  # line 79
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(lines))
    with pytest.raises(ValueError) as error:
        read_pairs(path, QUERIES, PASSAGES)
    assert str(error.value).startswith(f"{path}, line 79: {complaint}")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("what is it\ta text\tanother text\n", "line 1: 7 columns, expected pos_score .* or query pos neg"),
        ("x a b\ny a b\n", "none of its 2 pairs is of one of the 7 queries"),
        ("", "is empty"),
    ],
)
def test_a_file_without_any_usable_pair_is_refused(tmp_path, text, complaint):
    (tmp_path / "broken.pairs").write_text(text)
    with pytest.raises(ValueError, match=f"broken.pairs.*{complaint}"):
        read_pairs(tmp_path / "broken.pairs", QUERIES, PASSAGES)


def test_a_truncated_gz_is_reported_after_its_last_readable_line(tmp_path):
    whole = gzip.compress("".join(made_lines(5000)).encode())
    (tmp_path / "pairs.tsv").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="after line [0-9]{3,}: cut off"):
        read_pairs(tmp_path / "pairs.tsv", QUERIES, PASSAGES)


def test_the_table_of_a_folders_pairs_is_sorted_by_margin_and_ties_keep_the_files_order(tmp_path, monkeypatch):
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "collection.tsv").write_text("".join(f"{passage}\tpassage {passage}\n" for passage in PASSAGES))
    for name, ids in {"train": QUERIES, "test": ["t"]}.items():
        (folder / f"queries.{name}.tsv").write_text("".join(f"{query}\task {query}\n" for query in ids))
    formats.write_qrels(folder / "qrels.test.tsv", {"t": {"p1": 1}})
    rng = np.random.default_rng(0)
    scored = [(int(s), *rng.choice(QUERIES, 1), *rng.choice(PASSAGES, 2)) for s in rng.integers(0, 4, 300)]
    (folder / "pairs.tsv").write_text("".join(f"0.{s} 0.0 {q} {pos} {neg}\n" for s, q, pos, neg in scored))
    profile = tiny.settings(tmp_path, source=LocalSource(folder=str(folder), stop_queries=1, tune_queries=1))
    made = collection.open_collection(profile)
    table = mining.open_pairs(profile, made, lambda: pytest.fail("scored, though the scores are there"))
    files = {path.name for path in (profile.folder / "pairs").iterdir()}
    assert files == {*(f"{name}.npy" for name in Pairs._fields), "provenance.json"}
    for row, query in enumerate(made.sets["train"].queries.ids):
        mine = sorted((pair for pair in scored if pair[1] == query), key=lambda pair: pair[0])  # stable
        part = slice(table.offsets[row], table.offsets[row + 1])
        assert [PASSAGES[i] for i in table.neg[part]] == [neg for *_, neg in mine]
        assert table.margins[part].tolist() == [float(np.float32(s / 10)) for s, *_ in mine]


# --- token ids ---------------------------------------------------------------------------------------------------

TEXTS = [*tiny.PASSAGES, *reversed(tiny.PASSAGES)]


@pytest.mark.parametrize("shard", [1, 5, 100])
def test_tokens_written_in_shards_are_those_of_one_call(tmp_path, shard):
    expected = tokens.tokenise(tiny.tokenizer(), TEXTS, 8)
    tokens.write_tokens(tiny.tokenizer(), TEXTS, 8, tmp_path, "p", shard)
    store.save_arrays(tmp_path, **{"once-ids": expected.ids, "once-offsets": expected.offsets})
    for part in ("ids", "offsets"):
        assert (tmp_path / f"p-{part}.npy").read_bytes() == (tmp_path / f"once-{part}.npy").read_bytes()
    assert len([*tmp_path.iterdir()]) == 4  # no shard is left
    plain = tiny.tokenizer()(TEXTS, truncation=True, max_length=8)["input_ids"]
    assert [expected.row(i).tolist() for i in range(len(TEXTS))] == plain


def test_shards_of_a_killed_run_are_not_tokenised_again(tmp_path):
    class Killing(list[str]):
        def __getitem__(self, index):
            if index.start == 9:
                while not all((shards / f"{start}-lengths.npy").exists() for start in (0, 3)):
                    pass
                os._exit(0)
            return super().__getitem__(index)

    class Noting(list[str]):
        def __getitem__(self, index):
            read.append(index.start)
            return super().__getitem__(index)

    shards, read = tmp_path / ".p-shards", []
    if (child := os.fork()) == 0:
        tokens.write_tokens(tiny.tokenizer(), Killing(TEXTS), 8, tmp_path, "p", 3)
    os.waitpid(child, 0)
    tokens.write_tokens(tiny.tokenizer(), Noting(TEXTS), 8, tmp_path, "p", 3)
    expected = tokens.tokenise(tiny.tokenizer(), TEXTS, 8)
    assert np.load(tmp_path / "p-ids.npy").tolist() == expected.ids.tolist()
    assert np.load(tmp_path / "p-offsets.npy").tolist() == expected.offsets.tolist()
    assert 9 in read and not {0, 3} & {*read}
    tokens.write_tokens(tiny.tokenizer(), Noting(TEXTS), 8, tmp_path, "p", 3)
    assert len(read) <= 2  # what is complete is not read again


# --- passages ----------------------------------------------------------------------------------------------------


def test_a_column_behaves_like_a_list():
    expected = [f"text {i}, é" for i in range(10)]
    chunks = texts.pa.chunked_array([expected[:4], [], expected[4:]], texts.pa.string())
    for column in (Column(expected), Column(chunks)):
        assert column == expected and [*column] == expected and len(column) == 10 and column != expected[1:]
        assert [column[i] for i in range(-10, 10)] == [expected[i] for i in range(-10, 10)]
        assert column[2:9:3] == expected[2:9:3] and column[np.int64(5)] == expected[5] and column[8:99] == expected[8:]
        for index in (10, -11):
            with pytest.raises(IndexError):
                column[index]
    assert Rows([]).of(["a"]).tolist() == [-1] and Rows(["a"]).of([]).tolist() == []


def test_passages_of_many_batches_come_back_memory_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "BATCH", 7)
    ids = [f"p{i}" for i in range(100)]
    made = Source(Texts(ids, [f"text {i}" for i in ids]), [f"title {i}" for i in ids], {}, np.zeros(0, int), {})
    folder = store.Store(tmp_path).artefact("collection", {}, {}, lambda folder: collection.write(made, folder))
    found = collection.Collection(folder)
    assert (found.passages, found.titles) == (made.passages, made.titles)
    assert found.passages.texts.packed.num_chunks == 15
    assert found.row.of(["p99", "x", "p0"]).tolist() == [99, -1, 0] and found.row["p7"] == 7


def test_passages_that_an_interrupted_run_copied_are_not_read_again(tmp_path):
    path = tmp_path / "passages.arrow"
    texts.write_passages(path, [("a", "", "text")])
    texts.write_passages(path, (pytest.fail("read again") for _ in range(1)))
    assert texts.open_passages(path)[0] == (["a"], ["text"])
    with pytest.raises(ValueError, match="line 2"):
        (tmp_path / "b.tsv").write_text("1\ta\nbroken\n")
        texts.write_passages(tmp_path / "b.arrow", formats.read_entries(tmp_path / "b.tsv"))
    assert not (tmp_path / "b.arrow").exists()
