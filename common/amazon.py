"""Import of Amazon reviews as published: NAME.json(.gz) with reviews, meta_NAME.json(.gz) with items, one JSON a line.

The fields are those of the 2014 and 2018 releases (reviewerID, asin, overall, unixReviewTime, summary, reviewText;
asin, title, brand, category or categories, description). It reads neither pictures nor votes, nor names of reviewers.

Source: Ni, Li and McAuley 2019, "Justifying Recommendations using Distantly-Labeled Reviews and Fine-Grained Aspects".
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hushrec.common.catalog import Catalog, ItemRow, build_catalog, item_text
from hushrec.common.errors import DataError
from hushrec.common.interaction_log import InteractionLog
from hushrec.common.json_lines import read_json_lines
from hushrec.common.recbole import Source

_META = re.compile(r"meta_(?P<name>.+?)(?P<ending>\.json(?:\.gz)?)")
_TAG = re.compile(r"<(?:script|style)\b.*?(?:</(?:script|style)>|$)|<[^<>]*>", re.IGNORECASE | re.DOTALL)
_TITLE_WORDS = 12  # of a description that stands in for a missing title
_LONGEST_CATEGORY = 60  # characters; longer ones are product features that the source put there
_LATEST = 1e11  # seconds: the year 5138
_NO_TEXT = "no title, brand, category or description"
_REPEATED_ITEM = "same asin again (the first row is kept)"


def read_amazon(folder: Path) -> tuple[str, Source]:
    """Read one category.

    Item text is made of title, brand and categories; a missing title is replaced by the first words of the description.
    The text of a review is its summary and its body, without HTML.

    Args:
        folder: holds exactly one meta_NAME.json(.gz), and NAME, NAME_5, reviews_NAME or reviews_NAME_5 beside it.
    Returns:
        "amazon/NAME", and catalogue, log and (no) profile texts by raw user id.
    Raises:
        DataError: a file or field is missing or wrong; names file and line.
    """
    name, meta, reviews = _files(folder)
    catalog, dropped = _read_items(meta)
    return f"amazon/{name}", (catalog, _read_reviews(reviews, dropped), {})


def _files(folder: Path) -> tuple[str, Path, Path]:
    there = {path.name: path for path in sorted(folder.glob("*.json*"))} if folder.is_dir() else {}
    found = []
    for file, path in there.items():
        if match := _META.fullmatch(file):
            stems = (f"{start}{match['name']}{end}" for start in ("", "reviews_") for end in ("", "_5"))
            names = (f"{stem}{ending}" for stem in stems for ending in (".json", ".json.gz"))
            found += [(match["name"], path, there[other]) for other in names if other in there]
    if len(found) != 1:
        seen = ", ".join(list(there)[:6]) or ("no such file" if folder.is_dir() else "no such folder")
        raise DataError(
            f"{folder}: expected exactly one pair NAME.json and meta_NAME.json (or .json.gz), found {seen}; "
            "give the folder of one category"
        )
    return found[0]


def _read_items(path: Path) -> tuple[Catalog, dict[str, int]]:
    rows: dict[str, ItemRow] = {}
    dropped = {_NO_TEXT: 0, _REPEATED_ITEM: 0}
    for number, entry in read_json_lines(path, literals=True):
        place = f"{path}, line {number}"
        asin = _identifier(entry, "asin", place)
        if asin in rows:
            dropped[_REPEATED_ITEM] += 1
            continue
        row = _item(asin, entry, place)
        if item_text(row.title, -1, row.genres):
            rows[asin] = row
        else:
            dropped[_NO_TEXT] += 1
    if not rows:
        raise DataError(f"{path}: expected at least one item with a title, got none; fetch it again")
    return build_catalog(list(rows.values()), place_of=lambda _: str(path))[0], dropped


def _item(asin: str, entry: dict[str, Any], place: str) -> ItemRow:
    categories: list[Any] = []
    for part in _listed(entry.get("category") or entry.get("categories") or [], "category", place):
        categories += part if isinstance(part, list) else [part]
    brand = _text(entry, "brand", place)
    names = [brand.removeprefix("by ").strip(), *(_clean(part) for part in categories if isinstance(part, str))]
    genres = tuple(dict.fromkeys(name for name in names if 0 < len(name) <= _LONGEST_CATEGORY))
    title = _text(entry, "title", place)
    if not title:
        parts = _listed(entry.get("description") or [], "description", place)
        title = " ".join(" ".join(_clean(part) for part in parts if isinstance(part, str)).split()[:_TITLE_WORDS])
    return ItemRow(asin, title, "", genres)


def _read_reviews(path: Path, dropped_items: dict[str, int]) -> InteractionLog:
    users, items, times, ratings, texts = [], [], [], [], []
    for number, entry in read_json_lines(path):
        place = f"{path}, line {number}"
        users.append(_identifier(entry, "reviewerID", place))
        items.append(_identifier(entry, "asin", place))
        times.append(int(_number(entry, "unixReviewTime", 0, _LATEST, place)))
        ratings.append(_number(entry, "overall", 0, 5, place))
        parts = [_text(entry, field, place) for field in ("summary", "reviewText")]
        texts.append(". ".join(part for part in parts if part))
    if not users:
        raise DataError(f"{path}: expected at least one review, got none; fetch it again")
    (user_ids, user_codes), (item_ids, item_codes) = _coded(users), _coded(items)
    return InteractionLog(
        user_ids,
        user_codes,
        item_ids,
        item_codes,
        times=np.array(times, dtype=np.int64),
        ratings=np.array(ratings, dtype=np.float32),
        reviews=texts,
        dropped_items=dropped_items,
    )


def _coded(names: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray[Any, np.dtype[np.intp]]]:
    """Distinct names, sorted, and the position of each."""
    distinct = tuple(sorted(set(names)))
    place = {name: number for number, name in enumerate(distinct)}
    return distinct, np.array([place[name] for name in names], dtype=np.intp)


def _identifier(entry: dict[str, Any], field: str, place: str) -> str:
    value = entry.get(field)
    # A lone surrogate is legal in JSON and cannot be written as UTF-8.
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise DataError(f"{place}: expected {field} to be an id, got {_shown(value)}; correct or remove the line")
    return value.strip()


def _number(entry: dict[str, Any], field: str, low: float, high: float, place: str) -> float:
    value = entry.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high or math.isnan(value):
        raise DataError(
            f"{place}: expected {field} to be a number from {low:g} to {high:g}, got {_shown(value)}; "
            "correct or remove the line"
        )
    return float(value)


def _text(entry: dict[str, Any], field: str, place: str) -> str:
    value = entry.get(field)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{place}: expected {field} to be a text, got {_shown(value)}; correct or remove the line")
    return _clean(value or "")


def _listed(value: Any, field: str, place: str) -> list[Any]:
    if not isinstance(value, str | list):
        raise DataError(f"{place}: expected {field} to be a text or a list, got {_shown(value)}; correct the line")
    return value if isinstance(value, list) else [value]


def _clean(text: str) -> str:
    """Without tags, character references, control characters and lone surrogates; white space trimmed."""
    plain = html.unescape(_TAG.sub(" ", text))
    return " ".join("".join(c if c.isprintable() else " " for c in plain).split())


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:60] + "..."
