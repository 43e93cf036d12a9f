"""A small federation's folder, made once and copied for each test; no process, no network but loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hushrec.common.config import RunConfig
from hushrec.server.deployment.federation import init_folder
from hushrec.server.deployment.folder import OperatorFolder, ServerSettings


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A port on loopback that nobody has."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            return port

    return find


@pytest.fixture(scope="session")
def _original(
    tiny: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> OperatorFolder:
    settings = ServerSettings("films", "localhost", free_port(), listen="127.0.0.1", devices=3)
    return init_folder(tmp_path_factory.mktemp("operator") / "fed", settings, tiny(federation__rounds=3))


@pytest.fixture
def folder(_original: OperatorFolder, tmp_path: Path) -> OperatorFolder:
    """A federation of its own."""
    shutil.copytree(_original.path, tmp_path / "fed")
    return OperatorFolder(tmp_path / "fed")


@pytest.fixture
def new_key(tmp_path: Path) -> Callable[[str], Path]:
    """Make a node's key pair as ssh-keygen does; the path of the private one."""

    def make(name: str, *kind: str) -> Path:
        path = tmp_path / name
        chosen = kind or ("-t", "ecdsa", "-b", "384")
        subprocess.run(["ssh-keygen", "-q", *chosen, "-N", "", "-C", "", "-f", str(path)], check=True)
        return path

    return make
