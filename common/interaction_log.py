"""From a log of raw interactions to a de-identified data set: drops, duplicates, order and user keys.

It reads no file and knows no format; the importers hand it columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hushrec.common.catalog import Catalog
from hushrec.common.errors import ConfigError, DataError
from hushrec.common.identity import hash_user_ids, load_id_key, mask_text, mix_hashes, public_hashes
from hushrec.common.interactions import Dataset, History, ImportReport, TimeUnit

# The order of users is fixed by this seed, so that another tie_seed does not also draw other panels and cold users.
_USER_ORDER_SEED = 0
DUPLICATE = "same user and item again (the earliest is kept)"
UNKNOWN_ITEM = "item is not in the catalogue"
LOW_RATING = "rating below min_rating"
NOT_CHOSEN = "user outside max_users"
NO_INTERACTIONS = "no interaction left"


@dataclass(frozen=True, eq=False)
class InteractionLog:
    """Interactions as a source gives them, raw ids included; lives only during an import.

    Attributes:
        user_ids, item_ids: unique raw ids; user_codes, item_codes: int (rows,), positions in them.
        times: int64 (rows,) or None; ratings: float32 (rows,) or None.
        time_unit: what `times` counts.
        other_users: ids known to the source (its user file) that may have no interaction.
        notes, dropped_items: handed on to the report.
        reviews: one text per row, "" where there is none; empty if the source has none.
    """

    user_ids: tuple[str, ...]
    user_codes: NDArray[np.intp]
    item_ids: tuple[str, ...]
    item_codes: NDArray[np.intp]
    times: NDArray[np.int64] | None
    ratings: NDArray[np.float32] | None = None
    time_unit: TimeUnit = "seconds"
    other_users: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    dropped_items: Mapping[str, int] | None = None
    reviews: Sequence[str] = ()


def build_dataset(
    name: str,
    catalog: Catalog,
    log: InteractionLog,
    profiles: Mapping[str, str],
    *,
    tie_seed: int = 0,
    max_users: int = 0,
    min_rating: float | None = None,
    id_key: bytes = b"",
) -> Dataset:
    """Clean, order and de-identify a log.

    Args:
        profiles: raw user id -> free text; masked here.
        tie_seed: orders equal times, chooses the `max_users`.
        max_users: keep this many users, chosen by a seeded hash of the raw id; 0 = all.
        min_rating: leave out ratings below it; None = every interaction counts.
        id_key: for the user keys; empty = this machine's key.
    Guarantees:
        - neither the order of the rows nor the secret key changes anything but the user keys.
        - rows read = interactions kept + rows dropped, by reason.
    Raises:
        ConfigError: max_users < 0, or min_rating without ratings.
        DataError: nothing is left.
    """
    dropped: dict[str, int] = {}
    user_hash = public_hashes(log.user_ids, "user", _USER_ORDER_SEED)
    keep, items = _known_items(catalog, log, min_rating, dropped)
    keep = _subset_of_users(log, keep, tie_seed, max_users, dropped)
    order = _time_order(catalog, log, user_hash, items, keep, tie_seed, dropped)
    if not len(order):
        raise DataError(f"{name}: no interaction is left of {len(log.user_codes):,} rows; {_reasons(dropped)}")

    rows_of_users = log.user_codes[order]
    starts = np.flatnonzero(np.r_[True, rows_of_users[1:] != rows_of_users[:-1]])
    users = [log.user_ids[code] for code in rows_of_users[starts]]
    return Dataset(
        name=name,
        catalog=catalog,
        user_keys=hash_user_ids(users, id_key or load_id_key()),
        histories=_histories(log, items, order, starts),
        profiles=tuple(mask_text(profiles.get(user, "")) for user in users),
        has_times=log.times is not None,
        report=_report(catalog, log, dropped, len(users), len(order)),
        time_unit="none" if log.times is None else log.time_unit,
        reviews=_reviews(log, order, starts),
    )


def _known_items(
    catalog: Catalog, log: InteractionLog, min_rating: float | None, dropped: dict[str, int]
) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    """Rows whose item is in the catalogue and whose rating is high enough; catalogue position of every row."""
    position = {item_id: index for index, item_id in enumerate(catalog.item_ids)}
    table = np.array([position.get(item_id, -1) for item_id in log.item_ids], dtype=np.int32)
    items = table[log.item_codes]
    keep: NDArray[np.bool_] = items >= 0
    _count(dropped, UNKNOWN_ITEM, len(keep) - int(keep.sum()))
    if min_rating is not None:
        if log.ratings is None:
            raise ConfigError(f"min_rating {min_rating:g} needs ratings, and this data has none; leave min_rating out")
        high = log.ratings >= min_rating
        _count(dropped, LOW_RATING, int((keep & ~high).sum()))
        keep &= high
    return keep, items


def _subset_of_users(
    log: InteractionLog, keep: NDArray[np.bool_], seed: int, max_users: int, dropped: dict[str, int]
) -> NDArray[np.bool_]:
    """Rows of the `max_users` users whose hash is smallest, among users with a row left."""
    present = np.flatnonzero(np.bincount(log.user_codes[keep], minlength=len(log.user_ids)))
    if max_users < 0:
        raise ConfigError(f"expected max_users >= 0 (0 = all users), got {max_users}")
    if not max_users or len(present) <= max_users:
        return keep
    hashes = public_hashes([log.user_ids[code] for code in present], "max_users", seed)
    chosen = np.zeros(len(log.user_ids), dtype=np.bool_)
    chosen[present[np.argsort(hashes, kind="stable")[:max_users]]] = True
    inside = chosen[log.user_codes]
    _count(dropped, NOT_CHOSEN, int((keep & ~inside).sum()))
    kept: NDArray[np.bool_] = keep & inside
    return kept


def _time_order(
    catalog: Catalog,
    log: InteractionLog,
    user_hash: NDArray[np.uint64],
    items: NDArray[np.int32],
    keep: NDArray[np.bool_],
    tie_seed: int,
    dropped: dict[str, int],
) -> NDArray[np.intp]:
    """Row numbers by user (seeded order), time, and a seeded hash of (user, item); repeated pairs removed."""
    rows = np.flatnonzero(keep)
    rank = np.empty(len(user_hash), dtype=np.int64)
    # A 64-bit collision is possible in principle; the raw id then decides, so that row order never does.
    rank[sorted(range(len(user_hash)), key=lambda u: (user_hash[u], log.user_ids[u]))] = np.arange(len(user_hash))
    pair = rank[log.user_codes[rows]] * len(catalog) + items[rows]
    times = np.zeros(len(rows), dtype=np.int64) if log.times is None else log.times[rows]
    worst = np.zeros(len(rows), dtype=np.float32) if log.ratings is None else -log.ratings[rows]
    by_pair = np.lexsort((worst, times, pair))  # of one pair: the earliest, of equal times the best rated
    first = np.r_[True, pair[by_pair][1:] != pair[by_pair][:-1]][: len(by_pair)]
    _count(dropped, DUPLICATE, len(rows) - int(first.sum()))
    kept = by_pair[first]
    tie_user = public_hashes(log.user_ids, "tie user", tie_seed)[log.user_codes[rows[kept]]]
    tie_item = public_hashes(catalog.item_ids, "tie item", tie_seed)[items[rows[kept]]]
    order = np.lexsort((mix_hashes(tie_user, tie_item), times[kept], rank[log.user_codes[rows[kept]]]))
    ordered: NDArray[np.intp] = rows[kept[order]]
    return ordered


def _histories(
    log: InteractionLog, items: NDArray[np.int32], order: NDArray[np.intp], starts: NDArray[np.intp]
) -> tuple[History, ...]:
    """Cut the ordered columns into one read-only history per user."""
    times = np.zeros(len(order), dtype=np.int64) if log.times is None else log.times[order]
    ratings = None if log.ratings is None else log.ratings[order]
    ordered = items[order]
    for column in (times, ratings, ordered):
        if column is not None:
            column.flags.writeable = False
    ends = np.r_[starts[1:], len(order)]
    whole = History(ordered, times, ratings)
    return tuple(whole.take(slice(start, end)) for start, end in zip(starts.tolist(), ends.tolist(), strict=True))


def _reviews(log: InteractionLog, order: NDArray[np.intp], starts: NDArray[np.intp]) -> tuple[tuple[str, ...], ...]:
    """The masked texts, cut as the histories are; of a repeated pair only the text that came with the kept row."""
    if not any(log.reviews):
        return ()
    masked = [mask_text(log.reviews[row]) for row in order.tolist()]
    ends = np.r_[starts[1:], len(order)]
    return tuple(tuple(masked[start:end]) for start, end in zip(starts.tolist(), ends.tolist(), strict=True))


def _report(
    catalog: Catalog, log: InteractionLog, dropped: Mapping[str, int], users: int, interactions: int
) -> ImportReport:
    reason = f"{NOT_CHOSEN}, or {NO_INTERACTIONS}" if NOT_CHOSEN in dropped else NO_INTERACTIONS
    dropped_users = {reason: len(log.other_users.union(log.user_ids)) - users}
    return ImportReport(
        rows=len(log.user_codes),
        interactions=interactions,
        users=users,
        items=len(catalog),
        dropped=dropped,
        dropped_users={reason: count for reason, count in dropped_users.items() if count},
        dropped_items={reason: count for reason, count in (log.dropped_items or {}).items() if count},
        notes=log.notes,
    )


def _count(dropped: dict[str, int], reason: str, count: int) -> None:
    if count:
        dropped[reason] = count


def _reasons(dropped: Mapping[str, int]) -> str:
    return "; ".join(f"{count:,}: {reason}" for reason, count in dropped.items()) or "the log is empty"
