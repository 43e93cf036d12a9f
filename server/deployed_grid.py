"""Flower's grid of a deployed federation: it waits for enough devices, and mirrors the heads of their ledgers.

Everything above it (strategy, releases, rounds) is the same as in a simulation; it adds nothing up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from flwr.app import Error, Message
from flwr.serverapp import Grid

from hushrec.common.errors import HushrecError, ProtocolError
from hushrec.common.protocol import ERROR_CODE
from hushrec.common.signed_head import take_head
from hushrec.server.forwarding_grid import ForwardingGrid
from hushrec.server.ledger_mirror import LedgerMirror

log = logging.getLogger("hushrec.server")


class DeployedGrid(ForwardingGrid):
    """Flower's grid, with every reply's ledger head checked and taken off.

    Args:
        grid: of a SuperLink.
        mirror: None where devices keep no ledger (no privacy, or a trusted server).
        reply_timeout: seconds after which a round goes on without whoever has not answered.
    """

    def __init__(self, grid: Grid, mirror: LedgerMirror | None, reply_timeout: float) -> None:
        super().__init__(grid)
        self._mirror, self._reply_timeout = mirror, reply_timeout
        self._asked: dict[int, Message] = {}

    def wait_for_nodes(self, least: int, patience: float) -> None:
        """Return once `least` devices are online.

        Raises:
            HushrecError: they were not within `patience` seconds.
        """
        deadline = time.monotonic() + patience
        while (online := len(list(self._grid.get_node_ids()))) < least:
            if time.monotonic() > deadline:
                raise HushrecError(
                    f"only {online} of {least} devices came online within {patience:g} s; nothing was asked of them. "
                    "Start them, or run with --nodes"
                )
            time.sleep(0.5)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send, and wait for the answers, no longer than the federation's limit."""
        limit = min(timeout or self._reply_timeout, self._reply_timeout)
        return super().send_and_receive(messages, timeout=limit)

    def outgoing(self, message: Message) -> Message:
        """A message that nobody waits for any more must not cost a device that comes back its budget."""
        kept = message.metadata
        self._asked[kept.dst_node_id] = message
        ttl = self._reply_timeout
        return Message(message.content, kept.dst_node_id, kept.message_type, ttl=ttl, group_id=kept.group_id)

    def incoming(self, reply: Message) -> Message:
        """The reply without its head, or an error reply where the head is refused."""
        try:
            head = take_head(reply)
            if self._mirror is not None and not reply.has_error():
                self._mirror.take(reply.metadata.src_node_id, head)
        except ProtocolError as error:
            log.error("node %d: %s", reply.metadata.src_node_id, error)
            asked = self._asked[reply.metadata.src_node_id]
            return Message(Error(code=ERROR_CODE, reason=error.code), reply_to=asked)
        return reply
