"""Planted leaks in exported scores are found; clean recommenders on clean protocols are not accused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from hushrec.common.datasets import load_dataset
from hushrec.common.splits import Split, build_split
from hushrec.server.controls import fit_controls
from hushrec.server.leakcheck import LeakCheck
from hushrec.server.score_checks import check_scores
from hushrec.server.score_lists import Pairs, ScoreLists

CLEAN = ("random", "popularity", "item_knn", "ease")


def pairs(user: np.ndarray, item: np.ndarray, n_items: int) -> Pairs:
    keys, counts = np.unique(user * n_items + item, return_counts=True)
    return Pairs(keys // n_items, keys % n_items, counts.astype(float))


@cache
def split_and_scores() -> tuple[Split, dict[str, np.ndarray]]:
    split = build_split(load_dataset("synthetic"), "p1", 0)
    controls = fit_controls(split, seed=0)
    return split, {name: controls[name].score(split.cases["warm"]).astype(float) for name in CLEAN}


def export(scores: np.ndarray, *, seed: int = 0, negatives: int = 50, first: bool = False) -> ScoreLists:
    """The warm cases of the synthetic set against sampled negatives that the user never saw, in random order."""
    split, _ = split_and_scores()
    rng, cases = np.random.default_rng(seed), split.cases["warm"]
    user, item, target = [], [], []
    for number, case in enumerate(cases):
        seen = np.concatenate([case.history.items, case.targets])
        others = rng.choice(np.setdiff1d(np.arange(split.n_items), seen), negatives, replace=False)
        listed = np.concatenate([case.targets, others])
        order = np.arange(len(listed)) if first else rng.permutation(len(listed))
        user.append(np.full(len(listed), number))
        item.append(listed[order].astype(np.int64))
        target.append(order < len(case.targets))
    train = pairs(
        np.repeat(np.arange(len(cases)), [len(case.history) for case in cases]),
        np.concatenate([case.history.items for case in cases]),
        split.n_items,
    )
    users, items = np.concatenate(user), np.concatenate(item)
    return ScoreLists(
        tuple(str(case.user) for case in cases),
        tuple(str(i) for i in range(split.n_items)),
        np.concatenate([[0], np.cumsum([len(listed) for listed in item])]),
        users,
        items,
        scores[users, items],
        np.concatenate(target),
        train=train,
    )


def draws(lists: ScoreLists, *, seed: int, number: int = 400, mask: bool = True, spare: bool = False) -> Pairs:
    """Negatives drawn uniformly; `mask`: outside the user's training, `spare`: and outside the test items."""
    rng, n_items = np.random.default_rng(seed), len(lists.items)
    assert lists.train is not None
    drawn = []
    for user, span in enumerate(lists.spans()):
        pool = np.arange(n_items)
        if mask:
            pool = np.setdiff1d(pool, lists.train.item[lists.train.user == user])
        if spare:
            pool = np.setdiff1d(pool, lists.item[span][lists.target[span]])
        drawn.append(rng.choice(pool, number))
    return pairs(np.repeat(np.arange(len(lists)), number), np.concatenate(drawn), n_items)


def checks(lists: ScoreLists) -> dict[str, LeakCheck]:
    return {check.name: check for check in check_scores(lists).checks}


def leaks(lists: ScoreLists) -> set[str]:
    return {name for name, check in checks(lists).items() if check.leaks}


@pytest.fixture
def random() -> ScoreLists:
    return export(split_and_scores()[1]["random"])


@pytest.mark.parametrize("name", CLEAN)
@pytest.mark.parametrize("mask", [True, False])
def test_clean_recommenders_are_not_accused(name: str, mask: bool) -> None:
    """Each of five tests errs at most once in 1,000: one accusation in 10 evaluations is excused."""
    accused = []
    for seed in range(10):
        lists = export(split_and_scores()[1][name], seed=seed)
        accused += sorted(leaks(replace(lists, draws=draws(lists, seed=seed, mask=mask))))
    assert len(accused) <= 1


def test_clean_figures_come_with_chance_and_popularity() -> None:
    report = check_scores(export(split_and_scores()[1]["ease"]))
    assert report.figures["scores"]["NDCG@10"]["low"] > report.figures["popularity"]["NDCG@10"]["high"]
    assert report.figures["random"]["HR@10"]["mean"] == pytest.approx(10 / 51)
    found = {check.name: check for check in report.checks}
    assert found["popularity"].detail.endswith("better")
    assert found["level"].verdict == "no leak found"


