"""Files that say which process of a device runs, told from a later process that got the same number by its start time.

They start nothing; a file whose process is gone means that nothing runs.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hushrec.common.errors import ConfigError

_STARTED = 19  # of the fields after the name in /proc/PID/stat: start in clock ticks since boot


def record(path: Path, pid: int) -> None:
    """Note that `pid` runs; the file is whole or as before."""
    partial = path.with_name(f"{path.name}.new")
    partial.write_text(json.dumps({"pid": pid, "started": _started(pid), "boot": _boot()}), encoding="ascii")
    os.replace(partial, path)


def running(path: Path) -> int:
    """The noted process if it still runs, else 0; a zombie counts as ended."""
    try:
        noted = json.loads(path.read_bytes())
        pid, started, boot = int(noted["pid"]), noted["started"], noted["boot"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return pid if started and (started, boot) == (_started(pid), _boot()) else 0


def end(path: Path, seconds: float) -> bool:
    """Ask the noted process to end, then end it after `seconds`; False if none runs.

    Guarantees:
        - a process that got the same number later is never signalled.
    """
    if not (pid := running(path)):
        return False
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if running(path) == pid:  # the handle is of that process: none other can take its number while it is held
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGTERM)
                deadline = time.monotonic() + seconds
                while running(path) == pid and time.monotonic() < deadline:
                    time.sleep(0.05)
                if running(path) == pid:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    while running(path) == pid:
                        time.sleep(0.05)
    finally:
        os.close(handle)
    path.unlink(missing_ok=True)
    return True


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Be the one process that this file is for until the block is left; the system lets go of it at any end.

    Raises:
        ConfigError: another process is.
    """
    lock = FileLock(f"{path}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigError(f"this device's {path.name} runs already; end it with: hushrec client stop DIR") from error
    try:
        record(path, os.getpid())
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def _started(pid: int) -> str:
    """When a process started, "" if there is none or it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[_STARTED]


def _boot() -> str:
    """Which run of the system this is: numbers and start times begin anew with the next."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""
