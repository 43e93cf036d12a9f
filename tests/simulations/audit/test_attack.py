"""The attack breaks an update without privacy, fails under the claim, and notices when the noise is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.faults.noise import noise_dropped
from support.faults.sensitivity import not_clipped

from hushrec.client import popularity, private
from hushrec.common.config import RunConfig
from hushrec.common.privacy import PrivacyEvent, epsilon_rdp
from hushrec.common.protocol import Arrays
from hushrec.server import central_privacy
from hushrec.simulations.audit import membership
from hushrec.simulations.audit.attack import FAILS, WORKS, AttackReport, run_attack
from hushrec.simulations.audit.check import Check
from hushrec.simulations.audit.release_attack import RELEASES

Tiny = Callable[..., RunConfig]
# Trained matrices of 8 x 8 numbers, which 4 films of a record do not fill.
CORE = {"model__head_core": "full", "federation__clients_per_round": 0}
SILOS = {"privacy__unit": "user", "federation__shape": "silos", "federation__silos": 5}
CENTRAL = {"privacy__mechanism": "central", "privacy__unit": "user", "privacy__sample_rate": 0.5}


def named(report: AttackReport, name: str) -> Check:
    (found,) = [check for check in report.checks if check.name == name]
    return found


@pytest.fixture(scope="module")
def on_devices(tiny: Tiny) -> AttackReport:
    return run_attack(tiny(**CORE))


# --- without privacy ---


def test_without_privacy_the_attack_names_the_films(tiny: Tiny) -> None:
    told: list[str] = []
    report = run_attack(tiny(**CORE, privacy__mechanism="none"), progress=told.append)
    works = named(report, WORKS)
    assert works.verdict == "holds"
    assert works.figures["auc"]["low"] > 0.9
    assert works.figures["recall"]["low"] > 0.6 > 10 * works.figures["chance"]["mean"]
    assert named(report, FAILS).verdict == "not tested"
    assert "reveals" in named(report, FAILS).measured
    first = report.films[0]
    assert first["watched"]
    assert first["rank_without_privacy"] == 1
    assert first["rank_with_privacy"] is None
    assert len(told) == 2


def test_without_privacy_the_seed_determines_everything(tiny: Tiny) -> None:
    config = tiny(**CORE, privacy__mechanism="none")
    one, again, other = (run_attack(config, seed=seed) for seed in (3, 3, 4))
    assert (one.films, one.curves, one.checks) == (again.films, again.curves, again.checks)
    assert one.curves != other.curves


def test_an_adapter_without_a_user_matrix_is_attacked_too(tiny: Tiny) -> None:
    works = named(run_attack(tiny(privacy__mechanism="none")), WORKS)
    assert works.verdict == "holds"
    assert works.figures["auc"]["low"] > 0.8 or works.figures["neighbours_told_apart"] == 1.0


@pytest.mark.parametrize("changes", [CORE, {"federation__clients_per_round": 0}], ids=["matrix", "factors"])
def test_an_attack_that_sees_nothing_makes_the_audit_unusable(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    rng = np.random.default_rng(0)

    def blind(server: membership.CuriousServer, arrays: Arrays) -> Arrays:
        return {name: rng.normal(size=value.shape).astype(np.float32) for name, value in arrays.items()}

    monkeypatch.setattr(membership.CuriousServer, "_sent", blind)
    works = named(run_attack(tiny(**changes)), WORKS)
    assert works.verdict == "VIOLATED"
    assert "unusable" in works.measured


# --- under the claim ---


def test_at_epsilon_1_the_attack_is_at_chance(on_devices: AttackReport) -> None:
    fails = named(on_devices, FAILS)
    assert fails.verdict == "holds"
    calibrated = fails.figures["epsilon 1"]
    assert 0.9 < calibrated["epsilon"] <= 1
    assert 0.4 < calibrated["cap"] < 0.47
    assert calibrated["advantage"]["low"] <= 0.25
    films = calibrated["films"]
    assert 0.4 < films["auc"]["mean"] < 0.6
    assert films["recall"]["low"] < 2 * films["chance"]["mean"]


def test_the_runs_own_noise_is_judged_by_one_interaction(on_devices: AttackReport, tiny: Tiny) -> None:
    found = named(on_devices, FAILS).figures["the run's noise"]
    event = PrivacyEvent(found["noise_multiplier"], 1.0, 1)
    assert found["epsilon"] == pytest.approx(epsilon_rdp([event], 1e-5, "replace_one"))
    four = PrivacyEvent(found["noise_multiplier"], 1.0, 4)
    assert epsilon_rdp([four], 1e-5) == pytest.approx(8, rel=0.02)  # the record's budget of four rounds
    assert found["run_epsilon"] == pytest.approx(epsilon_rdp([four], 1e-5, "replace_one"))


def test_the_page_gets_curves_and_films_as_json(on_devices: AttackReport) -> None:
    assert json.loads(json.dumps(on_devices.films)) == on_devices.films
    assert all(json.dumps(dict(check.figures), allow_nan=False) for check in on_devices.checks)
    assert {film["watched"] for film in on_devices.films} == {True, False}
    assert len(on_devices.curves) == 5
    for points in on_devices.curves.values():
        assert points == sorted(points)
        assert points[-1] == (1.0, 1.0)


@pytest.mark.parametrize("changes", [SILOS, CENTRAL], ids=["silos", "central"])
def test_users_of_silos_and_of_a_trusted_server_are_attacked(tiny: Tiny, changes: dict[str, Any]) -> None:
    report = run_attack(tiny(**CORE, **changes))
    assert [check.verdict for check in report.checks] == ["holds", "holds"]
    assert ("trusted server itself sees" in named(report, FAILS).measured) == (changes is CENTRAL)


def test_a_run_without_rounds_is_judged_by_its_mechanism_alone(tiny: Tiny) -> None:
    fails = named(run_attack(tiny(**CORE, **CENTRAL, federation__rounds=0, model__core_init="statistics")), FAILS)
    assert list(fails.figures) == ["epsilon 1"]
    assert "plans no round" in fails.measured


# --- planted faults ---


@pytest.mark.parametrize("changes", [{}, SILOS, CENTRAL], ids=["devices", "silos", "central"])
def test_missing_noise_violates_the_claim(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    monkeypatch.setattr(private, "secret_gaussian", torch.zeros)
    monkeypatch.setattr(central_privacy, "secret_gaussian", torch.zeros)
    fails = named(run_attack(tiny(**CORE, **changes)), FAILS)
    assert fails.verdict == "VIOLATED"
    assert fails.figures["epsilon 1"]["advantage"]["low"] > 0.8
    assert "reveal more than claimed at epsilon 1" in fails.measured


def test_noise_of_a_hundredth_violates_the_claim(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "secret_gaussian", lambda size: torch.randn(size) / 100)
    assert named(run_attack(tiny(**CORE)), FAILS).verdict == "VIOLATED"


def test_rows_that_are_not_clipped_violate_the_claim(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    real = private.NoisedSum.add
    # Noise for rows of norm C, and rows a hundred times as long.
    monkeypatch.setattr(private.NoisedSum, "add", lambda self, rows: _unclipped(self, rows, real))
    assert named(run_attack(tiny(**CORE)), FAILS).verdict == "VIOLATED"


def _unclipped(made: private.NoisedSum, rows: torch.Tensor, real: Callable[..., None]) -> None:
    norm = made._optimizer.max_grad_norm
    made._optimizer.max_grad_norm = 100 * norm
    real(made, 1e4 * rows)
    made._optimizer.max_grad_norm = norm


# --- the releases before round 1 ---

RELEASED = {"privacy__popularity_noise_multiplier": 6.0, "federation__rounds": 0, "model__core_init": "statistics"}
RELEASED |= {"privacy__statistics_noise_multiplier": 6.0}
SHAPES = {"devices": {}, "silos": SILOS, "central": CENTRAL}


@pytest.mark.parametrize("shape", SHAPES)
def test_noised_counts_and_statistics_stay_under_the_cap_and_bare_counts_name_every_film(
    tiny: Tiny, shape: str
) -> None:
    report = run_attack(tiny(**CORE, **SHAPES[shape], **RELEASED))
    check = named(report, RELEASES)
    assert check.verdict == "holds", check.measured
    assert check.figures["counts without noise"]["films"]["recall"]["mean"] == 1.0
    for level in ("counts at calibration", "statistics at calibration"):
        found = check.figures[level]
        assert found["cap"] < 0.47
        assert -0.3 < found["advantage"]["low"] < found["cap"]
        assert f"one film, {level}" in report.curves
    films = check.figures["counts at calibration"]["films"]
    assert films["auc"]["mean"] < 0.7
    assert json.dumps(dict(check.figures), allow_nan=False)


@pytest.mark.parametrize("shape", ["devices", "central"])
def test_counts_without_noise_violate_the_claim(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, shape: str) -> None:
    noise_dropped(monkeypatch)
    check = named(run_attack(tiny(**CORE, **SHAPES[shape], **RELEASED)), RELEASES)
    assert check.verdict == "VIOLATED"
    assert "counts at the run's noise reveals more than claimed" in check.measured
    assert check.figures["counts at the run's noise"]["films"]["recall"]["mean"] == 1.0


def test_counts_that_are_longer_than_their_noise_is_made_for_violate_the_claim(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that adds the noise of one row to a row a hundred times as long."""
    real = popularity._contribution
    monkeypatch.setattr(popularity, "_contribution", lambda row, items: 100 * real(row, items))
    not_clipped(monkeypatch)
    assert named(run_attack(tiny(**CORE, **RELEASED)), RELEASES).verdict == "VIOLATED"


def test_a_run_without_such_a_release_has_no_check_of_it(on_devices: AttackReport) -> None:
    assert [check.name for check in on_devices.checks] == [WORKS, FAILS]


def test_too_few_users_are_no_verdict(tiny: Tiny) -> None:
    report = run_attack(tiny(**CORE, data__max_users=8, privacy__target_delta=1e-6))
    assert [check.verdict for check in report.checks] == ["not tested", "not tested"]
