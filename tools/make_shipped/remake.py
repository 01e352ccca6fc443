"""Make what `data/docs/` ships again, from the installed packages: `./run_all.sh docs teachers`.

BERT_CAT by folds and its scores, ColBERT, the small encoder, the sequence-to-sequence model and the queries it writes.
Each is an artefact of the store, so that you can interrupt it, run it again and it resumes; a finished one is copied to
`data/docs/` with its provenance.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, BertModel

from tas_lib import models
from tas_lib.config import DocsSource, Profile
from tas_lib.data import shipped, store
from tas_lib.data.collection import open_collection
from tas_lib.data.tokens import load_tokenizer, open_tokens
from tas_lib.evaluation import metrics
from tas_lib.models import BertCat
from tas_lib.records import FloatArray, IntArray, Pairs
from tas_lib.retrieval import cross_encoder, dense, doc2query, pretrained
from tas_lib.retrieval.bm25 import Bm25Index
from tas_lib.retrieval.encode import device
from tas_lib.retrieval.rerank import rerank, rerank_pairwise
from tas_lib.retrieval.t5 import T5Scorer
from tas_lib.train import pairs as mining
from tas_lib.train.teachers import TokenVectors, token_vectors
from tools.make_shipped import pretraining, seq2seq_training, teachers
from tools.make_shipped.settings import Recipe
from tools.make_shipped.shipping import ship


def main(profile: Profile) -> None:
    """Make everything that a profile ships, in order; what is in the store already is not made again."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if profile.artefacts_folder.name != profile.name:
        raise ValueError(f"profile {profile.name!r} reads {profile.artefacts}, which another profile makes")
    lab = Workshop(profile, Recipe())
    for make in (lab.scores, lab.colbert, lab.encoder, lab.seq2seq, lab.expansions):
        make()


