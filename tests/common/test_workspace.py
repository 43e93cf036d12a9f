"""The untrained model that every participant builds, and the whitening it starts from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from hushrec.common import workspace
from hushrec.common.datasets import load_dataset
from hushrec.common.errors import ConfigError
from hushrec.common.settings import DataConfig, ModelConfig
from hushrec.common.workspace import build_model, open_dataset, open_split, shared_model, torch_dtype, whitening

CATALOG = load_dataset("synthetic").catalog


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    folder = tmp_path_factory.mktemp("bert")
    words = sorted({word.strip("().").lower() for text in CATALOG.texts for word in text.split()})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "(", ")", ".", *words]))
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    BertModel(BertConfig(vocab_size=len(words) + 8, initializer_range=0.3, **size)).save_pretrained(folder)
    return ModelConfig(base=str(folder), dtype="float32", head_dim=8, r=2)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HUSHREC_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("start", ["whitening", "random"])
@pytest.mark.parametrize("adapter", ["lora", "ffa", "sb"])
def test_two_participants_of_equal_configuration_build_equal_models(
    config: ModelConfig, start: str, adapter: str
) -> None:
    own = replace(config, head_init=start, adapter=adapter)  # type: ignore[arg-type]
    first = build_model(own, CATALOG).recommender.state_dict()
    torch.manual_seed(99)
    second = build_model(own, CATALOG).recommender.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_model_is_built_for_reading_and_says_what_it_trains(config: ModelConfig) -> None:
    model = build_model(config, CATALOG)
    assert not any(module.training for module in model.recommender.modules())
    assert model.shapes == {name: value.shape for name, value in model.recommender.read().items()}
    assert model.shapes["item_head.weight"] == (8, 32)
    assert model.recommender.mix.weight.tolist() == [[3.0, 0.5]]
    assert len(model.prefix) == len(CATALOG)


def test_with_random_heads_nothing_is_taken_from_the_catalogue(config: ModelConfig) -> None:
    recommender = build_model(replace(config, head_init="random"), CATALOG).recommender
    assert bool((recommender.center == 0).all())
    assert not torch.equal(recommender.item_head.weight, recommender.user_head.weight)


def test_a_free_text_gets_the_vector_of_an_equal_catalogue_text_and_is_not_written_down(
    config: ModelConfig, cache: Path
) -> None:
    model = build_model(config, CATALOG)
    before = sorted(cache.rglob("*"))
    vectors = model.encode_texts([CATALOG.texts[5], CATALOG.texts[2]])
    expected = model.recommender.encoder.encode(model.prefix, torch.tensor([5, 2]))
    assert (vectors - expected).abs().max() <= 1e-5
    assert sorted(cache.rglob("*")) == before


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_whitening_divides_each_direction_by_its_spread_to_the_power(power: float) -> None:
    spread = torch.tensor([5.0, 3.0, 1.0, 0.5])
    vectors = torch.randn(4000, 4, generator=torch.Generator().manual_seed(1)) * spread + 7.0
    center, heads = whitening(vectors, 3, power)
    projected = (vectors - center) @ heads.T
    assert projected.norm(dim=1).mean() == pytest.approx(1.0, abs=1e-4)
    assert projected.mean(0).abs().max() < 1e-4
    found = projected.std(0)
    torch.testing.assert_close(found / found[0], (spread[:3] / spread[0]) ** (1 - power), rtol=0.1, atol=0.0)


@pytest.mark.parametrize("shape", [(5, 32), (32, 5)])
def test_more_directions_than_items_or_numbers_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=r"model\.head-dim of at most 5 .* got 6"):
        whitening(torch.randn(shape), 6, 0.5)


def test_the_dtype_is_the_one_named_or_one_that_was_measured(config: ModelConfig) -> None:
    assert torch_dtype(config) is torch.float32
    assert torch_dtype(replace(config, dtype="bfloat16")) is torch.bfloat16
    assert torch_dtype(replace(config, dtype="auto")) in (torch.float32, torch.bfloat16)


def test_a_process_reads_a_data_set_and_builds_a_model_once(
    config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = DataConfig(name="synthetic", max_users=7)
    assert open_dataset(data) is open_dataset(DataConfig(name="synthetic", max_users=7))
    assert open_split(data) is open_split(data)
    assert len(open_dataset(data)) == 7
    first = shared_model(config, data)
    monkeypatch.setattr(workspace, "build_model", lambda *_: pytest.fail("built twice"))
    assert shared_model(config, data) is first
    shared_model.cache_clear()
