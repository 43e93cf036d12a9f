"""Tests of common/splits.py: the guarantees of its docstrings on small random data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushrec.common.catalog import ItemRow, build_catalog
from hushrec.common.datasets import load_dataset
from hushrec.common.errors import ConfigError
from hushrec.common.interaction_log import InteractionLog, build_dataset
from hushrec.common.interactions import Dataset
from hushrec.common.splits import COLD_USER_HISTORIES, PROTOCOLS, Split, build_split

Row = tuple[int, int, int]
N_ITEMS = 12
rows_strategy = st.lists(
    st.tuples(st.integers(0, 11), st.integers(0, N_ITEMS - 1), st.integers(0, 6)), min_size=1, max_size=120
)
seeds = st.integers(0, 5)
quick = settings(max_examples=50, deadline=None)


def dataset_of(rows: list[Row]) -> Dataset:
    catalog, _ = build_catalog([ItemRow(str(i), f"Title {i}") for i in range(N_ITEMS)], place_of=str)
    users, user_codes = np.unique([row[0] for row in rows], return_inverse=True)
    log = InteractionLog(
        tuple(map(str, users.tolist())),
        user_codes,
        tuple(map(str, range(N_ITEMS))),
        np.array([row[1] for row in rows], dtype=np.intp),
        times=np.array([row[2] for row in rows], dtype=np.int64),
    )
    return build_dataset("random", catalog, log, {}, id_key=b"k" * 32)


def content(split: Split) -> list[object]:
    """All of a split as plain values."""
    cases = {
        group: [(c.user, c.history.items.tolist(), c.targets.tolist(), c.excluded.tolist()) for c in found]
        for group, found in split.cases.items()
    }
    candidates = {group: mask.tolist() for group, mask in split.candidates.items()}
    train = [history.items.tolist() for history in split.train]
    return [split.users.tolist(), train, split.warm_items.tolist(), cases, candidates, split.tail_items.tolist()]


@quick
@given(rows=rows_strategy, seed=seeds, protocol=st.sampled_from(PROTOCOLS))
def test_no_target_is_in_the_training_history_of_its_user(rows: list[Row], seed: int, protocol: str) -> None:
    split = build_split(dataset_of(rows), protocol, seed)
    train = dict(zip(split.users.tolist(), (set(h.items.tolist()) for h in split.train), strict=True))
    for found in split.cases.values():
        for case in found:
            targets = case.targets.tolist()
            assert targets
            assert not train.get(case.user, set()) & set(targets)
            assert not set(case.history.items.tolist()) & set(targets)
            assert len(targets) == len(set(targets))


@quick
@given(rows=rows_strategy, seed=seeds, protocol=st.sampled_from(["joint", "p2"]))
def test_cold_items_are_in_no_history_that_anybody_sees(rows: list[Row], seed: int, protocol: str) -> None:
    split = build_split(dataset_of(rows), protocol, seed)
    assert int((~split.warm_items).sum()) == round({"joint": 0.1, "p2": 0.2}[protocol] * N_ITEMS)
    for history in (*split.train, *(case.history for found in split.cases.values() for case in found)):
        assert split.warm_items[history.items].all()
    for case in split.cases["cold_items"]:
        assert not split.warm_items[case.targets].any()


@quick
@given(rows=rows_strategy, seed=seeds, protocol=st.sampled_from(["joint", "p3"]))
def test_panel_users_never_train(rows: list[Row], seed: int, protocol: str) -> None:
    dataset = dataset_of(rows)
    split = build_split(dataset, protocol, seed)
    training = set(split.users.tolist())
    validation = {case.user for case in split.cases["validation"]}
    test = {case.user for h in COLD_USER_HISTORIES for case in split.cases[f"cold_users/{h}"]}
    assert not training & (validation | test)
    assert not validation & test
    assert len(dataset) - len(training) >= round(0.2 * len(dataset))
    others = [case for group in ("warm", "cold_items") for case in split.cases.get(group, ())]
    assert {case.user for case in others} <= training


@quick
@given(rows=rows_strategy, seed=seeds, protocol=st.sampled_from(PROTOCOLS))
def test_histories_precede_their_targets(rows: list[Row], seed: int, protocol: str) -> None:
    dataset = dataset_of(rows)
    split = build_split(dataset, protocol, seed)
    for found in split.cases.values():
        for case in found:
            order = dataset.histories[case.user].items.tolist()
            seen, asked = ([order.index(i) for i in items.tolist()] for items in (case.history.items, case.targets))
            assert seen == sorted(seen)
            if split.warm_items[case.targets].all() and seen:
                assert max(seen) < min(asked)


@quick
@given(rows=rows_strategy, seed=seeds, protocol=st.sampled_from(PROTOCOLS), data=st.data())
def test_order_of_rows_does_not_change_the_split(
    rows: list[Row], seed: int, protocol: str, data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(rows))
    one, two = (build_split(dataset_of(list(r)), protocol, seed) for r in (rows, shuffled))
    assert content(one) == content(two)


@quick
@given(rows=rows_strategy, seed=seeds, protocol=st.sampled_from(PROTOCOLS))
def test_candidates_hold_the_targets_and_tail_is_warm(rows: list[Row], seed: int, protocol: str) -> None:
    split = build_split(dataset_of(rows), protocol, seed)
    assert split.candidates.keys() == split.cases.keys()
    for group, found in split.cases.items():
        assert split.candidates[group].shape == (N_ITEMS,)
        assert all(split.candidates[group][case.targets].all() for case in found)
    assert not (split.tail_items & ~split.warm_items).any()
    n_warm = int(split.warm_items.sum())
    assert int(split.tail_items.sum()) == n_warm - round(0.2 * n_warm)
    assert all(len(history) for history in split.train)
    assert len(split.users) == len(split.train)


@quick
@given(rows=rows_strategy)
def test_p1_leaves_out_the_last_two(rows: list[Row]) -> None:
    dataset = dataset_of(rows)
    split = build_split(dataset, "p1", 0)
    assert split.users.tolist() == list(range(len(dataset)))
    assert split.warm_items.all()
    long = [user for user, history in enumerate(dataset.histories) if len(history) >= 3]
    for group, back in (("validation", 2), ("warm", 1)):
        assert [case.user for case in split.cases[group]] == long
        for case in split.cases[group]:
            whole = dataset.histories[case.user].items
            assert case.targets.tolist() == [whole[-back]]
            assert case.history.items.tolist() == whole[:-back].tolist()
    for user, history in zip(split.users, split.train, strict=True):
        n = len(dataset.histories[user])
        assert len(history) == (n - 2 if n >= 3 else n)
    short = len(dataset) - len(long)
    assert split.left_out == ({"fewer than 3 interactions: trains, no case": short} if short else {})


@quick
@given(rows=rows_strategy, seed=seeds)
def test_p2_trains_on_all_warm_items_and_asks_for_all_cold_ones_in_two_halves(rows: list[Row], seed: int) -> None:
    dataset = dataset_of(rows)
    split = build_split(dataset, "p2", seed)
    known = split.candidates["validation"]
    tested = split.candidates["cold_items"] & ~known
    assert (split.candidates["cold_items"] == ~split.warm_items).all()
    assert [int(known.sum()), int(tested.sum())] == [1, 1]
    train = {user: history.items.tolist() for user, history in zip(split.users.tolist(), split.train, strict=True)}
    cases = {group: {case.user: case for case in found} for group, found in split.cases.items()}
    for user, history in enumerate(dataset.histories):
        warm, asked, hidden = (
            [i for i in history.items.tolist() if mask[i]] for mask in (split.warm_items, tested, known)
        )
        assert train.get(user, []) == warm
        for group, targets, excluded in (("cold_items", asked, hidden), ("validation", hidden, [])):
            case = cases[group].get(user)
            assert (case is not None) == bool(warm and targets)
            if case is not None:
                assert case.history.items.tolist() == warm
                assert case.targets.tolist() == targets
                assert case.excluded.tolist() == excluded


@quick
@given(rows=rows_strategy, seed=seeds)
def test_p3_has_the_panel_of_joint_and_trains_everybody_else_on_everything(rows: list[Row], seed: int) -> None:
    dataset = dataset_of(rows)
    split, joint = (build_split(dataset, protocol, seed) for protocol in ("p3", "joint"))
    assert split.warm_items.all()
    assert set(joint.users.tolist()) <= set(split.users.tolist())
    assert len(split.users) == len(dataset) - round(0.2 * len(dataset))
    for user, history in zip(split.users.tolist(), split.train, strict=True):
        assert history.items.tolist() == dataset.histories[user].items.tolist()
    for group in split.cases:
        assert {case.user for case in joint.cases[group]} <= {case.user for case in split.cases[group]}
    for h in COLD_USER_HISTORIES:
        for case in split.cases[f"cold_users/{h}"]:
            whole = dataset.histories[case.user].items.tolist()
            assert [*case.history.items.tolist(), *case.targets.tolist()] == whole
            assert len(case.history) == h


def test_without_times_the_last_interaction_is_one_at_random_and_the_same_each_time() -> None:
    """P1 on such data is leave-one-out at random."""
    rows = [(user, item, 0) for user in range(12) for item in range(N_ITEMS)]
    one, two = (build_split(dataset_of(order), "p1", 0) for order in (rows, rows[::-1]))
    assert content(one) == content(two)
    assert len({int(case.targets[0]) for case in one.cases["warm"]}) > 4


def test_users_with_one_or_two_interactions_are_counted() -> None:
    rows = [(user, item, 0) for user in range(40) for item in range(1 + user % 2)]
    split = build_split(dataset_of(rows), "p1", 0)
    assert split.left_out == {"fewer than 3 interactions: trains, no case": 40}
    split = build_split(dataset_of(rows), "joint", 0)
    assert sum(map(len, split.train)) == len(split.users)
    assert split.left_out["test panel, no target after 5 warm interactions: no cold_users/5 case"] == 4


def test_one_user_and_one_item_do_not_crash() -> None:
    for protocol in PROTOCOLS:
        split = build_split(dataset_of([(0, 0, 0)]), protocol, 0)
        assert not any(split.cases.values())


def test_panel_cases_have_the_asked_history_lengths() -> None:
    dataset = load_dataset("synthetic")
    split = build_split(dataset, "joint", 3)
    for h in COLD_USER_HISTORIES:
        assert 5 <= len(split.cases[f"cold_users/{h}"]) <= 6
        for case in split.cases[f"cold_users/{h}"]:
            warm = [i for i in dataset.histories[case.user].items.tolist() if split.warm_items[i]]
            assert case.history.items.tolist() == warm[:h]
            assert case.targets.tolist() == warm[h:]
    assert len(split.cases["validation"]) == 6 * 5
    assert len(split.cases["warm"]) == 48


def test_seed_draws_other_cold_items_and_another_panel() -> None:
    dataset = load_dataset("synthetic")
    one, same, other = (build_split(dataset, "joint", seed) for seed in (0, 0, 1))
    assert content(one) == content(same)
    assert one.warm_items.tolist() != other.warm_items.tolist()
    assert one.users.tolist() != other.users.tolist()


def test_head_is_the_most_popular_fifth() -> None:
    dataset = load_dataset("synthetic")
    split = build_split(dataset, "p1", 0)
    counts = np.bincount(np.concatenate([h.items for h in split.train]), minlength=len(dataset.catalog))
    assert counts[~split.tail_items].min() >= counts[split.tail_items].max()
    assert int((~split.tail_items).sum()) == 24


def test_unknown_protocol_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"one of p1, joint, p2, p3, got 'p9'"):
        build_split(load_dataset("synthetic"), "p9", 0)
