"""Whether what is added is the promised noise: Gaussian, of the promised size, fresh in every release, unpredictable.

The released numbers minus the sum that the same code gives without noise; what the noise hides is sensitivity_probe's.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from hushrec.common.config import RunConfig
from hushrec.common.protocol import Field
from hushrec.simulations.audit.check import Check
from hushrec.simulations.audit.probe_federation import ProbeFederation, Vector

NOISE = "noise"
FALSE_ALARM = 1e-7  # how often clean code fails the statistical tests of one check, all of them together
NUMBERS = 1000  # residuals a kind of release is judged by, at least where its size allows within _MOST_ROUNDS
ENTROPY = 32  # bytes that one noised sum must take from the operating system
_MOST_ROUNDS = 12
_TESTS = 6  # of noise_tests
_LAGS = 64  # of a release with itself, those that look worst
_SAME = 1e-5  # standard deviations by which two equal draws may differ after rounding to 32 bits
_COMPARED = 2000  # numbers of a release that are searched for equal ones
Matrix = NDArray[np.float64]
Source = Callable[[Callable[[int], bytes], int], bytes]


def probe_noise(federation: ProbeFederation) -> Check:
    """Residuals of several rounds and clients; each round is asked for twice, as a hostile server could."""
    kinds: dict[str, Matrix] = {f"{field}": _residuals(federation, field) for field in federation.fields}
    if "update" in federation.fields:
        kinds["update without units"] = _residuals_of_nobody(federation)
    problems: list[str] = []
    figures: dict[str, float] = {}
    for kind, noise in kinds.items():
        figures[f"{kind}: standard deviation / promised"] = float(np.sqrt(np.mean(np.square(noise))))
        for test, p in noise_tests(noise).items():
            figures[f"{kind}: p of {test}"] = p
            if p < FALSE_ALARM / (_TESTS * len(kinds)):
                problems.append(f"{kind}: {_FAILED[test]} (p = {p:.1g})")
        if len(np.unique(noise, axis=0)) < len(noise):
            problems.append(f"{kind}: two releases have the same noise")
    for field in federation.fields:
        problems += _entropy_problems(federation, field)
    deviations = [value for name, value in figures.items() if "deviation" in name]
    return Check(
        NOISE,
        "VIOLATED" if problems else "holds",
        "every release carries Gaussian noise of standard deviation sigma C (sigma for counts and statistics), drawn "
        "anew from the operating system for every client, round and repetition",
        "; ".join(problems)
        or f"standard deviation {min(deviations):.4f} to {max(deviations):.4f} of the promised one, smallest p "
        f"{min(value for name, value in figures.items() if ': p of' in name):.2g} (alarm below "
        f"{FALSE_ALARM / (_TESTS * len(kinds)):.1g})",
        figures | {"residuals": {kind: list(noise.shape) for kind, noise in kinds.items()}},
    )


def noise_tests(noise: Matrix) -> dict[str, float]:
    """P-values that rows of a (releases, d) matrix are independent standard normal numbers; each is exact or nearly.

    Returns:
        "shape" (Kolmogorov-Smirnov), "size" (chi-squared of the sum of squares), "tails" (the largest of all) and
        "correlation" (largest cosine of two releases, or of the two halves of them, by Student's t, times the number
        of pairs), "repetition" (likewise of a release with itself some places further on) and "equal numbers" (pairs
        within a release of one size, whatever their signs and places, by Poisson's law).
    """
    flat = noise.ravel()
    squares, degrees = float(np.square(flat).sum()), flat.size
    size = 2 * min(stats.chi2.cdf(squares, degrees), stats.chi2.sf(squares, degrees))
    none_beyond = float(stats.chi2.cdf(np.square(flat).max(), 1) ** degrees)
    return {
        "shape": float(stats.kstest(flat, "norm").pvalue),
        "size": min(1.0, float(size)),
        "tails": 2 * min(none_beyond, 1 - none_beyond),
        "correlation": _correlation(noise),
        "repetition": _repetition(noise),
        "equal numbers": _equal_numbers(noise[:, :_COMPARED]),
    }


_FAILED = {
    "shape": "the noise is not Gaussian of the promised size",
    "size": "the noise has not the promised standard deviation",
    "tails": "the largest number of the noise is none that a Gaussian gives",
    "correlation": "the noise of two releases, or of two parts of them, is correlated",
    "repetition": "the noise within one release is correlated with itself some places further on",
    "equal numbers": "numbers of the noise occur several times in one release",
}


def _correlation(noise: Matrix) -> float:
    half = noise.shape[1] // 2
    if half < 4:
        return _largest_cosine(noise)
    halves = np.concatenate([noise[:, :half], noise[:, half : 2 * half]])  # noise used twice within one release
    return min(1.0, 2 * min(_largest_cosine(noise), _largest_cosine(halves)))


def _largest_cosine(rows: Matrix) -> float:
    """P-value of the largest cosine of two rows, times the number of pairs."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    largest = float(np.abs((unit @ unit.T)[np.triu_indices(len(rows), 1)]).max())
    return min(1.0, math.comb(len(rows), 2) * _p_of_cosine(largest, rows.shape[1]))


def _p_of_cosine(cosine: float, size: int) -> float:
    """P-value of the cosine r of two independent Gaussian vectors: r sqrt((d - 1) / (1 - r^2)) is Student's t."""
    student = abs(cosine) * math.sqrt((size - 1) / max(1 - cosine**2, 1e-15))
    return 2 * float(stats.t.sf(student, size - 1))


def _repetition(noise: Matrix) -> float:
    """P-value of the most correlated lag within releases, times the number of lags.

    The lags are chosen by their autocorrelation. The test of each compares disjoint places, so that it is exact: the
    blocks of `lag` numbers with even numbers, and then those with odd ones, with the blocks after them.
    """
    size = noise.shape[1]
    spectrum = np.abs(np.fft.rfft(noise, 2 * size)) ** 2
    correlation = np.fft.irfft(spectrum.sum(0))[1:size] / np.sqrt(size - np.arange(1, size))
    smallest = 1.0
    for lag in (1 + np.argsort(-np.abs(correlation))[:_LAGS]).tolist():
        places = np.arange(size - lag)
        for parity in (0, 1):
            chosen = places[places // lag % 2 == parity]
            if chosen.size * len(noise) > 2:
                one, other = noise[:, chosen].ravel(), noise[:, chosen + lag].ravel()
                cosine = float(one @ other) / max(math.sqrt(float(one @ one) * float(other @ other)), 1e-300)
                smallest = min(smallest, _p_of_cosine(cosine, one.size))
    return float(min(1.0, 2 * (size - 1) * smallest))


def _equal_numbers(noise: Matrix) -> float:
    """P-value of how many numbers of a release are the next larger one's equal, signs aside."""
    gaps = np.diff(np.sort(np.abs(noise), axis=1), axis=1)
    pairs = len(noise) * math.comb(noise.shape[1], 2)
    expected = pairs * 2 * _SAME / math.sqrt(math.pi)  # the density of the difference of two |N(0, 1)| at 0, both ways
    return float(stats.poisson.sf(int((gaps < _SAME).sum()) - 1, expected))


def _residuals(federation: ProbeFederation, field: Field) -> Matrix:
    """(releases, d): the noise of every client (or the server) in several rounds, over its promised size."""
    loud, sigma = federation.every_row(), federation.event(field).noise_multiplier
    bare = federation.release(field, federation.holdings, federation.quiet())
    rounds = _rounds(sum(map(len, bare.values())))
    found: list[Vector] = []
    for number in rounds:
        noised = federation.release(field, federation.holdings, loud, server_round=number)
        found += [(noised[name] - bare[name]) / sigma for name in noised]
    return np.stack(found)


def _residuals_of_nobody(federation: ProbeFederation) -> Matrix:
    """The same where no unit takes part, under the run's own sample rate and number of local steps."""
    config = federation.variant(federation__wire="float32")
    sigma = federation.event("update").noise_multiplier * _spread(federation.config)
    first = federation.release("update", federation.empty, config)
    found = list(first.values())
    for number in _rounds(sum(map(len, first.values())))[1:]:
        found += federation.release("update", federation.empty, config, server_round=number).values()
    return np.stack(found) / sigma


def _rounds(numbers: int) -> list[int]:
    """1, 1, 2, 2, ...: enough rounds for NUMBERS residuals, each asked for twice."""
    count = min(_MOST_ROUNDS, max(4, -(-NUMBERS // numbers)))
    return [1 + n // 2 for n in range(count)]


def _spread(config: RunConfig) -> float:
    """Standard deviation of an update's noise over that of one local step: a proximal term shrinks earlier steps."""
    if config.privacy.mechanism == "central":
        return 1.0
    train = config.train
    kept = 1.0 - (train.learning_rate * train.proximal if train.local_steps > 1 else 0.0)
    return math.sqrt(sum(kept ** (2 * step) for step in range(train.local_steps)))


def _entropy_problems(federation: ProbeFederation, field: Field) -> list[str]:
    """The same bytes of the operating system give the same noise, so that nothing else (a seed, say) goes into it."""
    config = federation.every_row()

    def released() -> Vector:
        values = federation.release(field, federation.holdings, config)
        return np.concatenate([values[name] for name in sorted(values)])

    recorder = _Recorder()
    with _urandom(recorder):
        first = released()
    with _urandom(_Replayer(recorder.drawn)):
        again = released()
    problems = []
    sums = 1 if federation.central else len(federation.holdings)
    if sum(len(bits) >= ENTROPY for bits in recorder.drawn) < sums:
        problems.append(f"{field}: a release took less than {ENTROPY} bytes from the operating system")
    if not np.array_equal(first, again):
        problems.append(f"{field}: the noise depends on more than what the operating system gave")
    return problems


class _Recorder:
    """os.urandom that remembers what it gave to this thread."""

    def __init__(self) -> None:
        self.drawn: list[bytes] = []

    def __call__(self, real: Callable[[int], bytes], count: int) -> bytes:
        self.drawn.append(bits := real(count))
        return bits


class _Replayer:
    """os.urandom that gives what was recorded, as long as the same amounts are asked for."""

    def __init__(self, drawn: list[bytes]) -> None:
        self._left = iter(drawn)

    def __call__(self, real: Callable[[int], bytes], count: int) -> bytes:
        bits = next(self._left, b"")
        return bits if len(bits) == count else real(count)


@contextmanager
def _urandom(source: Source) -> Iterator[None]:
    """Inside, this thread's os.urandom is `source`; other threads keep the real one."""
    real, owner = os.urandom, threading.get_ident()

    def urandom(count: int, /) -> bytes:
        return source(real, count) if threading.get_ident() == owner else real(count)

    with patch.object(os, "urandom", urandom):
        yield
