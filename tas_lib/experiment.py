"""A row of a table → its run and its metrics; and everything that the rows of one profile share."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.random import Generator, Philox

from tas_lib import clustering, sampling
from tas_lib.clustering import Clusters
from tas_lib.config import Profile, System, located
from tas_lib.data import formats, shipped, store
from tas_lib.data.collection import Collection, open_collection
from tas_lib.data.tokens import load_tokenizer, open_tokens, tokenise, tokenizer_digest
from tas_lib.evaluation import metrics
from tas_lib.evaluation.metrics import PerQuery
from tas_lib.models import BertDot
from tas_lib.records import FloatArray, History, IntArray, Pairs, Ragged, Run, as_run
from tas_lib.retrieval import dense as search
from tas_lib.retrieval import doc2query, fusion, pretrained
from tas_lib.retrieval import encode as encoding
from tas_lib.retrieval.bm25 import Bm25Index
from tas_lib.retrieval.rerank import Rerankers
from tas_lib.sampling import Sampler
from tas_lib.train import checkpoint as checkpoints
from tas_lib.train import distributed, early_stopping, teachers
from tas_lib.train import loop as training
from tas_lib.train import pairs as mining
from tas_lib.train.early_stopping import Candidates, ndcg
from tas_lib.train.loop import InBatchTeacher, Objective

Found = TypeVar("Found")
log = logging.getLogger(__name__)
BASELINE = System(teacher="pairwise", sampling="random")
"""Trained first: its vectors are clustered (§4.2), its candidates decide when the others stop (§4.3)."""
BM25 = System(kind="bm25")
TOPICS = {"clusters", "clusters_per_batch", "spherical", "iterations"}
DECIDE = {
    "random": set(),
    "tas": TOPICS,
    "tas_balanced": TOPICS | {"margin_bins"},
    "hard_margin": TOPICS | {"margin_cap"},
}
"""Which settings of `settings.Sampling` a strategy looks at; another one's change is no reason to train again."""
PIPELINE = {"pooling", "of", "how", "first", "by", "depth"}
"""What a trained system does not have; it stands in no provenance of one."""
CARRIED = {"workers", "cached_chunk", "compile"}
"""Settings of a training that say how it is carried, not what it learns: changed on the way, it goes on."""
LEXICAL = ("bm25", "expanded")
"""Kinds of first stage that look at words."""


def _known(name: str, sets: Mapping[str, Found]) -> Found:
    if name not in sets:
        raise ValueError(f"there is no query set {name!r}; there are: {', '.join(sorted(sets))}")
    return sets[name]


