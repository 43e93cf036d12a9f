"""Pairs of a user and a candidate: what is read of each, which side is which, and the logit that follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.clicks import logit_alone, states_of

from hushrec.common.click_model import MARK, ClickReader, Pairs, pair_prefix
from hushrec.common.config import RunConfig
from hushrec.common.datasets import load_dataset
from hushrec.common.errors import ConfigError
from hushrec.common.workspace import Model, build_model


@pytest.fixture(scope="module")
def made(tiny: Callable[..., RunConfig]) -> Model:
    """A model with nonzero adapters and click head."""
    config = tiny(model__click=True, model__click_history=3, model__adapter="lora")
    model = build_model(config.model, load_dataset("synthetic").catalog)
    rng = np.random.default_rng(1)
    noisy = {n: (v + rng.normal(0, 0.2, v.shape)).astype(np.float32) for n, v in model.recommender.read().items()}
    model.recommender.write(noisy)
    return model


def pairs_of(**changes: Any) -> Pairs:
    parts = {
        "history": torch.tensor([[4, 9, 0], [7, 0, 0]]),
        "mask": torch.tensor([[True, True, False], [True, False, False]]),
        "candidates": torch.tensor([[1, 2], [3, 4]]),
        "wanted": torch.tensor([[True, True], [False, True]]),
    }
    return Pairs(**(parts | changes))


def test_a_pair_is_the_mean_of_each_history_item_and_every_token_of_the_marked_candidate(made: Model) -> None:
    found, pairs = pair_prefix(made.prefix, pairs_of()), pairs_of()
    assert found.lengths.tolist() == pairs.tokens(made.prefix).flatten().tolist()
    assert found.lengths[2] == 0  # not wanted
    states = found.hidden[found.offsets[1] : found.offsets[2]]
    torch.testing.assert_close(states[0], states_of(made.prefix, 4).mean(0))
    torch.testing.assert_close(states[1], states_of(made.prefix, 9).mean(0))
    mark = states[2:] - states_of(made.prefix, 2)
    torch.testing.assert_close(mark.abs(), torch.full_like(mark, MARK))


def test_user_and_candidate_do_not_read_alike_when_exchanged(made: Model) -> None:
    there, back = (float(logit_alone(made, *pair).detach()) for pair in (([4], 9), ([9], 4)))
    assert abs(there - back) > 1e-3


def test_the_readers_logits_are_those_of_each_pair_alone_in_any_batch(made: Model) -> None:
    users = [np.array([5, 4, 9, 12]), np.array([7]), np.array([30, 31])]
    candidates = np.array([[1, 2], [3, 4], [0, 8]])
    found = ClickReader(made).logits(users, candidates)
    for user, own, row in zip(users, candidates, found, strict=True):
        for candidate, logit in zip(own.tolist(), row, strict=True):
            expected = logit_alone(made, user[-3:].tolist(), candidate)
            assert logit == pytest.approx(float(expected.detach()), abs=1e-4)
    assert np.ptp(found) > 1e-2


def test_a_text_of_the_persons_own_is_read_like_an_item(made: Model) -> None:
    text, size = load_dataset("synthetic").catalog.texts[6], len(made.prefix)
    own = ClickReader(made, ["something else", text]).logits([np.array([size + 1])], np.array([[1, 2]]))
    np.testing.assert_allclose(own, ClickReader(made).logits([np.array([6])], np.array([[1, 2]])), atol=1e-4)


def test_the_click_head_exists_and_travels_only_where_it_is_asked_for(tiny: Callable[..., RunConfig]) -> None:
    catalog = load_dataset("synthetic").catalog
    assert not any("click" in name for name in build_model(tiny().model, catalog).shapes)
    shapes = build_model(tiny(model__click=True).model, catalog).shapes
    assert {name: shape for name, shape in shapes.items() if "click" in name} == {
        "click_head.weight": (1, 32),
        "click_head.bias": (1,),
    }


def test_a_click_model_without_a_layer_to_read_in_is_refused(tiny: Callable[..., RunConfig]) -> None:
    with pytest.raises(ConfigError, match=r"set model\.top-layers = 1"):
        tiny(model__click=True, model__top_layers=0)
