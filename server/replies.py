"""The replies of one round: every asked client is heard once, whatever else arrives is counted and dropped.

It reads and checks; it adds nothing up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from flwr.app import Message

from hushrec.common.errors import ProtocolError
from hushrec.common.protocol import Update


class Inbox:
    """What the clients that were asked have answered so far.

    Attributes:
        refused: code -> replies that were errors or were not accepted; NO_REPLY once for each client that never
            answered, UNEXPECTED_REPLY for a second answer and for one that nobody asked for.
    """

    def __init__(self, nodes: Iterable[int]) -> None:
        self.refused: Counter[str] = Counter()
        self._waiting = set(nodes)

    def updates(
        self, replies: Iterable[Message], read: Callable[[Message], Update]
    ) -> Iterator[tuple[Message, Update]]:
        """The acceptable replies as they arrive; no reply is kept.

        Args:
            read: checks one reply and raises ProtocolError where it is not acceptable.
        """
        errors = 0
        for message in replies:
            # An error reply may come from the link instead of the client, so it names no node to wait for.
            if message.has_error():
                errors += 1
            elif message.metadata.src_node_id in self._waiting:
                self._waiting.discard(message.metadata.src_node_id)
            else:
                self.refused["UNEXPECTED_REPLY"] += 1
                continue
            try:
                update = read(message)
            except ProtocolError as error:
                self.refused[error.code] += 1
                continue
            yield message, update
        if (silent := len(self._waiting) - errors) > 0:
            self.refused["NO_REPLY"] += silent