class Experiment:
    """All that the systems of one profile share, each part made when it is first asked for and kept in the store."""

    def __init__(self, profile: Profile) -> None:
        """profile: from `profile.load`."""
        self.profile = profile
        self.store = store.Store(profile.folder)
        self.listed = {"bm25": BM25} | profile.systems | profile.deviations

    @cached_property
    def collection(self) -> Collection:
        """Passages, query sets, judgements; ValueError where the profile asks for more than there is."""
        found = open_collection(self.profile)
        listed = self.profile.systems | self.profile.deviations
        for test in self.profile.evaluation.sets:
            _known(test.name, found.sets)
        if "train" not in found.sets:  # a folder of test sets: BM25, checkpoints and run files can be rows
            return found
        n_queries = len(found.sets["train"].queries.ids)
        clusters = max(
            [self.profile.sampling.clusters, *(self.profile.of(s).sampling.clusters for s in listed.values())]
        )
        if clusters > n_queries:
            raise ValueError(
                f"profile {self.profile.name!r}: sampling.clusters asks for {clusters} clusters of {n_queries} queries"
            )
        for number, system in listed.items():
            if system.kind == "trained" and system.batch_size > n_queries:
                raise ValueError(
                    f"profile {self.profile.name!r}: system {number} wants {system.batch_size} of {n_queries} queries"
                )
        return found

    @cached_property
    def tokens(self) -> dict[str, Ragged]:
        """Token ids of passages and of every query set."""
        return open_tokens(self.profile, self.collection)

    @cached_property
    def pairs(self) -> Pairs:
        """Training pairs with the pairwise teacher's margins."""
        return mining.open_pairs(self.profile, self.collection, lambda: self.rerankers.scorer("cat", "train"))

    @cached_property
    def bm25(self) -> Bm25Index:
        """BM25 over the collection, with the profile's tuned k1 and b."""
        return Bm25Index(self.collection.passages.texts, self.profile.bm25)

    @cached_property
    def expanded(self) -> Bm25Index:
        """The same, each passage with the queries that were written for it behind it (docT5query)."""
        texts = doc2query.expanded(self.collection.passages.texts, self.written)
        return Bm25Index(texts, self.profile.bm25)

    @cached_property
    def written(self) -> list[list[str]]:
        """The queries that were written for each passage."""
        return doc2query.open_queries(self.profile, self.collection)

    @cached_property
    def _written_digest(self) -> str:
        return store.digest(self.written)

    @cached_property
    def rerankers(self) -> Rerankers:
        """BERT_CAT, mono and duo."""
        return Rerankers(self.profile, self.collection)

    def _clusters(self, system: System) -> Path:
        wanted = self.profile.of(system).sampling
        model = self.trained(BASELINE)

        def make(folder: Path) -> None:
            vecs = encoding.encode(self.load(BASELINE), self.tokens["train"])
            found = clustering.kmeans(vecs, wanted.clusters, spherical=wanted.spherical, iterations=wanted.iterations)
            store.save_arrays(folder, vecs=vecs, **found._asdict())

        parameters = wanted.model_dump(include={"clusters", "spherical", "iterations"})
        place = f"clusters/{wanted.clusters}-{'spherical' if wanted.spherical else 'euclidean'}"
        return self.store.artefact(place, parameters, {"baseline": store.digest_of(model)}, make)

    def clusters_of(self, system: System) -> Clusters:
        """The training queries in the topics that a system's batches come from, by the baseline's vectors (Eq. 10)."""
        folder = self._clusters(system)
        return Clusters(store.load_array(folder / "assignment.npy"), store.load_array(folder / "centroids.npy"))

    @cached_property
    def clusters(self) -> Clusters:
        """The topics of all systems without a variant."""
        return self.clusters_of(BASELINE)

    @property
    def clustering_s(self) -> float:
        """Seconds that encoding and clustering the training queries took, once for all systems without a variant."""
        return float(store.provenance(self._clusters(BASELINE))["seconds"])

    @cached_property
    def query_vecs(self) -> FloatArray:
        """(Q, D) the baseline's vectors of the training queries, as they were clustered."""
        return store.load_array(self._clusters(BASELINE) / "vecs.npy")

    @cached_property
    def _colbert(self) -> str:
        return shipped.model(self.profile, "colbert")

    @cached_property
    def in_batch_teacher(self) -> InBatchTeacher:
        """ColBERT's vectors of all passages and training queries: the teacher is frozen, so they are made once if they
        fit (`kept_vectors_gb`), and otherwise for every batch.
        """
        source, masks = self._colbert, self.profile.query_masks
        tokenizer = pretrained.tokenizer_of(self.profile, source)
        found = open_tokens(self.profile, self.collection, tokenizer)
        tokens = {
            "train": found["train"].with_suffix(tokenizer.mask_token_id, masks),
            "passages": found["passages"],
        }

        model = pretrained.load_colbert(source).to(encoding.device())
        width = 2e-9 * model.head.out_features  # GB a token
        if width * sum(int(texts.offsets[-1]) for texts in tokens.values()) > self.profile.kept_vectors_gb:
            return InBatchTeacher(*(teachers.FreshVectors(model, texts) for texts in tokens.values()))

        def make(folder: Path) -> None:
            for name in tokens:
                store.save_arrays(folder, **{name: teachers.token_vectors(model, tokens[name])})

        inputs = {"colbert": store.folder_digest(Path(source)), "collection": self.collection.digest}
        parameters = {**self.profile.tokens.model_dump(), "query_masks": masks}
        folder = self.store.artefact("colbert-vectors", parameters, inputs, make)
        return InBatchTeacher(
            *(teachers.TokenVectors(store.load_array(folder / f"{name}.npy"), tokens[name]) for name in tokens)
        )

    def sampler(self, system: System) -> Sampler:
        """The batches that a system is trained on."""
        members = [] if system.sampling == "random" else self.clusters_of(system).members
        settings = self.profile.of(system).sampling.model_copy(update={"batch_size": system.batch_size})
        return sampling.make_sampler(system.sampling, self.pairs, members, settings, system.seed)

    def candidates(self, system: System) -> Candidates:
        """The early-stopping set: BM25's candidates for the baseline itself, the baseline's for all others (§4.3)."""
        wanted = self.profile.stop
        stop = self.collection.sets["stop"]
        queries = self._stop_queries(system)
        texts = [stop.queries.texts[q] for q in queries]
        if system.name == BASELINE.name:
            rows, _ = self.bm25.search(texts, wanted.depth)
        else:
            vecs = encoding.encode(self.load(BASELINE), self.tokens["stop"], queries)
            rows, _ = search.searcher(self.vectors(BASELINE))(torch.from_numpy(vecs), wanted.depth)
        relevant = self.collection.relevant("stop")
        rows = early_stopping.with_relevant(rows, [relevant[query] for query in queries])
        return Candidates(queries, rows, self.collection)

    def _stop_queries(self, system: System) -> IntArray:
        """Rows of queries of the set `stop`: any, or equally many from each range of the baseline's RR@10 (D6)."""
        wanted, stop = self.profile.stop, self.collection.sets["stop"]
        order = Generator(Philox(key=[0, 0])).permutation(len(stop.queries.ids))
        if not wanted.strata or system.name == BASELINE.name:
            return np.sort(order[: wanted.queries])
        rows, _ = self.retrieve(BASELINE, stop.queries.texts, 10)
        return early_stopping.stratified(rows, self.collection.relevant("stop"), order, wanted)

    # --- one system --------------------------------------------------------------------------------------------

    def trained(self, system: System) -> Path:
        """The folder of a trained system: model, tokenizer, `history.json`; trained now if it is not there."""
        wanted, place = self.profile.of(system), f"systems/{system.name}"
        settings = wanted.training
        if system.kind != "trained":
            raise ValueError(f"a system of kind {system.kind!r} is not trained here: {system.source or system.name}")
        _known("train", self.collection.sets)

        encoder = shipped.encoder(self.profile)

        def make(folder: Path) -> None:
            lesson = self._lesson(system)
            stop = self.candidates(system)
            distributed.tell(system)
            history = training.train(*lesson, lambda model: stop.ndcg(model, self.tokens), settings, folder)
            pretrained.save(lesson[0], load_tokenizer(encoder), folder)
            store.write_json(folder / "history.json", history)
            checkpoints.remove(folder)

        parameters = {
            "system": system.model_dump(exclude=PIPELINE),
            "training": settings.model_dump(exclude=CARRIED | {"alpha", "list_weights"}),
            "weight": settings.weight(system.loss) if system.teacher == "dual" else 0,
            "sampling": wanted.sampling.model_dump(include=DECIDE[system.sampling]),
            "stop": self.profile.stop.model_dump(),
            "tokens": self.profile.tokens.model_dump(),
            "pooling": self.profile.pooling,
            "query_masks": self.profile.query_masks if system.teacher in ("in_batch", "dual") else 0,
        }
        return self.store.artefact(place, parameters, self._inputs(system), make, timed=["history.json"])

    def _lesson(self, system: System) -> tuple[BertDot, Sampler, Objective, Ragged, Ragged]:
        """What is trained, on what, by whom: the first arguments of `training.train` and of `training.assist`."""
        settings = self.profile.of(system).training
        torch.manual_seed(settings.model_seed)
        student = pretrained.load_dot(shipped.encoder(self.profile), self.profile.pooling).to(encoding.device())
        teacher = self.in_batch_teacher if system.teacher in ("in_batch", "dual") else None
        loss = training.objective(system, settings, teacher)
        return student, self.sampler(system), loss, self.tokens["train"], self.tokens["passages"]

    def assist(self) -> None:
        """What the other processes of a launch do: their share of each training of rank 0, until it says None.

        They only read the store: before rank 0 says what it trains, it has made all that they need.
        """
        with store.reading_only():
            while (system := distributed.told()) is not None:
                training.assist(*self._lesson(system), self.profile.of(system).training)

    def _inputs(self, system: System) -> dict[str, str]:
        inputs = {"collection": self.collection.digest, "pairs": store.digest(np.asarray(self.pairs.margins))}
        inputs["encoder"] = store.folder_digest(Path(self.profile.encoder_path))
        if system.name != BASELINE.name:
            inputs["baseline"] = store.digest_of(self.trained(BASELINE))
        if system.teacher in ("in_batch", "dual"):
            inputs["colbert"] = store.folder_digest(Path(self._colbert))
        return inputs

    def history(self, system: System) -> list[History]:
        """The evaluations during its training."""
        return [History(*row) for row in json.loads((self.trained(system) / "history.json").read_text())]

    def load(self, system: System) -> BertDot:
        """The model, trained here or published, on the device that there is."""
        published_one = system.kind == "checkpoint"
        source = located(system.source) if published_one else str(self.trained(system))
        return pretrained.load_dot(source, system.pooling or self.profile.pooling).to(encoding.device()).eval()

    def _origin(self, system: System) -> dict[str, str]:
        """What a run depends on besides the collection, by digest: a model, and a published one's own ways."""
        if system.kind == "trained":
            return {"model": store.digest_of(self.trained(system))}
        if system.kind != "checkpoint":
            return {}
        source = located(system.source)
        return {
            "model": store.folder_digest(Path(source)),
            "tokenizer": tokenizer_digest(pretrained.tokenizer_of(self.profile, source)),
            "pooling": system.pooling or self.profile.pooling,
        }

    def _passages(self, system: System) -> Ragged:
        """Token ids of the collection as the system's model reads it."""
        if system.kind == "trained":
            return self.tokens["passages"]
        return open_tokens(
            self.profile, self.collection, pretrained.tokenizer_of(self.profile, located(system.source))
        )["passages"]

    def vectors(self, system: System) -> torch.Tensor:
        """(P, D) fp16 vectors of the whole collection, memory-mapped; what `encode_shards` made is taken over."""
        folder = self.store.artefact(
            *self._vectors_from(system),
            lambda folder: encoding.write_vectors(self.load(system), self._passages(system), folder),
        )
        return encoding.read_vectors(folder)

    def encode_shards(self, system: System, numbers: Sequence[int]) -> tuple[Path, list[int]]:
        """Make these shards of `vectors`: for several processes and machines that bring some each (tools/encode.py).

        Returns the folder where they stand, and the numbers of those that are not there yet.
        """
        with self.store.parts(*self._vectors_from(system)) as folder:
            encoding.write_shards(self.load(system), self._passages(system), folder, numbers)
            return folder, encoding.missing(folder, len(self.collection.passages.ids))

    def _vectors_from(self, system: System) -> tuple[str, dict[str, Any], dict[str, str]]:
        """Name, parameters and inputs of the artefact `vectors`."""
        inputs = {**self._origin(system), "collection": self.collection.digest}
        return f"vectors/{system.name}", self.profile.tokens.model_dump(), inputs

    def retrieve(self, system: System, texts: Sequence[str], depth: int) -> tuple[IntArray, FloatArray]:
        """Rows and scores (Q, depth) of the whole collection for any queries."""
        return self.retriever(system)(texts, depth)

    def retriever(self, system: System) -> Callable[[Sequence[str], int], tuple[IntArray, FloatArray]]:
        """`retrieve` of a first stage, with everything loaded."""
        if system.kind in LEXICAL:
            return (self.bm25 if system.kind == "bm25" else self.expanded).search
        model, ours = self.load(system), system.kind == "trained"
        source = self.profile.encoder_path if ours else located(system.source)
        tokenizer = pretrained.tokenizer_of(self.profile, source)
        search_all, cap = search.searcher(self.vectors(system)), self.profile.tokens.query

        def find(texts: Sequence[str], depth: int) -> tuple[IntArray, FloatArray]:
            vecs = encoding.encode(model, tokenise(tokenizer, texts, cap))
            return search_all(torch.from_numpy(vecs), depth)

        return find

    def run(self, system: System, name: str) -> Run:
        """A system's run on a query set, kept as a TREC run file."""
        return formats.read_run(self._run_file(system, name), self.collection.sets[name].queries.ids)

    def _run_file(self, system: System, name: str) -> Path:
        if system.kind == "run":
            return Path(system.source.format(set=name))
        parameters: dict[str, Any] = {"depth": self.profile.evaluation.depth}
        inputs = {**self._origin(system), "collection": self.collection.digest}
        inputs |= {key: store.file_digest(self._run_file(self.listed[key], name)) for key in system.parts}
        if system.kind == "fused":
            parameters |= {"how": system.how} | self.profile.fusion.model_dump()
            if system.how == "interpolate":
                inputs |= {
                    f"{key}, stop": store.file_digest(self._run_file(self.listed[key], "stop")) for key in system.of
                }
        elif system.kind == "reranked":
            parameters |= {"by": system.by, "candidates": self.profile.candidates(system)}
            parameters |= {"queries": len(self.rerankers.sample(name)), "tokens": self.profile.tokens.model_dump()}
            inputs["model"] = store.folder_digest(Path(shipped.model(self.profile, system.by)))
        else:
            parameters["bm25"] = self.profile.bm25.model_dump() if system.kind in LEXICAL else {}
        if system.kind == "expanded":
            inputs["written"] = self._written_digest

        def make(folder: Path) -> None:
            formats.write_run(folder / f"{name}.run.gz", self._ranked(system, name), system.name)

        return self.store.artefact(f"retrieved/{system.name}/{name}", parameters, inputs, make) / f"{name}.run.gz"

    def _ranked(self, system: System, name: str) -> Run:
        """A system's run on a query set, made now."""
        if system.kind == "fused":
            return self.mixer(system)([self.run(self.listed[key], name) for key in system.of])
        if system.kind == "reranked":
            asked = self.rerankers.sample(name)
            return self.rerankers.reorder(self.run(self.listed[system.first], name), system, name, asked)
        queries = self.collection.sets[name].queries
        rows, scores = self.retrieve(system, queries.texts, self.profile.evaluation.depth)
        return as_run(queries.ids, self.collection.passages.ids, rows, scores)

    def answerer(self, system: System, name: str) -> Callable[[str], Run]:
        """From the id of a query of a set to its run, everything loaded, nothing remembered: as a user waits for it."""
        queries, passages = self.collection.sets[name].queries, self.collection.passages.ids
        place, depth = {query: row for row, query in enumerate(queries.ids)}, self.profile.evaluation.depth
        parts = [self.answerer(self.listed[key], name) for key in system.parts]
        if system.kind == "fused":
            mix = self.mixer(system)
            return lambda query: mix([answer(query) for answer in parts])
        if system.kind == "reranked":
            return lambda query: self.rerankers.reorder(parts[0](query), system, name, [query], remember=False)
        find = self.retriever(system)
        return lambda query: as_run([query], passages, *find([queries.texts[place[query]]], depth))

    def evaluate(self, system: System, name: str) -> PerQuery:
        """The paper's measures of a system on a test set, per query; of a re-ranked one, of its sample."""
        test = _known(name, {test.name: test for test in self.profile.evaluation.sets})
        wanted = metrics.paper_measures(test.binarise_at, self.profile.evaluation.depth)
        qrels = self.collection.sets[name].qrels
        if system.kind == "reranked":
            qrels = {query: qrels[query] for query in self.rerankers.sample(name) if query in qrels}
        return metrics.evaluate(self.run(system, name), qrels, wanted)

    def scores(self, keys: Iterable[str]) -> dict[str, dict[str, PerQuery]]:
        """For rows of a table ("bm25", or a system's number): test set → `evaluate`.

        {} for one that the profile does not list, that is reported only, whose re-ranker is not shipped, or that cannot
        be trained for want of training queries (`open_collection` says so).
        """
        keys = list(keys)
        for key in keys:  # before the others' long work
            if key in self.listed and self.listed[key].kind == "checkpoint":
                pretrained.load_config(located(self.listed[key].source))
        sets = [test.name for test in self.profile.evaluation.sets]
        return {
            key: {n: self.evaluate(self.listed[key], n) for n in sets}
            if key in self.listed and self.can_run(self.listed[key])
            else {}
            for key in keys
        }

    def can_run(self, system: System) -> bool:
        """Whether there is a run of it: it is not reported only, and the models that it needs are named or shipped."""
        role = {"reranked": system.by, "expanded": "expansion"}.get(system.kind)
        if role and not shipped.has(self.profile, role):
            return False
        cannot = {"reported"} if "train" in self.collection.sets else {"reported", "trained"}
        return system.kind not in cannot and all(self.can_run(self.listed[key]) for key in system.parts)

    def alpha(self, system: System) -> float:
        """The weight of the first of two fused systems: the one with the best nDCG@10 on the early-stopping set."""
        sparse, dense = (self.run(self.listed[key], "stop") for key in system.of)
        return fusion.choose_alpha(dense, sparse, self.collection.sets["stop"].qrels, self.profile.fusion.alphas, ndcg)

    def mixer(self, system: System) -> Callable[[list[Run]], Run]:
        """How the runs of a fused system's parts become one (§5.3)."""
        wanted, depth = self.profile.fusion, self.profile.evaluation.depth
        if system.how == "rrf":
            return lambda runs: fusion.reciprocal_rank(runs, wanted.k, depth)
        alpha = self.alpha(system)
        return lambda runs: fusion.interpolate(runs[1], runs[0], alpha, depth)
