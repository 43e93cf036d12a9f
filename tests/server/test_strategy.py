"""Aggregation under every kind of reply a server can get, and whose turn it is."""

from __future__ import annotations

import io
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import given, settings
from hypothesis import strategies as st

from hushrec.common.budget import most_participations
from hushrec.common.protocol import CODES, ERROR_CODE, Arrays, Update, pack, read_train, reply, unpack
from hushrec.common.settings import ServerConfig
from hushrec.server.optimizer import ServerOptimizer
from hushrec.server.strategy import AdapterStrategy, choose_nodes
from hushrec.simulations.grid import InProcessGrid

SHAPES = {"encoder.core": (2, 3), "mix.weight": (1, 2)}
PRIOR = np.zeros(5, dtype=np.float32)
PLAIN = ServerConfig(optimizer="fedavg", learning_rate=1.0, head_learning_rate=1.0)
START: Arrays = {name: np.full(shape, 0.5, dtype=np.float32) for name, shape in SHAPES.items()}
Client = Callable[[Message], Message]


def constant(value: float) -> Arrays:
    return {name: np.full(shape, value, dtype=np.float32) for name, shape in SHAPES.items()}


def good(value: float, clients: int = 1, examples: int = 1) -> Client:
    def answer(message: Message) -> Message:
        answered = reply(message, Update(constant(value), clients), "float32")
        answered.content["metrics"]["num-examples"] = examples  # type: ignore[index]
        return answered

    return answer


def content(record: ArrayRecord, **metrics: object) -> Client:
    numbers = {"num-examples": 1, "num-clients": 1} | metrics

    def answer(message: Message) -> Message:
        body = RecordDict({"update": record, "metrics": MetricRecord(numbers)})  # type: ignore[arg-type]
        return Message(body, reply_to=message)

    return answer


def arrays(**changes: np.ndarray | None) -> ArrayRecord:
    """The record of a good reply with some arrays replaced, added or (None) left out."""
    values = {**constant(1.0), **{name.replace("_", "."): value for name, value in changes.items()}}
    return ArrayRecord({name: Array(value) for name, value in values.items() if value is not None})


def raw(data: bytes) -> ArrayRecord:
    return ArrayRecord({**arrays(), "mix.weight": Array("float32", (1, 2), "numpy.ndarray", data)})


def saved(value: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=True)
    return buffer.getvalue()


def error(reason: str) -> Client:
    return lambda message: Message(Error(code=ERROR_CODE, reason=reason), reply_to=message)


def with_field(name: str) -> Client:
    def answer(message: Message) -> Message:
        answered = good(1.0)(message)
        answered.content[name] = ConfigRecord({"text": "Alice watched Titanic"})
        return answered

    return answer


def values(*numbers: float) -> np.ndarray:
    return np.array([numbers], dtype=np.float32)


BAD: dict[str, tuple[Client, str]] = {
    "a NaN": (content(arrays(mix_weight=values(np.nan, 0))), "NOT_FINITE"),
    "an infinity": (content(arrays(mix_weight=values(0, -np.inf))), "NOT_FINITE"),
    "a wrong shape": (content(arrays(mix_weight=np.ones((2, 1), np.float32))), "WRONG_SHAPE"),
    "a shape that broadcasts": (content(arrays(mix_weight=np.ones((1, 1), np.float32))), "WRONG_SHAPE"),
    "a missing tensor": (content(arrays(mix_weight=None)), "WRONG_SHAPE"),
    "an additional tensor": (content(arrays(more=values(1, 1))), "WRONG_SHAPE"),
    "another name": (content(arrays(mix_weight=None, mix_bias=values(1, 1))), "WRONG_SHAPE"),
    "another type": (content(arrays(mix_weight=np.ones((1, 2), np.float64))), "WRONG_TYPE"),
    "pickled objects": (content(raw(saved(np.array([[{}, {}]], dtype=object)))), "OVERSIZED"),
    "another array than its header says": (content(raw(saved(np.ones((2, 1), np.float32)))), "WRONG_SHAPE"),
    "bytes that are no array": (content(raw(b"\x93NUMPY" + b"\xff" * 60)), "WRONG_SHAPE"),
    "far too many bytes": (content(raw(b"x" * 100_000)), "OVERSIZED"),
    "a huge entry": (content(arrays(mix_weight=values(1e5, 0))), "OVERSIZED"),
    "an unknown field": (with_field("notes"), "UNKNOWN_FIELD"),
    "an unknown metric": (content(arrays(), loss=0.1), "UNKNOWN_FIELD"),
    "nothing": (lambda message: Message(RecordDict(), reply_to=message), "UNKNOWN_FIELD"),
    "its number of examples": (good(1.0, examples=900), "BAD_COUNT"),
    "several clients' weight": (good(900.0, clients=4), "BAD_COUNT"),
    "a negative weight": (good(1.0, clients=-1), "BAD_COUNT"),
    "an update of no client": (content(arrays(), **{"num-clients": 0}), "BAD_COUNT"),
    "a fractional weight": (content(arrays(), **{"num-clients": 0.5}), "BAD_COUNT"),
    "a known refusal": (error("BUDGET_EXHAUSTED"), "BUDGET_EXHAUSTED"),
    "a refusal with text": (error("ValueError: Alice watched Titanic"), "CLIENT_FAILED"),
}


