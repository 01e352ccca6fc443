"""The stand-in for DistilBERT: a tokenizer cut to the collection, and a small encoder distilled without any label.

Its texts are passages and training queries, never as pairs.
"""

import json
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.random import Generator, Philox
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from tas_lib import models
from tas_lib.data.tokens import tokenise
from tas_lib.models import BertDot
from tas_lib.records import FloatArray, IntArray, Ragged
from tools.make_shipped.settings import Pretraining
from tools.make_shipped.teachers import fit


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


def cut_model(folder: str, texts: Sequence[str]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The larger model with the cut vocabulary: the same vectors for every text that the kept pieces can spell."""
    tokenizer, kept = cut_tokenizer(AutoTokenizer.from_pretrained(folder), texts)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    words = model.get_input_embeddings().weight.data[torch.from_numpy(kept)]
    model.resize_token_embeddings(len(kept))
    model.get_input_embeddings().weight.data.copy_(words)
    return model, tokenizer


def keep_layers(model: BertModel, n: int) -> None:
    """Keep n of a BERT's layers, evenly spread, including the first and the last."""
    layers = model.encoder.layer
    kept = np.linspace(0, len(layers) - 1, n).round().astype(int)
    model.encoder.layer = nn.ModuleList(layers[i] for i in kept)
    model.config.num_hidden_layers = n


def spans(texts: Sequence[str], words: tuple[int, int], each: int, seed: int) -> list[str]:
    """`each` random spans of every passage, as long as queries are, words in order."""
    rng = Generator(Philox(key=[seed, 0]))
    result = []
    for text in texts:
        parts = text.split()
        for length in rng.integers(words[0], words[1] + 1, each):
            start = rng.integers(0, max(1, len(parts) - length + 1))
            result.append(" ".join(parts[start : start + length]))
    return result


@torch.inference_mode()
def targets(model: PreTrainedModel, tokens: Ragged, autocast: bool, chunk: int = 128) -> FloatArray:
    """Unit vectors (N, D) of the larger model: the mean over tokens, as it was trained."""
    dot, n = BertDot(model.eval(), "mean"), len(tokens.lengths)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
        parts = [
            nn.functional.normalize(models.encode_rows(dot, tokens, np.arange(i, min(i + 1024, n)), chunk))
            for i in range(0, n, 1024)
        ]
    return torch.cat(parts).float().cpu().numpy()


def principal(vectors: FloatArray, width: int) -> FloatArray:
    """The rotation (D, width) onto the directions of largest second moment, which keeps dot products best."""
    moment = vectors.T.astype(np.float64) @ vectors
    return np.linalg.eigh(moment)[1][:, ::-1][:, :width].astype(np.float32)


def pieces(tokenizer: PreTrainedTokenizerBase) -> Ragged:
    """Every piece of the vocabulary as one text."""
    ids = np.full((len(tokenizer), 3), tokenizer.cls_token_id, np.int32)
    ids[:, 1], ids[:, 2] = np.arange(len(tokenizer)), tokenizer.sep_token_id
    return Ragged(ids.ravel(), np.arange(0, ids.size + 1, 3))


def small_encoder(settings: Pretraining, words: FloatArray, pad: int) -> BertModel:
    """A small BERT whose word vectors start as `words` (vocabulary, width)."""
    torch.manual_seed(settings.seed)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=max(1, settings.width // 64),
        intermediate_size=4 * settings.width,
        max_position_embeddings=512,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=pad,
    )
    model = BertModel(config, add_pooling_layer=False)
    model.embeddings.word_embeddings.weight.data.copy_(torch.from_numpy(words * (0.05 / words.std())))
    return model


def batches(tokens: Ragged, size: int, seed: int) -> Iterator[IntArray]:
    """Endless batches of texts, in epochs: shuffled, then sorted by length within 64 batches to save padding."""
    lengths = tokens.lengths
    for epoch in range(10**9):
        rng = Generator(Philox(key=[seed, epoch]))
        order = rng.permutation(len(lengths))
        for start in range(0, len(order), 64 * size):
            stretch = order[start : start + 64 * size]
            stretch = stretch[np.argsort(lengths[stretch], kind="stable")]
            parts = [stretch[i : i + size] for i in range(0, len(stretch), size)]
            yield from (parts[i] for i in rng.permutation(len(parts)))


def distil(
    settings: Pretraining, larger: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], cap: int
) -> BertDot:
    """The small encoder, trained to place every text where the larger model places it, up to rotation and scale.

    The loss is the mean squared distance of each vector to the larger model's, plus that of the batch's cosines. A
    piece's word vector starts where the larger model places that piece as a text: the mean of a text's word vectors is
    then near its target before the first step.
    """
    tokens = tokenise(tokenizer, texts, cap)
    goal = targets(larger, tokens, settings.bf16)
    rotation = principal(goal, settings.width)
    words = targets(larger, pieces(tokenizer), settings.bf16) @ rotation
    goal = goal @ rotation
    goal *= settings.norm / np.linalg.norm(goal, axis=1).mean()  # (N, width)
    student = BertDot(small_encoder(settings, words, tokenizer.pad_token_id), settings.pooling).to(larger.device)
    stream = batches(tokens, settings.batch_size, settings.seed)

    def loss_of(step: int) -> Tensor:
        some = next(stream)
        vectors = student(*models.pad([tokens.row(i) for i in some], larger.device))  # (B, width)
        target = torch.from_numpy(goal[some]).to(larger.device)
        cosines = [nn.functional.normalize(v) @ nn.functional.normalize(v).T for v in (vectors, target)]
        distance = (vectors - target).square().sum(1).mean() / settings.norm**2
        return distance + 10 * (cosines[0] - cosines[1]).square().mean()

    adam = AdamW(student.parameters(), settings.learning_rate)
    schedule = OneCycleLR(adam, settings.learning_rate, total_steps=settings.steps, pct_start=0.05)
    fit(student, loss_of, adam, schedule, settings.steps, bf16=False)
    return student
