"""When the owner lets this device train: mains power, idle, hours, rounds a day, or a command of their own.

It decides about training only; it measures nothing by itself and knows no budget.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from hushrec.common.errors import ConfigError

POWER = ("any", "mains")
IDLE_LOAD = 0.3  # 1-minute load average per core up to which a device counts as idle
COMMAND_SECONDS = 30.0
_SUPPLIES = Path("/sys/class/power_supply")
_HOURS = re.compile(r"(\d{1,2})-(\d{1,2})")


@dataclass(frozen=True)
class Policy:
    """The owner's conditions; all of them must hold. The defaults always allow.

    Attributes:
        power: "any", or "mains": only while plugged in.
        idle: only while the machine has little else to do.
        hours: local hours "22-6", from the first up to before the second, over midnight if need be; "": always.
        most_rounds_a_day: in any 24 hours; 0: no limit.
        command: a program with arguments that allows training by exit status 0; (): none.
    """

    power: str = "any"
    idle: bool = False
    hours: str = ""
    most_rounds_a_day: int = 0
    command: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.power not in POWER:
            raise ConfigError(f"expected policy power to be one of {', '.join(POWER)}, got {self.power!r}")
        if type(self.idle) is not bool:
            raise ConfigError(f"expected policy idle to be true or false, got {self.idle!r}")
        if type(self.most_rounds_a_day) is not int or self.most_rounds_a_day < 0:
            raise ConfigError(
                f"expected policy most-rounds-a-day of 0 (no limit) or more, got {self.most_rounds_a_day}"
            )
        if not all(isinstance(part, str) and part for part in self.command):
            raise ConfigError(f'expected policy command as ["program", "argument"], got {list(self.command)!r}')
        _span(self.hours)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Policy:
        """Read the [policy] table of device.toml; an unknown key or wrong value raises ConfigError."""
        known = {"power", "idle", "hours", "most-rounds-a-day", "command"}
        if odd := sorted(set(table) - known):
            raise ConfigError(f"unknown key {odd[0]!r} in [policy]; known: {', '.join(sorted(known))}")
        values = {key.replace("-", "_"): value for key, value in table.items()}
        command = values.pop("command", [])
        if not isinstance(command, list):
            raise ConfigError(f'expected policy command as ["program", "argument"], got {command!r}')
        return cls(**values, command=tuple(command))

    def to_table(self) -> dict[str, Any]:
        """The [policy] table; `from_table` gives back an equal policy."""
        return {
            "power": self.power,
            "idle": self.idle,
            "hours": self.hours,
            "most-rounds-a-day": self.most_rounds_a_day,
            "command": list(self.command),
        }

    def words(self) -> str:
        """The conditions as one phrase for people."""
        parts = ["on mains power"] if self.power == "mains" else []
        parts += ["while idle"] if self.idle else []
        parts += [f"from {'h to '.join(self.hours.split('-'))}h local time"] if self.hours else []
        parts += [f"at most {self.most_rounds_a_day} rounds in 24 hours"] if self.most_rounds_a_day else []
        parts += [f"if {' '.join(self.command)} allows it"] if self.command else []
        return ", ".join(parts) or "at any time"


class Probe(Protocol):
    """What the policy asks of the machine."""

    def on_mains(self) -> bool | None:
        """Whether it is plugged in; None where that cannot be told."""

    def load(self) -> float:
        """1-minute load average per core."""

    def rounds_today(self) -> int:
        """Rounds that this device finished in the last 24 hours."""

    def allows(self, command: tuple[str, ...]) -> bool:
        """Whether the owner's program allows training."""


@dataclass(frozen=True)
class MachineProbe:
    """This machine.

    Attributes:
        count_rounds: of the last 24 hours; from the device's database.
        supplies: where Linux lists power supplies.
    """

    count_rounds: Callable[[], int]
    supplies: Path = _SUPPLIES

    def on_mains(self) -> bool | None:
        """True without any battery, or while a supply is online or no battery discharges."""
        if not self.supplies.is_dir():
            return None
        batteries = []
        for supply in sorted(self.supplies.iterdir()):
            if _read(supply / "scope") == "Device":  # the battery of a mouse
                continue
            if _read(supply / "type") == "Battery":
                batteries.append(_read(supply / "status"))
            elif _read(supply / "online") == "1":
                return True
        if not batteries:
            return True
        return None if "Unknown" in batteries or "" in batteries else "Discharging" not in batteries

    def load(self) -> float:
        """1-minute load average per core."""
        return os.getloadavg()[0] / (os.cpu_count() or 1)

    def rounds_today(self) -> int:
        """Rounds of the last 24 hours."""
        return self.count_rounds()

    def allows(self, command: tuple[str, ...]) -> bool:
        """Run the program without a shell; a failure to start or more than 30 s count as a no."""
        try:
            ended = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except (OSError, ValueError, subprocess.TimeoutExpired):
            return False
        return ended.returncode == 0


def train_now(policy: Policy, now: datetime, probe: Probe) -> str:
    """Whether the owner's conditions hold.

    Args:
        now: local time.
    Returns:
        "" if they all do, else the first reason against it. What cannot be told counts as not fulfilled.
    """
    if policy.hours and not _inside(_span(policy.hours), now.hour):
        return f"it is {now.hour}h, outside the hours {policy.hours}"
    if policy.power == "mains" and (mains := probe.on_mains()) is not True:
        return "not on mains power" if mains is False else "cannot tell whether the device is on mains power"
    if policy.idle and (load := probe.load()) > IDLE_LOAD:
        return f"not idle: load {load:.2f} per core, above {IDLE_LOAD}"
    if policy.most_rounds_a_day and (rounds := probe.rounds_today()) >= policy.most_rounds_a_day:
        return f"{rounds} rounds in the last 24 hours; at most {policy.most_rounds_a_day}"
    if policy.command and not probe.allows(policy.command):
        return f"{policy.command[0]} does not allow it"
    return ""


def _span(hours: str) -> tuple[int, int]:
    """(from, to) of "22-6"; (0, 24) of ""."""
    if hours == "":
        return 0, 24
    found = _HOURS.fullmatch(hours) if isinstance(hours, str) else None
    if found is None or not (int(found[1]) <= 23 and int(found[2]) <= 24) or int(found[1]) == int(found[2]):
        raise ConfigError(f'expected policy hours as "22-6" with hours from 0 to 24, or "" for always, got {hours!r}')
    return int(found[1]), int(found[2])


def _inside(span: tuple[int, int], hour: int) -> bool:
    start, end = span
    return start <= hour < end if start < end else hour >= start or hour < end


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
