"""Gaps, exposure and their tests on evaluations whose right answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from hushrec.common.interactions import History
from hushrec.common.splits import Case, Split
from hushrec.server.evaluation import Evaluation
from hushrec.simulations.fairness import activity, exposure, holm, largest_gap, mix_distance, price

FIGURE, USERS = "warm/NDCG@10", 90


def evaluation(values: np.ndarray, lists: list[np.ndarray] | None = None) -> Evaluation:
    users = {"warm": np.arange(len(values))}
    found = Evaluation("hand-made", {}, {FIGURE: values.astype(np.float64)}, users, lists or [])
    found.per_user["warm/HR@10"] = found.per_user[FIGURE]
    found.figures["warm"] = {"NDCG@10": {"mean": 0.0, "low": 0.0, "high": 0.0}}
    found.figures.update({name: {"mean": 0.0, "low": 0.0, "high": 0.0} for name in ("coverage@10", "gini@10")})
    return found


def labels_of(*sizes: int) -> np.ndarray:
    return np.repeat([f"group {number}" for number in range(len(sizes))], sizes)


def test_the_largest_gap_is_that_of_the_best_and_the_worst_group() -> None:
    labels = labels_of(30, 30, 30)
    values = np.repeat([0.2, 0.5, 0.9], 30)
    gap = largest_gap(evaluation(values), FIGURE, labels, seed=0)
    assert gap is not None
    assert (gap["best"], gap["worst"], gap["left_out"]) == ("group 2", "group 0", 0)
    assert gap["gap"] == pytest.approx({"mean": 0.7, "low": 0.7, "high": 0.7})
    assert gap["groups"]["group 1"] == pytest.approx({"mean": 0.5, "low": 0.5, "high": 0.5, "users": 30})
    assert gap["p"] == 1 / 2_001  # no regrouping reaches it


def test_the_largest_of_many_gaps_by_chance_is_told_from_one_that_is_not() -> None:
    rng, found = np.random.default_rng(0), []
    for seed in range(40):  # ten groups that do not differ: their best pair alone looks different
        values = (rng.random(300) < 0.2).astype(float)
        gap = largest_gap(evaluation(values), FIGURE, labels_of(*[30] * 10), seed=seed)
        assert gap is not None
        found.append((gap["p"], gap["gap"]["low"] > 0))
    p, alone = (np.array(column) for column in zip(*found, strict=True))
    assert np.mean(alone) > 0.3  # where 5 % were said
    assert np.mean(p <= 0.05) < 0.2
    assert 0.3 < np.mean(p) < 0.7


def test_small_and_unknown_groups_are_left_out_and_one_group_has_no_gap() -> None:
    labels = np.array(["a"] * 40 + ["b"] * 40 + ["c"] * 5 + [""] * 5)
    values = np.r_[np.zeros(40), np.full(40, 0.1), np.ones(10)]
    gap = largest_gap(evaluation(values), FIGURE, labels, seed=0)
    assert gap is not None
    assert (gap["best"], gap["left_out"]) == ("b", 10)
    assert set(gap["groups"]) == {"a", "b"}
    assert largest_gap(evaluation(np.zeros(USERS)), FIGURE, np.full(USERS, "all"), seed=0) is None


def test_holm_multiplies_by_how_many_are_left() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def history(items: list[int]) -> History:
    return History(np.array(items, dtype=np.int32), np.arange(len(items), dtype=np.int64))


def split(histories: list[list[int]], n_items: int = 10) -> Split:
    """Item 0 is had by most, item 9 by none but user 0; every item is of a decile of its own."""
    train = tuple(history(items) for items in histories)
    cases = tuple(Case(user, own, np.array([9], dtype=np.int32)) for user, own in enumerate(train))
    everything = np.ones(n_items, dtype=np.bool_)
    users = np.arange(len(train), dtype=np.int64)
    return Split("p1", n_items, users, train, everything, {"warm": cases}, {"warm": everything}, ~everything)


# User u has the items up to 9 - u: item 0 is had by all ten, item 9 by user 0 alone.
NESTED = split([list(range(10 - user)) for user in range(10)])


def test_exposure_sets_the_places_of_a_decile_beside_its_interactions() -> None:
    lists = [np.array([0, 1])] * 5 + [np.array([0, 9])] * 5
    found = exposure(evaluation(np.zeros(10), lists), NESTED, seed=0)
    assert [found[str(decile)]["slots"]["mean"] for decile in (1, 2, 10)] == [0.5, 0.25, 0.25]
    assert sum(row["slots"]["mean"] for row in found.values()) == pytest.approx(1)
    assert [found[str(decile)]["interactions"] for decile in (1, 10)] == pytest.approx([10 / 55, 1 / 55])


def test_the_distance_of_two_mixes_is_the_share_that_would_have_to_move() -> None:
    lists = [np.array(case.history.items) for case in NESTED.cases["warm"]]
    assert mix_distance(evaluation(np.zeros(10), lists), NESTED, seed=0) == pytest.approx(np.zeros(10))
    lists[9], lists[8] = np.array([9]), np.array([0, 9])  # their histories are item 0, and items 0 and 1
    assert mix_distance(evaluation(np.zeros(10), lists), NESTED, seed=0)[8:] == pytest.approx([0.5, 1.0])


def test_the_quarters_of_activity_are_by_training_length_and_leave_others_without_one() -> None:
    found = activity(split([list(range(n)) for n in (1, 2, 3, 4, 5, 6, 7, 8)]), 9)
    assert found.tolist() == ["1 to 2 items"] * 2 + ["3 to 4 items"] * 2 + ["5 to 6 items"] * 2 + [
        "7 to 8 items"
    ] * 2 + [""]


def test_the_price_follows_the_pair_of_the_plain_lists_and_is_paired() -> None:
    users = 80
    many = split([[0, 1]] * users)
    labels = labels_of(40, 40)
    plain = evaluation(np.repeat([0.5, 0.1], 40), [np.array([0])] * users)
    better = evaluation(np.repeat([0.4, 0.2], 40), [np.array([0, 1])] * users)
    found = price(plain, better, many, labels, seed=0)
    assert found["paired"]["warm/NDCG@10"]["mean"] == pytest.approx(0.0)
    assert found["gap"]["mean"] == pytest.approx(0.2)
    assert found["paired"]["gap"] == pytest.approx({"mean": -0.2, "low": -0.2, "high": -0.2})
    assert found["paired"]["mix_distance"]["mean"] == pytest.approx(-0.5)
