"""Continual training's view of the joint split: who arrived in which time window, and which cases tell what was kept.

What is held out is what joint holds out, so it is trained on in no window. This file computes no figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hushrec.common.config import RunConfig
from hushrec.common.interactions import Dataset
from hushrec.common.splits import Case, Split
from hushrec.common.time_windows import existing_items, until, window_ends, window_of
from hushrec.common.workspace import Model, open_dataset

RETURNING, NEW_ITEMS, UNSEEN_ITEMS = "returning_users", "new_items", "cold_items"


@dataclass(frozen=True, eq=False)
class ContinualSplit:
    """The joint split by time windows, counted from 0.

    Attributes:
        split: its training part and candidates, with these groups of cases. "users_1" to "users_W": the held-out last
            item of users whose first interaction and held-out item lie in that window. "returning_users": the same of
            users who began in an earlier window than the one of that item. "new_items": held-out interactions, of
            training and of panel users, with items released after the first window, ranked among these. "cold_items":
            as in joint, items that exist in no window.
        arrived: per window, training users whose first interaction lies in it; known to the simulation only.
        released: per window, items that exist from it on, by the public catalogue.
    """

    split: Split
    arrived: tuple[int, ...]
    released: tuple[int, ...]

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that have cases, users by window first."""
        return tuple(group for group, cases in self.split.cases.items() if cases)


def users_group(window: int) -> str:
    """The group of the users of one window, counted from 0."""
    return f"users_{window + 1}"


def continual_split(dataset: Dataset, split: Split, ends: Sequence[int]) -> ContinualSplit:
    """Sort the cases of a joint split into windows.

    Args:
        ends: of `time_windows.window_ends`, at least one.
    Guarantees:
        - the history of every case precedes its target, and both lie before the end of the case's window; cold items
          excepted, which have no time.
        - an item that does not exist in the case's window is not ranked, unless it is the target.
    """
    exists = [existing_items(dataset.catalog, end) for end in ends]
    exists.append(np.ones(split.n_items, dtype=np.bool_))
    first = {
        int(user): _window(int(history.times[0]), ends) for user, history in zip(split.users, split.train, strict=True)
    }
    cases: dict[str, list[Case]] = {users_group(window): [] for window in range(len(exists))}
    cases |= {RETURNING: [], NEW_ITEMS: []}
    for case in split.cases["warm"]:
        window = _window(_target_time(dataset, case), ends)
        timed = replace(case, excluded=np.flatnonzero(~exists[window]).astype(np.int32))
        cases[users_group(window) if first[case.user] == window else RETURNING].append(timed)
    for case in (*split.cases["warm"], *_panel_cases(dataset, split)):
        if not exists[0][case.targets[0]]:
            window = _window(_target_time(dataset, case), ends)
            cases[NEW_ITEMS].append(replace(case, excluded=np.flatnonzero(~exists[window]).astype(np.int32)))
    cases[NEW_ITEMS].sort(key=lambda case: case.user)
    cases[UNSEEN_ITEMS] = list(split.cases["cold_items"])
    arrived = np.bincount(list(first.values()), minlength=len(exists))
    earlier = [np.zeros(split.n_items, dtype=np.bool_), *exists]
    ranked = {NEW_ITEMS: split.warm_items & ~exists[0], UNSEEN_ITEMS: split.candidates[UNSEEN_ITEMS]}
    return ContinualSplit(
        replace(
            split,
            cases={group: tuple(found) for group, found in cases.items()},
            candidates={**dict.fromkeys(cases, split.warm_items), **ranked},
        ),
        arrived=tuple(arrived.tolist()),
        released=tuple(
            int((now & ~known & split.warm_items).sum()) for known, now in zip(earlier, exists, strict=False)
        ),
    )


def before(dataset: Dataset, split: Split, end: int) -> tuple[Dataset, Split]:
    """What was known of the panel's validation users before `end`, for what is chosen then."""
    known = tuple(case for case in split.cases["validation"] if _target_time(dataset, case) < end)
    histories = tuple(until(history, end) for history in dataset.histories)
    return replace(dataset, histories=histories), replace(split, cases={**split.cases, "validation": known})


def model_in_round(model: Model, config: RunConfig, server_round: int) -> Model:
    """The model that trains in a round: items that are released in a later window are no negatives yet.

    Which they are is read from the public catalogue, so it is the same for every client.
    """
    ends = window_ends(config.data)
    window = window_of(config, server_round)
    if window == len(ends):
        return model
    exists = existing_items(open_dataset(config.data).catalog, ends[window])
    items = np.arange(len(exists)) if model.training_items is None else model.training_items
    return replace(model, training_items=items[exists[items]])


def _panel_cases(dataset: Dataset, split: Split) -> list[Case]:
    """Every warm interaction of the panel's test users that has something before it."""
    cases = []
    for user in sorted({case.user for case in split.cases["cold_users/0"]}):
        history = dataset.histories[user]
        warm = history.take(split.warm_items[history.items])
        cases += [Case(user, warm.take(slice(n)), warm.items[n : n + 1]) for n in range(1, len(warm))]
    return cases


def _target_time(dataset: Dataset, case: Case) -> int:
    history = dataset.histories[case.user]
    return int(history.times[history.items == case.targets[0]][0])


def _window(time: int, ends: Sequence[int]) -> int:
    """The window that a time lies in."""
    return int(np.searchsorted(np.asarray(ends), time, side="right"))
