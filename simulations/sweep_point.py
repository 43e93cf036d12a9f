"""One point of a sweep: `hushrec` in a process that interrupts itself when the sweep that started it is gone.

    python -m hushrec.simulations.sweep_point simulate EXPERIMENT --out DIR

It computes nothing. Its standard input is a pipe that nobody writes to and that closes with the sweep, however that
ends; a point left behind would hold its run's lock against the sweep that takes it up again.
"""

from __future__ import annotations

import os
import signal
import sys
import threading


def _end_with_the_sweep() -> None:
    os.read(0, 1)  # not sys.stdin: its lock, held by a thread, aborts the interpreter at its end
    os.kill(os.getpid(), signal.SIGINT)


def main() -> None:
    """Watch the pipe, then be the command line."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a sweep in the background is born ignoring it
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    try:
        from hushrec.simulations import cli
    except KeyboardInterrupt:
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
