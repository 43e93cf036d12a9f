"""Lower bounds on epsilon from guesses and from error rates, with confidence. It runs no mechanism and draws no noise.

Source: one-run bound: Steinke, Nasr and Jagielski 2023, arXiv:2305.08846; bound from error rates: Jagielski, Ullman
and Oprea 2020, arXiv:2006.07709, with the exact intervals of Clopper and Pearson 1934 (Biometrika 26).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.optimize import brentq
from scipy.special import expit

Numbers = NDArray[np.float64]
_LARGEST = 40.0  # no bound from fewer than 1e17 guesses reaches it
# The best of many tests on the same scores is a lucky one far out in a tail, unless wide limits ask for many errors.
_CHOICE_CONFIDENCE = 1 - 1e-6
_LEVELS = np.concatenate([np.geomspace(1e-4, 0.5, 40), 1 - np.geomspace(1e-4, 0.45, 39)])  # of thresholds tried


def one_run_p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Largest probability with which an (epsilon, delta)-private mechanism lets anyone guess this well.

    Args:
        canaries: m >= 1, each in or out by an independent fair coin.
        guesses: r <= m, their number fixed before looking; the other canaries are abstained from.
        correct: v of them, 0 <= v <= r.
    Returns:
        Bound on P[at least v of r are right], in [0, 1].
    Source: arXiv:2305.08846, Theorem 5.2: randomized response's binomial tail, plus 2 m delta alpha.
    """
    accuracy = expit(epsilon)
    tail = float(stats.binom.sf(correct - 1, guesses, accuracy))
    if delta == 0 or correct == 0:
        return tail
    fewer = np.arange(1, correct + 1)
    alpha = float(np.max((stats.binom.sf(correct - fewer - 1, guesses, accuracy) - tail) / fewer))
    return min(1.0, tail + 2 * canaries * delta * max(0.0, alpha))


def one_run_epsilon(canaries: int, guesses: int, correct: int, delta: float, confidence: float) -> float:
    """Largest epsilon that so many right guesses rule out, >= 0; with correct = guesses, the ceiling of any attack.

    Guarantees:
        - for an (epsilon, delta)-private mechanism it is above epsilon with probability at most 1 - confidence.
    """

    def excess(epsilon: float) -> float:
        return one_run_p_value(canaries, guesses, correct, epsilon, delta) - (1 - confidence)

    if excess(0.0) > 0:
        return 0.0
    return float(brentq(excess, 0.0, _LARGEST))


def correct_guesses(scores: Numbers, member: NDArray[np.bool_], guesses: int) -> int:
    """How many guesses are right: half of them say "in" of the highest scores, half "out" of the lowest.

    Args:
        scores: (m,), higher where a canary looks present.
        member: (m,), which canaries were in.
        guesses: even, at most m.
    """
    order, half = np.argsort(scores, kind="stable"), guesses // 2
    return int(member[order[len(order) - half :]].sum() + (~member[order[:half]]).sum())


def clopper_pearson_upper(count: ArrayLike, trials: int, alpha: float) -> Numbers:
    """Exact upper limit of a binomial probability: the true one is above it with probability at most alpha."""
    events = np.asarray(count, dtype=np.float64)
    limit = stats.beta.ppf(1 - alpha, events + 1, np.maximum(trials - events, 1))
    found: Numbers = np.where(events >= trials, 1.0, limit)
    return found


def error_rates(present: Numbers, absent: Numbers, threshold: ArrayLike, confidence: float) -> tuple[Numbers, Numbers]:
    """Upper limits of both error rates of the test "present if score >= threshold", which hold together.

    Args:
        present, absent: independent scores that had no part in the choice of the threshold.
        threshold: one or several; with several, the limits hold for each alone.
    Returns:
        FPR (absent taken for present), FNR (present taken for absent), in (0, 1].
    """
    alpha = (1 - confidence) / 2
    below_present = np.searchsorted(np.sort(present), threshold, side="left")
    below_absent = np.searchsorted(np.sort(absent), threshold, side="left")
    return (
        clopper_pearson_upper(len(absent) - below_absent, len(absent), alpha),
        clopper_pearson_upper(below_present, len(present), alpha),
    )


def perfect_rates(present: int, absent: int, confidence: float) -> tuple[Numbers, Numbers]:
    """FPR and FNR of a test that never errs on so many canaries: the ceiling of any attack."""
    alpha = (1 - confidence) / 2
    return clopper_pearson_upper(0, absent, alpha), clopper_pearson_upper(0, present, alpha)


def epsilon_from_rates(fpr: ArrayLike, fnr: ArrayLike, delta: float) -> Numbers:
    """Epsilon that error rates rule out, where positive; rates that hold together hold for every delta at once.

    Source: (epsilon, delta)-privacy is 1 - FNR <= e^epsilon FPR + delta and 1 - FPR <= e^epsilon FNR + delta for every
        test (Kairouz, Oh and Viswanath 2015, arXiv:1311.0776).
    """
    fpr, fnr = np.asarray(fpr, dtype=np.float64), np.asarray(fnr, dtype=np.float64)
    ratio = np.maximum((1 - fnr - delta) / fpr, (1 - fpr - delta) / fnr)
    found: Numbers = np.log(np.maximum(ratio, 1e-9))
    return found


def best_test(scores: Mapping[str, tuple[Numbers, Numbers]], curve: Sequence[tuple[float, float]]) -> tuple[str, float]:
    """The statistic and the threshold that look worst for a claim; use them on other canaries than these.

    Args:
        scores: name of a statistic -> its values on (present, absent) canaries.
        curve: (delta, claimed epsilon) points.
    """
    found = []
    for name, (present, absent) in scores.items():
        levels = np.unique(np.quantile(np.concatenate([present, absent]), _LEVELS))
        # Between them, too: without noise all present canaries score the same, up to rounding.
        thresholds = np.concatenate([levels, (levels[1:] + levels[:-1]) / 2])
        rates = error_rates(present, absent, thresholds, _CHOICE_CONFIDENCE)
        excess = np.max([epsilon_from_rates(*rates, delta) - epsilon for delta, epsilon in curve], axis=0)
        best = int(np.argmax(excess))
        found.append((float(excess[best]), name, float(thresholds[best])))
    _, name, threshold = max(found)
    return name, threshold
