"""What a person used, read from a file of theirs: CSV, JSON lines or a plain list, matched to the pinned catalogue.

It stores nothing; a file that cannot be placed as a whole gives errors, never half an import.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from hushrec.client.device.database import Interaction
from hushrec.common.catalog import Catalog
from hushrec.common.column_names import DEFAULT_COLUMNS
from hushrec.common.errors import DataError
from hushrec.common.item_names import ItemNames, read_text

FORMATS = ("csv", "jsonl", "list")
_SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_SHOWN = 5  # unknown items named in full
_SKEW = 86_400  # seconds that a time may lie in the future, for a clock that goes wrong


class Line(NamedTuple):
    """One entry as the file has it; `time` and `rating` are "" where the file says none."""

    number: int
    name: str
    time: str = ""
    rating: str = ""


@dataclass(frozen=True)
class ReadHistory:
    """A history file's interactions.

    Attributes:
        interactions: distinct items; of an item named twice the later one.
        repeated: entries left out since the item comes again with a later time.
        unknown: entries that name no single item of the catalogue.
        problems: the first of those, one sentence each.
        timed: False where the file gave no times, so that they count back from the import, a second apart.
    """

    interactions: tuple[Interaction, ...]
    repeated: int
    unknown: int
    problems: tuple[str, ...]
    timed: bool


def read_history_file(path: Path, catalog: Catalog, now: int, kind: str = "") -> ReadHistory:
    """Read a file and match its items by id, title or "title (year)".

    Args:
        now: seconds since 1970 UTC.
        kind: "csv", "jsonl" or "list"; "": by the file's suffix, without a known one a list.
    Raises:
        DataError: not readable, no item column, several users, or a cell that is no time or rating; names the line.
    """
    kind = kind or _SUFFIXES.get(path.suffix.lower(), "list")
    lines = list({"csv": _csv_lines, "jsonl": _json_lines, "list": _plain_lines}[kind](read_text(path), path))
    timed = any(line.time for line in lines)
    names = ItemNames(catalog)
    kept: dict[str, Interaction] = {}
    problems, unknown, repeated = [], 0, 0
    for order, line in enumerate(lines):
        place = f"{path}, line {line.number}"
        time = read_time(line.time, now, place) if timed else now - (len(lines) - 1 - order)
        rating = _rating(line.rating, place)
        if len(items := names.matches(line.name)) != 1:
            unknown += 1
            if unknown <= _SHOWN:
                problems.append(_problem(names, line.name, place))
            continue
        item_id = catalog.item_ids[items[0]]
        repeated += item_id in kept
        if item_id not in kept or time >= kept[item_id].time:
            kept[item_id] = Interaction(item_id, time, rating)
    return ReadHistory(tuple(kept.values()), repeated, unknown, tuple(problems), timed)


def read_time(text: str, now: int, place: str) -> int:
    """Seconds since 1970 UTC from such a number, or from ISO 8601 (UTC unless it says otherwise).

    Raises:
        DataError: neither, before 1970, or more than a day after `now`.
    """
    expected = f"{place}: expected a time in seconds since 1970 or as in 2024-05-01T12:30, got {text!r}"
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            raise DataError(expected) from None
    if not math.isfinite(seconds) or seconds < 0:
        raise DataError(expected)
    if seconds > now + _SKEW:
        hint = "; it looks like milliseconds: divide by 1000" if now / 10 < seconds / 1000 <= now + _SKEW else ""
        raise DataError(f"{place}: the time {text!r} lies in the future{hint}")
    return int(seconds)


def _rating(text: str, place: str) -> float | None:
    if not text:
        return None
    try:
        rating = float(text)
    except ValueError:
        rating = math.nan
    if not math.isfinite(rating):
        raise DataError(f"{place}: expected a rating as a number, got {text!r}")
    return rating


def _problem(names: ItemNames, name: str, place: str) -> str:
    try:
        names.find(name, place)
    except DataError as error:
        return str(error)
    raise AssertionError


def _plain_lines(text: str, path: Path) -> Iterator[Line]:
    for number, line in enumerate(text.splitlines(), start=1):
        if name := line.strip():
            yield Line(number, name)


def _csv_lines(text: str, path: Path) -> Iterator[Line]:
    """Comma, double quotes, a header line; columns are called as in every CSV that hushrec reads."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        columns = _columns(header, f"{path}, line 1")
        rows = []
        for row in reader:
            if len(row) != len(header) and row:
                raise DataError(f"{path}, line {reader.line_num}: expected {len(header)} cells, got {len(row)}")
            cells = {role: row[place].strip() for role, place in columns.items()} if row else {}
            rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV: {error}") from error
    yield from _lines(((number, cells) for number, cells in rows if cells), path)


def _columns(header: list[str], place: str) -> dict[str, int]:
    """Role -> position; a file without item ids may name titles instead."""
    found: dict[str, int] = {}
    for role in ("user", "item", "title", "time", "rating"):
        name = next((name for name in DEFAULT_COLUMNS[role] if name in header), None)
        if name is not None:
            found[role] = header.index(name)
    title = found.pop("title", None)
    if "item" not in found and title is not None:
        found["item"] = title
    if "item" not in found:
        names = ", ".join((*DEFAULT_COLUMNS["item"], *DEFAULT_COLUMNS["title"]))
        raise DataError(f"{place}: expected one of the columns {names}; got {', '.join(header)!r}")
    return found


def _json_lines(text: str, path: Path) -> Iterator[Line]:
    yield from _lines(_json_cells(text, path), path)


def _json_cells(text: str, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, role -> cell) of JSON objects, one a line."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(entry, dict):
            raise DataError(f'{path}, line {number}: expected an object such as {{"item": "42", "time": 1700000000}}')
        cells = {}
        for role, place in _columns(list(entry), f"{path}, line {number}").items():
            value = list(entry.values())[place]
            if isinstance(value, bool) or not isinstance(value, str | int | float | None):
                raise DataError(f"{path}, line {number}: expected {list(entry)[place]!r} as text or number")
            cells[role] = "" if value is None else str(value).strip()
        yield number, cells


def _lines(rows: Iterable[tuple[int, dict[str, str]]], path: Path) -> Iterator[Line]:
    """Rows as lines, if they are of one person, and all or none have a time."""
    users: set[str] = set()
    timed: bool | None = None
    for number, cells in rows:
        users.add(cells.get("user", ""))
        if len(users) > 1:
            raise DataError(f"{path}, line {number}: a second user; a device holds one person's data: keep only theirs")
        if not cells["item"]:
            raise DataError(f"{path}, line {number}: no item; fill it in or remove the line")
        time = cells.get("time", "")
        if timed is not None and timed != bool(time):
            raise DataError(f"{path}, line {number}: give a time in every line, or in none")
        timed = bool(time)
        yield Line(number, cells["item"], time, cells.get("rating", ""))
