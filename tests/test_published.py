"""Run and qrels files: what is written reads back, what is broken is refused with file and line."""

import gzip

import pytest

from tas_lib.data import trec
from tas_lib.data.entries import read_entries
from tas_lib.data.triples import read_triples

RUN = {"q2": {"a": 1 / 3, "b": 2.0}, "q10": {"b": -1.5, "a": -1.5}}
QRELS = {"q2": {"b": 0, "a": 3}, "q10": {"c": -1}}


@pytest.mark.parametrize("name", ["some.run", "some.run.gz"])
def test_a_run_reads_back_to_the_digit_and_its_bytes_do_not_change(tmp_path, name):
    trec.write_run(tmp_path / name, RUN, "ours")
    first = (tmp_path / name).read_bytes()
    assert trec.read_run(tmp_path / name) == RUN
    again = {query: dict(reversed(passages.items())) for query, passages in reversed(RUN.items())}
    trec.write_run(tmp_path / "other" / name, again, "ours")
    assert (tmp_path / "other" / name).read_bytes() == first


def test_a_run_file_is_trecs_six_columns_best_first(tmp_path):
    trec.write_run(tmp_path / "run", RUN, "ours")
    assert (tmp_path / "run").read_text().splitlines() == [
        "q10 Q0 a 1 -1.5 ours",
        "q10 Q0 b 2 -1.5 ours",
        "q2 Q0 b 1 2.0 ours",
        "q2 Q0 a 2 0.3333333333333333 ours",
    ]


def test_gz_carries_no_date_and_no_name(tmp_path):
    trec.write_run(tmp_path / "some.run.gz", RUN, "ours")
    header = (tmp_path / "some.run.gz").read_bytes()[:10]
    assert header[3] == 0  # no file name
    assert header[4:8] == bytes(4)  # no date


def test_gz_is_known_by_its_content_not_by_its_name(tmp_path):
    trec.write_run(tmp_path / "some.gz", RUN, "ours")
    (tmp_path / "some.gz").rename(tmp_path / "some.run")
    assert trec.read_run(tmp_path / "some.run") == RUN


def test_an_ms_marco_run_has_minus_its_ranks_as_scores(tmp_path):
    (tmp_path / "run.tsv").write_text("1\t7\t1\n1\t8\t2\n\n2\t7\t1\n")
    assert trec.read_run(tmp_path / "run.tsv") == {"1": {"7": -1, "8": -2}, "2": {"7": -1}}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("q Q0 a 1 2.0 t\nq Q0 b 2 1.0\n", "line 2: 5 columns, expected query Q0 passage rank score tag"),
        ("q Q0 a 1 2.0 t\nq b 2\n", "line 2: 3 columns, expected query Q0"),
        ("q a\n", "line 1: 2 columns, expected query Q0 passage rank score tag or query passage rank"),
        ("q Q0 a 1 2.0 t\nq Q0 b 2 high t\n", "line 2: could not convert string to float: 'high'"),
        ("q Q0 a 1 2.0 t\n\nq Q0 a 2 1.0 t\n", "line 3: passage a stands twice for query q"),
        ("q Q0 a 1 nan t\n", "line 1: the score is nan"),
        ("q Q0 a 1 inf t\n", "line 1: the score is inf"),
        ("q a 1\nq b 1\n", "line 2: rank 1 stands twice for query q"),
        ("q a 1.5\n", "line 1: invalid literal"),
        ("x Q0 a 1 1.0 t\n", "line 1: query x is not one of the 1 that are asked"),
        ("", "is empty"),
        ("\n\n", "is empty"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_broken_run_is_refused_with_file_and_line(tmp_path, text, complaint, packed):
    path = tmp_path / "broken.run"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    with pytest.raises(ValueError, match=complaint) as error:
        trec.read_run(path, queries=["q"])
    assert str(path) in str(error.value)


def test_a_query_that_is_not_known_passes_where_no_queries_are_given(tmp_path):
    (tmp_path / "run").write_text("x Q0 a 1 1.0 t\n")
    assert trec.read_run(tmp_path / "run") == {"x": {"a": 1.0}}


def test_a_missing_a_cut_off_and_a_binary_file_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="there is no file .*none.run"):
        trec.read_run(tmp_path / "none.run")
    trec.write_run(tmp_path / "cut.run.gz", {"q": {f"p{i}": 1 / (i + 1) for i in range(999)}}, "ours")
    whole = (tmp_path / "cut.run.gz").read_bytes()
    (tmp_path / "cut.run.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut.run.gz, after line [0-9]+: cut off"):
        trec.read_run(tmp_path / "cut.run.gz")
    (tmp_path / "cut.run.gz").write_bytes(whole[:200] + bytes(50) + whole[250:])
    with pytest.raises(ValueError, match="cut.run.gz"):
        trec.read_run(tmp_path / "cut.run.gz")
    (tmp_path / "binary.run").write_bytes(b"q Q0 a 1 1.0 t\n\xff\xfe\xff\n")
    with pytest.raises(ValueError, match="binary.run, after line [0-9]: cut off or no text"):
        trec.read_run(tmp_path / "binary.run")


def test_what_could_not_be_read_back_is_not_written(tmp_path):
    path = tmp_path / "run"
    for run, tag in [
        ({"a b": {"p": 1.0}}, "t"),
        ({"q": {"": 1.0}}, "t"),
        ({"q": {"p": float("nan")}}, "t"),
        (RUN, "t t"),
    ]:
        with pytest.raises(ValueError):
            trec.write_run(path, run, tag)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="empty"):
        trec.write_run(path, {}, "t")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["qrels.txt", "qrels.txt.gz"])
