"""The exported scores of anybody's recommender: one list of scored candidates per test user, read from files.

It decides what can be read and nothing else; whether the lists are believable is asked in server/score_checks.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hushrec.common.column_names import DEFAULT_COLUMNS
from hushrec.common.errors import ConfigError, DataError
from hushrec.common.metrics import Floats, Ints
from hushrec.common.tables import Table, read_parquet, read_table

_LABELS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}
_REMEDY = "rename the column"
_MOST_COUNTED = 2.0**53  # above it floats skip whole numbers


@dataclass(frozen=True, eq=False)
class Pairs:
    """Distinct (user, item) pairs with a number each, ordered by user, then item.

    Attributes:
        user: int64 (pairs,), test users first, as in `ScoreLists.users`, then all others.
        item: int64 (pairs,), positions in `ScoreLists.items`.
        count: float64 (pairs,), > 0.
    """

    user: Ints
    item: Ints
    count: Floats

    def counts_of(self, user: Ints, item: Ints, n_items: int) -> Floats:
        """The number of each asked pair, 0 where it is not there; (asked,)."""
        keys, asked = self.user * n_items + self.item, user * n_items + item
        place = np.minimum(np.searchsorted(keys, asked), max(len(keys) - 1, 0))
        found = keys[place] == asked if len(keys) else np.zeros(len(asked), dtype=np.bool_)
        return np.where(found, self.count[place] if len(keys) else 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class ScoreLists:
    """One candidate list per test user, rows in the order of the file.

    Attributes:
        users: ids of the test users, sorted; list u is that of users[u].
        items: ids of all items in any of the files, scored ones first.
        starts: int64 (users + 1,), list u is rows starts[u] to starts[u + 1].
        user, item: int64 (rows,), positions in `users` and `items`.
        score: float64 (rows,), finite, higher is better.
        target: bool (rows,), the held-out test items; every list has one and has another candidate.
        unscored: held-out pairs of the truth file without a score.
        train: interactions used in training, None where not given.
        draws: training negatives and how often each was drawn, None where not given.
    """

    users: tuple[str, ...]
    items: tuple[str, ...]
    starts: Ints
    user: Ints
    item: Ints
    score: Floats
    target: npt.NDArray[np.bool_]
    unscored: int = 0
    train: Pairs | None = None
    draws: Pairs | None = None

    def __len__(self) -> int:
        return len(self.users)

    def spans(self) -> Iterator[slice]:
        """The rows of each list."""
        for start, end in zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True):
            yield slice(start, end)

    def part(self, rows: npt.NDArray[np.bool_]) -> ScoreLists:
        """The same with only some rows; lists that keep no target or no other candidate are left out, users stay.

        Returns:
            Lists whose `starts` may repeat: an empty list is one that was left out.
        """
        targets = np.bincount(self.user[rows & self.target], minlength=len(self))
        others = np.bincount(self.user[rows & ~self.target], minlength=len(self))
        kept = rows & ((targets > 0) & (others > 0))[self.user]
        starts = np.concatenate([[0], np.cumsum(np.bincount(self.user[kept], minlength=len(self)))])
        fields = (self.user[kept], self.item[kept], self.score[kept], self.target[kept])
        return ScoreLists(self.users, self.items, starts, *fields, self.unscored, self.train, self.draws)


def read_score_lists(
    scores: Path, *, truth: Path | None = None, train: Path | None = None, negatives: Path | None = None
) -> ScoreLists:
    """Read scores and what goes with them; CSV (comma, UTF-8, a header line) or Parquet by the file's extension.

    Args:
        scores: columns user, item, score and, without `truth`, label (1 = held-out test item, 0 = not).
        truth: columns user, item: the held-out test items.
        train: columns user, item: the interactions used in training.
        negatives: columns user, item and optionally count: the negatives that training drew.
    Raises:
        ConfigError: labels are given twice or not at all, or an extension is unknown.
        DataError: a file, column or cell cannot be used, or a user has no test item or no other candidate.
    """
    paths = {"scores": scores, "truth": truth, "train": train, "negatives": negatives}
    tables = {name: _read(path) for name, path in paths.items() if path is not None}
    table = tables["scores"]
    table.require(("score",), _REMEDY)
    if truth is None and "label" not in table.columns:
        raise ConfigError(f"{scores}: no column 'label' says which items were held out; add it, or give --truth FILE")
    if truth is not None and "label" in table.columns:
        raise ConfigError(f"{scores} has a column 'label'; leave out --truth, or remove the column")
    users, user_of = _vocabulary(tables, "user")
    items, item_of = _vocabulary(tables, "item")
    n_users = int(user_of["scores"].max()) + 1
    order = np.argsort(user_of["scores"], kind="stable")
    user, item = user_of["scores"][order], item_of["scores"][order]
    unscored = 0
    if truth is None:
        target = _labels(table)[order]
    else:
        wanted = np.unique(user_of["truth"] * len(items) + item_of["truth"])
        target = np.isin(user * len(items) + item, wanted)
        unscored = len(np.setdiff1d(wanted, user * len(items) + item))
    pairs = {
        name: _pairs(user_of[name], item_of[name], _counts(tables[name]) if name == "negatives" else None, len(items))
        for name in ("train", "negatives")
        if name in tables
    }
    for name, found in pairs.items():
        _check_same_ids(tables[name].path, found, n_users, item)
    starts = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=n_users))])
    fields = (starts, user, item, table.numbers("score")[order], target, unscored)
    lists = ScoreLists(users[:n_users], items, *fields, pairs.get("train"), pairs.get("negatives"))
    _check_lists(scores, lists)
    return lists


def _read(path: Path) -> Table:
    kind = path.suffix.lower()
    if kind == ".csv":
        return read_table(path, separator=",", quoted=True)
    if kind == ".parquet":
        return read_parquet(path)
    raise ConfigError(f"{path}: expected a file that ends in .csv or .parquet; export it as one of them")


def _column(table: Table, role: str) -> str:
    """The column of a role under any of its usual names."""
    found = next((name for name in DEFAULT_COLUMNS[role] if name in table.columns), role)
    table.require((found,), _REMEDY)
    return found


def _vocabulary(tables: dict[str, Table], role: str) -> tuple[tuple[str, ...], dict[str, Ints]]:
    """All ids of a role, those of the scores first and each part sorted, and the position of every row's id by file."""
    ids = {}
    for name, table in tables.items():
        values, codes = table.ids(_column(table, role))
        used, codes = np.unique(codes, return_inverse=True)
        ids[name] = [values[code] for code in used], codes
    first = ids["scores"][0]
    rest = sorted({value for values, _ in ids.values() for value in values}.difference(first))
    place = {value: position for position, value in enumerate((*first, *rest))}
    rows = {name: np.array([place[v] for v in values], dtype=np.int64)[codes] for name, (values, codes) in ids.items()}
    return tuple(place), rows


