"""Rows: the privacy units of one client, and what of each is read in a round.

A row is one unit: on a device all activity in some absolute time slots, in a silo one user. Which row an interaction
belongs to depends on the clock (or on its user) alone, and everything drawn for a row depends on that row and on
public randomness alone. Nothing in this file looks at two rows at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hushrec.common.interactions import History

SPAN_SECONDS = {"hour": 3600, "day": 86_400, "week": 604_800}


@dataclass(frozen=True, eq=False)
class Row:
    """One privacy unit.

    Attributes:
        key: identity of the unit (slot number or user key); keys its random draws, never leaves the client.
        items: int32 (n,), oldest first.
        profile: float32 (width,) the user's encoded profile text, where the unit is the whole user and profiles are
            fused; None: not read.
    """

    key: str
    items: NDArray[np.int32]
    profile: NDArray[np.float32] | None = None


def device_rows(history: History, span: str, max_records: int) -> tuple[Row, ...]:
    """At most `max_records` rows of one user: record = absolute time bin number modulo `max_records`.

    Folding bins into slots bounds the number of rows without choosing among them: keeping, say, the newest bins would
    let an older bin move up when one is removed, and two rows would change instead of one.

    Args:
        span: "hour", "day" or "week" of absolute time (UTC).
        max_records: k >= 1, pinned on the device.
    Guarantees:
        - removing an interaction, or exchanging its item, changes one row; emptying a slot removes one row.
    """
    slots = history.times // SPAN_SECONDS[span] % max_records
    return tuple(Row(f"slot-{slot}", history.items[slots == slot]) for slot in np.unique(slots).tolist())


def user_rows(
    keys: Sequence[str], histories: Sequence[History], profiles: Sequence[NDArray[np.float32] | None] | None = None
) -> tuple[Row, ...]:
    """One row per user, with the user's encoded profile where profiles are read."""
    found = zip(keys, histories, profiles or [None] * len(keys), strict=True)
    return tuple(Row(key, history.items, profile) for key, history, profile in found)


@dataclass(frozen=True, eq=False)
class RoundInputs:
    """What one round reads of some rows.

    Attributes:
        windows: int64 (rows, w), consecutive items of each row, oldest first; 0 where `mask` is 0.
        mask: float32 (rows, w).
        negatives: int64 (rows, n) catalogue positions.
        twins: bool (rows, n), True where a negative is in the row's window.
        profiles: float32 (rows, width), zeros where a row has none; None where no row has one.
    """

    windows: NDArray[np.int64]
    mask: NDArray[np.float32]
    negatives: NDArray[np.int64]
    twins: NDArray[np.bool_]
    profiles: NDArray[np.float32] | None = None


def row_rng(seed: int, *parts: str) -> np.random.Generator:
    """Public randomness for one row or one round: the same wherever and with whomever the row is computed."""
    digest = hashlib.blake2b("|".join([str(seed), *parts]).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def draw_inputs(
    rows: Sequence[tuple[str, Row]],
    *,
    seed: int,
    window: int,
    negatives: int,
    items: int,
    shared: bool,
    candidates: NDArray[np.int64] | None = None,
) -> RoundInputs:
    """Draw each row's window and negatives.

    Args:
        rows: (client, row) pairs.
        seed: public randomness of the round.
        window: items read per row, w >= 2.
        negatives: per row, drawn uniformly without replacement from the `items` catalogue positions.
        shared: one draw of negatives for the round instead of one per row.
        candidates: int64 (items,) the catalogue positions to draw from, public; None: 0..items - 1.
    Guarantees:
        - the draw for a row does not depend on any other row, nor on how many there are.
    """
    count = min(negatives, items)
    candidates = np.arange(items, dtype=np.int64) if candidates is None else candidates
    windows = np.zeros((len(rows), window), dtype=np.int64)
    mask = np.zeros((len(rows), window), dtype=np.float32)
    drawn = np.empty((len(rows), count), dtype=np.int64)
    twins = np.zeros((len(rows), count), dtype=np.bool_)
    common = candidates[row_rng(seed, "negatives").choice(items, count, replace=False)]
    for number, (client, row) in enumerate(rows):
        rng = row_rng(seed, "row", client, row.key)
        start = int(rng.integers(0, max(1, len(row.items) - window + 1)))
        read = row.items[start : start + window]
        windows[number, : len(read)], mask[number, : len(read)] = read, 1.0
        drawn[number] = common if shared else candidates[rng.choice(items, count, replace=False)]
        twins[number] = np.isin(drawn[number], read)
    return RoundInputs(windows, mask, drawn, twins, _profiles([row for _, row in rows]))


def _profiles(rows: Sequence[Row]) -> NDArray[np.float32] | None:
    known = [row.profile for row in rows if row.profile is not None]
    if not known:
        return None
    nothing = np.zeros_like(known[0])
    return np.stack([nothing if row.profile is None else row.profile for row in rows])
