"""Forgetting on the owner's word: data, replies and keys are overwritten and removed; the ledger stays unless told.

What was released stays released: nothing here, and nothing anywhere, takes back what other machines have received.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from hushrec.client.device import pids
from hushrec.client.device.background import LAUNCHER, SUPERNODE
from hushrec.client.device.folder import DeviceFolder
from hushrec.common.errors import ConfigError, DataError

_SECRETS = ("node_key", "node_key.pub", "supernode.secret", "ca.crt")
_FOLDERS = ("adapter", "edge", "flower-home", "logs")
_DATA = ("data.sqlite-wal", "data.sqlite-shm", "data.sqlite")
_ACCOUNT = ("ledger.jsonl", "ledger.jsonl.lock", "ledger.key", "device.toml")
STAYS = (
    "What this device sent before stays where it went, with the noise it had; what was learned from it stays in the "
    "models of the federation. Nobody can undo that, and the operator knows that a device took part."
)


def forget_device(folder: DeviceFolder, *, keep_data: bool = False, ledger_too: bool = False) -> list[str]:
    """Erase a device's data, replies, keys, model and logs; files that are not a device's are left alone.

    The database is emptied with secure deletion and rewritten, then each file is overwritten with zeros before it is
    removed. On a magnetic disk that leaves nothing of the content. On flash (SD cards, SSDs, phones), on file systems
    that copy on write or keep snapshots, and in backups, old blocks may survive where software does not reach them:
    only an encrypted disk whose key is destroyed makes them unreadable.

    Args:
        keep_data: keep the interactions, for a device that joins again.
        ledger_too: erase the ledger, its key and the device's name as well; then nothing here knows what was spent.
    Returns:
        Names of what is still in the folder; [] if the folder itself is gone.
    Raises:
        ConfigError: no device's folder, or its launcher or SuperNode runs.
        DataError: the interactions that were to be kept cannot be read, or a file cannot be removed; doing it again
            goes on.
    """
    if not any((folder.path / name).exists() for name in ("invitation.json", *_ACCOUNT)):
        raise ConfigError(f"{folder.path} is no device's folder; nothing was erased")
    try:
        folder.pids.mkdir(mode=0o700, exist_ok=True)
        with pids.only_one(folder.pids / LAUNCHER):  # none can start meanwhile
            if pids.running(folder.pids / SUPERNODE):
                raise ConfigError(f"this device's SuperNode runs; end it with: hushrec client stop {folder.path}")
            _empty_database(folder, keep_data)
            _erase(folder, keep_data=keep_data, ledger_too=ledger_too or not folder.ledger.exists())
        shutil.rmtree(folder.pids)
        with suppress(OSError):  # something is left in it
            folder.path.rmdir()
        return sorted(entry.name for entry in folder.path.iterdir()) if folder.path.exists() else []
    except OSError as error:
        raise DataError(f"cannot erase {error.filename}: {error.strerror}; correct that and forget again") from error


def _empty_database(folder: DeviceFolder, keep_data: bool) -> None:
    """Delete the rows; a damaged or missing database matters only if its interactions are to be kept."""
    try:
        with folder.open_database() as database:
            database.forget(keep_interactions=keep_data)
    except DataError:
        if keep_data and folder.database.exists():
            raise


def _erase(folder: DeviceFolder, *, keep_data: bool, ledger_too: bool) -> None:
    """The invitation goes last: as long as it is there, forgetting can be done again."""
    for name in _FOLDERS:
        if (folder.path / name).is_dir():
            for path in (folder.path / name).rglob("*"):
                if path.is_file() and not path.is_symlink():
                    _overwrite(path)
            shutil.rmtree(folder.path / name)
    names = (*_SECRETS, *(() if keep_data else _DATA), *(_ACCOUNT if ledger_too else ()))
    for name in (*names, "invitation.json.new", "invitation.json"):
        path = folder.path / name
        if path.is_file() and not path.is_symlink():
            _overwrite(path)
        path.unlink(missing_ok=True)


def _overwrite(path: Path) -> None:
    """Zeros over the content, on disk before the name goes."""
    with path.open("r+b") as file:
        left = os.fstat(file.fileno()).st_size
        while left > 0:
            left -= file.write(bytes(min(left, 2**20)))
        file.flush()
        os.fsync(file.fileno())
