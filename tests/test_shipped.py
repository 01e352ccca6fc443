"""Shipped models and scores, checked by their digests; and the training pairs that are made from them."""

import logging
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny

from tas_lib import config
from tas_lib.config import Evaluation, LocalSource, Pairing, Profile, Reranking, Sampling, TestSet
from tas_lib.data import shipped, store
from tas_lib.data.collection import Collection, open_collection, write
from tas_lib.experiment import Experiment
from tas_lib.records import FloatArray, IntArray, Pairs, QuerySet, Source, Texts
from tas_lib.retrieval import pretrained
from tas_lib.train import pairs as mining


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    test_set = Evaluation(sets=(TestSet(name="dev", label="Dev"),))
    return tiny.settings(tmp_path, pairing=Pairing(depth=4, negatives=3), evaluation=test_set)


@pytest.fixture
def encoder(settings: Profile) -> Path:
    folder = tiny.save_encoder(settings.artefacts_folder / "encoder")
    tiny.ship(folder)
    return folder


def refused(settings: Profile) -> str:
    messages = []
    for check in (lambda: shipped.folder(settings, "encoder"), lambda: shipped.encoder(settings)):
        with pytest.raises(ValueError) as error:
            check()
        messages.append(str(error.value))
    assert messages[0] == messages[1] and "\n" not in messages[0]
    return messages[0]


def flip_the_last_bit(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "encoder/model.safetensors is missing from"),
        (flip_the_last_bit, "model.safetensors is not the file that was shipped: cut off or changed"),
    ],
)
def test_a_missing_and_a_changed_file_are_named(settings: Profile, encoder: Path, damage, message):
    assert shipped.encoder(settings) == str(shipped.folder(settings, "encoder")) == str(encoder)
    damage(encoder / "model.safetensors")
    assert message in refused(settings)


def test_a_missing_folder_and_a_provenance_that_is_cut_off_are_named(settings: Profile, encoder: Path):
    os.truncate(encoder / "provenance.json", 30)
    assert refused(settings).startswith("encoder/provenance.json is missing or cut off")
    with pytest.raises(ValueError, match=r"^cat/provenance\.json is missing or cut off"):
        shipped.folder(settings, "cat")


def test_an_encoder_from_elsewhere_needs_no_provenance(settings: Profile, tmp_path: Path):
    folder = tiny.save_encoder(tmp_path / "another")
    elsewhere = settings.model_copy(update={"encoder": str(folder)})
    assert shipped.encoder(elsewhere) == str(folder)
    assert shipped.encoder(settings.model_copy(update={"encoder": "someone/model"})) == "someone/model"


def test_what_data_docs_holds_is_what_was_shipped():
    docs = config.load("docs")
    for name in ("encoder", "cat", "colbert", "scores", "seq2seq", "expansions"):
        shipped.folder(docs, name)
    for path in docs.artefacts_folder.rglob("*config.json"):
        assert "_name_or_path" not in path.read_text(), path  # a folder of the machine that made it
    size = sum(path.stat().st_size for path in docs.artefacts_folder.rglob("*") if path.is_file())
    assert size <= 100e6


def test_other_word_embeddings_are_another_teacher_and_the_shipped_ones_change_no_recorded_digest(tmp_path: Path):
    docs = config.load("docs").artefacts_folder
    borrowers = [path.parent for path in docs.glob("*/config.json") if pretrained.SHARED in store.read_json(path)]
    assert {path.name for path in borrowers} == {"cat", "colbert"}
    shutil.copytree(docs / "encoder", tmp_path / "encoder")
    flip_the_last_bit(tmp_path / "encoder" / "model.safetensors")
    for teacher in borrowers:
        assert store.folder_digest(teacher) == store.digest(teacher / "provenance.json")
        shutil.copytree(teacher, tmp_path / teacher.name)
        assert store.folder_digest(tmp_path / teacher.name) != store.folder_digest(teacher)


