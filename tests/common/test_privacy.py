"""Claims, budgets and reports: what a history costs and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushrec.common import accountants
from hushrec.common.errors import ConfigError, PrivacyBudgetExhausted, PrivacyError
from hushrec.common.privacy import (
    PrivacyEvent,
    check_delta,
    claim_for,
    epsilon_pld,
    epsilon_prv,
    epsilon_rdp,
    report,
    require_budget,
    rounds_left,
    solve_noise_multiplier,
)

DELTA = 1e-5
ROUND = PrivacyEvent(1.0, 0.2, 5)
POPULARITY = PrivacyEvent(10.0, 1.0, 1, "popularity")
C1 = claim_for("device", "record", delta=DELTA, target_epsilon=12.0, max_records=10)


def test_ten_carried_rounds_cost_what_one_long_run_costs() -> None:
    carried = [ROUND] * 10
    assert epsilon_prv(carried, DELTA) == epsilon_prv([PrivacyEvent(1.0, 0.2, 50)], DELTA)
    assert epsilon_prv(carried, DELTA) == pytest.approx(10.139, abs=1e-3)


def test_the_last_round_alone_would_say_far_too_little() -> None:
    assert epsilon_prv([ROUND], DELTA) == pytest.approx(3.89, abs=0.01)


@pytest.mark.parametrize("epsilon", [epsilon_rdp, epsilon_prv, epsilon_pld])
def test_no_event_costs_nothing(epsilon: object) -> None:
    assert callable(epsilon)
    assert epsilon([], DELTA) == 0.0


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.builds(PrivacyEvent, st.floats(0.6, 20), st.sampled_from([0.01, 0.3, 1.0]), st.integers(1, 100)), max_size=4
    ),
    st.builds(PrivacyEvent, st.floats(0.6, 20), st.sampled_from([0.01, 0.3, 1.0]), st.integers(1, 100)),
)
def test_one_more_release_never_costs_less(events: list[PrivacyEvent], more: PrivacyEvent) -> None:
    for claim in (C1, claim_for("device", "interaction", delta=DELTA, target_epsilon=1.0)):
        assert claim.epsilon([*events, more]) >= claim.epsilon(events)


@pytest.mark.parametrize(("delta", "relation", "rows"), [(0.0, "add_remove", 1), (1e-5, "swap", 1), (1e-5, "x", 0)])
def test_meaningless_questions_are_refused(delta: float, relation: str, rows: int) -> None:
    with pytest.raises(PrivacyError):
        epsilon_rdp([ROUND], delta, relation, rows)  # type: ignore[arg-type]


def test_delta_must_be_below_a_tenth_of_one_unit() -> None:
    check_delta(1e-5, 943)
    with pytest.raises(ConfigError, match=r"target-delta.*943"):
        check_delta(1.1e-4, 943)
    with pytest.raises(ConfigError, match="at least one"):
        check_delta(1e-5, 0)


def test_each_claim_names_its_unit_relation_and_rows() -> None:
    found = {
        (mechanism, unit): claim_for(mechanism, unit, delta=DELTA, target_epsilon=8.0, max_records=4)
        for mechanism, unit in [
            ("device", "record"),
            ("device", "interaction"),
            ("device", "user"),
            ("silo", "user"),
            ("server", "user"),
        ]
    }
    assert [(c.name, c.relation, c.rows, c.max_records) for c in found.values()] == [
        ("C1", "add_remove", 1, 4),
        ("C1'", "replace_one", 1, 4),
        ("C1 (user)", "add_remove", 4, 4),
        ("C2", "add_remove", 1, 1),
        ("C3", "add_remove", 1, 1),
    ]
    assert "NOT the server" in found["server", "user"].trust
    assert "not the silo itself" in found["silo", "user"].trust


@pytest.mark.parametrize(
    ("mechanism", "unit", "change"),
    [
        ("server", "record", {}),
        ("silo", "record", {}),
        ("device", "record", {"delta": 0.0}),
        ("device", "record", {"target_epsilon": 0.0}),
        ("device", "record", {"target_epsilon": float("inf")}),
        ("device", "user", {"max_records": 0}),
    ],
)
def test_a_claim_that_cannot_be_made_is_refused(mechanism: str, unit: str, change: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        claim_for(mechanism, unit, **{"delta": DELTA, "target_epsilon": 8.0, **change})  # type: ignore[arg-type]


def test_a_plan_past_the_budget_is_refused_and_says_by_how_much() -> None:
    assert require_budget([ROUND] * 10, ROUND, C1) == pytest.approx(C1.epsilon([ROUND] * 11))
    with pytest.raises(PrivacyBudgetExhausted) as refused:
        require_budget([ROUND] * 10, [ROUND, ROUND], C1)
    assert refused.value.epsilon_after == pytest.approx(C1.epsilon([ROUND] * 12))
    assert refused.value.target_epsilon == 12.0


def test_the_budget_may_be_used_up_exactly_but_not_passed_by_a_hair() -> None:
    exact = C1.epsilon([ROUND] * 11)
    assert require_budget([ROUND] * 10, ROUND, replace(C1, target_epsilon=exact)) == exact
    with pytest.raises(PrivacyBudgetExhausted):
        require_budget([ROUND] * 10, ROUND, replace(C1, target_epsilon=exact * (1 - 1e-9)))


def test_rounds_left_is_the_largest_number_that_fits() -> None:
    claim = claim_for("device", "record", delta=DELTA, target_epsilon=50.0)
    plan = [ROUND, PrivacyEvent(30.0, 1.0, 1, "metrics")]
    left = rounds_left([POPULARITY], plan, claim)
    assert claim.epsilon([POPULARITY, *plan * left]) <= 50.0 < claim.epsilon([POPULARITY, *plan * (left + 1)])
    assert rounds_left([ROUND] * 1000, plan, claim) == 0
    with pytest.raises(PrivacyError, match="at least one release"):
        rounds_left([], [], claim)


@pytest.mark.parametrize(("sample_rate", "steps", "target"), [(0.1, 100, 2.0), (1.0, 20, 8.0), (0.01, 1000, 0.5)])
def test_the_calibrated_noise_is_the_smallest_within_half_a_percent(
    sample_rate: float, steps: int, target: float
) -> None:
    sigma = solve_noise_multiplier(target, DELTA, sample_rate, steps, [POPULARITY])
    costs = [epsilon_rdp([POPULARITY, PrivacyEvent(s, sample_rate, steps)], DELTA) for s in (sigma, sigma / 1.005)]
    assert costs[0] <= target < costs[1]


def test_calibration_counts_the_other_releases() -> None:
    alone = solve_noise_multiplier(2.0, DELTA, 0.1, 100)
    assert solve_noise_multiplier(2.0, DELTA, 0.1, 100, [PrivacyEvent(5.0, 1.0, 1)]) > alone * 1.05


def test_calibration_for_a_user_or_an_interaction_needs_more_noise() -> None:
    record = solve_noise_multiplier(8.0, DELTA, 1.0, 20)
    assert solve_noise_multiplier(8.0, DELTA, 1.0, 20, rows=4) == pytest.approx(4 * record, rel=0.01)
    assert solve_noise_multiplier(8.0, DELTA, 1.0, 20, relation="replace_one") == pytest.approx(2 * record, rel=0.01)


def test_calibration_fails_clearly_when_no_noise_suffices() -> None:
    with pytest.raises(ConfigError, match="other releases alone cost"):
        solve_noise_multiplier(0.1, DELTA, 0.1, 100, [PrivacyEvent(1.0, 1.0, 1)])


def test_a_record_report_never_hides_the_user_and_the_interaction() -> None:
    found = report([POPULARITY, *[ROUND] * 10], C1)
    assert found["epsilon"] == max(found["rdp"], found["prv"], found["pld"])
    assert found["accountant"] == found["accountants"]["rdp"]
    assert found["user_epsilon"] > found["interaction_epsilon"] > found["epsilon"]
    assert found["releases"] == {"popularity": 1, "training": 50}
    assert {"unit", "relation", "trust", "delta", "max_records", "assumptions", "not_covered"} <= found.keys()
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_an_empty_history_is_reported_as_zero() -> None:
    found = report([], C1)
    assert [found[name] for name in ("epsilon", "rdp", "prv", "pld", "user_epsilon")] == [0.0] * 5


def test_an_accountant_without_an_answer_is_named() -> None:
    found = report([ROUND], claim_for("device", "interaction", delta=DELTA, target_epsilon=8.0))
    assert found["prv"] is None
    assert found["pld"] is not None
    assert found["notes"][0].startswith("prv: ")


@pytest.mark.parametrize("wrong", ["prv_epsilon", "pld_epsilon", "rdp_epsilon"])
def test_accountants_that_contradict_each_other_stop_the_report(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    factor = 0.5 if wrong == "rdp_epsilon" else 1.2
    right = getattr(accountants, wrong)
    monkeypatch.setattr(accountants, wrong, lambda *arguments: factor * right(*arguments))
    with pytest.raises(PrivacyError, match="no epsilon can be claimed"):
        report([ROUND] * 10, C1)
