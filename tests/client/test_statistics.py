"""The statistics contribution: one row weighs at most 1, the noise is the promised one, and nothing else leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from scipy import stats
from support.federation import link

from hushrec.client import private
from hushrec.client.rows import Row
from hushrec.client.statistics import co_occurrence
from hushrec.common.budget import statistics_events, with_noise
from hushrec.common.config import RunConfig
from hushrec.common.core_statistics import triangle_size
from hushrec.common.errors import ConfigError, PrivacyError
from hushrec.common.ledger import read_ledger
from hushrec.common.protocol import query_content
from hushrec.common.workspace import Model, shared_model
from hushrec.server.releases import release_statistics
from hushrec.server.rounds import central_mechanism, run_rounds

SIGMA = 3.0


class Client:
    def __init__(self, *rows: list[int]) -> None:
        self.client, self.ledger = "device-0", None
        self.rows = tuple(Row(f"slot-{place}", np.array(items, np.int32)) for place, items in enumerate(rows))


pytestmark = pytest.mark.usefixtures("closed_ledgers")


@pytest.fixture
def config(tiny: Callable[..., RunConfig], tmp_path: Path) -> RunConfig:
    return tiny(
        model__head_core="full",
        model__core_init="statistics",
        privacy__statistics_noise_multiplier=SIGMA,
        privacy__noise_multiplier=12.0,
        federation__rounds=1,
        run__directory=str(tmp_path),
    )


def sum_of(config: RunConfig, *clients: Client) -> np.ndarray:
    model = shared_model(config.model, config.data)
    prior = np.zeros(len(model.prefix), np.float32)
    updates = co_occurrence(model, prior, clients, config)
    return np.stack([update.arrays["statistics"] for update in updates]).astype(np.float64)


def test_adding_a_row_of_any_length_moves_the_sum_by_at_most_one(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "secret_gaussian", torch.zeros)
    rest = [[1, 2, 3], [7, 8]]
    without = sum_of(config, Client(*rest))[0]
    moves = [
        float(np.linalg.norm(sum_of(config, Client(*rest, row))[0] - without))
        for row in ([], [4], [4, 5], list(range(40)), [6] * 3)
    ]
    assert moves[0] == moves[1] == 0.0  # of one item nothing occurs together
    assert all(0.99 < move <= 1 + 1e-6 for move in moves[2:4])
    assert moves[4] <= 1 + 1e-6


def test_a_client_without_rows_sends_noise_like_any_other(config: RunConfig) -> None:
    noised = sum_of(config, Client())[0]
    assert stats.kstest(noised / SIGMA, "norm").pvalue > 1e-4
    assert not sum_of(config.replace(privacy__mechanism="none"), Client()).any()


def test_a_client_with_one_empty_row_sends_noise_like_any_other(config: RunConfig) -> None:
    sent = sum_of(config, *[Client([5]) for _ in range(60)]).ravel()
    assert stats.kstest(sent / SIGMA, "norm").pvalue > 1e-4


def test_each_client_draws_noise_of_its_own(config: RunConfig) -> None:
    first, second = sum_of(config, Client([1, 2, 3]), Client([1, 2, 3]))
    assert not np.allclose(first, second)


def test_a_private_release_without_noise_is_refused(config: RunConfig) -> None:
    with pytest.raises(PrivacyError, match="statistics-noise-multiplier"):
        sum_of(config.replace(privacy__statistics_noise_multiplier=0.0), Client([1, 2]))


def test_rounds_beside_a_release_of_unknown_noise_are_refused_before_anything_is_spent(config: RunConfig) -> None:
    with pytest.raises(ConfigError, match="statistics-noise-multiplier"):
        with_noise(config.replace(privacy__statistics_noise_multiplier=0.0), 20, 80)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"privacy__unit": "user", "federation__shape": "silos", "federation__silos": 3},
        {"privacy__unit": "user", "privacy__mechanism": "central", "federation__clients_per_round": 0},
        {"privacy__mechanism": "none"},
    ],
    ids=["devices", "silos", "central", "open"],
)
def test_the_release_is_paid_once_and_training_starts_from_it(config: RunConfig, changes: dict[str, Any]) -> None:
    config = config.replace(**changes)
    last = run_rounds(link(config), config)
    model = shared_model(config.model, config.data)
    core = last.adapter["user_core.weight"]
    assert np.linalg.norm(core - model.untrained["user_core.weight"]) > 0.1
    assert np.isfinite(core).all()
    if changes.get("privacy__mechanism") == "none":
        return
    ledger = read_ledger(Path(config.run.directory) / "ledger.jsonl")
    for client in ledger.clients():
        assert [event for event in ledger.events(client) if event.kind == "statistics"] == [*statistics_events(config)]


def test_the_central_server_adds_the_noise_that_it_paid_for(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config.replace(
        privacy__unit="user", privacy__mechanism="central", federation__clients_per_round=0, federation__rounds=0
    )
    model, seen = shared_model(config.model, config.data), []

    def kept(total: np.ndarray, *_: object) -> tuple[np.ndarray, np.ndarray]:
        seen.append(total)
        return np.eye(8, dtype=np.float32), np.zeros(8, np.float32)

    monkeypatch.setattr("hushrec.server.releases.solve_core", kept)
    prior = np.zeros(len(model.prefix), np.float32)
    for _ in range(2):
        release_statistics(link(config), config, model, prior, central_mechanism(config))
    difference = (seen[0] - seen[1]) / (SIGMA * np.sqrt(2))
    assert len(difference) == triangle_size(8)
    assert stats.kstest(difference, "norm").pvalue > 1e-4


def test_without_rounds_the_whole_budget_goes_into_the_release(config: RunConfig) -> None:
    config = config.replace(
        federation__rounds=0,
        privacy__noise_multiplier=0.0,
        privacy__statistics_noise_multiplier=0.0,
        privacy__popularity_noise_multiplier=8.0,
    )
    solved = with_noise(config, 20, 80)
    run_rounds(link(solved), solved)
    ledger = read_ledger(Path(config.run.directory) / "ledger.jsonl")
    spent = {round(ledger_epsilon(solved, ledger, client), 3) for client in ledger.clients()}
    assert len(spent) == 1
    assert 7.8 < spent.pop() <= 8.0


def ledger_epsilon(config: RunConfig, ledger: Any, client: str) -> float:
    from hushrec.common.budget import enforced_claim

    return enforced_claim(config.privacy).epsilon(ledger.events(client))


@pytest.mark.parametrize("record", [{}, {"release": "histories"}, {"release": "popularity", "more": 1}])
def test_an_unknown_release_is_refused(config: RunConfig, record: dict[str, Any]) -> None:
    grid = link(config)
    message = Message(RecordDict({"config": ConfigRecord(record)}), 1, MessageType.QUERY)
    (answer,) = grid.send_and_receive([message])
    assert answer.has_error()
    assert answer.error.reason == "BAD_REQUEST"
    assert not (Path(config.run.directory) / "ledger.jsonl").exists() or not list(
        read_ledger(Path(config.run.directory) / "ledger.jsonl").clients()
    )


def test_a_release_that_is_not_planned_is_refused(config: RunConfig) -> None:
    model: Model = shared_model(config.model, config.data)
    content = query_content("statistics", np.zeros(len(model.prefix), np.float32))
    unplanned = config.replace(model__core_init="identity")
    (answer,) = link(unplanned).send_and_receive([Message(content, 1, MessageType.QUERY)])
    assert answer.has_error()
    assert answer.error.reason == "PRIVACY_REFUSED"


@pytest.mark.parametrize(
    "changes",
    [
        {"model__head_core": "scale"},
        {"model__head_init": "random"},
        {"model__head_offset": False},
    ],
)
def test_settings_that_do_not_fit_the_statistics_are_refused(config: RunConfig, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="statistics"):
        config.replace(**changes)
