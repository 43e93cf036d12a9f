"""Time windows of continual training: which rounds belong to a window, and what exists until it ends.

The ends are calendar dates (UTC) of the experiment file, fixed before round 1. Ends taken from the data, such as equal
shares of the interactions, would be a statistic over clients; an end relative to a user's own history would let one
interaction move another into another window. This file cuts one history at a time and builds no split.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hushrec.common.errors import ConfigError

if TYPE_CHECKING:  # the checks of the configuration read this file
    from hushrec.common.catalog import Catalog
    from hushrec.common.config import RunConfig
    from hushrec.common.interactions import History
    from hushrec.common.settings import DataConfig


def window_ends(data: DataConfig) -> tuple[int, ...]:
    """Seconds since 1970 UTC at which all windows but the last end: midnight at the start of each date.

    Raises:
        ConfigError: not dates such as 1997-11-15, or not ascending.
    """
    ends = []
    for text in data.window_ends:
        try:
            day = date.fromisoformat(text)
        except ValueError as error:
            raise ConfigError(f"expected data.window-ends as dates such as 1997-11-15, got {text!r}") from error
        ends.append(int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()))
    if any(later <= earlier for earlier, later in pairwise(ends)):
        raise ConfigError(f"expected data.window-ends in ascending order, got {', '.join(data.window_ends)}")
    return tuple(ends)


def count_windows(data: DataConfig) -> int:
    """One more than there are ends: the last window ends with the data."""
    return len(data.window_ends) + 1


def last_round(config: RunConfig, window: int) -> int:
    """The last round of a window, counted from 0: the rounds of the run in equal parts."""
    return config.federation.rounds * (window + 1) // count_windows(config.data)


def window_of(config: RunConfig, server_round: int) -> int:
    """The window that a round trains in; 0 is the releases before round 1, which see the first window."""
    later = range(count_windows(config.data) - 1)
    return next((window for window in later if server_round <= last_round(config, window)), len(later))


def ended_window(config: RunConfig, server_round: int) -> int | None:
    """The window whose last round this is; None in the middle of one, and where there is one window only."""
    if not config.data.window_ends or server_round == 0:
        return None
    window = window_of(config, server_round)
    return window if server_round == last_round(config, window) else None


def until(history: History, end: int) -> History:
    """What of a history lies before `end`; the same of any interaction, whatever else the history holds."""
    return history.take(history.times < end)


def existing_items(catalog: Catalog, end: int) -> NDArray[np.bool_]:
    """(n_items,) whether an item is released before `end`, by the public year in the catalogue; without one, it is.

    An item's first appearance among the interactions would be private.
    """
    existing: NDArray[np.bool_] = catalog.years <= datetime.fromtimestamp(end - 1, tz=UTC).year
    return existing
