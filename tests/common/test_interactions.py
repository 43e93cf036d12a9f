"""Tests of common/interactions.py."""

import numpy as np

from hushrec.common.interactions import History, ImportReport


def test_taken_part_of_a_history_keeps_order_times_and_ratings() -> None:
    history = History(
        np.array([3, 1, 2], dtype=np.int32), np.array([10, 20, 30]), np.array([1.0, 2.0, 3.0], dtype=np.float32)
    )
    part = history.take(np.array([True, False, True]))
    assert len(part) == 2
    assert part.items.tolist() == [3, 2]
    assert part.times.tolist() == [10, 30]
    assert part.ratings is not None
    assert part.ratings.tolist() == [1.0, 3.0]
    assert History(history.items, history.times).take(slice(1)).ratings is None


def test_report_tells_every_drop() -> None:
    report = ImportReport(10, 7, 2, 5, {"duplicate": 3}, {"empty": 1}, {"no title": 4}, ("times were converted",))
    assert report.lines() == [
        "2 users, 5 items, 7 of 10 interaction rows",
        "times were converted",
        "left out 3 interaction rows: duplicate",
        "left out 1 users: empty",
        "left out 4 item rows: no title",
    ]
