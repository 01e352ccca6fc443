"""Text formats of the field: what is written reads back, what is broken is refused with file and line."""

import gzip

import pytest

from tas_lib.data import formats
from tas_lib.data.formats import read_entries

RUN = {"q2": {"a": 1 / 3, "b": 2.0}, "q10": {"b": -1.5, "a": -1.5}}


# --- runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["some.run", "some.run.gz"])
def test_a_run_reads_back_to_the_digit_and_equal_runs_give_equal_bytes(tmp_path, name):
    formats.write_run(tmp_path / name, RUN, "ours")
    first = (tmp_path / name).read_bytes()
    assert formats.read_run(tmp_path / name) == RUN
    again = {query: dict(reversed(passages.items())) for query, passages in reversed(RUN.items())}
    formats.write_run(tmp_path / "other" / name, again, "ours")
    assert (tmp_path / "other" / name).read_bytes() == first
    if name.endswith("gz"):
        assert first[3] == 0 and first[4:8] == bytes(4)  # no file name, no date
        (tmp_path / name).rename(tmp_path / "plain name")
        assert formats.read_run(tmp_path / "plain name") == RUN  # gz is known by its content


def test_a_run_file_has_trecs_six_columns_best_first(tmp_path):
    formats.write_run(tmp_path / "run", RUN, "ours")
    assert (tmp_path / "run").read_text().splitlines() == [
        "q10 Q0 b 1 -1.5 ours",
        "q10 Q0 a 2 -1.5 ours",
        "q2 Q0 b 1 2.0 ours",
        "q2 Q0 a 2 0.3333333333333333 ours",
    ]


def test_an_ms_marco_run_has_minus_its_ranks_as_scores(tmp_path):
    (tmp_path / "run.tsv").write_text("1\t7\t1\n1\t8\t2\n\n2\t7\t1\n")
    assert formats.read_run(tmp_path / "run.tsv") == {"1": {"7": -1, "8": -2}, "2": {"7": -1}}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("q Q0 a 1 2.0 t\nq Q0 b 2 1.0\n", "line 2: 5 columns, expected query Q0 passage rank score tag"),
        ("q Q0 a 1 2.0 t\nq b 2\n", "line 2: 3 columns, expected query Q0"),
        ("q a\n", "line 1: 2 columns, expected query Q0 passage rank score tag or query passage rank"),
        ("q Q0 a 1 2.0 t\nq Q0 b 2 high t\n", "line 2: could not convert string to float: 'high'"),
        ("q Q0 a 1 2.0 t\n\nq Q0 a 2 1.0 t\n", "line 3: passage a occurs twice for query q"),
        ("q Q0 a 1 nan t\n", "line 1: the score is nan"),
        ("q a 1\nq b 1\n", "line 2: rank 1 occurs twice for query q"),
        ("q a 1.5\n", "line 1: invalid literal"),
        ("x Q0 a 1 1.0 t\n", r"none of its 1 queries \(x, ...\) is in this query set"),
        ("\n\n", "is empty"),
    ],
)
def test_a_broken_run_is_refused_with_file_and_line(tmp_path, text, complaint):
    path = tmp_path / "broken.run"
    path.write_bytes(gzip.compress(text.encode()))
    with pytest.raises(ValueError, match=complaint) as error:
        formats.read_run(path, queries=["q"])
    assert str(path) in str(error.value)


def test_topics_of_a_run_that_are_not_judged_are_left_out(tmp_path):
    (tmp_path / "trec.run").write_text("q1 Q0 a 1 2.0 t\nq2 Q0 b 1 1.0 t\nq1 Q0 b 2 1.0 t\n")
    assert formats.read_run(tmp_path / "trec.run", ["q1", "q3"]) == {"q1": {"a": 2.0, "b": 1.0}}


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.tsv", b"1\ta text\n2\tcaf\xe9\n", r"a.tsv, line 2: not UTF-8 .*Latin-1"),
        ("a.tsv", b"1\ta text\n2\tnu\0l\n", "a.tsv, line 2: a NUL character"),
        ("a.jsonl", b'{"_id": "1", "text": "nu\\u0000l"}\n', "a.jsonl, line 1: a NUL character"),
        ("a.jsonl", b'{"_id": "1", "text": "ok \\ud83d\\ude00"}\n{"_id": "2", "text": "\\ud83d"}\n',
         r"a.jsonl, line 2: half a surrogate pair, '\\ud83d'"),
    ],
)  # fmt: skip
def test_a_text_that_is_no_unicode_is_refused_with_file_and_line(tmp_path, name, content, complaint):
    for path, data in ((tmp_path / name, content), (tmp_path / f"{name}.gz", gzip.compress(content))):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=complaint.replace(", line", "(.gz)?, line", 1)):
            list(formats.read_entries(path))


