"""Runs with snapshots and calibration: their systems in results.json, and kills that cost the ensemble no member."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hushrec.common.bundle import read_bundle
from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError
from hushrec.server.snapshots import read_snapshots
from hushrec.simulations.bundle_evaluation import DataChoice, evaluate_bundle

Start = Callable[..., Any]
SNAPSHOT, CHECKPOINT = "hushrec.server.rounds:keep_snapshot", "hushrec.server.rounds:write_checkpoint"
ENSEMBLE, CALIBRATED = "hushrec_ensemble", "hushrec_calibrated"
# (function, when, call); every resumed attempt starts counting its calls again.
KILLS = [
    (SNAPSHOT, "after", 3),  # the snapshot of round 3 is kept, its checkpoint is not: the round is repeated
    (CHECKPOINT, "after", 1),  # round 3 has both
    (SNAPSHOT, "before", 1),  # within round 4
]


@pytest.fixture(scope="module")
def experiment(tiny: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny(privacy__mechanism="none", server__snapshots=2, server__averaging=0.5, evaluation__calibration=0.5)
    path = tmp_path_factory.mktemp("experiment") / "ensemble.toml"
    path.write_text(config.to_toml())
    return path


@pytest.fixture(scope="module")
def whole(experiment: Path, hushrec: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    ended = hushrec("simulate", experiment, "--out", folder).wait()
    assert ended.code == 0, ended.stderr
    return folder


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def test_the_ensemble_and_the_calibrated_lists_are_systems_of_their_own(whole: Path) -> None:
    found = results(whole)
    assert found["choices"][ENSEMBLE]["members"] == 2
    assert found["choices"][CALIBRATED] == {"calibration": 0.5}
    assert {f"hushrec - {ENSEMBLE}", f"hushrec - {CALIBRATED}"} <= set(found["paired"])
    ours, ensemble, calibrated = (found["systems"][name] for name in ("hushrec", ENSEMBLE, CALIBRATED))
    assert ensemble["warm"] != ours["warm"] != calibrated["warm"]
    assert calibrated["gini@10"]["mean"] != ours["gini@10"]["mean"]
    # Calibration begins with a history; without one the lists are the same.
    assert calibrated["cold_users"]["0"] == ours["cold_users"]["0"]
    assert read_bundle(whole).choices.calibration == 0.5
    again = evaluate_bundle(whole, DataChoice())["systems"]
    assert again[ENSEMBLE] == ensemble
    assert again[CALIBRATED] == calibrated


def test_a_killed_and_resumed_run_has_the_same_ensemble(
    experiment: Path, whole: Path, hushrec: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    arguments: tuple[object, ...] = (experiment, "--out", folder)
    for at, when, call in KILLS:
        ended = hushrec("simulate", *arguments, at=at, when=when, call=call).wait()
        assert ended.code == -signal.SIGKILL, (at, when, ended.stderr)
        arguments = ("--resume", folder)
    ended = hushrec("simulate", *arguments).wait()
    assert ended.code == 0, ended.stderr
    ours, theirs = (read_snapshots(path, 4) for path in (folder, whole))
    assert len(ours) == len(theirs) == 2
    for one, other in zip(ours, theirs, strict=True):
        assert {name: value.tobytes() for name, value in one.items()} == {n: v.tobytes() for n, v in other.items()}
    assert results(folder)["systems"] == results(whole)["systems"]


def test_calibration_without_any_popularity_is_refused(tiny: Callable[..., RunConfig]) -> None:
    with pytest.raises(ConfigError, match="popularity-noise-multiplier"):
        tiny(evaluation__calibration=0.5, model__head_core="none", model__train_heads=True)
    with pytest.raises(ConfigError, match=r"evaluation\.calibration in \[0, 1\]"):
        tiny(evaluation__calibration=1.5)
