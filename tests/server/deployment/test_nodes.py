"""Enrolment: names beside Flower's keys, and nothing lost when it is cut short between the two."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hushrec.common.errors import BundleError, ConfigError
from hushrec.server.deployment import flower
from hushrec.server.deployment.folder import OperatorFolder
from hushrec.server.deployment.nodes import enroll, key_fingerprint, read_nodes, revoke

Keys = Callable[..., Path]


class Killed(BaseException):
    """What a killed process looks like from inside."""


class Register:
    """Flower's register of nodes: a key is taken once, for ever."""

    def __init__(self) -> None:
        self.states: dict[int, str] = {}
        self.keys: set[bytes] = set()
        self.kill = ""

    def register(self, folder: OperatorFolder, name: str, public_key: Path) -> int:
        if self.kill == "before":
            raise Killed
        if public_key.read_bytes() in self.keys:
            raise ConfigError("the key is or was enrolled")
        node = 2**63 + len(self.states)
        self.keys.add(public_key.read_bytes())
        self.states[node] = "registered"
        if self.kill == "after":
            raise Killed
        return node

    def unregister(self, folder: OperatorFolder, node: int) -> None:
        self.states[node] = "unregistered"
        if self.kill == "revoke":
            raise Killed


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    fake = Register()
    monkeypatch.setattr(flower, "register_node", fake.register)
    monkeypatch.setattr(flower, "unregister_node", fake.unregister)
    monkeypatch.setattr(flower, "node_states", lambda folder: dict(fake.states))
    return fake


@pytest.fixture
def folder(tmp_path: Path) -> OperatorFolder:
    (tmp_path / "fed").mkdir()
    return OperatorFolder(tmp_path / "fed")


def public(new_key: Keys, name: str = "key") -> Path:
    return new_key(name).with_suffix(".pub")


def test_a_node_is_enrolled_once_and_named_by_its_key(
    folder: OperatorFolder, register: Register, new_key: Keys
) -> None:
    key = public(new_key)
    node = enroll(folder, "phone-1", key)
    shown = subprocess.run(["ssh-keygen", "-lf", str(key)], capture_output=True, text=True, check=True).stdout
    assert node.key in shown.split()
    assert enroll(folder, "phone-1", key) == node  # the same again changes nothing
    assert read_nodes(folder) == {"phone-1": node}
    assert len(register.states) == 1


def test_a_name_and_a_key_are_taken_once(folder: OperatorFolder, register: Register, new_key: Keys) -> None:
    first, second = public(new_key, "a"), public(new_key, "b")
    enroll(folder, "phone", first)
    with pytest.raises(ConfigError, match="another key"):
        enroll(folder, "phone", second)
    with pytest.raises(ConfigError, match="known as 'phone'"):
        enroll(folder, "tablet", first)
    assert len(register.states) == 1


@pytest.mark.parametrize("name", ["", "Phone", "a b", "x" * 41, "é", "a/b", "a\n"])
def test_odd_names_are_refused(folder: OperatorFolder, register: Register, new_key: Keys, name: str) -> None:
    with pytest.raises(ConfigError, match="a-z, 0-9"):
        enroll(folder, name, public(new_key))
    assert not register.states


def test_files_that_are_no_usable_public_key_are_named(tmp_path: Path, new_key: Keys) -> None:
    private = new_key("node")
    (text := tmp_path / "text").write_text("hello")
    other = new_key("other", "-t", "ed25519").with_suffix(".pub")
    for path, message in (
        (tmp_path / "missing", "cannot read"),
        (tmp_path, "cannot read"),
        (private, "must not leave the device"),
        (text, "no public key"),
        (other, "no ECDSA key"),
    ):
        with pytest.raises(ConfigError, match=message):
            key_fingerprint(path)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_enrolment_that_was_killed_is_finished_by_the_next_command(
    folder: OperatorFolder, register: Register, new_key: Keys, moment: str
) -> None:
    key = public(new_key)
    register.kill = moment
    with pytest.raises(Killed):
        enroll(folder, "phone", key)
    register.kill = ""
    node = enroll(folder, "phone", key)
    assert register.states == {node.node_id: "registered"}
    other = enroll(folder, "tablet", public(new_key, "other"))
    assert other.node_id != node.node_id
    assert read_nodes(folder) == {"phone": node, "tablet": other}


def test_a_refused_enrolment_leaves_no_name(folder: OperatorFolder, register: Register, new_key: Keys) -> None:
    key = public(new_key)
    register.keys.add(key.read_bytes())
    with pytest.raises(ConfigError, match="is or was enrolled"):
        enroll(folder, "phone", key)
    assert read_nodes(folder) == {}


def test_a_revoked_node_is_out_for_good_and_its_name_is_free(
    folder: OperatorFolder, register: Register, new_key: Keys
) -> None:
    key = public(new_key)
    node = enroll(folder, "phone", key)
    assert revoke(folder, "phone").revoked
    assert register.states == {node.node_id: "unregistered"}
    with pytest.raises(ConfigError, match="was revoked on"):
        revoke(folder, "phone")
    with pytest.raises(ConfigError, match=r"known|enrolled"):
        enroll(folder, "phone", key)
    again = enroll(folder, "phone", public(new_key, "new"))
    assert register.states[again.node_id] == "registered"
    with pytest.raises(ConfigError, match="no node 'tablet' is enrolled; known: phone"):
        revoke(folder, "tablet")


def test_a_revocation_that_was_killed_can_be_repeated(
    folder: OperatorFolder, register: Register, new_key: Keys
) -> None:
    enroll(folder, "phone", public(new_key))
    register.kill = "revoke"
    with pytest.raises(Killed):
        revoke(folder, "phone")
    assert set(register.states.values()) == {"unregistered"}  # shut out first, written down second
    register.kill = ""
    assert revoke(folder, "phone").revoked


def test_a_damaged_file_is_one_error(folder: OperatorFolder) -> None:
    folder.nodes.write_text(json.dumps({"phone": {"odd": 1}}))
    with pytest.raises(BundleError, match="restore it from a backup"):
        read_nodes(folder)
