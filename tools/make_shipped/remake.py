"""What `data/docs/` ships, made again from the installed packages: `./run_all.sh docs teachers`.

BERT_CAT by folds and its scores, ColBERT, the small encoder, the sequence-to-sequence model and what it writes: each is
an artefact of the store, so that an interrupted remake goes on with the first that is not whole, and is copied to
`data/docs/` with its provenance when done.
"""

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertModel

from tas_lib import config, models
from tas_lib.config import DocsSource, Profile
from tas_lib.data import shipped, store
from tas_lib.data.collection import Collection, open_collection
from tas_lib.data.tokens import load_tokenizer, open_tokens
from tas_lib.evaluation import metrics
from tas_lib.models import BertCat
from tas_lib.records import FloatArray, IntArray, Ragged
from tas_lib.retrieval import bm25, cross_encoder, doc2query, pretrained
from tas_lib.retrieval import dense as search
from tas_lib.retrieval import encode as encoding
from tas_lib.retrieval import rerank as reranking
from tas_lib.retrieval.t5 import T5Scorer
from tas_lib.train import pairs as mining
from tas_lib.train import teachers
from tools.make_shipped import pretraining, seq2seq_training
from tools.make_shipped import teachers as making

log = logging.getLogger(__name__)


def remake(p: Profile) -> None:
    """All that the profile ships, in order; what is in the store already is not made again."""
    if p.artefacts_folder.name != p.name:
        raise ValueError(
            f"profile {p.name!r} reads {p.artefacts}, which another profile makes: ask that one for teachers"
        )
    collection = open_collection(p)
    larger = make_larger(p, collection)
    tokens = open_tokens(p.model_copy(update={"encoder": str(larger)}), collection)
    cats = make_cats(p, collection, tokens, larger)
    make_scores(p, collection, tokens, cats)
    make_colbert(p, collection, tokens, larger)
    make_encoder(p, collection, tokens, larger)
    make_seq2seq(p, collection)
    make_expansions(p, collection)


def texts_read(collection: Collection) -> list[str]:
    """What tokenizer and encoder may see: passages and training queries, never as pairs."""
    return [*collection.passages.texts, *collection.sets["train"].queries.texts]


def make_larger(p: Profile, collection: Collection) -> Path:
    """The larger model and its tokenizer with the vocabulary cut to the collection's pieces."""
    folder = pretraining.start_model(p.pretraining.start)

    def cut(place: Path) -> None:
        model, tokenizer = pretraining.cut_model(folder, texts_read(collection))
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)

    inputs = {"collection": collection.digest, "start": store.digest(Path(folder) / "model.safetensors")}
    return store.Store(p.folder).artefact("remake/larger", {"start": p.pretraining.start}, inputs, cut)


def make_encoder(p: Profile, collection: Collection, tokens: dict[str, Ragged], larger: Path) -> None:
    """The small encoder, distilled from the larger model, shipped."""
    settings = p.pretraining

    def distil(place: Path) -> None:
        words = p.source.query_words if isinstance(p.source, DocsSource) else DocsSource(packages=()).query_words
        texts = texts_read(collection) + pretraining.spans(
            collection.passages.texts, words, settings.spans, settings.seed
        )
        tokenizer = load_tokenizer(str(larger))
        known = pretrained.load_dot(str(larger)).to(encoding.device())
        student = pretraining.distil(settings, known.encoder, tokenizer, texts, p.tokens.passage)
        pretrained.save(student, tokenizer, place)

    inputs = {"collection": collection.digest, "larger": store.digest_of(larger)}
    place = store.Store(p.folder).artefact("remake/encoder", settings.model_dump(), inputs, distil)
    found = first_stage(pretrained.load_dot(str(place)).to(encoding.device()), collection, tokens)
    ship(p, place, "encoder", {"tune, no retrieval label seen": found, "start": start_note(p)})


def make_cats(p: Profile, collection: Collection, tokens: dict[str, Ragged], larger: Path) -> list[Path]:
    """One BERT_CAT a fold, trained on the queries of the other folds; the first is shipped."""
    settings = p.teachers
    positives, negatives = collection.relevant("train"), mining.negatives(p, collection)
    fold = making.folds(len(positives), settings.folds, settings.seed)
    inputs = {"collection": collection.digest, "larger": store.digest_of(larger)}
    made = []
    for k in range(settings.folds):

        def train(place: Path, k: int = k) -> None:
            cat = making.train_cat(
                start(larger),
                tokens["train"],
                tokens["passages"],
                positives,
                negatives,
                np.flatnonzero(fold != k),
                settings,
                f"BERT_CAT, fold {k}",
            )
            pretrained.save(cat, load_tokenizer(str(larger)), place)

        parameters = {**settings.model_dump(include=CAT_SETTINGS), **p.pairing.model_dump(exclude_none=True), "fold": k}
        made.append(store.Store(p.folder).artefact(f"remake/cat-{k}", parameters, inputs, train))
    return made


