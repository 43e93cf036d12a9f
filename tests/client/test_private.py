"""Clipping, noise and sampling: the bound, the distribution, and that nobody can predict either."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from hushrec.client.private import (
    NoisedSum,
    flat_rows,
    per_row_gradients,
)
from hushrec.common.errors import PrivacyError
from hushrec.common.recommender import Recommender
from hushrec.common.secret_noise import poisson_choice, secret_gaussian, secret_uniform

C = 0.5


def total(rows: Tensor, sigma: float = 0.0, denominator: float = 1.0, pieces: int = 1) -> Tensor:
    made = NoisedSum(rows.shape[1], max_grad_norm=C, noise_multiplier=sigma, denominator=denominator)
    for piece in rows.tensor_split(pieces):
        made.add(piece)
    return made.release()


SHAPED = st.tuples(st.integers(1, 6), st.integers(1, 8), st.integers(0, 2**31), st.floats(-12, 12))


@given(shaped=SHAPED, pieces=st.integers(1, 4))
@settings(deadline=None)
def test_removing_any_row_moves_the_sum_by_at_most_the_clipping_norm(
    shaped: tuple[int, int, int, float], pieces: int
) -> None:
    count, size, seed, magnitude = shaped
    scale = 10.0 ** (magnitude * torch.rand(count, 1, generator=torch.Generator().manual_seed(seed)))
    rows = torch.randn(count, size, generator=torch.Generator().manual_seed(seed + 1)) * scale
    whole = total(rows, pieces=pieces)
    for row in range(count):
        rest = total(rows[[n for n in range(count) if n != row]])
        assert (whole - rest).norm() <= C * (1 + 1e-5)


def test_a_short_row_passes_unchanged_and_a_long_one_keeps_its_direction() -> None:
    short, long = torch.tensor([[0.1, 0.2]]), torch.tensor([[30.0, 40.0]])
    torch.testing.assert_close(total(short), short[0])
    torch.testing.assert_close(total(long), torch.tensor([0.3, 0.4]))


def test_rows_add_up_the_same_in_one_piece_or_many_and_are_divided_once() -> None:
    rows = torch.randn(7, 5)
    torch.testing.assert_close(total(rows, pieces=4), total(rows))
    torch.testing.assert_close(total(rows, denominator=8.0, pieces=3), total(rows) / 8.0)


@pytest.mark.parametrize("rows", [torch.zeros(0, 6), torch.zeros(3, 6)])
def test_no_row_or_only_zero_rows_still_give_a_noised_release(rows: Tensor) -> None:
    assert total(rows, sigma=1.0).abs().min() > 0
    never_added = NoisedSum(6, max_grad_norm=C, noise_multiplier=1.0, denominator=1.0).release()
    assert never_added.abs().min() > 0


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_no_number_counts_as_zero_and_is_answered_like_any_other(odd: float) -> None:
    rows = torch.randn(3, 4)
    damaged = rows.clone()
    damaged[1, 2] = odd
    torch.testing.assert_close(total(damaged), total(rows[[0, 2]]))


def test_finite_rows_whose_norm_overflows_are_bounded_too() -> None:
    assert total(torch.full((1, 4), 3e38)).norm() <= C * (1 + 1e-5)


@pytest.mark.parametrize(("sigma", "denominator"), [(1.0, 1.0), (3.0, 8.0)])
def test_the_noise_is_gaussian_with_the_promised_spread(sigma: float, denominator: float) -> None:
    rows = torch.randn(4, 20_000) * 1e-3
    noise = total(rows, sigma, denominator) - total(rows, 0.0, denominator)
    assert stats.kstest(noise.numpy(), "norm", args=(0.0, sigma * C / denominator)).pvalue > 1e-4


def test_noise_is_new_in_every_release_and_independent_between_them() -> None:
    releases = [total(torch.zeros(1, 20_000), sigma=1.0) for _ in range(3)]
    for n, release in enumerate(releases):
        for other in releases[:n]:
            assert abs(np.corrcoef(release, other)[0, 1]) < 5 / np.sqrt(20_000)


def test_neither_noise_nor_sampling_follows_any_seed() -> None:
    noises, choices = [], []
    for _ in range(2):
        torch.manual_seed(7)
        np.random.seed(7)
        noises.append(total(torch.zeros(1, 50), sigma=1.0))
        choices.append(poisson_choice(200, 0.5))
    assert not torch.equal(*noises)
    assert choices[0] != choices[1]


def test_noise_costs_no_draw_from_torchs_generator() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    total(torch.zeros(1, 50), sigma=1.0)
    poisson_choice(10, 0.5)
    assert torch.equal(torch.rand(3), expected)


def test_all_256_bits_of_the_noise_key_come_from_the_operating_system(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def urandom(count: int) -> bytes:
        asked.append(count)
        return bytes(count)

    monkeypatch.setattr(os, "urandom", urandom)
    fixed = secret_gaussian(5)
    assert asked == [32, 16] * 2  # the radius and the angle, each under a key of its own
    assert torch.equal(fixed, secret_gaussian(5))  # nothing else goes in
    monkeypatch.setattr(os, "urandom", lambda count: bytes(count - 1) + b"\1")
    assert not torch.equal(fixed, secret_gaussian(5))


def test_uniform_numbers_are_uniform_and_never_end_points() -> None:
    drawn = secret_uniform(50_000)
    assert drawn.min() > 0
    assert drawn.max() < 1
    assert stats.kstest(drawn.numpy(), "uniform").pvalue > 1e-4


@pytest.mark.parametrize("size", [1, 2, 3, 10_001])
def test_gaussian_numbers_have_any_count_and_the_right_moments(size: int) -> None:
    drawn = secret_gaussian(size)
    assert drawn.shape == (size,)
    assert drawn.dtype == torch.float32
    if size > 1000:
        assert stats.kstest(drawn.numpy(), "norm").pvalue > 1e-4
        half = size // 2
        assert abs(np.corrcoef(drawn[:half], drawn[half : 2 * half])[0, 1]) < 5 / np.sqrt(half)


def test_a_sum_is_released_once() -> None:
    made = NoisedSum(3, max_grad_norm=C, noise_multiplier=1.0, denominator=1.0)
    made.release()
    with pytest.raises(PrivacyError, match="released already"):
        made.release()


def test_each_row_is_sampled_with_the_rate_and_on_its_own() -> None:
    rows, draws, rate = 30, 600, 0.2
    chosen = np.zeros((draws, rows))
    for draw in range(draws):
        chosen[draw, poisson_choice(rows, rate)] = 1
    counts = chosen.sum(0)
    deviation = ((counts - draws * rate) ** 2 / (draws * rate * (1 - rate))).sum()
    assert 1e-4 < stats.chi2.cdf(deviation, rows) < 1 - 1e-4
    sizes = chosen.sum(1)
    assert sizes.var() == pytest.approx(rows * rate * (1 - rate), rel=0.3)  # not a fixed batch size
    assert min(len(poisson_choice(2, 0.2)) for _ in range(50)) == 0


def test_all_rows_are_taken_at_rate_one_and_none_of_none() -> None:
    assert poisson_choice(4, 1.0) == [0, 1, 2, 3]
    assert poisson_choice(0, 0.5) == poisson_choice(0, 1.0) == []


class TwoHeads(Recommender):
    """The heads and the mix of a recommender, without a text encoder."""

    def __init__(self) -> None:
        encoder: Any = nn.Module()
        encoder.width = 4
        super().__init__(encoder, 3, train_heads=True, train_mix=True)
        self.dropout = nn.Dropout(0.5)
        self.eval()

    def losses(self, x: Tensor) -> Tensor:
        users, items = self.user_vectors(self.dropout(x)), self.item_vectors(x)
        return self.scores(users, items, torch.ones(x.shape[:2])).sin().sum((1, 2))


def left_over(model: nn.Module) -> list[list[str]]:
    """Every attribute and hook of every module and parameter."""
    found = [sorted(vars(module)) for module in model.modules()]
    for module in model.modules():
        hooks = [name for name, value in vars(module).items() if "hook" in name and value and value is not True]
        found.append([*hooks, f"training={module.training}"])
    for parameter in model.parameters():
        found.append([*sorted(vars(parameter)), f"grad={parameter.grad is not None}", f"{parameter.requires_grad}"])
    return found


def test_rows_equal_the_gradient_of_each_row_alone() -> None:
    torch.manual_seed(0)
    model, x = TwoHeads(), torch.randn(5, 2, 4)
    with per_row_gradients(model):
        rows = flat_rows(model, model.losses(x))
    for number in range(5):
        alone = torch.autograd.grad(model.losses(x[number : number + 1]).sum(), [p for _, p in model.trained()])
        torch.testing.assert_close(rows[number], torch.cat([part.flatten() for part in alone]))


@pytest.mark.parametrize("training", [False, True])
def test_afterwards_the_model_is_as_it_was_before(training: bool) -> None:
    model = TwoHeads().train(training)
    before = left_over(model)
    with per_row_gradients(model):
        flat_rows(model, model.losses(torch.randn(2, 2, 4)))
    assert left_over(model) == before
    with pytest.raises(RuntimeError, match="shape"), per_row_gradients(model):
        model.item_head(model.user_head(torch.randn(2, 2, 4)))  # Opacus holds the activations of one head
    assert left_over(model) == before
    with per_row_gradients(model):
        assert flat_rows(model, model.losses(torch.randn(3, 2, 4))).shape == (3, 26)


def test_dropout_is_off_inside() -> None:
    model, x = TwoHeads().train(), torch.randn(3, 2, 4)
    with per_row_gradients(model):
        first, second = flat_rows(model, model.losses(x)), flat_rows(model, model.losses(x))
    assert torch.equal(first, second)


def test_a_tensor_without_a_gradient_per_row_is_refused_by_name() -> None:
    model = TwoHeads()
    with per_row_gradients(model), pytest.raises(PrivacyError, match=r"user_head\.weight has no gradient per row"):
        flat_rows(model, model.item_vectors(torch.randn(3, 2, 4)).sum((1, 2)))
    with per_row_gradients(model), pytest.raises(PrivacyError, match="has no gradient per row"):
        flat_rows(model, model.losses(torch.randn(3, 2, 4)).sum()[None])  # one loss for three rows


def test_zero_noise_is_possible_for_tests_only() -> None:
    assert torch.equal(total(torch.zeros(2, 3)), torch.zeros(3))
