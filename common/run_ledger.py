"""The ledger files of a process, each opened once: a run directory's (all simulated clients, or a central server) and
a device's own.

It only opens and closes; who charges what is the client's or the server's business.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hushrec.common.budget import is_private, ledger_header
from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError, PrivacyError
from hushrec.common.ledger import Ledger, LedgerHeader
from hushrec.common.shared_ledger import ADDRESS, SharedLedger

LEDGER = "ledger.jsonl"
_OPEN: dict[Path, Ledger] = {}


def open_ledger(config: RunConfig) -> Ledger | None:
    """The simulation's ledger, opened once per process.

    Raises:
        PrivacyError: another process writes it, or it pins other constants than `config`.
        ConfigError: a private run without a directory to keep its ledger in.
    """
    if not is_private(config):
        return None
    if not config.run.directory:
        raise ConfigError("a private run needs run.directory, where its ledger is kept")
    return _opened(Path(config.run.directory) / LEDGER, ledger_header(config, "simulation"), None)


def open_device_ledger(path: Path, config: RunConfig, name: str, key: Ed25519PrivateKey) -> Ledger:
    """A device's own ledger, signed, opened once per process.

    Args:
        name: of the device; part of what the ledger pins.
    Raises:
        PrivacyError: as for `open_ledger`.
    """
    return _opened(path, ledger_header(config, name), key)


def _opened(path: Path, header: LedgerHeader, key: Ed25519PrivateKey | None) -> Ledger:
    if path not in _OPEN:
        writer = os.environ.get(ADDRESS) if key is None else None  # set where another process of the run holds the file
        _OPEN[path] = SharedLedger(writer) if writer else Ledger.open(path, header, key=key)
    if _OPEN[path].header != header:
        raise PrivacyError(f"the ledger {path} is open in this process under other constants; one run at a time")
    return _OPEN[path]


def close_ledgers() -> None:
    """Let go of every ledger file of this process and its lock."""
    while _OPEN:
        _OPEN.popitem()[1].close()