def start(larger: Path) -> BertModel:
    """What a teacher starts from, without dropout: drawing its noise costs a CPU more than the rest of the step."""
    return AutoModel.from_pretrained(
        larger,
        dtype=torch.float32,
        add_pooling_layer=False,
        attn_implementation="eager",  # its backward pass is three times as fast as the fused one's on a CPU
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ).to(encoding.device())


CAT_SETTINGS = {"folds", "cat_steps", "cat_queries", "cat_negatives", "cat_rate", "bf16", "seed"}


def make_scores(p: Profile, collection: Collection, tokens: dict[str, Ragged], folders: list[Path]) -> None:
    """Out-of-fold scores of every training pair, shipped with the first model; both measured on the tune set."""
    settings = p.teachers
    positives, negatives = collection.relevant("train"), mining.negatives(p, collection)
    fold = making.folds(len(positives), settings.folds, settings.seed)

    def score(place: Path) -> None:
        keys = shipped.text_keys(collection.sets["train"].queries.texts), shipped.text_keys(collection.passages.texts)
        q = np.concatenate(
            [np.full(len(a) + len(b), i) for i, (a, b) in enumerate(zip(positives, negatives, strict=True))]
        )
        shown = np.concatenate([part for both in zip(positives, negatives, strict=True) for part in both])
        scores = np.zeros(len(q), np.float32)
        for k, folder in enumerate(folders):
            own = np.flatnonzero(fold[q] == k)
            cat = pretrained.load_cat(str(folder)).to(encoding.device())
            scores[own] = scored(cat, tokens["train"], tokens["passages"], q[own], shown[own], settings)
        shipped.write_scores(place / "scores.parquet", keys[0][q], keys[1][shown], scores.round(3), fold[q])

    inputs = {str(k): store.digest_of(folder) for k, folder in enumerate(folders)} | {"collection": collection.digest}
    place = store.Store(p.folder).artefact("remake/scores", p.pairing.model_dump(exclude_none=True), inputs, score)
    cats = [pretrained.load_cat(str(folder)).to(encoding.device()) for folder in folders]
    measured = rerank_tune(p, collection, tokens, cats)
    ship(p, place, "scores", measured)
    ship(p, folders[0], "cat", {"start": start_note(p), "trained on": "the training queries outside fold 0"} | measured)


@torch.inference_mode()
def scored(cat: BertCat, queries: Ragged, passages: Ragged, q: IntArray, p: IntArray, settings: Any) -> FloatArray:
    """Scores (N,) of these pairs, in the precision of the settings."""
    with torch.autocast(cat.encoder.device.type, torch.bfloat16, enabled=settings.bf16):
        return cross_encoder.score_all(cat, queries, passages, q, p, settings.chunk)


def no_scorer() -> mining.Scorer:
    """In place of a teacher: nothing is left for it to score."""
    raise ValueError("training pairs have no shipped score, right after they were made")


def make_colbert(p: Profile, collection: Collection, tokens: dict[str, Ragged], larger: Path) -> None:
    """The ColBERT teacher, trained on the shipped margins, shipped."""
    settings = p.teachers

    pairs = mining.open_pairs(p, collection, no_scorer)

    def train(place: Path) -> None:
        encoder = start(larger)
        pretraining.keep_layers(encoder, settings.colbert_layers)
        colbert = making.train_colbert(encoder, tokens["train"], tokens["passages"], pairs, settings)
        pretrained.save(colbert, load_tokenizer(str(larger)), place)

    parameters = settings.model_dump(include=COLBERT_SETTINGS)
    inputs = {"pairs": store.digest(np.asarray(pairs.margins)), "larger": store.digest_of(larger)}
    place = store.Store(p.folder).artefact("remake/colbert", parameters, inputs, train)
    measured = colbert_tune(p, collection, tokens, pretrained.load_colbert(str(place)).to(encoding.device()))
    ship(p, place, "colbert", {"start": start_note(p)} | measured)


COLBERT_SETTINGS = {"colbert_steps", "colbert_batch", "colbert_rate", "colbert_dim", "colbert_layers", "bf16", "seed"}


