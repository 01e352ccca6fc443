"""A collection on disk: texts, judgements and token ids, made once from a source and memory-mapped from then on."""

import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tas_lib import models
from tas_lib.config import ROOT, DocsSource, LocalSource, Profile, Tokens
from tas_lib.data import blocks, shipped, store
from tas_lib.data.columns import Held, Rows, stored
from tas_lib.data.growing import Growing
from tas_lib.data.sources import docs, local, msmarco
from tas_lib.records import IntArray, QuerySet, Ragged, Source, Texts

GROUP = 1 << 14  # passages that are read at a time, some 6 MB
PASSAGE = pa.schema([("id", pa.string()), ("title", pa.string()), ("text", pa.string())])
log = logging.getLogger(__name__)


class Collection:
    """Passages and query sets of one profile; opened from the store, made there first if need be."""

    def __init__(self, folder: Path) -> None:
        """Open the artefact `collection`."""
        self.folder = folder
        self.digest = store.digest_of(folder)
        path = folder / "passages.parquet"
        self.passages = Texts(Held(pq.read_table(path, columns=["id"])["id"]), stored(path, "text"))
        self.titles = stored(path, "title")
        self.row = Rows(self.passages.ids)
        self.sets = {path.stem: _read_set(path) for path in sorted((folder / "queries").glob("*.parquet"))}
        self.barred: IntArray = np.array(store.load_array(folder / "barred.npy"))
        self.report: dict[str, dict[str, int]] = store.read_json(folder / "report.json")

    def relevant(self, name: str, grade: int = 1) -> list[IntArray]:
        """For each query of a set, the rows of its passages judged `grade` or higher."""
        ids, _ = self.sets[name].queries
        judged = [[p for p, g in self.sets[name].qrels[query].items() if g >= grade] for query in ids]
        rows = self.row.of([p for passages in judged for p in passages]).astype(np.int64)
        ends = np.cumsum([len(passages) for passages in judged])
        return [of_one[of_one >= 0] for of_one in np.split(rows, ends[:-1])] if judged else []


def open_collection(profile: Profile) -> Collection:
    """The collection of a profile, read from its source if it is not in the store yet."""
    place, settings = store.Store(profile.folder), profile.source
    inputs, read = _source(profile)
    found = Collection(
        place.artefact("collection", settings.model_dump(), inputs, lambda folder: write(read(), folder))
    )
    if "train" not in found.sets:
        log.warning("profile %s has %s", profile.name, local.NO_TRAINING)
    return found


def _source(profile: Profile) -> tuple[dict[str, str], Callable[[], Source]]:
    """What a collection is made from, by digest, and the function that reads it."""
    settings = profile.source
    if isinstance(settings, LocalSource):
        return local.inputs(settings), partial(local.read, settings)
    if not isinstance(settings, DocsSource):
        return msmarco.inputs(settings), partial(msmarco.read, settings)
    if others := store.off_pins(settings.packages, ROOT / "requirements.txt"):
        log.warning(
            "installed otherwise than pinned in requirements.txt: %s; going on with their texts, and the shipped "
            "model scores what is not among the shipped scores",
            ", ".join(others),
        )
    return {"packages": store.digest(store.installed(settings.packages))}, partial(docs.read, settings)


def published_pairs(profile: Profile) -> Path | None:
    """The file of training pairs that a collection comes with (read_triples), fetched if need be; or None."""
    settings = profile.source
    if isinstance(settings, LocalSource):
        return local.pairs(settings)
    return None if isinstance(settings, DocsSource) else msmarco.pairs(settings)


def write(source: Source, folder: Path) -> None:
    """A source as parquet (texts), npy and JSON; the same source gives the same bytes.

    Passages go through memory `GROUP` at a time, and can be read back so.
    """
    passages = zip(source.passages.ids, source.titles, source.passages.texts, strict=True)
    with pq.ParquetWriter(folder / "passages.parquet", PASSAGE) as file:
        while group := [*islice(passages, GROUP)]:
            file.write_table(pa.table([*zip(*group, strict=True)], PASSAGE))
    (folder / "queries").mkdir(exist_ok=True)
    for name, queries in source.sets.items():
        qrels = [[{"id": p, "grade": g} for p, g in queries.qrels[q].items()] for q in queries.queries.ids]
        table = pa.table({"id": queries.queries.ids, "text": queries.queries.texts, "qrels": qrels})
        pq.write_table(table, folder / "queries" / f"{name}.parquet")
    store.save_arrays(folder, barred=np.asarray(source.barred))
    store.write_json(folder / "report.json", source.report)


