"""The claim card: exclusions first, every question answered, and nothing on it that claim or ledger do not say."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hushrec.common.ledger import Ledger, LedgerHeader
from hushrec.common.privacy import PrivacyEvent, claim_for, report
from hushrec.simulations.audit.check import Check
from hushrec.simulations.audit.claim_card import claim_card, no_claim_card, with_checks
from hushrec.simulations.audit.ledgers import AuditedLedger, read_ledgers

CHECKS = [Check("budget", "holds", "a", "b"), Check("delta", "not tested", "a", "b")]
RESULTS = {
    "dataset": {"training_users": 754, "clients": 754},
    "choices": {"hushrec": {"popularity_weight": 0.3}, "ease": {"l2": 1.0}},
    "protocol": "joint",
}


def collected(folder: Path, mechanism: str, unit: str, event: PrivacyEvent, who: str) -> tuple[AuditedLedger, ...]:
    claim = claim_for(mechanism, unit, delta=1e-5, target_epsilon=8.0, max_records=4)
    header = LedgerHeader.for_claim(claim, who=who, clipping_norm=0.5, denominator=3.0, plan=[event])
    with Ledger.open(folder / "ledger.jsonl", header) as ledger:
        ledger.reserve(1, ["one"], event)
    return read_ledgers([folder / "ledger.jsonl"])


def card_of(ledgers: tuple[AuditedLedger, ...], results: Any = None) -> dict[str, Any]:
    replay = ledgers[0].replay
    found = report(replay.events("one"), replay.header.claim()) | {"clients_charged": 1, "rounds_left": 3}
    return claim_card(ledgers, found, CHECKS, results)


def answer(card: dict[str, Any], start: str) -> str:
    (found,) = [one["answer"] for one in card["questions"] if one["question"].startswith(start)]
    return str(found)


@pytest.mark.parametrize(
    ("mechanism", "unit", "rate", "clear", "sampler"),
    [
        ("device", "record", 1.0, "On each user's own device", "every record's row enters every step"),
        (
            "silo",
            "user",
            0.25,
            "In each silo",
            "every user's row enters a step with probability 0.25; no amplification",
        ),
        ("server", "user", 0.1, "every update also on the server", "enrolled user with probability 0.1 a round"),
    ],
)
def test_a_card_says_who_is_trusted_where_data_are_clear_and_how_units_are_drawn(
    mechanism: str, unit: str, rate: float, clear: str, sampler: str, tmp_path: Path
) -> None:
    event = PrivacyEvent(2.0, rate, 1)
    ledgers = collected(tmp_path, mechanism, unit, event, "simulation, hour records")
    card, claim = card_of(ledgers, RESULTS), ledgers[0].replay.header.claim()
    assert next(iter(card)) == "format"
    assert list(card)[1] == "not_covered"
    assert set(claim.not_covered) < set(card["not_covered"])
    assert card["not_covered"][-1].startswith("a simulation: ")
    assert card["against"] == claim.trust
    assert clear in answer(card, "Where are data in the clear")
    assert sampler in card["mechanism"]["sampler"]
    assert card["claim"]["epsilon"] == report([event], claim)["epsilon"]
    assert set(card["claim"]["accountants"]) == {"rdp", "prv", "pld"}
    assert card["population"] == {"clients_charged": 1, "training_users": 754, "clients": 754}
    assert card["ledgers"][0]["head"] == ledgers[0].replay.head
    assert "popularity_weight" in card["tuning"]
    assert all(one["answer"].strip() for one in card["questions"])
    assert len(card["questions"]) == len({one["question"] for one in card["questions"]}) == 17
    json.dumps(card, allow_nan=False)


def test_a_device_that_is_no_simulation_is_not_called_one(tmp_path: Path) -> None:
    card = card_of(collected(tmp_path, "device", "record", PrivacyEvent(2.0, 1.0, 1), "phone 7"))
    assert not any(line.startswith("a simulation") for line in card["not_covered"])
    assert "is not recorded anywhere. A ledger does not say" in card["tuning"]


def test_what_epsilon_means_for_an_attacker_is_the_cap_of_the_claim(tmp_path: Path) -> None:
    card = card_of(collected(tmp_path, "device", "record", PrivacyEvent(4.0, 1.0, 1), "phone"))
    epsilon, delta = card["claim"]["epsilon"], card["claim"]["delta"]
    cap = (math.exp(epsilon) - 1 + 2 * delta) / (math.exp(epsilon) + 1)
    assert f"right at most {cap:.3f} more often than wrong" in card["meaning"]
    assert "Adding or removing one record changes" in card["meaning"]


def test_checks_of_a_card_are_replaced_and_told_in_words(tmp_path: Path) -> None:
    card = card_of(collected(tmp_path, "device", "record", PrivacyEvent(2.0, 1.0, 1), "phone"))
    assert "holds: budget; not tested: delta" in answer(card, "Is the implementation correct?")
    again = with_checks(card, [replace(CHECKS[0], verdict="VIOLATED")])
    assert again["checks"] == [{"name": "budget", "verdict": "VIOLATED"}]
    assert "VIOLATED: budget." in answer(again, "Is the implementation correct?")
    assert len(again["questions"]) == len(card["questions"])


def test_a_run_without_privacy_has_a_card_that_promises_nothing() -> None:
    card = no_claim_card(RESULTS)
    assert card["claim"] is None
    assert card["not_covered"][0].startswith("everything")
