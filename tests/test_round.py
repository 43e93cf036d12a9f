"""One round as it is in a deployment: the real ServerApp asks the real ClientApp, message by message."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, MessageType, MetricRecord, RecordDict

from hushrec.client.app import app as client_app
from hushrec.client.store import count_clients
from hushrec.common.budget import enforced_claim
from hushrec.common.config import RunConfig
from hushrec.common.ledger import read_ledger
from hushrec.common.protocol import reply_sha256
from hushrec.common.run_ledger import close_ledgers
from hushrec.common.workspace import open_dataset, open_split, shared_model
from hushrec.server.app import app as server_app
from hushrec.server.checkpoint import read_checkpoint
from hushrec.simulations.cli import load_experiment
from hushrec.simulations.grid import InProcessGrid

ASKED = 5


class Wire(InProcessGrid):
    """Keeps what crosses it."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(client_app, count_clients(config), config.to_flat())
        self.down: list[Message] = []
        self.up: list[Message] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        sent = list(messages)
        self.down += sent
        for answer in super().send_and_receive(sent):
            self.up.append(answer)
            yield answer


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return load_experiment(
        "smoke",
        [
            "federation.rounds=1",
            f"federation.clients-per-round={ASKED}",
            "federation.execution=one-by-one",
            "privacy.noise-multiplier=2.0",
            "privacy.popularity-noise-multiplier=20.0",
            "server.averaging=0",
            f"run.directory={tmp_path_factory.mktemp('round')}",
        ],
    )


@pytest.fixture(scope="module")
def wire(config: RunConfig) -> Wire:
    """The grid after the popularity release and one round."""
    grid = Wire(config)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config.to_flat())
    try:
        server_app(grid=grid, context=context)
    finally:
        close_ledgers()
    return grid


def train_replies(wire: Wire) -> list[Message]:
    return [message for message in wire.up if message.metadata.message_type == MessageType.TRAIN]


def test_everyone_is_asked_for_the_release_and_the_round_asks_as_many_as_configured(
    wire: Wire, config: RunConfig
) -> None:
    kinds = [message.metadata.message_type for message in wire.down]
    assert kinds == [MessageType.QUERY] * count_clients(config) + [MessageType.TRAIN] * ASKED
    assert not any(message.has_error() for message in wire.up)


def test_the_adapter_moves_by_the_mean_of_what_the_clients_sent(wire: Wire, config: RunConfig) -> None:
    checkpoint = read_checkpoint(Path(config.run.directory))
    assert checkpoint is not None
    assert checkpoint.server_round == 1
    model = shared_model(config.model, config.data)
    for name, start in model.untrained.items():
        sent = [reply.content["update"][name].numpy().astype(np.float32) for reply in train_replies(wire)]  # type: ignore[index, union-attr]
        rate = config.server.learning_rate if name.startswith("encoder.") else config.server.head_learning_rate
        np.testing.assert_allclose(checkpoint.adapter[name], start + rate * np.mean(sent, axis=0), rtol=1e-3, atol=1e-6)
        assert np.abs(np.mean(sent, axis=0)).max() > 0


def test_what_leaves_a_client_is_its_noised_update_and_two_constants(wire: Wire, config: RunConfig) -> None:
    model = shared_model(config.model, config.data)
    for reply in train_replies(wire):
        assert set(reply.content) == {"update", "metrics"}
        update, metrics = reply.content["update"], reply.content["metrics"]
        assert isinstance(update, ArrayRecord)
        assert isinstance(metrics, MetricRecord)
        assert dict(metrics) == {"num-examples": 1, "num-clients": 1}
        assert {name: tuple(array.shape) for name, array in update.items()} == model.shapes
        # Noise of each coordinate: sigma x C over the denominator, times the client's own rate.
        values = np.concatenate([array.numpy().ravel() for array in update.values()]).astype(np.float64)
        privacy = config.privacy
        noise = config.train.learning_rate * privacy.noise_multiplier * privacy.max_grad_norm / privacy.denominator
        assert 0.8 * noise < values.std() < 1.5 * noise
    sent = {reply_sha256(reply.content["update"]) for reply in train_replies(wire)}  # type: ignore[arg-type]
    assert len(sent) == ASKED  # no two clients share noise


def test_every_client_paid_before_it_answered_and_its_ledger_names_what_it_sent(wire: Wire, config: RunConfig) -> None:
    replay = read_ledger(Path(config.run.directory) / "ledger.jsonl")
    assert replay.pending() == {}
    assert len(replay.clients()) == count_clients(config)
    trained = {f"device-{reply.metadata.src_node_id - 1}": reply for reply in train_replies(wire)}
    assert len(trained) == ASKED
    claim = enforced_claim(config.privacy)
    for client in replay.clients():
        kinds = sorted(event.kind for event in replay.events(client))
        assert kinds == ["popularity", "training"] if client in trained else ["popularity"]
        assert claim.epsilon(replay.events(client)) <= config.privacy.target_epsilon
    for client, reply in trained.items():
        assert replay.last_reply(client) == (1, reply_sha256(reply.content["update"]))  # type: ignore[arg-type]


def test_no_raw_user_id_and_no_title_crosses_the_wire(wire: Wire, config: RunConfig) -> None:
    dataset = open_dataset(config.data)
    words = {*dataset.user_keys, *dataset.catalog.titles}
    for message in [*wire.down, *wire.up]:
        for record in message.content.values():
            if not isinstance(record, ArrayRecord):
                assert not words & {str(value) for value in record.values()}
                assert all(not isinstance(value, str) or value == "popularity" for value in record.values())


def test_the_round_is_written_down(wire: Wire, config: RunConfig) -> None:
    lines = (Path(config.run.directory) / "rounds.jsonl").read_text().splitlines()
    first, last = (json.loads(line) for line in lines)
    assert (first["round"], last["round"], last["asked"], last["answered"]) == (0, 1, ASKED, ASKED)
    assert 0 < first["epsilon"] < last["epsilon"]
    assert len(open_split(config.data).users) == count_clients(config)
