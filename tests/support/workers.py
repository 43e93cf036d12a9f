"""What a device's worker process may do in a test; importable in the process that is spawned."""

from __future__ import annotations

import os
import signal

from flwr.app import Message


def die(path: str, message: Message) -> Message:
    """Be killed, as for want of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    return message


def echo(path: str, message: Message) -> Message:
    """The message itself."""
    return message


def sign(path: str, message: Message) -> Message:
    """The message, named after this process."""
    message.metadata.__dict__["_message_id"] = str(os.getpid())
    return message
