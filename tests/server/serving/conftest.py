"""One tiny bundle, and one service of it that tests share where they change nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.serving import Running, make_bundle, running

from hushrec.common.bundle import Bundle
from hushrec.common.config import RunConfig


@pytest.fixture(scope="session")
def config(tiny: Callable[..., RunConfig]) -> RunConfig:
    return tiny(model__head_core="full")


@pytest.fixture(scope="session")
def made(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    folder = tmp_path_factory.mktemp("made") / "bundle"
    return make_bundle(folder, config), folder


@pytest.fixture
def folder(made: tuple[Bundle, Path], tmp_path: Path) -> Path:
    """A copy of the bundle that a test may change."""
    return Path(shutil.copytree(made[1], tmp_path / "bundle"))


@pytest.fixture(scope="session")
def shared(made: tuple[Bundle, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(made[1], tmp_path_factory.mktemp("shared")) as service:
        yield service
