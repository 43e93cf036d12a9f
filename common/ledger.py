"""The append-only privacy ledger: what was charged, to whom, on disk before any data are touched.

It decides nothing: `common/privacy.py` turns its events into epsilon and refuses what passes a budget. Order of a
round: `require_budget` -> `reserve` (on disk when it returns) -> touch data -> store the noised reply -> `commit` ->
send. A RESERVE without COMMIT is charged in full, for ever.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from filelock import FileLock, Timeout

from hushrec.common.errors import LedgerCorrupted, PrivacyError
from hushrec.common.ledger_entries import CANCEL, GENESIS, LedgerHeader, Replay, canonical, recovered_body, seal
from hushrec.common.privacy_event import PrivacyEvent

__all__ = ["Ledger", "LedgerHeader", "Replay", "read_ledger"]


def read_ledger(
    path: str | os.PathLike[str], *, public_key: Ed25519PublicKey | None = None, expected_head: str = ""
) -> Replay:
    """Replay a ledger without writing to it, as an auditor does.

    Args:
        path: the ledger's file; a live writer's is fine.
        public_key: refuse entries not signed with it.
        expected_head: a head seen earlier; refuse a ledger that no longer contains it.
    Returns:
        Its state; a torn last line is charged as a writer would charge it.
    Raises:
        LedgerCorrupted: an entry was edited, removed, repeated or reordered (naming the line), or the ledger was cut
            before `expected_head`.
        PrivacyError: the file cannot be read.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise PrivacyError(f"cannot read the ledger {path}: {error.strerror}") from error
    return _replay(content, public_key, expected_head)


def _replay(content: bytes, public_key: Ed25519PublicKey | None, expected_head: str = "") -> Replay:
    replay = Replay(public_key)
    seen = False
    for entry_hash in replay.read(content):
        seen = seen or entry_hash == expected_head
    if expected_head and not seen:
        raise LedgerCorrupted(f"the ledger does not contain the head {expected_head}: it was cut or forked")
    return replay


