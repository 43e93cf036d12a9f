"""The popularity release: the sum of what clients sent, scaled to its public noise, and nothing of a bad reply."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from hushrec.common.config import RunConfig
from hushrec.common.protocol import Update, reply
from hushrec.server.releases import release_popularity
from hushrec.simulations.grid import InProcessGrid

ITEMS = 4
OPEN = RunConfig.from_flat({"data.name": "synthetic", "privacy.mechanism": "none"})
PRIVATE = RunConfig.from_flat(
    {"data.name": "synthetic", "privacy.noise-multiplier": 1.0, "privacy.popularity-noise-multiplier": 3.0}
)
Client = Callable[[Message], Message]


def counts(*values: float, clients: int = 1) -> Client:
    update = Update({"counts": np.array(values, dtype=np.float32)}, clients)
    return lambda message: reply(message, update, "float32", "counts")


def link(*clients: Client, copies: int = 1) -> InProcessGrid:
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return clients[int(context.node_config["partition-id"])](message)

    class Link(InProcessGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
            return [answer for answer in super().send_and_receive(messages) for _ in range(copies)]

    return Link(app, len(clients), {})


def test_without_privacy_the_prior_is_the_logarithm_of_one_plus_the_count() -> None:
    release = release_popularity(link(counts(1, 0, 2, 0), counts(1, 0, 5, 0)), OPEN, ITEMS)
    np.testing.assert_allclose(release.log_popularity, np.log([3, 1, 8, 1]), rtol=1e-6)
    assert release.log_popularity.dtype == np.float32
    assert (release.clients, dict(release.refused)) == (2, {})


def test_with_privacy_counts_are_measured_in_the_noise_of_their_sum() -> None:
    release = release_popularity(link(*[counts(30, 0, -50, 3)] * 4), PRIVATE, ITEMS)
    noise = 3.0 * math.sqrt(4)
    np.testing.assert_allclose(release.log_popularity, np.log1p(np.array([120, 0, 0, 12]) / noise), rtol=1e-6)


def test_no_release_is_asked_for_where_none_is_planned() -> None:
    def asked(message: Message) -> Message:
        pytest.fail("a client was asked")

    config = PRIVATE.replace(privacy__popularity_noise_multiplier=0.0)
    release = release_popularity(link(asked), config, ITEMS)
    assert (release.clients, release.log_popularity.tolist()) == (0, [0.0] * ITEMS)


def test_bad_replies_are_counted_and_the_others_are_summed() -> None:
    def broken(message: Message) -> Message:
        raise RuntimeError("Alice watched Titanic")

    def infinite(message: Message) -> Message:
        answer = counts(1, 1, 1, 1)(message)
        array = answer.content["counts"]["counts"]  # type: ignore[index]
        array.data = array.data[:-4] + np.array([np.inf], np.float32).tobytes()
        return answer

    clients = [counts(7, 0, 0, 0), broken, counts(1, 2), infinite, counts(9, 9, 9, 9, clients=5)]
    release = release_popularity(link(*clients), OPEN, ITEMS)
    np.testing.assert_allclose(release.log_popularity, np.log([8, 1, 1, 1]), rtol=1e-6)
    assert release.refused == {"CLIENT_FAILED": 1, "WRONG_SHAPE": 1, "NOT_FINITE": 1, "BAD_COUNT": 1}
    assert release.clients == 1


def test_a_client_is_counted_once_however_often_it_answers() -> None:
    release = release_popularity(link(counts(7, 0, 0, 0), counts(1, 0, 0, 0), copies=2), OPEN, ITEMS)
    np.testing.assert_allclose(release.log_popularity, np.log([9, 1, 1, 1]), rtol=1e-6)
    assert release.refused == {"UNEXPECTED_REPLY": 2}


@pytest.mark.parametrize("config", [OPEN, PRIVATE], ids=["open", "private"])
def test_where_nobody_answers_well_the_prior_is_zero(config: RunConfig) -> None:
    release = release_popularity(link(counts(1), counts(1)), config, ITEMS)
    assert release.log_popularity.tolist() == [0.0] * ITEMS
    assert (release.clients, dict(release.refused)) == (0, {"WRONG_SHAPE": 2})