def test_a_score_no_better_than_counting_is_said_so() -> None:
    found = checks(export(split_and_scores()[1]["popularity"]))
    assert "NO better than counting" in found["popularity"].detail
    assert "a popularity list" in found["personal scores"].detail


def test_without_the_files_the_checks_that_need_them_cannot_tell(random: ScoreLists) -> None:
    found = checks(replace(random, train=None))
    untold = {name for name, check in found.items() if check.verdict == "cannot tell"}
    assert untold == {
        "test items in training", "training items as negatives", "unseen items", "popularity", "own draws", "all draws"
    }  # fmt: skip


def test_negatives_that_avoid_the_test_item_are_caught_whatever_the_scores(random: ScoreLists) -> None:
    found = checks(replace(random, draws=draws(random, seed=1, number=2_000, spare=True)))["own draws"]
    assert found.leaks
    assert "HR@10 1.000" in found.detail
    assert found.p_value is not None
    assert found.p_value < 1e-6
    assert found.value > found.high


def test_too_few_draws_cannot_tell(random: ScoreLists) -> None:
    found = checks(replace(random, draws=draws(random, seed=2, number=1)))["own draws"]
    assert found.verdict == "cannot tell"


def test_draws_that_avoid_everybodys_test_items_show_in_all_draws(random: ScoreLists) -> None:
    """One shared pool without the test items: every user's own counts tell, and so do the totals."""
    items = np.setdiff1d(np.arange(len(random.items)), random.item[random.target][:30])
    rng = np.random.default_rng(3)
    shared = pairs(np.repeat(np.arange(len(random)), 200), rng.choice(items, 200 * len(random)), len(random.items))
    assert "all draws" in leaks(replace(random, draws=shared))
    found = checks(replace(random, draws=shared, train=None))["all draws"]
    assert found.verdict in ("cannot tell", "no leak found")


def test_masking_own_training_items_is_no_leak_once_training_is_known() -> None:
    """Popularity falls like 1 / rank: masked items are rarely drawn, and test items are popular."""
    rng, n_users, n_items = np.random.default_rng(0), 400, 200
    weights = 1.0 / np.arange(1, n_items + 1)
    own = np.stack([rng.choice(n_items, 15, replace=False, p=weights / weights.sum()) for _ in range(n_users)])
    listed = np.stack(
        [np.append(o[-1], rng.choice(np.setdiff1d(np.arange(n_items), o), 30, replace=False)) for o in own]
    )
    drawn = np.stack([rng.choice(np.setdiff1d(np.arange(n_items), o[:-1]), 200) for o in own])
    everyone = np.arange(n_users)
    lists = ScoreLists(
        tuple(map(str, everyone)),
        tuple(map(str, range(n_items))),
        np.arange(n_users + 1) * 31,
        np.repeat(everyone, 31),
        listed.ravel(),
        rng.random(31 * n_users),
        np.tile(np.arange(31) == 0, n_users),
        train=pairs(np.repeat(everyone, 14), own[:, :-1].ravel(), n_items),
        draws=pairs(np.repeat(everyone, 200), drawn.ravel(), n_items),
    )
    assert checks(lists)["all draws"].verdict == "no leak found"
    assert "own items masked" in checks(lists)["all draws"].detail
    unknown = checks(replace(lists, train=None))["all draws"]
    assert unknown.verdict == "cannot tell"
    assert "--train" in unknown.detail


def test_a_constant_score_is_worth_chance_and_the_row_order_is_caught() -> None:
    flat = np.zeros_like(split_and_scores()[1]["random"])
    shuffled, first = checks(export(flat)), checks(export(flat, first=True))
    for found in (shuffled, first):
        assert "HR@10 is 0.196 with equal scores in random order, 1.000 in favour" in found["ties"].detail
        assert found["ties"].verdict == "cannot tell"
    assert shuffled["row order"].verdict == "no leak found"
    assert first["row order"].verdict == "LEAK"
    assert "stand before" in first["row order"].detail


def test_a_test_item_that_is_always_last_is_caught_too() -> None:
    lists = export(np.zeros_like(split_and_scores()[1]["random"]), first=True)
    backward = np.concatenate([np.arange(span.start, span.stop)[::-1] for span in lists.spans()])
    found = checks(replace(lists, item=lists.item[backward], target=lists.target[backward]))["row order"]
    assert found.leaks
    assert "stand after" in found.detail


def test_a_fixed_place_without_ties_is_no_leak() -> None:
    assert leaks(export(split_and_scores()[1]["random"], first=True)) == set()