def test_expansions_come_back_by_the_text_of_their_passage(tmp_path: Path):
    texts = ["a sum", "a mean", "a sum", "a plot"]
    queries = [["add", "total"], [], ["add", "total"], ["draw a line"]]
    shipped.write_expansions(tmp_path / "queries.parquet", shipped.text_keys(texts), queries)
    known = shipped.read_expansions(tmp_path / "queries.parquet")
    queries = known(shipped.text_keys(["a plot", "a changed text", "a mean", "a sum"]))
    assert queries == [["draw a line"], None, [], ["add", "total"]]


# --- scores ------------------------------------------------------------------------------------------------------


def test_scores_come_back_and_an_unknown_pair_is_nan(tmp_path: Path):
    rng = np.random.default_rng(0)
    query = shipped.text_keys([f"q{i % 7}" for i in range(50)])
    passage = shipped.text_keys([f"p{i}" for i in range(50)])
    score, order = rng.normal(size=50).astype(np.float32), rng.permutation(50)
    path = tmp_path / "scores.parquet"
    tiny.write_scores(path, query[order], passage[order], score[order], np.zeros(50, int))
    look_up = shipped.read_scores(path)
    assert look_up(query, passage).tolist() == score.tolist()
    assert np.isnan(look_up(passage, query)).all()  # the other way round
    assert np.isnan(look_up(query, shipped.text_keys(["new"] * 50))).all()
    assert np.isnan(look_up(query, np.full(50, np.iinfo(np.uint64).max))).all()  # beyond the last key
    assert len(look_up(query[:0], passage[:0])) == 0
    tiny.write_scores(path, query[:0], passage[:0], score[:0], np.zeros(0))
    assert np.isnan(shipped.read_scores(path)(query, passage)).all()


def test_text_keys_are_the_first_bytes_of_sha256():
    # echo -n abc | sha256sum: ba7816bf8f01cfea...
    assert shipped.text_keys(["abc", ""]).tolist() == [0xBA7816BF8F01CFEA, 0xE3B0C44298FC1C14]


# --- training pairs, when texts have changed ---------------------------------------------------------------------

PASSAGES = [
    "sum of an array along an axis",
    "sum of a matrix",
    "product of an array",
    "plot a line",
    "plot a graph of an array",
    "a barred sum of an array",
]
QUERIES = ["sum an array", "plot the graph"]


def small(passages: list[str], folder: Path) -> Collection:
    """Two training queries, answered by passages 0 and 4; passage 5 is barred."""
    ids = [f"p{i}" for i in range(len(passages))]
    train = QuerySet("train", Texts(["a", "b"], QUERIES), {"a": {"p0": 1}, "b": {"p4": 1}})
    source = Source(Texts(ids, passages), ids, {"train": train}, np.array([5]), {})
    return Collection(store.Store(folder).artefact("collection", {"p": passages}, {}, lambda f: write(source, f)))


def ship_scores(settings: Profile) -> None:
    """Every query with every passage; query q scores passage p with 10 q + p."""
    q, p = np.divmod(np.arange(12), 6)
    folder = settings.artefacts_folder / "scores"
    folder.mkdir(parents=True)
    query, passage = shipped.text_keys(QUERIES)[q], shipped.text_keys(PASSAGES)[p]
    tiny.write_scores(folder / "scores.parquet", query, passage, 10.0 * q + p, np.zeros(12, int))
    tiny.ship(folder)


def no_scorer() -> mining.Scorer:
    raise AssertionError("there are pairs without a shipped score")


def test_shipped_scores_give_margins_and_barred_passages_are_in_no_pair(settings: Profile, tmp_path: Path):
    ship_scores(settings)
    pairs = mining.open_pairs(settings, small(PASSAGES, tmp_path), no_scorer)
    for query, pos in ((0, 0), (1, 4)):
        rows = slice(pairs.offsets[query], pairs.offsets[query + 1])
        assert set(pairs.pos[rows]) == {pos}
        assert not {5, pos} & {*pairs.neg[rows]} and len({*pairs.neg[rows]}) == len(pairs.neg[rows])
        assert pairs.margins[rows].tolist() == [pos - n for n in pairs.neg[rows]]  # 10 q + pos - (10 q + neg)
        assert pairs.margins[rows].tolist() == sorted(pairs.margins[rows])
    assert len(pairs.neg) > 2


