"""A Flower grid on top of another: the same messages, changed on their way out and back as a subclass says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid


class ForwardingGrid(Grid):
    """Passes everything on.

    Args:
        grid: Flower's own.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def outgoing(self, message: Message) -> Message:
        """The message that is really sent."""
        return message

    def incoming(self, reply: Message) -> Message:
        """The reply that is seen."""
        return reply

    def set_run(self, run: Any) -> None:
        """Pass the run on."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """The run of Flower's grid."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to one node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes that are online."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send without waiting."""
        return self._grid.push_messages([self.outgoing(message) for message in messages])

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """What has been answered so far."""
        return [self.incoming(reply) for reply in self._grid.pull_messages(message_ids)]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send, and wait for the answers."""
        sent = [self.outgoing(message) for message in messages]
        return [self.incoming(reply) for reply in self._grid.send_and_receive(sent, timeout=timeout)]
