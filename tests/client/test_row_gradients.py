"""One gradient per record: that of the record alone, whatever else is in the piece."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.records import (
    ITEMS,
    Setup,
    alone,
    gather,
    pairs,
)
from torch import nn

from hushrec.client import training
from hushrec.client.training import row_gradients

# --- one gradient per record ---

VARIANTS: list[dict[str, Any]] = [
    {"model__adapter": kind, "model__top_layers": k} for kind in ("lora", "ffa", "sb") for k in (1, 2)
]
VARIANTS += [
    {"model__train_heads": False},
    {"model__train_mix": False},
    {"model__train_heads": False, "model__train_mix": False},
    {"model__head_core": "scale", "model__train_heads": False},
    {"model__head_core": "full", "model__train_heads": False},
    {"model__head_core": "full", "model__top_layers": 0},
    {"model__top_layers": 0},
    {"model__top_layers": 3, "model__targets": "query,value"},
    {"train__shared_negatives": True},
    {"train__negatives": 400, "model__adapter": "sb"},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_the_gradient_of_each_record_is_that_of_the_record_alone(
    setup: Callable[..., Setup], changes: dict[str, Any]
) -> None:
    made, rows = setup(**changes), pairs()
    if made[2].train.negatives > ITEMS:
        made = (made[0], made[1], made[2].replace(train__negatives=ITEMS))
    found = gather(made, rows)
    assert bool((found[0] == 0).all())  # a record of one item
    for number in range(1, len(rows)):
        expected = alone(made, rows[number])
        assert (found[number] - expected).norm() <= 1e-5 * expected.norm()
        assert expected.norm() > 1e-3


@pytest.mark.parametrize("tokens", [1, 400, 10**9])
def test_the_size_of_the_pieces_changes_no_gradient(
    setup: Callable[..., Setup], tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, rows = setup(), pairs()
    expected = gather(made, rows)
    monkeypatch.setattr(training, "TOKENS_PER_PASS", tokens)
    pieces = [len(chosen) for chosen, _ in row_gradients(*made[:2], rows, made[2])]
    assert (max(pieces) == 1) == (tokens == 1)
    assert (len(pieces) == 1) == (tokens == 10**9)
    assert (gather(made, rows) - expected).norm() <= 1e-5 * expected.norm()


def test_dropout_is_off_while_training_privately(setup: Callable[..., Setup]) -> None:
    made, rows = setup(), pairs()
    dropouts = [module for module in made[0].recommender.modules() if isinstance(module, nn.Dropout)]
    assert any(module.p == 0.1 for module in dropouts)
    expected = gather(made, rows)
    made[0].recommender.train()
    assert torch.equal(gather(made, rows), expected)
    made[0].recommender.eval()