def test_test_items_in_training_are_caught(random: ScoreLists) -> None:
    assert random.train is not None
    rows = np.flatnonzero(random.target)[:3]
    train = pairs(
        np.append(random.train.user, random.user[rows]),
        np.append(random.train.item, random.item[rows]),
        len(random.items),
    )
    found = checks(replace(random, train=train))["test items in training"]
    assert found.leaks
    assert found.value == pytest.approx(3 / np.count_nonzero(random.target))


def trained_negatives(lists: ScoreLists, number: int) -> np.ndarray:
    """Replace the first `number` negatives of each list by items of the user's training; which rows they are."""
    assert lists.train is not None
    changed = np.zeros(len(lists.item), dtype=bool)
    for user, span in enumerate(lists.spans()):
        own = lists.train.item[lists.train.user == user][:number]
        rows = span.start + np.flatnonzero(~lists.target[span])[: len(own)]
        lists.item[rows] = own
        changed[rows] = True
    return changed


def test_negatives_from_the_users_training_are_caught_where_they_are_no_competition(random: ScoreLists) -> None:
    changed = trained_negatives(random, 3)
    found = checks(random)["training items as negatives"]
    assert found.verdict == "cannot tell"
    assert found.value == pytest.approx(3 / 50)
    masked = replace(random, score=np.where(changed, -1e9, random.score))
    assert leaks(masked) == {"training items as negatives"}


def test_a_full_ranking_may_list_the_whole_history(random: ScoreLists) -> None:
    trained_negatives(random, 14)
    found = checks(random)["training items as negatives"]
    assert found.verdict == "no leak found"
    assert "the whole history" in found.detail


def test_repeated_rows_are_caught(random: ScoreLists) -> None:
    assert checks(random)["repeated rows"].value == 0.0
    start = random.starts[0]
    negatives = np.flatnonzero(~random.target[: random.starts[1]]) + start
    target = int(np.flatnonzero(random.target)[0])
    twice = random.item.copy()
    twice[negatives[0]] = random.item[target]
    found = checks(replace(random, item=twice))["repeated rows"]
    assert found.leaks
    assert "1 test items" in found.detail
    few = random.item.copy()
    for span in random.spans():
        rows = span.start + np.flatnonzero(~random.target[span])
        few[rows] = np.resize(random.item[rows[:5]], len(rows))
    assert checks(replace(random, item=few))["repeated rows"].leaks


def test_held_out_items_without_a_score_are_reported(random: ScoreLists) -> None:
    found = checks(replace(random, unscored=len(random)))["unscored test items"]
    assert found.verdict == "cannot tell"
    assert "Recall@10 falls" in found.detail


def unseen(lists: ScoreLists, share: float) -> ScoreLists:
    """The same without training interactions of a random share of the items."""
    assert lists.train is not None
    gone = np.random.default_rng(4).random(len(lists.items)) < share
    keep = ~gone[lists.train.item]
    fields = (lists.train.user[keep], lists.train.item[keep], lists.train.count[keep])
    return replace(lists, train=Pairs(*fields))


def test_unseen_items_above_everything_are_caught(random: ScoreLists) -> None:
    lists = unseen(random, 0.2)
    assert lists.train is not None
    assert checks(lists)["unseen items"].verdict == "no leak found"
    new = ~np.isin(lists.item, lists.train.item)
    assert leaks(replace(lists, score=lists.score + 2.0 * new)) == {"unseen items"}
    assert checks(unseen(random, 0.9))["unseen items"].verdict == "cannot tell"


def test_the_labels_themselves_are_too_good(random: ScoreLists) -> None:
    found = checks(replace(random, score=random.target.astype(float)))["level"]
    assert found.verdict == "cannot tell"
    assert "as the labels" in found.detail


def test_lists_that_are_too_short_mean_nothing() -> None:
    found = checks(export(split_and_scores()[1]["random"], negatives=8))["level"]
    assert found.verdict == "cannot tell"
    assert "too short" in found.detail


def test_users_with_several_test_items_are_ranked(random: ScoreLists) -> None:
    several = random.target.copy()
    for span in random.spans():
        several[span.start + np.flatnonzero(~random.target[span])[:2]] = True
    report = check_scores(replace(random, target=several))
    figures: Callable[[str], float] = lambda name: report.figures["random"][name]["mean"]  # noqa: E731
    assert figures("Recall@10") == pytest.approx(10 / 51)
    assert figures("HR@10") > 2 * figures("Recall@10")
    assert not {check.name for check in report.checks if check.leaks}
