"""Models from a folder or the hub, and how ours are saved: any encoder, published teachers, cross-encoders, T5.

Every `load_*` takes a folder or a hub name and raises a one-line ValueError that says what could not be loaded and why.
"""

import inspect
import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers  # whose parts load when they are first used: those with models take seconds
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils import cached_file

from tas_lib.config import Profile
from tas_lib.data import shipped, store
from tas_lib.data.tokens import load_tokenizer, tokenizer_digest
from tas_lib.models import BertCat, BertDot, Classifier, ColBert, PreTrainedModel

INSIDE = "bert_model"  # teachers published with the public code: their config's name of the encoder, and its prefix
MODULES, SETTINGS = "modules.json", "config_sentence_transformers.json"  # of sentence-transformers
SHARED, WORDS = "word_embeddings_of", "embeddings.word_embeddings.weight"
"""A shipped teacher's config names the folder, beside its own, that has its word embeddings; and their name there."""
log = logging.getLogger(__name__)


@contextmanager
def one_line(what: str, name: str) -> Iterator[None]:
    """Turn the errors of safetensors and the hub into a ValueError of one line."""
    try:
        yield
    except Exception as error:
        where = "folder" if Path(name).exists() else "hub name (no such folder here, and the hub gave nothing)"
        first, *others = str(error).strip().splitlines() or [type(error).__name__]
        reason = f"{first} {others[0].strip()}" if others and first.endswith(":") else first
        raise ValueError(f"no {what} in the {where} {name!r}: {reason}") from error


def load_config(name: str) -> dict[str, Any]:
    """The contents of `config.json`."""
    with one_line("encoder", name):
        config: dict[str, Any] = transformers.PretrainedConfig.get_config_dict(name)[0]
        if not config:
            raise OSError("there is no config.json")
        return config


def read_json(name: str, file: str) -> Any:
    """The contents of a JSON file of a folder or hub name; {} if it has no such file."""
    with one_line(file, name):
        path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
        return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}


def another_kind(name: str, head: bool = False) -> str:
    """What a model is if it is not an encoder with one vector per text, else "". head: may be a teacher with a head."""
    settings, modules = read_json(name, SETTINGS), read_json(name, MODULES)
    config = read_json(name, "config.json") if modules else load_config(name)
    kind, architectures = settings.get("model_type", "SentenceTransformer"), str(config.get("architectures"))
    if kind == "ColBERT" or any("pylate" in module["type"] for module in modules):
        return "a PyLate model: a ColBERT, with a vector per token"
    if kind != "SentenceTransformer":
        return f"a {kind} of sentence-transformers"
    if "HF_ColBERT" in architectures:
        return "a ColBERT in Stanford's form, with a vector per token"
    if config.get("model_type") == "dpr":
        return "one half of a DPR pair, whose queries and passages have different encoders"
    if not head and (config.get(INSIDE) or (Path(name) / "head.safetensors").exists()):
        return "a BERT_CAT or a ColBERT, with a head that an encoder has not"
    seq2seq = transformers.models.auto.modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    if not modules and config.get("model_type") in seq2seq:
        return f"a {config['model_type']}, which needs {MODULES} of sentence-transformers to have one vector per text"
    return "" if modules or "ForSequenceClassification" not in architectures else "a cross-encoder"


def refuse_missing(weights: Iterable[str]) -> None:
    """An error that names the first of the weights that a checkpoint lacks, if any."""
    if missing := sorted(weights):
        raise OSError(f"it lacks weights, such as {missing[0]}")


def load_encoder(name: str) -> PreTrainedModel:
    """An encoder of `transformers`; of a teacher published with the public code, the encoder inside."""
    inside = load_config(name).get(INSIDE)
    with one_line("encoder", name):
        config = transformers.AutoConfig.from_pretrained(inside or name)
        if config.is_encoder_decoder:
            raise ValueError(f"this is a {config.model_type}, half of which is a decoder; name an encoder such as BERT")
        options: dict[str, Any] = {"dtype": torch.float32}
        kind: Any = transformers.MODEL_MAPPING[type(config)]
        if "add_pooling_layer" in inspect.signature(kind).parameters:
            options["add_pooling_layer"] = False  # Eq. 4 has no such layer
        if words := load_config(name).get(SHARED):
            weights = load_file(Path(name, "model.safetensors"))
            weights[WORDS] = load_file(Path(name, words, "model.safetensors"))[WORDS]
            return _complete(kind, None, config=config, state_dict=weights, **options)
        if not inside:
            return _complete(transformers.AutoModel, name, config=config, **options)
        encoder = transformers.AutoModel.from_config(config, **options)
        refuse_missing(encoder.load_state_dict(_weights(name, INSIDE), strict=False).missing_keys)
        return encoder.eval()


def load_dot(name: str, pooling: str = "cls") -> BertDot:
    """A BERT_DOT: an encoder without modules beyond pooling. pooling: used unless `modules.json` names another."""
    for module in read_json(name, MODULES):
        kind = module["type"].rpartition(".")[2]
        if kind == "Pooling":  # its version 6 names the mode, older ones have a flag for each
            config = read_json(name, f"{module['path']}/config.json")
            flags = [key.split("_")[2] for key, on in config.items() if key.startswith("pooling_mode_") and on]
            pooling = config.get("pooling_mode") or ", ".join(flags) or "mean"
            if pooling not in ("cls", "mean"):
                raise ValueError(f"{name!r}: its pooling is {pooling}, and a student's is cls or mean")
        elif kind != "Transformer":
            log.warning("%s: a student starts from its encoder and pooling, without %s", name, kind)
    return BertDot(load_encoder(name), pooling)


