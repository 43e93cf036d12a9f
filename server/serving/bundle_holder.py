"""The bundle in use, and how another one takes its place without a request noticing.

A new bundle is checked and made ready beside the old one; then one reference changes. What is refused changes nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hushrec.common.bundle import ADAPTER, CATALOG, MANIFEST
from hushrec.common.catalog import ItemRow
from hushrec.common.errors import HushrecError
from hushrec.common.scoring import Floats32
from hushrec.server.serving.batching import MOST_TEXTS, EncoderBatches
from hushrec.server.serving.items_file import Items, ItemsFile, merged
from hushrec.server.serving.served_bundle import Prepare, ServedBundle, bundle_folder, load_served

INTERVAL = 2.0  # seconds between two looks at the folder
PATIENCE = 20.0  # seconds that whoever changes something waits for a change that is under way

Tell = Callable[[str, dict[str, Any]], None]


class BundleHolder:
    """Holds the bundle that requests are answered from.

    Args:
        target: a bundle folder or a run directory.
        tell: called with a word and facts when a bundle is swapped or refused; they hold nothing of a request.
        items: where items put at run time are kept; without it they live as long as this object.
    Attributes:
        current: what the next request is answered from; a request keeps the one that it began with.
        refused: why the bundle in the folder is not the one in use; "" where it is.
        swaps: bundles that took another's place.
    Raises:
        BundleError: the first bundle is refused; there is no old one to keep.
        DataError, ConfigError: the items cannot be read.
    """

    def __init__(
        self,
        target: Path,
        batches: EncoderBatches,
        prepare: Prepare,
        tell: Tell,
        interval: float = INTERVAL,
        items: Path | None = None,
    ) -> None:
        self._target, self._batches, self._prepare, self._tell = target, batches, prepare, tell
        self._interval = interval
        self._file = ItemsFile(items) if items else None
        self._items_seen = self._file.signature() if self._file else None
        self._items: Items = self._file.read() if self._file else {}
        self._turn = threading.Lock()
        self._ended = threading.Event()
        self._watcher: threading.Thread | None = None
        self.refused, self.swaps, self.loaded_at = "", 0, time.time()
        self._seen = self._signature()
        self._bundle = load_served(bundle_folder(target), prepare)
        self.current = self._grown(self._bundle, self._items)

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
        """Take the bundle that is in the folder now; whether it is in use afterwards.

        Raises:
            TimeoutError: another change is under way for longer than PATIENCE.
        """
        with self._alone():
            try:
                self._seen = self._signature()
                folder = bundle_folder(self._target)
                found = load_served(folder, self._prepare)
                changed = found.sha256 != self.current.sha256
                if changed:
                    self.current, self._bundle = self._grown(found, self._items), found
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
        """Add or change items; they outlive a swap of bundles, and with a file also this process.

        Returns:
            Number of items that are new, number that were changed.
        Raises:
            ConfigError: more than MOST_ITEMS in all, or the file cannot be written.
            DataError: an item without text, or twice with different texts; or the file is damaged.
            BundleError: as `ServedBundle.with_items`.
            TimeoutError: another change is under way for longer than PATIENCE.
        """
        with self._alone():
            items, before = merged(self._items, rows), self.current
            ids = {row.item_id for row in rows}
            found = self._grown(before, {str(number): row for number, row in enumerate(rows)})
            if self._file:
                self._file.add(rows)  # what other workers wrote is taken at the next look
            self.current, self._items = found, items
            new = len(ids - before.positions.keys())
            return new, len(ids) - new

    def _take_items(self) -> None:
        """Take what the items' file holds now; one that is damaged changes nothing."""
        assert self._file is not None
        with self._alone():
            self._items_seen = self._file.signature()
            try:
                items = self._file.read()
                changed = {name: row for name, row in items.items() if self._items.get(name) != row}
                removed = self._items.keys() - items.keys()
                if changed or removed:
                    self.current = self._grown(self._bundle, items) if removed else self._grown(self.current, changed)
            except (HushrecError, OSError) as error:
                if isinstance(error, OSError):  # a time-out, or a disk that is away: the next look tries again
                    self._items_seen = None
                self._tell("items refused", {"why": str(error)})
                return
            self._items = items
        self._tell("items taken", {"items": len(items)})

    def _grown(self, served: ServedBundle, items: Items) -> ServedBundle:
        if not items:
            return served

        def encode(texts: list[str]) -> Floats32:
            # In parts, between which the texts of requests have their turn.
            parts = [texts[start : start + MOST_TEXTS] for start in range(0, len(texts), MOST_TEXTS)]
            return np.concatenate([self._batches.encode(served.encode, part) for part in parts])

        grown = served.with_items(list(items.values()), encode)
        grown.warm()
        return grown

    def _refuse(self, why: str) -> None:
        self.refused = why
        self._tell("bundle refused", {"why": why, "kept": self.current.sha256})

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One change at a time."""
        if not self._turn.acquire(timeout=PATIENCE):
            raise TimeoutError
        try:
            yield
        finally:
            self._turn.release()

    def _watch(self) -> None:
        while not self._ended.wait(self._interval):
            try:
                if self._signature() != self._seen:
                    self.reload()
                if self._file and self._file.signature() != self._items_seen:
                    self._take_items()
            except TimeoutError:  # somebody else is changing something; the next look comes soon
                continue
            except OSError as error:  # a disk that is away must not end the looking
                self._refuse(f"the bundle's folder cannot be looked at: {error.strerror}")

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
