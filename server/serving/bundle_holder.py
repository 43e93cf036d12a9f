"""The bundle in use, and how another one takes its place without a request noticing.

A new bundle is checked and made ready beside the old one; then one reference changes. What is refused changes nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hushrec.common.bundle import ADAPTER, CATALOG, MANIFEST
from hushrec.common.catalog import ItemRow
from hushrec.common.errors import ConfigError, HushrecError
from hushrec.server.serving.batching import EncoderBatches
from hushrec.server.serving.served_bundle import Prepare, ServedBundle, bundle_folder, load_served

INTERVAL = 2.0  # seconds between two looks at the folder
MOST_ITEMS = 20_000  # that are added or changed at run time

Tell = Callable[[str, dict[str, Any]], None]


class BundleHolder:
    """Holds the bundle that requests are answered from.

    Args:
        target: a bundle folder or a run directory.
        tell: called with a word and facts when a bundle is swapped or refused; they hold nothing of a request.
    Attributes:
        current: what the next request is answered from; a request keeps the one that it began with.
        refused: why the bundle in the folder is not the one in use; "" where it is.
        swaps: bundles that took another's place.
    Raises:
        BundleError: the first bundle is refused; there is no old one to keep.
    """

    def __init__(
        self, target: Path, batches: EncoderBatches, prepare: Prepare, tell: Tell, interval: float = INTERVAL
    ) -> None:
        self._target, self._batches, self._prepare, self._tell = target, batches, prepare, tell
        self._interval = interval
        self._items: dict[str, ItemRow] = {}
        self._turn = threading.Lock()
        self._ended = threading.Event()
        self._watcher: threading.Thread | None = None
        self.refused, self.swaps, self.loaded_at = "", 0, time.time()
        self._seen = self._signature()
        self.current = load_served(bundle_folder(target), batches, prepare)

    def watch(self) -> None:
        """Look at the folder again and again, in a thread of its own."""
        self._watcher = threading.Thread(target=self._watch, name="bundle", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """Stop looking."""
        self._ended.set()
        if self._watcher is not None:
            self._watcher.join(self._interval + 1)

    def reload(self) -> bool:
        """Take the bundle that is in the folder now; whether it is in use afterwards."""
        with self._turn:
            self._seen = self._signature()
            try:
                folder = bundle_folder(self._target)
                found = load_served(folder, self._batches, self._prepare)
                changed = found.sha256 != self.current.sha256
                if changed:
                    self.current = self._with_own_items(found)
            except (HushrecError, OSError) as error:
                self._refuse(str(error))
                return False
            except Exception as error:  # whatever a file makes a library raise, the old bundle stays
                self._refuse(f"the bundle cannot be read ({type(error).__name__})")
                return False
            self.refused = ""
            if changed:
                self.swaps, self.loaded_at = self.swaps + 1, time.time()
                self._tell("bundle swapped", {"sha256": found.sha256, "experiment": found.experiment})
            return True

    def put_items(self, rows: list[ItemRow]) -> tuple[int, int]:
        """Add or change items until the process ends; they outlive a swap of bundles.

        Returns:
            Number of items that are new, number that were changed.
        Raises:
            ConfigError: more than MOST_ITEMS in all.
            DataError: an item without text, or twice with different texts.
            BundleError: as `ServedBundle.with_items`.
        """
        with self._turn:
            items = self._items | {row.item_id: row for row in rows}
            if len(items) > MOST_ITEMS:
                raise ConfigError(
                    f"at most {MOST_ITEMS:,} items can be added or changed at run time; the rest belongs in a bundle"
                )
            before = self.current
            new = sum(row.item_id not in before.positions for row in {row.item_id: row for row in rows}.values())
            found = before.with_items(rows, partial(self._batches.encode, before.encode))
            found.warm()
            self.current, self._items = found, items
            return new, len({row.item_id for row in rows}) - new

    def _with_own_items(self, found: ServedBundle) -> ServedBundle:
        if not self._items:
            return found
        grown = found.with_items(list(self._items.values()), partial(self._batches.encode, found.encode))
        grown.warm()
        return grown

    def _refuse(self, why: str) -> None:
        self.refused = why
        self._tell("bundle refused", {"why": why, "kept": self.current.sha256})

    def _watch(self) -> None:
        while not self._ended.wait(self._interval):
            if self._signature() != self._seen:
                self.reload()

    def _signature(self) -> tuple[object, ...]:
        """Changes when a file of the bundle does; a bundle that is still being copied is looked at again."""
        folder = bundle_folder(self._target)
        found: list[object] = [folder]
        for name in (MANIFEST, ADAPTER, CATALOG):
            try:
                stat = (folder / name).stat()
                found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
            except OSError:
                found.append(None)
        return tuple(found)
