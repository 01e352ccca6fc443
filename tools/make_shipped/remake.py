"""Make what `data/docs/` ships again, from the installed packages: `./run_all.sh docs teachers`.

The encoder that students start from, and the words that are indexed with every passage. Each is an artefact of the
store and is then copied to `data/docs/` with its provenance. The models that were trained and the scores are made by
`experiments/docs2`: BERT_CAT and ColBERT by `gpu/teach.py`, on a GPU, the model for mono and duo by `seq2seq.py`.
"""

import logging
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ir_measures import RR, R

from tas_lib import models
from tas_lib.config import Profile
from tas_lib.data import shipped, store
from tas_lib.data.collection import open_collection
from tas_lib.data.tokens import load_tokenizer, open_tokens
from tas_lib.evaluation import metrics
from tas_lib.models import BertDot
from tas_lib.records import IntArray, as_run
from tas_lib.retrieval import dense, doc2query, pretrained
from tas_lib.retrieval import encode as encoding
from tas_lib.retrieval.bm25 import Bm25Index
from tas_lib.retrieval.encode import device
from tools.make_shipped import copying, start
from tools.make_shipped.copying import Answered
from tools.make_shipped.settings import Recipe
from tools.make_shipped.shipping import ship


def main(profile: Profile) -> None:
    """Make everything that a profile ships, in order; what the store already has is kept."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if profile.artefacts_folder.name != profile.name:
        raise ValueError(f"profile {profile.name!r} reads {profile.artefacts}, which another profile makes")
    lab = Workshop(profile, Recipe())
    for make in (lab.encoder, lab.expansions):
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

    def expansions(self) -> None:
        """The words that are indexed with every passage, by the passages' digests."""
        p, settings, encoder = self.profile, self.recipe.copying, shipped.encoder(self.profile)
        keys = shipped.text_keys(self.passages)

        def choose(folder: Path) -> None:
            tokens, relevant = open_tokens(p, self.collection), self.collection.relevant("train")
            states = encoding.open_texts(p, self.collection, settings.layers, ["passages"])["passages"]
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

    def measured(self, rankings: dict[str, IntArray]) -> dict[str, Any]:
        """MRR@10 and R@100 of rankings (Q, k) of the tune queries."""
        tune, passages, result = self.collection.sets["tune"], self.collection.passages.ids, {}
        for name, ranked in rankings.items():
            run = as_run(
                tune.queries.ids, passages, ranked, -np.broadcast_to(np.arange(0.0, ranked.shape[1]), ranked.shape)
            )
            values = metrics.evaluate(run, tune.qrels, [RR @ 10, R @ 100])
            result[f"tune, {name}"] = {
                metrics.printed_name(measure): round(metrics.mean(of_queries), 4)
                for measure, of_queries in values.items()
            }
        return result
