"""Reads a person's own reviews and searches from a file: plain text, CSV, or JSON lines as Amazon publishes them.

It masks and mines nothing; interests.py does.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hushrec.common.errors import DataError
from hushrec.common.interests import UserText
from hushrec.common.item_names import read_text
from hushrec.common.json_lines import read_json_lines
from hushrec.common.tables import read_table

_REVIEWS = ("reviewText", "review", "text", "body")  # the first that is there counts
_SEARCHES = ("search", "query")
_RATINGS = ("overall", "rating", "stars")


def read_user_texts(path: Path) -> list[UserText]:
    """Read FILE.txt (one text per line), FILE.csv or FILE.jsonl / FILE.json, each also as .gz where it is JSON.

    CSV columns and JSON fields: a review in reviewText, review, text or body (with summary, title aside), 1 to 5 stars
    in overall, rating or stars; or a search in search or query.

    Raises:
        DataError: missing, unreadable, of another kind, without any text, or a cell that is wrong; names file and line.
    """
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind == "txt":
        lines = enumerate(read_text(path).splitlines(), start=1)
        found = [UserText(line.strip(), f"line {number}") for number, line in lines]
    elif kind == "csv":
        table = read_table(path, separator=",", quoted=True)
        cells = {name: table.cells(name) for name in table.columns}
        _require(path, set(cells))
        rows = ({name: column[row] for name, column in cells.items()} for row in range(len(table)))
        found = [_text(table.place(row), entry, f"row {row + 1}") for row, entry in enumerate(rows)]
    elif kind in ("jsonl", "json"):
        found = []
        for number, entry in read_json_lines(path):
            _require(path, set(entry), number)
            found.append(_text(f"{path}, line {number}", entry, f"line {number}"))
    else:
        raise DataError(f"{path}: expected a file that ends in .txt, .csv or .jsonl; rename or convert it")
    if not any(text.text for text in found):
        raise DataError(f"{path}: there is no text in it; export your reviews or searches again")
    return [text for text in found if text.text]


def _require(path: Path, names: set[str], line: int = 1) -> None:
    if not names & {*_REVIEWS, *_SEARCHES, "summary"}:
        wanted = ", ".join((*_REVIEWS, *_SEARCHES))
        raise DataError(
            f"{path}, line {line}: expected one of {wanted}, got {', '.join(sorted(names)[:6]) or 'nothing'}"
        )


def _text(place: str, entry: dict[str, Any], source: str) -> UserText:
    def first(names: tuple[str, ...]) -> str:
        value = next((entry[name] for name in names if entry.get(name)), "")
        if not isinstance(value, str):
            raise DataError(f"{place}: expected a text, got {str(value)[:40]!r}; correct or remove the line")
        return value.strip()

    if search := first(_SEARCHES):
        return UserText(search, source, is_search=True)
    parts = (first(("summary",)), first(_REVIEWS))
    return UserText(". ".join(part for part in parts if part), source, _stars(place, entry))


def _stars(place: str, entry: dict[str, Any]) -> float | None:
    given = next((entry[name] for name in _RATINGS if entry.get(name) not in (None, "")), None)
    if given is None:
        return None
    try:
        stars = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError, OverflowError):
        stars = math.nan
    if not 1 <= stars <= 5:
        raise DataError(f"{place}: expected 1 to 5 stars, got {str(given)[:40]!r}; correct the line or leave them out")
    return stars