def test_judgements_read_back(tmp_path, name):
    trec.write_qrels(tmp_path / name, QRELS)
    assert trec.read_qrels(tmp_path / name) == QRELS


def test_judgements_with_beirs_head(tmp_path):
    (tmp_path / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t2\nq\tb\t1\n")
    assert trec.read_qrels(tmp_path / "test.tsv") == {"q": {"a": 2, "b": 1}}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("q 0 a 1\nq 0 a 2\n", "line 2: passage a stands twice for query q"),
        ("q 0 a 1\nq 0 b\n", "line 2: 3 columns, expected query 0 passage grade"),
        ("q 0 a good\n", "line 1: invalid literal"),
        ("q a 1\n", "line 1: three columns want the head query-id corpus-id score"),
        ("", "is empty"),
        ("query-id\tcorpus-id\tscore\n", "is empty but for its head"),
    ],
)
def test_broken_judgements_are_refused_with_file_and_line(tmp_path, text, complaint):
    (tmp_path / "broken.qrels").write_text(text)
    with pytest.raises(ValueError, match=f"broken.qrels.*{complaint}"):
        trec.read_qrels(tmp_path / "broken.qrels")


def test_a_judgement_that_is_repeated_is_read_once(tmp_path):
    (tmp_path / "qrels").write_text("q 0 a 1\nq 0 b 0\nq 0 a 1\n")
    assert trec.read_qrels(tmp_path / "qrels") == {"q": {"a": 1, "b": 0}}
    assert trec.line_of(tmp_path / "qrels", "q") == 1


# --- texts and training pairs ------------------------------------------------------------------------------------


def test_passages_of_both_layouts_by_hand(tmp_path):
    (tmp_path / "a.tsv").write_text("7\ta text, with  spaces\n\n8\t\n")
    assert [*read_entries(tmp_path / "a.tsv")] == [("7", "", "a text, with  spaces"), ("8", "", "")]
    (tmp_path / "a.jsonl").write_text('{"_id": "x", "title": "T", "text": "a"}\n{"text": "\\u00e9", "_id": "y"}\n')
    assert [*read_entries(tmp_path / "a.jsonl")] == [("x", "T", "a"), ("y", "", "é")]


def test_a_carriage_return_or_a_line_separator_inside_a_text_ends_no_line(tmp_path):
    (tmp_path / "a.tsv").write_bytes("1\ta\rb\u2028c\x0bd\r\n2\te\n".encode())
    assert [entry.text for entry in read_entries(tmp_path / "a.tsv")] == ["a\rb\u2028c\x0bd", "e"]


def test_texts_are_read_one_at_a_time(tmp_path):
    (tmp_path / "a.tsv").write_text("1\ta\nbroken\n")
    entries = read_entries(tmp_path / "a.tsv")
    assert next(entries).id == "1"
    with pytest.raises(ValueError, match=r"a\.tsv, line 2: 1 columns"):
        next(entries)


ROWS = {"q": 0, "r": 1}, {"a": 5, "b": 6, "c": 7}


@pytest.mark.parametrize("packed", [False, True])
def test_pairs_with_teacher_scores_by_hand(tmp_path, packed):
    text = b"9.5\t1.25\tr\ta\tb\n-1 2 q c a\n1 1 other a b\n"
    (tmp_path / "pairs.tsv").write_bytes(gzip.compress(text) if packed else text)
    found = read_triples(tmp_path / "pairs.tsv", *ROWS)
    assert (found.query.tolist(), found.pos.tolist(), found.neg.tolist()) == ([1, 0], [5, 7], [6, 5])
    assert found.margins is not None and found.margins.tolist() == [8.25, -3.0]  # 9.5 - 1.25, -1 - 2
    assert found.left_out == 1


def test_plain_triples_have_no_margins(tmp_path):
    (tmp_path / "triples.tsv").write_text("q\ta\tb\nr\tb\tc\n")
    found = read_triples(tmp_path / "triples.tsv", *ROWS)
    assert (found.query.tolist(), found.pos.tolist(), found.neg.tolist()) == ([0, 1], [5, 6], [6, 7])
    assert found.margins is None and found.left_out == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1 2 q a b\nq a b\n", "line 2: 3 columns, expected pos_score neg_score query pos neg"),
        ("1 2 q a b\n1 2 q a\n", "line 2: 4 columns, expected pos_score"),
        (
            "what is it\ta text\tanother text\n",
            "line 1: 7 columns, expected pos_score neg_score query pos neg or query",
        ),
        ("1 high q a b\n", "line 1: could not convert string to float: 'high'"),
        ("1 inf q a b\n", "line 1: the scores are 1 and inf"),
        ("q a b\nq a x\n", "line 2: passage x is not in the collection"),
        ("x a b\ny a b\n", "none of its 2 pairs is of one of the 2 queries asked for"),
        ("", "is empty"),
    ],
)
def test_broken_pairs_are_refused_with_file_and_line(tmp_path, text, complaint):
    (tmp_path / "broken.pairs").write_text(text)
    with pytest.raises(ValueError, match=f"broken.pairs.*{complaint}"):
        read_triples(tmp_path / "broken.pairs", *ROWS)
