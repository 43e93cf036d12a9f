"""The evaluation on hand-made splits whose right figures are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from hushrec.common.catalog import Catalog
from hushrec.common.datasets import load_dataset
from hushrec.common.errors import ConfigError, DataError
from hushrec.common.interactions import Dataset, History, ImportReport
from hushrec.common.splits import Case, Split, build_split
from hushrec.server import ranking
from hushrec.server.controls import Popularity, Random
from hushrec.server.evaluation import Evaluation, evaluate, paired, retained_gain
from hushrec.server.leakcheck import Labels

N_ITEMS = 200


class Fixed:
    """Scores given by hand: the same row for every case, remembering how it was asked."""

    def __init__(self, row: np.ndarray, name: str = "fixed") -> None:
        self.name, self.row, self.asked = name, row.astype(np.float32), []

    def score(self, cases: Sequence[Case]) -> np.ndarray:
        self.asked.append(len(cases))
        return np.tile(self.row, (len(cases), 1))


def history(items: Sequence[int]) -> History:
    return History(np.array(items, dtype=np.int32), np.arange(len(items), dtype=np.int64))


def hand_made(n_users: int = 40, n_items: int = N_ITEMS, seed: int = 0) -> tuple[Dataset, Split]:
    rng = np.random.default_rng(seed)
    histories = tuple(history(rng.choice(n_items, 8, replace=False)) for _ in range(n_users))
    names = tuple(f"item {i}" for i in range(n_items))
    catalog = Catalog(names, names, names, np.full(n_items, -1, dtype=np.int32), ((),) * n_items)
    dataset = Dataset(
        "hand-made",
        catalog,
        tuple(map(str, range(n_users))),
        histories,
        ("",) * n_users,
        True,
        ImportReport(n_users * 8, n_users * 8, n_users, n_items),
    )
    return dataset, build_split(dataset, "p1", 0)


@pytest.fixture(scope="module")
def joint() -> tuple[Dataset, Split]:
    dataset = load_dataset("synthetic")
    return dataset, build_split(dataset, "joint", 0)


def test_figures_have_the_layout_of_results_json(joint: tuple[Dataset, Split]) -> None:
    dataset, split = joint
    found = evaluate(Random(split.n_items, seed=0), split, dataset, seed=0).figures
    warm = {"HR@10", "NDCG@10", "HR@50", "NDCG@50", "sampled99_HR@10", "sampled99_NDCG@10", "AUC"}
    assert set(found["warm"]) == warm
    assert set(found["tail"]) == warm | {"users"}
    assert {"Recall@20", "NDCG@20"} <= set(found["cold_items"])
    assert set(found["cold_users"]) == {"0", "1", "5"}
    assert all(set(figures) == {"Recall@20", "NDCG@20"} for figures in found["cold_users"].values())
    for figure in (found["coverage@10"], found["gini@10"], found["warm"]["AUC"], found["deciles"]["1"]["HR@10"]):
        assert figure["low"] <= figure["mean"] <= figure["high"]
    assert json.loads(json.dumps(found)) == found


def test_no_validation_case_is_reported_unless_asked_for(joint: tuple[Dataset, Split]) -> None:
    dataset, split = joint
    scorer = Random(split.n_items, seed=0)
    assert "validation" not in evaluate(scorer, split, dataset, seed=0).figures
    assert set(evaluate(scorer, split, dataset, seed=0, groups=["validation"]).figures) == {"validation"}


def test_tail_alone_and_tail_beside_warm_are_the_same(joint: tuple[Dataset, Split]) -> None:
    dataset, split = joint
    scorer = Random(split.n_items, seed=0)
    alone, all_groups = (evaluate(scorer, split, dataset, seed=0, groups=groups) for groups in (["tail"], None))
    assert alone.figures["tail"] == all_groups.figures["tail"]
    assert "warm" not in alone.figures


def test_tail_holds_the_warm_cases_with_a_tail_target(joint: tuple[Dataset, Split]) -> None:
    dataset, split = joint
    found = evaluate(Random(split.n_items, seed=0), split, dataset, seed=0)
    expected = [case.user for case in split.cases["warm"] if split.tail_items[case.targets[0]]]
    assert found.users["tail"].tolist() == expected
    assert found.figures["tail"]["users"] == len(expected)


def test_unknown_group_is_an_error_that_names_the_known_ones() -> None:
    dataset, split = hand_made()
    with pytest.raises(ConfigError, match=r"'warm'.*cold_items"):
        evaluate(Random(N_ITEMS, seed=0), split, dataset, seed=0, groups=["cold_items"])


def test_history_is_never_ranked_and_targets_always_are() -> None:
    _, split = hand_made()
    candidates = split.candidates["warm"]
    for ranked in ranking.rank_cases(Random(N_ITEMS, seed=0), split, "warm"):
        assert not set(ranked.items.tolist()) & set(ranked.case.history.items.tolist())
        assert ranked.items[ranked.targets].tolist() == ranked.case.targets.tolist()
        assert len(ranked.items) == candidates.sum() - len(ranked.case.history)


def test_a_target_stays_ranked_although_it_is_in_the_history() -> None:
    case = Case(0, history([3, 4]), np.array([4], dtype=np.int32))
    items, targets = ranking.ranked_items(case, np.ones(6, dtype=bool))
    assert items.tolist() == [0, 1, 2, 4, 5]
    assert items[targets].tolist() == [4]


def test_only_cold_items_compete_among_cold_items(joint: tuple[Dataset, Split]) -> None:
    dataset, split = joint
    below_all = np.where(split.warm_items, 1.0, 0.0)
    found = evaluate(Fixed(below_all), split, dataset, seed=0, groups=["cold_items"]).figures["cold_items"]
    assert found["Recall@20"]["mean"] > 0.0
    assert found["Recall@20_all"]["mean"] == 0.0


@pytest.fixture(scope="module")
def strict() -> tuple[Dataset, Split]:
    dataset = load_dataset("synthetic")
    return dataset, build_split(dataset, "p2", 0)


def test_p2_has_cold_items_alone_among_cold_and_among_all(strict: tuple[Dataset, Split]) -> None:
    dataset, split = strict
    random = evaluate(Random(split.n_items, seed=0), split, dataset, seed=0).figures
    assert set(random) == {"cold_items"}
    assert set(random["cold_items"]) == {"Recall@20", "NDCG@20", "Recall@20_all", "NDCG@20_all"}
    perfect = evaluate(Labels(split.n_items), split, dataset, seed=0).figures["cold_items"]
    assert all(figure["mean"] == pytest.approx(1.0) for figure in perfect.values())
    validation = evaluate(Labels(split.n_items), split, dataset, seed=0, groups=["validation"]).figures
    assert validation["validation"]["NDCG@20"]["mean"] == pytest.approx(1.0)


def test_p2_ranks_all_cold_items_but_the_users_own_validation_items(strict: tuple[Dataset, Split]) -> None:
    _, split = strict
    scorer = Random(split.n_items, seed=0)
    hidden = 0
    for ranked in ranking.rank_cases(scorer, split, "cold_items"):
        expected = set(np.flatnonzero(~split.warm_items).tolist()) - set(ranked.case.excluded.tolist())
        assert set(ranked.items.tolist()) == expected
        among_all, _ = ranking.ranked_items(ranked.case, np.ones(split.n_items, dtype=bool))
        assert set(among_all.tolist()) == expected | set(np.flatnonzero(split.warm_items).tolist()) - set(
            ranked.case.history.items.tolist()
        )
        hidden += len(ranked.case.excluded)
    assert hidden > 0
    for ranked in ranking.rank_cases(scorer, split, "validation"):
        assert ranked.items.tolist() == np.flatnonzero(split.candidates["validation"]).tolist()


@pytest.mark.parametrize("protocol", ["p1", "p2", "p3"])
def test_the_figure_of_choices_is_that_of_the_evaluation(protocol: str) -> None:
    dataset = load_dataset("synthetic")
    split = build_split(dataset, protocol, 0)
    scorer = Random(split.n_items, seed=1)
    full = evaluate(scorer, split, dataset, seed=0, groups=["validation"])
    values = full.per_user[f"validation/NDCG@{ranking.validation_top(protocol)}"]
    assert ranking.validation_ndcg(scorer, split, seed=0) == pytest.approx(values.mean())


def test_the_figure_of_choices_breaks_ties_between_many_targets_at_random(strict: tuple[Dataset, Split]) -> None:
    dataset, split = strict
    constant = Popularity(np.zeros(split.n_items))
    split = replace(split, candidates={**split.candidates, "validation": np.ones(split.n_items, dtype=bool)})
    drawn = [ranking.validation_ndcg(constant, split, seed=seed) for seed in range(30)]
    expected = [
        evaluate(Random(split.n_items, seed=seed), split, dataset, seed=seed, groups=["validation"])
        .per_user["validation/NDCG@20"]
        .mean()
        for seed in range(30)
    ]
    spread = float(np.std(drawn) + np.std(expected)) / 30**0.5
    assert np.mean(drawn) == pytest.approx(np.mean(expected), abs=4 * spread)


def test_p3_has_cold_users_alone() -> None:
    dataset = load_dataset("synthetic")
    split = build_split(dataset, "p3", 0)
    found = evaluate(Labels(split.n_items), split, dataset, seed=0).figures
    assert set(found) == {"cold_users"}
    for h in ("0", "1", "5"):
        assert found["cold_users"][h]["NDCG@20"]["mean"] == pytest.approx(1.0)


def test_negatives_were_never_seen_and_are_the_same_for_every_system() -> None:
    dataset, split = hand_made()
    seen_by = {user: set(dataset.histories[user].items.tolist()) for user in range(len(dataset))}
    # Everything a user ever saw scores high: if a seen item were drawn, the target would not be first.
    target_first = {case.user: case for case in split.cases["warm"]}

    class SeenHigh(Fixed):
        def score(self, cases: Sequence[Case]) -> np.ndarray:
            scores = super().score(cases)
            for row, case in zip(scores, cases, strict=True):
                row[list(seen_by[case.user])] = 2.0
                row[target_first[case.user].targets] = 1.0
            return scores

    found = evaluate(SeenHigh(np.zeros(N_ITEMS)), split, dataset, seed=0)
    assert found.figures["warm"]["sampled99_HR@10"]["mean"] == 1.0
    assert found.figures["warm"]["sampled99_NDCG@10"]["mean"] == 1.0
    # A monotone function of the scores draws the same negatives and hence has the same figures.
    row = np.random.default_rng(1).permutation(N_ITEMS)
    first, second = (evaluate(Fixed(x), split, dataset, seed=0) for x in (row, row**3 + 5))
    for figure, values in first.per_user.items():
        np.testing.assert_array_equal(values, second.per_user[figure])


def test_constant_scorer_is_at_random_level() -> None:
    dataset, split = hand_made(n_users=400)
    warm = evaluate(Fixed(np.zeros(N_ITEMS)), split, dataset, seed=0).figures["warm"]
    chance = 10 / (N_ITEMS - 7)
    assert warm["HR@10"]["low"] <= chance <= warm["HR@10"]["high"]
    assert warm["sampled99_HR@10"]["mean"] == pytest.approx(0.1, abs=0.03)
    assert warm["AUC"] == {"mean": 0.5, "low": 0.5, "high": 0.5}


def test_one_list_for_all_covers_ten_items() -> None:
    dataset, split = hand_made()
    never_seen = np.setdiff1d(np.arange(N_ITEMS), np.concatenate([h.items for h in dataset.histories]))
    row = np.zeros(N_ITEMS)
    row[never_seen[:10]] = 1.0
    found = evaluate(Fixed(row), split, dataset, seed=0).figures
    assert found["coverage@10"] == {"mean": 0.05, "low": 0.05, "high": 0.05}
    assert found["gini@10"]["mean"] == pytest.approx(0.95)


def test_blocks_do_not_change_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, split = hand_made()
    whole, parts = Fixed(np.zeros(N_ITEMS)), Fixed(np.zeros(N_ITEMS))
    expected = evaluate(whole, split, dataset, seed=0)
    monkeypatch.setattr(ranking, "_BLOCK_SCORES", 7 * N_ITEMS)
    found = evaluate(parts, split, dataset, seed=0)
    assert max(parts.asked) == 7
    assert whole.asked == [40]
    assert found.figures == expected.figures


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    dataset, split = hand_made()
    row = np.zeros(N_ITEMS)
    row[3] = bad
    with pytest.raises(DataError, match=r"system 'fixed'.*40 not finite"):
        evaluate(Fixed(row), split, dataset, seed=0)


def test_scores_of_another_catalogue_are_refused() -> None:
    dataset, split = hand_made()
    with pytest.raises(DataError, match=r"shape \(40, 200\)"):
        evaluate(Fixed(np.zeros(N_ITEMS + 1)), split, dataset, seed=0)


def test_validation_figure_is_the_ndcg_that_evaluate_reports() -> None:
    dataset, split = hand_made()
    scorer = Fixed(np.random.default_rng(2).permutation(N_ITEMS))
    reported = evaluate(scorer, split, dataset, seed=0, groups=["validation"]).figures["validation"]["NDCG@10"]["mean"]
    assert ranking.validation_ndcg(scorer, split, seed=0) == pytest.approx(reported)
    assert ranking.validation_ndcg(Labels(N_ITEMS), split, seed=0) == 1.0


def test_large_validation_sets_are_sampled_the_same_for_every_system() -> None:
    _, split = hand_made()
    first, second = (Fixed(np.zeros(N_ITEMS)) for _ in range(2))
    assert ranking.validation_ndcg(first, split, seed=0, max_cases=9) == ranking.validation_ndcg(
        second, split, seed=0, max_cases=9
    )
    assert first.asked == second.asked == [9]


def test_choosing_without_validation_cases_is_refused() -> None:
    _, split = hand_made()
    split.cases["validation"] = ()
    with pytest.raises(DataError, match="no validation case"):
        ranking.validation_ndcg(Random(N_ITEMS, seed=0), split, seed=0)


def test_deciles_are_equal_tenths_with_the_most_popular_first() -> None:
    _, split = hand_made()
    deciles, counts = ranking.popularity_deciles(split, seed=0), ranking.train_counts(split)
    assert np.bincount(deciles)[1:].tolist() == [N_ITEMS // 10] * 10
    assert all(counts[deciles == k].min() >= counts[deciles == k + 1].max() for k in range(1, 10))
    assert counts.sum() == sum(len(h) for h in split.train)


def test_paired_verdicts() -> None:
    dataset, split = hand_made(n_users=200)
    labels = evaluate(Labels(N_ITEMS), split, dataset, seed=0)
    random, other = (evaluate(Random(N_ITEMS, seed=s), split, dataset, seed=0) for s in (0, 1))
    assert paired(labels, random, "warm/NDCG@10", seed=0)["verdict"] == "above"
    assert paired(random, labels, "warm/NDCG@10", seed=0)["verdict"] == "below"
    assert paired(random, other, "warm/NDCG@10", seed=0)["verdict"] == "indistinguishable"
    assert paired(random, random, "warm/AUC", seed=0)["mean"] == 0.0


def test_paired_refuses_unknown_figures_and_other_cases() -> None:
    dataset, split = hand_made()
    here = evaluate(Popularity(np.zeros(N_ITEMS)), split, dataset, seed=0)
    with pytest.raises(ConfigError, match="warm/MRR"):
        paired(here, here, "warm/MRR", seed=0)
    dataset, split = hand_made(n_users=41)
    there = evaluate(Popularity(np.zeros(N_ITEMS)), split, dataset, seed=0)
    with pytest.raises(ConfigError, match="different cases"):
        paired(here, there, "warm/HR@10", seed=0)


def by_hand(values: np.ndarray) -> Evaluation:
    return Evaluation("by hand", {}, {"warm/HR@10": values}, {"warm": np.arange(len(values))})


def test_retained_gain_is_the_share_of_the_gain_that_privacy_leaves() -> None:
    frozen = np.random.default_rng(0).random(300)
    gain = retained_gain(by_hand(frozen + 0.05), by_hand(frozen), by_hand(frozen + 0.2), "warm/HR@10", seed=0)
    assert gain is not None
    assert [gain[end] for end in ("low", "mean", "high")] == pytest.approx([0.25] * 3)


def test_retained_gain_is_undefined_where_nothing_was_gained() -> None:
    rng = np.random.default_rng(0)
    systems = [by_hand(rng.random(300)) for _ in range(3)]
    assert retained_gain(*systems, "warm/HR@10", seed=0) is None
