"""Windows are public: dates of the experiment file, rounds in equal parts, items by their year in the catalogue."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hushrec.common.catalog import ItemRow, build_catalog
from hushrec.common.config import RunConfig, Scalar
from hushrec.common.errors import ConfigError
from hushrec.common.interactions import History
from hushrec.common.time_windows import ended_window, existing_items, last_round, until, window_ends, window_of

DATES = ("1997-11-15", "1998-01-15", "1998-03-01")


def config(windows: int, rounds: int, **changes: Scalar) -> RunConfig:
    return RunConfig().replace(data__window_ends=",".join(DATES[: windows - 1]), federation__rounds=rounds, **changes)


@given(windows=st.integers(1, 4), extra=st.integers(0, 60))
def test_every_round_is_in_one_window_and_windows_differ_by_one_round_at_most(windows: int, extra: int) -> None:
    run = config(windows, windows + extra)
    found = [window_of(run, server_round) for server_round in range(1, windows + extra + 1)]
    assert found == sorted(found)
    lengths = [found.count(window) for window in range(windows)]
    assert min(lengths) >= 1
    assert max(lengths) - min(lengths) <= 1
    assert last_round(run, windows - 1) == windows + extra
    ends = [number for number in range(windows + extra + 1) if ended_window(run, number) is not None]
    assert ends == ([last_round(run, window) for window in range(windows)] if windows > 1 else [])


def test_releases_before_round_1_see_the_first_window_and_rounds_beyond_the_plan_the_last() -> None:
    assert window_of(config(3, 9), 0) == 0
    assert window_of(config(3, 9), 10_000) == 2


def test_an_end_is_midnight_utc_at_the_start_of_the_day() -> None:
    assert window_ends(config(2, 2).data) == (879_552_000,)
    history = History(np.arange(3, dtype=np.int32), np.array([879_551_999, 879_552_000, 879_552_001]))
    assert until(history, 879_552_000).items.tolist() == [0]


@given(times=st.lists(st.integers(0, 20), min_size=1, max_size=12).map(sorted), place=st.integers(0, 11))
def test_whether_an_interaction_is_seen_depends_on_no_other(times: list[int], place: int) -> None:
    place %= len(times)
    history = History(np.arange(len(times), dtype=np.int32), np.array(times))
    others = np.arange(len(times)) != place
    seen = until(history, 10).items.tolist()
    assert until(history.take(others), 10).items.tolist() == [item for item in seen if item != place]


def test_items_exist_by_their_public_year_and_always_without_one() -> None:
    rows = [
        ItemRow("1", "Old", "1996"),
        ItemRow("2", "Now", "1997"),
        ItemRow("3", "Later", "1998"),
        ItemRow("4", "Any"),
    ]
    catalog = build_catalog(rows, place_of=str)[0]
    end, _ = window_ends(config(3, 3).data)
    assert existing_items(catalog, end).tolist() == [True, True, False, True]
    new_year = window_ends(RunConfig().replace(data__window_ends="1998-01-01").data)[0]
    assert existing_items(catalog, new_year).tolist() == [True, True, False, True]  # the last instant is in 1997
    assert existing_items(catalog, new_year + 1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.window-ends": "soon"}, "as dates such as 1997-11-15, got 'soon'"),
        ({"data.window-ends": "1998-01-15,1997-11-15"}, "in ascending order"),
        ({"data.window-ends": "1998-01-15,1998-01-15"}, "in ascending order"),
        ({"data.window-ends": "1998-01-15", "data.protocol": "p1"}, 'needs data.protocol = "joint"'),
        ({"data.window-ends": "1998-01-15", "federation.rounds": 1}, "2 windows need as many rounds"),
        ({"data.window-ends": "1998-01-15", "evaluation.patience": 2}, "would stop before the last window"),
        ({"server.anchor": 0.1}, "set data.window-ends"),
    ],
)
def test_what_windows_cannot_mean_is_refused(changes: dict[str, Scalar], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        RunConfig.from_flat(changes)


def test_ends_ascend() -> None:
    assert all(earlier < later for earlier, later in pairwise(window_ends(config(4, 4).data)))
