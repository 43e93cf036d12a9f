"""Tests of client/device/policy.py: each condition on a machine whose state is known."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hushrec.client.device.policy import IDLE_LOAD, MachineProbe, Policy, train_now
from hushrec.common.errors import ConfigError


@dataclass
class Machine:
    """Stands for a machine."""

    mains: bool | None = True
    busy: float = 0.0
    rounds: int = 0
    allowed: bool = True

    def on_mains(self) -> bool | None:
        return self.mains

    def load(self) -> float:
        return self.busy

    def rounds_today(self) -> int:
        return self.rounds

    def allows(self, command: tuple[str, ...]) -> bool:
        return self.allowed


def at(hour: int) -> datetime:
    return datetime(2026, 1, 2, hour, 30)


def test_without_conditions_training_is_always_allowed() -> None:
    assert train_now(Policy(), at(3), Machine(None, 9.0, 999, False)) == ""


@pytest.mark.parametrize(
    ("policy", "machine", "reason"),
    [
        (Policy(power="mains"), Machine(mains=False), "not on mains"),
        (Policy(power="mains"), Machine(mains=None), "cannot tell"),
        (Policy(idle=True), Machine(busy=IDLE_LOAD + 0.01), "not idle"),
        (Policy(most_rounds_a_day=3), Machine(rounds=3), "3 rounds in the last 24 hours"),
        (Policy(command=("ask", "me")), Machine(allowed=False), "ask does not allow it"),
        (Policy(hours="22-6"), Machine(), "outside the hours"),
    ],
)
def test_a_condition_that_does_not_hold_is_the_reason(policy: Policy, machine: Machine, reason: str) -> None:
    assert reason in train_now(policy, at(12), machine)


def test_conditions_that_hold_allow() -> None:
    policy = Policy("mains", True, "22-6", 3, ("ask",))
    assert train_now(policy, at(23), Machine(True, IDLE_LOAD, 2, True)) == ""


@given(start=st.integers(0, 23), end=st.integers(0, 24), hour=st.integers(0, 23))
def test_hours_run_from_the_first_up_to_before_the_second_over_midnight(start: int, end: int, hour: int) -> None:
    if start == end:
        with pytest.raises(ConfigError, match="hours"):
            Policy(hours=f"{start}-{end}")
        return
    inside, clock = False, start
    while clock != end % 24 or (clock == start and end == 24 and not inside):
        inside = inside or clock == hour
        clock = (clock + 1) % 24
        if clock == start:
            break
    assert (train_now(Policy(hours=f"{start}-{end}"), at(hour), Machine()) == "") == inside


@pytest.mark.parametrize(
    "table",
    [
        {"power": "sun"},
        {"idle": 1},
        {"hours": "22"},
        {"hours": "24-6"},
        {"hours": 3},
        {"hours": "1-25"},
        {"most-rounds-a-day": -1},
        {"most-rounds-a-day": True},
        {"command": "ask"},
        {"command": [""]},
        {"command": [1]},
        {"colour": 1},
    ],
)
def test_a_policy_that_means_nothing_is_refused(table: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"policy|\[policy\]"):
        Policy.from_table(table)


def supply(root: Path, name: str, **values: str) -> None:
    (root / name).mkdir(parents=True)
    for key, value in values.items():
        (root / name / key).write_text(f"{value}\n")


@pytest.mark.parametrize(
    ("supplies", "mains"),
    [
        ([], True),
        ([{"type": "Mains", "online": "1"}, {"type": "Battery", "status": "Discharging"}], True),
        ([{"type": "Mains", "online": "0"}, {"type": "Battery", "status": "Discharging"}], False),
        ([{"type": "Battery", "status": "Charging"}], True),
        ([{"type": "Battery", "status": "Full"}], True),
        ([{"type": "Battery", "status": "Unknown"}], None),
        ([{"type": "Battery"}], None),
        ([{"type": "Battery", "status": "Discharging", "scope": "Device"}], True),
    ],
)
def test_mains_power_is_read_as_linux_tells_it(
    tmp_path: Path, supplies: list[dict[str, str]], mains: bool | None
) -> None:
    root = tmp_path / "power_supply"
    root.mkdir()
    for number, values in enumerate(supplies):
        supply(root, f"supply{number}", **values)
    assert MachineProbe(lambda: 0, root).on_mains() is mains
    assert MachineProbe(lambda: 0, tmp_path / "none").on_mains() is None


def test_the_owners_command_decides_by_its_exit_status() -> None:
    probe = MachineProbe(lambda: 7)
    assert probe.allows(("true",))
    assert not probe.allows(("false",))
    assert not probe.allows(("/no/such/program",))
    assert not probe.allows(("a\0b",))
    assert probe.rounds_today() == 7
    assert probe.load() >= 0
