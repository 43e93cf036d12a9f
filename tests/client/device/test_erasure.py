"""Tests of client/device/erasure.py: what goes, what stays, and that the budget spent is not forgotten by accident."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from hushrec.client.device import erasure, pids
from hushrec.client.device.database import Interaction
from hushrec.client.device.erasure import forget_device
from hushrec.client.device.folder import DeviceFolder, create_device, open_device_folder
from hushrec.client.device.status import device_status
from hushrec.common.budget import ledger_header, training_event
from hushrec.common.errors import ConfigError, DataError
from hushrec.common.invitation import Invitation
from hushrec.common.ledger import Ledger


@pytest.fixture
def used(kitchen: DeviceFolder) -> DeviceFolder:
    """A device that took part once."""
    config = kitchen.invitation.config
    with Ledger.open(kitchen.ledger, ledger_header(config, kitchen.name), key=kitchen.signing_key()) as ledger:
        ledger.reserve(1, [kitchen.name], training_event(config))
    with kitchen.open_database() as database:
        database.add_interactions([Interaction("i0", 5)])
        database.save_reply(1, "training", "a" * 64, b"reply")
    for name in ("adapter", "edge", "flower-home/deep"):
        (kitchen.path / name).mkdir(parents=True)
        (kitchen.path / name / "file").write_bytes(b"x" * 3_000_000)
    return kitchen


def spent(device: DeviceFolder) -> float:
    return float(device_status(device, datetime.now().astimezone())["privacy"]["epsilon_spent"])


def test_everything_goes_but_the_ledger_with_its_key_and_name(used: DeviceFolder) -> None:
    ledger = used.ledger.read_bytes()
    assert forget_device(used) == ["device.toml", "ledger.jsonl", "ledger.jsonl.lock", "ledger.key"]
    assert used.ledger.read_bytes() == ledger
    with pytest.raises(DataError, match="no device's folder"):
        open_device_folder(used.path)


def test_a_device_that_joins_again_has_spent_what_it_had_spent(
    used: DeviceFolder, invite: Callable[..., Invitation]
) -> None:
    before = spent(used)
    forget_device(used)
    again = create_device(used.path, invite(), "kitchen")
    assert spent(again) == before > 0
    with again.open_database() as database:
        assert database.count() == 0


def test_data_that_are_kept_are_there_again_without_the_replies(
    used: DeviceFolder, invite: Callable[..., Invitation]
) -> None:
    forget_device(used, keep_data=True)
    with create_device(used.path, invite(), "kitchen").open_database() as database:
        assert database.count() == 1
        assert database.read_reply(1, "training") is None


def test_with_the_ledger_the_folder_goes_too(used: DeviceFolder) -> None:
    assert forget_device(used, ledger_too=True) == []
    assert not used.path.exists()


def test_a_device_that_never_took_part_leaves_nothing(kitchen: DeviceFolder) -> None:
    assert forget_device(kitchen) == []


def test_what_is_not_a_devices_is_left_alone(used: DeviceFolder, tmp_path: Path) -> None:
    (used.path / "notes.txt").write_text("mine")
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (used.logs / "link").symlink_to(outside)
    assert forget_device(used, ledger_too=True) == ["notes.txt"]
    assert outside.read_text() == "mine"
    with pytest.raises(ConfigError, match="no device's folder"):
        forget_device(DeviceFolder(tmp_path))


def test_the_content_is_overwritten_before_the_name_goes(used: DeviceFolder, tmp_path: Path) -> None:
    names = {"key": used.node_key, "data": used.database, "edge": used.edge / "file"}
    sizes = {name: path.stat().st_size for name, path in names.items()}
    for name, path in names.items():
        os.link(path, tmp_path / name)  # a second name for the same bytes
    forget_device(used)
    for name, size in sizes.items():
        left = (tmp_path / name).read_bytes()
        assert left == bytes(len(left))
        assert len(left) == size or name == "data"


@pytest.mark.parametrize("name", ["launcher", "supernode"])
def test_a_running_device_is_not_forgotten(used: DeviceFolder, name: str) -> None:
    if name == "launcher":
        with pids.only_one(used.pids / "launcher"), pytest.raises(ConfigError, match="runs already"):
            forget_device(used)
    else:
        pids.record(used.pids / "supernode", os.getpid())
        with pytest.raises(ConfigError, match="SuperNode runs"):
            forget_device(used)
    assert spent(used) > 0


def test_damaged_data_are_erased_but_never_kept_by_accident(used: DeviceFolder) -> None:
    used.database.write_bytes(b"rubbish" * 100)
    with pytest.raises(DataError, match="is damaged"):
        forget_device(used, keep_data=True)
    assert used.database.exists()
    forget_device(used)
    assert not used.database.exists()


@pytest.mark.parametrize("call", [1, 3, 6, 7])
def test_an_interrupted_forgetting_goes_on_when_it_is_done_again(
    used: DeviceFolder, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    calls, real = 0, erasure._overwrite

    def interrupted(path: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        real(path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(erasure, "_overwrite", interrupted)
        forget_device(used)
    assert forget_device(used) == ["device.toml", "ledger.jsonl", "ledger.jsonl.lock", "ledger.key"]
