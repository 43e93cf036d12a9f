"""Three accountants that turn a history of noised releases into epsilon: RDP, PRV (Opacus) and PLD (Google).

They keep no state and know nothing about budgets or claims; `common/privacy.py` asks them.

Every release here is a Poisson-sampled Gaussian: each row enters with probability q, has norm at most C, and
N(0, (sigma C)^2) is added to the sum. With C = 1 the worst case for one unit is a pair of densities on the line,
which RDP integrates and PLD discretises:

=============  ==============================================  ========================================
relation       with the unit                                   without it
=============  ==============================================  ========================================
add_remove     sum_j Binomial(rows, q)(j) N(j, sigma^2)        N(0, sigma^2)
replace_one    (1 - q) N(0, sigma^2) + q N(1, sigma^2)         (1 - q) N(0, sigma^2) + q N(-1, sigma^2)
=============  ==============================================  ========================================

`rows` is the number of rows one unit contributes, each sampled on its own. The mixture dominates every way the rows
can point (Ganesh 2024, arXiv:2401.10294), in both orders and therefore for every Renyi order; the second line is
the pair dp-accounting uses for substitution. At q = 1 both are one Gaussian of sensitivity rows or 2 rows.
"""

from __future__ import annotations

import logging
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from scipy.special import gammaln, logsumexp

from hushrec.common.errors import PrivacyError

Relation = Literal["add_remove", "replace_one"]
History = tuple[tuple[float, float, int], ...]
"""(noise_multiplier, sample_rate, steps) of each release; equal ones merged."""

ORDERS = np.array(
    [1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9]
    + [2 + x / 10 for x in range(80)]
    + list(range(10, 64))
    + [64, 72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 1024]
)
NUMERIC_LIMIT = 100.0
"""Above this epsilon PRV would need gigabytes, for a number that promises nothing."""
_MIXTURE_LIMIT = 64  # sampled rows of a unit; beyond it PLD's mixtures take minutes
_ROUNDING = 1e-12  # added to each Renyi divergence: far above the rounding of the quadrature, far below any claim
_quiet_lock = threading.Lock()


class AccountantError(PrivacyError):
    """This accountant cannot give a number for this history, relation or size."""


def accountant_names() -> dict[str, str]:
    """The three accountants with their versions, for claims and reports."""
    packages = {"rdp": "hushrec", "prv": "opacus", "pld": "dp-accounting"}
    return {name: f"{package} {version(package)} {name.upper()}" for name, package in packages.items()}


@lru_cache(maxsize=65536)
def rdp_epsilon(history: History, delta: float, relation: Relation, rows: int) -> float:
    """Epsilon by Renyi composition: a sum of curves, then Canonne, Kamath and Steinke 2020, Proposition 12."""
    if not history:
        return 0.0
    curve = sum(steps * _rdp_curve(sigma, q, relation, rows) for sigma, q, steps in history)
    epsilon = curve + np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1)
    return max(0.0, float(epsilon.min()))


