"""Files that say which process of a device runs, told from a later process that got the same number by its start time.

They start nothing; a file whose process is gone means that nothing runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hushrec.common import processes
from hushrec.common.errors import ConfigError
from hushrec.common.files import replace_file
from hushrec.common.processes import Process


def record(path: Path, pid: int) -> None:
    """Note that `pid` runs; the file is whole or as before."""
    process = Process.find(pid)
    noted = {"pid": pid, "started": process.started if process else ""}
    replace_file(path, json.dumps(noted).encode("ascii"))


def running(path: Path) -> int:
    """The noted process if it still runs, else 0; a zombie counts as ended."""
    process = _noted(path)
    return process.pid if process is not None and process.lives() else 0


def end(path: Path, seconds: float) -> bool:
    """Ask the noted process to end, then end it after `seconds`; False if none runs.

    Guarantees:
        - a process that got the same number later is never signalled.
    """
    process = _noted(path)
    if process is None or not process.lives():
        return False
    processes.end(process, seconds)
    path.unlink(missing_ok=True)
    return True


def _noted(path: Path) -> Process | None:
    try:
        noted = json.loads(path.read_bytes())
        return Process(int(noted["pid"]), str(noted["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
