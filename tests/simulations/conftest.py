"""Runs to kill, resume and tamper with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.runs import CENTRAL, STATISTICS

from hushrec.common.config import RunConfig
from hushrec.simulations.finished_run import FinishedRun, open_finished
from hushrec.simulations.run import Watcher, execute, new_run

Start = Callable[..., Any]


@pytest.fixture(scope="session")
def studied(tiny: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run without privacy under joint, to be looked at only."""
    folder = tmp_path_factory.mktemp("studied") / "run"
    execute(new_run(tiny(privacy__mechanism="none", federation__rounds=1), folder))
    return folder


@pytest.fixture(scope="session")
def opened(studied: Path) -> FinishedRun:
    """The same, opened for a study."""
    return open_finished(studied, Watcher())


@pytest.fixture(scope="session")
def experiments(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., RunConfig]) -> dict[str, Path]:
    """Experiment files by name."""
    folder = tmp_path_factory.mktemp("experiments")
    made = {
        "open": tiny(privacy__mechanism="none"),
        # Noise far above what the target needs, so that no budget refuses a repeated round.
        "private": tiny(privacy__noise_multiplier=12.0, privacy__popularity_noise_multiplier=24.0),
        "central": tiny(
            **CENTRAL,
            **STATISTICS,
            privacy__sample_rate=0.3,
            privacy__noise_multiplier=12.0,
            privacy__popularity_noise_multiplier=24.0,
            privacy__statistics_noise_multiplier=24.0,
        ),
    }
    for name, config in made.items():
        (folder / f"{name}.toml").write_text(config.to_toml())
    return {name: folder / f"{name}.toml" for name in made}


@pytest.fixture(scope="session")
def whole(
    experiments: dict[str, Path], hushrec: Start, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The directory of an uninterrupted run of an experiment."""
    folders: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("whole") / "run"
            ended = hushrec("simulate", experiments[name], "--out", folders[name]).wait()
            assert ended.code == 0, ended.stderr
        return folders[name]

    return run


@pytest.fixture
def copy(whole: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a finished run as it was before its results were written."""

    def unfinished(name: str) -> Path:
        folder = tmp_path / "run"
        shutil.copytree(whole(name), folder)
        (folder / "results.json").unlink()
        return folder

    return unfinished
