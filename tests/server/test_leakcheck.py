"""Planted leaks are caught, clean systems pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from hushrec.common.datasets import load_dataset
from hushrec.common.errors import ConfigError
from hushrec.common.interactions import Dataset, History
from hushrec.common.splits import Case, Split, build_split
from hushrec.server.controls import Popularity, Random, fit_controls
from hushrec.server.leakcheck import (
    DrawNegatives,
    Labels,
    check_blind,
    check_labels,
    check_negatives,
    check_ties,
    permuted_catalog,
)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset("synthetic")


@pytest.fixture(scope="module", params=["p1", "joint"])
def split(request: pytest.FixtureRequest, dataset: Dataset) -> Split:
    return build_split(dataset, request.param, 0)


@pytest.fixture(scope="module")
def skewed() -> Split:
    """Popularity falls like 1 / rank, so that masking and popularity are visible in counts."""
    rng = np.random.default_rng(0)
    weights = 1.0 / np.arange(1, 201)
    train, cases = [], []
    for user in range(300):
        items = rng.choice(200, 15, replace=False, p=weights / weights.sum()).astype(np.int32)
        train.append(History(items[:-1], np.arange(14)))
        cases.append(Case(user, train[-1], items[-1:]))
    everything = np.ones(200, dtype=bool)
    groups, candidates = {"warm": tuple(cases)}, {"warm": everything}
    return Split("p1", 200, np.arange(300), tuple(train), everything, groups, candidates, everything)


def outside(pools: dict[int, np.ndarray], seed: int) -> DrawNegatives:
    """A sampler that draws each user's negatives uniformly from her pool."""
    rng = np.random.default_rng(seed)
    return lambda user, history: rng.choice(pools[user], 100)


def test_uniform_negatives_pass(split: Split) -> None:
    rng = np.random.default_rng(5)
    checks = check_negatives(lambda user, history: rng.integers(split.n_items, size=100), split, seed=0)
    assert [check.name for check in checks] == ["per-user counts", "global counts"]
    for check in checks:
        assert check.leaks is False
        assert check.low < 0.5 < check.high
        assert check.low <= check.value <= check.high


def test_negatives_that_exclude_the_test_item_are_caught(split: Split, dataset: Dataset) -> None:
    everything = np.arange(split.n_items)
    pools = {int(user): np.setdiff1d(everything, dataset.histories[user].items) for user in split.users}
    per_user, _ = check_negatives(outside(pools, 1), split, seed=0)
    assert per_user.leaks is True
    assert per_user.value > 0.9
    assert "HR@10" in per_user.detail


def test_only_the_test_item_left_out_is_caught(split: Split) -> None:
    everything = np.arange(split.n_items)
    pools = {case.user: np.setdiff1d(everything, case.targets) for case in split.cases["warm"]}
    pools = {int(user): pools.get(int(user), everything) for user in split.users}
    per_user, _ = check_negatives(outside(pools, 2), split, seed=0)
    assert per_user.leaks is True


def test_masking_the_own_training_items_shows_in_the_global_counts(skewed: Split) -> None:
    everything = np.arange(skewed.n_items)
    pools = {user: np.setdiff1d(everything, history.items) for user, history in enumerate(skewed.train)}
    per_user, shared = check_negatives(outside(pools, 3), skewed, seed=0)
    assert per_user.leaks is False
    assert shared.leaks is True


def test_drawing_popular_items_more_often_is_no_leak(skewed: Split) -> None:
    counts = np.bincount(np.concatenate([h.items for h in skewed.train]), minlength=skewed.n_items) + 1.0
    rng, chances = np.random.default_rng(4), counts / counts.sum()
    for check in check_negatives(lambda user, history: rng.choice(skewed.n_items, 100, p=chances), skewed, seed=0):
        assert check.leaks is False
        assert check.value < 0.4


def test_clean_samplers_are_rarely_accused(skewed: Split) -> None:
    """The bound is one in 200 per check; a normal interval over users would accuse the global counts far more often."""
    everything = dict.fromkeys(range(300), np.arange(skewed.n_items))
    checks = [check_negatives(outside(everything, seed), skewed, seed=seed, rounds=2) for seed in range(8)]
    accused = sum(check.leaks for pair in checks for check in pair)
    assert accused <= 1


def test_sampler_sees_only_what_the_client_holds(split: Split) -> None:
    held = {int(user): history for user, history in zip(split.users, split.train, strict=True)}
    asked: set[int] = set()

    def draw(user: int, history: History) -> np.ndarray:
        assert history is held[user]
        asked.add(user)
        return np.array([0])

    check_negatives(draw, split, seed=0, rounds=1, max_users=10)
    assert len(asked) == 10


def test_negatives_without_cases_are_refused(split: Split) -> None:
    with pytest.raises(ConfigError, match="training users"):
        check_negatives(lambda u, h: np.array([0]), replace(split, users=np.array([], dtype=int)), seed=0)


def test_a_scorer_given_the_labels_scores_1(split: Split, dataset: Dataset) -> None:
    check = check_labels(split, dataset, seed=0)
    assert check.leaks is False
    assert check.value == pytest.approx(1.0)


def test_controls_are_blind_to_targets_and_batches(split: Split) -> None:
    for control in fit_controls(split, seed=0).values():
        assert check_blind(control, split, seed=0).leaks is False


class Peeking(Random):
    """Raises the target a little: enough to look good, little enough to look honest."""

    def score(self, cases: Sequence[Case]) -> np.ndarray:
        scores = super().score(cases)
        for row, case in zip(scores, cases, strict=True):
            row[case.targets] += 0.1
        return scores


class Mixing(Random):
    """Normalises over the batch, so that other users' cases change a score."""

    def score(self, cases: Sequence[Case]) -> np.ndarray:
        scores = super().score(cases)
        return scores - scores.mean(axis=0)


@pytest.mark.parametrize("leaky", [Labels, Peeking, Mixing])
def test_scorers_that_read_targets_or_other_cases_are_caught(split: Split, leaky: type) -> None:
    scorer = leaky(split.n_items) if leaky is Labels else leaky(split.n_items, seed=0)
    assert check_blind(scorer, split, seed=0).leaks is True


def test_blind_check_without_cases_is_refused(split: Split) -> None:
    with pytest.raises(ConfigError, match="got none"):
        check_blind(Random(split.n_items, seed=0), replace(split, cases={"warm": ()}), seed=0)


def test_ties_that_would_flatter_are_reported(split: Split) -> None:
    constant = check_ties(Popularity(np.zeros(split.n_items)), split)
    assert constant.leaks is True
    assert constant.value > 0.5
    assert check_ties(Random(split.n_items, seed=0), split).leaks is False


def test_permuted_catalogue_keeps_ids_and_moves_whole_rows(dataset: Dataset) -> None:
    catalog = dataset.catalog
    moved = permuted_catalog(catalog, np.random.default_rng(0))
    assert moved.item_ids == catalog.item_ids
    rows = {(c.texts[i], c.titles[i], int(c.years[i]), c.genres[i]) for c in [catalog] for i in range(len(c))}
    moved_rows = {(moved.texts[i], moved.titles[i], int(moved.years[i]), moved.genres[i]) for i in range(len(moved))}
    assert moved_rows == rows
    assert sum(a == b for a, b in zip(moved.texts, catalog.texts, strict=True)) < len(catalog) / 10
