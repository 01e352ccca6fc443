"""Encoding a collection: fp16 vectors of all tokens, or of all passages.

You can interrupt encoding; run it again and it resumes at the first missing shard. Which texts are encoded
together depends on the shard alone: its bytes are the same in every run (on one kind of processor and as many threads).
"""

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from tas_lib import models
from tas_lib.config import Profile, System
from tas_lib.data import shipped, store
from tas_lib.data.collection import Collection
from tas_lib.data.progress import Progress
from tas_lib.data.tokens import open_tokens, tokenise, tokenizer_digest
from tas_lib.records import FloatArray, IntArray, Ragged
from tas_lib.retrieval import dense, frozen, pretrained
from tas_lib.retrieval.sentence import SentenceEncoder

log = logging.getLogger(__name__)
SHARD = 100_000  # texts in a shard
JOINED = "vectors.npy"
CHUNK = 64  # texts at a time
ON_CPU = 32  # whose states fit its cache, if all layers are computed
TextSearch = Callable[[Sequence[str], int], tuple[IntArray, FloatArray]]
"""(texts of queries, depth) → passage indices and scores, both (Q, depth)"""
Encode = Callable[[IntArray], FloatArray]
"""Indices of texts (N,) → their fp32 vectors (N, D)"""


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def encode(
    model: torch.nn.Module, tokens: Ragged, rows: IntArray | None = None, chunk: int = 0, precision: str = "fp32"
) -> FloatArray:
    """fp32 vectors (N, D) of the texts at `rows` (N,), of all by default. precision: in which the model computes."""
    rows, kind = np.arange(len(tokens.lengths)) if rows is None else rows, next(model.parameters()).device.type
    progress = Progress(log, f"vectors of {len(rows):,} texts", int(tokens.lengths_of(np.unique(rows)).sum()))
    chunk = chunk or (ON_CPU if kind == "cpu" and np.ndim(tokens.ids) == 1 else CHUNK)
    with torch.autocast(kind, models.PRECISION[precision], enabled=precision != "fp32"):
        return models.encode_rows(model.eval(), tokens, rows, chunk, progress.add).float().cpu().numpy()


@torch.inference_mode()
def token_vectors(
    model: models.ColBert | frozen.LowerLayers, tokens: Ragged, key: str = "colbert", chunk: int = CHUNK
) -> FloatArray:
    """fp16 vectors (all tokens, D) of all texts, encoded in length-sorted chunks. key: see `finite`."""
    device = next(model.parameters()).device
    out = np.empty((tokens.offsets[-1], model.dim), np.float16)
    progress = Progress(log, f"token vectors of {len(tokens.lengths):,} texts", len(out))
    for rows in models.length_chunks(tokens.lengths, chunk):
        ids, mask = models.pad([tokens.row(row) for row in rows], device)
        vecs = model(ids, mask)[mask.bool()].half().cpu().numpy()
        where = np.concatenate([np.arange(tokens.offsets[row], tokens.offsets[row + 1]) for row in rows])
        out[where] = finite(vecs, key)
        progress.add(len(vecs))
    return out


def open_texts(
    profile: Profile, collection: Collection, layers: int, names: Iterable[str] = ("train", "stop", "passages")
) -> dict[str, Ragged]:
    """What a student's `trained_part` reads of the passages and sets: token ids (T,) of a text, or its states (T, D).

    layers: how many are frozen. Their states in fp16 are made once, of the training queries, the early-stopping set and
    the passages, or of those in `names`; other queries are encoded by the whole student.
    """
    tokens = open_tokens(profile, collection)
    if not layers:
        return tokens
    source, parameters, result = shipped.encoder(profile), profile.tokens.model_dump(), {}
    inputs = {"collection": collection.digest, "encoder": store.folder_digest(Path(source))}
    for name in names:

        def make(folder: Path, texts: Ragged = tokens[name]) -> None:
            lower = frozen.LowerLayers(pretrained.load_dot(source, profile.pooling).to(device()), layers)
            store.save_arrays(folder, states=token_vectors(lower, texts, "encoder"))

        folder = store.Store(profile.folder).artefact(f"states/{layers}-{name}", parameters, inputs, make)
        result[name] = Ragged(store.load_array(folder / "states.npy"), tokens[name].offsets)
    return result


