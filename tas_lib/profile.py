"""Profiles: what changes between a laptop and MS MARCO. YAML in `profiles/`, read into one frozen, strict model."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, NonNegativeFloat, ValidationError, model_validator

from tas_lib.settings import (
    ROOT,
    Bm25,
    DocsSource,
    Evaluation,
    Expansion,
    Fusion,
    LocalSource,
    MsMarcoSource,
    Pairing,
    Pretraining,
    Reranking,
    Sampling,
    Seq2Seq,
    Settings,
    StopSet,
    System,
    Teachers,
    Tokens,
    Training,
    changed,
)

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
    systems: dict[str, System]  # the rows, by the number they have in DESIGN.md
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
