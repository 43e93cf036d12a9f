"""Figures of attacks with a known answer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hushrec.simulations.audit.roc import Game, Guesses, advantage_cap


def test_the_cap_is_that_of_the_best_test_under_randomised_response() -> None:
    assert advantage_cap(0.0, 0.0) == 0
    assert advantage_cap(math.log(3), 0.0) == pytest.approx(0.5)  # right in 3 of 4 cases, wrong in 1
    assert advantage_cap(0.0, 0.1) == pytest.approx(0.1)
    assert advantage_cap(2000.0, 1e-5) == 1


def test_a_perfect_and_a_blind_ranking() -> None:
    scores = [np.arange(100.0)] * 4
    best = Guesses.of(scores, [np.array([98, 99])] * 4, 0).figures(0)
    assert [best[name]["mean"] for name in ("recall", "auc", "tpr_at_1_percent_fpr")] == [1, 1, 1]
    assert best["chance"]["mean"] == 0.02
    assert best["advantage"]["mean"] == 1
    blind = Guesses.of([np.zeros(100)] * 4, [np.array([98, 99])] * 4, 0).figures(0)
    assert blind["auc"]["mean"] == 0.5
    assert blind["tpr_at_1_percent_fpr"]["mean"] == 0


def test_the_advantage_of_guessing_is_not_biased_upwards() -> None:
    rng = np.random.default_rng(0)
    found = Guesses.of([rng.normal(size=200) for _ in range(400)], [np.arange(10)] * 400, 0).figures(0)
    assert found["advantage"]["low"] < 0 < found["advantage"]["high"]
    assert found["auc"]["low"] < 0.5 < found["auc"]["high"]


def test_a_curve_rises_from_the_left_to_one() -> None:
    curve = Guesses.of([np.arange(100.0)], [np.array([10, 99])], 0).curve()
    assert curve[0] == (0.0, 0.5)  # one of the two is above all others
    assert curve[-1] == (1.0, 1.0)
    assert curve == sorted(curve)


def test_the_bounds_of_a_game_hold_together() -> None:
    always = Game(np.ones(60), -np.ones(60)).advantage()
    assert always["mean"] == 1
    assert always["high"] == 1
    # All of 60 right: both rates' ends are (0.0125)^(1/60) away from theirs.
    assert always["low"] == pytest.approx(2 * 0.0125 ** (1 / 60) - 1)
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(400):
        found = Game(rng.normal(0.5, 1, 60), rng.normal(-0.5, 1, 60)).advantage()
        missed += not found["low"] <= math.erf(0.5 / math.sqrt(2)) <= found["high"]
    assert missed <= 20


def test_the_curve_of_a_game_goes_through_every_threshold() -> None:
    curve = Game(np.array([2.0, 1.0]), np.array([1.5, 0.0])).curve()
    assert curve == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