def _read_set(path: Path) -> QuerySet:
    table = pq.read_table(path)
    ids = table["id"].to_pylist()
    qrels = {
        q: {j["id"]: j["grade"] for j in judged} for q, judged in zip(ids, table["qrels"].to_pylist(), strict=True)
    }
    return QuerySet(path.stem, Texts(ids, table["text"].to_pylist()), qrels)


# --- token ids ---------------------------------------------------------------------------------------------------


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder or a hub name; ValueError says what could not be loaded."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)
        if len(tokenizer) <= len(tokenizer.all_special_ids):  # what `transformers` makes of a folder without one
            raise OSError("it knows no words")
        return tokenizer
    except Exception as error:  # tokenizers and the hub raise their own kinds
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"no tokenizer in {name!r}: {why}") from error


def tokenizer_of(profile: Profile, source: str) -> PreTrainedTokenizerBase:
    """A published model's own; where it was published without one, that of the model it was trained from."""
    config = models.load_config(source)
    try:
        return load_tokenizer(source)
    except ValueError:
        start = str(config.get(models.INSIDE) or shipped.encoder(profile))
        log.warning("%s brings no tokenizer, that of %s is taken", source, start)
        return load_tokenizer(start)


def tokenise(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], cap: int) -> Ragged:
    """Token ids of texts, CLS and SEP included, cut at `cap` tokens (§4.1)."""
    backend = tokenizer.backend_tokenizer  # without what `transformers` makes of its answer: a fifth of the time
    backend.enable_truncation(cap, direction=tokenizer.truncation_side)
    backend.no_padding()
    rows = backend.encode_batch_fast(list(texts))
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return Ragged(np.fromiter(chain.from_iterable(row.ids for row in rows), id_type(tokenizer), offsets[-1]), offsets)


def id_type(tokenizer: PreTrainedTokenizerBase) -> type[np.integer]:
    """The smallest integers that hold its token ids."""
    return np.uint16 if len(tokenizer) < 2**16 else np.int32


def write_tokens(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], cap: int, folder: Path, name: str, group: int = GROUP
) -> None:
    """`tokenise`, a group of texts at a time, to `<name>-ids.npy` and `<name>-offsets.npy`.

    What a killed run left there is gone on with. The tokenizer takes all cores for a group, and the next one is begun
    before the last is written.
    """
    with (
        Growing(folder / f"{name}-ids.npy", id_type(tokenizer)) as ids,
        Growing(folder / f"{name}-offsets.npy", np.int64) as offsets,
    ):
        if not len(offsets):
            offsets.append(np.zeros(1))
        end, done = int(offsets.last()), len(offsets) - 1
        ids.cut(end)

        def tokens(start: int) -> Ragged:
            return tokenise(tokenizer, texts[start : start + group], cap)

        for part in blocks.ahead(tokens, range(done, len(texts), group)):
            ids.append(part.ids)  # first: an offset says that its ids are there
            offsets.append(end + part.offsets[1:])
            end += int(part.offsets[-1])
            if len(offsets) - 1 < len(texts):
                log.info("%s: tokens of %d of %d texts", name, len(offsets) - 1, len(texts))


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of what decides the ids; where a text is cut and how it is padded is said by whoever asks."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    return store.digest({name: part for name, part in parts.items() if name not in ("truncation", "padding")})


def open_tokens(
    profile: Profile, collection: Collection, another: PreTrainedTokenizerBase | None = None
) -> dict[str, Ragged]:
    """Token ids of the passages (key `passages`) and of each query set, made once and memory-mapped.

    another: a tokenizer in place of the encoder's; one that gives the same ids shares them.
    """
    tokenizer, place = load_tokenizer(shipped.encoder(profile)), "tokens"
    digest = store.digest(tokenizer.backend_tokenizer.to_str())
    if another is not None and tokenizer_digest(another) != tokenizer_digest(tokenizer):
        tokenizer, digest = another, tokenizer_digest(another)
        place = f"tokens-{digest}"

    def make(folder: Path) -> None:
        caps: Tokens = profile.tokens
        for name, texts, cap in [
            ("passages", collection.passages.texts, caps.passage),
            *((name, s.queries.texts, caps.query) for name, s in collection.sets.items()),
        ]:
            write_tokens(tokenizer, texts, cap, folder, name)

    inputs = {"collection": collection.digest, "tokenizer": digest}
    folder = store.Store(profile.folder).artefact(place, profile.tokens.model_dump(), inputs, make)
    return {
        name: Ragged(store.load_array(folder / f"{name}-ids.npy"), store.load_array(folder / f"{name}-offsets.npy"))
        for name in ("passages", *collection.sets)
    }
