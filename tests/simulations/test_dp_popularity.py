"""The private control: the whole budget in one popularity release, for the table only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hushrec.client.store import count_clients, open_simulated
from hushrec.common.budget import enforced_claim
from hushrec.common.config import RunConfig
from hushrec.common.ledger import read_ledger
from hushrec.common.privacy import PrivacyEvent
from hushrec.common.run_ledger import close_ledgers
from hushrec.common.workspace import open_dataset, open_split
from hushrec.simulations.dp_popularity import dp_popularity

Tiny = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_ledgers()


@pytest.fixture
def config(tiny: Tiny, tmp_path: Path) -> RunConfig:
    return tiny(privacy__noise_multiplier=2.0, run__directory=str(tmp_path))


def counts(config: RunConfig) -> np.ndarray:
    """Clipped contributions without noise."""
    total = np.zeros(len(open_dataset(config.data).catalog))
    for partition in range(count_clients(config)):
        for row in open_simulated(config, {"partition-id": partition}).rows:
            total[row.items] += len(row.items) ** -0.5
    return total


def test_its_noise_spends_the_target_and_no_more(config: RunConfig) -> None:
    for target in (1.0, 8.0):
        now = config.replace(privacy__target_epsilon=target, run__directory=f"{config.run.directory}/{target}")
        _, choices = dp_popularity(now)
        claim = enforced_claim(now.privacy)
        spent = claim.epsilon([PrivacyEvent(choices["noise_multiplier"], 1.0, 1, "popularity")])
        assert target * 0.98 < spent <= target * 1.001  # the multiplier is rounded for the table


def test_with_a_huge_budget_it_ranks_as_the_contributions_do(config: RunConfig) -> None:
    generous = config.replace(privacy__target_epsilon=5000.0)
    scorer, _ = dp_popularity(generous)
    (scores,) = scorer.score(open_split(config.data).cases["warm"][:1])
    expected = counts(generous)
    assert np.corrcoef(scores, expected)[0, 1] > 0.75


def test_its_noise_is_fresh_and_of_the_size_it_says(config: RunConfig) -> None:
    cases = open_split(config.data).cases["warm"][:1]
    strict = config.replace(privacy__target_epsilon=0.5)
    (first, choices), (second, _) = dp_popularity(strict), dp_popularity(strict)
    difference = (first.score(cases) - second.score(cases))[0]
    expected = choices["noise_multiplier"] * np.sqrt(2 * count_clients(config))
    assert 0.75 < difference.std() / expected < 1.25  # 120 items: the standard error is about 6 %


def test_it_charges_no_ledger_since_it_never_leaves_the_simulation(config: RunConfig, tmp_path: Path) -> None:
    dp_popularity(config)
    assert read_ledger(tmp_path / "ledger.jsonl").clients() == ()
