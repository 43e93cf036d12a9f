"""A rule file measured on a run: the ranking is that of `recommend`, groups get their own rules, mistakes are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hushrec.common.errors import ConfigError
from hushrec.common.recommendation import recommend_items
from hushrec.common.rules import read_rules
from hushrec.simulations import rule_study
from hushrec.simulations.finished_run import FinishedRun
from hushrec.simulations.rule_study import RuledScorer, measure_rules

RULES = """
[[rule]]
name = "crime first"
action = "boost"
genres = ["crime"]
strength = 1.5

[[rule]]
name = "no horror for the young"
action = "exclude"
group = "young"
genres = ["horror"]
"""

NOTHING = RULES.rpartition("\n\n")[2]  # nobody is in its group


def rules_file(tmp_path: Path, text: str = RULES) -> Path:
    file = tmp_path / "rules.toml"
    file.write_text(text)
    return file


def test_the_ranking_is_that_of_recommend_under_the_same_rules(opened: FinishedRun, tmp_path: Path) -> None:
    file = read_rules(rules_file(tmp_path))
    rules = {name: file.apply(opened.catalog, name) for name in ("", "young")}
    groups = np.where(np.arange(len(opened.dataset)) % 2 == 0, "young", "")
    cases = opened.split.cases["warm"][:12]
    choices = opened.scorer.choices  # `recommend` is given histories alone, and is not told which items are new
    scorer = opened.scorer.with_choices(replace(choices, profile_weight=0.0, new_item_decay=choices.recency_decay))
    scores = RuledScorer(scorer, rules, groups).score(cases)
    assert {str(groups[case.user]) for case in cases} == {"", "young"}
    for row, case in zip(scores, cases, strict=True):
        own = rules[str(groups[case.user])]
        answer = recommend_items(scorer, opened.catalog, case.history.items, [], n=5, discovery=0.0, rules=own)
        expected = [opened.catalog.index_of(item.item_id) for item in answer.recommendations]
        row[case.history.items] = -np.inf
        assert row[expected] == pytest.approx(np.sort(row)[::-1][:5], abs=1e-5)  # whatever the order of equal scores
        assert row[own.allowed].max() > row[~own.allowed].max(initial=-np.inf)


def test_rules_that_change_nothing_change_no_figure(studied: Path, tmp_path: Path) -> None:
    found = measure_rules(studied, rules_file(tmp_path, NOTHING))
    assert (found["rules"], found["users"]) == (1, {"": found["users"][""]})
    assert found["forbidden"]["mean"] == 0.0
    for row in found["figures"].values():
        assert row["with"] == row["without"]
        assert row.get("difference", {"mean": 0.0})["mean"] == 0.0


def test_groups_are_the_users_labels_and_what_is_forbidden_them_is_counted(
    studied: Path, opened: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.where(np.arange(len(opened.dataset)) % 3 == 0, "young", "old")
    monkeypatch.setattr(rule_study, "read_user_attributes", lambda config, dataset: {"age": labels})
    found = measure_rules(studied, rules_file(tmp_path), attribute="age")
    assert found["users"] == {"": int((labels == "old").sum()), "young": int((labels == "young").sum())}
    horror = np.array(["Horror" in genres for genres in opened.catalog.genres])
    cases = opened.split.cases["warm"]
    share = np.mean([labels[case.user] == "young" and horror[case.targets[0]] for case in cases])
    assert share > 0
    assert found["forbidden"]["mean"] == pytest.approx(share)
    assert found["figures"]["warm/NDCG@10"]["with"] != found["figures"]["warm/NDCG@10"]["without"]
    with pytest.raises(ConfigError, match="no user is in the group 'teens' of the rules; by age there are: old, young"):
        measure_rules(studied, rules_file(tmp_path, RULES.replace('"young"', '"teens"')), attribute="age")


def test_groups_without_attributes_are_refused(studied: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tell no gender of users; leave out --group-by"):
        measure_rules(studied, rules_file(tmp_path), attribute="gender")
    with pytest.raises(ConfigError, match="expected --group-by to be one of age"):
        measure_rules(studied, rules_file(tmp_path), attribute="shoe size")