def test_negatives_are_the_shipped_ones_else_bm25s_and_not_relevant(settings: Profile, tmp_path: Path):
    drawn = mining.negatives(settings, small(PASSAGES, tmp_path))
    # "sum an array" shares words with 1 (sum), 2 and 4 (array); 0 answers it, 5 is barred, depth 4 cuts
    assert set(drawn[0]) <= {1, 2, 4} and set(drawn[1]) == {3}
    ship_scores(settings)  # every passage with both queries
    drawn = mining.negatives(settings, small(PASSAGES, tmp_path))
    assert [sorted(own) for own in drawn] == [[1, 2, 3, 4], [0, 1, 2, 3]]


def test_a_query_with_too_few_shipped_pairs_has_bm25s_and_the_log_says_how_many_are_scored(
    settings: Profile, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    ship_scores(settings)
    changed = [*PASSAGES]
    changed[2], changed[3] = "a product, in another version", "plot a line, in another version"
    asked: list[tuple[int, int]] = []

    def score(query: IntArray, passage: IntArray) -> FloatArray:
        asked.extend(zip(query.tolist(), passage.tolist(), strict=True))
        return np.full(len(query), 100.0, np.float32)

    few = settings.model_copy(update={"pairing": Pairing(depth=4, negatives=2)})
    assert [{*drawn} for drawn in mining.negatives(few, small(changed, tmp_path))] == [{1, 4}, {0, 1}]  # still shipped
    with caplog.at_level(logging.INFO):
        pairs = mining.open_pairs(settings, small(changed, tmp_path), lambda: score)
    assert (1, 3) in asked and not {(0, 0), (0, 1), (0, 4), (1, 4)} & {*asked}  # those of PASSAGES are shipped
    assert "pairs are not among the shipped scores, scored now" in caplog.text
    own = slice(*pairs.offsets[1:3])
    assert pairs.margins[own][pairs.neg[own] == 3] == [14 - 100]  # 10 · 1 + 4 - 100


def test_a_scores_file_that_is_cut_off_is_noticed_before_any_work(settings: Profile, tmp_path: Path):
    ship_scores(settings)
    os.truncate(settings.artefacts_folder / "scores" / "scores.parquet", 200)
    with pytest.raises(ValueError, match=r"scores/scores\.parquet is not the file that was shipped"):
        mining.open_pairs(settings, small(PASSAGES, tmp_path), no_scorer)
    assert not (settings.folder / "pairs").exists() and not (settings.folder / "negatives").exists()


# --- training pairs of a folder of files -------------------------------------------------------------------------


def folder_of(settings: Profile, tmp_path: Path, pairs: str) -> Profile:
    """A collection in MS MARCO's layout, of which the queries c and d are held out; no scores are shipped."""
    place = tmp_path / "files"
    place.mkdir(exist_ok=True)
    (place / "collection.tsv").write_text("".join(f"p{i}\t{text}\n" for i, text in enumerate(PASSAGES)))
    texts = dict(zip("abcd", [*QUERIES, "a matrix", "a line"], strict=True))
    (place / "queries.train.tsv").write_text("".join(f"{query}\t{text}\n" for query, text in texts.items()))
    (place / "qrels.train.tsv").write_text("a 0 p0 1\nb 0 p4 1\nc 0 p1 1\nd 0 p3 1\n")
    (place / "queries.dev.tsv").write_text("x\tan axis\n")
    (place / "qrels.dev.tsv").write_text("x 0 p0 1\n")
    if pairs:
        (place / "pairs.tsv").write_text(pairs)
    source = LocalSource(folder=str(place), stop_queries=1, tune_queries=1)
    return settings.model_copy(update={"name": "files", "source": source})


SCORED = "9 7 a p0 p2\n5 4.5 a p0 p1\n3 4 b p4 p3\n9 0 c p1 p3\n9 0 d p3 p0\n"
PLAIN = "a p0 p2\na p0 p1\nb p4 p3\nc p1 p3\nd p3 p0\n"


def by_index(query: IntArray, passage: IntArray) -> FloatArray:
    return (10.0 * query + passage).astype(np.float32)


def rows_of(table: Pairs, found: Collection, query: str) -> list[tuple[str, str, float]]:
    row = found.sets["train"].queries.ids.index(query)
    ids, where = found.passages.ids, range(table.offsets[row], table.offsets[row + 1])
    return [(ids[table.pos[i]], ids[table.neg[i]], float(table.margins[i])) for i in where]


def test_published_pairs_come_with_their_margins_and_those_of_queries_held_out_are_left(
    settings: Profile, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    mine = folder_of(settings, tmp_path, SCORED)
    found = open_collection(mine)
    with caplog.at_level(logging.INFO):
        table = mining.open_pairs(mine, found, no_scorer)
    kept = found.sets["train"].queries.ids
    assert len(kept) == 2
    expected = {
        "a": [("p0", "p1", 0.5), ("p0", "p2", 2.0)],  # 5 - 4.5, 9 - 7
        "b": [("p4", "p3", -1.0)],
        "c": [("p1", "p3", 9.0)],
        "d": [("p3", "p0", 9.0)],
    }
    assert {query: rows_of(table, found, query) for query in kept} == {query: expected[query] for query in kept}
    assert (
        f"pairs.tsv: {len(table.pos)} pairs; {5 - len(table.pos)} more are of queries or passages left out"
        in caplog.text
    )
    folder_of(settings, tmp_path, SCORED.replace("9 7", "8 7").replace("9 0", "8 0").replace("3 4", "2 4"))
    again = mining.open_pairs(mine, open_collection(mine), no_scorer)
    assert not np.array_equal(table.margins, again.margins)  # the same texts, other scores


@pytest.mark.parametrize("pairs", [PLAIN, ""], ids=["published without scores", "mined"])
def test_pairs_without_scores_are_scored_by_the_teacher(settings: Profile, tmp_path: Path, pairs: str):
    mine = folder_of(settings, tmp_path, pairs)
    found = open_collection(mine)
    table = mining.open_pairs(mine, found, lambda: by_index)
    assert len(table.pos) >= 1
    assert table.margins.tolist() == (table.pos.astype(int) - table.neg).tolist()  # 10 q + pos - (10 q + neg)


def test_a_run_that_was_killed_while_scoring_resumes_after_what_was_stored(
    settings: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mine = folder_of(settings, tmp_path, PLAIN)
    found = open_collection(mine)
    asked: list[list[int]] = []
    monkeypatch.setattr(mining, "in_parts", partial(mining.in_parts, size=2))

    def killed_in_the_second_part(query: IntArray, passage: IntArray) -> FloatArray:
        asked.append(passage.tolist())
        if len(asked) == 2:
            raise KeyboardInterrupt
        return by_index(query, passage)

    with pytest.raises(KeyboardInterrupt):
        mining.open_pairs(mine, found, lambda: killed_in_the_second_part)
    table = mining.open_pairs(mine, found, lambda: killed_in_the_second_part)
    assert asked[2] == asked[1] and asked[0] not in asked[1:]
    assert table.margins.tolist() == (table.pos.astype(int) - table.neg).tolist()
    assert not [*(mine.folder / "pairs").glob("scored-*")]


def test_of_very_many_positives_some_are_drawn_by_query_and_what_fits_stays():
    found = [np.arange(100), np.arange(100), np.array([7, 3])]
    for most in (1, 5, 100):
        few = mining.some(found, most)
        assert [len(rows) for rows in few] == [most, most, min(most, 2)]
        assert all(len({*rows}) == len(rows) and {*rows} <= {*whole} for rows, whole in zip(few, found, strict=True))
        assert [rows.tolist() for rows in few] == [rows.tolist() for rows in mining.some(found, most)]
    assert mining.some(found, 5)[0].tolist() != mining.some(found, 5)[1].tolist()
    assert mining.some(found, None) is found


def test_a_cap_of_positives_cuts_the_pairs_and_not_what_counts_as_relevant(settings: Profile, tmp_path: Path):
    mine = folder_of(settings, tmp_path, "")
    every = "".join(f"{query} 0 p{i} 1\n" for query in "abcd" for i in (0, 3, 4))
    (tmp_path / "files" / "qrels.train.tsv").write_text(every)
    made = {}
    for most in (None, 2):
        asked = mine.model_copy(update={"pairing": Pairing(depth=6, negatives=3, positives=most)})
        table = mining.open_pairs(asked, open_collection(asked), lambda: by_index)
        ranges = list(zip(table.offsets, table.offsets[1:], strict=False))
        made[most] = [({*table.pos[i:j].tolist()}, {*table.neg[i:j].tolist()}) for i, j in ranges]
    for (all_pos, all_neg), (pos, neg) in zip(made[None], made[2], strict=True):
        assert len(pos) == 2 * bool(all_neg) and pos <= all_pos <= {0, 3, 4}
        assert neg == all_neg and not neg & {0, 3, 4}
    assert any(neg for _, neg in made[2])


@pytest.mark.parametrize("pairs", [PLAIN, ""], ids=["published without scores", "mined"])
def test_a_missing_teacher_is_reported_before_any_work(settings: Profile, tmp_path: Path, pairs: str):
    mine = folder_of(settings, tmp_path, pairs)
    open_collection(mine)
    before = {path for path in mine.folder.iterdir() if not path.name.startswith(".")}
    with pytest.raises(ValueError) as error:
        Experiment(mine.model_copy(update={"sampling": Sampling(clusters=1)})).pairs  # noqa: B018
    assert str(error.value).startswith("profile 'files' has no cross_encoder and ")
    left = {path for path in mine.folder.iterdir() if not path.name.startswith(".")}
    assert left == before | {mine.folder / "checked"}


def test_a_named_teacher_goes_before_the_shipped_one(settings: Profile, tmp_path: Path, encoder: Path):
    named = settings.model_copy(update={"colbert": str(encoder), "cross_encoder": "someone/cross-encoder"})
    assert shipped.model(named, "colbert") == str(encoder)
    assert shipped.model(named, "cat") == "someone/cross-encoder"
    with pytest.raises(ValueError, match=r"^profile 'tiny' has no colbert and .* brings none \(colbert/\): name one"):
        shipped.model(settings, "colbert")
    duo = settings.model_copy(update={"reranking": Reranking(duo="someone/duo")})
    assert shipped.model(duo, "duo") == "someone/duo"
    assert [shipped.has(duo, role) for role in ("duo", "mono", "expansion")] == [True, False, False]
    with pytest.raises(ValueError, match=r"has no reranking\.mono and .* brings none \(seq2seq/\)"):
        shipped.model(duo, "mono")


def test_a_repeated_pair_is_scored_once_and_rows_of_four_bytes_do_not_overflow():
    asked: list[tuple[int, int]] = []

    def score(query: IntArray, passage: IntArray) -> FloatArray:
        asked.extend(zip(query.tolist(), passage.tolist(), strict=True))
        return passage / 1000

    query, pos, neg = (np.array(rows, np.int32) for rows in ([400_000, 400_000], [8_000_000] * 2, [1_000, 3_000]))
    margins = mining.margins_by(score, query, pos, neg)
    assert asked == [(400_000, 1_000), (400_000, 3_000), (400_000, 8_000_000)]
    assert margins.tolist() == [7_999, 7_997]


def test_packages_other_than_the_pins_are_named_and_the_run_goes_on(
    settings: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "requirements.txt").write_text("numpy==0.1\n")
    monkeypatch.setattr("tas_lib.data.collection.ROOT", tmp_path)
    train = QuerySet("train", Texts(["a"], ["b"]), {"a": {"p0": 1}})
    made = Source(Texts(["p0"], ["text"]), ["p0"], {"train": train}, np.zeros(0, int), {})
    with caplog.at_level(logging.WARNING):
        found = tiny.put_collection(settings, made)
    assert found.passages.ids == ["p0"]
    assert f"numpy {np.__version__} (pinned: 0.1)" in caplog.text
    (tmp_path / "requirements.txt").write_text(f"numpy=={np.__version__}\n")
    caplog.clear()
    open_collection(settings)
    assert caplog.text == ""