def make_seq2seq(p: Profile, collection: Collection) -> None:
    """The small model for mono, duo and expansion, shipped."""
    settings, cat, small = p.seq2seq, shipped.folder(p, "cat"), shipped.folder(p, "encoder")
    tokenizer, pairs = load_tokenizer(str(cat)), mining.open_pairs(p, collection, no_scorer)

    def train(place: Path) -> None:
        model = seq2seq_training.small_seq2seq(settings, str(cat), str(small), tokenizer)
        torch.nn.Module.to(model, encoding.device())
        texts = collection.sets["train"].queries.texts, collection.passages.texts
        seq2seq_training.train(model, tokenizer, *texts, pairs, settings, p.expansion.prompt)
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)

    inputs = {"pairs": store.digest(np.asarray(pairs.margins))}
    inputs |= {"cat": store.folder_digest(cat), "encoder": store.folder_digest(small)}
    parameters = {**settings.model_dump(), "prompt": p.expansion.prompt}
    place = store.Store(p.folder).artefact("remake/seq2seq", parameters, inputs, train)
    start = f"the reader the first {settings.layers} layers of the shipped BERT_CAT; the writer the small encoder"
    ship(p, place, "seq2seq", {"start": start} | seq2seq_tune(p, collection, place))


def make_expansions(p: Profile, collection: Collection) -> None:
    """The queries that the shipped model writes for every passage, shipped by the passages' digests."""
    source, how = shipped.folder(p, "seq2seq"), p.expansion

    def write(place: Path) -> None:
        model, tokenizer = pretrained.load_seq2seq(str(source), encoding.device())
        shards = place / "shards"  # kept while it is interrupted
        shards.mkdir(exist_ok=True)
        doc2query.write_queries(model, tokenizer, collection.passages.texts, shards, how)
        keys = shipped.text_keys(collection.passages.texts)
        shipped.write_expansions(place / "queries.parquet", keys, doc2query.read_queries(shards))
        shutil.rmtree(shards)

    inputs = {"seq2seq": store.folder_digest(source), "collection": collection.digest}
    place = store.Store(p.folder).artefact("remake/expansions", how.model_dump(), inputs, write)
    ship(p, place, "expansions", expansion_tune(p, collection, place))


# --- measured on the tune set ------------------------------------------------------------------------------------


def mrr(rows: IntArray, relevant: list[IntArray]) -> float:
    """MRR@10 of rankings (Q, k) of passage rows."""
    return float(metrics.reciprocal_ranks(rows[:, :10], relevant).mean().round(4))


def first_stage(dot: models.BertDot, collection: Collection, tokens: dict[str, Ragged]) -> dict[str, float]:
    """MRR@10 and R@100 of a BERT_DOT's own search on the tune set."""
    with torch.inference_mode():
        vecs = [models.encode_rows(dot, tokens[n], np.arange(len(tokens[n].lengths))) for n in ("tune", "passages")]
    rows, _ = search.dense(vecs[0], vecs[1], 100)
    relevant = collection.relevant("tune")
    return {
        "MRR@10": mrr(rows, relevant),
        "R@100": recall(rows, relevant),
    }


def candidates(p: Profile, collection: Collection) -> IntArray:
    """BM25's first hundred (Q, 100) of the tune queries."""
    return mining.open_bm25(p, collection).search(collection.sets["tune"].queries.texts, 100)[0]


def rerank_tune(p: Profile, collection: Collection, tokens: dict[str, Ragged], cats: list[BertCat]) -> dict[str, float]:
    """MRR@10 on the tune set: BM25's own, and that of its first hundred re-ranked by one model and by all."""
    found, relevant = candidates(p, collection), collection.relevant("tune")
    scores = [making.cat_rerank([cat], tokens["tune"], tokens["passages"], found, p.teachers) for cat in cats]
    return {
        "tune MRR@10, BM25": mrr(found, relevant),
        "tune MRR@10, re-ranked by the shipped model": mrr(reorder(found, scores[0]), relevant),
        "tune MRR@10, re-ranked by the mean of the folds": mrr(reorder(found, np.mean(scores, axis=0)), relevant),
    }


