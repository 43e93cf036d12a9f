"""Recommendations on a device from an edge folder: memory-mapped vectors, no torch, one core, no network.

The scores are those of common/scoring.py and the answer that of common/recommendation.py, as for a bundle. What a
person gives stays in memory.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hushrec.client.edge.text_encoder import OnnxTextEncoder
from hushrec.common.catalog import Catalog, ItemRow, build_catalog, catalog_from_json, catalog_to_json
from hushrec.common.edge_folder import EdgeFolder, open_edge_folder, sole_writer, write_edge_folder
from hushrec.common.errors import BundleError, ConfigError, DataError
from hushrec.common.interest_profile import InterestProfile, interest_text
from hushrec.common.recommendation import (
    PROFILE_WEIGHT,
    QUERY_WEIGHT,
    Answer,
    ReadText,
    Recommendation,
    check_request,
    recommend_items,
)
from hushrec.common.rules import AppliedRules
from hushrec.common.scoring import Floats32, Heads, ScoringChoices, VectorScorer
from hushrec.common.wish import WishReader

_ROWS_AT_ONCE = 4096  # of float16 vectors, widened block by block: 1 MB at 64 directions


class Vectors:
    """Rows of a memory-mapped file, then the rows added on this device.

    Args:
        mapped: float32 or float16 (items, dim).
        added: float32 (added items, dim).
    """

    def __init__(self, mapped: NDArray[np.floating], added: Floats32) -> None:
        self._mapped, self._added = mapped, added

    def rows(self, items: NDArray[np.integer]) -> Floats32:
        """(k,) positions -> float32 (k, dim)."""
        items, first = np.asarray(items), len(self._mapped)
        found = np.empty((len(items), self._mapped.shape[1]), dtype=np.float32)
        new = items >= first
        found[~new], found[new] = self._mapped[items[~new]], self._added[items[new] - first]
        return found

    def products(self, users: Floats32) -> Floats32:
        """(k, dim) -> float32 (k, items) inner products."""
        if self._mapped.dtype == np.float32:
            parts = [users @ self._mapped.T]
        else:
            starts = range(0, len(self._mapped), _ROWS_AT_ONCE)
            parts = [users @ self._mapped[start : start + _ROWS_AT_ONCE].astype(np.float32).T for start in starts]
        if len(self._added):
            parts.append(users @ self._added.T)
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


class EdgeScorer(VectorScorer):
    """A VectorScorer whose vectors stay on disk."""

    def __init__(self, items: Vectors, history: Vectors, heads: Heads, prior: Floats32, choices: ScoringChoices):
        self._items, self._history = items, history
        self._center, self._head = heads.center, heads.user_head
        self.scale, self.prior, self.choices = heads.scale, prior, choices

    def rows(self, items: NDArray[np.integer]) -> Floats32:
        """(k,) items -> (k, dim) item vectors."""
        return self._items.rows(items)

    def history_rows(self, items: NDArray[np.integer]) -> Floats32:
        """(k,) items -> (k, dim) history vectors."""
        return self._history.rows(items)

    def products(self, users: Floats32) -> Floats32:
        """(k, dim) user vectors -> (k, items)."""
        return self._items.products(users)


class EdgeRecommender:
    """An opened edge folder.

    Attributes:
        catalog: its items, then those added on this device.
        manifest: of the folder: "privacy", "encoder" with what was measured, and more; see client/edge/vectors.py.
    """

    catalog: Catalog
    manifest: dict[str, Any]

    def __init__(self, folder: EdgeFolder) -> None:
        self._load(folder)

    @classmethod
    def open(cls, path: Path) -> EdgeRecommender:
        """Open a folder of `write_vectors` or `hushrec export`, with or without an encoder.

        Raises:
            BundleError: missing or damaged. Of the large files only the shape is checked; see `check_edge_folder`.
        """
        return cls(open_edge_folder(path))

    @property
    def reads_texts(self) -> bool:
        """Whether there is an encoder, for queries and new items."""
        return self._folder.has("encoder") and self._folder.has("tokenizer")

    def recommend(
        self, history: NDArray[np.int32], *, query: str = "", profile: str = "", n: int = 10, discovery: float = 0.0
    ) -> tuple[Recommendation, ...]:
        """The recommendations of `answer`, without rules."""
        return self.answer(history, query=query, profile=profile, n=n, discovery=discovery).recommendations

    def answer(
        self,
        history: NDArray[np.int32],
        *,
        query: str = "",
        profile: str = "",
        interests: InterestProfile | None = None,
        n: int = 10,
        discovery: float = 0.0,
        rules: AppliedRules | None = None,
    ) -> Answer:
        """The n best items that are not in the history, as simulations/recommend.py ranks them from the bundle.

        Args:
            history: int32 (k,), catalogue positions, oldest first; of an item named twice the later place counts.
            query, profile: what is wanted and by whom, in words. Years, genres and popularity in a query are
                constraints (common/wish.py); other words, a profile and interests need an encoder.
            interests: likes and dislikes, of `read_interests`.
            n: at least 1; fewer come back where the catalogue is exhausted.
            discovery: in [0, 1]; 0 = popularity as validated, 1 = popularity ignored.
            rules: on `catalog`, of `RuleFile.apply`.
        Raises:
            ConfigError: n or discovery out of range, or a text without an encoder.
            DataError: a position that is no item.
        """
        check_request(n, discovery)
        query, profile = query.strip(), profile.strip()
        understood = self._wishes.read(query)
        parts = ((profile, profile, PROFILE_WEIGHT), (query, understood.words, QUERY_WEIGHT))
        given = [(text, words, weight) for text, words, weight in parts if words]
        interests = interests or InterestProfile()
        texts: list[ReadText] = []
        if written := [*(words for _, words, _ in given), *interests.phrases]:
            encoded = self._encoder("a text").encode(written, self.manifest["query_length"])
            vectors = self._scorer.project(encoded)
            texts = [ReadText(text, weight, vector) for (text, _, weight), vector in zip(given, vectors, strict=False)]
            if interests.interests:
                texts.append(interest_text(interests, vectors[len(given) :]))
        given_items = self._distinct(history)
        return recommend_items(
            *(self._scorer, self.catalog, given_items, texts),
            n=n,
            discovery=discovery,
            constraints=understood,
            rules=rules,
        )

    def add_items(self, rows: Sequence[ItemRow]) -> None:
        """Append items, encoding their texts alone; the rest of the catalogue keeps its vectors and positions.

        A new item counts as popular as the least popular item of the catalogue. The folder changes in one step.

        Args:
            rows: of public items; their text is made as on import.
        Raises:
            ConfigError: the folder has no encoder.
            DataError: an item without text, twice, or in the catalogue already.
        """
        if not rows:
            return
        new, _ = build_catalog(rows, place_of=lambda number: f"new item {number + 1}")
        with sole_writer(self._folder.path):
            self._load(open_edge_folder(self._folder.path))  # another program may have added some
            if again := sorted(set(new.item_ids) & set(self.catalog.item_ids)):
                raise DataError(f"item {again[0]!r} is in the catalogue already; leave it out of the new items")
            encoded = self._encoder("a new item").encode(new.texts, self.manifest["max_length"])
            added, columns = _read_added(self._folder, self._heads)
            more = catalog_to_json(new)
            files = added_files(
                np.concatenate([added["item_vectors"], self._heads.item_vectors(encoded)]),
                np.concatenate([added["history_vectors"], self._heads.history_vectors(encoded)]),
                {name: [*columns.get(name, []), *more[name]] for name in more},
            )
            manifest = {**self.manifest, "added": int(self.manifest["added"]) + len(new)}
            self._load(write_edge_folder(self._folder.path, manifest, files))

    def _load(self, folder: EdgeFolder) -> None:
        self._folder, self.manifest = folder, dict(folder.manifest)
        try:
            arrays = _arrays(folder.read("heads"))
            scale, beta = (float(x) for x in arrays["mix"])
            center, offset = arrays["center"], arrays["offset"]
            self._heads = heads = Heads(center, arrays["item_head"], arrays["user_head"], offset, scale, beta)
            added, columns = _read_added(folder, heads)
            base = json.loads(folder.read("catalog"))
            base = {name: base[name] + columns.get(name, []) for name in base}
            shared: dict[tuple[str, ...], tuple[str, ...]] = {}  # one tuple per combination of genres, not per item
            base["genres"] = [shared.setdefault(genres, genres) for genres in map(tuple, base["genres"])]
            self.catalog = catalog_from_json(base)
            least = np.full(len(added["item_vectors"]), arrays["log_popularity"].min(), dtype=np.float32)
            prior = np.concatenate([arrays["prior"], heads.prior(added["item_vectors"], least)])
            shape = (int(self.manifest["items"]), len(heads.offset))
            vectors = [
                Vectors(_mapped(folder, role, shape), added[role]) for role in ("item_vectors", "history_vectors")
            ]
            if len(self.catalog) != len(prior) or len(prior) != shape[0] + int(self.manifest["added"]):
                raise ValueError("its catalogue and its vectors differ in length")
            choices = ScoringChoices(**self.manifest["choices"])
            self._scorer = EdgeScorer(vectors[0], vectors[1], heads, prior, choices)
        except (OSError, ValueError, KeyError, TypeError, DataError) as error:
            raise BundleError(f"the edge folder {folder.path} is damaged: {error}; export or fetch it again") from error
        self._text_encoder: OnnxTextEncoder | None = None
        self._wishes = WishReader(self.catalog)

    def _encoder(self, what: str) -> OnnxTextEncoder:
        if self._text_encoder is None:
            if not self.reads_texts:
                raise ConfigError(
                    f"this edge folder has no encoder for {what}: write one with "
                    "hushrec export RUN_OR_BUNDLE --out DIR, or recommend from the history alone"
                )
            self._text_encoder = OnnxTextEncoder(self._folder.file("encoder"), self._folder.read("tokenizer"))
        return self._text_encoder

    def _distinct(self, history: NDArray[np.int32]) -> NDArray[np.int32]:
        outside = [int(item) for item in history if not 0 <= item < len(self.catalog)]
        if outside:
            raise DataError(f"the history names item number {outside[0]} of a catalogue of {len(self.catalog):,} items")
        newest_first = dict.fromkeys(int(item) for item in history[::-1])
        return np.array(list(newest_first)[::-1], dtype=np.int32)


def added_files(items: Floats32, history: Floats32, columns: dict[str, Any]) -> dict[str, bytes]:
    """The two files of the items added on a device, (k, dim) vectors each and their catalogue columns."""
    return {
        "added_vectors": pack(item_vectors=items, history_vectors=history),
        "added_catalog": json.dumps(columns, ensure_ascii=False).encode(),
    }


def pack(**arrays: Any) -> bytes:
    """The content of an .npz file."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def _arrays(content: bytes) -> dict[str, Floats32]:
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _read_added(folder: EdgeFolder, heads: Heads) -> tuple[dict[str, Floats32], dict[str, Any]]:
    """Vectors and catalogue columns of the added items; empty where there are none."""
    if "added_vectors" not in folder.manifest["files"]:
        nothing = np.zeros((0, len(heads.offset)), dtype=np.float32)
        return {"item_vectors": nothing, "history_vectors": nothing}, {}
    return _arrays(folder.read("added_vectors")), json.loads(folder.read("added_catalog"))


def _mapped(folder: EdgeFolder, role: str, shape: tuple[int, int]) -> NDArray[np.floating]:
    vectors: NDArray[np.floating] = np.load(folder.file(role), mmap_mode="r", allow_pickle=False)
    if vectors.shape != shape or vectors.dtype not in (np.float32, np.float16):
        raise ValueError(f"{folder.file(role).name} has shape {vectors.shape} and {vectors.dtype}, expected {shape}")
    return vectors.view(np.ndarray)