class Ledger:
    """A ledger open for writing; one writer at a time. Open it with `Ledger.open`, as a context manager.

    Guarantees:
        - what is charged never decreases: not by a crash, a torn write, a reopening or a missing COMMIT.
        - when `reserve`, `release` or `commit` returns, its entry is on disk.
        - after a failed write nothing more is written until the ledger is opened again.
    """

    def __init__(self, path: Path, lock: FileLock, key: Ed25519PrivateKey | None) -> None:
        self.path = path
        self._lock, self._key = lock, key
        self._appending = threading.Lock()
        self._file = -1
        self._replay: Replay

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], header: LedgerHeader, *, key: Ed25519PrivateKey | None = None
    ) -> Ledger:
        """Create the ledger, or take it up where it ends.

        Args:
            path: JSON lines; beside it `<path>.lock`.
            header: the claim's constants, equal to those the ledger was created with.
            key: signs each entry; the same for the ledger's life.
        Raises:
            LedgerCorrupted: the chain is broken.
            PrivacyError: another writer has it open, a constant changed (named), or the file cannot be written.
        """
        path = Path(path).resolve()  # one lock, whatever name the file is opened by
        lock = FileLock(f"{path}.lock", timeout=0, thread_local=False)
        ledger = cls(path, lock, key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            ledger._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            ledger._load(header)
        except Timeout as error:
            raise PrivacyError(f"the ledger {path} is open in another writer; end that one first") from error
        except OSError as error:
            ledger.close()
            raise PrivacyError(f"cannot open the ledger {path}: {error.strerror}") from error
        except BaseException:
            ledger.close()
            raise
        return ledger

    def reserve(self, server_round: int, clients: Sequence[str], event: PrivacyEvent) -> str:
        """Charge a cohort for a round, before its data are touched.

        Args:
            server_round: the round's number.
            clients: distinct names; on a device just one.
            event: one of the header's plan.
        Returns:
            The entry's hash, for `commit`.
        Raises:
            PrivacyError: not in the plan, a client twice or none; nothing was written.
        """
        body = {"type": "RESERVE", "round": int(server_round), "clients": list(clients), "event": event.to_json()}
        return self._append(body)

    def release(self, clients: Sequence[str], event: PrivacyEvent, why: str, *, server_round: int = 0) -> str:
        """Charge a noised release other than training, such as popularity counts, before its data are touched."""
        body = {"type": "RELEASE", "round": int(server_round), "clients": list(clients), "event": event.to_json()}
        return self._append({**body, "why": why})

    def commit(self, reserve: str, replies: Mapping[str, str]) -> str:
        """Record what is about to be sent for a RESERVE: client -> SHA-256 (hex) of its noised reply.

        Raises:
            PrivacyError: no such RESERVE is pending, or a client is not of its cohort; nothing was written.
        """
        return self._append({"type": "COMMIT", "reserve": reserve, "replies": dict(replies)})

    @property
    def header(self) -> LedgerHeader:
        return self._replay.header

    @property
    def head(self) -> str:
        """Hash of the last entry; give it to someone else, who can then tell if the ledger is cut."""
        return self._replay.head

    @property
    def length(self) -> int:
        """Number of entries."""
        return self._replay.length

    def events(self, client: str) -> tuple[PrivacyEvent, ...]:
        """Everything charged to a client so far; equal releases are one event with the sum of their steps."""
        return self._replay.events(client)

    def clients(self) -> tuple[str, ...]:
        """Every client ever charged by name, in order of first charge."""
        return self._replay.clients()

    def pending(self) -> dict[str, tuple[int, tuple[str, ...]]]:
        """RESERVEs without COMMIT, charged all the same: hash -> (round, clients)."""
        return self._replay.pending()

    def last_reply(self, client: str) -> tuple[int, str] | None:
        """Round and SHA-256 of the last committed reply of a client: after a crash, send that one again."""
        return self._replay.last_reply(client)

    def verify(self) -> None:
        """Read the file again; LedgerCorrupted if it is not exactly what this writer wrote."""
        replay = read_ledger(self.path, public_key=self._key.public_key() if self._key else None)
        if replay.head != self.head or replay.torn:
            raise LedgerCorrupted(f"{self.path} was changed while it was open")

    def close(self) -> None:
        """Let the next writer in; closing twice is fine."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._lock.release()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(self, header: LedgerHeader) -> None:
        """Write the header of a new ledger; of an old one, check it and recover a torn line."""
        public = self._key.public_key() if self._key else None
        constants = {**header.to_json(), "public_key": public.public_bytes_raw().hex() if public else ""}
        LedgerHeader.from_json(header.to_json())  # what could not be read back is not written
        first = canonical(seal({"type": "HEADER", **constants}, 0, GENESIS, self._key)) + b"\n"
        with open(self.path, "rb") as file:
            content = file.read()
        if len(content) < len(first) and first.startswith(content):  # new, or cut while it was created
            self._write(first[len(content) :])
            _sync_folder(self.path.parent)
            content = first
        self._replay = _replay(content, None)
        _refuse_changes({**self._replay.header.to_json(), "public_key": self._replay.public_key}, constants, self.path)
        if torn := self._replay.torn:
            self._replay = _replay(content[: -len(torn)], None)
            self._append({"type": "RECOVERED", **recovered_body(torn, header.plan)}, torn)

    def _append(self, body: dict[str, Any], torn: bytes | None = None) -> str:
        """Check, write, fsync, then remember one entry, after the torn bytes of the same line if there are any."""
        with self._appending:
            if self._file < 0:
                raise PrivacyError(f"the ledger {self.path} is closed, or a write failed; open it again")
            entry = seal(body, self._replay.length, self.head, self._key)
            self._replay.take(entry, torn)
            try:
                self._write((b"" if torn is None else CANCEL) + canonical(entry) + b"\n")
            except BaseException as error:
                self.close()  # what is on disk is unknown, so nothing may follow it unseen
                if isinstance(error, OSError):
                    raise PrivacyError(f"cannot write the ledger {self.path}: {error.strerror}") from error
                raise
            return str(entry["hash"])

    def _write(self, data: bytes) -> None:
        """All of the bytes, on disk."""
        while data:
            data = data[os.write(self._file, data) :]
        os.fsync(self._file)


def _refuse_changes(old: dict[str, Any], new: dict[str, Any], path: Path) -> None:
    """Name the first constant in which two headers differ."""
    for name in old:
        was, now = old[name], new[name]
        if was == now:
            continue
        if name == "plan" and len(was) == len(now):
            pairs = ((a, b) for a, b in zip(was, now, strict=True) if a != b)
            a, b = next(pairs)
            field = next(key for key in a if a[key] != b[key])
            name, was, now = f"{field} of the {a['kind']} plan", a[field], b[field]
        raise PrivacyError(
            f"{name} changed from {was!r} to {now!r}, but the ledger {path} was begun with the former; "
            "restore it, or begin a new ledger for people whose data no earlier ledger covers"
        )


def _sync_folder(folder: Path) -> None:
    """Make a new file's name survive a power cut (a no-op where folders cannot be opened)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
