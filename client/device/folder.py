"""A device's folder: where its pins, keys, settings and data are, how it is made, and what is checked on opening.

It reads and writes the small files only; the database and the ledger have modules of their own.
"""

from __future__ import annotations

import json
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hushrec.client.device.database import DeviceDatabase
from hushrec.client.device.policy import Policy
from hushrec.common.config import read_toml
from hushrec.common.errors import BundleError, ConfigError, DataError
from hushrec.common.files import replace_file
from hushrec.common.invitation import Invitation, read_invitation, write_invitation

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OWN = (
    *("device.toml", "node_key", "ledger.", "data.sqlite", "invitation.json.new", "logs", "pids"),
    *(".device.toml.", ".node_key", ".ledger.key."),  # an interrupted write
)
_SETTINGS_HEAD = (
    "# Settings of this device. The owner may edit [policy]; name and fingerprint belong to what was agreed to at\n"
    "# `hushrec client init` and are refused when they change.\n"
)


@dataclass(frozen=True)
class DeviceFolder:
    """The paths of a device's folder, and its small files as values; `open_device_folder` checks them all.

    Attributes:
        path: absolute.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", self.path.expanduser().absolute())

    @property
    def invitation_file(self) -> Path:
        return self.path / "invitation.json"

    @property
    def settings_file(self) -> Path:
        return self.path / "device.toml"

    @property
    def node_key(self) -> Path:
        """OpenSSH private key, ECDSA P-384: who the device is to Flower."""
        return self.path / "node_key"

    @property
    def public_key(self) -> Path:
        """The line that the operator enrols."""
        return self.path / "node_key.pub"

    @property
    def ledger_key(self) -> Path:
        return self.path / "ledger.key"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.jsonl"

    @property
    def database(self) -> Path:
        return self.path / "data.sqlite"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def edge(self) -> Path:
        return self.path / "edge"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def pids(self) -> Path:
        return self.path / "pids"

    def require(self) -> None:
        """DataError where there is no device's folder."""
        if not self.settings_file.exists() and not self.invitation_file.exists():
            raise DataError(f"{self.path} is no device's folder; make one with: hushrec client init DIR INVITATION")

    @cached_property
    def invitation(self) -> Invitation:
        """What was pinned; BundleError if the file is not the one that was agreed to."""
        if not self.invitation_file.exists():
            raise DataError(f"{self.path} is no device's folder; make one with: hushrec client init DIR INVITATION")
        invitation = read_invitation(self.invitation_file)
        if invitation.fingerprint != self._settings()["fingerprint"]:
            raise BundleError(
                f"{self.invitation_file} is not the invitation that this device agreed to; restore it from a backup. "
                "To join under another invitation, forget this device and begin a new one"
            )
        return invitation

    @property
    def name(self) -> str:
        """Of the device, as its owner told the operator."""
        return str(self._settings()["name"])

    def policy(self) -> Policy:
        """The owner's conditions as they are now: read anew at each call."""
        return Policy.from_table(self._settings()["policy"])

    def set_policy(self, policy: Policy) -> None:
        """Write the owner's conditions; the next request follows them."""
        settings = self._settings()
        write_private(self.settings_file, _toml(settings["name"], settings["fingerprint"], policy))

    def signing_key(self) -> Ed25519PrivateKey:
        """The key that signs the ledger.

        Raises:
            DataError: missing or damaged.
        """
        restore = "restore it from a backup: without it the ledger cannot go on"
        try:
            return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(self.ledger_key.read_text("ascii").strip()))
        except OSError as error:
            raise DataError(f"cannot read {self.ledger_key}: {error.strerror}; {restore}") from error
        except ValueError as error:
            raise DataError(f"{self.ledger_key} is not 64 hexadecimal digits; {restore}") from error

    def open_database(self) -> DeviceDatabase:
        """The device's data; DataError where they are missing or damaged."""
        return DeviceDatabase(self.database)

    def _settings(self) -> dict[str, Any]:
        """name, fingerprint and policy of device.toml, checked for their types."""
        found = read_toml(self.settings_file, "device")
        if set(found) != {"name", "fingerprint", "policy"}:
            odd = sorted(set(found) ^ {"name", "fingerprint", "policy"})
            raise ConfigError(f"{self.settings_file}: unknown or missing {odd[0]!r}; correct the file")
        if not isinstance(found["policy"], dict) or not all(isinstance(found[k], str) for k in ("name", "fingerprint")):
            raise ConfigError(f"{self.settings_file}: expected texts name and fingerprint and a table [policy]")
        return found


