"""The protocols of the benchmark: who trains on what, and which held-out cases are scored.

It computes no figure; server/evaluation.py does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hushrec.common.errors import ConfigError
from hushrec.common.identity import public_hashes
from hushrec.common.interactions import Dataset, History

PROTOCOLS = ("p1", "joint", "p2", "p3")
COLD_USER_HISTORIES = (0, 1, 5)
_COLD_ITEM_SHARE = 0.1
_STRICT_COLD_ITEM_SHARE = 0.2  # p2
_PANEL_SHARE = 0.2
_HEAD_SHARE = 0.2
_VALIDATION_TARGETS = 5


@dataclass(frozen=True, eq=False)
class Case:
    """One question to a recommender: given `history`, where does it rank `targets`?

    Attributes:
        user: position in the data set.
        history: all the recommender may see of the user; may be empty only in "cold_users/0".
        targets: int32 (n,), n >= 1, distinct, none of them in `history`.
        excluded: int32 (m,), the user's items of another held-out part: neither shown nor ranked.
    """

    user: int
    history: History
    targets: NDArray[np.int32]
    excluded: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, dtype=np.int32))


@dataclass(frozen=True, eq=False)
class Split:
    """Training histories and held-out cases of one protocol.

    Attributes:
        users: int64 (n,), data set positions of the training users, ascending.
        train: aligned with `users`; all that any client ever sees; never empty histories.
        warm_items: bool (n_items,); p1, p3: all True; joint, p2: the items that are not cold.
        cases: group -> cases, ordered by user. p1: "validation", "warm". joint: "validation", "warm", "cold_items",
            "cold_users/0", "cold_users/1", "cold_users/5". p2: "validation", "cold_items". p3: "validation" and the
            three "cold_users". A group may be empty. A "validation" case has one target, in p2 one or more.
        candidates: group -> bool (n_items,), the items to be ranked.
        tail_items: bool (n_items,), warm items outside the 20 % most popular in training.
        left_out: reason -> users for whom it holds; nobody is left out silently.
    """

    protocol: str
    n_items: int
    users: NDArray[np.int64]
    train: tuple[History, ...]
    warm_items: NDArray[np.bool_]
    cases: dict[str, tuple[Case, ...]]
    candidates: dict[str, NDArray[np.bool_]]
    tail_items: NDArray[np.bool_]
    left_out: Mapping[str, int] = field(default_factory=dict)


def build_split(dataset: Dataset, protocol: str, seed: int) -> Split:
    """Split a data set by one protocol.

    p1: leave-one-out; users with one or two interactions train on all of them and have no case.
    joint: cold items, cold users and leave-one-out at once. A training user with one warm interaction trains on it and
    has no case; with none, the user is left out; a panel user has a case wherever the history asked for leaves at
    least one target.
    p2: strict item cold start. A fifth of the items is cold, one half of it for validation, the other for the test; all
    users train on all their warm interactions. "cold_items" asks for the user's test items among all cold items, as
    ColdRec does, without the user's own validation items. "validation" asks for the user's validation items among the
    validation items only, so that nothing is chosen by a look at a test item.
    p3: cold users. All items are warm; a fifth of the users is the panel of joint, all others train on all they have.
    Without times the order within a user is a seeded random one, and what is "last" is drawn at random.

    Args:
        seed: draws the cold items and the panel; orders equally popular items.
    Guarantees:
        - no validation or test target of a user is in that user's training history.
        - cold items are in no training history, panel users in no training set.
        - histories of cases precede their targets (cold items excepted: an item held out of training has no time).
        - equal for any order of the source's rows.
    Raises:
        ConfigError: unknown protocol.
    """
    builders = {"p1": _build_p1, "joint": _build_joint, "p2": _build_p2, "p3": _build_p3}
    if protocol not in builders:
        raise ConfigError(f"expected protocol to be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    return builders[protocol](dataset, seed)


def _build_p1(dataset: Dataset, seed: int) -> Split:
    n_items = len(dataset.catalog)
    train, validation, warm = [], [], []
    for user, history in enumerate(dataset.histories):
        n = len(history)
        if n < 3:
            train.append(history)
            continue
        train.append(history.take(slice(n - 2)))
        validation.append(Case(user, train[-1], history.items[n - 2 : n - 1]))
        warm.append(Case(user, history.take(slice(n - 1)), history.items[n - 1 :]))
    everything = np.ones(n_items, dtype=np.bool_)
    return Split(
        protocol="p1",
        n_items=n_items,
        users=np.arange(len(dataset), dtype=np.int64),
        train=tuple(train),
        warm_items=everything,
        cases={"validation": tuple(validation), "warm": tuple(warm)},
        candidates={"validation": everything, "warm": everything},
        tail_items=_tail(dataset, train, everything, seed),
        left_out=_counted({"fewer than 3 interactions: trains, no case": len(dataset) - len(warm)}),
    )


def _build_joint(dataset: Dataset, seed: int) -> Split:
    cold = _drawn_items(dataset, seed, _COLD_ITEM_SHARE)
    warm_items = np.ones(len(dataset.catalog), dtype=np.bool_)
    warm_items[cold] = False
    panel = _panel(len(dataset), seed)
    users, train, cases, left_out = _training_part(dataset, {*panel[0], *panel[1]}, warm_items)
    asked, unasked = _panel_cases(dataset, panel, warm_items)
    cases |= asked
    left_out |= unasked
    return Split(
        protocol="joint",
        n_items=len(warm_items),
        users=np.array(users, dtype=np.int64),
        train=tuple(train),
        warm_items=warm_items,
        cases={group: tuple(found) for group, found in cases.items()},
        candidates={group: ~warm_items if group == "cold_items" else warm_items for group in cases},
        tail_items=_tail(dataset, train, warm_items, seed),
        left_out=_counted(left_out),
    )


def _build_p2(dataset: Dataset, seed: int) -> Split:
    n_items = len(dataset.catalog)
    cold = _drawn_items(dataset, seed, _STRICT_COLD_ITEM_SHARE)
    part = np.zeros(n_items, dtype=np.int8)  # 0 warm, 1 validation, 2 test
    part[cold] = 2
    part[cold[: len(cold) // 2]] = 1
    users, train, validation, test = [], [], [], []
    for user, history in enumerate(dataset.histories):
        parts = part[history.items]
        own = history.take(parts == 0)
        if not len(own):
            continue
        users.append(user)
        train.append(own)
        known, asked = history.items[parts == 1], history.items[parts == 2]
        if len(known):
            validation.append(Case(user, own, known))
        if len(asked):
            test.append(Case(user, own, asked, known))
    left_out = {
        "no warm interaction: neither trains nor has a case": len(dataset) - len(users),
        "no interaction with a cold test item: trains, no case": len(users) - len(test),
    }
    return Split(
        protocol="p2",
        n_items=n_items,
        users=np.array(users, dtype=np.int64),
        train=tuple(train),
        warm_items=part == 0,
        cases={"validation": tuple(validation), "cold_items": tuple(test)},
        candidates={"validation": part == 1, "cold_items": part > 0},
        tail_items=_tail(dataset, train, part == 0, seed),
        left_out=_counted(left_out),
    )


def _build_p3(dataset: Dataset, seed: int) -> Split:
    everything = np.ones(len(dataset.catalog), dtype=np.bool_)
    panel = _panel(len(dataset), seed)
    users = sorted({*range(len(dataset))} - {*panel[0], *panel[1]})
    train = [dataset.histories[user] for user in users]
    cases, left_out = _panel_cases(dataset, panel, everything)
    return Split(
        protocol="p3",
        n_items=len(everything),
        users=np.array(users, dtype=np.int64),
        train=tuple(train),
        warm_items=everything,
        cases={group: tuple(found) for group, found in cases.items()},
        candidates=dict.fromkeys(cases, everything),
        tail_items=_tail(dataset, train, everything, seed),
        left_out=_counted(left_out),
    )


def _training_part(
    dataset: Dataset, panel: set[int], warm_items: NDArray[np.bool_]
) -> tuple[list[int], list[History], dict[str, list[Case]], dict[str, int]]:
    """Training users, their histories, their "warm" and "cold_items" cases, and who has none."""
    users: list[int] = []
    train: list[History] = []
    cases: dict[str, list[Case]] = {"validation": [], "warm": [], "cold_items": []}
    no_warm = 0
    for user, history in enumerate(dataset.histories):
        if user in panel:
            continue
        is_warm = warm_items[history.items]
        warm = history.take(is_warm)
        if not len(warm):
            no_warm += 1
            continue
        own = warm.take(slice(max(1, len(warm) - 1)))
        users.append(user)
        train.append(own)
        if len(warm) > 1:
            cases["warm"].append(Case(user, own, warm.items[-1:]))
        if not is_warm.all():
            cases["cold_items"].append(Case(user, own, history.items[~is_warm]))
    left_out = {
        "one warm interaction: trains, no warm case": len(users) - len(cases["warm"]),
        "no warm interaction: neither trains nor has a case": no_warm,
    }
    return users, train, cases, left_out


def _panel_cases(
    dataset: Dataset, panel: tuple[list[int], list[int]], warm_items: NDArray[np.bool_]
) -> tuple[dict[str, list[Case]], dict[str, int]]:
    """ "validation" cases of one half of the panel, "cold_users/h" cases of the other, and who has none."""

    def warm_part(user: int) -> History:
        history = dataset.histories[user]
        return history.take(warm_items[history.items])

    validation_panel, test_panel = panel
    cases = {"validation": [case for user in validation_panel for case in _leave_out_last(user, warm_part(user))]}
    no_validation = len(validation_panel) - len({case.user for case in cases["validation"]})
    left_out = {"validation panel, fewer than 2 warm interactions: no case": no_validation}
    for h in COLD_USER_HISTORIES:
        parts = ((user, warm_part(user)) for user in test_panel)
        found = [Case(u, w.take(slice(h)), w.items[h:]) for u, w in parts if len(w) > h]
        without = len(test_panel) - len(found)
        cases[f"cold_users/{h}"] = found
        left_out[f"test panel, no target after {h} warm interactions: no cold_users/{h} case"] = without
    return cases, left_out


def _drawn_items(dataset: Dataset, seed: int, share: float) -> NDArray[np.intp]:
    """Positions of the `share` of the catalogue with the smallest seeded hash of the item id; one at least, of two."""
    n_items = len(dataset.catalog)
    n_drawn = min(max(1, round(share * n_items)), n_items - 1)
    hashes = public_hashes(dataset.catalog.item_ids, "cold items", seed)
    return np.argsort(hashes, kind="stable")[:n_drawn]


def _panel(n_users: int, seed: int) -> tuple[list[int], list[int]]:
    """20 % of the users by seeded draw over their positions: validation half and test half, ascending."""
    drawn = np.random.Generator(np.random.PCG64(seed)).permutation(n_users)[: round(_PANEL_SHARE * n_users)]
    half = len(drawn) // 2
    return sorted(drawn[:half].tolist()), sorted(drawn[half:].tolist())


def _leave_out_last(user: int, warm: History) -> list[Case]:
    """One case for each of the last up-to-five interactions that has something before it."""
    first = max(1, len(warm) - _VALIDATION_TARGETS)
    return [Case(user, warm.take(slice(n)), warm.items[n : n + 1]) for n in range(first, len(warm))]


def _tail(dataset: Dataset, train: list[History], warm_items: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """Warm items outside the 20 % with most training interactions; equal counts by seeded hash of the item id."""
    counts = np.zeros(len(warm_items), dtype=np.int64)
    for history in train:
        counts[history.items] += 1
    order = np.lexsort((public_hashes(dataset.catalog.item_ids, "tail", seed), -counts, ~warm_items))
    tail = warm_items.copy()
    tail[order[: round(_HEAD_SHARE * int(warm_items.sum()))]] = False
    return tail


def _counted(reasons: dict[str, int]) -> dict[str, int]:
    return {reason: count for reason, count in reasons.items() if count}
