"""One gradient per record: that of the record alone, whatever else is in the piece."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.records import (
    COMPONENTS,
    ITEMS,
    Setup,
    alone,
    gather,
    pairs,
)
from torch import nn

from hushrec.client import gradients as gradients_module
from hushrec.client.gradients import RoundTexts, round_inputs, row_gradients
from hushrec.common.postnorm import PostNormStack

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
    *COMPONENTS,
]


def choose_way(made: Setup, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Opacus' hooks; written out, from the texts of a piece; or from the catalogue encoded once."""
    if made[2].model.top_layers:
        assert isinstance(made[0].recommender.encoder.stack, PostNormStack)
    if way == "hooks":
        monkeypatch.setattr(made[0].recommender.encoder, "stack", None)
    if way == "piece":
        monkeypatch.setattr(gradients_module, "KEPT_BYTES", 0)


@pytest.mark.parametrize("way", ["hooks", "piece", "catalogue"])
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_the_gradient_of_each_record_is_that_of_the_record_alone(
    setup: Callable[..., Setup], changes: dict[str, Any], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, rows = setup(**changes), pairs()
    choose_way(made, way, monkeypatch)
    if made[2].train.negatives > ITEMS:
        made = (made[0], made[1], made[2].replace(train__negatives=ITEMS))
    found = gather(made, rows)
    silent = not made[2].model.profiles
    assert not silent or bool((found[0] == 0).all())  # a record of one item, and nothing known before it
    for number in range(silent, len(rows)):
        expected = alone(made, rows[number])
        assert (found[number] - expected).norm() <= 1e-5 * expected.norm()
        assert expected.norm() > 1e-3


def test_a_catalogue_is_encoded_once_a_round_and_only_where_it_pays(
    setup: Callable[..., Setup], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, rows = setup(), pairs()
    texts = RoundTexts(made[0], made[1].seed)
    assert texts.encode(round_inputs(*made[:2], rows[:1], made[2])) is None  # one record of a large catalogue
    many = round_inputs(*made[:2], rows, made[2])
    whole = texts.encode(many)
    assert whole is not None
    assert len(whole.vectors) == ITEMS
    assert texts.encode(many) is whole
    monkeypatch.setattr(gradients_module, "KEPT_BYTES", 0)
    assert RoundTexts(made[0], made[1].seed).encode(many) is None


def test_an_encoded_catalogue_holds_nothing_of_the_clients_that_used_it(setup: Callable[..., Setup]) -> None:
    made, rows = setup(), pairs()
    texts = RoundTexts(made[0], made[1].seed)
    whole = texts.encode(round_inputs(*made[:2], rows, made[2]))
    assert whole is not None
    before = [value.clone() for kept in whole.kept for value in kept.values()]
    first = gather(made, rows, texts)
    gather(made, pairs(client="other"), texts)
    after = [value for kept in whole.kept for value in kept.values()]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert torch.equal(gather(made, rows, texts), first)


@pytest.mark.parametrize("tokens", [1, 400, 10**9])
def test_the_size_of_the_pieces_changes_no_gradient(
    setup: Callable[..., Setup], tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, rows = setup(), pairs()
    expected = gather(made, rows)
    monkeypatch.setattr(gradients_module, "TOKENS_PER_PASS", tokens)
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