@pytest.mark.parametrize("head", ["id\ttext", "pid\tpassage", "qid\tquery"])
def test_a_head_line_is_no_passage(tmp_path, head):
    (tmp_path / "collection.tsv").write_text(f"{head}\n1\ta text\n")
    assert [*formats.read_entries(tmp_path / "collection.tsv")] == [("1", "", "a text")]


def test_a_missing_a_truncated_and_a_binary_file_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="there is no file .*none.run"):
        formats.read_run(tmp_path / "none.run")
    formats.write_run(tmp_path / "cut.run.gz", {"q": {f"p{i}": 1 / (i + 1) for i in range(999)}}, "ours")
    whole = (tmp_path / "cut.run.gz").read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:200] + bytes(50) + whole[250:]):
        (tmp_path / "cut.run.gz").write_bytes(broken)
        with pytest.raises(ValueError, match="cut.run.gz, (after )?line [0-9]+: (cut off|not UTF-8|a NUL)"):
            formats.read_run(tmp_path / "cut.run.gz")
    (tmp_path / "binary.run").write_bytes(b"q Q0 a 1 1.0 t\n\xff\xfe\xff\n")
    with pytest.raises(ValueError, match="binary.run, line 2: not UTF-8"):
        formats.read_run(tmp_path / "binary.run")


def test_a_run_that_could_not_be_read_back_is_not_written(tmp_path):
    for run, tag in [
        ({"a b": {"p": 1.0}}, "t"),
        ({"q": {"": 1.0}}, "t"),
        ({"q": {"p": float("nan")}}, "t"),
        (RUN, "t t"),
    ]:
        with pytest.raises(ValueError):
            formats.write_run(tmp_path / "run", run, tag)
        assert list(tmp_path.iterdir()) == []


# --- judgements --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["query-id\tcorpus-id\tscore\nq\ta\t2\nq\tb\t0\n", "q 0 a 2\nq 0 b 0\nq 0 a 2\n"], ids=["BEIR", "repeated"]
)
def test_judgements_of_beir_and_repeated_ones(tmp_path, text):
    (tmp_path / "qrels").write_text(text)
    assert formats.read_qrels(tmp_path / "qrels") == {"q": {"a": 2, "b": 0}}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("q 0 a 1\nq 0 a 2\n", "line 2: passage a occurs twice for query q"),
        ("q 0 a 1\nq 0 b\n", "line 2: 3 columns, expected query 0 passage grade"),
        ("q 0 a good\n", "line 1: invalid literal"),
        ("q a 1\n", "line 1: three columns need the head query-id corpus-id score"),
        ("", "is empty"),
        ("query-id\tcorpus-id\tscore\n", "has a head and no judgements"),
    ],
)
def test_broken_judgements_are_refused_with_file_and_line(tmp_path, text, complaint):
    (tmp_path / "broken.qrels").write_text(text)
    with pytest.raises(ValueError, match=f"broken.qrels.*{complaint}"):
        formats.read_qrels(tmp_path / "broken.qrels")


# --- passages and queries ----------------------------------------------------------------------------------------


def test_passages_of_both_layouts_by_hand(tmp_path):
    (tmp_path / "a.tsv").write_text("7\ta text, with  spaces\n\n8\t\n")
    assert [*read_entries(tmp_path / "a.tsv")] == [("7", "", "a text, with  spaces"), ("8", "", "")]
    (tmp_path / "a.jsonl").write_text('{"_id": "x", "title": "T", "text": "a"}\n{"text": "\\u00e9", "_id": "y"}\n')
    assert [*read_entries(tmp_path / "a.jsonl")] == [("x", "T", "a"), ("y", "", "é")]


def test_only_a_line_feed_ends_a_line_and_passages_are_read_one_at_a_time(tmp_path):
    (tmp_path / "a.tsv").write_bytes("1\ta\rb\u2028c\x0bd\r\nbroken\n".encode())
    entries = read_entries(tmp_path / "a.tsv")
    assert next(entries).text == "a\rb\u2028c\x0bd"
    with pytest.raises(ValueError, match=r"a\.tsv, line 2: 1 columns"):
        next(entries)
