"""The models of a profile, compared once with its settings, before anything is tokenised, scored or trained."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import transformers

from tas_lib.config import DocsSource, Profile, System, located
from tas_lib.data import shipped, store
from tas_lib.data.collection import pairs_are_scored
from tas_lib.retrieval import pretrained

SETTINGS = {"artefacts", "encoder", "query_masks", "tokens", "systems", "deviations", "reranking"}
"""What the result of `check` depends on, with the models themselves and `expansion.model`."""


class Use(NamedTuple):
    """A model that some step needs: the key of the profile that names it, and its longest input in tokens."""

    key: str
    source: str
    tokens: int = 0


def digest(uses: Sequence[Use]) -> str:
    """The digest of what `check` reads of these models: their small files, and the sizes of their weights."""
    return store.digest(uses, *(store.folder_digest(Path(use.source), largest=2**25) for use in uses))


def check(profile: Profile, uses: Sequence[Use]) -> None:
    """ValueError for the first model that is missing or does not fit its texts."""
    for use in uses:
        try:
            _fits(profile, use)
        except ValueError as error:
            raise ValueError(f"`{use.key}` of profile {profile.name!r}: {error}") from None


def needed(profile: Profile, systems: Mapping[str, System], trainable: bool) -> Iterator[Use]:
    """The models of the rows that can be run. trainable: whether there are training queries."""
    q, p = profile.tokens.query, profile.tokens.passage
    trained = [system for system in systems.values() if system.kind == "trained" and trainable]
    pair = q + p - 1  # the passage's CLS is left out
    kinds = {system.kind for system in systems.values()}
    if trained or kinds & {"checkpoint", "untrained"}:
        yield Use("encoder", shipped.encoder(profile), max(q, p) if trained or "untrained" in kinds else 0)
    if any(system.teacher in ("in_batch", "dual") for system in trained):
        yield Use("colbert", shipped.model(profile, "colbert"), max(q + profile.query_masks, p))
    if trained and _pairs_need_scores(profile):
        yield Use("cross_encoder", shipped.model(profile, "cat"), pair)
    for key, system in systems.items():
        role = {"reranked": system.by, "expanded": "expansion"}.get(system.kind)
        if role and shipped.has(profile, role):
            source = shipped.model(profile, role)
            if system.kind == "reranked" or profile.expansion.model:  # shipped words need no model
                yield Use(shipped.ROLES[role][1], source, pair if role == "cat" else 0)
        if system.kind == "checkpoint":
            yield Use(f"systems.{key}.source", located(system.source), max(q, p))


def _pairs_need_scores(profile: Profile) -> bool:
    """Whether a cross-encoder scores the training pairs: none are shipped, and no file of pairs has them."""
    if isinstance(profile.source, DocsSource) or (profile.artefacts_folder / "scores").is_dir():
        return False
    return not pairs_are_scored(profile)


def _fits(profile: Profile, use: Use) -> None:
    inside = pretrained.load_config(use.source).get(pretrained.INSIDE)
    try:
        config = transformers.AutoConfig.from_pretrained(inside or use.source)
    except (OSError, ValueError):
        return  # unknown to `transformers`: loading it raises the error
    positions = getattr(config, "max_position_embeddings", None) or math.inf
    if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet"):  # they count from the padding's id
        positions -= config.pad_token_id + 1
    # a row in sentence-transformers' format is cut at its own maximum
    own_cap = use.key.startswith("systems.") and pretrained.read_json(use.source, pretrained.MODULES)
    if getattr(config, "position_biased_input", True) and use.tokens > positions and not own_cap:
        raise ValueError(
            f"{use.source!r} has positions for {positions} tokens, but reads up to {use.tokens}: "
            "lower `tokens.query` or `tokens.passage`, or name another model"
        )
    vocabulary = pretrained.tokenizer_of(profile, use.source).get_vocab()
    highest, n = max(vocabulary.values()), getattr(config, "vocab_size", math.inf)
    if highest >= n:
        raise ValueError(
            f"the tokenizer of {use.source!r} has ids up to {highest}, but its embedding has {n} rows: put the "
            "tokenizer that it was trained with into its folder, or name another model"
        )
