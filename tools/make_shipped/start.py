"""What students start from: all-MiniLM-L6-v2 with the collection's vocabulary, its last layer re-initialised.

Its first five layers know language; without the sixth they find almost nothing, as DistilBERT does (CHANGELOG).
"""

import json
from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoModel, AutoTokenizer, BertModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tas_lib.records import IntArray
from tools.make_shipped.settings import Start


def cut_tokenizer(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> tuple[PreTrainedTokenizerBase, IntArray]:
    """The tokenizer with only the pieces that `texts` use, single characters and special tokens; and their old ids."""
    used = {i for ids in tokenizer(list(texts))["input_ids"] for i in ids}
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {token["content"] for token in spec["added_tokens"]}
    kept = [
        (piece, i)
        for piece, i in sorted(spec["model"]["vocab"].items(), key=lambda item: item[1])
        if i in used or piece in special or (len(piece.removeprefix("##")) == 1 and piece.isascii())
    ]
    new = {piece: n for n, (piece, _) in enumerate(kept)}
    spec["model"]["vocab"] = new
    for token in spec["added_tokens"]:
        token["id"] = new[token["content"]]
    for name, token in spec["post_processor"].get("special_tokens", {}).items():
        token["ids"] = [new[name]]
    for side in {"sep", "cls"} & set(spec["post_processor"]):
        spec["post_processor"][side][1] = new[spec["post_processor"][side][0]]
    spec["truncation"] = spec["padding"] = None
    cut = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
        **tokenizer.special_tokens_map,
    )
    return cut, np.array([i for _, i in kept])


def cut_model(folder: str, texts: Sequence[str]) -> tuple[BertModel, PreTrainedTokenizerBase]:
    """The larger model with the cut vocabulary: the same vectors for every text that the kept pieces can spell.

    Without dropout: all choices for students were made without (experiments/docs2).
    """
    tokenizer, kept = cut_tokenizer(AutoTokenizer.from_pretrained(folder), texts)
    options = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "add_pooling_layer": False}
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, **options)
    words = model.get_input_embeddings().weight.data[torch.from_numpy(kept)]
    model.resize_token_embeddings(len(kept))
    model.get_input_embeddings().weight.data.copy_(words)
    return model, tokenizer


def draw_last_layer(encoder: BertModel, settings: Start) -> None:
    """Re-initialise the last layer as BERT initialises its weights: normal, no bias, gains of one."""
    generator = torch.Generator().manual_seed(settings.seed)
    for module in encoder.encoder.layer[-1].modules():
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(0.0, settings.spread, generator=generator)
            module.bias.data.zero_()
        elif isinstance(module, nn.LayerNorm):
            module.weight.data.fill_(1.0)
            module.bias.data.zero_()
