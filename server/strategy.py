"""The aggregation strategy: whom to ask, what to accept, how to add it up.

Weights are equal, since weighting by the number of examples would release it. Updates are added up as they arrive, so
memory does not grow with the number of clients. Evaluation is central (server/central.py), so clients are never asked
to evaluate.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from hushrec.common.errors import PrivacyBudgetExhausted, PrivacyError
from hushrec.common.protocol import (
    Arrays,
    Shapes,
    TrainRequest,
    Update,
    Wire,
    pack,
    payload_bytes,
    read_update,
    refusal_code,
    train_content,
    unpack,
)
from hushrec.server.central_privacy import CentralMechanism
from hushrec.server.optimizer import ServerOptimizer
from hushrec.server.replies import Inbox


@dataclass
class RoundTraffic:
    """What a round asked and got.

    Attributes:
        asked: clients that got a message.
        answered: clients whose update is in the mean.
        refused: code -> replies that were errors or were not accepted.
        paid: whether a trusted server paid for the round; where it could not, nobody was asked and nothing released.
        bytes_down, bytes_up: payload of one client, in bytes.
        seconds: from the first message to the new adapter.
    """

    asked: int = 0
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    paid: bool = False
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0


class AdapterStrategy(Strategy):
    """Equal-weight averaging of adapter updates with a server optimiser.

    Args:
        shapes: name -> shape of every trained tensor; replies must have exactly these.
        optimizer: moves the adapter.
        log_popularity: the released prior, sent along.
        clients_per_round: 0 asks every client.
        seed: public; decides who is asked when, and the seeds of the rounds.
        first_round: rounds that were finished before (a resumed run); Flower counts from 1 again.
        central: samples, clips and noises where the server is trusted with that; needs `clients_per_round` = 0 and no
            `summed_replies`.
        summed_replies: a reply may hold the sum over several clients, as a simulated cohort's first does. Only where
            all clients are one's own: a stranger's reply could speak for the whole round.
    """

    def __init__(
        self,
        shapes: Shapes,
        optimizer: ServerOptimizer,
        log_popularity: NDArray[np.float32],
        *,
        clients_per_round: int,
        wire: Wire,
        seed: int,
        first_round: int = 0,
        summed_replies: bool = False,
        central: CentralMechanism | None = None,
    ) -> None:
        self.shapes, self.optimizer, self.log_popularity = shapes, optimizer, log_popularity
        self.clients_per_round, self.wire, self.seed, self.first_round = clients_per_round, wire, seed, first_round
        self.summed_replies, self.central = summed_replies, central
        if central is not None and (summed_replies or clients_per_round):
            raise PrivacyError("a trusted server draws users itself, clips one reply of each and takes no summed ones")
        self.traffic = RoundTraffic()
        self._inbox = Inbox([])
        self._adapter: Arrays = {}
        self._started = 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Messages of the round; all share one content."""
        server_round += self.first_round
        self._started = time.monotonic()
        self._adapter = unpack(arrays, self.shapes)
        nodes, paid, spent = sorted(grid.get_node_ids()), False, Counter[str]()
        if self.central is not None:
            try:
                nodes, paid = self.central.sample(nodes, server_round), True
            except PrivacyBudgetExhausted as error:  # an interrupted round was charged twice, say: the run ends early
                nodes, spent = [], Counter([refusal_code(error)])
        else:
            nodes = choose_nodes(nodes, server_round, self.clients_per_round, self.seed)
        seed = int(np.random.default_rng([self.seed, server_round, 1]).integers(2**62))
        request = TrainRequest(self._adapter, self.log_popularity, server_round, seed)
        content = train_content(request, self.wire)
        self.traffic = RoundTraffic(
            asked=len(nodes), bytes_down=sum(map(payload_bytes, content.array_records.values())), paid=paid
        )
        self._inbox = Inbox(nodes)
        self._inbox.refused += spent
        self.traffic.refused = self._inbox.refused
        return [Message(content, node, MessageType.TRAIN) for node in nodes]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The new adapter, or None where no reply could be used; the run goes on with the old one then."""
        total: Arrays = {name: np.zeros(shape, dtype=np.float32) for name, shape in self.shapes.items()}
        clients = 0

        def read(message: Message) -> Update:
            return read_update(message, self.shapes, self.traffic.asked - clients if self.summed_replies else 1)

        for message, update in self._inbox.updates(replies, read):
            if update.clients:
                self.traffic.bytes_up = payload_bytes(message.content["update"])  # type: ignore[arg-type]
            arrays = update.arrays if self.central is None else self.central.clipped(update.arrays)
            for name, value in arrays.items():
                total[name] += value
            clients += update.clients
        self.traffic.answered = clients
        if self.central is not None and self.traffic.paid:
            mean = self.central.noised_mean(total, self.shapes)  # of nobody, too: that nobody came is private
        elif self.central is None and clients:
            mean = {name: value / np.float32(clients) for name, value in total.items()}
        else:
            self.traffic.seconds = time.monotonic() - self._started
            return None, None
        moved = self.optimizer.step(self._adapter, mean)
        self.traffic.seconds = time.monotonic() - self._started
        return pack(moved, "float32"), MetricRecord({"clients": clients})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nobody: a client's metric would be a release of its own."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing to aggregate."""
        return None

    def summary(self) -> None:
        """Nothing to log; the run's configuration is in its directory."""


def choose_nodes(nodes: Sequence[int], server_round: int, per_round: int, seed: int) -> list[int]:
    """Who is asked in a round: everyone once, in a seeded order, before anyone is asked again.

    Fixed turns keep every client's number of participations, and so its epsilon, known in advance and equal to within
    one; drawing afresh each round would give some client many more than the mean.

    Args:
        nodes: all nodes, sorted.
        server_round: from 1.
        per_round: 0 or >= len(nodes) asks all.
    """
    if not per_round or per_round >= len(nodes):
        return list(nodes)
    lap, place = divmod((server_round - 1) * per_round, len(nodes))
    order, following = _laps(len(nodes), lap, per_round, seed)
    turns = [*order[place:], *following][:per_round]
    return [nodes[position] for position in turns]


def _laps(clients: int, lap: int, per_round: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order of everyone's turns in a lap and in the next one; nobody has two turns in a round where laps meet."""
    order = following = np.arange(0)
    for number in range(lap + 2):
        order = following
        shuffled = np.random.default_rng([seed, number, 2]).permutation(clients)
        last = order[len(order) - number * clients % per_round :]  # of the lap before, in the round that both share
        first = shuffled[~np.isin(shuffled, last)][: per_round - len(last)]
        following = np.concatenate([first, shuffled[~np.isin(shuffled, first)]])
    return order, following
