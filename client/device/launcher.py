"""A device at work: it runs the SuperNode, checks each message against what the owner pinned, and answers.

This process is small and long-lived, and reads no data. Nothing of the server's app bundle is unpacked or imported
here or anywhere on the device; what computes is the installed hushrec.client, in a worker process that is ended when it
has rested, so that its memory goes back.
"""

from __future__ import annotations

import hashlib
import logging
import signal
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime
from multiprocessing import get_context

from flwr.app import Error, Message

from hushrec.client.device.flower_runtime import Assignment, Runtime, Scalar, SuperNodeGone
from hushrec.client.device.folder import DeviceFolder
from hushrec.client.device.policy import MachineProbe, train_now
from hushrec.client.device.supernode import SuperNode
from hushrec.client.device.worker import answer_in_worker, end_with_launcher, refresh_in_worker
from hushrec.common.errors import HushrecError, ProtocolError
from hushrec.common.protocol import ERROR_CODE

log = logging.getLogger("hushrec.device")
POLL = 1.0  # seconds between questions for a message
REST = 120.0  # seconds after which an idle worker is ended
_DAY = 86_400


def run_device(folder: DeviceFolder) -> int:
    """Take part in the federation until SIGTERM or Ctrl-C.

    Returns:
        0; a message that is being answered then is not sent, and stays charged.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with SuperNode(folder) as node, Worker(folder) as worker:
        while not stop.is_set():
            runtime = Runtime(node.address, node.secret)
            try:
                while not stop.wait(POLL):
                    node.require_running()
                    _answer_next(folder, runtime, worker)
            except SuperNodeGone as error:
                _note(folder, "NOT_CONNECTED", str(error))
                node.start_again(stop)
            finally:
                runtime.close()
    return 0


def _answer_next(folder: DeviceFolder, runtime: Runtime, worker: Worker) -> None:
    with runtime.next() as assignment:
        if assignment is None:
            worker.rest()
            return
        reply = respond(folder, assignment, worker)
        assignment.answer(reply)
    if not reply.has_error():
        worker.refresh()


def respond(folder: DeviceFolder, assignment: Assignment, worker: Worker) -> Message:
    """The reply to one message: the worker's, or a refusal that is also noted for the owner."""
    try:
        check_app(assignment.app, folder.invitation.app_sha256)
        check_constants(assignment.run_config, folder.invitation.settings)
        _check_policy(folder)
        return worker.answer(assignment.message)
    except HushrecError as error:
        code = error.code if isinstance(error, ProtocolError) else "CLIENT_ERROR"
        _note(folder, code, str(error))
        return Message(Error(code=ERROR_CODE, reason=code), reply_to=assignment.message)


def _note(folder: DeviceFolder, code: str, detail: str) -> None:
    """For the owner, in `status` and in the log."""
    log.warning("%s: %s", code, detail)
    try:
        with folder.open_database() as database:
            database.add_refusal(code, detail)
    except HushrecError as error:  # a full disk, say: what is refused is refused all the same
        log.error("%s could not be noted: %s", code, error)


def check_app(app: bytes, pinned_sha256: str) -> None:
    """Refuse a bundle that is not, byte for byte, the pinned one (APP_CHANGED)."""
    found = hashlib.sha256(app).hexdigest()
    if found != pinned_sha256:
        raise ProtocolError(
            "APP_CHANGED", f"the server's app bundle has SHA-256 {found[:12]}..., pinned is {pinned_sha256[:12]}..."
        )


def check_constants(asked: Mapping[str, Scalar], pinned: Mapping[str, Scalar]) -> None:
    """Refuse a run whose settings are not exactly the pinned ones, unknown ones included (NOT_PINNED)."""
    for key in sorted(asked):
        if key not in pinned:
            raise ProtocolError("NOT_PINNED", f"the server sets {key!r}, which the invitation does not")
        if type(asked[key]) is not type(pinned[key]) or asked[key] != pinned[key]:
            raise ProtocolError("NOT_PINNED", f"the server asks for {key} = {asked[key]!r}, pinned is {pinned[key]!r}")
    if missing := sorted(set(pinned) - set(asked)):
        raise ProtocolError("NOT_PINNED", f"the server leaves out {missing[0]!r}")


def _check_policy(folder: DeviceFolder) -> None:
    with folder.open_database() as database:
        probe = MachineProbe(lambda: database.rounds_since(int(time.time()) - _DAY))
        if reason := train_now(folder.policy(), datetime.now(), probe):
            raise ProtocolError("NOT_NOW", reason)


class Worker:
    """The process that computes; started when it is needed, ended after a rest. A context manager."""

    def __init__(self, folder: DeviceFolder) -> None:
        self.folder = folder
        self._pool: ProcessPoolExecutor | None = None
        self._last = time.monotonic()

    def answer(self, message: Message) -> Message:
        """The reply that `answering.answer` makes.

        Raises:
            ProtocolError: the worker died, of hunger for memory, say (CLIENT_FAILED); what it paid stays paid.
        """
        if self._pool is None:
            # A fresh interpreter: this process has threads, and must stay free of what the worker loads.
            self._pool = ProcessPoolExecutor(1, get_context("spawn"), end_with_launcher)
        try:
            return self._pool.submit(answer_in_worker, str(self.folder.path), message).result()
        except BrokenProcessPool as error:
            self.end()
            raise ProtocolError("CLIENT_FAILED", "the worker process was ended from outside; out of memory?") from error
        finally:
            self._last = time.monotonic()

    def refresh(self) -> None:
        """Have `recommend`'s vectors follow the newest adapter, after the reply is sent."""
        if self._pool is not None:
            self._pool.submit(refresh_in_worker, str(self.folder.path))
            self._last = time.monotonic()

    def rest(self) -> None:
        """End the worker if it has had nothing to do for a while."""
        if self._pool is not None and time.monotonic() - self._last > REST:
            self.end()

    def end(self) -> None:
        """End it now; what it was computing is dropped."""
        if self._pool is not None:
            for process in list(self._pool._processes.values()):
                process.kill()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
