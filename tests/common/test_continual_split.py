"""Cases by window: nothing held out is trained on in any window, and no case knows what came after its window."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hushrec.client.store import count_clients, open_simulated
from hushrec.common.config import RunConfig
from hushrec.common.continual_split import (
    NEW_ITEMS,
    RETURNING,
    UNSEEN_ITEMS,
    ContinualSplit,
    before,
    continual_split,
    model_in_round,
    users_group,
)
from hushrec.common.interactions import Dataset
from hushrec.common.splits import Case
from hushrec.common.time_windows import existing_items, last_round, window_ends
from hushrec.common.workspace import open_dataset, open_split, shared_model

DATES = "2000-01-10,2000-01-20"


@pytest.fixture
def config(tiny: Callable[..., RunConfig]) -> RunConfig:
    return tiny(privacy__mechanism="none", data__window_ends=DATES, federation__rounds=6)


@pytest.fixture
def dataset(config: RunConfig) -> Dataset:
    return open_dataset(config.data)


@pytest.fixture
def found(config: RunConfig, dataset: Dataset) -> ContinualSplit:
    return continual_split(dataset, open_split(config.data), window_ends(config.data))


def time_of(dataset: Dataset, case: Case) -> int:
    history = dataset.histories[case.user]
    return int(history.times[history.items == case.targets[0]][0])


def window_at(time: int, config: RunConfig) -> int:
    return sum(time >= end for end in window_ends(config.data))


def test_held_out_items_are_trained_on_in_no_window(config: RunConfig, found: ContinualSplit) -> None:
    split, held = open_split(config.data), {}
    for group in (users_group(0), users_group(1), users_group(2), RETURNING, UNSEEN_ITEMS):
        for case in found.split.cases[group]:
            held.setdefault(case.user, set()).update(case.targets.tolist())
    assert len(held) == len(split.users)
    for place in range(count_clients(config)):
        store = open_simulated(config, {"partition-id": place})
        for rows in (*store.earlier, store.rows):
            trained = {item for row in rows for item in row.items.tolist()}
            assert not trained & held[int(split.users[place])]
            assert split.warm_items[sorted(trained)].all()
    panel = {case.user for case in found.split.cases[NEW_ITEMS]} - set(split.users.tolist())
    assert panel  # users who never train, and still have cases
    assert panel <= {case.user for case in split.cases["cold_users/0"]}


def test_every_warm_case_is_in_one_group_of_users(config: RunConfig, found: ContinualSplit) -> None:
    groups = [*(users_group(window) for window in range(3)), RETURNING]
    users = [case.user for group in groups for case in found.split.cases[group]]
    assert sorted(users) == [case.user for case in open_split(config.data).cases["warm"]]
    assert all(found.split.cases[group] for group in groups[:3])
    assert sum(found.arrived) == len(open_split(config.data).users)


def test_histories_precede_their_target_and_both_lie_in_the_window(
    config: RunConfig, dataset: Dataset, found: ContinualSplit
) -> None:
    ends = (*window_ends(config.data), 2**40)
    for group, cases in found.split.cases.items():
        if group in ("validation", UNSEEN_ITEMS):
            continue
        for case in cases:
            time = time_of(dataset, case)
            assert (case.history.times <= time).all()
            if group.startswith("users_"):
                window = int(group.removeprefix("users_")) - 1
                assert time < ends[window]
                assert window_at(int(case.history.times[0]), config) == window == window_at(time, config)
            if group == RETURNING:
                assert window_at(int(case.history.times[0]), config) < window_at(time, config)


def test_items_of_a_later_window_are_not_ranked(config: RunConfig, dataset: Dataset, found: ContinualSplit) -> None:
    ends = window_ends(config.data)
    first = existing_items(dataset.catalog, ends[0])
    assert 0 < first.sum() < len(first)
    for case in found.split.cases[users_group(0)]:
        assert case.excluded.tolist() == np.flatnonzero(~first).tolist()
    assert not found.split.cases[users_group(2)][0].excluded.size
    assert not (found.split.candidates[NEW_ITEMS] & first).any()
    assert sum(found.released) == open_split(config.data).warm_items.sum()


def test_what_is_chosen_at_a_windows_end_knows_nothing_later(config: RunConfig, dataset: Dataset) -> None:
    end = window_ends(config.data)[0]
    known, split = before(dataset, open_split(config.data), end)
    assert 0 < len(split.cases["validation"]) < len(open_split(config.data).cases["validation"])
    assert all(time_of(dataset, case) < end for case in split.cases["validation"])
    assert all((history.times < end).all() for history in known.histories)


def test_items_of_a_later_window_are_no_negatives_and_cold_items_never(config: RunConfig, dataset: Dataset) -> None:
    model, ends = shared_model(config.model, config.data), window_ends(config.data)
    warm = open_split(config.data).warm_items
    for window, end in enumerate(ends):
        for server_round in (last_round(config, window), last_round(config, window) - 1):
            items = model_in_round(model, config, server_round).training_items
            assert items is not None
            assert items.tolist() == np.flatnonzero(warm & existing_items(dataset.catalog, end)).tolist()
    last = model_in_round(model, config, 6).training_items
    assert last is not None
    assert last.tolist() == np.flatnonzero(warm).tolist()
    everything = config.replace(data__window_ends="")
    assert model_in_round(model, everything, 1) is model
