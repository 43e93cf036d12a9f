"""The popularity release: each row weighs the same, its influence is bounded, and its noise is paid for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hushrec.client import private
from hushrec.client.popularity import popularity_counts
from hushrec.client.rows import Row
from hushrec.common.errors import PrivacyError
from hushrec.common.settings import PrivacyConfig

ITEMS = 30
PRIVATE, OPEN = PrivacyConfig(popularity_noise_multiplier=6.0), PrivacyConfig(mechanism="none")


@dataclass(frozen=True)
class Client:
    client: str
    rows: tuple[Row, ...]
    ledger: None = None


def client(*items: list[int]) -> Client:
    return Client("a", tuple(Row(f"slot-{n}", np.array(own, np.int32)) for n, own in enumerate(items)))


def counts(store: Client, privacy: PrivacyConfig) -> np.ndarray:
    (update,) = popularity_counts([store], ITEMS, privacy)
    assert update.clients == 1
    assert set(update.arrays) == {"counts"}
    return update.arrays["counts"]


ROWS = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=ITEMS, unique=True), min_size=1, max_size=5)


@given(items=ROWS, data=st.data())
@settings(deadline=None)
def test_removing_any_row_moves_the_counts_by_at_most_one(items: list[list[int]], data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(private, "secret_gaussian", torch.zeros)
        gone = data.draw(st.integers(0, len(items) - 1))
        rest = [own for n, own in enumerate(items) if n != gone]
        change = counts(client(*items), PRIVATE) - counts(client(*rest), PRIVATE)
    assert np.linalg.norm(change) <= 1 + 1e-5


def test_each_row_adds_one_unit_of_norm_over_its_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "secret_gaussian", torch.zeros)
    found = counts(client([3, 4, 5, 6], [5]), PRIVATE)
    assert found[[3, 4, 6]] == pytest.approx(0.5, abs=1e-5)
    assert found[5] == pytest.approx(1.5, abs=1e-5)
    assert found.sum() == pytest.approx(3.0, abs=1e-4)


def test_noise_has_the_configured_spread_is_new_every_time_and_follows_no_seed() -> None:
    items, sigma = 20_000, PRIVATE.popularity_noise_multiplier
    drawn = []
    for _ in range(2):
        torch.manual_seed(1)
        drawn.append(popularity_counts([client()], items, PRIVATE)[0].arrays["counts"])
    assert stats.kstest(drawn[0], "norm", args=(0.0, sigma)).pvalue > 1e-4
    assert abs(np.corrcoef(*drawn)[0, 1]) < 5 / np.sqrt(items)


def test_each_client_adds_noise_of_its_own_even_without_rows() -> None:
    first, second = popularity_counts([client([1]), client()], ITEMS, PRIVATE)
    assert (second.arrays["counts"] != 0).all()
    assert not np.array_equal(first.arrays["counts"], second.arrays["counts"])


def test_a_private_release_without_noise_is_refused() -> None:
    with pytest.raises(PrivacyError, match="there is no noise"):
        counts(client([1]), PrivacyConfig(popularity_noise_multiplier=0.0))


def test_without_privacy_counts_are_counts() -> None:
    found = counts(client([1, 2], [2]), OPEN)
    assert found.tolist() == [0, 1, 2, *[0] * (ITEMS - 3)]
    assert counts(client(), OPEN).tolist() == [0] * ITEMS
