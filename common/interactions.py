"""Users' histories and the data set that holds them: the immutable values every other part reads.

It reads no file; the importers (recbole.py, csv_import.py, movielens.py, synthetic.py) make these values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hushrec.common.catalog import Catalog

TimeUnit = Literal["seconds", "position", "none"]


@dataclass(frozen=True, eq=False)
class History:
    """One user's interactions, oldest first.

    Attributes:
        items: int32 (n,), catalogue positions, no repeats within one user.
        times: int64 (n,), seconds since 1970 UTC (see `Dataset.time_unit` for data without clock times).
        ratings: float32 (n,) as given by the source, or None where it has none.
    """

    items: NDArray[np.int32]
    times: NDArray[np.int64]
    ratings: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.items)

    def take(self, which: slice | NDArray[np.bool_]) -> History:
        """Return the chosen interactions in the same order."""
        ratings = None if self.ratings is None else self.ratings[which]
        return History(self.items[which], self.times[which], ratings)


@dataclass(frozen=True)
class ImportReport:
    """What an import read, kept and left out.

    Attributes:
        rows: interaction rows read; always `interactions` + the sum of `dropped`.
        interactions, users, items: what was kept (items = size of the catalogue).
        dropped: reason -> interaction rows left out.
        dropped_users: reason -> users left out.
        dropped_items: reason -> catalogue rows left out.
        notes: conversions made, one sentence each.
    """

    rows: int
    interactions: int
    users: int
    items: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    dropped_users: Mapping[str, int] = field(default_factory=dict)
    dropped_items: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return the report as sentences for people, drops last."""
        lines = [f"{self.users:,} users, {self.items:,} items, {self.interactions:,} of {self.rows:,} interaction rows"]
        lines += self.notes
        for what, drops in (
            ("interaction rows", self.dropped),
            ("users", self.dropped_users),
            ("item rows", self.dropped_items),
        ):
            lines += [f"left out {count:,} {what}: {reason}" for reason, count in drops.items()]
        return lines


@dataclass(frozen=True, eq=False)
class Dataset:
    """Users, their histories and the catalogue, de-identified.

    Attributes:
        user_keys: keyed hashes of the raw ids (identity.py); aligned with histories and profiles.
        histories: at least one interaction each; equal times are ordered by a seeded hash of (user, item).
        profiles: masked free text, "" where the data has none.
        has_times: False = the order within a user is a seeded random order and all times are 0.
        time_unit: "seconds"; "position" where the source gives only an order; "none" without either.
        reviews: per user, the masked text written with each interaction, aligned with the history, "" where there is
            none; empty where the source has no such texts. Private like a history, and no part of a record.
    """

    name: str
    catalog: Catalog
    user_keys: tuple[str, ...]
    histories: tuple[History, ...]
    profiles: tuple[str, ...]
    has_times: bool
    report: ImportReport
    time_unit: TimeUnit = "seconds"
    reviews: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.user_keys)
