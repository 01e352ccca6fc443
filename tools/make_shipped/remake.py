"""Make what `data/docs/` ships again, from the installed packages: `./run_all.sh docs teachers`.

The encoder that students start from, the sequence-to-sequence model, and the words that are indexed with every passage;
each is an artefact of the store, so that you can interrupt it, run it again and it resumes, and is then copied to
`data/docs/` with its provenance. BERT_CAT, ColBERT and the scores took a GPU; `experiments/docs2/gpu/teach.py` made
them.
"""

import logging
from collections.abc import Callable
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tas_lib import models
from tas_lib.config import Profile
from tas_lib.data import shipped, store
from tas_lib.data.collection import open_collection
from tas_lib.data.tokens import load_tokenizer, open_tokens
from tas_lib.evaluation import metrics
from tas_lib.models import BertDot
from tas_lib.records import IntArray
from tas_lib.retrieval import dense, doc2query, pretrained
from tas_lib.retrieval import encode as encoding
from tas_lib.retrieval.bm25 import Bm25Index
from tas_lib.retrieval.encode import device
from tas_lib.retrieval.rerank import rerank, rerank_pairwise
from tas_lib.retrieval.t5 import T5Scorer
from tas_lib.train import pairs as mining
from tools.make_shipped import copying, seq2seq_training, start
from tools.make_shipped.copying import Answered
from tools.make_shipped.settings import Recipe
from tools.make_shipped.shipping import ship


def main(profile: Profile) -> None:
    """Make everything that a profile ships, in order; what is in the store already is not made again."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if profile.artefacts_folder.name != profile.name:
        raise ValueError(f"profile {profile.name!r} reads {profile.artefacts}, which another profile makes")
    lab = Workshop(profile, Recipe())
    for make in (lab.encoder, lab.seq2seq, lab.expansions):
        make()


class Workshop:
    """What the shipped artefacts of one profile share; each method makes, measures and ships one of them."""

    def __init__(self, profile: Profile, recipe: Recipe) -> None:
        """recipe: how models are made that the profile only uses."""
        self.profile, self.recipe, self.shipped = profile, recipe, profile.artefacts_folder
        self.collection = open_collection(profile)
        self.queries, self.passages = self.collection.sets["train"].queries.texts, self.collection.passages.texts

    def artefact(
        self, name: str, parameters: dict[str, Any], inputs: dict[str, str], make: Callable[[Path], None]
    ) -> Path:
        """A folder of the store; what it is made from includes the collection."""
        inputs = inputs | {"collection": self.collection.digest}
        return store.Store(self.profile.folder).artefact(f"remake/{name}", parameters, inputs, make)

    # --- artefacts -----------------------------------------------------------------------------------------------

    def encoder(self) -> None:
        """What students start from: the installed model, its vocabulary cut, its last layer re-initialised."""
        settings = self.recipe.start
        source = str(resources.files(settings.package) / "model")

        def make(folder: Path) -> None:
            model, tokenizer = start.cut_model(source, [*self.passages, *self.queries])
            start.draw_last_layer(model, settings)
            pretrained.save(BertDot(model, "cls"), tokenizer, folder)

        inputs = {"start": store.digest(Path(source, "model.safetensors"))}
        made = self.artefact("encoder", settings.model_dump(), inputs, make)
        dot = pretrained.load_dot(str(made)).to(device())
        tokens = open_tokens(self.profile.model_copy(update={"encoder": str(made)}), self.collection)
        with torch.inference_mode():
            texts = (tokens["tune"], tokens["passages"])
            vecs = [models.encode_rows(dot, some, np.arange(len(some.lengths))) for some in texts]
        measured = self.measured({"untrained": dense.dense(vecs[0], vecs[1], 100)[0]})
        origin = "the weights of all-MiniLM-L6-v2 (Apache-2.0), vocabulary cut, last layer re-initialised"
        ship(made, self.shipped / "encoder", {"start": origin} | measured)

    def seq2seq(self) -> None:
        """The small model for mono and duo."""
        p, settings = self.profile, self.recipe.seq2seq
        cat, pairs = shipped.folder(p, "cat"), mining.open_pairs(p, self.collection, no_scorer)

        def train(folder: Path) -> None:
            tokenizer = load_tokenizer(str(cat))
            model = seq2seq_training.small_seq2seq(settings, str(cat), tokenizer)
            torch.nn.Module.to(model, device())
            seq2seq_training.train(model, tokenizer, self.queries, self.passages, pairs, settings)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

        inputs = {"pairs": store.digest(np.asarray(pairs.margins)), "cat": store.folder_digest(cat)}
        made = self.artefact("seq2seq", settings.model_dump(), inputs, train)
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
        origin = f"the reader the first {settings.layers} layers of the shipped BERT_CAT; the writer random"
        ship(made, self.shipped / "seq2seq", {"start": origin} | measured)

    def expansions(self) -> None:
        """The words that are indexed with every passage, by the passages' digests."""
        p, settings, encoder = self.profile, self.recipe.copying, shipped.encoder(self.profile)
        keys = shipped.text_keys(self.passages)

        def choose(folder: Path) -> None:
            tokens, relevant = open_tokens(p, self.collection), self.collection.relevant("train")
            states = encoding.open_texts(p, self.collection, settings.layers)["passages"]
            answered = np.repeat(np.arange(len(relevant)), list(map(len, relevant)))
            seen = Answered(self.queries, tokens["train"], answered, np.concatenate(relevant))
            tokenizer = load_tokenizer(encoder)
            pieces = tokenizer.convert_ids_to_tokens([*range(len(tokenizer))])
            words = copying.chosen(self.passages, tokens["passages"], states, pieces, seen, settings)
            shipped.write_expansions(folder / "queries.parquet", keys, words)

        inputs = {"encoder": store.folder_digest(Path(encoder))}
        made = self.artefact("expansions", settings.model_dump(), inputs, choose)
        words = shipped.read_expansions(made / "queries.parquet")(keys)
        ranked = {}
        for name, own in (("BM25", [[] for _ in words]), ("BM25 with these words", [own or [] for own in words])):
            index = Bm25Index(doc2query.expanded(self.passages, own), self.profile.bm25)
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
    raise ValueError("training pairs have no shipped score")
