"""The federation that the probes question: generated units behind the unmodified client and server code.

Only the store of a client is exchanged, where a simulated and a real device differ too; its rows are cut, charged,
clipped, noised and sent by the code that the run uses. It measures nothing: the probes beside it do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType
from numpy.typing import NDArray

from hushrec.client import cohort
from hushrec.client.app import app as client_app
from hushrec.client.gradients import row_gradients
from hushrec.client.rows import Row
from hushrec.common.budget import noise_on_server, popularity_events, statistics_events, training_event
from hushrec.common.config import RunConfig, Scalar
from hushrec.common.core_statistics import triangle_size
from hushrec.common.errors import PrivacyBudgetExhausted, PrivacyError
from hushrec.common.ledger import Ledger
from hushrec.common.privacy import PrivacyEvent
from hushrec.common.protocol import (
    Arrays,
    Field,
    TrainRequest,
    pack,
    query_content,
    refusal_code,
    train_content,
    unpack,
)
from hushrec.common.run_ledger import LEDGER, close_ledgers, open_ledger
from hushrec.common.workspace import shared_model
from hushrec.server.central_privacy import SERVER, CentralMechanism
from hushrec.server.optimizer import ServerOptimizer
from hushrec.server.releases import release_popularity, release_statistics
from hushrec.server.strategy import AdapterStrategy
from hushrec.simulations.audit.observer import flat
from hushrec.simulations.audit.probe_units import CATALOGUE, Holdings, Items, cut_rows, draw_items, holdings, releases
from hushrec.simulations.grid import QUERY, TRAIN, CohortHandler, InProcessGrid

Vector = NDArray[np.float64]

QUIET = 1e-9  # a noise multiplier far below every tolerance of a probe; 0 is refused, as it should be
NO_LIMIT = 1e30  # a budget for releases that never leave this process


class NothingReleased(PrivacyError):
    """A client or server sent no release when asked for one.

    Attributes:
        code: the word it sent instead, "" for silence.
    """

    def __init__(self, who: str, code: str) -> None:
        super().__init__(f"{who} released nothing when asked{f' ({code})' if code else ''}")
        self.code = code


class WatchedStore:
    """A client's store that tells when its data are read."""

    def __init__(self, client: str, rows: tuple[Row, ...], ledger: Ledger | None, on_read: Callable[[str], None]):
        self.client, self.ledger = client, ledger
        self._rows, self._on_read = rows, on_read

    @property
    def rows(self) -> tuple[Row, ...]:
        self._on_read(self.client)
        return self._rows


class ProbeGrid(InProcessGrid):
    """The run's grid; where told so, one client answers with numbers a hundred times as large as an honest one's."""

    def __init__(self, clients: int, config: RunConfig, loud: int | None = None) -> None:
        handlers: dict[str, CohortHandler] = {TRAIN: cohort.answer_train, QUERY: cohort.answer_query}
        super().__init__(client_app, clients, config.to_flat(), handlers)
        self._loud = loud

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        for answer in super().send_and_receive(messages):
            if not answer.has_error() and answer.metadata.src_node_id == self._loud:
                for field, record in list(answer.content.array_records.items()):
                    shapes = {name: tuple(array.shape) for name, array in record.items()}
                    louder = {name: value * np.float32(100) for name, value in unpack(record, shapes).items()}
                    answer.content[field] = pack(louder, "float32")
            yield answer


class _RecordingOptimizer(ServerOptimizer):
    """The run's optimiser; keeps the means that it was given."""

    means: tuple[Arrays, ...] = ()

    def step(self, adapter: Arrays, update: Arrays) -> Arrays:
        self.means = (*self.means, update)
        return super().step(adapter, update)


class _RecordingMechanism(CentralMechanism):
    """The run's mechanism; keeps the noised sums of its releases before round 1, of which only a function is kept."""

    sums: tuple[Vector, ...] = ()

    def noised(self, total: Vector, event: PrivacyEvent) -> Vector:
        made = super().noised(total, event)
        self.sums = (*self.sums, made)
        return made


