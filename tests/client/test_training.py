"""Noise, cohorts equal to clients one by one, local steps, and what a round leaves behind."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from support.records import (
    DENOMINATOR,
    RATE,
    C,
    Client,
    Setup,
    alone,
    flat,
    gather,
    make_rows,
    pairs,
    parameters,
    release,
)

from hushrec.client import training
from hushrec.client.private import NoisedSum
from hushrec.client.training import train_cohort
from hushrec.common.errors import PrivacyError
from hushrec.common.protocol import Arrays, TrainRequest
from hushrec.common.workspace import Model

# --- what a hostile server could send ---


def test_a_record_without_a_finite_gradient_is_answered_with_noise_like_any_other(
    setup: Callable[..., Setup], no_noise: None
) -> None:
    model, request, config = setup(model__head_init="random")
    rows = make_rows([3, 4, 5])
    wanted = int(rows[1].items[2])
    # The prior makes the score of one item overflow: only records that read the item get a gradient of NaN.
    prior = request.log_popularity.copy()
    prior[wanted] = 3e38
    adapter = {**request.adapter, "mix.weight": np.array([[1.0, 3e38]], np.float32)}
    quiet = [row for row in rows if wanted not in row.items]
    asked = replace(request, adapter=adapter, log_popularity=prior)
    made = (model, asked, config.replace(train__negatives=1))
    model.recommender.write(adapter)
    bad = ~torch.isfinite(gather(made, pairs(rows))).all(dim=1)
    assert bool(bad[1])
    (found,) = release(made, [Client("a", rows)])
    assert bool(torch.isfinite(found).all())
    kept = tuple(row for row, broken in zip(rows, bad, strict=True) if not broken)
    (expected,) = release(made, [Client("a", kept)])
    assert (found - expected).norm() <= 1e-5 * C
    assert len(kept) <= len(quiet)


def test_without_a_noise_multiplier_nothing_is_released(setup: Callable[..., Setup]) -> None:
    made = setup(privacy__noise_multiplier=0.0)
    with pytest.raises(PrivacyError, match="no noise to add"):
        train_cohort(*made[:2], [Client("a", make_rows())], made[2])


# --- noise ---


def test_each_client_adds_its_own_noise_of_the_promised_spread_every_time(setup: Callable[..., Setup]) -> None:
    made = setup(privacy__noise_multiplier=3.0)
    quiet = made[2].replace(privacy__noise_multiplier=1e-9)
    clients = [Client("a", make_rows()), Client("b", ()), Client("c", make_rows([2, 3]))]
    torch.manual_seed(3)
    first = [flat(update.arrays) for update in train_cohort(*made[:2], clients, made[2])]
    torch.manual_seed(3)
    second = [flat(update.arrays) for update in train_cohort(*made[:2], clients, made[2])]
    means = [flat(update.arrays) for update in train_cohort(*made[:2], clients, quiet)]
    noises = [noisy - mean for noisy, mean in zip([*first, *second], means * 2, strict=True)]
    for number, noise in enumerate(noises):
        assert stats.kstest(noise.numpy(), "norm", args=(0.0, RATE * 3.0 * C / DENOMINATOR)).pvalue > 1e-4
        for other in noises[:number]:
            assert abs(np.corrcoef(noise, other)[0, 1]) < 5 / math.sqrt(len(noise))
    assert means[1].norm() < 1e-6  # the client without a row sent noise alone


def test_a_poisson_batch_that_drew_nobody_is_answered_with_noise(
    setup: Callable[..., Setup], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = setup(privacy__sample_rate=0.5)
    monkeypatch.setattr(training, "poisson_choice", lambda rows, rate: [])
    (update,) = train_cohort(*made[:2], [Client("a", make_rows())], made[2])
    assert update.clients == 1
    noise = flat(update.arrays)
    assert stats.kstest(noise.numpy(), "norm", args=(0.0, RATE * C / DENOMINATOR)).pvalue > 1e-4


# --- cohorts, local steps and what is left behind ---


def cohort() -> list[Client]:
    return [Client("a", make_rows()), Client("b", ()), Client("c", make_rows([2, 9])), Client("d", make_rows([1]))]


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_without_privacy_a_cohort_adds_up_to_its_clients_one_by_one(
    setup: Callable[..., Setup], steps: int, shared: bool
) -> None:
    made = setup(privacy__mechanism="none", train__local_steps=steps, train__shared_negatives=shared)
    together = train_cohort(*made[:2], cohort(), made[2])
    single = [train_cohort(*made[:2], [client], made[2])[0] for client in cohort()]
    assert sum(update.clients for update in together) == len(cohort())
    total = torch.stack([flat(update.arrays) for update in together if update.clients]).sum(0)
    expected = torch.stack([flat(update.arrays) for update in single]).sum(0)
    assert (total - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("steps", [1, 3])
def test_with_privacy_each_client_of_a_cohort_sends_what_it_would_alone(
    setup: Callable[..., Setup], no_noise: None, steps: int
) -> None:
    made = setup(train__local_steps=steps)
    together = train_cohort(*made[:2], cohort(), made[2])
    for client, update in zip(cohort(), together, strict=True):
        expected = flat(train_cohort(*made[:2], [client], made[2])[0].arrays)
        assert update.clients == 1
        assert (flat(update.arrays) - expected).norm() <= 1e-5 * max(1.0, float(expected.norm()))


@pytest.mark.parametrize("proximal", [0.0, 0.3])
def test_local_steps_follow_each_other_and_are_pulled_back_to_the_start(
    setup: Callable[..., Setup], proximal: float
) -> None:
    made = setup(privacy__mechanism="none", train__local_steps=2, train__proximal=proximal)
    model, request, config = made
    seeds: list[int] = []
    original, client = training._clear_sum, Client("a", make_rows())

    def recorded(model: Model, request: TrainRequest, *rest: Any) -> Arrays:
        seeds.append(request.seed)
        return original(model, request, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_clear_sum", recorded)
        (found,) = train_cohort(model, request, [client], config)
    assert len(set(seeds)) == 2  # each step draws anew
    one = config.replace(train__local_steps=1, train__proximal=0.0)
    adapter = dict(request.adapter)
    for seed in seeds:
        (step,) = train_cohort(model, replace(request, adapter=adapter, seed=seed), [client], one)
        for name, start in request.adapter.items():
            adapter[name] = adapter[name] + step.arrays[name] - RATE * proximal * (adapter[name] - start)
    expected = flat({name: adapter[name] - start for name, start in request.adapter.items()})
    assert (flat(found.arrays) - expected).norm() <= 1e-5 * expected.norm()


def left_over(model: Model) -> list[list[str]]:
    """Every attribute and hook of every module and parameter."""
    found = []
    for module in model.recommender.modules():
        hooks = [name for name, value in vars(module).items() if "hook" in name and value and value is not True]
        found.append([*sorted(vars(module)), *hooks, f"training={module.training}"])
    for parameter in model.recommender.parameters():
        found.append([*sorted(vars(parameter)), f"grad={parameter.grad is not None}"])
    return found


def test_a_private_round_leaves_no_trace_and_a_second_one_works(setup: Callable[..., Setup], no_noise: None) -> None:
    made = setup()
    before, clear = left_over(made[0]), made[2].replace(privacy__mechanism="none")
    expected = flat(train_cohort(*made[:2], cohort(), clear)[0].arrays)
    first = release(made, cohort())
    assert left_over(made[0]) == before
    assert made[0].recommender.encoder.layout.rows == 1
    second = release(made, cohort())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(flat(train_cohort(*made[:2], cohort(), clear)[0].arrays), expected)
    assert left_over(made[0]) == before


def test_a_failure_half_way_leaves_no_trace(setup: Callable[..., Setup], monkeypatch: pytest.MonkeyPatch) -> None:
    made = setup()
    before = left_over(made[0])

    def failing(*_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(NoisedSum, "add", failing)
        with pytest.raises(RuntimeError) as caught:
            train_cohort(*made[:2], cohort(), made[2])
    assert caught.traceback  # still alive, with every frame it holds
    assert left_over(made[0]) == before


def test_an_update_starts_from_the_adapter_that_was_sent(setup: Callable[..., Setup]) -> None:
    made = setup(privacy__mechanism="none")
    expected = flat(train_cohort(*made[:2], cohort(), made[2])[0].arrays)
    made[0].recommender.write({name: value * 0 - 1 for name, value in made[1].adapter.items()})
    assert torch.equal(flat(train_cohort(*made[:2], cohort(), made[2])[0].arrays), expected)


def test_a_client_without_rows_sends_zeros_without_privacy(setup: Callable[..., Setup]) -> None:
    made = setup(privacy__mechanism="none")
    (update,) = train_cohort(*made[:2], [Client("a", ())], made[2])
    assert {name: value.shape for name, value in update.arrays.items()} == made[0].shapes
    assert not flat(update.arrays).any()


def test_flat_rows_are_laid_out_as_the_named_arrays_are(setup: Callable[..., Setup], no_noise: None) -> None:
    made = setup(privacy__max_grad_norm=1e9)
    (update,) = train_cohort(*made[:2], [Client("a", make_rows([6]))], made[2])
    expected = alone(made, pairs(make_rows([6]))[0]).split([p.numel() for p in parameters(made[0])])
    for (name, value), part in zip(update.arrays.items(), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(value).flatten() * (-DENOMINATOR / RATE), part, msg=name)
