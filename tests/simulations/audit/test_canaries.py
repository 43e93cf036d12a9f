"""Canaries: correct code stays below its claim, planted faults in the code of client and server go above it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hushrec.client import private, training
from hushrec.common.config import RunConfig
from hushrec.common.privacy import epsilon_rdp
from hushrec.common.protocol import Arrays
from hushrec.common.secret_noise import secret_gaussian
from hushrec.server import central_privacy
from hushrec.simulations.audit import canaries
from hushrec.simulations.audit.canaries import CURVE, FEDERATED, GROUP, ONE_RUN, claimed_curve, judge, run_canaries
from hushrec.simulations.audit.canary_releases import Calibration, calibrate, observe

ALL = {ONE_RUN, FEDERATED, CURVE}
CENTRAL = {"privacy.mechanism": "central", "privacy.unit": "user"}
NO_ROUNDS = {"federation.rounds": 0, "privacy.popularity-noise-multiplier": 3.0}
RUNS: dict[str, dict[str, Any]] = {
    "C1": {},
    "C1 sampled": {"privacy.sample-rate": 0.1, "train.local-steps": 2, "train.learning-rate": 0.1},
    "C1 release": NO_ROUNDS,
    "C2": {"federation.shape": "silos", "federation.silos": 5, "privacy.unit": "user"},
    "C3": CENTRAL | {"privacy.sample-rate": 0.1, "federation.rounds": 8, "train.learning-rate": 0.5},
    "C3 release": CENTRAL | NO_ROUNDS,
}


def config_of(kind: str) -> RunConfig:
    flat: dict[str, Any] = {
        "data.name": "synthetic",
        "federation.rounds": 4,
        "federation.clients-per-round": 0,
        "privacy.max-grad-norm": 0.5,
        "privacy.denominator": 3.0,
    }
    return RunConfig.from_flat(flat | RUNS[kind])


def calibrated(kind: str) -> Calibration:
    found = calibrate(config_of(kind))
    assert found is not None
    return found


def violated(kind: str, groups: int = 20) -> set[str]:
    """The bounds that pass the claim, from releases of the code as it is now."""
    found, rng = calibrated(kind), np.random.default_rng(1)
    private_coordinates = observe(found, groups, np.eye(GROUP, dtype=np.float32), rng)
    directions = np.linalg.qr(rng.standard_normal((GROUP, GROUP)))[0].astype(np.float32)
    bounds = judge(found, private_coordinates, observe(found, groups, directions, rng), claimed_curve(found))
    return {bound.name for bound in bounds if bound.violated}


# --- the code as it is ---


@pytest.mark.parametrize("kind", ["C1", "C2", "C3", "C3 release"])
def test_every_bound_stays_below_the_claim(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canaries, "GROUPS", 10)
    told: list[str] = []
    checks = run_canaries(config_of(kind), progress=told.append)
    assert [check.name for check in checks] == [ONE_RUN, FEDERATED, CURVE]
    assert [check.verdict for check in checks] == ["holds"] * 3
    assert len(told) == 3
    for check in checks:
        figures = check.figures
        assert 0 <= figures["lower_bound"] <= figures["claimed_epsilon"] <= 1 < figures["ceiling"]
        assert 1 < figures["detectable_factor"] <= 6
        assert f"{figures['ceiling']:.2f}" in check.measured
        assert f"{100 * figures['confidence']:g} %" in check.measured
        assert f"factor of {figures['detectable_factor']:g}" in check.measured
        assert "white-box" in check.claim
        assert figures["canaries"] >= 1000


@pytest.mark.parametrize("kind", RUNS)
def test_canaries_show_in_units_of_the_clipping_norm(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise a drawn canary counts exactly 1 in its own direction and 0 in the others'; absent ones never."""
    for module in (private, central_privacy):
        monkeypatch.setattr(module, "secret_gaussian", torch.zeros)
    found = calibrated(kind)
    directions = np.linalg.qr(np.random.default_rng(0).standard_normal((50, 50)))[0].astype(np.float32)
    seen = observe(found, 3, directions, np.random.default_rng(0))
    aligned = seen.signals * seen.signs[..., None]
    member = np.broadcast_to(seen.member[:, None], aligned.shape)
    drawn = aligned > 0.5
    assert np.abs(aligned - drawn).max() < 1e-4
    assert not (drawn & ~member).any()
    rate = found.event.sample_rate
    assert abs(drawn[member].mean() - rate) <= 5 * (rate * (1 - rate) / member.sum()) ** 0.5
    assert (seen.signs[:, 1:] == -seen.signs[:, :-1]).all()


@pytest.mark.parametrize(
    ("kind", "steps", "rate"), [("C1", 4, 1.0), ("C1 sampled", 8, 0.1), ("C3", 8, 0.1), ("C3 release", 1, 1.0)]
)
def test_calibration_is_the_schedule_of_the_run_at_epsilon_1(kind: str, steps: int, rate: float) -> None:
    found = calibrated(kind)
    assert (found.event.steps, found.event.sample_rate) == (steps, rate)
    assert found.epsilon == epsilon_rdp([found.event], config_of(kind).privacy.target_delta)
    assert 0.98 < found.epsilon <= 1


