"""Clean code passes every probe, for every claim and adapter; the statistics behind them alarm as rarely as stated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from support.records import EVERY_COMPONENT

from hushrec.common import encoder
from hushrec.common.config import RunConfig
from hushrec.common.protocol import ALLOWED
from hushrec.common.workspace import shared_model
from hushrec.simulations.audit.check import Check
from hushrec.simulations.audit.noise_probe import noise_tests
from hushrec.simulations.audit.probe_federation import ProbeFederation
from hushrec.simulations.audit.probe_units import CATALOGUE, cut_rows, fit, holdings, removals
from hushrec.simulations.audit.probes import PROBES, run_probes
from hushrec.simulations.audit.sampler_probe import sampler_tests

RELEASE: dict[str, Any] = {"privacy__noise_multiplier": 2.0, "privacy__popularity_noise_multiplier": 3.0}
C1 = RELEASE
C2 = {**RELEASE, "privacy__unit": "user", "federation__shape": "silos", "privacy__sample_rate": 0.5}
C3 = {
    **RELEASE,
    "privacy__mechanism": "central",
    "privacy__unit": "user",
    "privacy__sample_rate": 0.3,
    "privacy__denominator": 10.0,
    "federation__clients_per_round": 0,
}
CLAIMS = {"C1": C1, "C2": C2, "C3": C3}
IN_A_RECORD = {  # a profile belongs to no record
    key: value
    for key, value in EVERY_COMPONENT.items()
    if key != "model__profiles" and not key.startswith(("privacy", "federation"))
}
STATISTICS = {
    "model__head_core": "full",
    "model__core_init": "statistics",
    "privacy__statistics_noise_multiplier": 2.0,
}


def by_name(config: RunConfig) -> dict[str, Check]:
    checks = run_probes(config)
    assert [check.name for check in checks] == list(PROBES)
    return {check.name: check for check in checks}


def verdicts(config: RunConfig) -> dict[str, str]:
    return {name: f"{check.verdict}: {check.measured}" for name, check in by_name(config).items()}


def holds(config: RunConfig) -> bool:
    return all(said.startswith("holds") for said in verdicts(config).values())


@pytest.mark.parametrize("adapter", ["lora", "ffa", "sb"])
@pytest.mark.parametrize("claim", CLAIMS)
def test_clean_code_passes_every_probe(tiny: Callable[..., RunConfig], claim: str, adapter: str) -> None:
    checks = by_name(tiny(model__adapter=adapter, **CLAIMS[claim]))
    assert {name: check.measured for name, check in checks.items() if check.verdict != "holds"} == {}
    figures = checks["sensitivity"].figures
    assert 0.999 <= figures["update: largest influence / C"] <= 1 + 1e-5
    assert 0.999 <= figures["counts: largest influence / C"] <= 1 + 1e-5
    assert figures["gradients"] == "layers written out"
    sent = checks["egress"].figures["inventory"]
    assert {part for one in sent for part in one["name"].split("/")[:1]} == {"update", "counts", "metrics"}
    assert {one["name"].split("/")[1] for one in sent if one["paid_by"] == "a constant"} <= set(ALLOWED)


@pytest.mark.parametrize(
    "changes",
    [
        {**C1, "train__local_steps": 3, "train__proximal": 0.1},
        {**C2, "model__top_layers": 0, "train__shared_negatives": True},
        {**C3, **STATISTICS},
        {**C2, **STATISTICS},
        {**C1, "model__dtype": "bfloat16", "federation__wire": "float16", "privacy__max_grad_norm": 50.0},
        {**C1, "privacy__max_records": 1, "privacy__record_span": "week"},
        {**C1, **IN_A_RECORD},
        {**C2, **EVERY_COMPONENT, "privacy__popularity_noise_multiplier": 3.0},
        {**EVERY_COMPONENT, **C3, "federation__shape": "devices"},
    ],
    ids=[
        *("local steps", "no layers", "statistics", "statistics of silos", "16 bits", "one record"),
        *("components of a record", "every component of silos", "every component under a trusted server"),
    ],
)
def test_clean_code_passes_under_other_settings(tiny: Callable[..., RunConfig], changes: dict[str, Any]) -> None:
    assert {name for name, said in verdicts(tiny(**changes)).items() if not said.startswith("holds")} == set()


def test_the_way_to_gradients_that_the_run_takes_is_the_one_that_is_probed(
    tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder.PostNormStack, "of", lambda *_: None)
    shared_model.cache_clear()
    try:
        checks = by_name(tiny(**C1))
    finally:
        shared_model.cache_clear()
    assert {name: check.measured for name, check in checks.items() if check.verdict != "holds"} == {}
    assert checks["sensitivity"].figures["gradients"] == "Opacus hooks"


def test_a_run_without_privacy_has_nothing_to_probe(tiny: Callable[..., RunConfig]) -> None:
    for said in verdicts(tiny(privacy__mechanism="none")).values():
        assert said.startswith("not tested: the run makes no privacy claim")


def test_a_run_that_releases_nothing_has_nothing_to_probe(tiny: Callable[..., RunConfig]) -> None:
    for said in verdicts(tiny(federation__rounds=0, privacy__noise_multiplier=2.0)).values():
        assert said.startswith("not tested: the run releases nothing")


def test_without_rounds_the_releases_are_probed_and_the_sampler_is_not(tiny: Callable[..., RunConfig]) -> None:
    changes = {**C3, **STATISTICS, "federation__rounds": 0, "privacy__noise_multiplier": 0.0}
    checks = by_name(tiny(**changes))
    assert checks.pop("sampler").verdict == "not tested"
    assert {check.verdict for check in checks.values()} == {"holds"}
    assert "statistics: largest influence / C" in checks["sensitivity"].figures


def test_a_model_that_is_not_here_is_exchanged_and_said_to_be(tiny: Callable[..., RunConfig]) -> None:
    config, said = fit(tiny(model__base="someone/huge", model__head_dim=128, data__name="movielens-1m"))
    assert (config.model.base, config.model.head_dim, config.data.name) == ("minilm", 96, "synthetic")
    assert said == "language model minilm and head-dim 96"
    assert fit(tiny())[1] == ""


# --- the generated units ---


@pytest.mark.parametrize("claim", CLAIMS)
def test_removing_a_unit_takes_away_one_row_and_leaves_the_others_as_they_were(
    tiny: Callable[..., RunConfig], claim: str
) -> None:
    config = tiny(**CLAIMS[claim])
    whole = holdings(config, 3)
    cases = list(removals(config, whole))
    assert len(cases) == sum(map(len, whole.values())) >= 5
    for client, rest in cases:
        before = {row.key: row.items.tolist() for row in cut_rows(config, whole[client])}
        after = {row.key: row.items.tolist() for row in cut_rows(config, rest.get(client, {}))}
        assert len(after) == len(before) - 1
        assert after.items() <= before.items()
    if claim != "C3":
        assert any(not rest[client] for client, rest in cases)  # one that is left without any


def test_the_probes_read_the_catalogue_that_they_are_made_for(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    federation = ProbeFederation(fit(tiny(**C1))[0], tmp_path, 0)
    assert len(federation.model.prefix) == CATALOGUE


# --- how rarely clean code alarms ---


@pytest.mark.parametrize("size", [2, 9, 40])
def test_p_values_of_clean_noise_are_not_too_small(size: int) -> None:
    rng = np.random.default_rng(size)
    found = [noise_tests(rng.normal(size=(12, size))) for _ in range(600)]
    for name in found[0]:
        values = np.array([one[name] for one in found])
        for level in (0.1, 0.01):
            alarms = int((values < level).sum())
            assert stats.binomtest(alarms, len(values), level, alternative="greater").pvalue > 1e-5, name


@pytest.mark.parametrize("rate", [1.0, 0.5, 0.05])
def test_p_values_of_clean_draws_are_not_too_small(rate: float) -> None:
    rng = np.random.default_rng(1)
    found = [sampler_tests(rng.random((80, 5)) < rate, rate) for _ in range(300)]
    for name in ("p of total", "p of units", "p of empty"):
        values = np.array([one[name] for one in found])
        for level in (0.1, 0.01):
            alarms = int((values < level).sum())
            assert stats.binomtest(alarms, len(values), level, alternative="greater").pvalue > 1e-5, name


def test_noise_of_another_size_shape_or_memory_gets_a_tiny_p_value() -> None:
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(12, 200))
    assert noise_tests(clean / 2)["size"] < 1e-12
    assert noise_tests(np.sign(clean))["shape"] < 1e-12
    assert noise_tests(rng.uniform(-(3**0.5), 3**0.5, clean.shape))["tails"] < 1e-12
    assert noise_tests(np.concatenate([clean, clean[:1]]))["correlation"] < 1e-12
    assert noise_tests(np.tile(clean[:, :9], 22))["repetition"] < 1e-12
    assert noise_tests((clean + np.roll(clean, 3, axis=1)) / 2**0.5)["repetition"] < 1e-12
    assert noise_tests(rng.permuted(np.tile(clean[:, :100], 2), axis=1))["equal numbers"] < 1e-12
    mixed = (clean[:1] - clean[1:2]) / 2**0.5
    assert noise_tests(np.concatenate([clean, mixed]))["correlation"] < 1e-12
