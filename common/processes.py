"""Processes named by id and start time, so that a recycled id is never taken for the process that had it before.

It reads /proc, so it needs Linux; what the processes are is for whoever asks.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One process of this boot of this machine.

    Attributes:
        pid: its id, which another process may have later.
        started: boot and clock tick of its start; the two together belong to it alone.
    """

    pid: int
    started: str

    @classmethod
    def find(cls, pid: int) -> Process | None:
        """The process that has this id now; a zombie counts as ended."""
        try:
            fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        if fields[0] in "ZX":
            return None
        return cls(pid, f"{_boot()}/{fields[19]}")  # field 22 of stat(5)

    def lives(self) -> bool:
        """Whether this very process still runs."""
        return Process.find(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """Signal it, unless it is gone; never the process that has its id now."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.lives():  # checked while the handle keeps the id's meaning
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def end(process: Process, patience: float) -> None:
    """Ask it to end; after `patience` seconds, make it."""
    process.send(signal.SIGTERM)
    if not wait_until(lambda: not process.lives(), patience):
        process.send(signal.SIGKILL)
        wait_until(lambda: not process.lives(), 5.0)


def processes_in(folder: Path) -> list[Process]:
    """This user's processes whose working folder is `folder`."""
    found = []
    for entry in PROC.glob("[0-9]*/cwd"):
        with suppress(OSError):  # another user's, or gone
            if Path(os.readlink(entry)) == folder.resolve() and int(entry.parent.name) != os.getpid():
                found.append(Process.find(int(entry.parent.name)))
    return [process for process in found if process]


def command_of(process: Process) -> str:
    """Its command line, words parted by spaces; empty once it is gone."""
    try:
        return (PROC / str(process.pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def end_all_in(folder: Path) -> None:
    """Return when no process works in `folder` any more; Flower's parts leave some behind."""
    deadline = time.monotonic() + 20
    while (running := processes_in(folder)) and time.monotonic() < deadline:
        for process in running:
            process.send(signal.SIGKILL)
        time.sleep(0.05)


def wait_until(condition: Callable[[], bool], seconds: float, interval: float = 0.05) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(interval)
    return met


@lru_cache(maxsize=1)
def _boot() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()
