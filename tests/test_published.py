"""Run and qrels files: what is written reads back, what is broken is refused with file and line."""

import gzip

import pytest

from tas_lib import published

RUN = {"q2": {"a": 1 / 3, "b": 2.0}, "q10": {"b": -1.5, "a": -1.5}}
QRELS = {"q2": {"b": 0, "a": 3}, "q10": {"c": -1}}


@pytest.mark.parametrize("name", ["some.run", "some.run.gz"])
def test_a_run_reads_back_to_the_digit_and_its_bytes_do_not_change(tmp_path, name):
    published.write_run(tmp_path / name, RUN, "ours")
    first = (tmp_path / name).read_bytes()
    assert published.read_run(tmp_path / name) == RUN
    again = {query: dict(reversed(passages.items())) for query, passages in reversed(RUN.items())}
    published.write_run(tmp_path / "other" / name, again, "ours")
    assert (tmp_path / "other" / name).read_bytes() == first


def test_a_run_file_is_trecs_six_columns_best_first(tmp_path):
    published.write_run(tmp_path / "run", RUN, "ours")
    assert (tmp_path / "run").read_text().splitlines() == [
        "q10 Q0 a 1 -1.5 ours",
        "q10 Q0 b 2 -1.5 ours",
        "q2 Q0 b 1 2.0 ours",
        "q2 Q0 a 2 0.3333333333333333 ours",
    ]


def test_gz_carries_no_date_and_no_name(tmp_path):
    published.write_run(tmp_path / "some.run.gz", RUN, "ours")
    header = (tmp_path / "some.run.gz").read_bytes()[:10]
    assert header[3] == 0  # no file name
    assert header[4:8] == bytes(4)  # no date


def test_gz_is_known_by_its_content_not_by_its_name(tmp_path):
    published.write_run(tmp_path / "some.gz", RUN, "ours")
    (tmp_path / "some.gz").rename(tmp_path / "some.run")
    assert published.read_run(tmp_path / "some.run") == RUN


def test_an_ms_marco_run_has_minus_its_ranks_as_scores(tmp_path):
    (tmp_path / "run.tsv").write_text("1\t7\t1\n1\t8\t2\n\n2\t7\t1\n")
    assert published.read_run(tmp_path / "run.tsv") == {"1": {"7": -1, "8": -2}, "2": {"7": -1}}


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
        published.read_run(path, queries=["q"])
    assert str(path) in str(error.value)


def test_a_query_that_is_not_known_passes_where_no_queries_are_given(tmp_path):
    (tmp_path / "run").write_text("x Q0 a 1 1.0 t\n")
    assert published.read_run(tmp_path / "run") == {"x": {"a": 1.0}}


def test_a_missing_a_cut_off_and_a_binary_file_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="there is no file .*none.run"):
        published.read_run(tmp_path / "none.run")
    published.write_run(tmp_path / "cut.run.gz", {"q": {f"p{i}": 1 / (i + 1) for i in range(999)}}, "ours")
    whole = (tmp_path / "cut.run.gz").read_bytes()
    (tmp_path / "cut.run.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut.run.gz, after line [0-9]+: cut off"):
        published.read_run(tmp_path / "cut.run.gz")
    (tmp_path / "cut.run.gz").write_bytes(whole[:200] + bytes(50) + whole[250:])
    with pytest.raises(ValueError, match="cut.run.gz"):
        published.read_run(tmp_path / "cut.run.gz")
    (tmp_path / "binary.run").write_bytes(b"q Q0 a 1 1.0 t\n\xff\xfe\xff\n")
    with pytest.raises(ValueError, match="binary.run, after line [0-9]: cut off or no text"):
        published.read_run(tmp_path / "binary.run")


def test_what_could_not_be_read_back_is_not_written(tmp_path):
    path = tmp_path / "run"
    for run, tag in [
        ({"a b": {"p": 1.0}}, "t"),
        ({"q": {"": 1.0}}, "t"),
        ({"q": {"p": float("nan")}}, "t"),
        (RUN, "t t"),
    ]:
        with pytest.raises(ValueError):
            published.write_run(path, run, tag)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="empty"):
        published.write_run(path, {}, "t")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["qrels.txt", "qrels.txt.gz"])
def test_judgements_read_back(tmp_path, name):
    published.write_qrels(tmp_path / name, QRELS)
    assert published.read_qrels(tmp_path / name) == QRELS


def test_judgements_with_beirs_head(tmp_path):
    (tmp_path / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t2\nq\tb\t1\n")
    assert published.read_qrels(tmp_path / "test.tsv") == {"q": {"a": 2, "b": 1}}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("q 0 a 1\nq 0 a 1\n", "line 2: passage a stands twice for query q"),
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
        published.read_qrels(tmp_path / "broken.qrels")
