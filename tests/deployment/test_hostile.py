"""A hostile server, and a device whose clock is wrong: refused, noted, and never paid for."""

from __future__ import annotations

import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from support.federation_on_disk import Federation, charged, refusals

from hushrec.client.device import background
from hushrec.common.processes import wait_until
from hushrec.server.deployment import flower

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(900)]
_LATE = """
import datetime, sys
if sys.argv[0].endswith("flower-supernode"):
    class Late(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) - datetime.timedelta(minutes=10)
    datetime.datetime = Late
"""


def submit(federation: Federation, *options: str) -> None:
    """Have Flower run the app, past every check of the operator's own commands."""
    done = subprocess.run(
        [str(Path(sysconfig.get_path("scripts")) / "flwr"), "run", str(federation.operator.app), "hushrec", *options],
        cwd=federation.operator.empty,
        env=flower.environment(federation.operator),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def over(federation: Federation, runs: int) -> Callable[[], bool]:
    def held() -> bool:
        found = flower.runs(federation.operator)
        return len(found) == runs and all(run.over for run in found)

    return held


def test_a_server_that_asks_for_less_privacy_gets_nothing_and_costs_nothing(
    federate: Callable[..., Federation],
) -> None:
    federation = federate(federation__rounds=2)
    devices = [federation.add_device() for _ in range(2)]
    assert federation.online(2)
    operator, honest = federation.operator, federation.operator.configuration.read_text()
    pinned = (operator.app / "pyproject.toml").read_text()
    settings = operator.settings()
    operator.write_settings(type(settings)(**{**vars(settings), "least_nodes": 2}))
    noise = next(line for line in pinned.splitlines() if line.startswith("noise-multiplier"))

    # The pinned bundle, run under other constants.
    changes = ("noise-multiplier = 0.01", "max-grad-norm = 1000.0", "local-steps = 50")
    altered = honest
    for change in changes:
        name = change.partition(" = ")[0]
        line = next(line for line in honest.splitlines() if line.startswith(f"{name} = "))
        altered = altered.replace(line, change)
    operator.configuration.write_text(altered)
    options = "privacy.noise-multiplier=0.01 privacy.max-grad-norm=1000.0 train.local-steps=50"
    submit(federation, "--run-config", options)
    assert wait_until(over(federation, 1), 300, 1.0)
    assert [line["answered"] for line in federation.rounds()] == [0, 0, 0]
    assert federation.rounds()[1]["refused"] == {"NOT_PINNED": 2}

    # Another bundle, which says the same as the operator's configuration.
    (operator.run / "checkpoint.safetensors").unlink()
    (operator.app / "pyproject.toml").write_text(pinned.replace(noise, "noise-multiplier = 0.01"))
    operator.configuration.write_text(honest.replace(noise, "noise-multiplier = 0.01"))
    submit(federation)
    assert wait_until(over(federation, 2), 300, 1.0)
    assert federation.rounds()[-1]["refused"] == {"APP_CHANGED": 2}
    for device in devices:
        assert [code for code in refusals(device) if code != "NOT_CONNECTED"] == ["NOT_PINNED"] * 2 + [
            "APP_CHANGED"
        ] * 2
        assert not device.ledger.exists()

    # What was agreed to is still answered.
    (operator.run / "checkpoint.safetensors").unlink()
    (operator.app / "pyproject.toml").write_text(pinned)
    operator.configuration.write_text(honest)
    federation.run(2).join(400)
    assert federation.raised == []
    assert [line["answered"] for line in federation.rounds()] == [0, 2, 2]
    assert [charged(device) for device in devices] == [2, 2]


def test_a_device_whose_clock_is_ten_minutes_late_is_told_so(
    federate: Callable[..., Federation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = federate(federation__rounds=2)
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "sitecustomize.py").write_text(_LATE)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path / "late"))
        device = federation.add_device()
    assert wait_until(lambda: "NOT_CONNECTED" in refusals(device), 120)
    assert set(flower.node_states(federation.operator).values()) == {"registered"}
    background.stop(device)
    background.start(device)  # the clock is right again
    assert federation.online(1)
