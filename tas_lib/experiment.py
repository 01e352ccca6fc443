"""What the systems of one profile share: each part is made when it is first needed, and kept in the store."""

from collections.abc import Iterable
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from tas_lib import clustering, sampling
from tas_lib.clustering import Clusters
from tas_lib.config import Profile, System, located
from tas_lib.data import shipped, store
from tas_lib.data.collection import Collection, open_collection
from tas_lib.data.tokens import load_tokenizer, open_tokens
from tas_lib.evaluation import seeds
from tas_lib.evaluation.metrics import PerQuery
from tas_lib.records import Families, FloatArray, History, Named, NotRun, Pairs, Ragged, Run
from tas_lib.retrieval import checks, frozen, pretrained
from tas_lib.retrieval import encode as encoding
from tas_lib.retrieval.encode import BiEncoder
from tas_lib.retrieval.runs import Runs, known
from tas_lib.sampling import Sampler
from tas_lib.train import checkpoint, early_stopping, loop, pairs, teachers
from tas_lib.train.early_stopping import Candidates
from tas_lib.train.teachers import InBatchTeacher

BASELINE = System(teacher="pairwise", sampling="random")
"""Trained first: its vectors are clustered (§4.2), its candidates decide when the others stop (§4.3)."""
BM25 = System(kind="bm25")


