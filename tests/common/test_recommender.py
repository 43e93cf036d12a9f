"""From text vectors to scores: the two heads, the recency-weighted mean and the mix with popularity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hushrec.common.recommender import Recommender, recency_pool

WIDTH, DIM = 5, 3


class Encoder(nn.Module):
    """Stands where the text encoder is: one trained and one frozen tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.width = WIDTH
        self.trained = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)


def build(train_heads: bool = True, train_mix: bool = True, head_core: str = "none") -> Recommender:
    torch.manual_seed(0)
    encoder: Any = Encoder()
    model = Recommender(encoder, DIM, train_heads=train_heads, train_mix=train_mix, head_core=head_core)
    model.center.data.normal_()
    return model


@given(length=st.integers(1, 7), decay=st.floats(0.01, 1.0), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_pooled_vector_is_the_decayed_mean_of_what_was_seen_so_far(length: int, decay: float, seed: int) -> None:
    vectors = torch.randn(1, 8, DIM, generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(8) < length).float()[None]
    pooled = recency_pool(vectors, mask, decay)
    for position in range(length):
        weights = torch.tensor([decay ** (position - j) for j in range(position + 1)])
        expected = (weights[:, None] * vectors[0, : position + 1]).sum(0) / weights.sum()
        torch.testing.assert_close(pooled[0, position], expected, rtol=1e-4, atol=1e-5)


def test_a_position_never_reads_a_later_item() -> None:
    vectors = torch.randn(1, 6, DIM, requires_grad=True)
    recency_pool(vectors, torch.ones(1, 6), 0.9)[0, 2].sum().backward()
    assert vectors.grad is not None
    assert bool((vectors.grad[0, :3] != 0).all())
    assert bool((vectors.grad[0, 3:] == 0).all())


def test_where_nothing_was_seen_the_pooled_vector_is_zero() -> None:
    assert bool((recency_pool(torch.randn(1, 3, DIM), torch.zeros(1, 3), 0.9) == 0).all())


def test_a_score_is_scaled_similarity_plus_weighted_popularity() -> None:
    model = build()
    model.mix.weight.data = torch.tensor([[3.0, 0.5]])
    users, items, prior = torch.randn(2, 4, DIM), torch.randn(2, 6, DIM), torch.randn(2, 6)
    expected = 3.0 * torch.einsum("bpd,bmd->bpm", users, items) + 0.5 * prior[:, None, :]
    torch.testing.assert_close(model.scores(users, items, prior), expected)


def test_heads_map_the_centred_text_vector() -> None:
    model, encoded = build(), torch.randn(4, WIDTH)
    torch.testing.assert_close(model.item_vectors(encoded), (encoded - model.center) @ model.item_head.weight.T)
    torch.testing.assert_close(model.user_vectors(encoded), (encoded - model.center) @ model.user_head.weight.T)


@pytest.mark.parametrize(
    ("train_heads", "train_mix", "expected"),
    [
        (True, True, ["encoder.trained", "item_head.weight", "user_head.weight", "mix.weight"]),
        (False, True, ["encoder.trained", "mix.weight"]),
        (True, False, ["encoder.trained", "item_head.weight", "user_head.weight"]),
        (False, False, ["encoder.trained"]),
    ],
)
def test_only_what_is_trained_travels(train_heads: bool, train_mix: bool, expected: list[str]) -> None:
    model = build(train_heads, train_mix)
    assert [name for name, _ in model.trained()] == expected
    assert list(model.read()) == expected
    assert {value.dtype for value in model.read().values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("core", ["scale", "full"])
def test_a_head_core_starts_as_the_identity_and_is_trained_even_where_heads_are_not(core: str) -> None:
    model, encoded = build(train_heads=False, head_core=core), torch.randn(4, WIDTH)
    headed = (encoded - model.center) @ model.user_head.weight.T
    torch.testing.assert_close(model.user_vectors(encoded), headed)
    trained = [name for name, _ in model.trained()]
    assert "user_core.weight" in trained
    assert not any("head" in name for name in trained)
    model.write({name: value * 2 for name, value in model.read().items()})
    torch.testing.assert_close(model.user_vectors(encoded), 2 * headed)
    torch.testing.assert_close(model.item_vectors(encoded), (encoded - model.center) @ model.item_head.weight.T)


def test_what_is_written_is_what_is_read_and_both_are_copies() -> None:
    model = build()
    adapter = {name: value + 1.5 for name, value in model.read().items()}
    model.write(adapter)
    read = model.read()
    assert all(np.array_equal(read[name], adapter[name]) for name in adapter)
    read["mix.weight"][:] = -1
    adapter["mix.weight"][:] = -2
    assert model.mix.weight.detach().min() > 0
