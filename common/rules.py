"""A rule file: what a person excludes, requires, boosts or wants to see first, by public attributes of items.

Rules act when items are ranked; they train nothing and know nothing of a user but the group that is named.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hushrec.common.catalog import Catalog
from hushrec.common.constraints import YearRange, inside
from hushrec.common.errors import ConfigError, DataError

Action = Literal["exclude", "require", "boost", "review"]
ACTIONS: tuple[Action, ...] = get_args(Action)
MOST_STRENGTH = 10.0  # standard deviations; more would be a requirement in disguise
_ATTRIBUTES = ("genres", "years", "title-words", "items")
_RULE_KEYS = ("name", "action", "group", "strength", *_ATTRIBUTES)
_FILE_KEYS = ("rule", "blocklist", "approved")


@dataclass(frozen=True)
class Rule:
    """One rule; an item matches where every attribute that is given fits.

    Attributes:
        name: unique in its file.
        action: exclude: no matching item; require: only matching items; boost: `strength` more for matching items;
            review: no matching item before a person approves it.
        group: of users; "" = everyone.
        genres: an item needs one of them.
        years: first and last, both inside; an item of unknown year does not match.
        title_words: an item's title needs one of these words.
        items: an item needs one of these ids.
        strength: of a boost, in standard deviations of the scores; negative ranks lower.
    """

    name: str
    action: Action
    group: str = ""
    genres: tuple[str, ...] = ()
    years: YearRange | None = None
    title_words: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    strength: float = 0.0

    def matches(self, catalog: Catalog) -> NDArray[np.bool_]:
        """(items,) which items it is about.

        Raises:
            ConfigError: a genre or an item that the catalogue does not have.
        """
        found = np.ones(len(catalog), dtype=np.bool_)
        if self.genres:
            found &= catalog.of_genres(self._known_genres(catalog))
        if self.years:
            found &= inside(catalog.years, self.years) & (catalog.years >= 0)
        if self.title_words:
            found &= catalog.of_title_words(self.title_words)
        if self.items:
            found &= _positions(self.items, catalog, f"rule {self.name!r}")
        return found

    def _known_genres(self, catalog: Catalog) -> Iterable[str]:
        known: dict[str, list[str]] = {}
        for genre in catalog.genre_members:
            known.setdefault(genre.lower(), []).append(genre)
        for genre in self.genres:
            if genre.lower() not in known:
                near = difflib.get_close_matches(genre.lower(), known, n=3, cutoff=0.5) or sorted(known)
                raise ConfigError(
                    f"rule {self.name!r}: the catalogue has no genre {genre!r}; "
                    f"it has {', '.join(known[name][0] for name in near)}"
                )
            yield from known[genre.lower()]


@dataclass(frozen=True, eq=False)
class AppliedRules:
    """What a rule file says of one catalogue and one group of users.

    Attributes:
        allowed: bool (items,).
        boost: float64 (items,), in standard deviations of the scores.
        waiting: bool (items,), what a person has to approve first; never allowed.
    """

    allowed: NDArray[np.bool_]
    boost: NDArray[np.float64]
    waiting: NDArray[np.bool_]


@dataclass(frozen=True)
class RuleFile:
    """Rules in the order of their file, items that nobody is shown, and reviewed items that a person approved."""

    rules: tuple[Rule, ...] = ()
    blocklist: tuple[str, ...] = ()
    approved: tuple[str, ...] = ()

    def apply(self, catalog: Catalog, group: str = "") -> AppliedRules:
        """What it says of `catalog` for users of `group`; rules of other groups do not count.

        Guarantees:
            - an excluded, blocked or waiting item is never allowed.
            - every allowed item satisfies every requirement.
        Raises:
            ConfigError: a group that no rule names, or what the catalogue does not have.
        """
        groups = {rule.group for rule in self.rules if rule.group}
        if group and group not in groups:
            raise ConfigError(f"no rule names the group {group!r}; the rules name {sorted(groups) or 'no group'}")
        allowed = ~_positions(self.blocklist, catalog, "blocklist")
        boost, waiting = np.zeros(len(catalog)), np.zeros(len(catalog), dtype=np.bool_)
        for rule in self.rules:
            found = rule.matches(catalog)  # a mistake in another group's rule is found too
            if rule.group not in ("", group):
                continue
            if rule.action == "exclude":
                allowed &= ~found
            elif rule.action == "require":
                allowed &= found
            elif rule.action == "boost":
                boost[found] += rule.strength
            else:
                waiting |= found
        waiting &= ~_positions(self.approved, catalog, "approved")
        return AppliedRules(allowed & ~waiting, boost, waiting)


def read_rules(path: Path) -> RuleFile:
    """Read a rule file.

    Raises:
        ConfigError: not readable, no TOML, or a rule that is incomplete; names the file and the rule.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the rules {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    try:
        return parse_rules(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_rules(content: dict[str, Any]) -> RuleFile:
    """The rules of a file's content, as TOML or JSON has it.

    Raises:
        ConfigError: a rule that is incomplete; names it.
    """
    _only(content, _FILE_KEYS, "the file")
    tables = content.get("rule", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError("write every rule as a table of its own, under [[rule]]")
    rules = tuple(_rule(table, number) for number, table in enumerate(tables, start=1))
    names = Counter(rule.name for rule in rules)
    if again := [name for name, count in names.items() if count > 1]:
        raise ConfigError(f"two rules are called {again[0]!r}; give each a name of its own")
    lists = {key: _texts(content, key, "the file") for key in ("blocklist", "approved")}
    return RuleFile(rules, **lists)


def _rule(table: dict[str, Any], number: int) -> Rule:
    name = table.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"rule number {number}: expected a name in words, got {name!r}")
    place = f"rule {name!r}"
    _only(table, _RULE_KEYS, place)
    action, group = table.get("action"), table.get("group", "")
    if action not in ACTIONS:
        raise ConfigError(f"{place}: expected action to be one of {', '.join(ACTIONS)}, got {action!r}")
    if not isinstance(group, str) or ("group" in table and not group.strip()):
        raise ConfigError(f"{place}: expected group as a name, got {group!r}; leave it out for everyone")
    if not any(key in table for key in _ATTRIBUTES):
        raise ConfigError(f"{place}: say which items it is about, by {', '.join(_ATTRIBUTES)}")
    genres, words, items = (_texts(table, key, place) for key in ("genres", "title-words", "items"))
    if spaced := [word for word in words if re.fullmatch(r"\w+", word) is None]:
        raise ConfigError(f"{place}: expected title-words as single words, got {spaced[0]!r}")
    rule = Rule(name, action, group, genres, _years(table, place), words, items)
    if (action == "boost") != ("strength" in table):
        raise ConfigError(f"{place}: strength is for the action boost, which needs it")
    return replace(rule, strength=_strength(table, place)) if action == "boost" else rule


def _only(table: dict[str, Any], keys: tuple[str, ...], place: str) -> None:
    if unknown := [key for key in table if key not in keys]:
        raise ConfigError(f"{place}: unknown key {unknown[0]!r}; known: {', '.join(keys)}")


def _texts(table: dict[str, Any], key: str, place: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
        raise ConfigError(f'{place}: expected {key} as a list of texts such as ["one", "two"], got {value!r}')
    if not value and key in _ATTRIBUTES and key in table:
        raise ConfigError(f"{place}: {key} is empty; leave it out or name what it is about")
    return tuple(value)


def _years(table: dict[str, Any], place: str) -> YearRange | None:
    if "years" not in table:
        return None
    value = table["years"]
    if not isinstance(value, list) or len(value) != 2 or any(type(year) is not int for year in value):
        raise ConfigError(f"{place}: expected years as [first, last], got {value!r}")
    if value[0] > value[1]:
        raise ConfigError(f"{place}: the first year {value[0]} is after the last, {value[1]}")
    return value[0], value[1]


def _strength(table: dict[str, Any], place: str) -> float:
    value = table["strength"]
    if type(value) not in (int, float) or not 0 < abs(value) <= MOST_STRENGTH:
        raise ConfigError(f"{place}: expected strength other than 0, from -10 to 10, got {value!r}")
    return float(value)


def _positions(items: tuple[str, ...], catalog: Catalog, place: str) -> NDArray[np.bool_]:
    """(items,) where these ids are.

    Raises:
        ConfigError: the catalogue has no such item.
    """
    found = np.zeros(len(catalog), dtype=np.bool_)
    for item_id in items:
        try:
            found[catalog.index_of(item_id)] = True
        except DataError as error:
            raise ConfigError(f"{place}: {error}") from error
    return found
