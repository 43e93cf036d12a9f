"""Entry points of a device's worker process; it computes nothing, and imports what does when a message comes."""

from __future__ import annotations

import ctypes
import os
import signal

from flwr.app import Message

_PR_SET_PDEATHSIG = 1  # prctl.h


def end_with_launcher() -> None:
    """Called first in a child of the launcher: leave Ctrl-C to it, and end when it ends, however that happens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):  # not Linux: the pool's pipe ends the worker after its present work
        return
    if os.getppid() == 1:  # the launcher was gone before
        os._exit(1)


def answer_in_worker(path: str, message: Message) -> Message:
    """`answering.answer`."""
    from hushrec.client.device.answering import answer

    return answer(path, message)


def refresh_in_worker(path: str) -> None:
    """`answering.refresh`."""
    from hushrec.client.device.answering import refresh

    refresh(path)