class Workshop:
    """What the shipped artefacts of one profile share; each method makes, measures and ships one of them."""

    def __init__(self, profile: Profile, recipe: Recipe) -> None:
        """recipe: how models are trained that the profile only uses."""
        self.profile, self.recipe, self.shipped = profile, recipe, profile.artefacts_folder
        self.collection = open_collection(profile)
        self.queries, self.passages = self.collection.sets["train"].queries.texts, self.collection.passages.texts
        self.from_larger = "the weights of all-MiniLM-L6-v2 (Apache-2.0), vocabulary cut to the collection's"

    def artefact(
        self, name: str, parameters: dict[str, Any], inputs: dict[str, str], make: Callable[[Path], None]
    ) -> Path:
        """A folder of the store; what it is made from includes the collection."""
        inputs = inputs | {"collection": self.collection.digest}
        return store.Store(self.profile.folder).artefact(f"remake/{name}", parameters, inputs, make)

    @cached_property
    def larger(self) -> Path:
        """The larger model and its tokenizer, with the vocabulary cut to the collection's pieces."""
        start = self.recipe.pretraining.start
        source = str(resources.files(start) / "model")

        def make(folder: Path) -> None:
            model, tokenizer = pretraining.cut_model(source, [*self.passages, *self.queries])
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

        inputs = {"start": store.digest(Path(source, "model.safetensors"))}
        return self.artefact("larger", {"start": start}, inputs, make)

    @cached_property
    def tokens(self) -> dict[str, Any]:
        """Token ids of passages and of every query set, by the larger model's tokenizer."""
        return open_tokens(self.profile.model_copy(update={"encoder": str(self.larger)}), self.collection)

    @cached_property
    def pairs(self) -> Pairs:
        """Training pairs with the shipped margins."""
        return mining.open_pairs(self.profile, self.collection, no_scorer)

    @cached_property
    def judged(self) -> tuple[list[IntArray], list[IntArray]]:
        """Relevant passages, and BM25's negatives, of every training query."""
        return self.collection.relevant("train"), mining.negatives(self.profile, self.collection)

    @cached_property
    def fold(self) -> IntArray:
        """The fold of every training query."""
        return teachers.folds(len(self.queries), self.recipe.teachers.folds, self.recipe.teachers.seed)

    def start(self) -> BertModel:
        """What a teacher starts from, without dropout: its random numbers cost a CPU more than the rest of the step."""
        return AutoModel.from_pretrained(
            self.larger,
            dtype=torch.float32,
            add_pooling_layer=False,
            attn_implementation="eager",  # its backward pass is three times as fast as the fused one's on a CPU
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ).to(device())

    # --- artefacts -----------------------------------------------------------------------------------------------

    def cats(self) -> list[Path]:
        """One BERT_CAT per fold, trained on the queries of the other folds."""
        settings = self.recipe.teachers

        def train(folder: Path, k: int) -> None:
            texts, seen = (self.tokens["train"], self.tokens["passages"]), np.flatnonzero(self.fold != k)
            cat = teachers.train_cat(self.start(), *texts, *self.judged, seen, settings)
            pretrained.save(cat, load_tokenizer(str(self.larger)), folder)

        parameters = settings.model_dump() | self.profile.pairing.model_dump(exclude_none=True)
        inputs = {"larger": store.digest_of(self.larger)}
        return [
            self.artefact(f"cat-{k}", parameters | {"fold": k}, inputs, partial(train, k=k))
            for k in range(settings.folds)
        ]

    def scores(self) -> None:
        """The score of every training pair by the model that was not trained on its query, and the first model."""
        folders = self.cats()
        cats = [pretrained.load_cat(str(folder)).to(device()) for folder in folders]

        def score(folder: Path) -> None:
            both = [np.concatenate(lists) for lists in zip(*self.judged, strict=True)]
            q, p = np.repeat(np.arange(len(both)), [len(passages) for passages in both]), np.concatenate(both)
            scores = np.zeros(len(q), np.float32)
            for k, cat in enumerate(cats):
                own = np.flatnonzero(self.fold[q] == k)
                scores[own] = self.scored(cat, "train", q[own], p[own])
            keys = shipped.text_keys(self.queries)[q], shipped.text_keys(self.passages)[p]
            shipped.write_scores(folder / "scores.parquet", *keys, scores.round(3), self.fold[q])

        inputs = {str(k): store.digest_of(folder) for k, folder in enumerate(folders)}
        made = self.artefact("scores", self.profile.pairing.model_dump(exclude_none=True), inputs, score)
        measured = self.measured(
            {
                "BM25": self.candidates,
                "re-ranked by the shipped model": self.reranked(cats[:1]),
                "re-ranked by the mean of the folds": self.reranked(cats),
            }
        )
        ship(made, self.shipped / "scores", measured)
        note = {"start": self.from_larger, "trained on": "the training queries outside fold 0"}
        ship(folders[0], self.shipped / "cat", note | measured)

    @torch.inference_mode()
    def scored(self, cat: BertCat, queries: str, q: IntArray, p: IntArray) -> FloatArray:
        """A BERT_CAT's scores (N,) of pairs of a query of a set and a passage, given by their indices."""
        settings, texts = self.recipe.teachers, (self.tokens[queries], self.tokens["passages"])
        with torch.autocast(cat.encoder.device.type, torch.bfloat16, enabled=settings.bf16):
            return cross_encoder.score_all(cat, *texts, q, p, settings.chunk)

    def reranked(self, cats: Sequence[BertCat]) -> IntArray:
        """BM25's candidates, re-ranked by the mean score of these models."""

        def score(q: IntArray, p: IntArray) -> FloatArray:
            return np.mean([self.scored(cat, "tune", q, p) for cat in cats], axis=0)

        return rerank(self.candidates, score, 100)

    def colbert(self) -> None:
        """The ColBERT teacher, trained on the shipped margins."""
        settings = self.recipe.teachers

        def train(folder: Path) -> None:
            encoder, texts = self.start(), (self.tokens["train"], self.tokens["passages"])
            pretraining.keep_layers(encoder, settings.colbert_layers)
            colbert = teachers.train_colbert(encoder, *texts, self.pairs, settings)
            pretrained.save(colbert, load_tokenizer(str(self.larger)), folder)

        inputs = {"pairs": store.digest(np.asarray(self.pairs.margins)), "larger": store.digest_of(self.larger)}
        made = self.artefact("colbert", settings.model_dump(), inputs, train)
        model = pretrained.load_colbert(str(made)).to(device())
        texts = self.tokens["tune"], self.tokens["passages"]
        queries, passages = (TokenVectors(token_vectors(model, tokens), tokens) for tokens in texts)

        def score(q: IntArray, p: IntArray) -> FloatArray:
            starts = np.flatnonzero(np.diff(q, prepend=-1))  # candidates of a query are next to each other
            parts = zip(q[starts], np.split(p, starts[1:]), strict=True)
            rows = [models.late_interaction(*queries.rows(i[None]), *passages.rows(own)) for i, own in parts]
            return torch.cat(rows, dim=1)[0].numpy()

        with torch.inference_mode():
            measured = self.measured({"BM25, re-ranked by ColBERT": rerank(self.candidates, score, 100)})
        ship(made, self.shipped / "colbert", {"start": self.from_larger} | measured)

    def encoder(self) -> None:
        """The small encoder, distilled from the larger model on passages and training queries, never as pairs."""
        settings = self.recipe.pretraining

        def distil(folder: Path) -> None:
            words = DocsSource(packages=()).query_words
            spans = pretraining.spans(self.passages, words, settings.spans, settings.seed)
            known, tokenizer = pretrained.load_dot(str(self.larger)).to(device()), load_tokenizer(str(self.larger))
            texts = [*self.passages, *self.queries, *spans]
            student = pretraining.distil(settings, known.encoder, tokenizer, texts, self.profile.tokens.passage)
            pretrained.save(student, tokenizer, folder)

        inputs = {"larger": store.digest_of(self.larger)}
        made = self.artefact("encoder", settings.model_dump(), inputs, distil)
        dot, tokens = pretrained.load_dot(str(made)).to(device()), [self.tokens[n] for n in ("tune", "passages")]
        with torch.inference_mode():
            vecs = [models.encode_rows(dot, texts, np.arange(len(texts.lengths))) for texts in tokens]
        measured = self.measured({"no retrieval label seen": dense.dense(vecs[0], vecs[1], 100)[0]})
        ship(made, self.shipped / "encoder", {"start": self.from_larger} | measured)

    def seq2seq(self) -> None:
        """The small model for mono, duo and doc2query."""
        p, settings = self.profile, self.recipe.seq2seq
        cat, small = shipped.folder(p, "cat"), shipped.folder(p, "encoder")

        def train(folder: Path) -> None:
            tokenizer = load_tokenizer(str(cat))
            model = seq2seq_training.small_seq2seq(settings, str(cat), str(small), tokenizer)
            torch.nn.Module.to(model, device())
            texts = self.queries, self.passages
            seq2seq_training.train(model, tokenizer, *texts, self.pairs, settings, p.expansion.prompt)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

        inputs = {"pairs": store.digest(np.asarray(self.pairs.margins))}
        inputs |= {"cat": store.folder_digest(cat), "encoder": store.folder_digest(small)}
        made = self.artefact("seq2seq", settings.model_dump() | {"prompt": p.expansion.prompt}, inputs, train)
        texts, depths = (self.collection.sets["tune"].queries.texts, self.passages), p.reranking
        scorer = T5Scorer(*pretrained.load_seq2seq(str(made), device()), *texts)
        mono = rerank(self.candidates, scorer.mono, depths.depth)
        duo = rerank_pairwise(mono, scorer.duo, depths.duo_depth)
        measured = self.measured(
            {
                "BM25": self.candidates,
                f"the first {depths.depth} by mono": mono,
                f"of those the first {depths.duo_depth} by duo": duo,
            }
        )
        start = f"the reader the first {settings.layers} layers of the shipped BERT_CAT; the writer the small encoder"
        ship(made, self.shipped / "seq2seq", {"start": start} | measured)

    def expansions(self) -> None:
        """The queries that the shipped model writes for every passage, by the passages' digests."""
        source, how = shipped.folder(self.profile, "seq2seq"), self.profile.expansion

        def write(folder: Path) -> None:
            shards = folder / "shards"  # kept if it is interrupted
            shards.mkdir(exist_ok=True)
            doc2query.write_queries(*pretrained.load_seq2seq(str(source), device()), self.passages, shards, how)
            keys = shipped.text_keys(self.passages)
            shipped.write_expansions(folder / "queries.parquet", keys, doc2query.read_queries(shards))
            shutil.rmtree(shards)

        made = self.artefact("expansions", how.model_dump(), {"seq2seq": store.folder_digest(source)}, write)
        queries = shipped.read_expansions(made / "queries.parquet")(shipped.text_keys(self.passages))
        ranked = {}
        for name, written in (("BM25", [[] for _ in queries]), ("docT5query", [own or [] for own in queries])):
            index = Bm25Index(doc2query.expanded(self.passages, written), self.profile.bm25)
            ranked[name], _ = index.search(self.collection.sets["tune"].queries.texts, 100)
        ship(made, self.shipped / "expansions", self.measured(ranked))

    # --- measuring ----------------------------------------------------------------------------------------------

    @cached_property
    def candidates(self) -> IntArray:
        """BM25's first hundred passages (Q, 100) of the tune queries."""
        bm25 = mining.open_bm25(self.profile, self.collection)
        return bm25.search(self.collection.sets["tune"].queries.texts, 100)[0]

    def measured(self, rankings: dict[str, IntArray]) -> dict[str, Any]:
        """MRR@10 and R@100 of rankings (Q, k) of the tune queries."""
        relevant = self.collection.relevant("tune")
        return {
            f"tune, {name}": {
                "MRR@10": round(float(metrics.reciprocal_ranks(ranked[:, :10], relevant).mean()), 4),
                "R@100": round(float(metrics.recalls(ranked, relevant).mean()), 4),
            }
            for name, ranked in rankings.items()
        }


def no_scorer() -> mining.Scorer:
    """In place of a teacher: nothing is left for it to score."""
    raise ValueError("training pairs have no shipped score, right after the scores were made")
