"""The operator's folder: made whole or not at all, private, and never half-written."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hushrec.common.config import RunConfig
from hushrec.common.errors import BundleError, ConfigError, HushrecError
from hushrec.common.invitation import public_settings, read_invitation
from hushrec.common.workspace import open_dataset, open_split
from hushrec.server.deployment import flower
from hushrec.server.deployment.federation import (
    deployed_config,
    init_folder,
    privacy_words,
    refuse_other_constants,
)
from hushrec.server.deployment.folder import OperatorFolder, ServerSettings, only_one, open_folder, write_file

SETTINGS = ServerSettings("films", "localhost", 8443, devices=3)


def test_everything_but_public_files_is_private(folder: OperatorFolder) -> None:
    assert folder.path.stat().st_mode & 0o777 == 0o700
    for path in folder.path.rglob("*"):
        if path.is_dir():
            assert path.stat().st_mode & 0o777 == 0o700, path
        elif path.name != "invitation.json":
            assert path.stat().st_mode & 0o777 == 0o600, path


def test_the_invitation_holds_what_a_device_pins_and_no_secret(folder: OperatorFolder) -> None:
    invitation, config = read_invitation(folder.invitation), folder.config()
    assert invitation.config.privacy.noise_multiplier == config.privacy.noise_multiplier > 0
    assert invitation.app_sha256 == flower.app_sha256(folder)
    assert invitation.ca_certificate == folder.ca_certificate.read_text()
    assert invitation.catalog.item_ids == open_dataset(config.data).catalog.item_ids
    np.testing.assert_array_equal(invitation.training_items, np.flatnonzero(open_split(config.data).warm_items))
    text = folder.invitation.read_text()
    for secret in (folder.countersign_key, folder.secret):
        assert secret.read_text() not in text
    assert "PRIVATE KEY" not in text
    assert str(folder.run) not in text


def test_the_app_holds_the_public_settings_exactly(folder: OperatorFolder) -> None:
    tables = tomllib.loads((folder.app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    flat = {f"{part}.{name}": value for part, table in tables["config"].items() for name, value in table.items()}
    assert flat == public_settings(folder.config().to_flat())
    assert tables["components"]["clientapp"] == "hushrec.client.app:app"


def test_a_reply_is_one_device_s_and_never_a_sum(folder: OperatorFolder) -> None:
    assert folder.config().federation.execution == "one-by-one"


def test_two_builds_of_the_app_are_the_same_bytes(folder: OperatorFolder) -> None:
    """Devices pin the hash at the start and get the bundle with every run."""
    before = flower.app_sha256(folder)
    os.utime(folder.app / "pyproject.toml", (1, 1))
    assert flower.app_sha256(folder) == before


def test_an_existing_folder_is_left_alone(folder: OperatorFolder, tiny: Callable[..., RunConfig]) -> None:
    before = folder.ca_key.read_bytes()
    with pytest.raises(ConfigError, match="exists already"):
        init_folder(folder.path, SETTINGS, tiny())
    assert folder.ca_key.read_bytes() == before


def test_an_init_that_fails_leaves_nothing(
    tmp_path: Path, tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(folder: OperatorFolder) -> str:
        raise HushrecError("no")

    monkeypatch.setattr(flower, "app_sha256", broken)
    with pytest.raises(HushrecError):
        init_folder(tmp_path / "deep" / "fed", SETTINGS, tiny())
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"host": "no host"}, "host name"),
        ({"federation": ""}, "--name"),
        ({"federation": "a\nb"}, "--name"),
        ({"addresses": ("1.2.3",)}, "IP address"),
        ({"listen": "localhost"}, "IP address"),
        ({"port": 0}, "--port"),
        ({"port": 65536}, "--port"),
    ],
)
def test_settings_that_cannot_be_are_named(
    tmp_path: Path, tiny: Callable[..., RunConfig], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        init_folder(tmp_path / "fed", replace(SETTINGS, **change), tiny())


def test_noise_is_solved_for_the_devices_that_were_announced(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    """Of many devices each is asked in fewer rounds; without a number, each is charged for every round."""
    config = tiny(federation__clients_per_round=2, federation__rounds=8)
    few, many = (deployed_config(config, devices, tmp_path) for devices in (2, 16))
    unsaid = deployed_config(config, 0, tmp_path)
    assert few.privacy.noise_multiplier == unsaid.privacy.noise_multiplier > many.privacy.noise_multiplier > 0
    with pytest.raises(ConfigError, match="--devices"):
        deployed_config(tiny(federation__clients_per_round=0), 0, tmp_path)


def test_no_privacy_is_said_in_capitals(tiny: Callable[..., RunConfig]) -> None:
    assert privacy_words(tiny(privacy__mechanism="none"), 3)[0].startswith("NO PRIVACY")
    words = "\n".join(privacy_words(deployed_config(tiny(), 3, Path("run")), 3))
    assert "C1" in words
    assert "epsilon <= 8" in words
    assert "WARNING" not in words
    costly = tiny(privacy__noise_multiplier=0.3)
    assert "WARNING" in privacy_words(costly, 3)[-1]


def test_other_constants_than_the_pinned_ones_are_one_error(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    pinned = deployed_config(tiny(), 3, tmp_path)
    refuse_other_constants(pinned, pinned.replace(run__directory="elsewhere", run__experiment="other"))
    with pytest.raises(ConfigError, match=r"privacy\.max-grad-norm is 0\.5 in this federation and 9\.0"):
        refuse_other_constants(pinned, pinned.replace(privacy__max_grad_norm=9.0))


def test_a_folder_restored_elsewhere_runs_there(folder: OperatorFolder, tmp_path: Path) -> None:
    folder.path.rename(tmp_path / "moved")
    assert open_folder(tmp_path / "moved").config().run.directory == str(tmp_path / "moved" / "run")
    with pytest.raises(ConfigError, match="hushrec server init"):
        open_folder(folder.path)


@pytest.mark.parametrize("content", ["{", "[]", '{"port": 1}', "{}"])
def test_damaged_settings_are_one_error(folder: OperatorFolder, content: str) -> None:
    folder.settings_file.write_text(content)
    with pytest.raises(BundleError, match="damaged"):
        folder.settings()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "file", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(HushrecError, match="No space left"):
            write_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    write_file(tmp_path / "file", b"new")  # what the failed one left is no obstacle
    assert json.dumps(sorted(path.name for path in tmp_path.iterdir())) == '["file"]'


def test_a_lock_lets_one_in_at_a_time(tmp_path: Path) -> None:
    lock, there = tmp_path / "lock", "someone is there"
    with only_one(lock, there), pytest.raises(HushrecError, match=there), only_one(lock, there):
        pytest.fail("let in")
    with only_one(lock, there):
        pass
