"""Tests of client/device/status.py and claim.py: what the owner is told, also when something is damaged."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from hushrec.client.device import pids
from hushrec.client.device.claim import claim_lines, constant_lines
from hushrec.client.device.database import Interaction
from hushrec.client.device.folder import DeviceFolder, create_device
from hushrec.client.device.policy import Policy
from hushrec.client.device.status import device_status, status_rows
from hushrec.common.budget import enforced_claim, ledger_header, training_event
from hushrec.common.invitation import Invitation
from hushrec.common.ledger import Ledger
from hushrec.common.privacy import epsilon_rdp, rounds_left

NOW = datetime(2026, 1, 2, 12, 30).astimezone()


def charge(device: DeviceFolder, rounds: int) -> None:
    config = device.invitation.config
    with Ledger.open(device.ledger, ledger_header(config, device.name), key=device.signing_key()) as ledger:
        for server_round in range(1, rounds + 1):
            ledger.reserve(server_round, [device.name], training_event(config))
    with device.open_database() as database:
        for server_round in range(1, rounds + 1):
            database.add_round(
                server_round=server_round, release="training", seconds=2.5, peak_mb=400.0, bytes_down=100, bytes_up=50
            )


def words(device: DeviceFolder) -> str:
    return "\n".join(text for _, text in status_rows(device_status(device, NOW)))


def test_a_new_device_has_its_whole_budget(kitchen: DeviceFolder) -> None:
    found = device_status(kitchen, NOW)
    config = kitchen.invitation.config
    left = rounds_left((), training_event(config), enforced_claim(config.privacy))
    assert found["privacy"]["epsilon_spent"] == 0
    assert found["privacy"]["rounds_left"] == left > 0
    assert (found["rounds"], found["interactions"], found["refusals"], found["problems"]) == (0, 0, [], [])
    assert (found["launcher"], found["supernode"]) == (False, False)
    assert found["fingerprint"] == kitchen.invitation.fingerprint


def test_what_was_charged_joined_and_refused_is_told(kitchen: DeviceFolder) -> None:
    charge(kitchen, 7)
    with kitchen.open_database() as database:
        database.add_interactions([Interaction("i0", 5), Interaction("i1", 6)])
        for detail in ("noise 0", "clipping 1000"):
            database.add_refusal("NOT_PINNED", detail)
        database.add_refusal("REPLAYED", "round 1")
    found = device_status(kitchen, NOW)
    config = kitchen.invitation.config
    claim, events = enforced_claim(config.privacy), [replace(training_event(config), steps=7)]
    assert found["privacy"]["epsilon_spent"] == pytest.approx(claim.epsilon(events))
    assert found["privacy"]["user_epsilon_spent"] == pytest.approx(epsilon_rdp(events, claim.delta, rows=4))
    assert found["privacy"]["rounds_left"] == rounds_left(events, training_event(config), claim)
    assert (found["rounds"], found["bytes_down"], found["bytes_up"]) == (7, 700, 350)
    assert [one["server_round"] for one in found["last_rounds"]] == [3, 4, 5, 6, 7]
    assert [(one["code"], one["count"], one["detail"]) for one in found["refusals"]] == [
        ("NOT_PINNED", 2, "clipping 1000"),
        ("REPLAYED", 1, "round 1"),
    ]
    told = words(kitchen)
    assert f"epsilon {claim.epsilon(events):.3f} spent of 8 at delta 1e-05" in told
    assert "the server, the other clients and everyone after them" in told
    assert "2.5 s, 400 MB, 100 bytes down, 50 up" in told


@pytest.mark.parametrize("damage", [b"rubbish\n", b""])
def test_a_damaged_ledger_is_named_and_the_rest_is_told(kitchen: DeviceFolder, damage: bytes) -> None:
    charge(kitchen, 3)
    kitchen.ledger.write_bytes(damage)
    found = device_status(kitchen, NOW)
    (problem,) = found["problems"]
    assert "ledger" in problem
    assert "no round is answered until" in problem
    assert found["privacy"]["epsilon_spent"] is found["privacy"]["rounds_left"] is None
    assert found["rounds"] == 3
    assert "what is spent cannot be told" in words(kitchen)


def test_a_ledger_that_vanished_after_rounds_is_a_problem_and_no_fresh_budget(kitchen: DeviceFolder) -> None:
    charge(kitchen, 3)
    kitchen.ledger.unlink()
    found = device_status(kitchen, NOW)
    assert "is missing, although" in found["problems"][0]
    assert found["privacy"]["epsilon_spent"] is None


def test_a_ledger_from_an_old_backup_is_a_problem_and_gives_no_budget_back(kitchen: DeviceFolder) -> None:
    charge(kitchen, 2)
    old = kitchen.ledger.read_bytes()
    charge(kitchen, 1)
    assert device_status(kitchen, NOW)["problems"] == []
    kitchen.ledger.write_bytes(old)
    found = device_status(kitchen, NOW)
    assert "holds 2 rounds, but this device answered 3" in found["problems"][0]
    assert found["privacy"]["epsilon_spent"] is None


def test_a_ledger_of_another_name_is_a_problem(kitchen: DeviceFolder) -> None:
    charge(kitchen, 1)
    kitchen.settings_file.write_text(kitchen.settings_file.read_text().replace('"kitchen"', '"bedroom"'))
    assert "under another name" in device_status(kitchen, NOW)["problems"][0]


def test_a_damaged_database_is_named_and_the_rest_is_told(kitchen: DeviceFolder) -> None:
    charge(kitchen, 3)
    kitchen.database.write_bytes(b"rubbish" * 1000)
    found = device_status(kitchen, NOW)
    (problem,) = found["problems"]
    assert str(kitchen.database) in problem
    assert found["privacy"]["epsilon_spent"] > 0
    assert found["rounds"] is None
    assert "spent of 8" in words(kitchen)


@pytest.mark.parametrize(
    ("changes", "said", "unsaid"),
    [
        ({"privacy__mechanism": "none"}, "NO PRIVACY", "epsilon"),
        (
            {"privacy__mechanism": "central", "privacy__unit": "user", "federation__clients_per_round": 0},
            "THE SERVER IS TRUSTED",
            "spent of",
        ),
    ],
)
def test_no_privacy_and_a_trusted_server_are_said_in_capitals(
    tmp_path: Path, invite: Callable[..., Invitation], changes: dict[str, Any], said: str, unsaid: str
) -> None:
    device = create_device(tmp_path / "device", invite(**changes), "kitchen")
    found = device_status(device, NOW)
    assert found["privacy"]["epsilon_spent"] is None
    assert found["problems"] == []
    assert said in words(device)
    assert unsaid not in words(device)


def test_the_promise_says_what_against_whom_and_what_not(invite: Callable[..., Invitation]) -> None:
    told = " ".join([*claim_lines(invite().config), *constant_lines(invite().config)])
    for part in ("C1", "one record", "add_remove", "epsilon 8", "1e-05", "against the server", "every hour falls into"):
        assert part in told
    for part in ("4 slots", "All records together", "Not covered", "clipping norm 0.5", "noise multiplier 3"):
        assert part in told


def test_the_policy_and_what_stands_against_it_now_are_told(kitchen: DeviceFolder, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    kitchen.set_policy(Policy(hours="22-6", most_rounds_a_day=2, command=("touch", str(mark))))
    assert "it is 12h" in words(kitchen)
    assert not mark.exists()
    kitchen.set_policy(Policy(most_rounds_a_day=2))
    with kitchen.open_database() as database:
        for server_round in (1, 2):
            database.add_round(
                server_round=server_round, release="training", seconds=1.0, peak_mb=1.0, bytes_down=1, bytes_up=1
            )
    assert (
        "2 rounds in the last 24 hours" in device_status(kitchen, datetime.now().astimezone())["policy"]["against_now"]
    )


def test_running_processes_are_told(kitchen: DeviceFolder) -> None:
    pids.record(kitchen.pids / "supernode", os.getpid())
    assert device_status(kitchen, NOW)["supernode"]
    assert "launcher does not run, SuperNode runs" in words(kitchen)
