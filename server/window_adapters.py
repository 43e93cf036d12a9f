"""The adapters of the ends of time windows, kept in the run directory for the table of continual training.

Each was released in its round already, so keeping it costs nothing. What they score is not this file's business.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hushrec.common.config import RunConfig
from hushrec.common.errors import BundleError
from hushrec.common.protocol import Arrays
from hushrec.common.time_windows import ended_window
from hushrec.server.checkpoint import Checkpoint, read_checkpoint, write_checkpoint

FOLDER = "windows"


def keep_window(config: RunConfig, server_round: int, adapter: Arrays) -> bool:
    """Keep the adapter if a window ends with this round.

    Called before the round's checkpoint is written: a crash between the two repeats the round and replaces the file,
    so that none is ever missing, or another than the next window began with.

    Returns:
        Whether a window ended.
    """
    window = ended_window(config, server_round)
    if window is None:
        return False
    place = _place(config, window)
    place.mkdir(parents=True, exist_ok=True)
    write_checkpoint(place, Checkpoint(server_round, adapter, {}, np.zeros(0, dtype=np.float32)))
    return True


def read_window(config: RunConfig, window: int) -> Arrays:
    """What was shipped at the end of a window, counted from 0.

    Raises:
        BundleError: it is missing or damaged.
    """
    found = read_checkpoint(_place(config, window))
    if found is None:
        raise BundleError(f"{_place(config, window)} is gone, and with it what window {window + 1} ended with")
    return found.adapter


def _place(config: RunConfig, window: int) -> Path:
    return Path(config.run.directory) / FOLDER / str(window + 1)
