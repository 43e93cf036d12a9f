"""Rule files: excluded items never appear, requirements always hold, boosts are monotone, mistakes are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hushrec.common.catalog import Catalog
from hushrec.common.errors import ConfigError
from hushrec.common.recommendation import recommend_items
from hushrec.common.rules import Rule, RuleFile, read_rules
from hushrec.common.scoring import ScoringChoices, VectorScorer

N = 12
GENRES = (("Comedy",), ("Horror",), ("Comedy", "War"), ())
CATALOG = Catalog(
    tuple(f"i{item}" for item in range(N)),
    tuple(f"Film number{item}" for item in range(N)),
    tuple(f"Film number{item}" for item in range(N)),
    np.array([-1, *range(1980, 1980 + N - 1)], dtype=np.int32),
    tuple(GENRES[item % len(GENRES)] for item in range(N)),
)


class Known(VectorScorer):
    """Scores from drawn vectors."""

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.item_vectors = self.history_vectors = rng.normal(size=(N, 4)).astype(np.float32)
        self.prior, self.scale = rng.random(N).astype(np.float32), 1.0
        self.choices, self._head = ScoringChoices(), np.eye(4, dtype=np.float32)


SCORER = Known()


def ranked(rules: RuleFile, *history: int, group: str = "") -> list[int]:
    """Catalogue positions, best first."""
    items = np.array(history, dtype=np.int32)
    answer = recommend_items(
        SCORER, CATALOG, items, [], n=N, discovery=0.0, rules=rules.apply(CATALOG, group)
    ).recommendations
    return [CATALOG.index_of(item.item_id) for item in answer]


YEARS = st.tuples(st.integers(1975, 1995), st.integers(1975, 1995)).map(lambda ends: (min(ends), max(ends)))
MATCHES = st.fixed_dictionaries(
    {},
    optional={
        "genres": st.lists(st.sampled_from(["Comedy", "horror", "War"]), min_size=1, max_size=2).map(tuple),
        "years": YEARS,
        "title_words": st.sampled_from([("film",), ("number3", "number4")]),
        "items": st.lists(st.sampled_from(CATALOG.item_ids), min_size=1, max_size=4).map(tuple),
    },
).filter(bool)
HISTORY = st.lists(st.integers(0, N - 1), max_size=4, unique=True)
IDS = st.lists(st.sampled_from(CATALOG.item_ids), max_size=3).map(tuple)


@given(about=MATCHES, history=HISTORY, blocked=IDS)
def test_excluded_and_blocked_items_never_appear_and_all_others_do(
    about: dict[str, Any], history: list[int], blocked: tuple[str, ...]
) -> None:
    rule = Rule("out", "exclude", **about)
    gone = set(np.flatnonzero(rule.matches(CATALOG))) | {CATALOG.index_of(item) for item in blocked} | set(history)
    assert set(ranked(RuleFile((rule,), blocked), *history)) == set(range(N)) - gone


@given(first=MATCHES, second=MATCHES, history=HISTORY)
def test_requirements_always_hold(first: dict[str, Any], second: dict[str, Any], history: list[int]) -> None:
    rules = (Rule("a", "require", **first), Rule("b", "require", **second))
    both = rules[0].matches(CATALOG) & rules[1].matches(CATALOG)
    assert set(ranked(RuleFile(rules), *history)) == set(np.flatnonzero(both)) - set(history)


@given(about=MATCHES, history=HISTORY, strengths=st.tuples(st.floats(-10, 10), st.floats(-10, 10)))
def test_a_stronger_boost_never_ranks_a_matching_item_lower(
    about: dict[str, Any], history: list[int], strengths: tuple[float, float]
) -> None:
    weak, strong = sorted(strengths)
    orders = [ranked(RuleFile((Rule("b", "boost", strength=s, **about),)), *history) for s in (weak, strong)]
    matching = Rule("b", "boost", **about).matches(CATALOG)
    for item in set(orders[0]) & set(np.flatnonzero(matching)):
        assert orders[1].index(item) <= orders[0].index(item)


@given(about=MATCHES, approved=IDS)
def test_a_review_rule_holds_items_back_until_they_are_approved(
    about: dict[str, Any], approved: tuple[str, ...]
) -> None:
    rule = Rule("look first", "review", **about)
    file = RuleFile((rule,), approved=approved)
    waiting = set(np.flatnonzero(rule.matches(CATALOG))) - {CATALOG.index_of(item) for item in approved}
    assert set(np.flatnonzero(file.apply(CATALOG).waiting)) == waiting
    assert set(ranked(file, 1)) == set(range(N)) - waiting - {1}


def test_a_rule_of_a_group_counts_for_that_group_only() -> None:
    rules = RuleFile((Rule("out", "exclude", group="children", genres=("Horror",)),))
    assert 1 in ranked(rules)
    assert 1 not in ranked(rules, group="children")
    with pytest.raises(ConfigError, match=r"no rule names the group 'chilren'.*children"):
        rules.apply(CATALOG, "chilren")


def test_where_rules_leave_nothing_the_note_says_so() -> None:
    applied = RuleFile((Rule("none", "require", years=(1900, 1901)),)).apply(CATALOG)
    answer = recommend_items(SCORER, CATALOG, np.array([1], dtype=np.int32), [], n=3, discovery=0.0, rules=applied)
    assert answer.recommendations == ()
    assert answer.note == "nothing is left to recommend under these rules"


def test_a_file_is_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(
        'blocklist = ["i1"]\napproved = ["i2"]\n'
        '[[rule]]\nname = "a"\naction = "boost"\nstrength = 0.5\ngroup = "kids"\n'
        'genres = ["War"]\nyears = [1980, 1990]\n'
        '[[rule]]\nname = "b"\naction = "review"\ntitle-words = ["number3"]\nitems = ["i3"]\n'
    )
    assert read_rules(path) == RuleFile(
        (
            Rule("a", "boost", "kids", ("War",), (1980, 1990), strength=0.5),
            Rule("b", "review", title_words=("number3",), items=("i3",)),
        ),
        ("i1",),
        ("i2",),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rule = 3", r"under \[\[rule\]\]"),
        ("blocked = []", "unknown key 'blocked'; known: rule, blocklist, approved"),
        ('blocklist = "i1"', "expected blocklist as a list of texts"),
        ("[[rule]]\naction = 'exclude'", "rule number 1: expected a name"),
        ("[[rule]]\nname = 'x'\naction = 'ban'\nitems = ['i1']", "rule 'x': expected action to be one of exclude, req"),
        ("[[rule]]\nname = 'x'\naction = 'exclude'", "rule 'x': say which items it is about"),
        ("[[rule]]\nname = 'x'\naction = 'exclude'\ngenre = ['War']", "rule 'x': unknown key 'genre'"),
        ("[[rule]]\nname = 'x'\naction = 'exclude'\ngenres = []", "rule 'x': genres is empty"),
        ("[[rule]]\nname = 'x'\naction = 'exclude'\ngroup = ''\nitems = ['i1']", "rule 'x': expected group as a name"),
        ("[[rule]]\nname = 'x'\naction = 'exclude'\nyears = [1990, 1980]", "rule 'x': the first year 1990 is after"),
        ("[[rule]]\nname = 'x'\naction = 'exclude'\nyears = 1990", r"rule 'x': expected years as \[first, last\]"),
        ("[[rule]]\nname = 'x'\naction = 'boost'\nitems = ['i1']", "rule 'x': strength is for the action boost"),
        ("[[rule]]\nname = 'x'\naction = 'boost'\nstrength = 11\nitems = ['i1']", "rule 'x': expected strength"),
        ("[[rule]]\nname = 'x'\naction = 'boost'\nstrength = nan\nitems = ['i1']", "rule 'x': expected strength"),
        (
            "[[rule]]\nname = 'x'\naction = 'exclude'\ntitle-words = ['toy story']",
            "rule 'x': expected title-words as s",
        ),
        ("[[rule]]\nname = 'x'\naction = 'exclude'\nitems = ['i1']\n" * 2, "two rules are called 'x'"),
        ("[[rule", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_the_name_of_file_and_rule(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as raised:
        read_rules(path)
    assert "rules.toml" in str(raised.value)
    with pytest.raises(ConfigError, match="cannot read the rules"):
        read_rules(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (RuleFile((Rule("x", "exclude", genres=("Comdy",)),)), "rule 'x': the catalogue has no genre 'Comdy'.*Comedy"),
        (RuleFile((Rule("x", "exclude", "kids", items=("i99",)),)), "rule 'x': no item with id 'i99'"),
        (RuleFile(blocklist=("j1",)), "blocklist: no item with id 'j1'"),
        (RuleFile(approved=("j1",)), "approved: no item with id 'j1'"),
    ],
)
def test_what_the_catalogue_does_not_have_is_refused(rules: RuleFile, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rules.apply(CATALOG)
