"""User-level privacy by the server: no update weighs more than C, every round is paid, and nobody leaves no trace."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from scipy import stats
from support.federation import link

from hushrec.client.store import count_clients
from hushrec.common.budget import popularity_events, training_event, with_noise
from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError, PrivacyBudgetExhausted, PrivacyError
from hushrec.common.ledger import read_ledger
from hushrec.common.privacy import epsilon_rdp
from hushrec.common.protocol import Arrays, TrainRequest
from hushrec.common.run_ledger import open_ledger
from hushrec.common.workspace import shared_model
from hushrec.server import central_privacy
from hushrec.server.central_privacy import SERVER, CentralMechanism, clip
from hushrec.server.releases import release_popularity
from hushrec.server.rounds import central_mechanism, run_rounds
from hushrec.server.strategy import AdapterStrategy

C = 0.25
SHAPES = {"a": (3, 4), "b": (5,)}


pytestmark = pytest.mark.usefixtures("closed_ledgers")


@pytest.fixture
def config(tiny: Callable[..., RunConfig], tmp_path: Path) -> RunConfig:
    return tiny(
        privacy__mechanism="central",
        privacy__unit="user",
        privacy__max_grad_norm=C,
        privacy__noise_multiplier=3.0,
        privacy__sample_rate=0.4,
        privacy__denominator=16.0,
        privacy__target_epsilon=8.0,
        federation__clients_per_round=0,
        run__directory=str(tmp_path),
    )


def mechanism(config: RunConfig) -> CentralMechanism:
    found = central_mechanism(config)
    assert found is not None
    return found


def charged(config: RunConfig) -> tuple[Any, ...]:
    return read_ledger(Path(config.run.directory) / "ledger.jsonl").events(SERVER)


# --- clipping ---

UPDATES = st.fixed_dictionaries(
    {
        name: arrays_of.arrays(np.float32, shape, elements=st.floats(width=32, allow_nan=True, allow_infinity=True))
        for name, shape in SHAPES.items()
    }
)


@given(update=UPDATES, bound=st.floats(1e-3, 1e3))
def test_no_update_is_longer_than_the_clipping_norm(update: Arrays, bound: float) -> None:
    clipped = clip(update, bound)
    norm = math.sqrt(sum(float((value.astype(np.float64) ** 2).sum()) for value in clipped.values()))
    assert norm <= bound * (1 + 1e-6)
    assert {name: value.shape for name, value in clipped.items()} == SHAPES


def test_a_short_update_is_left_alone_and_a_long_one_keeps_its_direction() -> None:
    rng = np.random.default_rng(0)
    update: Arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    assert all(np.array_equal(clip(update, 100.0)[name], update[name]) for name in SHAPES)
    short = clip(update, 0.5)
    ratio = short["a"][0, 0] / update["a"][0, 0]
    assert all(np.allclose(short[name], ratio * update[name]) for name in SHAPES)
    assert math.sqrt(sum(float((v**2).sum()) for v in short.values())) == pytest.approx(0.5, rel=1e-5)


# --- sampling and paying ---


def test_a_round_is_paid_before_anyone_is_asked_also_when_nobody_is_drawn(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    central, seen = mechanism(config), []

    def drawn(rows: int, rate: float) -> list[int]:
        seen.append((rows, rate, charged(config)))
        return []

    monkeypatch.setattr(central_privacy, "poisson_choice", drawn)
    assert central.sample([7, 8, 9], 1) == []
    assert seen == [(3, 0.4, (training_event(config),))]
    assert len(charged(config)) == 1


def test_everyone_is_drawn_with_the_sample_rate_on_their_own(config: RunConfig) -> None:
    config = config.replace(privacy__noise_multiplier=60.0)
    central, nodes = mechanism(config), list(range(100, 140))
    draws = np.zeros((60, 40))
    for number in range(60):
        draws[number, [nodes.index(node) for node in central.sample(nodes, number + 1)]] = 1
    assert stats.binomtest(int(draws.sum()), draws.size, 0.4).pvalue > 1e-4
    assert stats.binomtest(int((draws[:, 0] * draws[:, 1]).sum()), 60, 0.16).pvalue > 1e-4
    assert len({tuple(row) for row in draws}) == 60


def test_a_spent_budget_asks_nobody(config: RunConfig) -> None:
    config = config.replace(privacy__noise_multiplier=0.9, privacy__target_epsilon=4.0)
    central = mechanism(config)
    with pytest.raises(PrivacyBudgetExhausted):
        for number in range(100):
            central.sample([1], number + 1)
    event, spent = training_event(config), charged(config)
    assert epsilon_rdp(spent, 1e-5) <= 4.0 < epsilon_rdp([*spent, event], 1e-5)


def test_a_run_whose_budget_ends_early_keeps_its_adapter_and_ends(config: RunConfig) -> None:
    config = config.replace(privacy__noise_multiplier=1.5, privacy__target_epsilon=3.0, federation__rounds=12)
    last = run_rounds(link(config), config)
    paid = sum(event.steps for event in charged(config))
    assert 1 <= paid < 12
    assert last.facts["paid_rounds"] == paid
    assert last.facts["refused"] == {"BUDGET_EXHAUSTED": 12 - paid}
    assert epsilon_rdp(charged(config), config.privacy.target_delta) <= 3.0
    # Nothing was released by the unpaid rounds: as many paid ones give as many noised steps.
    written = [json.loads(line) for line in (Path(config.run.directory) / "rounds.jsonl").read_text().splitlines()]
    unpaid = [line for line in written if line["refused"]]
    assert [line["asked"] for line in unpaid] == [0] * (12 - paid)
    assert len({line["validation_NDCG@10"] for line in written[paid:]}) == 1


def test_a_mechanism_without_noise_does_not_exist(config: RunConfig) -> None:
    ledger = open_ledger(config)
    assert ledger is not None
    with pytest.raises(PrivacyError, match="noise"):
        CentralMechanism(config.replace(privacy__noise_multiplier=0.0), ledger)


# --- noise ---


def test_the_release_is_the_sum_plus_noise_of_the_promised_size(config: RunConfig) -> None:
    central, shapes = mechanism(config), {"a": (60, 50), "b": (2000,)}
    total: Arrays = {name: np.full(shape, 7.0, np.float32) for name, shape in shapes.items()}
    first, second = (central.noised_mean(total, shapes) for _ in range(2))
    noise = [
        np.concatenate([(release[name] * 16.0 - 7.0).ravel() for name in shapes]) / (3.0 * C)
        for release in (first, second)
    ]
    for one in noise:
        assert stats.kstest(one, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(*noise)[0, 1]) < 5 / math.sqrt(5000)
    assert abs(np.corrcoef(noise[0][:-1], noise[0][1:])[0, 1]) < 5 / math.sqrt(5000)


def test_a_round_of_nobody_is_noise_like_any_other(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(central_privacy, "poisson_choice", lambda rows, rate: [])
    last = run_rounds(link(config), config.replace(federation__rounds=2))
    start = shared_model(config.model, config.data).untrained
    assert any(not np.array_equal(last.adapter[name], start[name]) for name in start)
    assert charged(config) == (training_event(config),) * 2 or sum(event.steps for event in charged(config)) == 2


# --- sensitivity of the real training code ---


def total_of(config: RunConfig, partitions: list[int], strength: float) -> np.ndarray:
    """The clipped sum of a real round with exactly these users, without noise."""
    model = shared_model(config.model, config.data)
    rng = np.random.default_rng(1)
    adapter: Arrays = {name: strength * rng.normal(size=s).astype(np.float32) for name, s in model.shapes.items()}
    central = mechanism(config)
    sums: list[Arrays] = []

    class Kept(CentralMechanism):
        def sample(self, nodes: Any, server_round: int) -> list[int]:
            return [nodes[place] for place in partitions]

        def noised_mean(self, total: Arrays, shapes: Any) -> Arrays:
            sums.append({name: value.copy() for name, value in total.items()})
            return total

    central.__class__ = Kept
    request = TrainRequest(adapter, np.zeros(len(model.prefix), np.float32), 1, 5)
    made = AdapterStrategy(
        model.shapes,
        _Still(),  # type: ignore[arg-type]
        request.log_popularity,
        clients_per_round=0,
        wire="float32",
        seed=5,
        central=central,
    )
    from hushrec.common.protocol import pack

    made.start(link(config), pack(adapter, "float32"), num_rounds=1)
    return np.concatenate([value.ravel() for value in sums[0].values()])


class _Still:
    """A server optimiser that stays where it is."""

    def step(self, adapter: Arrays, mean: Arrays) -> Arrays:
        return adapter


@pytest.mark.parametrize("kind", ["lora", "ffa", "sb"])
def test_adding_any_user_moves_the_sum_by_at_most_the_clipping_norm(config: RunConfig, kind: str) -> None:
    config = config.replace(model__adapter=kind, model__head_core="full")
    everyone = [0, 1, 2, 3, 4, 5]
    whole = total_of(config, everyone, 3.0)
    moves = [
        np.linalg.norm(whole - total_of(config, [user for user in everyone if user != left], 3.0)) for left in everyone
    ]
    assert max(moves) <= C * (1 + 1e-4)
    assert max(moves) > 0.9 * C  # the bound is not met by chance
    assert np.linalg.norm(total_of(config, [2], 3.0)) <= C * (1 + 1e-6)


# --- popularity, whole runs, refusals ---


def test_the_popularity_release_is_noised_once_by_the_server_and_paid_once(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.replace(privacy__popularity_noise_multiplier=2.0)
    items = len(shared_model(config.model, config.data).prefix)
    monkeypatch.setattr(central_privacy, "secret_gaussian", torch.zeros)
    clear = release_popularity(link(config), config, items, mechanism(config))
    assert charged(config) == popularity_events(config.privacy)
    assert clear.clients == count_clients(config)
    total = np.expm1(clear.log_popularity) * 2.0
    # Each user spreads at most norm 1 over at least one item.
    assert 0 < total.sum() <= count_clients(config) * math.sqrt(items)
    monkeypatch.setattr(central_privacy, "secret_gaussian", torch.ones)
    shifted = release_popularity(link(config), config, items, mechanism(config))
    assert np.allclose(np.expm1(shifted.log_popularity) * 2.0, total + 2.0, atol=1e-3)


def test_a_whole_run_charges_the_server_once_a_round_and_no_device(config: RunConfig) -> None:
    config = config.replace(privacy__noise_multiplier=0.0, privacy__popularity_noise_multiplier=4.0)
    solved = with_noise(config, count_clients(config), count_clients(config))
    run_rounds(link(solved), solved)
    ledger = read_ledger(Path(config.run.directory) / "ledger.jsonl")
    assert list(ledger.clients()) == [SERVER]
    events = ledger.events(SERVER)
    assert sum(event.steps for event in events if event.kind == "training") == 4
    assert 7.5 < epsilon_rdp(events, config.privacy.target_delta) <= 8.0
    assert ledger.header.mechanism == "server"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"privacy__unit": "record"}, "privacy.unit"),
        ({"federation__shape": "silos"}, "federation.shape"),
        ({"federation__clients_per_round": 10}, "sample-rate"),
    ],
)
def test_what_the_claim_does_not_cover_is_refused(config: RunConfig, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        config.replace(**changes)
