"""A bundle as it is served: checked, with its vectors memory-mapped and every index that a request needs.

It is immutable: another bundle, or an item more, is another object. It knows no HTTP.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from hushrec.common.base_model import load_base_model
from hushrec.common.bundle import ADAPTER, CATALOG, MANIFEST, Bundle, read_bundle
from hushrec.common.catalog import Catalog, ItemRow, build_catalog
from hushrec.common.errors import BundleError
from hushrec.common.item_index import EXACT_UP_TO, ItemIndex
from hushrec.common.item_names import ItemNames
from hushrec.common.memory import release_memory
from hushrec.common.prefix import cache_folder
from hushrec.common.scoring import Floats32, VectorScorer
from hushrec.common.stored_vectors import StoredScorer, open_vectors
from hushrec.common.wish import WishReader
from hushrec.common.workspace import Model
from hushrec.server.serving.prepare import bundle_sha256
from hushrec.server.serving.service_log import log

DECILES = 10
KEPT = 3  # folders of stored vectors, of the last bundles: going back needs no encoding
Prepare = Callable[[Path, str, Path], None]


@dataclass(frozen=True, eq=False)
class ServedBundle:
    """What requests are answered from.

    Attributes:
        sha256: of the manifest.
        files: name -> content, as devices get them.
        written: seconds since the epoch, of the manifest.
        cached: whether the vectors were on disk already.
    """

    sha256: str
    experiment: str
    privacy: dict[str, Any]
    files: dict[str, bytes]
    written: float
    catalog: Catalog
    scorer: VectorScorer
    model: Model
    cached: bool

    @property
    def uses_model(self) -> bool:
        """Whether ranking itself asks the language model, beside the texts that are encoded in batches."""
        choices = self.scorer.choices
        return bool(choices.click_weight or choices.profile_click_weight or self.model.config.profiles)

    @property
    def index(self) -> ItemIndex | None:
        """What chooses the items to score; None where all are scored."""
        return self.scorer.index if isinstance(self.scorer, StoredScorer) else None

    @cached_property
    def names(self) -> ItemNames:
        """Items by id, title or "title (year)"."""
        return ItemNames(self.catalog)

    @cached_property
    def reader(self) -> WishReader:
        """Reads wishes against the catalogue."""
        return WishReader(self.catalog)

    @cached_property
    def positions(self) -> dict[str, int]:
        """Item id -> catalogue position."""
        return {item_id: place for place, item_id in enumerate(self.catalog.item_ids)}

    @cached_property
    def searchable(self) -> list[str]:
        """Titles in lower case."""
        return [title.lower() for title in self.catalog.titles]

    @cached_property
    def lengths(self) -> Floats32:
        """(items,) norms of the item vectors, at least a little."""
        lengths: Floats32 = np.maximum(np.linalg.norm(self.scorer.item_vectors, axis=1), 1e-9)
        return lengths

    @cached_property
    def deciles(self) -> NDArray[np.int8]:
        """(items,) 0 = the least popular tenth of the catalogue, 9 = the most popular."""
        order = np.argsort(np.argsort(self.scorer.prior, kind="stable"), kind="stable")
        return (order * DECILES // len(order)).astype(np.int8)

    def warm(self) -> None:
        """Build every index before the first request asks for it."""
        self.reader.read("a popular film like none")
        for index in (self.names, self.positions, self.searchable, self.lengths, self.deciles):
            assert index is not None

    def encode(self, texts: list[str]) -> Floats32:
        """(n, width) vectors; for `EncoderBatches.encode`."""
        vectors: Floats32 = self.model.encode_texts(texts).numpy()
        return vectors

    def with_items(self, rows: list[ItemRow], encode: Callable[[list[str]], Floats32]) -> ServedBundle:
        """With items added or changed.

        Args:
            encode: texts -> (n, width).
        Raises:
            DataError: an item without text, or twice.
            BundleError: the bundle re-ranks with a click model, which reads the catalogue it was built on.
        """
        if not isinstance(self.scorer, StoredScorer):
            raise BundleError("this bundle re-ranks by a click model, so its items cannot change at run time")
        new, _ = build_catalog(rows, place_of=lambda number: f"item {number + 1}")
        places, columns = [], [list(getattr(self.catalog, name)) for name in _COLUMNS]
        for item, item_id in enumerate(new.item_ids):
            places.append(place := self.positions.get(item_id, len(columns[0])))
            for column, name in zip(columns, _COLUMNS, strict=True):
                value = getattr(new, name)[item]
                if place == len(column):
                    column.append(value)
                else:
                    column[place] = value
        ids, texts, titles, genres, years = columns
        catalog = Catalog(tuple(ids), tuple(texts), tuple(titles), np.array(years, dtype=np.int32), tuple(genres))
        scorer = self.scorer.with_texts(np.array(places, dtype=np.int64), encode(list(new.texts)))
        return replace(self, catalog=catalog, scorer=scorer)


_COLUMNS = ("item_ids", "texts", "titles", "genres", "years")


def bundle_folder(target: Path) -> Path:
    """The bundle's own folder, of a run directory too."""
    return target / "bundle" if not (target / MANIFEST).exists() and (target / "bundle").is_dir() else target


