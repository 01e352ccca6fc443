"""A profile: its sections (settings.py) and its systems, the rows of the tables; read from `profiles/<name>.yaml`."""

import os
import re
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from zlib import crc32

import yaml
from pydantic import Field, NonNegativeFloat, PositiveInt, ValidationError, model_validator

from tas_lib.settings import (  # noqa: F401 - all are imported from here
    PAPERS_SETS,
    ROOT,
    Bm25,
    DocsSource,
    Evaluation,
    Expansion,
    Fusion,
    InBatchLoss,
    ListWeights,
    LocalSource,
    MsMarcoSource,
    OneValuePerKey,
    Pairing,
    Reduction,
    Reranking,
    Sampling,
    Settings,
    StopSet,
    TestSet,
    Tokens,
    Training,
    Variant,
    located,
    sentence,
)

Teacher = Literal["none", "pairwise", "in_batch", "dual"]
Strategy = Literal["random", "tas", "tas_balanced", "hard_margin"]
NEEDED = {"checkpoint": "source", "run": "source", "fused": "of", "reranked": "first"}
"""The setting that a kind of system requires."""
ONLY = {"pooling": ["checkpoint"], "source": ["checkpoint", "run", "reported"], "of": ["fused"], "first": ["reranked"]}
ONLY |= dict.fromkeys(["query_prompt", "passage_prompt", "normalize"], ["checkpoint"])
"""The kinds of system that a setting applies to."""


class System(Settings):
    """A row of a table, and how its run is made."""

    kind: Literal["trained", "untrained", "checkpoint", "run", "reported", "bm25", "expanded", "fused", "reranked"] = (
        "trained"
    )
    teacher: Teacher = "dual"
    sampling: Strategy = "tas_balanced"
    loss: InBatchLoss = "margin_mse"
    batch_size: PositiveInt = 32
    seed: int = Field(1, ge=0)  # of the batches
    variant: str = ""  # one of the profile's `variants`
    source: str = ""  # hub name, folder or file of a checkpoint or run
    pooling: Literal["", "cls", "mean"] = ""  # of a checkpoint whose folder does not state it; "" is the profile's
    query_prompt: str = ""  # of a checkpoint: before every query, in place of the model's own prompt
    passage_prompt: str = ""  # likewise before every passage
    normalize: bool = False  # of a checkpoint: normalise vectors even if the model does not say so
    of: tuple[str, ...] = ()  # fused: keys of systems, or bm25; α weighs the first of two
    how: Literal["interpolate", "rrf"] = "interpolate"  # fused
    first: str = ""  # reranked: the key of the system that gives the candidates
    by: Literal["cat", "mono", "duo"] = "cat"  # reranked
    depth: int = Field(0, ge=0)  # reranked: how many candidates; 0 is the profile's

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "System":
        if (needed := NEEDED.get(self.kind)) and not getattr(self, needed):
            raise ValueError(f"a system of kind {self.kind!r} needs `{needed}`")
        for field, kinds in ONLY.items():
            if getattr(self, field) and self.kind not in kinds:
                raise ValueError(f"`{field}` is for kind {' or '.join(kinds)}, and this system's is {self.kind!r}")
        if self.of and (len(set(self.of)) != len(self.of) or len(self.of) < 2):
            raise ValueError("`of` names two or more different systems")
        if self.how == "interpolate" and len(self.of) > 2:
            raise ValueError("interpolation is of two systems; rrf takes more")
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        """The keys of the systems that it builds on."""
        return (*self.of, self.first) if self.first else self.of

    @property
    def name(self) -> str:
        """The name of its folder."""
        if self.parts:
            how = self.how if self.of else f"{self.by}{self.depth or ''}"
            return "-".join([self.kind, how, *re.findall(r"[\w.]+", " ".join(self.parts))])
        if self.kind != "trained":
            prompts = self.query_prompt + "\0" + self.passage_prompt
            options = [self.pooling, f"{crc32(prompts.encode()):08x}" * (len(prompts) > 1), "unit" * self.normalize]
            return "-".join(filter(None, [self.kind, *re.findall(r"[\w.]+", self.source), *options]))
        parts: list[str] = [self.teacher, self.sampling] if self.teacher != "none" else ["labels"]
        if self.teacher == "none" and self.sampling != "random":
            parts.append(self.sampling)
        for field, text in (("loss", self.loss), ("batch_size", f"b{self.batch_size}"), ("seed", f"seed{self.seed}")):
            if getattr(self, field) != type(self).model_fields[field].default:
                parts.append(text)
        return "-".join(filter(None, [*parts, self.variant]))