def finite(vecs: FloatArray, key: str) -> FloatArray:
    """The same fp16 vectors, or ValueError. key: of the profile, names the model."""
    if np.isfinite(vecs).all():
        return vecs
    why = "are not numbers: its weights are damaged" if np.isnan(vecs).any() else "exceed 65,504, the largest of fp16"
    raise ValueError(f"{key}: vectors of this model {why}; name another model, or one that normalises its vectors")


def write_vectors(vectors_of: Encode, n: int, folder: Path) -> None:
    """The vectors (n, D) of n texts in fp16, in one file: the shards that are missing, then all of them joined.

    Joining needs the space twice; a single shard is left alone.
    """
    whole, shards = folder / JOINED, [folder / f"{number:05d}.npy" for number in range(math.ceil(n / SHARD))]
    for number, path in enumerate(shards):
        if not path.exists() and not whole.exists():
            vecs = vectors_of(np.arange(number * SHARD, min((number + 1) * SHARD, n)))
            key = f"systems: {folder.name.strip('.').removesuffix('.draft')}"
            store.save_arrays(folder, **{path.stem: finite(vecs.astype(np.float16), key)})
            log.info("encoded shard %d of %d", number + 1, len(shards))
    if len(shards) > 1:
        if not whole.exists():
            join(shards, whole)
        for path in shards:
            path.unlink(missing_ok=True)


def join(shards: Sequence[Path], whole: Path) -> None:
    """Write the arrays of all shards to one file that search can map."""
    parts = [store.load_array(path) for path in shards]
    shape = (sum(map(len, parts)), parts[0].shape[1])
    with store.atomic_write(whole, "wb") as f:
        np.lib.format.write_array_header_1_0(f, {"descr": "<f2", "fortran_order": False, "shape": shape})
        for part in parts:
            f.write(np.ascontiguousarray(part).data)


def read_vectors(folder: Path) -> torch.Tensor:
    """The fp16 vectors (N, D), memory-mapped."""
    paths = sorted(folder.glob("*.npy"))
    if len(paths) != 1:
        raise ValueError(f"{folder} holds {len(paths)} files of vectors, not one: delete it, and it is made again")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the array is not writable, and nobody writes to it
        return torch.from_numpy(store.load_array(paths[0]))