class ProbeFederation:
    """Real clients and, where the server is trusted, the real server, over generated holdings.

    Args:
        config: of the run; `fit` has made its model small enough.
        folder: an empty folder for ledgers.
        seed: draws the adapter, the prior and the holdings.
    Attributes:
        fields: what the run releases.
        request: what a round asks: an adapter away from its start, as after some training.
    """

    def __init__(self, config: RunConfig, folder: Path, seed: int) -> None:
        self.config, self.folder, self.seed = config, folder, seed
        self.model = shared_model(config.model, config.data)
        self.central = noise_on_server(config.privacy)
        rng = np.random.default_rng([seed, 1])
        adapter = {
            name: (value + rng.normal(0, 0.2, value.shape)).astype(np.float32)
            for name, value in self.model.untrained.items()
        }
        prior = np.abs(rng.normal(0, 1, CATALOGUE)).astype(np.float32)
        self.request = TrainRequest(adapter, prior, 1, seed)
        self.fields = releases(config)
        self._folders = itertools.count()

    def event(self, field: Field) -> PrivacyEvent:
        """What one release of `field` costs."""
        if field == "update":
            return training_event(self.config)
        return (popularity_events(self.config.privacy) if field == "counts" else statistics_events(self.config))[0]

    @cached_property
    def max_grad_norm(self) -> float:
        """C of the sensitivity probes: the run's, or half of the smallest gradient if less, so that all are clipped."""
        if "update" not in self.fields:
            return self.config.privacy.max_grad_norm
        self.model.recommender.write(self.request.adapter)
        rows = [(client, row) for client, units in self.holdings.items() for row in self.rows(units)]
        pieces = row_gradients(self.model, self.request, rows, self.config)
        norms = [norm for _, gradients in pieces for norm in gradients.norm(dim=1).tolist() if norm > 0]
        least = min(norms, default=math.inf) * (self.config.train.learning_rate if self.central else 1.0)
        return min(self.config.privacy.max_grad_norm, 0.5 * least)

    @property
    def holdings(self) -> Holdings:
        """What the clients hold; see probe_units.holdings."""
        return holdings(self.config, self.seed)

    @property
    def empty(self) -> Holdings:
        """Clients without a unit; where the server samples users, no user."""
        return {} if self.central else {f"client-{n}": {} for n in range(2)}

    def items(self, number: int, length: int) -> Items:
        """`length` items of the catalogue, drawn for `number`."""
        return draw_items(self.seed, number, length)

    def rows(self, units: Mapping[int, Items]) -> tuple[Row, ...]:
        """A client's rows, cut by the real code."""
        return cut_rows(self.config, units)

    def variant(self, **changes: Scalar) -> RunConfig:
        """The run's settings with some exchanged and without a limit to the budget, with a ledger of their own."""
        folder = self.folder / str(next(self._folders))
        folder.mkdir()
        return self.config.replace(**{"privacy__target_epsilon": NO_LIMIT, "run__directory": str(folder), **changes})

    def every_row(self, **changes: Scalar) -> RunConfig:
        """As `variant`, with every row in the one step of a round, so that its sum is known beforehand."""
        one_step: dict[str, Scalar] = {"train__local_steps": 1, "train__proximal": 0.0, "federation__wire": "float32"}
        return self.variant(**{"privacy__sample_rate": 1.0, **one_step, **changes})

    def quiet(self, **changes: Scalar) -> RunConfig:
        """As `every_row`, with noise below every tolerance."""
        names = {"update": "noise", "counts": "popularity_noise", "statistics": "statistics_noise"}
        noise: dict[str, Scalar] = {f"privacy__{names[field]}_multiplier": QUIET for field in self.fields}
        return self.every_row(**noise, **changes)

    def close(self) -> None:
        """Let go of the ledgers."""
        close_ledgers()

    @contextmanager
    def serving(self, holdings: Holdings, config: RunConfig, on_read: Callable[[str], None]) -> Iterator[None]:
        """Inside, the real client code finds `holdings` in its stores, and each read of them is told to `on_read`."""
        ledger = None if self.central else open_ledger(config)
        stores = [WatchedStore(client, self.rows(units), ledger, on_read) for client, units in holdings.items()]

        def opened(_config: RunConfig, node: Mapping[str, Any]) -> WatchedStore:
            return stores[int(node["partition-id"])]

        with patch.object(cohort, "open_store", opened):
            yield

    def ask(
        self,
        field: Field,
        holdings: Holdings,
        config: RunConfig,
        server_round: int = 1,
        on_read: Callable[[str], None] = lambda client: None,
    ) -> list[Message]:
        """The clients' replies to one message each."""
        request, kind = replace(self.request, server_round=server_round), MessageType.TRAIN
        content = train_content(request, "float32")
        if field != "update":
            kind = MessageType.QUERY
            content = query_content("popularity") if field == "counts" else query_content(field, request.log_popularity)
        with self.serving(holdings, config, on_read):
            grid = ProbeGrid(len(holdings), config)
            return list(grid.send_and_receive([Message(content, node, kind) for node in grid.get_node_ids()]))

    def release(
        self,
        field: Field,
        holdings: Holdings,
        config: RunConfig,
        *,
        server_round: int = 1,
        loud: str = "",
        on_read: Callable[[str], None] = lambda client: None,
    ) -> dict[str, Vector]:
        """Who adds noise -> the noised sum as it is released, (d,), in units of the clipping norm.

        Args:
            loud: a client that sends a hundred times its update, for a trusted server to clip.
        Raises:
            NothingReleased: one of them released nothing.
        """
        if self.central:
            with self.serving(holdings, config, on_read):
                return {SERVER: self._released_by_server(field, list(holdings), config, server_round, loud)}
        answers = self.ask(field, holdings, config, server_round, on_read)
        released = {}
        for client, answer in zip(holdings, answers, strict=True):
            if answer.has_error():
                raise NothingReleased(client, answer.error.reason or "")
            record = answer.content[field]
            assert isinstance(record, ArrayRecord)
            arrays = unpack(record, self.shapes(field))
            released[client] = self.in_clipping_norms(arrays, config) if field == "update" else flat(arrays)
        return released

    def in_clipping_norms(self, update: Arrays, config: RunConfig) -> Vector:
        """(d,) the sum that a client's update was made of, in units of C."""
        return flat(update) * (-config.privacy.denominator / config.train.learning_rate / config.privacy.max_grad_norm)

    def shapes(self, field: Field) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the arrays of a reply."""
        size = {"counts": CATALOGUE, "statistics": triangle_size(self.model.start.shape[1])}
        return self.model.shapes if field == "update" else {field: (size[field],)}

    def _released_by_server(
        self, field: Field, clients: Sequence[str], config: RunConfig, server_round: int, loud: str
    ) -> Vector:
        ledger = open_ledger(config)
        assert ledger is not None
        central = _RecordingMechanism(config, ledger)
        grid = ProbeGrid(len(clients), config, clients.index(loud) + 1 if loud else None)
        if field == "update":
            strategy, optimizer = self.strategy(config, central)
            messages = strategy.configure_train(server_round, pack(self.request.adapter, "float32"), _NONE, grid)
            strategy.aggregate_train(server_round, grid.send_and_receive(messages))
            if not optimizer.means:
                raise NothingReleased("the server", " ".join(strategy.traffic.refused))
            return flat(optimizer.means[-1]) * (config.privacy.denominator / config.privacy.max_grad_norm)
        try:
            if field == "counts":
                release_popularity(grid, config, CATALOGUE, central)
            else:
                release_statistics(grid, config, self.model, self.request.log_popularity, central)
        except PrivacyBudgetExhausted as error:
            raise NothingReleased("the server", refusal_code(error)) from error
        if not central.sums:
            raise NothingReleased("the server", "")
        return central.sums[-1]

    def weight_of_first(self, holdings: Holdings, config: RunConfig) -> float:
        """Where between the updates of two clients the server's mean of them lies: 1 is the first, 0 the second."""
        strategy, optimizer = self.strategy(config, None)
        with self.serving(holdings, config, lambda client: None):
            grid = ProbeGrid(len(holdings), config)
            messages = strategy.configure_train(1, pack(self.request.adapter, "float32"), _NONE, grid)
            answers = list(grid.send_and_receive(messages))
        strategy.aggregate_train(1, answers)
        if not optimizer.means:
            raise NothingReleased("the server", " ".join(strategy.traffic.refused))
        records = [answer.content["update"] for answer in answers]
        first, second = (flat(unpack(one, self.model.shapes)) for one in records if isinstance(one, ArrayRecord))
        apart = first - second
        return float((flat(optimizer.means[-1]) - second) @ apart / (apart @ apart))

    def strategy(
        self, config: RunConfig, central: CentralMechanism | None
    ) -> tuple[AdapterStrategy, _RecordingOptimizer]:
        """The run's strategy, with an optimiser that remembers the means."""
        optimizer = _RecordingOptimizer(config.server, config.federation.rounds)
        strategy = AdapterStrategy(
            self.model.shapes,
            optimizer,
            self.request.log_popularity,
            clients_per_round=0,
            wire="float32",
            seed=self.seed,
            central=central,
        )
        return strategy, optimizer


_NONE = ConfigRecord()


def ledger_path(config: RunConfig) -> Path:
    """The file of a variant's ledger."""
    return Path(config.run.directory) / LEDGER