def _labels(table: Table) -> npt.NDArray[np.bool_]:
    values, codes = table.columns["label"]
    known = [_LABELS.get(value.strip().lower()) for value in values]
    bad = np.array([label is None for label in known], dtype=np.bool_)[codes]
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"{table.place(row)}: expected 1 (held-out test item) or 0 in column 'label', got {values[codes[row]]!r}; "
            "correct the cell"
        )
    return np.array(known, dtype=np.bool_)[codes]


def _counts(table: Table) -> Floats | None:
    if "count" not in table.columns:
        return None
    counts = table.numbers("count")
    bad = (counts < 0) | (counts != np.floor(counts)) | (counts > _MOST_COUNTED)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"{table.place(row)}: expected a whole number >= 0 in column 'count', got {counts[row]:g}; correct the cell"
        )
    return counts


def _pairs(user: Ints, item: Ints, counts: Floats | None, n_items: int) -> Pairs:
    keys, inverse = np.unique(user * n_items + item, return_inverse=True)
    total = np.bincount(inverse, weights=counts, minlength=len(keys)).astype(np.float64)
    keys, total = keys[total > 0], total[total > 0]
    return Pairs(keys // n_items, keys % n_items, total)


def _check_same_ids(path: Path, pairs: Pairs, n_users: int, item: Ints) -> None:
    """Refuse a file that shares neither a user nor an item with the scores: its ids are others."""
    if not (pairs.user < n_users).any() and not np.isin(pairs.item, item).any():
        raise DataError(f"{path}: no user and no item of it is among the scores; write the same ids in every file")


def _check_lists(path: Path, lists: ScoreLists) -> None:
    for rows, missing in ((lists.target, "held-out test item"), (~lists.target, "candidate but test items")):
        without = np.flatnonzero(np.bincount(lists.user[rows], minlength=len(lists)) == 0)
        if len(without):
            raise DataError(
                f"{path}: {len(without)} of {len(lists)} users have no {missing} among the scored items, such as "
                f"user {lists.users[without[0]]!r}; export the test item and the negatives of each, or remove the user"
            )
