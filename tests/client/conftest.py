"""Fixtures of the tests of clients."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from support.records import (
    DENOMINATOR,
    ITEMS,
    RATE,
    C,
    Setup,
    catalog,
)
from transformers import BertConfig, BertModel

from hushrec.client import private
from hushrec.common.config import RunConfig
from hushrec.common.protocol import TrainRequest
from hushrec.common.workspace import build_model


@pytest.fixture(scope="module")
def record_base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tiny BERT whose configuration has dropout on."""
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    config = BertConfig(vocab_size=len(words), initializer_range=0.3, hidden_dropout_prob=0.1, **size)
    BertModel(config).save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUSHREC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield str(folder)


@pytest.fixture(scope="module")
def setup(record_base: str) -> Callable[..., Setup]:
    """Model, request and configuration, with nonzero adapters scaled by `strength`."""

    def build(strength: float = 1.0, **changes: Any) -> Setup:
        flat = {
            "data.name": "synthetic",
            "model.base": record_base,
            "model.dtype": "float32",
            "model.head-dim": 6,
            "model.r": 2,
            "train.window": 8,
            "train.negatives": 5,
            "train.shared-negatives": False,
            "train.learning-rate": RATE,
            "privacy.noise-multiplier": 1.0,
            "privacy.max-grad-norm": C,
            "privacy.denominator": DENOMINATOR,
        }
        config = RunConfig.from_flat(flat).replace(**changes)
        model = build_model(config.model, catalog())
        rng = np.random.default_rng(1)
        adapter = {
            name: (strength * (value + rng.normal(0, 0.2, value.shape))).astype(np.float32)
            for name, value in model.recommender.read().items()
        }
        prior = rng.normal(0, 1, ITEMS).astype(np.float32)
        model.recommender.write(adapter)
        return model, TrainRequest(adapter, prior, 1, 77), config

    return build


@pytest.fixture
def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only here: the configuration refuses to run without noise."""
    monkeypatch.setattr(private, "secret_gaussian", torch.zeros)
