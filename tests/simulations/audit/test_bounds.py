"""Bounds on epsilon: closed forms, and mechanisms whose epsilon is known are not overstated more often than allowed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq
from scipy.special import expit, logit

from hushrec.simulations.audit.bounds import (
    Numbers,
    best_test,
    clopper_pearson_upper,
    correct_guesses,
    epsilon_from_rates,
    error_rates,
    one_run_epsilon,
    one_run_p_value,
    perfect_rates,
)

CONFIDENCE = 0.95


def most_alarms(runs: int) -> int:
    """Alarms that a bound of 95 % stays within, but for one time in 100,000."""
    return int(stats.binom.ppf(1 - 1e-5, runs, 1 - CONFIDENCE))


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Balle and Wang 2018, arXiv:1805.06530, Theorem 8."""
    return float(stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu))


def gaussian_epsilon(mu: float, delta: float) -> float:
    return float(brentq(lambda epsilon: gaussian_delta(mu, epsilon) - delta, 0.0, 50.0))


# --- one run ---


@pytest.mark.parametrize("guesses", [10, 200, 1000])
def test_all_guesses_right_without_delta_is_a_power_of_the_accuracy(guesses: int) -> None:
    assert one_run_p_value(guesses, guesses, guesses, 1.5, 0.0) == pytest.approx(expit(1.5) ** guesses, rel=1e-9)
    found = one_run_epsilon(guesses, guesses, guesses, 0.0, CONFIDENCE)
    assert found == pytest.approx(logit(0.05 ** (1 / guesses)), rel=1e-6)


@pytest.mark.parametrize(("guesses", "ceiling"), [(200, 4.18), (1000, 5.76)])
def test_ceiling_of_perfect_guesses(guesses: int, ceiling: float) -> None:
    """At delta 1e-5, where half of the canaries are guessed."""
    assert one_run_epsilon(2 * guesses, guesses, guesses, 1e-5, CONFIDENCE) == pytest.approx(ceiling, abs=0.006)


def test_p_value_agrees_with_the_published_sum() -> None:
    """The loop of arXiv:2305.08846, Appendix D, written out."""
    canaries, guesses, correct, epsilon, delta = 500, 60, 47, 0.7, 1e-3
    accuracy, below, alpha = expit(epsilon), 0.0, 0.0
    for fewer in range(1, correct + 1):
        below += stats.binom.pmf(correct - fewer, guesses, accuracy)
        alpha = max(alpha, below / fewer)
    expected = stats.binom.sf(correct - 1, guesses, accuracy) + alpha * delta * 2 * canaries
    assert one_run_p_value(canaries, guesses, correct, epsilon, delta) == pytest.approx(expected, rel=1e-9)


def test_guesses_no_better_than_coins_rule_nothing_out() -> None:
    assert one_run_epsilon(1000, 200, 100, 1e-5, CONFIDENCE) == 0.0
    assert one_run_epsilon(1000, 200, 0, 1e-5, CONFIDENCE) == 0.0


def test_guesses_are_the_extremes_of_the_scores() -> None:
    scores = np.array([5.0, -3.0, 4.0, 0.0, -2.0, 0.1])
    member = np.array([True, False, False, True, True, False])
    assert correct_guesses(scores, member, 2) == 2
    assert correct_guesses(scores, member, 4) == 2
    assert correct_guesses(-scores, member, 2) == 0


def revealing_response(
    rng: np.random.Generator, canaries: int, epsilon: float, delta: float
) -> tuple[Numbers, NDArray[np.bool_]]:
    """(epsilon, delta)-private: with probability delta a bit is revealed, else it is randomized response."""
    member = rng.random(canaries) < 0.5
    revealed, truthful = rng.random(canaries) < delta, rng.random(canaries) < expit(epsilon)
    said = np.where(revealed | truthful, member, ~member)
    return np.where(said, 1.0, -1.0) * np.where(revealed, 2.0, 1.0) + 1e-3 * rng.random(canaries), member


@pytest.mark.parametrize("delta", [0.0, 0.01])
def test_randomized_response_is_overstated_in_at_most_one_of_twenty_runs(delta: float) -> None:
    rng, runs, canaries, guesses, epsilon = np.random.default_rng(3), 400, 1000, 200, 1.0
    found = []
    for _ in range(runs):
        scores, member = revealing_response(rng, canaries, epsilon, delta)
        correct = correct_guesses(scores, member, guesses)
        found.append(one_run_epsilon(canaries, guesses, correct, delta, CONFIDENCE))
    assert sum(bound > epsilon for bound in found) <= most_alarms(runs)


