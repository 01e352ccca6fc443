"""The sections of a profile: frozen and strict, each with its defaults, which are the paper's where it gives any."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

ROOT = Path(__file__).resolve().parents[1]
InBatchLoss = Literal["margin_mse", "margin_mse_as_printed", "kldiv_as_published", "listnet", "lambdarank"]
Share = Annotated[float, Field(ge=0, le=1)]
PAPERS_SETS = ("TREC-DL'19", "TREC-DL'20", "MSMARCO DEV")
"""The paper's names of its test sets. A set under one of these labels is that set, and is compared with it."""


class Settings(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Frozen, and a misspelt key is an error."""


class OneValuePerKey(yaml.SafeLoader):
    """YAML in which a key that occurs twice is an error; the standard loader keeps the last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node."""
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} occurs twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class DocsSource(Settings):
    """The documentation of the installed packages (sources/docs.py). Of `opened`, the content counts, not the path."""

    kind: Literal["docs"] = "docs"
    packages: tuple[str, ...]
    package_cap: PositiveInt = 3_000  # entries per package, so that none dominates
    query_words: tuple[PositiveInt, PositiveInt] = (4, 24)
    min_content_words: PositiveInt = 3  # of a query; common words (questions.COMMON) do not count
    min_body_words: PositiveInt = 10
    max_passage_words: PositiveInt = 40  # a passage is the beginning of a body
    same: Share = 0.8  # from this shingle similarity on, two passages are one
    akin: Share = 0.5  # from this on, they stay on one side of every split
    largest_family: PositiveInt = 60  # a larger one (entries joined by links) stays in training whole
    largest_group: PositiveInt = 10  # likewise for the sparse sets (entries joined by similarity)
    min_links: PositiveInt = 2  # of a graded query
    boilerplate: PositiveInt = 2  # a summary shared by this many entries is no query
    template: PositiveInt = 4  # nor are this many summaries that differ in one stretch of up to three words
    opening: PositiveInt = 40  # nor this many with the same first three words
    graded_queries: PositiveInt = 320  # per graded set
    dev_queries: PositiveInt = 1_000
    stop_queries: PositiveInt = 400  # early stopping, §4.3
    tune_queries: PositiveInt = 800
    opened: str = Field("", exclude=True)  # a file of names: queries of earlier test sets, which new ones leave out
    seed: int = 2026


class LocalSource(Settings):
    """A folder in MS MARCO's or BEIR's layout (sources/local.py); its content counts, not its path."""

    kind: Literal["local"] = "local"
    folder: str = Field(exclude=True)  # of the project, or any other
    stop: str = ""  # the folder's set for early stopping; "" is its set `stop`, or training queries held out
    tune: str = ""  # likewise the set to choose settings on
    stop_queries: PositiveInt = 200  # held out if the folder has no such set
    tune_queries: PositiveInt = 400
    seed: int = 2021  # which queries are held out

    @property
    def place(self) -> Path:
        """The folder."""
        return ROOT / Path(self.folder).expanduser()


class Reduction(Settings):
    """The part of MS MARCO's passages that is kept for a small card (D37). Lists of candidates have a random order."""

    passages: PositiveInt = 500_000  # all that is judged, a candidate or in a pair, filled up at random
    dev: PositiveInt = 1_000  # test queries, of dev-small
    stop: PositiveInt = 800  # early-stopping queries
    train: PositiveInt = 40_000  # training queries
    negatives: PositiveInt = 6  # of each, whose passages are kept; other pairs only if theirs are there by chance
    candidates: int = Field(100, ge=0)  # for each test query, of the 1,000 that are published for re-ranking


class MsMarcoSource(Settings):
    """MS MARCO's passages with TREC-DL '19 and '20, and the published teacher scores (sources/msmarco.py)."""

    kind: Literal["msmarco"] = "msmarco"
    scores: Literal["t2", "t1", "none"] = "t2"  # the ensemble's, §4.1; with "none" all judged queries are for training
    urls: tuple[str, ...] = Field(("https://zenodo.org/records/4068216/files/{file}?download=1",), exclude=True)
    tune_queries: PositiveInt = 2_000  # of the dev queries that are not in dev-small; the others are for stopping
    seed: int = 2021  # which of them
    passages: PositiveInt = 8_841_823  # as published: another number means a truncated file
    dev: PositiveInt = 6_980
    dl19: PositiveInt = 43
    dl20: PositiveInt = 54
    reduce: Reduction | None = None  # None keeps everything


class Tokens(Settings):
    """Maximum lengths, special tokens included (§4.1)."""

    query: PositiveInt = 30
    passage: PositiveInt = 200


class Bm25(Settings):
    """Lucene's BM25. Defaults are Anserini's."""

    k1: PositiveFloat = 0.9
    b: Share = 0.4


class Pairing(Settings):
    """Training pairs: every query's relevant passages against BM25's negatives."""

    depth: PositiveInt = 100  # negatives are sampled from BM25's top passages
    negatives: PositiveInt = 100  # per query: 40M pairs over 400K queries, §4.1
    positives: PositiveInt | None = None  # per query, sampled from its relevant passages; None: all of them


class Sampling(Settings):
    """How a batch is composed. Defaults are the paper's."""

    batch_size: PositiveInt = 32  # b, §4.2
    clusters: PositiveInt = 2_000  # k of Eq. 10, §4.2
    clusters_per_batch: PositiveInt = 1  # n of Eq. 11, §4.2
    margin_bins: PositiveInt = 10  # h of Eq. 12, §4.2
    margin_cap: PositiveFloat = 6.0  # hard margin only, D16
    spherical: bool = True  # k-means by inner product, D2
    iterations: PositiveInt = 10  # of k-means, D2
    queries: int = Field(0, ge=0)  # how many training queries are used, a random sample; 0: all

    @model_validator(mode="after")
    def _enough_clusters(self) -> "Sampling":
        if self.clusters_per_batch > self.clusters:
            raise ValueError(f"{self.clusters_per_batch} clusters per batch, but there are only {self.clusters}")
        return self

    def decisive(self, strategy: str) -> dict[str, Any]:
        """The settings that a strategy depends on."""
        return self.model_dump(include=SAMPLING[strategy] | ({"queries"} if self.queries else set()))


CLUSTERING = {"clusters", "clusters_per_batch", "spherical", "iterations"}
SAMPLING = {
    "random": set(),
    "tas": CLUSTERING,
    "tas_balanced": CLUSTERING | {"margin_bins"},
    "hard_margin": CLUSTERING | {"margin_cap"},
}
"""The settings of `Sampling` that a strategy depends on."""


class ListWeights(Settings):
    """The list losses' weights in place of α in Eq. 8 (Table 3). Not published; chosen on the tune set."""

    kldiv_as_published: NonNegativeFloat = 1.0
    listnet: NonNegativeFloat = 1.0
    lambdarank: NonNegativeFloat = 1.0


class Training(Settings):
    """One student. Defaults are the paper's, or the public code's where the paper is silent."""

    steps: PositiveInt = 800_000  # at most; "usually stops after 700-800K", §4.3
    min_steps: int = Field(300_000, ge=0)  # before early stopping may end it (code)
    validate_every: PositiveInt = 4_000  # §4.3
    patience: PositiveInt = 30  # evaluations without a better nDCG@10, §4.3
    keep: Literal["best", "last"] = "best"  # which evaluation's weights, D34
    learning_rate: PositiveFloat = 7e-6  # §4.2
    schedule: Literal["constant", "cosine", "linear"] = "constant"  # D3; the others fall to 0
    warmup: int = Field(0, ge=0)  # steps until the full learning rate
    frozen_layers: int = Field(0, ge=0)  # 0, or all layers but the last (retrieval/frozen.py)
    alpha: NonNegativeFloat = 0.75  # of Eq. 8, §4.2
    colbert_mask: Literal["eq3", "public"] = "eq3"  # which padding the in-batch teacher hides, D10
    list_weights: ListWeights = ListWeights()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of the encoder, D12
    model_seed: int = 0  # dropout; the batches have their own seed, D13
    workers: int = Field(1, ge=0)  # processes that compose batches, §3
    chunk: PositiveInt = 32  # texts of similar length encoded together; on a GPU, fewer is less padding, more calls
    cached_chunk: PositiveInt | None = None  # gradient caching: texts encoded at once, for small cards
    compile: bool = False  # torch.compile

    def weight(self, loss: InBatchLoss) -> float:
        """The in-batch loss's weight in Eq. 8: α for Margin-MSE, a list loss's own."""
        return float(getattr(self.list_weights, loss, self.alpha))


class StopSet(Settings):
    """Approximate early stopping, §4.3: re-rank a baseline's candidates instead of searching."""

    queries: PositiveInt = 3_200
    depth: PositiveInt = 100


class TestSet(Settings):
    """A query set that the tables report, as a column group."""

    __test__: ClassVar[bool] = False  # pytest takes it for a test class

    name: str
    label: str
    paper: Literal["", "TREC-DL'19", "TREC-DL'20", "MSMARCO DEV"] = ""  # the paper's set beside it; "" is by its label
    binarise_at: PositiveInt = 1  # relevant from this grade on, §4.1
    graded: bool = False

    @property
    def beside(self) -> str:
        """The paper's set printed beside this one: the one named, else that of its label; "" for none."""
        return self.paper or (self.label if self.label in PAPERS_SETS else "")


class Evaluation(Settings):
    """Which sets, at which cutoffs; the paper's are 10 and 1,000."""

    sets: Annotated[tuple[TestSet, ...], Field(min_length=1)]
    depth: PositiveInt = 1_000  # passages per query in a run; the cutoff of recall
    alpha: Share = 0.05  # of the paired t-test

    @model_validator(mode="after")
    def _each_set_once(self) -> "Evaluation":
        names = [test.name for test in self.sets]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"the set {twice[0]!r} is listed twice")
        return self

    @property
    def on_the_papers_sets(self) -> bool:
        """Whether any set is one of the paper's: then published figures can be compared with ours."""
        return any(test.label in PAPERS_SETS for test in self.sets)