class Link(InProcessGrid):
    """A grid whose clients are given functions, and that may lose or repeat their answers."""

    def __init__(self, clients: list[Client], copies: dict[int, int] | None = None) -> None:
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            return clients[int(context.node_config["partition-id"])](message)

        super().__init__(app, len(clients), {})
        self.copies = copies or {}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        for answer in super().send_and_receive(messages):
            yield from [answer] * self.copies.get(answer.metadata.src_node_id, 1)


def strategy(**changes: object) -> AdapterStrategy:
    settings: dict[str, object] = {"clients_per_round": 0, "wire": "float32", "seed": 3} | changes
    return AdapterStrategy(SHAPES, ServerOptimizer(PLAIN, 1), PRIOR, **settings)  # type: ignore[arg-type]


def one_round(grid: InProcessGrid, made: AdapterStrategy | None = None) -> tuple[Arrays, AdapterStrategy]:
    """What the adapter moved by in one round, driven by Flower."""
    made = made or strategy()
    result = made.start(grid, pack(START, "float32"), num_rounds=1)
    after = unpack(result.arrays, SHAPES) if len(result.arrays) else START
    return {name: after[name] - START[name] for name in SHAPES}, made


def assert_moved(moved: Arrays, value: float) -> None:
    for name, shape in SHAPES.items():
        np.testing.assert_allclose(moved[name], np.full(shape, value), rtol=1e-6)


def test_the_adapter_moves_by_the_plain_mean_of_the_updates() -> None:
    moved, made = one_round(Link([good(1.0), good(2.0), good(6.0)]))
    assert_moved(moved, 3.0)
    assert (made.traffic.asked, made.traffic.answered) == (3, 3)
    assert not made.traffic.refused


@pytest.mark.parametrize("kind", BAD)
def test_a_reply_with(kind: str) -> None:
    """... is refused and counted by its code, and the round goes on with the mean of the others."""
    client, code = BAD[kind]
    moved, made = one_round(Link([good(1.0), client, good(3.0)]))
    assert_moved(moved, 2.0)
    assert made.traffic.answered == 2
    assert made.traffic.refused == {code: 1}


def test_every_refused_word_is_a_fixed_one() -> None:
    assert {code for _, code in BAD.values()} <= CODES


def test_a_client_that_raises_does_not_stop_the_round_and_tells_nothing() -> None:
    def broken(message: Message) -> Message:
        raise RuntimeError("Alice watched Titanic")

    moved, made = one_round(Link([good(1.0), broken, good(3.0)]))
    assert_moved(moved, 2.0)
    assert made.traffic.refused == {"CLIENT_FAILED": 1}


def test_clients_that_never_answer_are_counted_and_do_not_stop_the_round() -> None:
    moved, made = one_round(Link([good(1.0), good(50.0), good(3.0), good(50.0)], copies={2: 0, 4: 0}))
    assert_moved(moved, 2.0)
    assert made.traffic.refused == {"NO_REPLY": 2}


@pytest.mark.parametrize("others", [1, 0], ids=["all answer", "another is silent"])
def test_a_client_that_answers_twice_counts_once(others: int) -> None:
    moved, made = one_round(Link([good(7.0), good(1.0)], copies={1: 3, 2: others}))
    assert_moved(moved, 4.0 if others else 7.0)
    assert made.traffic.refused == {"UNEXPECTED_REPLY": 2} | ({} if others else {"NO_REPLY": 1})


def test_an_answer_that_nobody_asked_for_is_dropped() -> None:
    made = strategy(clients_per_round=1)
    grid = Link([good(7.0), good(7.0), good(7.0)])
    (message,) = made.configure_train(1, pack(START, "float32"), ConfigRecord(), grid)
    stranger = next(node for node in grid.get_node_ids() if node != message.metadata.dst_node_id)
    forged = Message(message.content, stranger, "train")
    assert made.aggregate_train(1, [good(9.0)(forged)]) == (None, None)
    assert made.traffic.refused == {"UNEXPECTED_REPLY": 1, "NO_REPLY": 1}


def test_an_error_of_the_link_names_no_node_and_is_counted_once() -> None:
    made = strategy()
    grid = Link([good(1.0), good(2.0)])
    first, second = made.configure_train(1, pack(START, "float32"), ConfigRecord(), grid)
    lost = Message(Error(code=4, reason="Reply message unavailable"), reply_to=first)
    lost.metadata.__dict__["_src_node_id"] = 0
    moved, _ = made.aggregate_train(1, [lost, good(2.0)(second)])
    assert moved is not None
    assert made.traffic.answered == 1
    assert made.traffic.refused == {"CLIENT_FAILED": 1}


