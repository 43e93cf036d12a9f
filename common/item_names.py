"""Which item a person means: by its id, its title or "title (year)", in any case and with the article at either end.

It reads names from files and answers with catalogue positions; it guesses no item from a name that is only near.
"""

from __future__ import annotations

import difflib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hushrec.common.catalog import Catalog, reorder_article
from hushrec.common.errors import DataError

_NEAREST_TITLES = 3


class ItemNames:
    """The names of a catalogue's items, indexed once."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._index: dict[str, int | list[int]] = {}  # a list only where there are several: it is half of the memory
        for item, title in enumerate(catalog.titles):
            for name in {title.lower(), self._named(item).lower()}:
                known = self._index.setdefault(name, item)
                if isinstance(known, list):
                    known.append(item)
                elif known != item:
                    self._index[name] = [known, item]
        for item, item_id in enumerate(catalog.item_ids):
            self._index[item_id.lower()] = item  # an id is unique, and wins over a film that is called like it

    def matches(self, name: str) -> list[int]:
        """Catalogue positions of the items that are called so; several where a title is not unique."""
        found = self._index.get(name.lower())
        if found is None:
            found = self._index.get(reorder_article(name).lower(), [])
        return found if isinstance(found, list) else [found]

    def find(self, name: str, place: str = "") -> int:
        """The catalogue position of the one item that is called so.

        Args:
            place: file and line, named in errors.
        Raises:
            DataError: it names no item, or several; names near titles, or what to write instead.
        """
        items, head = self.matches(name), f"{place}: " if place else ""
        if len(items) == 1:
            return items[0]
        catalog = self._catalog
        if items:
            several = " or ".join(repr(self._named(item)) for item in items[:_NEAREST_TITLES])
            ids = ", ".join(repr(catalog.item_ids[item]) for item in items[:_NEAREST_TITLES])
            raise DataError(f"{head}{name!r} names {len(items)} items; write {several}, or an id ({ids})")
        near = difflib.get_close_matches(name.lower(), self._index, n=_NEAREST_TITLES, cutoff=0.6)
        hints = dict.fromkeys(self._named(self.matches(title)[0]) for title in near)
        hint = f"did you mean {' or '.join(map(repr, hints))}?" if hints else f"ids look like {catalog.item_ids[0]!r}."
        raise DataError(f"{head}no item {name!r} in a catalogue of {len(catalog):,} items; {hint}")

    def _named(self, item: int) -> str:
        year = int(self._catalog.years[item])
        return f"{self._catalog.titles[item]} ({year})" if year >= 0 else self._catalog.titles[item]


def read_history(path: Path, catalog: Catalog) -> NDArray[np.int32]:
    """Read a history file: one item per line, oldest first, as an item id, a title or "title (year)" in any case.

    Empty lines are skipped; of an item named twice the later line counts.

    Raises:
        DataError: not readable, not UTF-8, or a line that names no item or several; names file, line and near titles.
    """
    names = ItemNames(catalog)
    found: dict[int, None] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if name := line.strip():
            item = names.find(name, f"{path}, line {number}")
            found.pop(item, None)
            found[item] = None
    return np.array(list(found), dtype=np.int32)


def read_text(path: Path) -> str:
    """A history file's text; DataError if it is not readable or not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise DataError(f"cannot read the history {path}: {error.strerror}") from error