@pytest.mark.parametrize("change", [{"privacy.mechanism": "none"}, {"federation.rounds": 0}])
def test_a_run_without_private_releases_is_not_tested(change: dict[str, Any]) -> None:
    checks = run_canaries(RunConfig.from_flat(config_of("C1").to_flat() | change))
    assert {check.verdict for check in checks} == {"not tested"}
    assert {check.name for check in checks} == ALL


def test_a_thorough_audit_has_more_canaries_and_long_runs_have_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"GROUPS": 4, "THOROUGH_GROUPS": 6, "MOST_SUMS": 12, "THOROUGH_SUMS": 20, "TRIALS": 0}.items():
        monkeypatch.setattr(canaries, name, value)
    monkeypatch.setattr(canaries, "SEEN", 1)
    found = [run_canaries(config_of("C1"), thorough=thorough)[0].figures for thorough in (False, True)]
    assert [figures["canaries"] for figures in found] == [3 * GROUP, 5 * GROUP]
    assert [figures["detectable_factor"] for figures in found] == [None, None]


def test_a_correct_mechanism_raises_no_alarm_in_sixty_audits() -> None:
    found, rng = calibrated("C1"), np.random.default_rng(2)
    curve = claimed_curve(found)
    for _ in range(60):
        ideal = canaries._ideal(found, 10, 1.0, rng)
        assert not any(bound.violated for bound in judge(found, ideal, ideal, curve))


# --- planted faults ---

Patch = pytest.MonkeyPatch


def noise(patch: Patch, draw: Callable[[int], Tensor]) -> None:
    for module in (private, central_privacy):
        patch.setattr(module, "secret_gaussian", draw)


def no_noise(patch: Patch) -> None:
    noise(patch, torch.zeros)


def quarter_of_the_noise(patch: Patch) -> None:
    noise(patch, lambda size: secret_gaussian(size) / 4)


def half_of_the_noise(patch: Patch) -> None:
    noise(patch, lambda size: secret_gaussian(size) / 2)


def nearly_all_of_the_noise(patch: Patch) -> None:
    noise(patch, lambda size: secret_gaussian(size) / 1.05)


def the_same_noise_again(patch: Patch) -> None:
    noise(patch, lambda size: torch.randn(size, generator=torch.Generator().manual_seed(size)))


def no_clipping(patch: Patch) -> None:
    clipping_to(patch, 1e6)


def clipping_to_twice_c(patch: Patch) -> None:
    clipping_to(patch, 2.0)


def clipping_to(patch: Patch, factor: float) -> None:
    """Rows are clipped to factor x C, the noise is still for C."""
    real_clip = central_privacy.clip

    def clip_and_accumulate(self: private._SecretNoiseOptimizer) -> None:
        norm = self.max_grad_norm
        self.max_grad_norm = factor * norm
        super(private._SecretNoiseOptimizer, self).clip_and_accumulate()
        self.max_grad_norm = norm

    def clip(update: Arrays, max_norm: float) -> Arrays:
        return real_clip(update, factor * max_norm)

    patch.setattr(private._SecretNoiseOptimizer, "clip_and_accumulate", clip_and_accumulate)
    patch.setattr(central_privacy, "clip", clip)


def everyone_in_every_sum(patch: Patch) -> None:
    def everyone(rows: int, sample_rate: float) -> Sequence[int]:
        return range(rows)

    patch.setattr(training, "poisson_choice", everyone)
    patch.setattr(central_privacy, "poisson_choice", everyone)


FAULTS = [
    ("C1", no_noise, ALL),
    ("C2", no_noise, ALL),
    ("C3", no_noise, ALL),
    ("C1 release", no_noise, ALL),
    ("C3 release", no_noise, ALL),
    ("C1", quarter_of_the_noise, ALL),
    ("C3 release", quarter_of_the_noise, ALL),
    ("C1", the_same_noise_again, ALL),
    ("C3", the_same_noise_again, ALL),
    ("C1 release", the_same_noise_again, {ONE_RUN}),  # one sum per federation: only the others show it
    ("C1", no_clipping, ALL),
    ("C2", no_clipping, ALL),
    ("C3", no_clipping, ALL),
    ("C1 release", no_clipping, ALL),
    ("C1 sampled", everyone_in_every_sum, ALL),
    ("C3", everyone_in_every_sum, ALL),
]


@pytest.mark.parametrize(("kind", "fault", "expected"), FAULTS)
def test_planted_faults_are_violations(kind: str, fault: Callable[[Patch], None], expected: set[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        assert violated(kind) == expected


@pytest.mark.parametrize(
    ("kind", "fault"), [("C1", half_of_the_noise), ("C2", clipping_to_twice_c), ("C3", clipping_to_twice_c)]
)
def test_a_factor_of_two_is_seen_by_the_curve(kind: str, fault: Callable[[Patch], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fault(patch)
        assert CURVE in violated(kind, groups=60)


def test_a_fault_below_the_stated_detection_limit_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canaries, "GROUPS", 10)
    nearly_all_of_the_noise(monkeypatch)
    for check in run_canaries(config_of("C1")):
        assert check.verdict == "holds"
        assert check.figures["detectable_factor"] > 1.05
