"""Tests of client/device/folder.py: what init makes, what opening checks, and what an interrupted init leaves."""

from __future__ import annotations

import dataclasses
import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given, settings
from hypothesis import strategies as st

from hushrec.client.device import folder as folder_module
from hushrec.client.device.folder import DeviceFolder, create_device, open_device_folder, write_private
from hushrec.client.device.policy import Policy
from hushrec.common.errors import BundleError, ConfigError, DataError, HushrecError
from hushrec.common.invitation import Invitation, write_invitation


def test_a_new_folder_is_its_owners_alone(kitchen: DeviceFolder) -> None:
    for path in (kitchen.path, *kitchen.path.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_keys_are_those_that_flower_and_the_ledger_take(kitchen: DeviceFolder) -> None:
    private = serialization.load_ssh_private_key(kitchen.node_key.read_bytes(), None)
    public = serialization.load_ssh_public_key(kitchen.public_key.read_bytes())
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert isinstance(private.curve, ec.SECP384R1)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert private.public_key().public_numbers() == public.public_numbers()
    assert kitchen.public_key.read_text().endswith(" kitchen\n")
    assert isinstance(kitchen.signing_key(), ed25519.Ed25519PrivateKey)
    assert kitchen.signing_key().private_bytes_raw().hex() == kitchen.ledger_key.read_text().strip()


def test_what_was_pinned_comes_back(kitchen: DeviceFolder, invite: Callable[..., Invitation]) -> None:
    opened = open_device_folder(kitchen.path)
    assert opened.invitation.fingerprint == invite().fingerprint
    assert opened.name == "kitchen"
    assert opened.policy() == Policy()


def test_another_invitation_in_its_place_is_refused(kitchen: DeviceFolder, invite: Callable[..., Invitation]) -> None:
    write_invitation(kitchen.invitation_file, invite(privacy__target_epsilon=9.0))
    with pytest.raises(BundleError, match="not the invitation that this device agreed to"):
        open_device_folder(kitchen.path)


def test_an_invitation_of_another_version_says_so(kitchen: DeviceFolder) -> None:
    values = json.loads(kitchen.invitation_file.read_bytes())
    del values["config"]["privacy.max-records"]  # as if that setting were new
    kitchen.invitation_file.write_text(json.dumps(values))
    with pytest.raises(BundleError, match=r"without the setting privacy.max-records; install the version"):
        open_device_folder(kitchen.path)


def test_an_invitation_that_does_not_know_a_newer_setting_still_holds(
    invite: Callable[..., Invitation], tmp_path: Path
) -> None:
    given = invite()
    older = {key: value for key, value in given.settings.items() if key != "server.warmup-rounds"}
    device = create_device(tmp_path / "old", dataclasses.replace(given, settings=older), "old")
    opened = open_device_folder(device.path).invitation
    assert dict(opened.settings) == older
    assert opened.config == given.config
    assert opened.fingerprint != given.fingerprint


@pytest.mark.parametrize("name", ["invitation.json", "device.toml", "node_key", "node_key.pub", "ledger.key"])
@pytest.mark.parametrize("content", [None, b"", b"\xff\x00rubbish", b"{}", b"0" * 64])
def test_a_missing_or_damaged_file_is_one_clear_error(kitchen: DeviceFolder, name: str, content: bytes | None) -> None:
    path = kitchen.path / name
    if content is None:
        path.unlink()
    elif (name, content) == ("ledger.key", b"0" * 64):
        return  # a key like any other: the ledger it did not sign tells it
    else:
        path.write_bytes(content)
    with pytest.raises(HushrecError) as error:
        open_device_folder(kitchen.path)
    assert str(path) in str(error.value) or str(kitchen.path) in str(error.value)


def test_a_public_key_of_another_device_is_refused(
    kitchen: DeviceFolder, tmp_path: Path, invite: Callable[..., Invitation]
) -> None:
    other = create_device(tmp_path / "other", invite(), "other")
    kitchen.public_key.write_bytes(other.public_key.read_bytes())
    with pytest.raises(DataError, match="does not belong to"):
        open_device_folder(kitchen.path)


@pytest.mark.parametrize("name", [".", "node_key", "ledger.key", "data.sqlite"])
def test_files_that_others_may_read_are_refused_with_the_remedy(kitchen: DeviceFolder, name: str) -> None:
    (kitchen.path / name).chmod(0o755)
    with pytest.raises(DataError, match="chmod -R go="):
        open_device_folder(kitchen.path)


def test_init_never_touches_a_folder_in_use(kitchen: DeviceFolder, invite: Callable[..., Invitation]) -> None:
    before = {path: path.read_bytes() for path in kitchen.path.iterdir() if path.is_file()}
    with pytest.raises(ConfigError, match="already"):
        create_device(kitchen.path, invite(), "again")
    assert before == {path: path.read_bytes() for path in kitchen.path.iterdir() if path.is_file()}


def test_init_refuses_a_folder_of_something_else_and_a_bad_name(
    tmp_path: Path, invite: Callable[..., Invitation]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match="holds other things"):
        create_device(tmp_path / "photos", invite(), "kitchen")
    for name in ("", "-x", "a b", "*", "../x", "x" * 65):
        with pytest.raises(ConfigError, match="device name"):
            create_device(tmp_path / "new", invite(), name)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("call", range(1, 7))
def test_an_interrupted_init_leaves_no_device_and_can_be_done_again(
    tmp_path: Path, invite: Callable[..., Invitation], monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    calls = 0

    def interrupted(path: Path, content: str | bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        write_private(path, content)

    monkeypatch.setattr(folder_module, "write_private", interrupted)
    whole = False
    try:
        create_device(tmp_path / "device", invite(), "kitchen")
        whole = True
    except KeyboardInterrupt:
        with pytest.raises(DataError, match="no device's folder"):
            open_device_folder(tmp_path / "device")
    monkeypatch.undo()
    assert whole == (call > 5)
    if not whole:
        assert create_device(tmp_path / "device", invite(), "kitchen").policy() == Policy()


def test_a_kept_ledger_keeps_its_key_and_its_name(kitchen: DeviceFolder, invite: Callable[..., Invitation]) -> None:
    key = kitchen.ledger_key.read_bytes()
    kitchen.ledger.write_bytes(b"kept")
    kitchen.invitation_file.unlink()
    with pytest.raises(ConfigError, match="is of device 'kitchen'"):
        create_device(kitchen.path, invite(), "bedroom")
    assert create_device(kitchen.path, invite(), "kitchen").ledger_key.read_bytes() == key
    kitchen.invitation_file.unlink()
    kitchen.ledger_key.unlink()
    with pytest.raises(DataError, match="without its key"):
        create_device(kitchen.path, invite(), "kitchen")


@given(
    command=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=3),
    rounds=st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_any_policy_is_read_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, command: list[str], rounds: int
) -> None:
    folder = DeviceFolder(tmp_path_factory.mktemp("policy"))
    folder.settings_file.write_text('name = "x"\nfingerprint = "f"\n[policy]\n')
    policy = Policy("mains", True, "22-6", rounds, tuple(command))
    folder.set_policy(policy)
    assert folder.policy() == policy
    assert folder.name == "x"


@pytest.mark.parametrize(
    "text",
    ['name = "x"\n[policy]', "name = 1\nfingerprint = 'f'\n[policy]", "name = 'x'\nfingerprint = 'f'\npolicy = 1", "="],
)
def test_settings_that_cannot_be_understood_are_refused(kitchen: DeviceFolder, text: str) -> None:
    kitchen.settings_file.write_text(text)
    with pytest.raises(ConfigError, match=r"device\.toml"):
        kitchen.policy()


def test_a_write_that_fails_leaves_the_old_file(kitchen: DeviceFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = kitchen.settings_file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            kitchen.set_policy(dataclasses.replace(Policy(), idle=True))
    assert kitchen.settings_file.read_bytes() == before
    assert not [path for path in kitchen.path.iterdir() if path.name.startswith(".")]
