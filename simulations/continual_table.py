"""The table of continual training, for a terminal and for report.html: adapters in rows, groups of cases in columns.

It reads the "continual" entry of results.json and computes no figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from hushrec.simulations.page import Content, Row, element, join
from hushrec.simulations.page import table as page_table
from hushrec.simulations.table import Results, difference_text, half_interval

_ROWS = {"recounted": "the last, counted anew", "at_once": "everything at once"}
_GROUPS = {"returning_users": "returning users", "new_items": "new items", "cold_items": "unseen items"}
_CHANGES = {
    "gained": "gained: after the last window minus before the group's",
    "forgotten": "forgotten: best earlier minus last",
    "recounted": "last: popularity counted anew minus counted in window 1",
    "against_at_once": "last minus everything at once",
}
_CAPTION = (
    "NDCG@10 of held-out items, ± half of the 95 % interval. Users of window w began and ended in it. New items are "
    "released after window 1 and ranked among themselves; unseen items are in no window, NDCG@20 among themselves."
)


def continual_tables(results: Results) -> Iterator[Table]:
    """The table of figures and the one of differences; nothing for a run of one window."""
    if (found := results.get("continual")) is None:
        return
    groups = list(found["cases"])
    figures = _empty("After each time window", "adapter after", found, groups)
    figures.caption = _CAPTION + "\n" + " ".join(window_lines(found))
    for name, row in found["systems"].items():
        cells = [Text(f"{row[group]['mean']:.3f}\n±{half_interval(row[group]):.3f}") for group in groups]
        figures.add_row(Text(row_label(name)), *cells)
    yield figures
    changes = _empty("Paired differences", "", found, groups)
    for name, row in found_changes(found):
        changes.add_row(Text(name), *(Text(_short(row[group]) if group in row else "–") for group in groups))
    yield changes


def continual_markup(results: Results) -> Iterator[Content]:
    """The same for the report."""
    if (found := results.get("continual")) is None:
        return
    groups = list(found["cases"])
    heads: list[Content] = [group_label(group, found, " ") for group in groups]
    rows = []
    for name, row in found["systems"].items():
        figures = [(f"{row[group]['mean']:.3f}", f"±\xa0{half_interval(row[group]):.3f}") for group in groups]
        rows.append(Row(row_label(name), [join([mean, element("small", half)], "") for mean, half in figures]))
    yield page_table("Figures after each time window", ["adapter after", *heads], rows)
    differences = []
    for name, row in found_changes(found):
        cells = [
            join([element("span", d["verdict"], class_=d["verdict"]), element("small", difference_text(d))], "")
            if (d := row.get(group))
            else "–"
            for group in groups
        ]
        differences.append(Row(name, cells))
    yield page_table("Paired differences of time windows", ["", *heads], differences)
    yield element("p", " ".join([_CAPTION, *window_lines(found)]), class_="small soft")


def window_lines(found: dict[str, Any]) -> list[str]:
    """One sentence per window."""
    lines = []
    for number, window in enumerate(found["windows"], start=1):
        until = f"before {window['until']}" if window["until"] else "the rest"
        lines.append(
            f"Window {number} ({until}): {window['rounds']} rounds, {window['users']:,} users begin, "
            f"{window['items']:,} items are released."
        )
    return lines


def found_changes(found: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(label, group -> paired difference) of the changes that the run could measure."""
    return [(label, found[name]) for name, label in _CHANGES.items() if found.get(name)]


def row_label(name: str) -> str:
    """An adapter's name for people."""
    return _ROWS.get(name) or name.replace("_", " ")


def group_label(group: str, found: dict[str, Any], between: str) -> str:
    """A group's name for people, with the number of its cases."""
    name = _GROUPS.get(group) or f"users of window {group.removeprefix('users_')}"
    return f"{name}{between}({found['cases'][group]})"


def _empty(title: str, head: str, found: dict[str, Any], groups: list[str]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, padding=0, title_justify="left")
    table.caption_justify = "left"
    table.add_column(head, max_width=16)
    for group in groups:
        table.add_column(group_label(group, found, "\n").replace(" ", "\n"), justify="right", no_wrap=True)
    return table


def _short(difference: dict[str, Any]) -> str:
    """A paired difference in three lines: mean, then the ends of the interval."""
    mean, low, high = (f"{round(difference[key], 3) + 0.0:+.3f}" for key in ("mean", "low", "high"))
    return f"{mean}\n[{low}\n{high}]"
