"""Device folders as an auditor is handed them: the ledger against the folder's key, pinned constants and database.

It changes nothing in them, and does without what was left out or forgotten, saying so.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hushrec.client.device.folder import DeviceFolder
from hushrec.common.budget import is_private, ledger_header, noise_on_server
from hushrec.common.errors import ConfigError, DataError, LedgerCorrupted, PrivacyError
from hushrec.common.invitation import Invitation, read_invitation
from hushrec.simulations.audit.check import Check
from hushrec.simulations.audit.ledgers import AuditedLedger, refuse_other_header

_CLAIM = "The folder's own key signed the ledger, under the pinned constants, and every reply that was sent is charged."


@dataclass(frozen=True)
class AuditedDevice:
    """A device's folder.

    Attributes:
        folder: its paths.
        invitation: what it pinned; None once it was forgotten.
    """

    folder: DeviceFolder
    invitation: Invitation | None

    @property
    def is_private(self) -> bool:
        """Whether its owner was promised anything; where nothing tells, a ledger is taken for a promise."""
        return self.invitation is None or is_private(self.invitation.config)


def is_devices(path: Path) -> bool:
    """Whether this is a folder made by `hushrec client init`, or what forgetting left of one."""
    folder = DeviceFolder(path)
    kept = (folder.settings_file, folder.ledger_key, folder.invitation_file)
    return any(file.is_file() for file in kept) and not (path / "server.json").exists()


def open_device(path: Path) -> AuditedDevice:
    """A device's folder.

    Raises:
        HushrecError: a file is damaged, or what was pinned is not what the owner agreed to.
    """
    folder = DeviceFolder(path)
    if not folder.invitation_file.exists():
        return AuditedDevice(folder, None)
    return AuditedDevice(
        folder, folder.invitation if folder.settings_file.exists() else read_invitation(folder.invitation_file)
    )


def ledger_of(device: AuditedDevice) -> Path | None:
    """Where its ledger is; None if it has never been charged anything.

    Raises:
        LedgerCorrupted: it took part, and the ledger is gone.
        ConfigError: the server is trusted, and keeps the ledger.
    """
    folder = device.folder
    if device.invitation is not None and noise_on_server(device.invitation.config.privacy):
        raise ConfigError(f"{folder.path} trusts the server, which holds the ledger; audit the operator's run folder")
    if folder.ledger.exists():
        return folder.ledger
    if _answered(folder):
        raise LedgerCorrupted(f"the ledger {folder.ledger} is missing, although this device took part")
    return None


def idle_check(device: AuditedDevice) -> Check:
    """A device that has no ledger, since it was never asked."""
    told = "It has no ledger: nothing was ever asked of it, so nothing is spent."
    return Check(f"device {device.folder.path.name}", "not tested", _CLAIM, told)


def device_check(device: AuditedDevice, ledger: AuditedLedger) -> Check:
    """The ledger against everything else in its folder.

    Raises:
        PrivacyError: another key signed it, or it was begun under other constants.
        LedgerCorrupted: more was sent than is charged, so the ledger was cut or is an older copy.
        DataError: the key's file is damaged.
    """
    folder, told = device.folder, []
    if folder.ledger_key.exists():
        own = folder.signing_key().public_key().public_bytes_raw().hex()
        if ledger.replay.public_key != own:
            raise PrivacyError(f"{ledger.path} is not signed with {folder.ledger_key}, but {_signer(ledger)}")
        told.append(f"signed with the folder's key {own}")
    else:
        told.append(f"signed {_signer(ledger)}, and there is no {folder.ledger_key.name} to compare")
    if device.invitation is not None:
        named = folder.settings_file.exists()
        header = ledger_header(device.invitation.config, folder.name if named else "")
        refuse_other_header(ledger, header, str(folder.invitation_file), who=named)
        told.append(f"under invitation {device.invitation.fingerprint}")
    else:
        told.append("its invitation was forgotten, so its constants are compared with nothing")
    charged = Counter(e["event"]["kind"] for e in ledger.entries() if e["type"] in ("RESERVE", "RELEASE"))
    answered = _answered(folder)
    for kind, count in (answered or {}).items():
        if charged[kind] < count:
            raise LedgerCorrupted(
                f"{ledger.path} is truncated, or an older copy: the database says that {count} {kind} replies were "
                f"sent, the ledger charges {charged[kind]}"
            )
    sent = "its database cannot be read" if answered is None else f"{answered.total()} replies in its database, charged"
    return Check(f"device {folder.path.name}", "holds", _CLAIM, f"It is {'; '.join([*told, sent])}.")


def _signer(ledger: AuditedLedger) -> str:
    return f"with {ledger.replay.public_key}" if ledger.replay.public_key else "with none"


def _answered(folder: DeviceFolder) -> Counter[str] | None:
    """Replies by kind of release, as the database remembers them; None if nothing remembers."""
    try:
        with folder.open_database() as database:
            return Counter(one.release for one in database.rounds())
    except DataError:
        return None