@lru_cache(maxsize=1024)
def prv_epsilon(history: History, delta: float, relation: Relation, rows: int) -> float:
    """Epsilon by Opacus' PRV accountant (upper end of its error interval).

    Raises:
        AccountantError: rows or replacement with q < 1, epsilon above NUMERIC_LIMIT, or a numerical failure.
    """
    if not history:
        return 0.0
    if rdp_epsilon(history, delta, relation, rows) > NUMERIC_LIMIT:
        raise AccountantError(f"epsilon is above {NUMERIC_LIMIT:g}: too large for the PRV accountant")
    if (relation, rows) != ("add_remove", 1):
        if any(q < 1 for _, q, _ in history):
            raise AccountantError("the PRV accountant knows sampled add/remove of one row only")
        history = tuple((sigma / _sensitivity(relation, rows), q, steps) for sigma, q, steps in history)
    with _quiet():
        from opacus.accountants import PRVAccountant  # late: it loads torch, which an auditor's reader may not need

        accountant = PRVAccountant()
        accountant.history = list(history)
        try:
            epsilon = float(accountant.get_epsilon(delta))
        except (RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
            raise AccountantError(f"the PRV accountant failed: {error}") from error
    if not math.isfinite(epsilon):
        raise AccountantError("the PRV accountant gave no finite epsilon")
    return max(0.0, epsilon)


@lru_cache(maxsize=1024)
def pld_epsilon(history: History, delta: float, relation: Relation, rows: int) -> float:
    """Epsilon by Google's privacy loss distributions (pessimistic, connect-the-dots)."""
    if not history:
        return 0.0
    # The grid follows epsilon: a fixed one overstates long histories of tiny losses and wastes time on large ones.
    interval = min(1e-2, max(1e-5, rdp_epsilon(history, delta, relation, rows) / 1e4))
    with _quiet():
        import dp_accounting as dpa
        from dp_accounting.pld import PLDAccountant

        replace = relation == "replace_one" and any(q < 1 for _, q, _ in history)
        neighbours = dpa.NeighboringRelation.REPLACE_ONE if replace else dpa.NeighboringRelation.ADD_OR_REMOVE_ONE
        accountant = PLDAccountant(neighbours, value_discretization_interval=interval)
        for sigma, q, steps in history:
            accountant.compose(_pld_event(dpa, sigma, q, relation, rows, replace), steps)
        epsilon = float(accountant.get_epsilon(delta))
    if not math.isfinite(epsilon):
        raise AccountantError("the PLD accountant gave no finite epsilon")
    return max(0.0, epsilon)


def _pld_event(dpa: Any, sigma: float, q: float, relation: Relation, rows: int, replace: bool) -> Any:
    """The release as dp-accounting's event; `replace`: the accountant itself doubles the sensitivity."""
    if q == 1:
        return dpa.GaussianDpEvent(sigma / (rows if replace else _sensitivity(relation, rows)))
    if rows == 1:
        return dpa.PoissonSampledDpEvent(q, dpa.GaussianDpEvent(sigma))
    _refuse_sampled_groups(relation)
    if rows > _MIXTURE_LIMIT:
        raise AccountantError(f"{rows} sampled rows of one unit are too many for the PLD accountant")
    weights = np.exp(_log_binomial(rows, q))
    from dp_accounting.dp_event import MixtureOfGaussiansDpEvent

    return MixtureOfGaussiansDpEvent(sigma, [float(j) for j in range(rows + 1)], (weights / weights.sum()).tolist())


def _sensitivity(relation: Relation, rows: int) -> int:
    """Largest change of an unsampled sum, in units of C."""
    return rows * (2 if relation == "replace_one" else 1)


def _refuse_sampled_groups(relation: Relation) -> None:
    if relation == "replace_one":
        raise AccountantError("no bound is known here for replacing several sampled rows at once; use add_remove")


@lru_cache(maxsize=4096)
def _rdp_curve(sigma: float, q: float, relation: Relation, rows: int) -> Any:
    """Renyi divergence of one step at each of ORDERS, the larger of both directions; inf where not computed."""
    if q == 1:
        return ORDERS * _sensitivity(relation, rows) ** 2 / (2 * sigma**2) + _ROUNDING
    if relation == "replace_one":
        if rows > 1:
            _refuse_sampled_groups(relation)
        weights = _log_binomial(1, q)
        return _renyi((weights, [0.0, 1.0]), (weights, [0.0, -1.0]), sigma) + _ROUNDING
    unit = (_log_binomial(rows, q), [float(j) for j in range(rows + 1)])
    nothing = (np.zeros(1), [0.0])
    removed = _renyi(unit, nothing, sigma)
    if rows == 1:  # Mironov, Talwar and Zhang 2019, Theorem 5: for one row removal is the larger direction
        return removed + _ROUNDING
    return np.maximum(removed, _renyi(nothing, unit, sigma)) + _ROUNDING


def _log_binomial(rows: int, q: float) -> Any:
    """log P[Binomial(rows, q) = j], (rows + 1,)."""
    j = np.arange(rows + 1)
    choose = gammaln(rows + 1) - gammaln(j + 1) - gammaln(rows - j + 1)
    return choose + j * math.log(q) + (rows - j) * math.log1p(-q)


def _renyi(p: tuple[Any, list[float]], q: tuple[Any, list[float]], sigma: float) -> Any:
    """Renyi divergence D(p || q) of two Gaussian mixtures (log weights, means), (orders,).

    The trapezoid rule converges exponentially on such integrands: steps of min(sigma / 4, sigma^2 / 2) keep the
    nearest complex zero of a mixture (pi sigma^2 from the line) below rounding. Outside 12 sigma of where an order can
    have its peak, at most twice the order times the largest mean away, less than 1e-30 is left.
    """
    reach = max(abs(mean) for mean in p[1] + q[1])
    highest = 64.0 if sigma < 0.5 or reach > 4 else ORDERS[-1]
    highest = 16.0 if reach > 16 else highest  # so much sensitivity has its optimum at small orders
    step = min(sigma / 4, sigma**2 / 2)
    half = math.ceil((2 * highest * reach + 12 * sigma) / step)
    x = np.arange(-half, half + 1) * step
    log_p, log_q = _log_density(x, p, sigma), _log_density(x, q, sigma)
    scale = math.log(step / (sigma * math.sqrt(2 * math.pi)))
    curve = np.full(len(ORDERS), np.inf)
    for index, order in enumerate(ORDERS[highest >= ORDERS]):
        near = math.ceil((2 * order * reach + 12 * sigma) / step)
        part = slice(half - near, half + near + 1)
        moment = float(logsumexp(order * log_p[part] + (1 - order) * log_q[part])) + scale
        curve[index] = max(0.0, moment / (order - 1))
    return curve


def _log_density(x: Any, mixture: tuple[Any, list[float]], sigma: float) -> Any:
    """log of the mixture's density at x, up to the Gaussian's constant, (len(x),)."""
    total = np.full(len(x), -np.inf)
    for weight, mean in zip(*mixture, strict=True):
        np.logaddexp(total, weight - (x - mean) ** 2 / (2 * sigma**2), out=total)
    return total


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the libraries say about their numerics, here only: each result is checked by its caller."""
    absl = logging.getLogger("absl")
    with _quiet_lock, warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        level = absl.level
        absl.setLevel(logging.ERROR)
        try:
            yield
        finally:
            absl.setLevel(level)
