"""The parts of flwr that are not public and that the in-process grid needs: they exist and behave as it assumes."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from unittest.mock import patch

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity


def test_the_pinned_flower_is_installed() -> None:
    assert version("flwr").startswith("1.41.")


def test_the_identity_of_the_process_can_be_set_and_signs_messages() -> None:
    with patch.multiple(TaskIdentity, _run_id=7, _node_id=11, _task_id=13):
        message = Message(RecordDict(), 5, MessageType.TRAIN)
    assert (message.metadata.run_id, message.metadata.src_node_id, message.metadata.dst_node_id) == (7, 11, 5)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 2, 3
    assert (TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id) == (1, 2, 3)


@pytest.fixture
def message() -> Message:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    return Message(RecordDict({"config": ConfigRecord({"x": 1})}), 5, MessageType.TRAIN)


def test_a_message_takes_the_name_that_is_written_into_its_metadata(message: Message) -> None:
    assert message.metadata.message_id == ""
    message.metadata.__dict__["_message_id"] = "message-1"
    assert message.metadata.message_id == "message-1"
    reply = Message(RecordDict(), reply_to=message)
    assert reply.metadata.reply_to_message_id == "message-1"
    assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (5, 1)


def test_an_error_reply_carries_its_code_and_reason_and_no_content(message: Message) -> None:
    message.metadata.__dict__["_message_id"] = "message-1"
    reply = Message(Error(code=2, reason="NOT_FINITE"), reply_to=message)
    assert reply.has_error()
    assert not reply.has_content()
    assert (reply.error.code, reply.error.reason) == (2, "NOT_FINITE")


def test_the_abstract_grid_asks_for_exactly_what_the_in_process_grid_gives() -> None:
    assert Grid.__abstractmethods__ == {
        *("create_message", "get_node_ids", "push_messages", "pull_messages", "send_and_receive"),
        *("run", "set_run"),
    }
    parameters = inspect.signature(Grid.create_message).parameters
    assert list(parameters) == ["self", "content", "message_type", "dst_node_id", "group_id", "ttl"]
    assert list(inspect.signature(Grid.send_and_receive).parameters) == ["self", "messages", "timeout"]
    assert isinstance(Run, type)


def test_apps_are_called_with_keywords_and_pass_exceptions_on(message: Message) -> None:
    message.metadata.__dict__["_message_id"] = "message-1"
    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        raise ZeroDivisionError

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        raise KeyboardInterrupt

    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    with pytest.raises(ZeroDivisionError):
        client(message=message, context=context)
    with pytest.raises(KeyboardInterrupt):
        server(grid=None, context=context)  # type: ignore[arg-type]


def test_the_strategy_loop_calls_the_hooks_that_rounds_rely_on() -> None:
    """Round 0 is evaluated first; without a new adapter the old one is evaluated again; replies are not touched."""
    seen: list[tuple[str, int]] = []

    class Recorder(Strategy):
        def configure_train(self, server_round, arrays, config, grid):  # type: ignore[no-untyped-def]
            seen.append(("configure", server_round))
            return []

        def aggregate_train(self, server_round, replies):  # type: ignore[no-untyped-def]
            assert replies is marker
            return (ArrayRecord(), MetricRecord()) if server_round == 2 else (None, None)

        def configure_evaluate(self, server_round, arrays, config, grid):  # type: ignore[no-untyped-def]
            return []

        def aggregate_evaluate(self, server_round, replies):  # type: ignore[no-untyped-def]
            return None

        def summary(self) -> None:
            return None

    marker: list[Message] = []

    class Nobody:
        def send_and_receive(self, messages: object, *, timeout: float) -> list[Message]:
            assert list(messages) == []  # type: ignore[call-overload]
            return marker

    first = ArrayRecord()

    def evaluate(server_round: int, arrays: ArrayRecord) -> None:
        seen.append(("first" if arrays is first else "new", server_round))

    Recorder().start(Nobody(), first, num_rounds=2, evaluate_fn=evaluate)  # type: ignore[arg-type]
    assert seen == [("first", 0), ("configure", 1), ("first", 1), ("configure", 2), ("new", 2)]
    seen.clear()
    Recorder().start(Nobody(), first, num_rounds=0, evaluate_fn=evaluate)  # type: ignore[arg-type]
    assert seen == [("first", 0)]
