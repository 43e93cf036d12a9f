"""The one ledger file of a run directory, opened once per process: of all simulated clients, or of a central server.

It only opens and closes; who charges what is the client's or the server's business.
"""

from __future__ import annotations

import os
from pathlib import Path

from hushrec.common.budget import is_private, ledger_header
from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError, PrivacyError
from hushrec.common.ledger import Ledger
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
    path, header = Path(config.run.directory) / LEDGER, ledger_header(config, "simulation")
    if path not in _OPEN:
        writer = os.environ.get(ADDRESS)  # set where another process of the run holds the file
        _OPEN[path] = SharedLedger(writer) if writer else Ledger.open(path, header)
    if _OPEN[path].header != header:
        raise PrivacyError(f"the ledger {path} is open in this process under other constants; one run at a time")
    return _OPEN[path]


def close_ledgers() -> None:
    """Let go of every ledger file of this process and its lock."""
    while _OPEN:
        _OPEN.popitem()[1].close()
