"""The Runtime API of a SuperNode: what `flower-superexec` and `flwr-clientapp` do between them, without the app bundle.

The bundle's bytes are handed on to be compared with the pinned hash; nothing of them is unpacked, installed or
imported. All of flwr's private touch points of a device are in this file.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
from flwr.app import Message, RecordDict
from flwr.common.constant import SubStatus
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    fab_from_proto,
    recorddict_from_proto,
    recorddict_to_proto,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictMessage
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime.run_clientapp import push_message

from hushrec.common.errors import HushrecError

_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_BEAT = 20.0  # seconds; a task whose process is silent for 30 counts as dead
Scalar = str | int | float | bool


class SuperNodeGone(HushrecError):
    """The SuperNode does not answer; start it again."""


@dataclass(frozen=True, eq=False)
class Assignment:
    """One message for this device.

    Attributes:
        message: with its content.
        run_config: the constants that the server gave its run, flat.
        app: bytes of the app bundle, as they came.
    """

    message: Message
    run_config: dict[str, Scalar]
    app: bytes
    _client: RuntimeHttpClient
    _context: Any

    def answer(self, reply: Message) -> None:
        """Hand the reply to the SuperNode, which sends it.

        Raises:
            SuperNodeGone: it cannot be handed over.
        """
        with _reachable():
            push_message(self._client, reply, self._context)
            self._client.PushTaskOutput(
                PushTaskOutputRequest(context=context_to_proto(self._context), sub_status=SubStatus.COMPLETED)
            )


class Runtime:
    """A SuperNode on this machine.

    Args:
        address: "127.0.0.1:port" of its Runtime API.
        secret: what it was started with; nobody else on this machine gets a message without it.
    """

    def __init__(self, address: str, secret: bytes) -> None:
        self.address = address
        signing = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={_ACQUIRE})
        self._client = self._connect(signing)

    @contextmanager
    def next(self) -> Iterator[Assignment | None]:
        """The oldest message that waits, or None; while the block lasts, the SuperNode is told that it is worked on.

        Raises:
            SuperNodeGone: it does not answer.
        """
        with _reachable():
            # Apps of other kinds are not asked for, so a server cannot have them run here.
            request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
            acquired = self._client.AcquireTask(request)
        if not (acquired.HasField("task") and acquired.token):
            yield None
            return
        client = self._connect(RuntimeTokenHttpInterceptor(acquired.token))
        over = threading.Event()
        beating = threading.Thread(target=_beat, args=(client, over), daemon=True)
        beating.start()
        try:
            with _reachable():
                assignment = _pull(client)
            yield assignment
        finally:
            over.set()
            beating.join()
            client.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def _connect(self, interceptor: SuperExecAuthHttpInterceptor | RuntimeTokenHttpInterceptor) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            server_address=self.address,
            insecure=True,  # loopback
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), interceptor],
        )


def content_to_bytes(content: RecordDict) -> bytes:
    """A message's content as Flower's own protobuf, for the outbox."""
    return bytes(recorddict_to_proto(content).SerializeToString())


def content_from_bytes(data: bytes) -> RecordDict:
    """What `content_to_bytes` was given."""
    return recorddict_from_proto(RecordDictMessage.FromString(data))


def _pull(client: RuntimeHttpClient) -> Assignment:
    given = client.PullTaskInput(PullTaskInputRequest())
    # Replies are made for this identity.
    TaskIdentity.task_id, TaskIdentity.run_id = given.task_id, given.run.run_id
    TaskIdentity.node_id = given.context.node_id
    context = context_from_proto(given.context)
    pulled = client.PullMessages(PullAppMessagesRequest())
    if not pulled.messages_list:
        raise SuperNodeGone("the SuperNode gave a task without a message")
    tree, node = pulled.message_object_trees[0], Node(node_id=context.node_id)
    message = pull_and_inflate_object_from_tree(
        tree,
        make_pull_object_fn_protobuf(client.PullObject, node, context.run_id),
        make_confirm_message_received_fn_protobuf(client.ConfirmMessageReceived, node, context.run_id),
        return_type=Message,
    )
    message.metadata.__dict__["_message_id"] = tree.object_id  # not part of what travels
    scalars = {key: value for key, value in context.run_config.items() if not isinstance(value, bytes)}
    return Assignment(message, scalars, fab_from_proto(given.fab).content, client, context)


def _beat(client: RuntimeHttpClient, over: threading.Event) -> None:
    while not over.wait(_BEAT):
        with suppress(httpx.HTTPError):  # a task that was given up meanwhile is noticed when its answer is refused
            client.SendTaskHeartbeat(SendTaskHeartbeatRequest())


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise SuperNodeGone(f"the SuperNode does not answer: {type(error).__name__}") from error
