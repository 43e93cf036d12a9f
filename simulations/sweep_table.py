"""The table of a sweep, best validation figure first. Choices are made on it, so test figures never order anything.

It reads rounds.jsonl and, where test figures are asked for, results.json; it runs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from hushrec.simulations.run import read_results
from hushrec.simulations.sweep import State, Sweep, round_lines
from hushrec.simulations.sweep_file import Point
from hushrec.simulations.table import COLUMNS, JUDGED, OURS, figure

PREFIX = "validation_"
COLUMN = {column.path: column for column in COLUMNS}


@dataclass(frozen=True)
class PointRow:
    """What one point came to.

    Attributes:
        metric: of the validation figure, such as "NDCG@10"; "" where there is none.
        validation: of the last evaluated round, which is what the run ships; None unless the point is finished.
        untrained: of round 0.
        epsilon: spent; None without privacy.
        test: figure -> mean, filled only when asked for.
    """

    point: Point
    state: State
    error: str
    metric: str = ""
    validation: float | None = None
    untrained: float | None = None
    epsilon: float | None = None
    test: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class GroupRow:
    """The points that differ in their seed only; means over those that are finished."""

    name: str
    points: tuple[PointRow, ...]

    def mean(self, name: str) -> float | None:
        """Of an attribute of the points."""
        return _mean([getattr(row, name) for row in self.points])

    def test(self, path: str) -> float | None:
        """Mean of a test figure."""
        return _mean([row.test.get(path) for row in self.points])

    @property
    def finished(self) -> list[PointRow]:
        """The points with a validation figure."""
        return [row for row in self.points if row.validation is not None]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def point_rows(sweep: Sweep, *, test: bool = False) -> list[PointRow]:
    """One row per point, in the order of the file.

    Args:
        test: read the test figures, too.
    """
    return [_row(sweep, point, test) for point in sweep.points]


def _row(sweep: Sweep, point: Point, test: bool) -> PointRow:
    state, folder = sweep.state(point), sweep.folder / point.name
    if state != "finished":
        return PointRow(point, state, sweep.error(point))
    found: list[tuple[str, float]] = []
    epsilon = None
    for line in round_lines(folder):
        found += [(key, float(value)) for key, value in line.items() if key.startswith(PREFIX) and _is_number(value)]
        epsilon = line.get("epsilon")
    results = (read_results(folder) or {}) if test else {}
    figures = {path: figure(results.get("systems", {}).get(OURS, {}), path) for path in JUDGED}
    return PointRow(
        point,
        state,
        "",
        metric=found[-1][0].removeprefix(PREFIX) if found else "",
        validation=found[-1][1] if found else None,
        untrained=found[0][1] if found else None,
        epsilon=epsilon,
        test={path: entry["mean"] for path, entry in figures.items() if entry},
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def ranked(rows: Sequence[PointRow]) -> list[GroupRow]:
    """Groups of points by falling mean validation figure; those without one last, in the order of the file."""
    groups: dict[str, list[PointRow]] = {}
    for row in rows:
        groups.setdefault(row.point.group, []).append(row)
    found = [GroupRow(name, tuple(members)) for name, members in groups.items()]

    def figure(group: GroupRow) -> float:
        mean = group.mean("validation") if group.finished else None
        return -math.inf if mean is None else mean

    return sorted(found, key=figure, reverse=True)


def sweep_tables(rows: Sequence[PointRow]) -> list[Table]:
    """One row per group of seeds, best validation figure first; in a second table the test figures that were read."""
    groups, metrics = ranked(rows), sorted({row.metric for row in rows if row.metric}) or ["figure"]
    table = _table(
        "point", f"validation\n{' or '.join(metrics)}", "seeds", "lowest to\nhighest", "untrained", "epsilon"
    )
    for group in groups:
        epsilon = max((row.epsilon for row in group.finished if row.epsilon is not None), default=None)
        table.add_row(
            Text(group.name),
            _number(group.mean("validation")),
            f"{len(group.finished)}/{len(group.points)}",
            _spread(group),
            _number(group.mean("untrained")),
            _number(epsilon, 2) if epsilon is not None or not group.finished else "none",
        )
    table.caption = "Sorted by validation, mean over seeds. Epsilon: spent, the largest of the seeds."
    data = [{k: v for k, v in row.point.config.to_flat().items() if k.startswith("data.")} for row in rows]
    if len(metrics) > 1 or any(other != data[0] for other in data):
        table.caption += "\nThe points differ in their data: figures of different data cannot be compared."
    shown = [path for path in JUDGED if any(path in row.test for row in rows)]
    if not shown:
        return [table]
    tests = _table("point", *(COLUMN[path].short for path in shown))
    for group in groups:
        tests.add_row(Text(group.name), *(_number(group.test(path), 3) for path in shown))
    tests.caption = "Test figures, in the order of validation: to report what was chosen, never to choose."
    return [table, tests]


def _table(*heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, caption_justify="left")
    for head in heads:
        first = head == "point"
        table.add_column(head, justify="left" if first else "right", no_wrap=not first, overflow="fold")
    return table


def _spread(group: GroupRow) -> str:
    values = [row.validation for row in group.finished if row.validation is not None]
    return f"{min(values):.4f} {max(values):.4f}" if len(values) > 1 else ""


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def sweep_json(rows: Sequence[PointRow]) -> list[dict[str, Any]]:
    """The points for programs, sorted as the table is."""
    return [
        {
            "point": row.point.name,
            "group": row.point.group,
            "settings": dict(row.point.settings),
            "state": row.state,
            "error": row.error,
            "metric": row.metric,
            "validation": row.validation,
            "untrained": row.untrained,
            "epsilon": row.epsilon,
            **({"test": dict(row.test)} if row.test else {}),
        }
        for group in ranked(rows)
        for row in group.points
    ]
