"""Which rounds are kept for an ensemble, and that only whole ones are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hushrec.common.config import RunConfig
from hushrec.common.errors import BundleError
from hushrec.server.checkpoint import NAME
from hushrec.server.snapshots import FOLDER, keep_snapshot, read_snapshots


def kept(config: RunConfig, folder: Path, rounds: int) -> list[int]:
    for number in range(1, rounds + 1):
        keep_snapshot(config, number, {"core": np.full(2, number, dtype=np.float32)})
    return [int(adapter["core"][0]) for adapter in read_snapshots(folder, rounds)]


@pytest.mark.parametrize(
    ("rounds", "snapshots", "expected"),
    [(60, 5, [36, 42, 48, 54, 60]), (4, 2, [3, 4]), (3, 2, [2, 3]), (2, 5, [1, 2]), (7, 0, []), (10, 1, [10])],
)
def test_snapshots_are_spread_over_the_last_half(
    tiny: Callable[..., RunConfig], tmp_path: Path, rounds: int, snapshots: int, expected: list[int]
) -> None:
    config = tiny(run__directory=str(tmp_path), federation__rounds=rounds, server__snapshots=snapshots)
    assert kept(config, tmp_path, rounds) == expected


def test_a_run_that_stops_early_has_the_newest_before_the_stop(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = tiny(run__directory=str(tmp_path), federation__rounds=60, server__snapshots=5)
    assert kept(config, tmp_path, 40) == [12, 18, 24, 30, 36]


def test_a_repeated_round_replaces_its_snapshot_and_a_later_one_than_the_checkpoint_is_not_read(
    tiny: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = tiny(run__directory=str(tmp_path), federation__rounds=4, server__snapshots=2)
    keep_snapshot(config, 3, {"core": np.zeros(2, dtype=np.float32)})
    assert read_snapshots(tmp_path, 2) == []
    keep_snapshot(config, 3, {"core": np.ones(2, dtype=np.float32)})
    (adapter,) = read_snapshots(tmp_path, 3)
    assert adapter["core"].tolist() == [1, 1]


def test_a_damaged_snapshot_is_refused(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = tiny(run__directory=str(tmp_path), federation__rounds=1, server__snapshots=1)
    keep_snapshot(config, 1, {"core": np.ones(2, dtype=np.float32)})
    path = next((tmp_path / FOLDER).glob(f"*/{NAME}"))
    content = path.read_bytes()
    path.write_bytes(content[:-2] + b"xx")
    with pytest.raises(BundleError, match="damaged"):
        read_snapshots(tmp_path, 1)