def create_device(path: Path, invitation: Invitation, name: str) -> DeviceFolder:
    """Make a device's folder; invitation.json comes last, so a folder that has it is whole.

    A folder that kept its ledger when it was forgotten is taken up, ledger, key and data as they are: what was spent
    stays spent.

    Args:
        path: new, empty, or left by `hushrec client forget` or by an interrupted `init`.
        name: what the owner calls the device towards the operator: letters, digits, ".", "_" and "-".
    Raises:
        ConfigError: the folder is in use or holds something else, or a name that is not allowed or not the kept one.
        DataError: a kept ledger without its key, or the folder cannot be written.
    """
    folder = DeviceFolder(path)
    if not _NAME.fullmatch(name):
        raise ConfigError(f"expected a device name of letters, digits, '.', '_' and '-', at most 64, got {name!r}")
    _check_place(folder)
    if folder.ledger.exists() and folder.settings_file.exists() and folder.name != name:
        raise ConfigError(f"the ledger kept in {folder.path} is of device {folder.name!r}; give it that name again")
    try:
        folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.path.chmod(0o700)
        partial = folder.path / "invitation.json.new"
        _write_checked(partial, invitation)
        for inner in (folder.logs, folder.pids):
            inner.mkdir(mode=0o700, exist_ok=True)
        _write_keys(folder, name)
        DeviceDatabase(folder.database, create=True).close()
        write_private(folder.settings_file, _toml(name, invitation.fingerprint, Policy()))
        write_private(folder.invitation_file, partial.read_bytes())
        partial.unlink()
    except OSError as error:
        raise DataError(f"cannot write the device's folder {folder.path}: {error.strerror}") from error
    return open_device_folder(folder.path)


def open_device_folder(path: Path) -> DeviceFolder:
    """Open a device's folder after checking all its small files; database and ledger are checked when they are opened.

    Raises:
        DataError: no device's folder, a missing or damaged key, or files that other users of this machine may read.
        BundleError: the invitation is damaged, or not the one that was agreed to.
        ConfigError: device.toml cannot be understood.
    """
    folder = DeviceFolder(path)
    _ = folder.invitation
    folder.policy()
    if not _NAME.fullmatch(folder.name):
        raise ConfigError(f"{folder.settings_file}: the name {folder.name!r} is not allowed; put the old one back")
    folder.signing_key()
    public = public_line(_node_key(folder))
    try:
        written = folder.public_key.read_text("ascii").split()[:2]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {folder.public_key}; restore it from a backup") from error
    if written != public.split():
        raise DataError(f"{folder.public_key} does not belong to {folder.node_key}; restore both from a backup")
    for private in (folder.path, folder.node_key, folder.ledger_key, folder.database):
        if private.exists() and stat.S_IMODE(private.stat().st_mode) & 0o077:
            raise DataError(f"other users of this machine may read {private}; run: chmod -R go= {folder.path}")
    return folder


def public_line(key: ec.EllipticCurvePrivateKey) -> str:
    """The OpenSSH public key, without a comment."""
    encoding, kind = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return key.public_key().public_bytes(encoding, kind).decode("ascii")


def write_private(path: Path, content: str | bytes) -> None:
    """Replace a file as a whole, on disk when it returns, readable by its owner only."""
    replace_file(path, content.encode() if isinstance(content, str) else content, 0o600)


def _check_place(folder: DeviceFolder) -> None:
    """Refuse a place that is in use, or that holds what is not a device's."""
    if folder.invitation_file.exists():
        raise ConfigError(f"{folder.path} is a device's folder already; see: hushrec client status {folder.path}")
    if not folder.path.exists():
        return
    if not folder.path.is_dir():
        raise ConfigError(f"{folder.path} is a file; name a folder that is new or empty")
    for entry in sorted(entry.name for entry in folder.path.iterdir()):
        if not entry.startswith(_OWN):
            raise ConfigError(f"{folder.path} holds other things ({entry}); name a folder that is new or empty")
    if folder.ledger.exists() and not folder.ledger_key.exists():
        raise DataError(f"{folder.path} keeps a ledger without its key {folder.ledger_key}; restore it from a backup")


def _write_checked(path: Path, invitation: Invitation) -> None:
    """The invitation, if it is one that can be read again; else nothing is left of it (BundleError)."""
    write_invitation(path, invitation)
    try:
        read_invitation(path)
    except BundleError:
        path.unlink()
        with suppress(OSError):
            path.parent.rmdir()
        raise


def _write_keys(folder: DeviceFolder, name: str) -> None:
    """A new node key, and a ledger key where none is kept."""
    node = ec.generate_private_key(ec.SECP384R1())
    private = node.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    write_private(folder.node_key, private)
    write_private(folder.public_key, f"{public_line(node)} {name}\n")
    if not folder.ledger_key.exists():
        write_private(folder.ledger_key, Ed25519PrivateKey.generate().private_bytes_raw().hex() + "\n")


def _node_key(folder: DeviceFolder) -> ec.EllipticCurvePrivateKey:
    again = "restore it from a backup, or forget this device and begin a new one"
    try:
        key = serialization.load_ssh_private_key(folder.node_key.read_bytes(), password=None)
    except OSError as error:
        raise DataError(f"cannot read {folder.node_key}: {error.strerror}; {again}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise DataError(f"{folder.node_key} is damaged; {again}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise DataError(f"{folder.node_key} is not an ECDSA key; {again}")
    return key


def _toml(name: str, fingerprint: str, policy: Policy) -> str:
    """device.toml; JSON's texts, numbers, booleans and lists of texts are TOML's too, but for one character."""
    values = {"name": name, "fingerprint": fingerprint} | policy.to_table()
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    text = "\n".join([*lines[:2], "", "[policy]", *lines[2:], ""])
    return _SETTINGS_HEAD + text.replace("\x7f", "\\u007f")
