"""The device's launcher as a process of its own, which outlives the terminal: started, watched over its first seconds.

`python -m hushrec.client.device.background DIR` is that process. What a launcher does is launcher.py's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hushrec.client.device import pids
from hushrec.client.device.folder import DeviceFolder, open_device_folder
from hushrec.common.errors import ConfigError, HushrecError

LAUNCHER, SUPERNODE = "launcher", "supernode"
LOG = "launcher.log"
START_SECONDS = 20.0  # until the process has to have said that it runs
STOP_SECONDS = 30.0
_PROGRAM = (sys.executable, "-m", "hushrec.client.device.background")


def run(folder: DeviceFolder) -> int:
    """Be this device's launcher until it ends; its exit status.

    Raises:
        ConfigError: the launcher runs already.
    """
    from hushrec.client.device.launcher import run_device

    with pids.only_one(folder.pids / LAUNCHER):
        return run_device(folder)


def start(folder: DeviceFolder, program: Sequence[str] = _PROGRAM) -> int:
    """Start the launcher in a session of its own, with its output in logs/; its process number.

    Raises:
        ConfigError: it runs already, it ended at once (with its last words), or this system has no /proc.
    """
    if not Path("/proc/self/stat").exists():
        raise ConfigError("starting in the background needs Linux; use --foreground under this system's own services")
    noted = folder.pids / LAUNCHER
    if pids.running(noted):
        raise ConfigError(f"this device's launcher runs already; see: hushrec client status {folder.path}")
    log = folder.logs / LOG
    begin = log.stat().st_size if log.exists() else 0
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as out:
        child = subprocess.Popen(
            [*program, str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while pids.running(noted) != child.pid and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if (code := child.poll()) is not None:
        words = log.read_bytes()[begin:].decode("utf-8", "replace").strip().splitlines()
        raise ConfigError(f"the launcher ended with status {code}: {words[-1] if words else 'it said nothing'}")
    child.returncode = 0  # it outlives this process, which need not wait for it
    return child.pid


def stop(folder: DeviceFolder) -> bool:
    """End the launcher, then a SuperNode that it left behind; False if nothing ran."""
    ended = [pids.end(folder.pids / name, STOP_SECONDS) for name in (LAUNCHER, SUPERNODE)]
    return any(ended)


def main() -> int:
    """Entry point of the background process: an expected failure is one line in the log."""
    try:
        return run(open_device_folder(Path(sys.argv[1])))
    except HushrecError as error:
        sys.stderr.write(f"error: {type(error).__name__}: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
