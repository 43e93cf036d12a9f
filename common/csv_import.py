"""Import of CSV files with a column map.

It guesses neither separators nor encodings: comma, double quotes, UTF-8.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from hushrec.common.column_names import DEFAULT_COLUMNS
from hushrec.common.errors import ConfigError
from hushrec.common.interaction_log import InteractionLog
from hushrec.common.profiles import profile_texts, profiles_by_user
from hushrec.common.recbole import Source, items_from_table
from hushrec.common.tables import Table, read_table

FILES = ("interactions", "items", "users")


def read_csv_source(folder: str, columns: str) -> Source:
    """Read interactions, items and (if there) users from CSV files with a header line.

    Args:
        folder: a folder with interactions.csv, items.csv and optionally users.csv, or explicit paths:
            "interactions=/a/log.csv,items=/b/products.csv,users=/c/people.csv".
        columns: "user=uid,item=sku,time=ts,rating=stars,title=name,genres=tags"; keys are those of DEFAULT_COLUMNS.
            `user` and `item` name the column in every file that has it. Times: seconds (or milli-, micro-,
            nanoseconds) since 1970, or ISO 8601. Genres are separated by "|", else ";", else ",".
    Raises:
        ConfigError: the map or the paths cannot be understood.
        DataError: a file or a mapped column is missing, or a cell is wrong; names file and line.
    """
    chosen = _pairs(columns, tuple(DEFAULT_COLUMNS), "columns")
    paths = _paths(folder)
    inter = read_table(paths["interactions"], separator=",", quoted=True)
    user, item = (_required(inter, chosen, role) for role in ("user", "item"))
    time, rating = (_optional(inter, chosen, role) for role in ("time", "rating"))
    notes: tuple[str, ...] = ("the source gives no times; order within a user is seeded",)
    times = None
    if time is not None:
        times, notes = inter.times(time, allow_dates=True)
    ratings = None if rating is None else inter.numbers(rating).astype(np.float32)
    log = InteractionLog(*inter.ids(user), *inter.ids(item), times=times, ratings=ratings, notes=notes)

    items = read_table(paths["items"], separator=",", quoted=True)
    title = _required(items, chosen, "title")
    year, genres = (_optional(items, chosen, role) for role in ("year", "genres"))
    catalog, repeated = items_from_table(items, _required(items, chosen, "item"), title, year, genres, split_genres)
    log = replace(log, dropped_items={"same item row again": repeated})
    if "users" not in paths:
        return catalog, log, {}
    return catalog, *_with_profiles(log, read_table(paths["users"], separator=",", quoted=True), chosen)


def split_genres(cell: str) -> list[str]:
    """Split at "|", else ";", else ","; a cell without any of them is one genre."""
    mark = next((mark for mark in "|;," if mark in cell), None)
    return [part.strip() for part in cell.split(mark)] if mark else [cell]


def _with_profiles(log: InteractionLog, table: Table, chosen: dict[str, str]) -> tuple[InteractionLog, dict[str, str]]:
    user = _required(table, chosen, "user")
    profile = _optional(table, chosen, "profile")
    cells = {name: table.cells(name) for name in table.columns}
    texts = cells[profile] if profile is not None else profile_texts(cells, len(table))
    profiles = profiles_by_user(table, user, texts)
    return replace(log, other_users=frozenset(profiles)), profiles


def _required(table: Table, chosen: dict[str, str], role: str) -> str:
    name = _optional(table, chosen, role)
    if name is None:
        name = DEFAULT_COLUMNS[role][0]
        table.require((name,), f"or say which column it is, with columns {role}=NAME (separator is a comma)")
    return name


def _optional(table: Table, chosen: dict[str, str], role: str) -> str | None:
    if role in chosen:
        table.require((chosen[role],), f"correct {role}={chosen[role]} in columns")
        return chosen[role]
    return next((name for name in DEFAULT_COLUMNS[role] if name in table.columns), None)


def _paths(folder: str) -> dict[str, Path]:
    if "=" in folder and not Path(folder).expanduser().is_dir():
        given = {key: Path(value).expanduser() for key, value in _pairs(folder, FILES, "folder").items()}
        for key in FILES[:2]:
            if key not in given:
                raise ConfigError(f"expected {key}=PATH in folder, got {folder!r}")
        return given
    base = Path(folder).expanduser()
    paths = {key: base / f"{key}.csv" for key in FILES}
    return {key: path for key, path in paths.items() if key != "users" or path.is_file()}


def _pairs(text: str, keys: tuple[str, ...], option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value or key not in keys or key in pairs:
            raise ConfigError(f"expected {option} as KEY=VALUE,... with keys {', '.join(keys)} once each, got {part!r}")
        pairs[key] = value
    return pairs