def load_served(folder: Path, prepare: Prepare) -> ServedBundle:
    """Check a bundle and make it ready to answer.

    Args:
        folder: of the bundle itself.
        prepare: encodes the catalogue where no vectors of this bundle are stored.
    Raises:
        BundleError: damaged, for another base model, or without a privacy section.
    """
    sha256 = bundle_sha256(folder)
    bundle = read_bundle(folder)
    _require_claim(bundle, folder)
    try:
        files = {name: (folder / name).read_bytes() for name in (MANIFEST, ADAPTER, CATALOG)}
        written = (folder / MANIFEST).stat().st_mtime
    except OSError as error:
        raise BundleError(f"cannot read the bundle in {folder}: {error.strerror}") from error
    named = json.loads(files[MANIFEST])["files"] | {MANIFEST: sha256}
    if any(hashlib.sha256(content).hexdigest() != named[name] for name, content in files.items()):
        raise BundleError(f"the bundle in {folder} was replaced while it was read; the next look takes the new one")
    # The base model that is loaded belongs to the thread that encodes for requests; this bundle gets one of its own.
    load_base_model.cache_clear()
    scorer: VectorScorer
    if bundle.choices.click_weight or bundle.choices.profile_click_weight:  # it reads the catalogue's token states
        cached = False
        prepare(folder, sha256, vectors_folder(folder, sha256))  # leaves the states on disk, which took longest
        model, scorer = bundle.scorer()
    else:
        scorer, cached = _stored(bundle, folder, sha256, prepare)
        model = bundle.text_model(scorer.heads.center)
    served = ServedBundle(
        sha256, bundle.experiment, bundle.privacy, files, written, bundle.catalog, scorer, model, cached
    )
    served.warm()
    _settle()
    if len(served.catalog) > EXACT_UP_TO and served.index is None:
        why = "every item is scored; pip install 'hushrec[serve]', then remove the stored vectors to make an index"
        log("no item index", {"items": len(served.catalog), "why": why}, logging.WARNING)
    return served


def _settle() -> None:
    """Collect what an earlier bundle left, and look at what stays never again.

    A large catalogue is millions of objects: each full collection that finds them stops every request for a second.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    release_memory()


def _stored(bundle: Bundle, folder: Path, sha256: str, prepare: Prepare) -> tuple[StoredScorer, bool]:
    """The vectors from disk, encoded first where they are not there, and whether they were."""
    vectors = vectors_folder(folder, sha256)
    look = partial(open_vectors, vectors, bundle.choices, len(bundle.catalog))
    try:
        return look(), True
    except BundleError:
        with FileLock(f"{vectors}.lock"):  # another worker may have made them anew meanwhile
            try:
                return look(), True
            except BundleError:
                _remove(vectors)  # a damaged one would stay for ever
    prepare(folder, sha256, vectors)
    found = look()
    _forget_old(vectors, f"{folder.resolve().name}-vectors-")
    return found, False


def vectors_folder(folder: Path, sha256: str) -> Path:
    """Beside the bundle; in hushrec's cache where that cannot be written."""
    folder = folder.resolve()
    own = folder.parent / f"{folder.name}-vectors-{sha256[:16]}"
    if own.exists() or os.access(folder.parent, os.W_OK):
        return own
    return cache_folder() / "vectors" / f"{folder.name}-vectors-{sha256[:16]}"


def _remove(vectors: Path) -> None:
    shutil.rmtree(vectors, ignore_errors=True)


def _forget_old(vectors: Path, prefix: str) -> None:
    """Remove all but the newest folders; a process that mapped one keeps what it mapped."""
    found = [path for path in vectors.parent.glob(f"{prefix}*") if path.is_dir()]
    found.sort(key=lambda path: path.stat().st_mtime)
    for path in found[:-KEPT]:
        _remove(path)
        Path(f"{path}.lock").unlink(missing_ok=True)


def _require_claim(bundle: Bundle, folder: Path) -> None:
    """Raises:
    BundleError: the privacy section does not say by which mechanism, and at which epsilon, it was trained.
    """
    privacy = bundle.privacy
    claims = isinstance(privacy, dict) and isinstance(privacy.get("mechanism"), str) and "epsilon" in privacy
    if not claims:
        raise BundleError(f"the bundle in {folder} has no privacy section, so what it cost cannot be shown; refused")
