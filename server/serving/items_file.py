"""Items added or changed at run time, in a file that all workers share: one JSON object a line, as PUT /v1/items has.

It is public catalogue data, no user's; a writer replaces it as a whole under a lock, so no reader sees half of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock
from pydantic import ValidationError

from hushrec.common.catalog import ItemRow
from hushrec.common.errors import ConfigError, DataError
from hushrec.common.files import replace_file
from hushrec.common.json_lines import read_json_lines
from hushrec.server.serving.schema import NewItem

MOST_ITEMS = 20_000  # that are added or changed at run time
Items = dict[str, ItemRow]


def item_row(item: NewItem) -> ItemRow:
    """The item as catalogues are built from."""
    return ItemRow(item.item_id, item.title, "" if item.year is None else str(item.year), tuple(item.genres))


def merged(items: Items, rows: Iterable[ItemRow]) -> Items:
    """With rows added, or in the place of those with their ids.

    Raises:
        ConfigError: more than MOST_ITEMS in all.
    """
    found = items | {row.item_id: row for row in rows}
    if len(found) > MOST_ITEMS:
        raise ConfigError(
            f"at most {MOST_ITEMS:,} items can be added or changed at run time; the rest belongs in a bundle"
        )
    return found


class ItemsFile:
    """The file; one that is not there yet holds no item."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Items:
        """Item id -> item, of an id twice the later.

        Raises:
            DataError: cannot be read, or a line that is no item; names the line.
            ConfigError: more than MOST_ITEMS.
        """
        if not self._path.exists():
            return {}
        return merged({}, [self._row(number, content) for number, content in read_json_lines(self._path)])

    def add(self, rows: Iterable[ItemRow]) -> Items:
        """Write what is in the file with these rows, and return it.

        Raises:
            DataError, ConfigError: as `read`; the file is as it was.
            ConfigError: it cannot be written.
        """
        try:
            with FileLock(f"{self._path}.lock"):
                items = merged(self.read(), rows)
                replace_file(self._path, "".join(map(_line, items.values())).encode())
        except OSError as error:
            raise ConfigError(f"cannot write the items {self._path}: {error.strerror}") from error
        return items

    def signature(self) -> tuple[int, int, int] | None:
        """Changes when the file does."""
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _row(self, number: int, content: dict[str, object]) -> ItemRow:
        try:
            return item_row(NewItem.model_validate(content))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part)[:60] for part in first["loc"])
            raise DataError(
                f"{self._path}, line {number}: {place}: {first['msg']}; correct or remove the line"
            ) from None


def _line(row: ItemRow) -> str:
    year = int(row.year) if row.year else None
    content = {"item_id": row.item_id, "title": row.title, "year": year, "genres": list(row.genres)}
    return json.dumps(content, ensure_ascii=False) + "\n"