class BiEncoder:
    """An encoder with its collection. A published model has its own tokenizer, any other the profile's."""

    def __init__(self, profile: Profile, collection: Collection, system: System, source: str) -> None:
        """source: the model's folder or hub name. Raises ValueError if it has no vector per text."""
        self.profile, self.collection, self.system, self.source = profile, collection, system, source
        self.published = system.kind == "checkpoint"
        self.layers = 0 if self.published else profile.of(system).training.frozen_layers
        self.precision = profile.of(system).training.precision  # as in training
        self.pooling = system.pooling or profile.pooling
        if self.published and (kind := pretrained.another_kind(source)):
            raise ValueError(f"{source!r}: this is {kind}; a checkpoint has one encoder, and one vector per text")
        self.in_modules = self.published and bool(pretrained.read_json(source, pretrained.MODULES))
        self.store = store.Store(profile.folder)

    def load(self) -> torch.nn.Module:
        """The model, on the GPU if there is one: from ids and mask (N, T) to vectors (N, D)."""
        if self.in_modules:
            return SentenceEncoder(self.source, device()).eval()
        if self.system.kind == "trained" and not Path(self.source, "model.safetensors").exists():
            name = self.system.name
            raise ValueError(
                f"the weights of {name} are not here, since the results pack leaves them out: notebook 06 with this "
                f"system's parameters trains it, and so does ./run_all.sh {self.profile.name} {name}"
            )
        return pretrained.load_dot(self.source, self.pooling).to(device()).eval()

    def inputs(self) -> dict[str, str]:
        """Digests of what its vectors depend on besides the collection."""
        rounded = {"precision": self.precision} if self.precision != "fp32" else {}
        if not self.published:
            states = rounded | ({"frozen_layers": str(self.layers)} if self.layers else {})
            digest = store.folder_digest if self.system.kind == "untrained" else store.digest_of
            return {"model": digest(Path(self.source))} | states
        stated = self.system.model_dump(include={"query_prompt", "passage_prompt", "normalize"}, exclude_defaults=True)
        inputs = {"model": store.folder_digest(Path(self.source))} | {key: str(value) for key, value in stated.items()}
        if self.in_modules:
            return inputs
        return inputs | {"tokenizer": tokenizer_digest(self.tokenizer), "pooling": self.pooling} | rounded

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """A published model's own, or the profile's."""
        return pretrained.tokenizer_of(self.profile, self.source if self.published else self.profile.encoder_path)

    def texts_encoder(self, name: str) -> Encode:
        """From indices of passages (`passages`) or of a set's queries to vectors, by stored token ids or states."""
        encoded = partial(encode, precision=self.precision)
        if self.published:
            return partial(encoded, self.load(), open_tokens(self.profile, self.collection, self.tokenizer)[name])
        texts = open_texts(self.profile, self.collection, self.layers, [name])
        return partial(encoded, frozen.trained_part(self.load(), self.layers), texts[name])

    def vectors(self) -> torch.Tensor:
        """(P, D) fp16 vectors of the whole collection, memory-mapped."""

        def make(folder: Path) -> None:
            write_vectors(self.passage_encoder(), len(self.collection.passages.ids), folder)

        name, parameters, inputs = self.artefact
        return read_vectors(self.store.artefact(name, parameters, inputs, make))

    @property
    def artefact(self) -> tuple[str, dict[str, int], dict[str, str]]:
        """Name, parameters and inputs of the artefact `vectors`."""
        inputs = {**self.inputs(), "collection": self.collection.digest}
        return f"vectors/{self.system.name}", self.profile.tokens.model_dump(), inputs

    def text_encoder(self, side: Literal["query", "passage"]) -> Callable[[Sequence[str]], FloatArray]:
        """From texts to vectors (N, D), with everything loaded; a row's prompt is not counted in the maximum length."""
        model, cap = self.load(), getattr(self.profile.tokens, side)
        prompt, normalize = getattr(self.system, f"{side}_prompt"), self.system.normalize
        if isinstance(model, SentenceEncoder):
            return partial(model.encode, side=side, prompt=prompt, normalize=normalize)
        tokenizer = self.tokenizer
        cap += len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) if prompt else 0

        def encode_texts(texts: Sequence[str]) -> FloatArray:
            vecs = encode(model, tokenise(tokenizer, [prompt + text for text in texts], cap), precision=self.precision)
            return vecs / np.linalg.norm(vecs, axis=1, keepdims=True).clip(1e-12) if normalize else vecs

        return encode_texts

    def passage_encoder(self) -> Encode:
        """From indices of passages to vectors (N, D), with everything loaded; what is stored is used if it can be."""
        if not self.in_modules and not self.system.passage_prompt and not self.system.normalize:
            return self.texts_encoder("passages")
        encode_texts, texts = self.text_encoder("passage"), self.collection.passages.texts
        return lambda indices: encode_texts([texts[i] for i in indices])

    def searcher(self) -> TextSearch:
        """Exact search for the texts of any queries, with everything loaded."""
        encode_texts, search_all = self.text_encoder("query"), dense.searcher(self.vectors())
        return lambda texts, depth: search_all(torch.from_numpy(encode_texts(texts)), depth)