@pytest.mark.parametrize("correct", [120, 160, 200])
def test_delta_and_abstaining_only_weaken_the_bound(correct: int) -> None:
    pure = one_run_epsilon(1000, 200, correct, 0.0, CONFIDENCE)
    found = [one_run_epsilon(canaries, 200, correct, 1e-4, CONFIDENCE) for canaries in (200, 1000, 5000)]
    assert pure > found[0] > found[1] > found[2] or found[2] == 0.0
    assert found == sorted(found, reverse=True)


def test_many_guesses_come_near_the_epsilon_of_randomized_response() -> None:
    rng = np.random.default_rng(4)
    scores, member = revealing_response(rng, 100_000, 1.0, 0.0)
    bound = one_run_epsilon(100_000, 100_000, correct_guesses(scores, member, 100_000), 0.0, CONFIDENCE)
    assert 0.95 < bound <= 1.0


# --- error rates ---


def test_upper_limits_are_those_of_the_exact_interval() -> None:
    for count, trials in ((0, 50), (3, 50), (50, 50)):
        interval = stats.binomtest(count, trials, alternative="less").proportion_ci(0.975, "exact")
        assert clopper_pearson_upper(count, trials, 0.025) == pytest.approx(interval.high, rel=1e-9)
    assert clopper_pearson_upper(0, 1000, 0.05) == pytest.approx(1 - 0.05 ** (1 / 1000), rel=1e-9)


def test_rates_count_both_errors_at_the_threshold() -> None:
    present, absent = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 1.0, 2.0, 2.5, -1.0])
    fpr, fnr = error_rates(present, absent, 2.0, CONFIDENCE)
    assert fpr == clopper_pearson_upper(2, 5, 0.025)
    assert fnr == clopper_pearson_upper(1, 4, 0.025)


def test_epsilon_of_rates_is_the_larger_of_both_directions() -> None:
    assert epsilon_from_rates(0.1, 0.5, 0.0) == pytest.approx(math.log(5))
    assert epsilon_from_rates(0.5, 0.1, 0.0) == pytest.approx(math.log(5))
    assert epsilon_from_rates(0.1, 0.5, 0.2) == pytest.approx(math.log(3))
    assert epsilon_from_rates(0.5, 0.5, 0.0) == pytest.approx(0.0)


def test_a_test_without_errors_reaches_the_ceiling_and_none_passes_it() -> None:
    fpr, fnr = perfect_rates(500, 500, CONFIDENCE)
    limit = 1 - 0.025 ** (1 / 500)
    assert epsilon_from_rates(fpr, fnr, 1e-5) == pytest.approx(math.log((1 - limit - 1e-5) / limit), rel=1e-9)
    reached = error_rates(np.ones(500), np.zeros(500), 0.5, CONFIDENCE)
    assert epsilon_from_rates(*reached, 1e-5) == epsilon_from_rates(fpr, fnr, 1e-5)


def audited(rng: np.random.Generator, mu: float, canaries: int, delta: float) -> float:
    """Threshold and statistic from one half, bound from the other, as the audit does."""
    present, absent = rng.normal(mu, 1, (2, canaries)), rng.normal(0, 1, (2, canaries))
    blur = rng.normal(0, 5, (2, canaries))
    scores = {"blurred": (present[0] + blur[0], absent[0] + blur[1]), "clear": (present[0], absent[0])}
    name, threshold = best_test(scores, [(delta, gaussian_epsilon(mu, delta))])
    assert name == "clear"
    return float(epsilon_from_rates(*error_rates(present[1], absent[1], threshold, CONFIDENCE), delta))


@pytest.mark.parametrize(("mu", "delta"), [(1.0, 1e-5), (1.0, 0.05), (2.0, 1e-2)])
def test_a_gaussian_is_overstated_in_at_most_one_of_twenty_runs(mu: float, delta: float) -> None:
    rng, runs, truth = np.random.default_rng(5), 200, gaussian_epsilon(mu, delta)
    found = [audited(rng, mu, 2000, delta) for _ in range(runs)]
    assert sum(bound > truth for bound in found) <= most_alarms(runs)


def test_many_canaries_come_near_the_epsilon_of_a_gaussian() -> None:
    truth = gaussian_epsilon(1.0, 0.05)
    bound = audited(np.random.default_rng(6), 1.0, 200_000, 0.05)
    assert 0.9 * truth < bound <= truth


def test_rates_that_hold_together_hold_at_every_delta() -> None:
    """One pair of rates against the whole curve of a Gaussian: its tightest point is found, and is not passed."""
    rng, mu = np.random.default_rng(7), 0.5
    fpr, fnr = error_rates(rng.normal(mu, 1, 500_000), rng.normal(0, 1, 500_000), mu / 2, CONFIDENCE)
    gaps = [gaussian_epsilon(mu, d) - float(epsilon_from_rates(fpr, fnr, d)) for d in (1e-5, 1e-3, 0.03, 0.1, 0.18)]
    assert all(gap > 0 for gap in gaps)
    assert min(gaps) < 0.02 < max(gaps)
