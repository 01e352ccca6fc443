"""The run of every row of a table: a first stage's, fused runs, a re-ranked run, or a file made elsewhere (§5)."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tas_lib.config import ROOT, Profile, System
from tas_lib.data import formats, shipped, store
from tas_lib.data.collection import Collection
from tas_lib.evaluation import metrics
from tas_lib.evaluation.metrics import PerQuery
from tas_lib.records import NotRun, Run, Value, as_run, only
from tas_lib.retrieval import doc2query, fusion, pretrained
from tas_lib.retrieval.bm25 import Bm25Index
from tas_lib.retrieval.encode import BiEncoder, TextSearch
from tas_lib.retrieval.rerank import Rerankers

Maker = Callable[[Sequence[str], list[Run]], Run]
"""(ids of queries, runs of the system's parts) → its run"""
LEXICAL = ("bm25", "expanded")
"""Lexical first stages."""


def known(name: str, sets: Mapping[str, Value]) -> Value:
    """The query set of this name, or ValueError."""
    if name not in sets:
        raise ValueError(f"there is no query set {name!r}; there are: {', '.join(sorted(sets))}")
    return sets[name]


class Runs:
    """The runs of a profile's systems, each kept as a TREC run file."""

    def __init__(
        self,
        profile: Profile,
        systems: Mapping[str, System],
        collection: Collection,
        bi_encoder: Callable[[System], BiEncoder],
    ) -> None:
        """systems: by key. bi_encoder: of a trained system or a checkpoint."""
        self.profile, self.systems, self.collection, self.bi_encoder = profile, systems, collection, bi_encoder
        self.rerankers = Rerankers(profile, collection)
        self.deepest: dict[str, int] = {}  # passages of a query, at most, in the runs read so far

    # --- first stages --------------------------------------------------------------------------------------------

    @cached_property
    def bm25(self) -> Bm25Index:
        """BM25 over the collection."""
        return Bm25Index(self.collection.passages.texts, self.profile.bm25)

    @cached_property
    def written(self) -> list[list[str]]:
        """The queries that a model wrote for each passage, or the words shipped in their place."""
        return doc2query.open_queries(self.profile, self.collection)

    @cached_property
    def expanded(self) -> Bm25Index:
        """BM25 over passages with their written queries appended (docT5query)."""
        return Bm25Index(doc2query.expanded(self.collection.passages.texts, self.written), self.profile.bm25)

    @cached_property
    def _written_digest(self) -> str:
        return store.digest(self.written)

    def retriever(self, system: System) -> TextSearch:
        """A first stage's search of the whole collection, with everything loaded."""
        if system.kind in LEXICAL:
            return (self.bm25 if system.kind == "bm25" else self.expanded).search
        return self.bi_encoder(system).searcher()

    # --- runs ----------------------------------------------------------------------------------------------------

    def run(self, system: System, name: str) -> Run:
        """A system's run on a query set; NotRun if it has none."""
        if reason := self.why_not(system, name):
            raise NotRun(f"{system.name}: {reason}")
        path = self.file(system, name)
        if system.kind != "run" and next(formats.lines(path), None) is None:  # stop words alone: BM25 finds nothing
            return {}
        run = formats.read_run(path, self.collection.sets[name].queries.ids)
        if not any(passage in self.collection.row for ranked in run.values() for passage in ranked):
            raise ValueError(f"{path}: none of its passages is in the collection")
        if system.kind == "run" and self.profile.reduction:  # a run over everything, such as somebody else's
            run = only(run, self.collection.row)
        self.deepest[system.name] = max(self.deepest.get(system.name, 0), *map(len, run.values()))
        return run

    def file(self, system: System, name: str, light: bool = False) -> Path:
        """The run file, made now if it is not there. light: a results pack may have its provenance only."""
        if system.kind == "run":
            return ROOT / Path(system.source.format(set=name)).expanduser()
        parameters: dict[str, Any] = {"depth": self.profile.evaluation.depth}
        inputs = {key: self._digest(self.systems[key], name) for key in system.parts}
        inputs["collection"] = self.collection.digest
        if system.kind == "fused":
            parameters |= {"how": system.how} | self.profile.fusion.model_dump()
            if system.how == "interpolate":
                inputs |= {f"{key}, stop": self._digest(self.systems[key], "stop") for key in system.of}
        elif system.kind == "reranked":
            parameters |= {"by": system.by, "candidates": self.profile.candidates(system)}
            parameters |= {"queries": len(self.rerankers.sample(name)), "tokens": self.profile.tokens.model_dump()}
            source = shipped.model(self.profile, system.by)  # a T5 has its own tokenizer
            cat = system.by == "cat"
            inputs["model"] = pretrained.digest(self.profile, source) if cat else store.folder_digest(Path(source))
        elif system.kind in LEXICAL:
            parameters["bm25"] = self.profile.bm25.model_dump()
            inputs |= {"written": self._written_digest} if system.kind == "expanded" else {}
        else:
            _, parameters["tokens"], of_vectors = self.bi_encoder(system).artefact
            inputs |= of_vectors

        def make(folder: Path) -> None:
            ids = self.collection.sets[name].queries.ids
            if system.kind == "reranked":
                ids = self.rerankers.sample(name)
            parts = [self.run(self.systems[key], name) for key in system.parts]
            formats.write_run(folder / f"{name}.run.gz", self._maker(system, name)(ids, parts), system.name)

        folder = f"retrieved/{system.name}/{name}"
        kept = store.Store(self.profile.folder).artefact(folder, parameters, inputs, make, light=light)
        return kept / f"{name}.run.gz"

    def _digest(self, system: System, name: str) -> str:
        path = self.file(system, name, light=True)
        if system.kind == "run":
            return store.file_digest(path)
        return str(store.provenance(path.parent)["sha256"][path.name])

    def _maker(self, system: System, name: str, remember: bool = True) -> Maker:
        """How a system answers queries of a set, with everything loaded. remember: whether scores are cached."""
        queries, depth = self.collection.sets[name].queries, self.profile.evaluation.depth
        if system.kind == "reranked":
            return lambda ids, parts: self.rerankers.reorder(parts[0], system, name, ids, remember)
        if system.kind == "fused" and system.how == "rrf":
            return lambda ids, parts: fusion.reciprocal_rank(parts, self.profile.fusion.k, depth)
        if system.kind == "fused":
            alpha = self.alpha(system)
            return lambda ids, parts: fusion.interpolate(parts[1], parts[0], alpha, depth)
        search, text = self.retriever(system), dict(zip(queries.ids, queries.texts, strict=True))
        passages = self.collection.passages.ids
        return lambda ids, parts: as_run(ids, passages, *search([text[query] for query in ids], depth))

    def answerer(self, system: System, name: str) -> Callable[[str], Run]:
        """A function from a query's id to its run, with everything loaded and nothing cached, to measure latency."""
        parts = [self.answerer(self.systems[key], name) for key in system.parts]
        make = self._maker(system, name, remember=False)
        return lambda query: make([query], [answer(query) for answer in parts])

    def alpha(self, system: System) -> float:
        """The weight of the first of two fused systems: the first with the best nDCG@10 on the early-stopping set."""
        sparse, dense = (self.run(self.systems[key], "stop") for key in system.of)
        qrels = self.collection.sets["stop"].qrels
        values = fusion.qualities(dense, sparse, qrels, self.profile.fusion.alphas, metrics.mean_ndcg)
        return max(values, key=values.__getitem__)

    def evaluate(self, system: System, name: str) -> PerQuery:
        """The paper's measures of a system on a test set, per query; of a re-ranked one, on its sample."""
        test = known(name, {test.name: test for test in self.profile.evaluation.sets})
        if reason := self.why_not(system, name):
            raise NotRun(f"{system.name}: {reason}")
        qrels = self.collection.sets[name].qrels
        if system.kind == "reranked":
            qrels = {query: qrels[query] for query in self.rerankers.sample(name) if query in qrels}
        measures = metrics.paper_measures(test.binarise_at, self.profile.evaluation.depth)
        if system.kind == "run":
            return metrics.evaluate(self.run(system, name), qrels, measures)

        def make(folder: Path) -> None:
            values = metrics.evaluate(self.run(system, name), qrels, measures)
            store.write_json(folder / "values.json", [values[measure] for measure in measures])

        inputs = {"run": self._digest(system, name), "collection": self.collection.digest}
        asked = {"measures": [str(measure) for measure in measures], "queries": store.digest(sorted(qrels))}
        folder = store.Store(self.profile.folder).artefact(f"measured/{system.name}/{name}", asked, inputs, make)
        return dict(zip(measures, store.read_json(folder / "values.json"), strict=True))

    def why_not(self, system: System, name: str) -> str:
        """Why a system has no run on a query set; "" if it has one or can be run."""
        role = {"reranked": system.by, "expanded": "expansion"}.get(system.kind)
        if role and not shipped.has(self.profile, role):
            return f"the profile names no `{shipped.ROLES[role][1]}`, and none is shipped for it"
        if system.kind == "reported":
            return "reported only"
        if system.kind == "trained" and "train" not in self.collection.sets:
            return "there are no training queries"
        if system.kind == "run" and not self.file(system, name).is_file():
            return f"there is no file {system.source.format(set=name)}"
        names = [name]
        if system.kind == "fused" and system.how == "interpolate":
            if "stop" not in self.collection.sets:
                return "there is no set `stop` to choose α on"
            names.append("stop")
        reasons = (self.why_not(self.systems[key], n) for key in system.parts for n in names)
        return next(filter(None, reasons), "")

    def shallow(self, system: System) -> str:
        """A sentence if a run file that was read is less deep than the cutoff of recall; else ""."""
        depth, deepest = self.profile.evaluation.depth, self.deepest.get(system.name, 0)
        if system.kind != "run" or not 0 < deepest < min(depth, len(self.collection.passages.ids)):
            return ""
        return f"{deepest} deep, so R@{depth} is R@{deepest}"
