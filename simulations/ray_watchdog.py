"""The last to leave: a program that ends every process of a Ray run once the run itself is done, however it ended.

Flower and Ray start processes that outlive whoever started them. All of them work in the run's private folder, which is
how they are found; no other process is touched. It is started by simulations/ray_engine.py and imports nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path


def processes_in(folder: Path) -> list[int]:
    """Ids of this user's processes whose working folder is `folder` or below it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):  # another user's, or gone
            if Path(os.readlink(entry)).is_relative_to(folder):
                found.append(int(entry.parent.name))
    return found


def end_processes(folder: Path) -> None:
    """Return when no process works in `folder` any more."""
    while running := processes_in(folder):
        for number in running:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.05)


def main() -> None:
    """Wait until the pipe at stdin is closed, by its owner or by its owner's death; then clear the folder away."""
    folder = Path(sys.argv[1]).resolve()
    sys.stdin.read()
    end_processes(folder)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
