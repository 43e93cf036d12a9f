"""Privacy units: which interaction is in which row, and that a row's draws depend on nothing but itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hushrec.client import rows as rows_module
from hushrec.client.rows import SPAN_SECONDS, RoundInputs, Row, device_rows, draw_inputs, row_rng, user_rows
from hushrec.common.interactions import History

ITEMS = 40
SPANS = sorted(SPAN_SECONDS)


@st.composite
def histories(draw: st.DrawFn, least: int = 0) -> History:
    """Distinct items at times that often share an hour, oldest first."""
    items = draw(st.lists(st.integers(0, ITEMS - 1), min_size=least, max_size=25, unique=True))
    near = st.integers(0, 20).map(lambda n: 946_684_800 + 1_800 * n)
    times = sorted(draw(st.lists(st.one_of(near, st.integers(0, 2**31)), min_size=len(items), max_size=len(items))))
    return History(np.array(items, np.int32), np.array(times, np.int64))


def without(history: History, place: int) -> History:
    keep = np.arange(len(history)) != place
    return history.take(keep)


def by_key(rows: tuple[Row, ...]) -> dict[str, list[int]]:
    assert len({row.key for row in rows}) == len(rows)
    return {row.key: row.items.tolist() for row in rows}


def changed(first: tuple[Row, ...], second: tuple[Row, ...]) -> int:
    """How many rows differ between two cuts; a row that is there or not counts as one."""
    a, b = by_key(first), by_key(second)
    return sum(a.get(key) != b.get(key) for key in {*a, *b})


@given(history=histories(), span=st.sampled_from(SPANS), k=st.integers(1, 6))
def test_rows_are_few_disjoint_never_empty_and_cover_the_history(history: History, span: str, k: int) -> None:
    rows = device_rows(history, span, k)
    assert len(rows) <= k
    assert all(len(row.items) for row in rows)
    assert sorted(item for row in rows for item in row.items.tolist()) == sorted(history.items.tolist())


@given(history=histories(least=1), span=st.sampled_from(SPANS), k=st.integers(1, 6), data=st.data())
def test_removing_one_interaction_changes_exactly_one_row(
    history: History, span: str, k: int, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(history) - 1))
    assert changed(device_rows(history, span, k), device_rows(without(history, place), span, k)) == 1


@given(history=histories(least=1), span=st.sampled_from(SPANS), k=st.integers(1, 6), data=st.data())
def test_exchanging_one_item_changes_exactly_one_row(history: History, span: str, k: int, data: st.DataObject) -> None:
    items = history.items.copy()
    items[data.draw(st.integers(0, len(history) - 1))] = ITEMS
    assert changed(device_rows(history, span, k), device_rows(History(items, history.times), span, k)) == 1


@given(history=histories(least=1), span=st.sampled_from(SPANS), k=st.integers(1, 6))
def test_removing_all_of_a_time_slot_removes_one_row_and_changes_no_other(history: History, span: str, k: int) -> None:
    rows = device_rows(history, span, k)
    rest = history.take(~np.isin(history.items, rows[0].items))
    assert by_key(device_rows(rest, span, k)) == by_key(rows[1:])


def newest_rows(history: History, span: str, k: int) -> tuple[Row, ...]:
    """The planted fault: keep the newest k bins, so that an older one moves up when one goes."""
    bins = history.times // SPAN_SECONDS[span]
    return tuple(Row(f"bin-{b}", history.items[bins == b]) for b in np.unique(bins)[-k:].tolist())


def test_the_one_row_check_catches_keeping_the_newest_bins() -> None:
    history = History(np.arange(3, dtype=np.int32), 3600 * np.arange(3))
    assert changed(newest_rows(history, "hour", 2), newest_rows(without(history, 2), "hour", 2)) == 2
    assert changed(device_rows(history, "hour", 2), device_rows(without(history, 2), "hour", 2)) == 1


def test_a_row_belongs_to_the_clock_alone_and_keeps_its_order() -> None:
    history = History(np.array([7, 3, 9, 1], np.int32), np.array([10, 20, 3600, 7300]))
    assert by_key(device_rows(history, "hour", 2)) == {"slot-0": [7, 3, 1], "slot-1": [9]}
    assert by_key(device_rows(history, "day", 2)) == {"slot-0": [7, 3, 9, 1]}


def test_a_silo_has_one_row_per_user() -> None:
    users = [History(np.array([n], np.int32), np.zeros(1, np.int64)) for n in range(3)]
    assert by_key(user_rows(["a", "b", "c"], users)) == {"a": [0], "b": [1], "c": [2]}


# --- what a round reads of the rows ---

DRAWN = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=12, unique=True), min_size=1, max_size=6)
Draw = Callable[..., RoundInputs]


def pairs(drawn: list[list[int]]) -> list[tuple[str, Row]]:
    return [(f"client-{n % 2}", Row(f"slot-{n}", np.array(items, np.int32))) for n, items in enumerate(drawn)]


def assert_independent(draw: Draw, rows: list[tuple[str, Row]], order: list[int], *, seed: int, shared: bool) -> None:
    """Every row of `rows` draws the same among the rows `order` as among all."""
    options = {"seed": seed, "window": 4, "negatives": 7, "items": ITEMS, "shared": shared}
    among_all, among_some = draw(rows, **options), draw([rows[n] for n in order], **options)
    for place, row in enumerate(order):
        for name in ("windows", "mask", "negatives", "twins"):
            np.testing.assert_array_equal(getattr(among_some, name)[place], getattr(among_all, name)[row])


@given(drawn=DRAWN, seed=st.integers(0, 2**62), shared=st.booleans(), data=st.data())
@settings(deadline=None)
def test_a_row_draws_the_same_with_whomever_it_is_computed(
    drawn: list[list[int]], seed: int, shared: bool, data: st.DataObject
) -> None:
    rows = pairs(drawn)
    order = data.draw(st.lists(st.sampled_from(range(len(rows))), unique=True))
    assert_independent(draw_inputs, rows, order, seed=seed, shared=shared)


def by_position(rows: list[tuple[str, Row]], **options: object) -> RoundInputs:
    """The planted fault: draws keyed by the position among the rows instead of by the row."""
    renamed = [("", Row(str(place), row.items)) for place, (_, row) in enumerate(rows)]
    return draw_inputs(renamed, **options)  # type: ignore[arg-type]


def one_stream(rows: list[tuple[str, Row]], **options: object) -> RoundInputs:
    """The planted fault: one generator that all rows draw from in turn."""
    stream = row_rng(int(options["seed"]))  # type: ignore[call-overload]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "row_rng", lambda *_: stream)
        return draw_inputs(rows, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("fault", [by_position, one_stream])
def test_the_independence_check_catches_draws_that_depend_on_other_rows(fault: Draw) -> None:
    rows = pairs([list(range(10)), list(range(5, 20)), list(range(20, 30))])
    with pytest.raises(AssertionError):
        assert_independent(fault, rows, [1, 2], seed=3, shared=False)


@given(
    drawn=DRAWN,
    seed=st.integers(0, 2**62),
    shared=st.booleans(),
    window=st.integers(2, 6),
    negatives=st.integers(1, 60),
)
@settings(deadline=None)
def test_windows_are_stretches_of_their_own_row_and_negatives_distinct_catalogue_items(
    drawn: list[list[int]], seed: int, shared: bool, window: int, negatives: int
) -> None:
    rows = pairs(drawn)
    inputs = draw_inputs(rows, seed=seed, window=window, negatives=negatives, items=ITEMS, shared=shared)
    for n, (_, row) in enumerate(rows):
        read = inputs.windows[n][inputs.mask[n] > 0].tolist()
        own = row.items.tolist()
        assert len(read) == min(window, len(own))
        assert any(own[start : start + len(read)] == read for start in range(len(own) + 1))
        assert inputs.mask[n].tolist() == sorted(inputs.mask[n], reverse=True)
        drawn_items = inputs.negatives[n].tolist()
        assert len(set(drawn_items)) == len(drawn_items) == min(negatives, ITEMS)
        assert set(drawn_items) <= set(range(ITEMS))
        assert inputs.twins[n].tolist() == [item in read for item in drawn_items]
    if shared:
        assert (inputs.negatives == inputs.negatives[0]).all()


def test_negatives_are_uniform_whatever_the_row_holds() -> None:
    row = Row("slot-0", np.arange(6, dtype=np.int32))
    counts = np.zeros(ITEMS)
    for seed in range(400):
        drawn = draw_inputs([("c", row)], seed=seed, window=4, negatives=8, items=ITEMS, shared=False)
        counts[drawn.negatives[0]] += 1
    assert stats.chisquare(counts).pvalue > 1e-4


def test_rows_rounds_and_clients_draw_differently() -> None:
    items = np.arange(30, dtype=np.int32)
    options = {"window": 4, "negatives": 9, "items": ITEMS, "shared": False}
    rows = [("a", Row("x", items)), ("a", Row("y", items)), ("b", Row("x", items))]
    first, second = draw_inputs(rows, seed=1, **options), draw_inputs(rows, seed=2, **options)  # type: ignore[arg-type]
    drawn = {tuple(row) for inputs in (first, second) for row in inputs.negatives.tolist()}
    assert len(drawn) == 6
    assert len({int(inputs.windows[n, 0]) for inputs in (first, second) for n in range(3)}) > 1


def test_no_row_at_all_gives_empty_inputs() -> None:
    inputs = draw_inputs([], seed=1, window=4, negatives=9, items=ITEMS, shared=True)
    assert inputs.windows.shape == (0, 4)
    assert inputs.negatives.shape == (0, 9)