def test_where_every_reply_is_bad_the_adapter_stays_and_the_next_round_runs() -> None:
    behaviour = [client for client, _ in BAD.values()]
    link = Link(behaviour)
    made = strategy()
    seen: list[Arrays] = []

    def look(server_round: int, record: ArrayRecord) -> None:
        seen.append(unpack(record, SHAPES))
        if server_round == 1:
            assert made.traffic.answered == 0
            assert made.traffic.refused == Counter(code for _, code in BAD.values())
            behaviour[:] = [good(4.0)] * len(behaviour)

    made.start(link, pack(START, "float32"), num_rounds=2, evaluate_fn=look)  # type: ignore[arg-type]
    assert_moved({name: seen[1][name] - START[name] for name in SHAPES}, 0.0)
    assert_moved({name: seen[2][name] - START[name] for name in SHAPES}, 4.0)
    assert made.optimizer.steps == 1  # a round without updates is no step


def test_a_cohort_may_answer_with_one_sum_where_all_clients_are_ones_own() -> None:
    def nothing(message: Message) -> Message:
        return reply(message, Update({}, 0), "float32")

    moved, made = one_round(Link([good(9.0, clients=3), nothing, nothing]), strategy(summed_replies=True))
    assert_moved(moved, 3.0)
    assert made.traffic.answered == 3
    assert not made.traffic.refused
    moved, made = one_round(Link([good(9.0, clients=4), good(2.0), nothing]), strategy(summed_replies=True))
    assert_moved(moved, 2.0)  # nobody speaks for more clients than were asked
    assert made.traffic.refused == {"BAD_COUNT": 1}


def test_replies_are_added_up_as_they_arrive_and_not_kept() -> None:
    made = strategy()
    messages = list(made.configure_train(1, pack(START, "float32"), ConfigRecord(), Link([good(1.0)] * 50)))
    alive: weakref.WeakSet[Message] = weakref.WeakSet()
    most = 0

    def arriving() -> Iterator[Message]:
        nonlocal most
        for message in messages:
            answer = good(1.0)(message)
            alive.add(answer)
            most = max(most, len(alive))
            yield answer
            del answer

    made.aggregate_train(1, arriving())
    assert made.traffic.answered == 50
    assert most <= 2


def test_clients_are_never_asked_to_evaluate() -> None:
    assert list(strategy().configure_evaluate(1, ArrayRecord(), ConfigRecord(), Link([good(1.0)]))) == []


def test_all_clients_of_a_round_get_one_request_and_a_resumed_run_asks_what_the_whole_run_would() -> None:
    def requests(made: AdapterStrategy, server_round: int) -> list[tuple[int, int, int]]:
        grid = Link([good(1.0)] * 9)
        found = []
        for message in made.configure_train(server_round, pack(START, "float32"), ConfigRecord(), grid):
            request = read_train(message, SHAPES, len(PRIOR))
            found.append((message.metadata.dst_node_id, request.server_round, request.seed))
        return found

    whole, resumed = strategy(clients_per_round=4), strategy(clients_per_round=4, first_round=2)
    rounds = [requests(whole, number) for number in (1, 2, 3)]
    assert requests(resumed, 1) == rounds[2]
    assert [len({seed for _, _, seed in asked}) for asked in rounds] == [1, 1, 1]
    assert len({asked[0][2] for asked in rounds}) == 3  # a fresh public seed every round


def test_whom_it_asks_does_not_depend_on_the_order_in_which_nodes_are_listed() -> None:
    class Shuffled(Link):
        def get_node_ids(self) -> Iterable[int]:
            return [5, 2, 9, 1, 7, 3, 8, 4, 6]

    grids = Link([good(1.0)] * 9), Shuffled([good(1.0)] * 9)
    made = [strategy(clients_per_round=4).configure_train(3, pack(START, "float32"), ConfigRecord(), g) for g in grids]
    first, second = ({message.metadata.dst_node_id for message in messages} for messages in made)
    assert first == second


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 40), st.integers(0, 45), st.integers(0, 60), st.integers(0, 2**31 - 1))
def test_everyone_is_asked_once_before_anyone_again_and_never_more_often_than_budgeted(
    clients: int, per_round: int, rounds: int, seed: int
) -> None:
    nodes = [10 + node for node in range(clients)]
    turns = Counter(dict.fromkeys(nodes, 0))
    for number in range(1, rounds + 1):
        chosen = choose_nodes(nodes, number, per_round, seed)
        assert len(chosen) == len(set(chosen)) == (min(per_round, clients) or clients)
        turns.update(chosen)
        assert max(turns.values()) - min(turns.values()) <= 1
    assert max(turns.values()) <= most_participations(clients, rounds, per_round)


def test_another_seed_asks_in_another_order() -> None:
    nodes = list(range(100))
    assert choose_nodes(nodes, 1, 10, 0) != choose_nodes(nodes, 1, 10, 1)
    assert choose_nodes(nodes, 1, 10, 0) == choose_nodes(nodes, 1, 10, 0)
