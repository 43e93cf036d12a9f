"""One ledger file for many worker processes of a simulation: whoever holds the file writes down what they charge.

The file keeps its one writer, so what it says is complete; a worker that cannot reach the writer is refused, and so
reads no data. It is no device's ledger: a device has a file of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hushrec.common.errors import HushrecError, PrivacyError
from hushrec.common.ledger import Ledger, LedgerHeader
from hushrec.common.privacy_event import PrivacyEvent

if TYPE_CHECKING:  # generic for type checkers only
    from multiprocessing.connection import Connection

ADDRESS = "HUSHREC_LEDGER"  # environment variable of the workers: the writer's socket
_QUESTIONS = {"header", "events", "clients", "append"}


@contextmanager
def share_ledger(ledger: Ledger, socket: Path) -> Iterator[None]:
    """Let every process that can open `socket` charge `ledger`, one request at a time, until the block is left.

    Args:
        socket: does not exist yet; in a folder that only this user can enter, since whoever connects may charge.
    """
    over, turn = threading.Event(), threading.Lock()

    def accept() -> None:
        while True:
            worker = listener.accept()
            if over.is_set():
                worker.close()
                return
            threading.Thread(target=_answer, args=(worker, ledger, turn), daemon=True).start()

    with Listener(str(socket), family="AF_UNIX") as listener:
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield
        finally:
            over.set()
            Client(str(socket), family="AF_UNIX").close()  # wakes the thread
            accepting.join()


def _answer(worker: Connection[Any, Any], ledger: Ledger, turn: threading.Lock) -> None:
    with worker, suppress(EOFError, OSError):  # the worker is gone
        while True:
            name, *arguments = worker.recv()
            try:
                with turn:
                    worker.send((True, _result(ledger, name, arguments)))
            except HushrecError as error:
                worker.send((False, str(error)))


def _result(ledger: Ledger, name: str, arguments: list[Any]) -> Any:
    if name not in _QUESTIONS:
        raise PrivacyError(f"a worker asked the ledger for {name!r}, which it may not")
    if name == "header":
        return ledger.header
    return getattr(ledger, name if name != "append" else "_append")(*arguments)


class SharedLedger(Ledger):
    """A worker's view of the ledger that another process writes: it charges and asks what was spent, no more.

    Every method raises PrivacyError where the writer refused or is gone; then the caller must not read data.

    Args:
        socket: of `share_ledger`.
    """

    def __init__(self, socket: str) -> None:
        self.path = Path(socket)
        self._turn = threading.Lock()
        try:
            self._writer = Client(socket, family="AF_UNIX")
        except OSError as error:
            raise PrivacyError("the process that writes the ledger is not there; resume the run") from error
        self._constants: LedgerHeader = self._asked("header")

    @property
    def header(self) -> LedgerHeader:
        """The constants that the ledger pins."""
        return self._constants

    def events(self, client: str) -> tuple[PrivacyEvent, ...]:
        """Everything charged to a client so far, by whichever worker."""
        return tuple(self._asked("events", client))

    def clients(self) -> tuple[str, ...]:
        """Every client ever charged by name."""
        return tuple(self._asked("clients"))

    def close(self) -> None:
        """Let go of the connection; the writer keeps the file."""
        self._writer.close()

    def _append(self, body: dict[str, Any], torn: bytes | None = None) -> str:
        """Behind `reserve`, `release` and `commit`: on the writer's disk when it returns."""
        return str(self._asked("append", body))

    def _asked(self, *question: Any) -> Any:
        with self._turn:
            try:
                self._writer.send(question)
                done, answer = self._writer.recv()
            except (EOFError, OSError) as error:
                raise PrivacyError("the process that writes the ledger is gone; resume the run") from error
        if not done:
            raise PrivacyError(answer)
        return answer
