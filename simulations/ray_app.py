"""The ServerApp that Flower's Ray engine loads: hushrec's own, on a grid that names its nodes as they are in process.

It trains nothing itself. Flower gives simulated nodes new random ids at every start, so without the numbers a resumed
run would take its turns in another order, and some clients would pay for rounds that were not theirs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from datetime import datetime

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from hushrec.common.errors import HushrecError
from hushrec.server.app import app as server_app
from hushrec.simulations.grid import Run

NODES = "HUSHREC_NODES"  # environment variable: how many clients simulations/ray_engine.py asked Flower for

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Wait for every node, then run the unmodified ServerApp."""
    server_app(grid=NumberedGrid(grid, int(os.environ[NODES])), context=context)


class NumberedGrid(Grid):
    """Flower's grid with the nodes renamed 1..n in the order of their partitions.

    Args:
        grid: of a simulation; its nodes register in the order of their partitions.
        nodes: how many there will be; they may still be registering.
    """

    def __init__(self, grid: Grid, nodes: int, patience: float = 120.0) -> None:
        self._grid = grid
        deadline = time.monotonic() + patience
        while len(found := list(grid.get_nodes())) < nodes:
            if time.monotonic() > deadline:
                raise HushrecError(f"only {len(found)} of {nodes} nodes came within {patience:g} s; resume the run")
            time.sleep(0.05)
        found.sort(key=lambda node: datetime.fromisoformat(node.registered_at))
        self._nodes: list[int] = [node.node_id for node in found]
        self._asked: dict[int, Message] = {}

    def set_run(self, run: Run) -> None:
        """Pass the run on."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run of Flower's grid."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to one node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """1..n."""
        return range(1, len(self._nodes) + 1)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send without waiting."""
        return self._grid.push_messages([self._addressed(message) for message in messages])

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """What has been answered so far."""
        return [self._numbered(reply) for reply in self._grid.pull_messages(message_ids)]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send, and wait for the answers."""
        addressed = [self._addressed(message) for message in messages]
        return [self._numbered(reply) for reply in self._grid.send_and_receive(addressed, timeout=timeout)]

    def _addressed(self, message: Message) -> Message:
        kept = message.metadata
        node = self._nodes[kept.dst_node_id - 1]
        self._asked[node] = message
        return Message(message.content, node, kept.message_type, ttl=kept.ttl, group_id=kept.group_id)

    def _numbered(self, reply: Message) -> Message:
        asked = self._asked.get(reply.metadata.src_node_id)
        if asked is None:  # an error of the link names no node
            return reply
        if reply.has_error():
            return Message(reply.error, reply_to=asked)
        return Message(reply.content, reply_to=asked)
