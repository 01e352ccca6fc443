"""Training pairs of a file, token ids and passages on disk; an interrupted run keeps what is complete."""

import gzip

import numpy as np
import pytest
import tiny

from tas_lib.data import collection, formats, store, texts, tokens
from tas_lib.data.pair_files import read_pairs
from tas_lib.records import Source, Texts

QUERIES, PASSAGES = ["q", "r"], ["a", "b", "é"]
SCORED = "9.5\t1.25\tr\ta\tb\n-1  2 q é a\r\n\n \n1\t1\tother\ta\tx\n"


# --- pairs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_margins_and_indices_by_hand(tmp_path, packed):
    (tmp_path / "pairs.tsv").write_bytes(packed(b"\xef\xbb\xbf" + SCORED.encode()))
    pairs = read_pairs(tmp_path / "pairs.tsv", QUERIES, PASSAGES)
    assert (pairs.query.tolist(), pairs.pos.tolist(), pairs.neg.tolist()) == ([1, 0], [0, 2], [1, 0])
    assert pairs.margins is not None and pairs.margins.tolist() == [8.25, -3.0]  # 9.5 - 1.25, -1 - 2
    assert pairs.left_out == 1  # its unknown passage does not matter


def test_margins_are_subtracted_in_double_and_kept_in_single_precision(tmp_path):
    scores = np.random.default_rng(0).normal(0, 1e4, (100, 2))
    (tmp_path / "pairs.tsv").write_text("".join(f"{p!r} {n!r} q a b\n" for p, n in scores.tolist()))
    margins = read_pairs(tmp_path / "pairs.tsv", QUERIES, PASSAGES).margins
    assert margins is not None and margins.tobytes() == (scores[:, 0] - scores[:, 1]).astype(np.float32).tobytes()


def test_pairs_without_scores_have_no_margins(tmp_path):
    (tmp_path / "pairs.tsv").write_text("q a b\nr b a\n")
    pairs = read_pairs(tmp_path / "pairs.tsv", QUERIES, PASSAGES)
    assert (pairs.query.tolist(), pairs.pos.tolist(), pairs.margins) == ([0, 1], [0, 1], None)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("1.0\t2.0\tq\ta", "line 5: 4 columns, expected pos_score neg_score query pos neg"),
        ("1.0\tinf\tq\ta\tb", "line 5: the scores are 1.0 and inf"),
        ("1.0\thigh\tq\ta\tb", "line 5: could not convert string to float: 'high'"),
        ("1.0\t2\tq\ta\tx", "line 5: passage x is not in the collection"),
    ],
)
def test_a_broken_line_is_reported_with_its_number(tmp_path, line, complaint):
    path = tmp_path / "pairs.tsv"
    path.write_text("9.5 1 r a b\n\n \n-1 2 q a b\n" + line + "\n")
    with pytest.raises(ValueError) as error:
        read_pairs(path, QUERIES, PASSAGES)
    assert str(error.value).startswith(f"{path}, {complaint}")


def test_a_file_without_any_usable_pair_is_refused(tmp_path):
    (tmp_path / "pairs.tsv").write_text("x a b\ny a b\n")
    with pytest.raises(ValueError, match="pairs.tsv: none of its 2 pairs is of one of the 2 queries"):
        read_pairs(tmp_path / "pairs.tsv", QUERIES, PASSAGES)


# --- token ids ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_tokens_made_in_chunks_are_those_of_one_call(tmp_path, chunk):
    written = [*tiny.PASSAGES, *reversed(tiny.PASSAGES)]
    expected = tokens.tokenise(tiny.tokenizer(), written, 8)
    tokens.write_tokens(tiny.tokenizer(), written, 8, tmp_path, "p", chunk)
    store.save_arrays(tmp_path, **{"once-ids": expected.ids, "once-offsets": expected.offsets})
    for part in ("ids", "offsets"):
        assert (tmp_path / f"p-{part}.npy").read_bytes() == (tmp_path / f"once-{part}.npy").read_bytes()
    plain = tiny.tokenizer()(written, truncation=True, max_length=8)["input_ids"]
    assert [expected.row(i).tolist() for i in range(len(written))] == plain
    tokens.write_tokens(tiny.tokenizer(), None, 8, tmp_path, "p")  # what is complete is not made again


# --- passages ----------------------------------------------------------------------------------------------------


def test_a_column_behaves_like_a_list():
    expected = [f"text {i}, é" for i in range(10)]
    column = texts.Column(texts.pa.chunked_array([expected[:4], [], expected[4:]], texts.pa.string()))
    assert column == expected and [*column] == expected and len(column) == 10 and column != expected[1:]
    assert [column[i] for i in range(-10, 10)] == expected * 2 and column[np.int64(5)] == expected[5]
    assert column[2:9:3] == expected[2:9:3] and column[8:99] == expected[8:]
    with pytest.raises(IndexError):
        column[10]


def test_passages_of_many_batches_come_back_memory_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "BATCH", 7)
    ids = [f"p{i}" for i in range(100)]
    made = Source(Texts(ids, [f"text {i}" for i in ids]), [f"title {i}" for i in ids], {}, np.zeros(0, int), {})
    folder = store.Store(tmp_path).artefact("collection", {}, {}, lambda folder: collection.write(made, folder))
    found = collection.Collection(folder)
    assert (found.passages, found.titles) == (made.passages, made.titles)
    assert found.passages.texts.strings.num_chunks == 15
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