Kind = TypeVar("Kind", bound=Settings)
EXECUTION = {"workers", "chunk", "cached_chunk", "compile"}
"""Execution settings of a training, which do not affect the result: an interrupted run resumes with others."""
PIPELINE = {"pooling", "query_prompt", "passage_prompt", "normalize", "of", "how", "first", "by", "depth"}
"""The fields that do not apply to a trained system."""


class Profile(Settings):
    """All settings of a run."""

    name: str
    source: Annotated[DocsSource | LocalSource | MsMarcoSource, Field(discriminator="kind")]
    artefacts: str = "data/docs"  # the shipped encoder, teachers and scores
    encoder: str = "data/docs/encoder"  # hub name or folder that every student and ColBERT start from
    pooling: Literal["cls", "mean"] = "cls"  # Eq. 4
    cross_encoder: str = ""  # hub name or folder of the model that scores pairs; "" is the shipped BERT_CAT
    colbert: str = ""  # hub name or folder of the in-batch teacher; "" is the shipped one
    query_masks: int = Field(0, ge=0)  # [MASK]s before the last token of ColBERT's query, D10
    kept_vectors_gb: NonNegativeFloat = 8.0  # larger sets of ColBERT token vectors are not kept on disk
    tokens: Tokens = Tokens()
    bm25: Bm25 = Bm25()  # the row of the tables; k1 and b are chosen on the tune set (CHANGELOG)
    negatives: Bm25 = Bm25()  # the source of training negatives, untuned as in §4.1
    pairing: Pairing = Pairing()
    sampling: Sampling = Sampling()
    training: Training = Training()
    stop: StopSet = StopSet()
    evaluation: Evaluation
    fusion: Fusion = Fusion()
    expansion: Expansion = Expansion()
    reranking: Reranking = Reranking()
    variants: dict[Annotated[str, Field(pattern="^[a-z0-9]+$")], Variant] = {}
    systems: dict[str, System]  # the rows, by name (docs/design.md)
    repeated: dict[str, PositiveInt] = {}  # a row, or <row>/<variant>: how many random seeds `seeds` gives it
    deviations: dict[str, System] = {}  # one per row of DEVIATIONS.md, for the target of that name

    @model_validator(mode="after")
    def _freezing_fits(self) -> "Profile":
        trainings = [self.training.model_dump(), *(variant.training for variant in self.variants.values())]
        if self.pooling != "cls" and any(training.get("frozen_layers") for training in trainings):
            raise ValueError("training.frozen_layers needs `pooling: cls`: of the last layer, only CLS is trained")
        return self

    @model_validator(mode="after")
    def _systems_fit(self) -> "Profile":
        above, names = {"bm25": System(kind="bm25")}, dict[str, str]()
        for key, system in (self.systems | self.deviations).items():
            try:
                self.of(system)
            except ValueError as error:
                raise ValueError(f"system {key}: {sentence(error)}") from None
            for part in system.parts:
                if part not in above:
                    raise ValueError(f"system {key}: no system {part!r} is listed above it to build on")
                if system.of and above[part].parts:
                    raise ValueError(f"system {key}: {part} is made of other runs; only first stages can be fused")
            if system.name in names:
                raise ValueError(f"two systems are the same, {names[system.name]} and {key}: {system.name}")
            above[key] = system
            names[system.name] = key
        if unknown := self.repeated.keys() - self._repeatable.keys():
            raise ValueError(f"repeated: no system {min(unknown)!r} is trained here")
        return self

    @property
    def _repeatable(self) -> dict[str, System]:
        rows = {key: row for key, row in self.systems.items() if row.kind == "trained"}
        names = product(rows, self.variants)
        return {f"{key}/{name}": changed(rows[key], {"variant": name}) for key, name in names} | rows

    @property
    def seeds(self) -> dict[str, System]:
        """`<row>/seed<n>`: the rows of `repeated`, each with its number of random seeds, for the target `seeds`."""
        rows = self._repeatable if self.repeated else {}
        runs = [(key, n) for key, seeds in self.repeated.items() for n in range(1, seeds + 1)]
        return {f"{key}/seed{n}": changed(rows[key], {"seed": n}) for key, n in runs}

    def of(self, system: System) -> "Profile":
        """The settings of one system: the profile's, changed by its variant."""
        if not system.variant:
            return self
        if system.variant not in self.variants:
            known = ", ".join(sorted(self.variants)) or "none"
            raise ValueError(f"there is no variant {system.variant!r}; there are: {known}")
        variant = self.variants[system.variant]
        return self.model_copy(update={section: changed(getattr(self, section), values) for section, values in variant})

    def decisive(self, system: System) -> dict[str, Any]:
        """The settings that the result of a training depends on, and no others."""
        settings, in_batch = self.of(system), system.teacher in ("in_batch", "dual")
        unset = {"alpha", "list_weights"} | (set() if settings.training.frozen_layers else {"frozen_layers"})
        if not in_batch or settings.training.colbert_mask == "eq3":
            unset |= {"colbert_mask"}
        return {
            "system": system.model_dump(exclude=PIPELINE),
            "training": settings.training.model_dump(exclude=EXECUTION | unset),
            "weight": settings.training.weight(system.loss) if system.teacher == "dual" else 0,
            "sampling": settings.sampling.decisive(system.sampling),
            "stop": self.stop.model_dump(),
            "tokens": self.tokens.model_dump(),
            "pooling": self.pooling,
            "query_masks": self.query_masks if in_batch else 0,
        }

    def check_sizes(self, n_queries: int) -> None:
        """ValueError if there are too few training queries for the clusters or a batch."""
        listed = self.systems | self.deviations
        trained = {key: row for key, row in listed.items() if row.kind == "trained"}
        rows = [System(), *trained.values()] if trained or not listed else []
        clusters = max((self.of(row).sampling.clusters for row in rows), default=0)
        if clusters > n_queries:
            raise ValueError(f"profile {self.name!r}: {clusters} clusters (sampling.clusters) of {n_queries} queries")
        for key, system in trained.items():
            if system.batch_size > n_queries:
                batch = f"a batch of system {key} is {system.batch_size}"
                raise ValueError(f"profile {self.name!r}: {batch} of {n_queries} queries")

    def candidates(self, system: System) -> int:
        """How many candidates per query a system re-ranks."""
        return system.depth or (self.reranking.duo_depth if system.by == "duo" else self.reranking.depth)

    @property
    def folder(self) -> Path:
        """The folder of everything that is computed; $TAS_RUNS moves it."""
        return Path(os.environ.get("TAS_RUNS", ROOT / "runs")) / self.name

    @property
    def reduction(self) -> Reduction | None:
        """How its collection is reduced, if it is a part of a published one."""
        return self.source.reduce if isinstance(self.source, MsMarcoSource) else None

    @property
    def artefacts_folder(self) -> Path:
        """The folder of shipped models and scores."""
        return ROOT / self.artefacts

    @property
    def encoder_path(self) -> str:
        """The encoder as `transformers` takes it."""
        return located(self.encoder)

    @property
    def figures(self) -> Path:
        """The folder of figures and tables."""
        return Path(os.environ.get("TAS_FIGURES", ROOT / "figures")) / self.name


