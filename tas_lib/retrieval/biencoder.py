"""A BERT_DOT at work on a collection: its vectors of all passages, and exact search over them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tas_lib.config import Profile, System
from tas_lib.data import store
from tas_lib.data.collection import Collection
from tas_lib.data.tokens import open_tokens, tokenise, tokenizer_digest
from tas_lib.models import BertDot
from tas_lib.records import FloatArray, IntArray, Ragged
from tas_lib.retrieval import dense, pretrained
from tas_lib.retrieval import encode as encoding

TextSearch = Callable[[Sequence[str], int], tuple[IntArray, FloatArray]]
"""(texts of queries, depth) → passage indices and scores, both (Q, depth)"""


class BiEncoder:
    """A model trained here, which reads with the profile's tokenizer, or a published one, which brings its own."""

    def __init__(self, profile: Profile, collection: Collection, system: System, source: str) -> None:
        """source: the model's folder or hub name."""
        self.profile, self.collection, self.system, self.source = profile, collection, system, source
        self.published = system.kind == "checkpoint"
        self.pooling = system.pooling or profile.pooling
        self.store = store.Store(profile.folder)

    def load(self) -> BertDot:
        """The model, on the GPU if there is one."""
        return pretrained.load_dot(self.source, self.pooling).to(encoding.device()).eval()

    def inputs(self) -> dict[str, str]:
        """Digests of what its vectors depend on besides the collection."""
        if not self.published:
            return {"model": store.digest_of(Path(self.source))}
        tokenizer = tokenizer_digest(pretrained.tokenizer_of(self.profile, self.source))
        return {"model": store.folder_digest(Path(self.source)), "tokenizer": tokenizer, "pooling": self.pooling}

    def passages(self) -> Ragged:
        """Token ids of all passages."""
        tokenizer = pretrained.tokenizer_of(self.profile, self.source) if self.published else None
        return open_tokens(self.profile, self.collection, tokenizer)["passages"]

    def vectors(self) -> torch.Tensor:
        """(P, D) fp16 vectors of the whole collection, memory-mapped; shards that are already there are used."""

        def make(folder: Path) -> None:
            encoding.write_vectors(self.load(), self.passages(), folder)

        name, parameters, inputs = self.artefact
        return encoding.read_vectors(self.store.artefact(name, parameters, inputs, make))

    def encode_shards(self, numbers: Sequence[int]) -> tuple[Path, list[int]]:
        """Make these shards of `vectors`, as one of several processes or machines (tools/parallel.py).

        Returns their folder, and the numbers of the shards that are still missing there.
        """
        with self.store.parts(*self.artefact) as folder:
            encoding.write_shards(self.load(), self.passages(), folder, numbers)
            return folder, encoding.missing(folder, len(self.collection.passages.ids))

    @property
    def artefact(self) -> tuple[str, dict[str, int], dict[str, str]]:
        """Name, parameters and inputs of the artefact `vectors`."""
        inputs = {**self.inputs(), "collection": self.collection.digest}
        return f"vectors/{self.system.name}", self.profile.tokens.model_dump(), inputs

    def searcher(self) -> TextSearch:
        """Exact search for the texts of any queries, with everything loaded."""
        model, cap = self.load(), self.profile.tokens.query
        tokenizer = pretrained.tokenizer_of(self.profile, self.source if self.published else self.profile.encoder_path)
        search_all = dense.searcher(self.vectors())

        def search(texts: Sequence[str], depth: int) -> tuple[IntArray, FloatArray]:
            vecs = encoding.encode(model, tokenise(tokenizer, texts, cap))
            return search_all(torch.from_numpy(vecs), depth)

        return search