@torch.inference_mode()
def colbert_tune(
    p: Profile, collection: Collection, tokens: dict[str, Ragged], colbert: models.ColBert
) -> dict[str, float]:
    """MRR@10 on the tune set of BM25's first hundred, re-ranked by ColBERT."""
    found = candidates(p, collection)
    passages = teachers.TokenVectors(teachers.token_vectors(colbert, tokens["passages"]), tokens["passages"])
    queries = teachers.TokenVectors(teachers.token_vectors(colbert, tokens["tune"]), tokens["tune"])
    scores = np.full(found.shape, -np.inf, np.float32)
    for i, rows in enumerate(found):
        kept = rows >= 0
        q, p_ = queries.rows(np.array([i])), passages.rows(rows[kept])
        scores[i, kept] = models.late_interaction(*q, *p_)[0].numpy()
    return {
        "tune MRR@10, BM25's first 100 re-ranked by ColBERT": mrr(reorder(found, scores), collection.relevant("tune"))
    }


def seq2seq_tune(p: Profile, collection: Collection, folder: Path) -> dict[str, float]:
    """MRR@10 on the tune set: of BM25's candidates in mono's order, and of the first of those in duo's."""
    model, tokenizer = pretrained.load_seq2seq(str(folder), encoding.device())
    texts = collection.sets["tune"].queries.texts, collection.passages.texts
    found, relevant, wanted = candidates(p, collection), collection.relevant("tune"), p.reranking
    scorer = T5Scorer(model, tokenizer, *texts)
    mono = reranking.rerank(found, scorer.mono, wanted.depth)
    duo = reranking.rerank_pairwise(mono, scorer.duo, wanted.duo_depth)
    return {
        "tune MRR@10, BM25": mrr(found, relevant),
        f"tune MRR@10, the first {wanted.depth} by mono": mrr(mono, relevant),
        f"tune MRR@10, of those the first {wanted.duo_depth} by duo": mrr(duo, relevant),
    }


def expansion_tune(p: Profile, collection: Collection, folder: Path) -> dict[str, float]:
    """MRR@10 and R@100 on the tune set: BM25's, and that of BM25 with the written queries indexed too."""
    known = shipped.read_expansions(folder / "queries.parquet")
    passages, tune = collection.passages.texts, collection.sets["tune"].queries.texts
    queries, relevant = known(shipped.text_keys(passages)), collection.relevant("tune")
    measured = {}
    for name, texts in (
        ("BM25", passages),
        ("docT5query", doc2query.expanded(passages, [own or [] for own in queries])),
    ):
        rows, _ = bm25.Bm25Index(texts, p.bm25).search(tune, 100)
        measured[f"tune MRR@10, {name}"] = mrr(rows, relevant)
        measured[f"tune R@100, {name}"] = recall(rows, relevant)
    return measured


def recall(rows: IntArray, relevant: list[IntArray]) -> float:
    """Mean share of the relevant passages among rankings (Q, k)."""
    return float(metrics.recalls(rows, relevant).mean().round(4))


def reorder(rows: IntArray, scores: FloatArray) -> IntArray:
    """Candidates (Q, k) by falling score."""
    return np.take_along_axis(rows, np.argsort(-scores, axis=1, kind="stable"), axis=1)


# --- shipping ----------------------------------------------------------------------------------------------------


def start_note(p: Profile) -> str:
    """Where the weights come from."""
    return f"{p.pretraining.start}: the weights of all-MiniLM-L6-v2 (Apache-2.0), vocabulary cut to the collection's"


def ship(p: Profile, source: Path, name: str, measured: dict[str, Any]) -> None:
    """Copy an artefact to `data/<profile>/<name>`, weights as fp16, with a provenance that names every digest."""
    target = p.artefacts_folder / name
    draft = target.with_name(f".{name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(source, draft, ignore=shutil.ignore_patterns("provenance.json"))
    for path in draft.glob("*.safetensors"):
        save_file(
            {k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}, path, {"format": "pt"}
        )
    for path in draft.glob("config.json"):
        path.write_text(json.dumps(_without_places(store.read_json(path)), indent=2) + "\n", encoding="utf-8")
    made = store.provenance(source)
    files = {str(f.relative_to(draft)): store.file_digest(f) for f in sorted(draft.rglob("*")) if f.is_file()}
    note = {k: made[k] for k in ("parameters", "inputs", "versions", "seconds")} | {
        "measured": measured,
        "files": files,
    }
    store.write_json(draft / "provenance.json", note)
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    log.info("shipped %s: %s", target.name, measured)


def _without_places(config: Any) -> Any:
    """A model's config without the folders, of the machine that made it, that its parts were loaded from."""
    if not isinstance(config, dict):
        return config
    return {key: _without_places(value) for key, value in config.items() if key != "_name_or_path"}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    remake(config.load(sys.argv[1] if len(sys.argv) > 1 else "docs"))