class Fusion(Settings):
    """How runs are fused, §5.3."""

    alphas: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)] = (
        *(0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5),
    )  # tried on the set `stop`
    k: PositiveInt = 60  # of reciprocal rank fusion


class Expansion(Settings):
    """How queries are written for passages (§5.3, Table 7). Defaults are docT5query's."""

    model: str = Field("", exclude=True)  # hub name or folder; "" is the shipped one
    queries: PositiveInt = 40  # per passage
    top_k: PositiveInt = 10  # each token is sampled from the top-k tokens
    longest: PositiveInt = 64  # tokens of a query
    cap: PositiveInt = 512  # tokens of a passage, special tokens included
    batch: PositiveInt = 32  # passages that share one random stream
    shard: PositiveInt = 2_048  # passages per file
    seed: int = 0


class Reranking(Settings):
    """How many candidates are re-ranked, §5.3, and by which models. The others keep their order below these."""

    depth: PositiveInt = 1_000  # by mono or BERT_CAT; the paper's medium rows have 10
    duo_depth: PositiveInt = 50  # by duo, after mono
    dev_sample: int = Field(0, ge=0)  # queries of a set that is not graded; 0 is all of them
    mono: str = ""  # hub name or folder of a monoT5; "" is the shipped model
    duo: str = ""  # likewise of a duoT5


class Variant(Settings):
    """Settings that differ for some systems; all other sections are shared by the systems of a profile."""

    sampling: dict[str, Any] = {}
    training: dict[str, Any] = {}


def located(name: str) -> str:
    """A model as `transformers` takes it: a folder (of the project, or any other), or a hub name."""
    folder = ROOT / Path(name).expanduser()
    return str(folder) if folder.is_dir() else name


def sentence(error: ValueError) -> str:
    """An error of pydantic's on one line: `training.alpha: Input should be greater than or equal to 0 (got -1)`."""
    clear = {"missing", "value_error", "extra_forbidden", "union_tag_invalid", "union_tag_not_found"}  # without a value
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'profile'}: {e['msg'].removeprefix('Value error, ')}"
        + ("" if e["type"] in clear else f" (got {e['input']!r})")
        for e in error.errors()
    )