def changed(settings: Kind, values: dict[str, Any]) -> Kind:
    """These settings with some values changed, and checked."""
    return type(settings).model_validate(settings.model_dump() | values)


def read(path: Path, kind: type[Kind], **more: object) -> Kind:
    """The settings in a YAML file; anything wrong with it is one ValueError."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), OneValuePerKey) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} must hold `key: value` lines, not {values!r:.40}")
    try:
        return kind.model_validate({str(key): value for key, value in values.items()} | more)
    except ValidationError as error:
        raise ValueError(f"{path.name}: {sentence(error)}") from None


def files() -> dict[str, Path]:
    """The files of all profiles by name; $TAS_PROFILES is another folder."""
    folder = Path(os.environ.get("TAS_PROFILES", ROOT / "profiles"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml")) if path.is_file()}


def load(name: str) -> Profile:
    """The profile `profiles/<name>.yaml`; anything wrong with it is one ValueError, before any work."""
    if name not in files():
        raise ValueError(f"there is no profile {name!r}; there are: {', '.join(files())}")
    return read(files()[name], Profile, name=name)


def system(profile: str, **parameters: Any) -> tuple[Profile, System]:
    """A notebook's parameters, checked: its profile, and the trained system of these settings."""
    settings = load(profile)
    try:
        row = System(**parameters)
        settings.of(row)
    except ValueError as error:
        raise ValueError(f"notebook parameters: {sentence(error)}") from None
    return settings, row
