"""The server's step against numbers worked out by hand, and its state across a restart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from hushrec.common.errors import BundleError
from hushrec.common.protocol import Arrays
from hushrec.common.settings import ServerConfig
from hushrec.server.optimizer import ServerOptimizer

CORE, HEAD = "encoder.layer.core", "mix.weight"


def optimizer(rounds: int = 10, **changes: Any) -> ServerOptimizer:
    settings = {"optimizer": "fedavg", "learning_rate": 0.5, "head_learning_rate": 2.0, "momentum": 0.9} | changes
    return ServerOptimizer(ServerConfig(**settings), rounds)


def one(value: float) -> Arrays:
    return {CORE: np.array([value], dtype=np.float32), HEAD: np.array([value], dtype=np.float32)}


def walk(made: ServerOptimizer, updates: list[float], start: float = 0.0) -> list[float]:
    """The encoder entry after each step."""
    adapter, seen = one(start), []
    for update in updates:
        adapter = made.step(adapter, one(update))
        seen.append(float(adapter[CORE][0]))
    return seen


def test_fedavg_moves_each_tensor_by_its_own_rate_times_the_update() -> None:
    moved = optimizer().step(one(1.0), one(3.0))
    assert moved[CORE] == pytest.approx(1.0 + 0.5 * 3.0)
    assert moved[HEAD] == pytest.approx(1.0 + 2.0 * 3.0)


def test_fedavgm_adds_nine_tenths_of_the_last_direction() -> None:
    # directions: 1; 0.9 * 1 + 2 = 2.9; 0.9 * 2.9 - 1 = 1.61
    assert walk(optimizer(optimizer="fedavgm"), [1.0, 2.0, -1.0]) == pytest.approx([0.5, 1.95, 2.755])


def test_fedadam_corrects_both_moments_for_their_start() -> None:
    # step 1: both moments corrected to the update itself, so the direction is its sign
    # step 2: m = (0.9 * 0.1 * 4 + 0.1 * 2) / (1 - 0.81) = 0.56 / 0.19
    #         v = (0.99 * 0.01 * 16 + 0.01 * 4) / (1 - 0.9801) = 0.1984 / 0.0199
    second = (0.56 / 0.19) / math.sqrt(0.1984 / 0.0199)
    seen = walk(optimizer(optimizer="fedadam", second_momentum=0.99), [4.0, 2.0])
    assert seen == pytest.approx([0.5, 0.5 + 0.5 * second], rel=1e-5)


def test_an_update_of_zero_moves_nothing() -> None:
    for rule in ("fedavg", "fedavgm", "fedadam"):
        assert walk(optimizer(optimizer=rule), [0.0, 0.0], start=3.0) == [3.0, 3.0]


def test_the_linear_schedule_falls_by_equal_steps_to_zero() -> None:
    seen = [0.0, *walk(optimizer(rounds=4, schedule="linear"), [1.0] * 6)]
    assert np.diff(seen) == pytest.approx([0.5, 0.375, 0.25, 0.125, 0.0, 0.0])


@pytest.mark.parametrize(("schedule", "after"), [("constant", [0.5, 0.5, 0.5]), ("linear", [0.5, 0.25, 0.0])])
def test_the_warm_up_rises_linearly_and_the_schedule_begins_after_it(schedule: str, after: list[float]) -> None:
    made = optimizer(rounds=5, schedule=schedule, warmup_rounds=3)
    seen = [0.0, *walk(made, [1.0] * 6)]
    assert np.diff(seen) == pytest.approx([0.125, 0.25, 0.375, *after])


def test_weight_decay_shrinks_the_adapters_in_proportion_to_the_rate_and_leaves_the_heads() -> None:
    moved = optimizer(weight_decay=0.1).step(one(2.0), one(0.0))
    assert moved[CORE] == pytest.approx(2.0 * (1 - 0.5 * 0.1))
    assert moved[HEAD] == pytest.approx(2.0)


def test_the_cosine_schedule_starts_at_the_full_rate_halves_in_the_middle_and_ends_at_zero() -> None:
    seen = [0.0, *walk(optimizer(rounds=4, schedule="cosine"), [1.0] * 6)]
    steps = np.diff(seen)
    assert steps[0] == pytest.approx(0.5)
    assert steps[2] == pytest.approx(0.25)
    assert steps[3] == pytest.approx(0.25 * (1 + math.cos(math.pi * 3 / 4)))
    assert steps[4:] == pytest.approx([0.0, 0.0])
    assert np.all(np.diff(steps) <= 1e-9)


def test_the_constant_schedule_keeps_the_rate() -> None:
    assert np.diff([0.0, *walk(optimizer(rounds=3), [1.0] * 5)]) == pytest.approx([0.5] * 5)


def test_averaging_is_the_weighted_mean_of_the_iterates_without_the_start() -> None:
    made = optimizer(averaging=0.5)
    iterates = walk(made, [2.0, 4.0, 6.0], start=100.0)  # 101, 103, 106
    weights = np.array([0.25, 0.5, 1.0])
    expected = float(weights @ iterates / weights.sum())
    evaluated = made.evaluated(one(-1.0))
    assert evaluated[CORE] == pytest.approx(expected)
    assert evaluated[CORE].dtype == np.float32


def test_after_one_step_the_average_is_that_iterate() -> None:
    made = optimizer(averaging=0.99)
    (iterate,) = walk(made, [2.0], start=7.0)
    assert made.evaluated(one(0.0))[CORE] == pytest.approx(iterate, rel=1e-4)


def test_without_averaging_or_before_the_first_step_the_adapter_itself_is_evaluated() -> None:
    adapter = one(5.0)
    made = optimizer()
    walk(made, [1.0])
    assert made.evaluated(adapter) is adapter
    assert optimizer(averaging=0.5).evaluated(adapter) is adapter


@pytest.mark.parametrize("rule", ["fedavg", "fedavgm", "fedadam"])
def test_a_restored_optimizer_goes_on_bit_for_bit(rule: str) -> None:
    rng = np.random.default_rng(0)
    updates = [{CORE: rng.normal(size=(3, 4)).astype(np.float32), HEAD: rng.normal(size=2).astype(np.float32)}]
    updates += [{name: rng.normal(size=v.shape).astype(np.float32) for name, v in updates[0].items()} for _ in range(7)]
    settings = {"optimizer": rule, "averaging": 0.7, "schedule": "cosine"}
    whole = optimizer(rounds=8, **settings)
    adapter = {name: np.ones_like(value) for name, value in updates[0].items()}
    halfway, state, steps = adapter, dict[str, Any](), 0
    for number, update in enumerate(updates):
        if number == 3:
            halfway, steps = adapter, whole.steps
            state = {name: value.copy() for name, value in whole.state().items()}
        adapter = whole.step(adapter, update)
    resumed = optimizer(rounds=8, **settings)
    resumed.restore(state, steps)
    for update in updates[3:]:
        halfway = resumed.step(halfway, update)
    for name in adapter:
        assert adapter[name].tobytes() == halfway[name].tobytes()
        assert whole.evaluated(adapter)[name].tobytes() == resumed.evaluated(halfway)[name].tobytes()
        assert adapter[name].dtype == np.float32


@pytest.mark.parametrize("rule", ["fedavg", "fedavgm", "fedadam"])
def test_a_step_changes_neither_the_adapter_nor_the_update_it_was_given(rule: str) -> None:
    made = optimizer(optimizer=rule, averaging=0.5)
    adapter, update = one(1.0), one(2.0)
    for _ in range(3):
        moved = made.step(adapter, update)
        assert adapter == one(1.0)
        assert update == one(2.0)
        moved[CORE] += 50.0  # nor does the optimiser keep what it gave away
    assert made.evaluated(one(0.0))[CORE] < 10.0


def test_a_state_that_no_rule_wrote_is_refused() -> None:
    with pytest.raises(BundleError, match="third/mix"):
        optimizer().restore({"third/mix.weight": np.ones(1, dtype=np.float32)}, 1)
