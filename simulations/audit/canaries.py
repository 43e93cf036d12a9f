"""Empirical lower bounds on epsilon: planted privacy units whose presence is guessed from what the real code releases.

The budget is 1 instead of the run's, because a fault that hides below epsilon 8 stands out above 1. The releases are
canary_releases.py's and the statistics are bounds.py's; the bounds here can show that a claim is broken, never that it
holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hushrec.common.config import RunConfig
from hushrec.common.privacy import epsilon_pld
from hushrec.simulations.audit import bounds
from hushrec.simulations.audit.canary_releases import Calibration, Observations, calibrate, coins, observe
from hushrec.simulations.audit.check import Check, Verdict

GROUP = 1000  # canaries in one sum, as many as it has numbers
GROUPS, THOROUGH_GROUPS = 100, 500  # disjoint federations of GROUP canaries
MOST_SUMS, THOROUGH_SUMS = 4_000, 20_000  # noised sums of one attack; runs of many rounds get fewer federations
GUESSES_PER_CANARY, LEAST_GUESSES = 0.01, 200  # of the one-run audit, fixed here and not by looking
CONFIDENCE, CURVE_CONFIDENCE = 0.95, 0.999  # the curve's test is sharp: at 95 % it would alarm without a fault
DELTAS = (1e-3, 1e-2, 0.03, 0.08)  # of the curve, beside the claim's own
FACTORS = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 16.0)  # by which noise is tried too small, for the detection limit
TRIALS, SEEN = 10, 9  # simulated audits per factor, and how many of them must see the fault

ONE_RUN, FEDERATED, CURVE = "one-run canaries", "federated canaries", "canary curve"
_WHO = "A white-box adversary, who sees every noised sum and knows the canaries, C, sigma and the sample rate,"
_CLAIMS = {
    ONE_RUN: f"{_WHO} guesses who was in no better than the claimed epsilon allows",
    FEDERATED: f"{_WHO} tells present from absent canaries no better than the claimed epsilon and delta allow",
    CURVE: f"{_WHO} tells present from absent canaries no better than the accountant says at any of several deltas",
}
Curve = Sequence[tuple[float, float]]  # (delta, claimed epsilon)


@dataclass(frozen=True)
class Bound:
    """What one estimator found.

    Attributes:
        lower, ceiling, claimed: epsilon that was ruled out, would be by perfect guesses, and is claimed.
        how: the attack in words.
        figures: what belongs to this estimator alone.
    """

    name: str
    lower: float
    ceiling: float
    claimed: float
    delta: float
    confidence: float
    how: str
    figures: dict[str, Any]

    @property
    def violated(self) -> bool:
        return self.lower > self.claimed


def run_canaries(
    config: RunConfig,
    *,
    thorough: bool = False,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Check]:
    """Three lower bounds on epsilon at a budget of 1, each against what the accountant claims.

    Args:
        config: of the run; its claim, C, sample rate, denominator and number of rounds are kept.
        thorough: up to five times as many canaries.
        seed: of coins and directions; the noise is secret, so figures differ a little from audit to audit.
        progress: called with what is done now.
    Returns:
        ONE_RUN, FEDERATED and CURVE. Not seen by any of them: how a gradient is computed (the probes do that), noise
        that several clients share, what is charged, and noise too small by less than "detectable_factor".
    """
    found = calibrate(config)
    if found is None:
        nothing = "this run makes no private release"
        return [Check(name, "not tested", claim, nothing) for name, claim in _CLAIMS.items()]
    rng = np.random.default_rng(seed)
    most, sums = (THOROUGH_GROUPS, THOROUGH_SUMS) if thorough else (GROUPS, MOST_SUMS)
    groups = min(most, max(2, sums // found.event.steps))
    progress("canaries: one run")
    private = observe(found, groups, np.eye(GROUP, dtype=np.float32), rng)
    progress("canaries: federated")
    directions, _ = np.linalg.qr(rng.standard_normal((GROUP, GROUP)))
    federated = observe(found, groups, directions.astype(np.float32), rng)
    progress("canaries: detection limits")
    curve = claimed_curve(found)
    limits = detection_limits(found, groups, curve, rng)
    return [_check(found, bound, groups, limits[bound.name]) for bound in judge(found, private, federated, curve)]


def claimed_curve(found: Calibration) -> Curve:
    """(delta, epsilon) points that the tight accountant (PLD) claims for the calibrated schedule."""
    return [(delta, epsilon_pld([found.event], delta)) for delta in (found.claim.delta, *DELTAS)]


def judge(found: Calibration, private: Observations, federated: Observations, curve: Curve) -> list[Bound]:
    """The three bounds: ONE_RUN from `private`, FEDERATED and CURVE from `federated`."""
    delta = found.claim.delta
    member, scores = private.member.ravel(), _one_run_scores(found, private)
    guesses = max(LEAST_GUESSES, round(len(member) * GUESSES_PER_CANARY / 2) * 2)
    correct = bounds.correct_guesses(scores, member, guesses)
    one_run = Bound(
        ONE_RUN,
        bounds.one_run_epsilon(len(member), guesses, correct, delta, CONFIDENCE),
        bounds.one_run_epsilon(len(member), guesses, guesses, delta, CONFIDENCE),
        found.epsilon,
        delta,
        CONFIDENCE,
        f"{correct} of {guesses} guesses, their number fixed beforehand, were right on {len(member):,} canaries",
        {"canaries": len(member), "guesses": guesses, "correct": correct},
    )
    statistics, half = _statistics(found, federated), len(federated.member) // 2
    first = _split(statistics, federated.member, slice(half))
    second = _split(statistics, federated.member, slice(half, None))
    at_delta = _rates_bound(FEDERATED, first, second, [(delta, found.epsilon)], CONFIDENCE)
    return [one_run, at_delta, _rates_bound(CURVE, first, second, curve, CURVE_CONFIDENCE)]


def _one_run_scores(found: Calibration, seen: Observations) -> bounds.Numbers:
    """(m,) log likelihood ratios, after taking away what all sums share, such as noise that was used again."""
    shared = seen.signals.mean(axis=(0, 1))
    return _likelihood(found, (seen.signals - shared) * seen.signs[..., None]).ravel()


def _likelihood(found: Calibration, aligned: np.ndarray) -> bounds.Numbers:
    """(groups, canaries) log likelihood ratio of in against out, from (groups, steps, canaries) signed signals."""
    rate, variance = found.event.sample_rate, found.event.noise_multiplier**2
    skipped = math.log1p(-rate) if rate < 1 else -math.inf
    total = np.zeros((aligned.shape[0], aligned.shape[2]))
    for step in range(aligned.shape[1]):
        total += np.logaddexp(skipped, math.log(rate) + (aligned[:, step] - 0.5) / variance)
    return total


def _statistics(found: Calibration, seen: Observations) -> dict[str, bounds.Numbers]:
    """Name -> (groups, canaries) of what an adversary may make of the sums along a canary."""
    aligned = seen.signals * seen.signs[..., None]
    return {
        "likelihood ratio": _likelihood(found, aligned),
        "mean": aligned.mean(axis=1, dtype=np.float64),
        "largest": aligned.max(axis=1).astype(np.float64),
        "last": aligned[:, -1].astype(np.float64),
    }


Split = dict[str, tuple[bounds.Numbers, bounds.Numbers]]  # statistic -> its values on present, on absent canaries


def _split(statistics: dict[str, bounds.Numbers], member: np.ndarray, part: slice) -> Split:
    """The canaries of some of the federations."""
    here = member[part]
    return {name: (value[part][here], value[part][~here]) for name, value in statistics.items()}


def _rates_bound(name: str, chosen_on: Split, measured_on: Split, curve: Curve, confidence: float) -> Bound:
    """Choose statistic and threshold on some federations; bound epsilon on others, where it is worst for the curve."""
    statistic, threshold = bounds.best_test(chosen_on, curve)
    present, absent = measured_on[statistic]
    fpr, fnr = bounds.error_rates(present, absent, threshold, confidence)
    best = bounds.perfect_rates(len(present), len(absent), confidence)
    lower = [max(0.0, float(bounds.epsilon_from_rates(fpr, fnr, delta))) for delta, _ in curve]
    worst = int(np.argmax([found - claimed for found, (_, claimed) in zip(lower, curve, strict=True)]))
    delta, claimed = curve[worst]
    return Bound(
        name,
        lower[worst],
        float(bounds.epsilon_from_rates(*best, delta)),
        claimed,
        delta,
        confidence,
        f'The statistic "{statistic}", chosen with its threshold on other federations, has FPR <= {fpr:.3g} and FNR <= '
        f"{fnr:.3g} on {len(present):,} present and {len(absent):,} absent canaries",
        {
            "canaries": len(present) + len(absent),
            "statistic": statistic,
            "fpr_upper": float(fpr),
            "fnr_upper": float(fnr),
            "curve": [
                {"delta": point, "claimed_epsilon": claim, "lower_bound": found}
                for found, (point, claim) in zip(lower, curve, strict=True)
            ],
        },
    )


def detection_limits(
    found: Calibration, groups: int, curve: Curve, rng: np.random.Generator
) -> dict[str, float | None]:
    """Per check the smallest of FACTORS by which too little noise is seen in SEEN of TRIALS simulated audits.

    The audits are of an ideal Gaussian mechanism, whose noise is divided by the factor. None: no factor is seen.
    """
    limits: dict[str, float | None] = dict.fromkeys(_CLAIMS)
    for factor in FACTORS:
        seen = dict.fromkeys(limits, 0)
        for trial in range(TRIALS):
            if max(count for name, count in seen.items() if limits[name] is None) + TRIALS - trial < SEEN:
                break
            ideal = _ideal(found, groups, factor, rng)
            for bound in judge(found, ideal, ideal, curve):
                seen[bound.name] += bound.violated
        limits |= {name: factor for name, count in seen.items() if count >= SEEN and limits[name] is None}
        if None not in limits.values():
            break
    return limits


def _ideal(found: Calibration, groups: int, factor: float, rng: np.random.Generator) -> Observations:
    """Signals of a mechanism that is right but for noise that is too small by `factor`."""
    event, (member, signs) = found.event, coins(groups, found.event.steps, GROUP, rng)
    shape = (groups, event.steps, GROUP)
    signals = rng.standard_normal(shape, dtype=np.float32) * np.float32(event.noise_multiplier / factor)
    drawn = (
        member[:, None]
        if event.sample_rate == 1
        else member[:, None] & (rng.random(shape, np.float32) < event.sample_rate)
    )
    return Observations(signals + signs[..., None] * drawn, signs, member)


def _check(found: Calibration, bound: Bound, groups: int, limit: float | None) -> Check:
    event, privacy = found.event, found.config.privacy
    outcome = "ruled out" if bound.violated else "not contradicted"
    sight = (
        f"Noise too small, or clipping too wide, by a factor of {limit:g} or more is seen at this size; less may pass."
        if limit
        else f"At this size not even noise too small by a factor of {FACTORS[-1]:g} is surely seen."
    )
    measured = (
        f"epsilon >= {bound.lower:.2f} with {100 * bound.confidence:g} % confidence at delta {bound.delta:g}: the "
        f"claimed {bound.claimed:.2f} ({found.claim.name}, one {found.claim.unit}) is {outcome}; perfect guesses would "
        f"reach {bound.ceiling:.2f}. {bound.how}, in {groups} disjoint federations with {event.steps} noised sums each "
        f"(sigma {event.noise_multiplier:.3g}, sample rate {event.sample_rate:g}). {sight}"
    )
    figures = {
        "lower_bound": bound.lower,
        "ceiling": bound.ceiling,
        "claimed_epsilon": bound.claimed,
        "delta": bound.delta,
        "confidence": bound.confidence,
        "claim": found.claim.name,
        "unit": found.claim.unit,
        "relation": found.claim.relation,
        "noise_multiplier": event.noise_multiplier,
        "sample_rate": event.sample_rate,
        "steps": event.steps,
        "max_grad_norm": privacy.max_grad_norm if found.training else 1.0,
        "denominator": privacy.denominator if found.training else 1.0,
        "federations": groups,
        "detectable_factor": limit,
    }
    verdict: Verdict = "VIOLATED" if bound.violated else "holds"
    return Check(bound.name, verdict, _CLAIMS[bound.name], measured, figures | bound.figures)
