"""A scorer's vectors on disk, memory-mapped: what a service starts from and what its processes share.

It encodes nothing and checks no adapter; the folder's name says which bundle the vectors are of.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hushrec.common.errors import BundleError
from hushrec.common.item_index import EXACT_UP_TO, ItemIndex, build_codes, has_search
from hushrec.common.manifest import sealed
from hushrec.common.scorer import LMScorer
from hushrec.common.scoring import Floats32, Heads, ScoringChoices, VectorScorer

MANIFEST = "manifest.json"
_MATRICES = ("item_vectors", "history_vectors")
_INDEX = "item_index"
_SMALL = ("center", "item_head", "user_head", "offset", "mix", "log_popularity", "prior")


class StoredScorer(VectorScorer):
    """A VectorScorer of arrays, memory-mapped or not.

    Args:
        item_vectors, history_vectors: float32 (items, dim).
        log_popularity, prior: float32 (items,).
        index: of these items, where there is one.
    """

    def __init__(
        self,
        item_vectors: Floats32,
        history_vectors: Floats32,
        heads: Heads,
        log_popularity: Floats32,
        prior: Floats32,
        choices: ScoringChoices,
        index: ItemIndex | None = None,
    ) -> None:
        self.item_vectors, self.history_vectors = item_vectors, history_vectors
        self.heads, self.scale = heads, heads.scale
        self._center, self._head = heads.center, heads.user_head
        self.log_popularity, self.prior, self.choices, self.index = log_popularity, prior, choices, index

    @classmethod
    def of(cls, scorer: LMScorer) -> Self:
        """The same scores, without the model."""
        return cls(
            scorer.item_vectors,
            scorer.history_vectors,
            scorer.heads,
            scorer.log_popularity,
            scorer.prior,
            scorer.choices,
        )

    def with_texts(self, positions: NDArray[np.int64], encoded: Floats32) -> StoredScorer:
        """With the vectors of some items made from their texts alone, existing ones and new ones at the end.

        An item that is new counts as popular as the least popular one.

        Args:
            positions: (k,) distinct; those from len(items) on are new, without a gap.
            encoded: float32 (k, width), by the model.
        """
        before = len(self.prior)
        items = max(before, int(positions.max(initial=-1)) + 1)
        grown = np.full(items, self.log_popularity.min(), dtype=np.float32)
        grown[:before] = self.log_popularity
        vectors = []
        for old, new in (
            (self.item_vectors, self.heads.item_vectors(encoded)),
            (self.history_vectors, self.heads.history_vectors(encoded)),
        ):
            rows = np.zeros((items, old.shape[1]), dtype=np.float32)
            rows[:before] = old
            rows[positions] = new
            vectors.append(rows)
        prior = np.zeros(items, dtype=np.float32)
        prior[:before] = self.prior
        prior[positions] = self.heads.prior(vectors[0][positions], grown[positions])
        index = None if self.index is None else self.index.with_changed(positions)
        return StoredScorer(vectors[0], vectors[1], self.heads, grown, prior, self.choices, index)


def store_vectors(folder: Path, scorer: StoredScorer) -> None:
    """Write the folder in one step; where it is there already, it stays.

    Above EXACT_UP_TO items an index goes with them, where the library for it is installed.

    Raises:
        OSError: the disk is full or does not let us.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        heads = scorer.heads
        arrays = {
            **{name: getattr(scorer, name) for name in (*_MATRICES, "log_popularity", "prior")},
            **{name: getattr(heads, name) for name in ("center", "item_head", "user_head", "offset")},
            "mix": np.array([heads.scale, heads.beta]),
        }
        if len(scorer.prior) > EXACT_UP_TO and has_search():
            arrays[_INDEX] = build_codes(scorer.item_vectors, scorer.prior)
        digests = {}
        for name, values in arrays.items():
            stream = io.BytesIO()
            np.save(stream, np.ascontiguousarray(values), allow_pickle=False)
            (made / f"{name}.npy").write_bytes(stream.getvalue())
            digests[name] = hashlib.sha256(stream.getvalue()).hexdigest()
        (made / MANIFEST).write_text(sealed({"files": digests}), encoding="utf-8")
        made.chmod(0o755)
        try:
            os.rename(made, folder)
        except OSError:
            if not (folder / MANIFEST).exists():
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def open_vectors(folder: Path, choices: ScoringChoices, items: int) -> StoredScorer:
    """Open a folder of `store_vectors`, every hash checked; its index too, where the library for it is installed.

    Raises:
        BundleError: missing, damaged or of another catalogue.
    """
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
        manifest = json.loads(text)
        if sealed(manifest) != text:
            raise ValueError("its manifest was changed")
        arrays = {}
        indexed = _INDEX in manifest["files"] and has_search()
        for name in (*_MATRICES, *_SMALL, *[_INDEX] * indexed):
            path = folder / f"{name}.npy"
            with path.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != manifest["files"][name]:
                    raise ValueError(f"{path.name} is not the file its manifest describes")
            arrays[name] = np.load(path, mmap_mode=None if name in _SMALL else "r", allow_pickle=False)
        if any(len(arrays[name]) != items for name in (*_MATRICES, "log_popularity", "prior")):
            raise ValueError(f"it does not hold {items:,} items")
        index = ItemIndex(arrays[_INDEX], arrays["prior"]) if indexed else None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BundleError(f"the stored vectors in {folder} cannot be used: {error}") from error
    scale, beta = (float(x) for x in arrays["mix"])
    heads = Heads(arrays["center"], arrays["item_head"], arrays["user_head"], arrays["offset"], scale, beta)
    matrices = [arrays[name].view(np.ndarray) for name in _MATRICES]
    return StoredScorer(matrices[0], matrices[1], heads, arrays["log_popularity"], arrays["prior"], choices, index)
