"""Adapters of earlier rounds of one run, kept for an ensemble: spread over the last half of the rounds.

Every adapter that is kept was released to the clients of its round already, so the ensemble is post-processing and
costs no epsilon beyond the run's own. Adapters of several runs over the same people would not be free: their epsilons
add up. It scores nothing; common/ensemble.py does.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from hushrec.common.config import RunConfig
from hushrec.common.protocol import Arrays
from hushrec.server.checkpoint import NAME, Checkpoint, read_checkpoint, write_checkpoint

FOLDER = "snapshots"


def keep_snapshot(config: RunConfig, server_round: int, adapter: Arrays) -> None:
    """Keep the adapter of a round that is due, and only the newest `server.snapshots` of them.

    Called before the round's checkpoint is written: after a crash between the two the round is repeated and its
    snapshot replaced, so that none is ever missing.

    Args:
        server_round: from 1.
        adapter: what would be shipped if the run ended here.
    """
    kept = config.server.snapshots
    if not kept or (config.federation.rounds - server_round) % snapshot_period(config):
        return
    place = Path(config.run.directory) / FOLDER / f"{server_round:06d}"
    place.mkdir(parents=True, exist_ok=True)
    write_checkpoint(place, Checkpoint(server_round, adapter, {}, np.zeros(0, dtype=np.float32)))
    for old in sorted(place.parent.iterdir())[:-kept]:
        shutil.rmtree(old)


def snapshot_period(config: RunConfig) -> int:
    """Rounds between two snapshots; the last round is one, and an early stop leaves those before it."""
    return max(1, config.federation.rounds // (2 * max(1, config.server.snapshots)))


def read_snapshots(folder: Path, last: int) -> list[Arrays]:
    """The kept adapters of a run directory, oldest first.

    Args:
        last: the last finished round; what is of a later one belongs to a round that will be repeated.
    Raises:
        BundleError: one is damaged.
    """
    places = sorted((folder / FOLDER).glob(f"*/{NAME}"))
    found = [read_checkpoint(place.parent) for place in places]
    return [one.adapter for one in found if one is not None and one.server_round <= last]