def load_cat(name: str) -> BertCat:
    """A trained BERT_CAT: ours, or one published with the public code."""
    encoder, head = load_encoder(name), _head(name, "_classification_layer")
    if load_config(name).get(INSIDE) and encoder.config.model_type not in ("distilbert", "electra"):
        raise ValueError(f"{name!r} scores the pooled output of its {encoder.config.model_type}, not the raw CLS (D11)")
    model = BertCat(encoder, bias="bias" in head)
    model.head.load_state_dict(head)
    return model.eval()


def load_colbert(name: str) -> ColBert:
    """A trained ColBERT: ours, or one published with the public code (D10)."""
    if kind := another_kind(name, head=True):
        raise ValueError(f"{name!r}: this is {kind}; an in-batch teacher is a ColBERT of ours or the public code")
    encoder, head = load_encoder(name), _head(name, "compressor")
    model = ColBert(encoder, len(head["weight"]))
    with one_line("ColBERT", name):
        model.head.load_state_dict(head)
    return model.eval()


def load_cross_encoder(name: str) -> BertCat | Classifier:
    """Any model that reads query and passage together: a BERT_CAT, or a sequence classifier with one label."""
    if (Path(name) / "head.safetensors").exists() or load_config(name).get(INSIDE):
        return load_cat(name)
    settings, modules = read_json(name, SETTINGS), read_json(name, MODULES)
    if any(settings.get("prompts", {}).values()) or len(modules) > 1:
        raise ValueError(f"{name!r} reads query and passage in a template, not as CLS query SEP passage SEP")
    with one_line("cross-encoder", name):
        model = _complete(transformers.AutoModelForSequenceClassification, name, dtype=torch.float32)
    if model.config.num_labels != 1:
        raise ValueError(f"{name!r} is no cross-encoder: it has {model.config.num_labels} labels where a score is one")
    return Classifier(model).eval()


def load_seq2seq(name: str, device: torch.device | str = "cpu") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A sequence-to-sequence model and its tokenizer."""
    with one_line("sequence-to-sequence model", name):
        model = _complete(transformers.AutoModelForSeq2SeqLM, name, dtype=torch.float32)
    torch.nn.Module.to(model, device)
    return model, load_tokenizer(name)


def _complete(kind: Any, name: str | None, **options: Any) -> PreTrainedModel:
    """A model of one of the auto classes of `transformers`, refused if it would get random weights."""
    model, info = kind.from_pretrained(name, output_loading_info=True, **options)
    refuse_missing(info["missing_keys"])
    return model.eval()


def tokenizer_of(profile: Profile, name: str) -> PreTrainedTokenizerBase:
    """A published model's tokenizer; if it has none, that of the model it was trained from."""
    config = load_config(name)
    try:
        return load_tokenizer(name)
    except ValueError:
        start = str(config.get(INSIDE) or shipped.encoder(profile))
        log.warning("%s has no tokenizer; using that of %s", name, start)
        return load_tokenizer(start)


def digest(profile: Profile, name: str) -> str:
    """The digest of a published model's files and of the tokenizer that it reads with."""
    return store.digest(store.folder_digest(Path(name)), tokenizer_digest(tokenizer_of(profile, name)))


def _weights(name: str, prefix: str) -> dict[str, Tensor]:
    """The weights under a prefix. Only tensors are read, from older files too."""
    if path := cached_file(name, "model.safetensors", _raise_exceptions_for_missing_entries=False):
        weights = load_file(path)
    else:
        weights = torch.load(str(cached_file(name, "pytorch_model.bin")), map_location="cpu", weights_only=True)
    return {k.removeprefix(f"{prefix}."): v.float() for k, v in weights.items() if k.startswith(f"{prefix}.")}


def _head(name: str, prefix: str) -> dict[str, Tensor]:
    """The last layer: our `head.safetensors`, the weights under a prefix of a published teacher."""
    if load_config(name).get(INSIDE):
        head = _weights(name, prefix)
        if "weight" not in head:
            raise ValueError(f"{name!r} is another kind of model: it has no {prefix}.weight")
        return head
    with one_line("head.safetensors", name):
        return {k: v.float() for k, v in load_file(Path(name) / "head.safetensors").items()}


def save(model: BertDot | BertCat | ColBert, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Safetensors, config and tokenizer: `AutoModel` loads the encoder, `SentenceTransformer` a whole BERT_DOT.

    sentence-transformers' own `save` would add a random pooling layer, and files that only its version 6 reads.
    """
    model.encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if not isinstance(model, BertDot):
        save_file({k: v.contiguous() for k, v in model.head.state_dict().items()}, folder / "head.safetensors")
        return
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for file, content in {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": model.encoder.config.hidden_size,
            "pooling_mode_cls_token": model.pooling == "cls",
            "pooling_mode_mean_tokens": model.pooling == "mean",
        },
        "config_sentence_transformers.json": {"similarity_fn_name": "dot"},
    }.items():
        (folder / file).write_text(json.dumps(content, indent=1) + "\n")
