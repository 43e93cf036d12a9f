"""The in-process grid: Flower's contract of a grid, in order, with a state for each node and no exception text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from hushrec.common.errors import HushrecError, ProtocolError
from hushrec.common.protocol import ERROR_CODE
from hushrec.simulations.grid import FIRST_NODE, QUERY, TRAIN, InProcessGrid

SECRET = "Alice watched Titanic"
app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer with the node's number and how often it was asked."""
    number = int(context.node_config["partition-id"])
    if number == 3:
        raise ValueError(SECRET)
    if number == 4:
        raise ProtocolError("BAD_REQUEST", SECRET)
    record = context.state.metric_records.get("asked", MetricRecord({"times": 0}))
    record["times"] = int(record["times"]) + 1  # type: ignore[arg-type]
    context.state["asked"] = record
    answer = MetricRecord({"partition": number, "times": record["times"], "node": context.node_id})
    return Message(RecordDict({"answer": answer}), reply_to=message)


@pytest.fixture
def grid() -> InProcessGrid:
    return InProcessGrid(app, 6, {"data.name": "synthetic"})


def ask(grid: InProcessGrid, *nodes: int, kind: str = MessageType.TRAIN) -> list[Message]:
    content = RecordDict({"config": ConfigRecord({"x": 1})})
    return list(grid.send_and_receive([Message(content, node, kind) for node in nodes]))


def answer(message: Message) -> dict[str, Any]:
    return dict(message.content["answer"])  # type: ignore[arg-type]


def test_answers_come_in_the_order_of_the_messages_from_the_partition_of_the_node(grid: InProcessGrid) -> None:
    assert list(grid.get_node_ids()) == [FIRST_NODE + partition for partition in range(6)]
    answers = ask(grid, 6, 1, 3)
    assert [answer(message)["partition"] for message in answers] == [5, 0, 2]
    assert [message.metadata.src_node_id for message in answers] == [6, 1, 3]


def test_each_node_keeps_a_state_of_its_own_between_messages(grid: InProcessGrid) -> None:
    ask(grid, 1, 2)
    ask(grid, 1)
    assert [answer(message)["times"] for message in ask(grid, 1, 2, 3)] == [3, 2, 1]


def test_replies_name_the_message_they_answer_and_no_two_messages_share_a_name(grid: InProcessGrid) -> None:
    messages = [Message(RecordDict(), node, MessageType.TRAIN) for node in (1, 2, 3)]
    answers = list(grid.send_and_receive(messages))
    named = [message.metadata.message_id for message in messages]
    assert [reply.metadata.reply_to_message_id for reply in answers] == named
    assert len(set(named)) == 3


def test_an_exception_becomes_an_error_reply_without_its_text_and_the_others_answer(grid: InProcessGrid) -> None:
    first, broken, refused, last = ask(grid, 1, 4, 5, 6)
    assert [answer(message)["partition"] for message in (first, last)] == [0, 5]
    assert [(m.error.code, m.error.reason) for m in (broken, refused)] == [
        (ERROR_CODE, "CLIENT_FAILED"),
        (ERROR_CODE, "BAD_REQUEST"),
    ]
    assert all(SECRET not in str(message) for message in (broken, refused))
    assert not broken.has_content()


def test_a_message_type_without_handler_is_an_error_reply(grid: InProcessGrid) -> None:
    (reply,) = ask(grid, 1, kind=MessageType.EVALUATE)
    assert reply.has_error()


def test_an_interrupt_is_not_an_answer(grid: InProcessGrid) -> None:
    stopping = ClientApp()

    @stopping.train()
    def stop(message: Message, context: Context) -> Message:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(InProcessGrid(stopping, 2, {}), 1)


def test_a_cohort_handler_gets_all_messages_of_its_type_at_once_with_their_contexts() -> None:
    calls: list[list[int]] = []

    def together(messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
        calls.append([int(context.node_config["partition-id"]) for context in contexts])
        assert all(dict(context.run_config) == {"data.name": "synthetic"} for context in contexts)
        assert all(context.node_config["num-partitions"] == 6 for context in contexts)
        return [train(message, context) for message, context in zip(messages, contexts, strict=True)]

    grid = InProcessGrid(app, 6, {"data.name": "synthetic"}, {TRAIN: together})
    one_by_one = InProcessGrid(app, 6, {"data.name": "synthetic"}, {QUERY: together})
    for nodes in ((2, 1), (1, 3)):
        left, right = ask(grid, *nodes), ask(one_by_one, *nodes)
        assert [answer(message) for message in left] == [answer(message) for message in right]
    assert calls == [[1, 0], [0, 2]]


def test_no_messages_have_no_answers() -> None:
    def never(messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
        pytest.fail("there is nothing to handle")

    assert ask(InProcessGrid(app, 2, {}, {TRAIN: never})) == []


def test_pushed_messages_are_answered_when_they_are_pulled_and_once(grid: InProcessGrid) -> None:
    pushed = list(grid.push_messages([Message(RecordDict(), node, MessageType.TRAIN) for node in (3, 1, 2)]))
    assert [answer(m)["partition"] for m in grid.pull_messages(pushed[1:])] == [0, 1]
    assert [answer(m)["partition"] for m in grid.pull_messages(pushed)] == [2]
    assert list(grid.pull_messages([*pushed, "message-999"])) == []


def test_a_message_that_it_creates_is_answered(grid: InProcessGrid) -> None:
    made = grid.create_message(RecordDict(), MessageType.TRAIN, 2, "group", ttl=5.0)
    assert made.metadata.group_id == "group"
    (reply,) = grid.send_and_receive([made])
    assert answer(reply)["node"] == 2


def test_the_run_is_what_was_set_and_asking_for_none_is_an_error(grid: InProcessGrid) -> None:
    with pytest.raises(HushrecError, match="no run"):
        _ = grid.run
    marker: Any = object()
    grid.set_run(marker)
    assert grid.run is marker
