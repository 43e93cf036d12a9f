"""The ServerApp that Flower's Ray engine loads: hushrec's own, on a grid that names its nodes as they are in process.

It trains nothing itself. Flower gives simulated nodes new random ids at every start, so without the numbers a resumed
run would take its turns in another order, and some clients would pay for rounds that were not theirs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from datetime import datetime

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from hushrec.common.errors import HushrecError
from hushrec.server.app import app as server_app
from hushrec.server.forwarding_grid import ForwardingGrid

NODES = "HUSHREC_NODES"  # environment variable: how many clients simulations/ray_engine.py asked Flower for

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Wait for every node, then run the unmodified ServerApp."""
    server_app(grid=NumberedGrid(grid, int(os.environ[NODES])), context=context)


class NumberedGrid(ForwardingGrid):
    """Flower's grid with the nodes renamed 1..n in the order of their partitions.

    Args:
        grid: of a simulation; its nodes register in the order of their partitions.
        nodes: how many there will be; they may still be registering.
    """

    def __init__(self, grid: Grid, nodes: int, patience: float = 120.0) -> None:
        super().__init__(grid)
        deadline = time.monotonic() + patience
        while len(found := list(grid.get_nodes())) < nodes:
            if time.monotonic() > deadline:
                raise HushrecError(f"only {len(found)} of {nodes} nodes came within {patience:g} s; resume the run")
            time.sleep(0.05)
        found.sort(key=lambda node: datetime.fromisoformat(node.registered_at))
        self._nodes: list[int] = [node.node_id for node in found]
        self._asked: dict[int, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        """1..n."""
        return range(1, len(self._nodes) + 1)

    def outgoing(self, message: Message) -> Message:
        """The same message to the node that Flower knows."""
        kept = message.metadata
        node = self._nodes[kept.dst_node_id - 1]
        self._asked[node] = message
        return Message(message.content, node, kept.message_type, ttl=kept.ttl, group_id=kept.group_id)

    def incoming(self, reply: Message) -> Message:
        """The same reply from the node as it is called here."""
        asked = self._asked.get(reply.metadata.src_node_id)
        if asked is None:  # an error of the link names no node
            return reply
        if reply.has_error():
            return Message(reply.error, reply_to=asked)
        return Message(reply.content, reply_to=asked)