class Experiment:
    """The systems of a profile and what they share."""

    def __init__(self, profile: Profile) -> None:
        """profile: from `config.load`."""
        self.profile = profile
        self.store = store.Store(profile.folder)
        self.listed = Named({"bm25": BM25} | profile.systems | profile.deviations, "system")
        self.notes: dict[str, str] = {}  # of rows, for the column Run: why one was not run, how deep a run file is

    # --- what all systems share ----------------------------------------------------------------------------------

    @cached_property
    def collection(self) -> Collection:
        """Passages, query sets, judgements; ValueError if the profile asks for more than there is."""
        collection = open_collection(self.profile)
        for test in self.profile.evaluation.sets:
            known(test.name, collection.sets)
        if "train" in collection.sets:  # without it, rows can still be BM25, checkpoints and run files
            self.profile.check_sizes(len(collection.sets["train"].queries.ids))
        uses = [*checks.needed(self.profile, self.listed, "train" in collection.sets)]

        def check(folder: Path) -> None:
            checks.check(self.profile, uses)
            store.write_json(folder / "models.json", uses)

        settings = {**self.profile.model_dump(include=checks.SETTINGS), "expansion": self.profile.expansion.model}
        inputs = {"collection": collection.digest, "models": checks.digest(uses)}
        self.store.artefact("checked", settings, inputs, check)
        return collection

    @cached_property
    def tokens(self) -> dict[str, Ragged]:
        """Token ids of the passages and of every query set."""
        return open_tokens(self.profile, self.collection)

    def texts(self, system: System) -> dict[str, Ragged]:
        """What the trained part of a system reads: `tokens`, or the states of its frozen layers."""
        return encoding.open_texts(self.profile, self.collection, self.profile.of(system).training.frozen_layers)

    @cached_property
    def pairs(self) -> Pairs:
        """Training pairs with the pairwise teacher's margins."""
        self._check_training()
        return pairs.open_pairs(self.profile, self.collection, lambda: self.runs.rerankers.scorer("cat", "train"))

    @cached_property
    def in_batch_teacher(self) -> InBatchTeacher:
        """ColBERT, which scores every query of a batch against every passage."""
        self._check_training()
        return teachers.open_in_batch_teacher(self.profile, self.collection)

    def in_batch_teacher_of(self, system: System) -> InBatchTeacher | None:
        """The one that a system learns from, if it does; a variant may hide other padding (D10)."""
        if system.teacher not in ("in_batch", "dual"):
            return None
        return teachers.open_in_batch_teacher(self.profile.of(system), self.collection)

    def _clusters(self, system: System, light: bool = True) -> Path:
        how = self.profile.of(system).sampling
        encoder = self.bi_encoder(self.baseline)

        def make(folder: Path) -> None:
            vecs = encoder.texts_encoder("train")(np.arange(len(self.collection.sets["train"].queries.ids)))
            clusters = clustering.kmeans(vecs, how.clusters, spherical=how.spherical, iterations=how.iterations)
            store.save_arrays(folder, vecs=vecs, **clusters._asdict())

        name = f"clusters/{how.clusters}-{'spherical' if how.spherical else 'euclidean'}"
        _, tokens, inputs = encoder.artefact
        parameters = {**how.model_dump(include={"clusters", "spherical", "iterations"}), "tokens": tokens}
        return self.store.artefact(name, parameters, {"baseline": inputs.pop("model"), **inputs}, make, light=light)

    def clusters_of(self, system: System) -> Clusters:
        """The clusters of training queries that a system's batches come from, by the baseline's vectors (Eq. 10)."""
        folder = self._clusters(system)
        return Clusters(store.load_array(folder / "assignment.npy"), store.load_array(folder / "centroids.npy"))

    @cached_property
    def clusters(self) -> Clusters:
        """The clusters of all systems without a variant."""
        return self.clusters_of(self.baseline)

    @property
    def clustering_s(self) -> float:
        """Seconds to encode and cluster the training queries, once for all systems without a variant."""
        return float(store.provenance(self._clusters(self.baseline))["seconds"])

    @cached_property
    def query_vecs(self) -> FloatArray:
        """(Q, D) the baseline's vectors of the training queries, as they were clustered."""
        return store.load_array(self._clusters(self.baseline, light=False) / "vecs.npy")

    @property
    def families(self) -> Families:
        """The families of the queries of each test set, for the tests of significance."""
        return {test.name: self.collection.sets[test.name].families for test in self.profile.evaluation.sets}

    # --- training ------------------------------------------------------------------------------------------------

    @cached_property
    def baseline(self) -> System:
        """The profile's system that is trained with pairs in random batches; `BASELINE` if it lists none."""
        trained = [system for system in self.listed.values() if system.kind == "trained"]
        same = (system for system in trained if system.name.startswith("pairwise-random") and not system.variant)
        smallest = min([BASELINE.batch_size, *(system.batch_size for system in trained)])
        return next(same, BASELINE.model_copy(update={"batch_size": smallest}))

    def _check_training(self, batch_size: int = 0) -> None:
        """NotRun if there is no training set, no row of the profile is trained, or a batch is larger than the set."""
        n_queries = len(self.collection.sets["train"].queries.ids)
        if self.profile.systems and all(system.kind != "trained" for system in self.listed.values()):
            raise NotRun("no row of this profile is trained here")
        if batch_size > n_queries:
            raise NotRun(f"a batch of {batch_size} queries is larger than the training set, which has {n_queries}")

    def sampler(self, system: System) -> Sampler:
        """The batches that a system is trained on."""
        self._check_training(system.batch_size)
        members = [] if system.sampling == "random" else self.clusters_of(system).members
        settings = self.profile.of(system).sampling.model_copy(update={"batch_size": system.batch_size})
        return sampling.make_sampler(system.sampling, self.pairs, members, settings, system.seed)

    def candidates(self, system: System) -> Candidates:
        """The early-stopping set: BM25's candidates for the baseline itself, the baseline's for all others (§4.3)."""
        first = self.runs.retriever(BM25 if system.name == self.baseline.name else self.baseline)
        precision = self.profile.of(system).training.precision
        return early_stopping.candidates(self.collection, self.profile.stop, first, precision)

    def trained(self, system: System, light: bool = False) -> Path:
        """The folder of a trained system: model, tokenizer, `history.json`; trained now if it is not there.

        light: whether the folder may lack what a results pack left out, such as the model.
        """
        if system.kind != "trained":
            raise NotRun(f"a system of kind {system.kind!r} is not trained here: {system.source or system.name}")
        if system.name != self.baseline.name:
            self.trained(self.baseline, light)
        self._check_training()
        encoder, inputs = shipped.encoder(self.profile), self._inputs(system)
        parameters, settings = self.profile.decisive(system), self.profile.of(system).training
        if system.name == self.baseline.name:  # BM25's candidates decide when it stops
            parameters["bm25"] = self.profile.bm25.model_dump()

        def make(folder: Path) -> None:
            texts = self.texts(system)
            validate = partial(self.candidates(system).ndcg, texts=texts)
            sampler = self.sampler(system)
            torch.manual_seed(settings.model_seed)
            student = pretrained.load_dot(encoder, self.profile.pooling).to(encoding.device())
            loss = loop.objective(system, settings, self.in_batch_teacher_of(system))
            part = frozen.trained_part(student, settings.frozen_layers)
            history = loop.train(part, sampler, loss, texts["train"], texts["passages"], validate, settings, folder)
            pretrained.save(student, load_tokenizer(encoder), folder)
            store.write_json(folder / "history.json", history)
            checkpoint.remove(folder)

        name = f"systems/{system.name}"
        return self.store.artefact(name, parameters, inputs, make, timed=["history.json"], light=light)

    def _inputs(self, system: System) -> dict[str, str]:
        inputs = {"collection": self.collection.digest, "pairs": store.digest(*self.pairs)}
        inputs["encoder"] = store.folder_digest(Path(self.profile.encoder_path))
        if system.name != self.baseline.name:
            inputs["baseline"] = store.digest_of(self.trained(self.baseline, light=True))
        if system.teacher in ("in_batch", "dual"):
            inputs["colbert"] = store.folder_digest(Path(shipped.model(self.profile, "colbert")))
        return inputs

    def history(self, system: System) -> list[History]:
        """The evaluations during its training."""
        return [History(*row) for row in store.read_json(self.trained(system, light=True) / "history.json")]

    # --- retrieval -----------------------------------------------------------------------------------------------

    def bi_encoder(self, system: System) -> BiEncoder:
        """The encoder of a trained system, of an untrained one or of a checkpoint, with the collection."""
        if system.kind == "untrained":
            source = shipped.encoder(self.profile)
        else:
            source = located(system.source) if system.kind == "checkpoint" else str(self.trained(system, light=True))
        return BiEncoder(self.profile, self.collection, system, source)

    def vectors(self, system: System) -> torch.Tensor:
        """(P, D) fp16 vectors of the whole collection, memory-mapped."""
        return self.bi_encoder(system).vectors()

    @cached_property
    def runs(self) -> Runs:
        """The runs of all systems, and the first stages that they start from."""
        return Runs(self.profile, self.listed, self.collection, self.bi_encoder)

    def run(self, system: System, name: str) -> Run:
        """A system's run on a query set."""
        return self.runs.run(system, name)

    def evaluate(self, system: System, name: str) -> PerQuery:
        """The paper's measures of a system on a test set, per query."""
        return self.runs.evaluate(system, name)

    def can_run(self, system: System) -> bool:
        """Whether the system has a run on every test set."""
        return not any(self.runs.why_not(system, test.name) for test in self.profile.evaluation.sets)

    def answers(self, system: System) -> bool:
        """Whether the system can answer any query: it is no run file, and has none as a part."""
        return system.kind != "run" and all(self.answers(self.listed[key]) for key in system.parts)

    @cached_property
    def shipped_seeds(self) -> dict[str, dict[str, PerQuery]]:
        """The shipped measures of `Profile.seeds`; {} if there are none of these settings."""
        return seeds.read(self.profile, self.collection.digest)

    def scores(self, keys: Iterable[str]) -> dict[str, dict[str, PerQuery]]:
        """`evaluate` for rows of a table, on every test set on which they have a run; `notes` says why not on others.

        With the shipped measures of further random seeds of these rows, as `<row>/seed<n>`.

        Run files are read first, so that a wrong one is found before the others' long work.
        """
        keys = list(keys)
        listed = {key: self.listed[key] for key in keys if key in self.listed}
        for system in listed.values():
            if system.kind == "checkpoint":  # a wrong name fails before the others' long work
                self.bi_encoder(system)
        result = {}
        for key, system in sorted(listed.items(), key=lambda item: item[1].kind != "run"):
            reasons = {test.name: self.runs.why_not(system, test.name) for test in self.profile.evaluation.sets}
            result[key] = {name: self.evaluate(system, name) for name, reason in reasons.items() if not reason}
            reasons = {"": self.runs.shallow(system)} | reasons
            if system.kind != "reported" and (notes := dict.fromkeys(filter(None, reasons.values()))):
                self.notes[key] = "; ".join(notes)
        repeated = {row: most for row, most in self.profile.repeated.items() if row in keys}
        rows = [f"{row}/seed{n}" for row, most in sorted(repeated.items()) for n in range(2, most + 1)]
        further = {key: self.shipped_seeds[key] for key in rows if key in self.shipped_seeds}
        how = f"not shipped for these settings; ./run_all.sh {self.profile.name} seeds trains it"
        self.notes |= {key: how for key in rows if key not in {*further, *listed}}
        return further | {key: result.get(key) or further.get(key, {}) for key in keys}
