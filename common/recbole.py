"""Import of RecBole atomic files: NAME.inter, NAME.item and NAME.user with typed tab-separated headers.

It reads neither NAME.kg nor NAME.link; common/knowledge_graph.py does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hushrec.common.catalog import Catalog, ItemRow, build_catalog
from hushrec.common.errors import DataError
from hushrec.common.interaction_log import InteractionLog
from hushrec.common.profiles import profile_texts, profiles_by_user
from hushrec.common.tables import Table, positions, read_table

_TYPES = {"token", "token_seq", "float", "float_seq"}
_TITLES = ("title", "movie_title", "item_name", "name", "entity_name")
_YEARS = ("release_year", "year", "release_date", "movie_year")
_GENRES = ("genres", "genre", "class", "categories", "category", "tags", "brand")
_REVIEWS = ("review", "review_text", "review_body")
_REPEATED_ITEM = "same item row again"

Source = tuple[Catalog, InteractionLog, dict[str, str]]


def find_recbole(folder: Path) -> Path | None:
    """Return the .inter file with an .item file beside it: the one named as the folder, or the only one, or None."""
    own = folder / f"{folder.name}.inter"
    if own.is_file() and own.with_suffix(".item").is_file():
        return own
    found = [path for path in sorted(folder.glob("*.inter")) if path.with_suffix(".item").is_file()]
    return found[0] if len(found) == 1 else None


def read_recbole(folder: Path, *, reorder_articles: bool = False) -> tuple[str, Source]:
    """Read a folder of atomic files.

    Item text is made of the first title-like, year-like and genre-like column of NAME.item. Order within a user
    comes from `timestamp`, else `seq_order`, else there is none. A column `review` is the user's own text.

    Args:
        folder: holds NAME.inter and NAME.item, optionally NAME.user.
        reorder_articles: see `build_catalog`.
    Returns:
        NAME, and catalogue, log and profile texts by raw user id.
    Raises:
        DataError: a file or column is missing or wrong; names file and line.
    """
    inter_path = find_recbole(folder)
    if inter_path is None:
        there = ", ".join(sorted(path.name for path in folder.glob("*"))[:6]) if folder.is_dir() else "no such folder"
        raise DataError(
            f"{folder}: expected exactly one pair NAME.inter and NAME.item, found {there or 'an empty folder'}; "
            "give the folder that holds the atomic files"
        )
    catalog, repeated = _read_items(inter_path.with_suffix(".item"), reorder_articles)
    log = replace(_read_interactions(inter_path), dropped_items={_REPEATED_ITEM: repeated})
    user_path = inter_path.with_suffix(".user")
    profiles: dict[str, str] = {}
    if user_path.is_file():
        table = read_atomic(user_path, ("user_id",))
        columns = {name: table.cells(name) for name in table.columns}
        profiles = profiles_by_user(table, "user_id", profile_texts(columns, len(table)))
        log = replace(log, other_users=frozenset(profiles))
    return inter_path.stem, (catalog, log, profiles)


def items_from_table(
    table: Table,
    item_column: str,
    title: str | None,
    year: str | None,
    genres: str | None,
    split_genres: Callable[[str], Sequence[str]],
    reorder_articles: bool = False,
) -> tuple[Catalog, int]:
    """Build the catalogue from named columns of an items table; None = the source has no such column."""
    ids, codes = table.ids(item_column)
    blank = [""] * len(table)
    titles = table.cells(title) if title else blank
    years = table.cells(year) if year else blank
    tags = table.cells(genres) if genres else blank
    rows = [
        ItemRow(ids[code], a, b, tuple(split_genres(c)))
        for code, a, b, c in zip(codes.tolist(), titles, years, tags, strict=True)
    ]
    return build_catalog(rows, place_of=table.place, reorder_articles=reorder_articles)


def _read_items(path: Path, reorder_articles: bool) -> tuple[Catalog, int]:
    table = read_atomic(path, ("item_id",))
    title, year, genres = (
        next((name for name in names if name in table.columns), None) for names in (_TITLES, _YEARS, _GENRES)
    )
    if title is None and genres is None:
        raise DataError(
            f"{path}, line 1: no column to make item texts from; add one of {', '.join(_TITLES[:3])} (token_seq)"
        )
    return items_from_table(table, "item_id", title, year, genres, str.split, reorder_articles)


def _read_interactions(path: Path) -> InteractionLog:
    table = read_atomic(path, ("user_id", "item_id"))
    user_ids, user_codes = table.ids("user_id")
    item_ids, item_codes = table.ids("item_id")
    log = InteractionLog(
        user_ids,
        user_codes,
        item_ids,
        item_codes,
        times=None,
        ratings=table.numbers("rating").astype(np.float32) if "rating" in table.columns else None,
        reviews=next((table.cells(name) for name in _REVIEWS if name in table.columns), ()),
    )
    if "timestamp" in table.columns:
        times, notes = table.times("timestamp")
        return replace(log, times=times, notes=notes)
    if "seq_order" in table.columns:
        order, unit = positions(table, "seq_order")
        note = "the source gives an order (seq_order) but no clock times"
        return replace(log, times=order, time_unit=unit, notes=(note,))
    return replace(log, notes=("the source gives neither times nor an order; order within a user is seeded",))


def read_atomic(path: Path, required: tuple[str, ...]) -> Table:
    """Read one atomic file and take the types off its column names."""
    table = read_table(path, separator="\t")
    columns = {}
    for header, column in table.columns.items():
        name, colon, kind = header.rpartition(":")
        if not colon or kind not in _TYPES:
            raise DataError(
                f"{path}, line 1: expected typed columns such as user_id:token, got {header!r}; "
                f"types are {', '.join(sorted(_TYPES))}"
            )
        columns[name] = column
    table = replace(table, columns=columns)
    table.require(required, "name it as RecBole does")
    return table
