"""An in-process Flower grid: the unmodified ServerApp and ClientApp in one Python process, without Ray.

Messages are delivered in order and answered at once, so a run is reproducible. It is no distributed system: whoever
outgrows one machine uses Flower's own engines. All of flwr's private touch points are in this file.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

from flwr.app import Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from hushrec.common.errors import HushrecError
from hushrec.common.protocol import refusal

Scalar = str | int | float | bool
CohortHandler = Callable[[Sequence[Message], Sequence[Context]], list[Message]]
FIRST_NODE = 1


class InProcessGrid(Grid):
    """Calls `client_app` for every message, or a cohort handler for all messages of a type at once.

    Args:
        client_app: answers one message; whatever it raises becomes an error reply without its text.
        nodes: how many clients there are; node FIRST_NODE + p holds partition p.
        run_config: flat, as every context gets it.
        cohorts: message type -> handler that answers a list of messages, equal to answering them one by one.
    """

    def __init__(
        self,
        client_app: ClientApp,
        nodes: int,
        run_config: dict[str, Scalar],
        cohorts: dict[str, CohortHandler] | None = None,
    ) -> None:
        self.client_app, self.nodes, self.run_config = client_app, nodes, run_config
        self.cohorts = cohorts or {}
        self._states: dict[int, RecordDict] = {}
        self._pending: dict[str, Message] = {}
        self._numbers = itertools.count(1)
        self._run: Run | None = None
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, FIRST_NODE, 1

    def set_run(self, run: Run) -> None:
        """Remember the run; nothing here depends on it."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that was set.

        Raises:
            HushrecError: none was.
        """
        if self._run is None:
            raise HushrecError("no run was set on this grid")
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to one node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes; they are always there."""
        return list(range(FIRST_NODE, FIRST_NODE + self.nodes))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; `pull_messages` answers them."""
        numbered = [self._numbered(message) for message in messages]
        self._pending.update({message.metadata.message_id: message for message in numbered})
        return [message.metadata.message_id for message in numbered]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Answers to queued messages."""
        return self._answer([self._pending.pop(key) for key in message_ids if key in self._pending])

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Answers in the order of the messages; `timeout` has no meaning in one process."""
        return self._answer([self._numbered(message) for message in messages])

    def _numbered(self, message: Message) -> Message:
        message.metadata.__dict__["_message_id"] = f"message-{next(self._numbers)}"
        return message

    def _context(self, node: int) -> Context:
        return Context(
            run_id=1,
            node_id=node,
            node_config={"partition-id": node - FIRST_NODE, "num-partitions": self.nodes},
            state=self._states.setdefault(node, RecordDict()),
            run_config=self.run_config,
        )

    def _answer(self, messages: list[Message]) -> Iterable[Message]:
        kinds = {message.metadata.message_type for message in messages}
        contexts = [self._context(message.metadata.dst_node_id) for message in messages]
        if len(kinds) == 1 and (handler := self.cohorts.get(kinds.pop())) is not None:
            return handler(messages, contexts)
        return map(self._answer_one, messages, contexts)

    def _answer_one(self, message: Message, context: Context) -> Message:
        try:
            return self.client_app(message=message, context=context)
        except Exception as error:  # a client may fail in any way, and the round must go on
            return refusal(message, error)


TRAIN, QUERY = MessageType.TRAIN, MessageType.QUERY
