"""A device's own data in one SQLite file: interactions, the outbox of replies, rounds and refusals.

Nothing of privacy's accounting is here: the ledger is a file of its own, and losing this one gives no budget back.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hushrec.common.catalog import Catalog
from hushrec.common.errors import DataError
from hushrec.common.interactions import History

SCHEMA_VERSION = 1
BUSY_SECONDS = 10.0
MOST_REFUSALS = 1000  # the newest are kept
LONGEST_DETAIL = 500  # characters
_SCHEMA = """
CREATE TABLE interactions (item_id TEXT PRIMARY KEY, time INTEGER NOT NULL, rating REAL) STRICT;
CREATE TABLE replies (
  server_round INTEGER NOT NULL, release TEXT NOT NULL, request_sha256 TEXT NOT NULL, reply_sha256 TEXT NOT NULL,
  reply BLOB NOT NULL, PRIMARY KEY (server_round, release)) STRICT;
CREATE TABLE rounds (
  server_round INTEGER NOT NULL, release TEXT NOT NULL, finished INTEGER NOT NULL, seconds REAL NOT NULL,
  peak_mb REAL NOT NULL, bytes_down INTEGER NOT NULL, bytes_up INTEGER NOT NULL) STRICT;
CREATE TABLE refusals (time INTEGER NOT NULL, code TEXT NOT NULL, detail TEXT NOT NULL) STRICT;
"""
_TABLES = ("interactions", "replies", "rounds", "refusals")
_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
_WAITED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_UNUSABLE = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}


@dataclass(frozen=True)
class Interaction:
    """One item that the owner used; `time` in seconds since 1970 UTC."""

    item_id: str
    time: int
    rating: float | None = None


@dataclass(frozen=True)
class Added:
    """What became of added interactions: `new` items, `later` ones that replaced an earlier time, and `earlier` ones
    left out since the item is known with a later time; together all that were given.
    """

    new: int
    later: int
    earlier: int


@dataclass(frozen=True)
class StoredReply:
    """A reply as it was (or is about to be) sent, and the SHA-256 (hex) of the request that it answers."""

    request_sha256: str
    reply: bytes


@dataclass(frozen=True)
class Round:
    """What one answered request cost; `finished` in seconds since 1970 UTC, peak resident memory in MB."""

    server_round: int
    release: str
    finished: int
    seconds: float
    peak_mb: float
    bytes_down: int
    bytes_up: int


@dataclass(frozen=True)
class Refusal:
    """One request that the device refused, by the fixed code it answered with; `time` in seconds since 1970 UTC."""

    time: int
    code: str
    detail: str


class DeviceDatabase:
    """The open file; several processes and threads may have it open at once.

    Args:
        path: data.sqlite of a device folder.
        create: make it where there is none; otherwise a missing file is an error, so that lost data are noticed.
    Guarantees:
        - each write is atomic and on disk when the method returns; a kill leaves the state before or after it.
        - a full disk or a damaged file is one DataError, and what was there before is untouched.
    Raises:
        DataError: missing, damaged, of a newer hushrec, not accessible, or locked for more than 10 seconds.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        self._turn = threading.RLock()
        if not create and (not path.is_file() or path.stat().st_size == 0):
            raise DataError(
                f"the database {path} is missing, and with it this device's interactions; ledger and budget are "
                "elsewhere and stand; import your data again with: hushrec client import DIR FILE"
            )
        with self._errors():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives its own files the same mode
            self._base = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            with self._errors():
                self._prepare()
        except BaseException:
            self._base.close()
            raise

    def _prepare(self) -> None:
        for setting in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON", "foreign_keys = ON"):
            self._base.execute(f"PRAGMA {setting}")
        self._base.execute("PRAGMA trusted_schema = OFF")
        found = self._version()
        if found == 0:
            with self._changes():
                if self._version() == 0:  # nobody else made it meanwhile
                    for statement in _SCHEMA.split(";\n"):
                        self._base.execute(statement)
                    self._base.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            found = self._version()
        if found != SCHEMA_VERSION:
            raise DataError(
                f"the database {self.path} has schema {found}, this hushrec knows {SCHEMA_VERSION}; install the newer "
                "hushrec that wrote it"
            )
        report = [str(row[0]) for row in self._base.execute("PRAGMA integrity_check(1)")]
        if report != ["ok"]:
            raise self._damaged(report[0] if report else "no answer")
        for table in _TABLES:
            self._base.execute(f"SELECT * FROM {table} LIMIT 1").fetchone()

    def _version(self) -> int:
        return int(self._base.execute("PRAGMA user_version").fetchone()[0])

    def add_interactions(self, interactions: Sequence[Interaction]) -> Added:
        """Add them all or none; an item that is known keeps its later time, and its rating if the new one has none."""
        new = later = earlier = 0
        with self._changes():
            for one in interactions:
                known = self._base.execute("SELECT time FROM interactions WHERE item_id = ?", (one.item_id,)).fetchone()
                new, later, earlier = (
                    new + (known is None),
                    later + (known is not None and one.time >= known[0]),
                    earlier + (known is not None and one.time < known[0]),
                )
                self._base.execute(
                    "INSERT INTO interactions VALUES (?, ?, ?) ON CONFLICT (item_id) DO UPDATE SET "
                    "time = excluded.time, rating = coalesce(excluded.rating, rating) WHERE excluded.time >= time",
                    (one.item_id, one.time, one.rating),
                )
        return Added(new, later, earlier)

    def history(self, catalog: Catalog) -> History:
        """The interactions, sorted by time, then catalogue position; a missing rating is NaN, or None if all miss.

        Raises:
            DataError: an item that the catalogue does not have: the file is damaged or of another federation.
        """
        rows = self._rows("SELECT item_id, time, rating FROM interactions")
        items = np.array([catalog.index_of(item_id) for item_id, _, _ in rows], dtype=np.int32)
        times = np.array([moment for _, moment, _ in rows], dtype=np.int64)
        ratings = np.array([np.nan if rating is None else rating for _, _, rating in rows], dtype=np.float32)
        order = np.lexsort((items, times))
        return History(items[order], times[order], None if np.isnan(ratings).all() else ratings[order])

    def remove(self, item_id: str) -> bool:
        """Erase one interaction; False if there was none."""
        with self._changes():
            return self._base.execute("DELETE FROM interactions WHERE item_id = ?", (item_id,)).rowcount > 0

    def count(self) -> int:
        """How many interactions there are."""
        return int(self._rows("SELECT count(*) FROM interactions")[0][0])

    def save_reply(self, server_round: int, release: str, request_sha256: str, reply: bytes) -> None:
        """Put a reply into the outbox; the same one again changes nothing.

        Raises:
            DataError: another reply of this round and release is there: two would tell more than one was charged for.
        """
        digest = hashlib.sha256(reply).hexdigest()
        with self._changes():
            known = self._base.execute(
                "SELECT request_sha256, reply_sha256 FROM replies WHERE server_round = ? AND release = ?",
                (server_round, release),
            ).fetchone()
            if known is None:
                row = (server_round, release, request_sha256, digest, reply)
                self._base.execute("INSERT INTO replies VALUES (?, ?, ?, ?, ?)", row)
            elif tuple(known) != (request_sha256, digest):
                raise DataError(f"round {server_round} has another {release} reply already; it stays the only one")

    def read_reply(self, server_round: int, release: str) -> StoredReply | None:
        """The reply of a round, None if there never was one; empty bytes if it was dropped since.

        Raises:
            DataError: it is not what was stored.
        """
        found = self._rows(
            "SELECT request_sha256, reply_sha256, reply FROM replies WHERE server_round = ? AND release = ?",
            (server_round, release),
        )
        if not found:
            return None
        request, digest, reply = found[0]
        if reply and hashlib.sha256(reply).hexdigest() != digest:
            raise self._damaged(f"the reply of round {server_round} has changed")
        return StoredReply(request, reply)

    def drop_replies(self, before: int) -> int:
        """Erase the bytes of the replies of rounds below `before`; that they were given stays known. How many."""
        with self._changes():
            query = "UPDATE replies SET reply = x'' WHERE server_round < ? AND reply <> x''"
            return self._base.execute(query, (before,)).rowcount

    def add_round(
        self, *, server_round: int, release: str, seconds: float, peak_mb: float, bytes_down: int, bytes_up: int
    ) -> None:
        """Note what one request cost that is answered now."""
        row = (server_round, release, int(time.time()), seconds, peak_mb, bytes_down, bytes_up)
        with self._changes():
            self._base.execute("INSERT INTO rounds VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def rounds(self) -> tuple[Round, ...]:
        """All of them, in the order they were added."""
        return tuple(Round(*row) for row in self._rows("SELECT * FROM rounds ORDER BY rowid"))

    def rounds_since(self, moment: int) -> int:
        """How many finished at or after `moment` (seconds since 1970 UTC)."""
        return int(self._rows("SELECT count(*) FROM rounds WHERE finished >= ?", (moment,))[0][0])

    def add_refusal(self, code: str, detail: str) -> None:
        """Note a request that is refused now; a server that asks without end fills no disk by that."""
        with self._changes():
            row = (int(time.time()), code, detail[:LONGEST_DETAIL])
            newest = self._base.execute("INSERT INTO refusals VALUES (?, ?, ?)", row).lastrowid or 0
            self._base.execute("DELETE FROM refusals WHERE rowid <= ?", (newest - MOST_REFUSALS,))

    def refusals(self) -> tuple[Refusal, ...]:
        """The newest 1,000, in the order they were added."""
        return tuple(Refusal(*row) for row in self._rows("SELECT * FROM refusals ORDER BY rowid"))

    def forget(self, *, keep_interactions: bool = False) -> None:
        """Erase everything (or all but the interactions), and write the file anew without the freed pages."""
        with self._changes():
            for table in _TABLES[1:] if keep_interactions else _TABLES:
                self._base.execute(f"DELETE FROM {table}")
        with self._turn, self._errors():
            self._base.execute("VACUUM")
            self._base.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Close it; closing twice is fine."""
        with self._turn, self._errors():
            self._base.close()

    def __enter__(self) -> DeviceDatabase:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._turn, self._errors():
            return self._base.execute(query, values).fetchall()

    @contextmanager
    def _changes(self) -> Iterator[None]:
        """One transaction: all of the block or nothing."""
        with self._turn, self._errors():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Every failure of SQLite as one DataError that names the file and the remedy."""
        try:
            yield
        except sqlite3.Error as error:
            kind = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if kind in _NO_ROOM:
                raise DataError(
                    f"the disk could not take or give data of {self.path} ({error}); nothing was changed; free some "
                    "space or repair the disk, then try again"
                ) from error
            if kind in _WAITED:
                raise DataError(f"another process has held {self.path} for {BUSY_SECONDS:g} s; try again") from error
            if kind in _UNUSABLE:
                raise DataError(f"cannot open the database {self.path} ({error}); correct its permissions") from error
            raise self._damaged(str(error)) from error
        except (UnicodeError, OverflowError) as error:
            raise self._damaged(str(error)) from error
        except OSError as error:
            raise DataError(f"cannot open the database {self.path}: {error.strerror}") from error

    def _damaged(self, why: str) -> DataError:
        return DataError(
            f"the database {self.path} is damaged ({' '.join(why.split())}): interactions and stored replies in it may "
            "be lost; ledger, budget, keys and model are elsewhere and stand; move the file away, then import your "
            "data again with: hushrec client import DIR FILE"
        )
