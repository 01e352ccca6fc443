"""Checkpoints in the format of sentence-transformers, which loads and runs them itself: every module and prompt counts.

A dot product is all that search computes (Eq. 5), so a model that compares by cosine gives vectors of unit length.
"""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from tas_lib.data.progress import Progress
from tas_lib.records import FloatArray
from tas_lib.retrieval import pretrained

log = logging.getLogger(__name__)
STRETCH = 1_024  # texts sorted by length together
PROMPTS = {"query": ("query",), "passage": ("document", "passage", "corpus")}
"""Side → the names under which models keep its prompt."""


class SentenceEncoder(nn.Module):
    """A whole model of sentence-transformers."""

    def __init__(self, name: str, device: torch.device | str = "cpu") -> None:
        """name: a folder or hub name. Raises a one-line ValueError if a weight is missing."""
        from sentence_transformers import SentenceTransformer  # takes a second, and few profiles need it

        super().__init__()
        compared_by = pretrained.read_json(name, pretrained.SETTINGS).get("similarity_fn_name")
        if compared_by not in (None, "dot", "cosine"):
            raise ValueError(f"{name!r} compares vectors by {compared_by}, not by dot product or cosine")
        self.cosine = compared_by == "cosine"
        with pretrained.one_line("sentence-transformers model", name), _all_weights():
            self.model = SentenceTransformer(name, device=str(device), local_files_only=Path(name).is_dir())

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: (N, T), as for a BertDot. Returns (N, D) in fp32."""
        vecs = self.model({"input_ids": ids, "attention_mask": mask})["sentence_embedding"].float()
        return nn.functional.normalize(vecs) if self.cosine else vecs

    def encode(self, texts: Sequence[str], side: str, prompt: str = "", normalize: bool = False) -> FloatArray:
        """fp32 vectors (N, D) of texts, cut at the model's own maximum length.

        side: `query` or `passage`. prompt: in place of the model's own.
        Reading: a model's default prompt is for a side without a prompt, unless it is the other side's.
        """
        own: dict[Any, Any] = self.model.prompts
        default = {self.model.default_prompt_name} - {name for names in PROMPTS.values() for name in names}
        prompt = prompt or next((own[name] for name in (*PROMPTS[side], *default) if own.get(name)), "")
        of_side = self.model.encode_query if side == "query" else self.model.encode_document
        unit, parts = normalize or self.cosine, []
        progress = Progress(log, f"vectors of {len(texts):,} texts", len(texts))
        for start in range(0, max(len(texts), 1), STRETCH):
            some = list(texts[start : start + STRETCH])
            vecs = of_side(some, prompt=prompt, batch_size=64, show_progress_bar=False, normalize_embeddings=unit)
            parts.append(np.asarray(vecs, np.float32))
            progress.add(len(some))
        return np.concatenate(parts)


def _all_weights() -> AbstractContextManager[Any]:
    """Refuse a model of `transformers` that is loaded meanwhile and would get random weights; no pooler is needed."""
    load = vars(transformers.PreTrainedModel)["from_pretrained"].__func__

    def checked(kind: type[Any], *arguments: Any, **options: Any) -> Any:
        model, info = load(kind, *arguments, **options, output_loading_info=True)
        pretrained.refuse_missing(key for key in info["missing_keys"] if "pooler." not in key)
        return model

    return patch.object(transformers.PreTrainedModel, "from_pretrained", classmethod(checked))
