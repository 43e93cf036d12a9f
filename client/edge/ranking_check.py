"""What an exported encoder costs in ranking, size and time, against the float32 one.

Two figures of ranking. `validation`: NDCG on the validation cases of the run that made the bundle, every catalogue
vector encoded by the encoder under test; only whoever holds the run's data has it. `neighbours`, from public texts
alone: an item's text asks for items as a typed text does, stored vectors stay, and the ten items found are judged by
how near they are at float32: NDCG@10 with gain max(0, float32 similarity); `overlap` is the share of the ten that
float32 finds too. It chooses nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hushrec.client.edge.text_encoder import OnnxTextEncoder
from hushrec.common.scoring import Floats32, Heads

Validation = Callable[[Floats32], float]
"""(items, width) encoded catalogue -> NDCG of the validation cases."""

TOP = 10
ASKED = 300  # items whose texts ask, evenly over the catalogue
TIMED = 40  # of them


@dataclass(frozen=True)
class Figures:
    """What one encoder was measured to be.

    Attributes:
        name: what was done to it.
        megabytes: of the .onnx file, 10^6 bytes.
        milliseconds: median of one short text, one core, on the exporting machine.
        validation: NDCG, None without a run.
        neighbours, overlap: in [0, 1], 1 for float32 itself.
    """

    name: str
    megabytes: float
    milliseconds: float
    validation: float | None
    neighbours: float
    overlap: float

    def loss(self, reference: Figures) -> float:
        """Share of the reference's NDCG that is lost: the larger one, of the validation cases and of the neighbours.

        Some hundred validation cases are too few to see 1 %: a form may seem to lose nothing there by luck, and then
        the neighbours, which are many and have no luck, still have to be right.
        """
        pairs = [(self.neighbours, reference.neighbours)]
        if self.validation is not None and reference.validation:
            pairs.append((self.validation, reference.validation))
        return max(1.0 - own / other for own, other in pairs)


class RankingCheck:
    """Measures encoders of one catalogue.

    Args:
        heads, item_vectors: of the scorer whose ranking is to stay.
        texts: of the catalogue.
        tokenizer, max_length: of its encoder.
        reference: the float32 ONNX model.
        validation: None without the run's data.
    """

    def __init__(
        self,
        heads: Heads,
        item_vectors: Floats32,
        texts: Sequence[str],
        tokenizer: bytes,
        max_length: int,
        reference: bytes,
        validation: Validation | None = None,
    ) -> None:
        self._heads, self._items, self._texts = heads, item_vectors, texts
        self._tokenizer, self._max_length, self._validation = tokenizer, max_length, validation
        self._asked = np.unique(np.linspace(0, len(texts) - 1, min(ASKED, len(texts))).astype(np.int64))
        self.sample = [texts[item] for item in self._asked]
        self._exact = self._similarity(self.encode(reference))

    def encode(self, content: bytes) -> Floats32:
        """(asked, width) vectors of the asking texts, each alone as on a device."""
        return OnnxTextEncoder(content, self._tokenizer).encode(self.sample, self._max_length)

    def measure(self, name: str, content: bytes) -> Figures:
        """All figures of the ONNX model `content`."""
        one = OnnxTextEncoder(content, self._tokenizer)
        found = _best(self._similarity(one.encode(self.sample, self._max_length)))
        ideal, gain = _best(self._exact), np.maximum(self._exact, 0.0)
        discount = 1.0 / np.log2(np.arange(found.shape[1]) + 2.0)
        gained = np.take_along_axis(gain, found, axis=1) @ discount
        possible = np.take_along_axis(gain, ideal, axis=1) @ discount
        counted = possible > 0
        neighbours = float(np.mean(gained[counted] / possible[counted])) if counted.any() else 1.0
        overlap = float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(found, ideal, strict=True)]))
        validation = None
        if self._validation is not None:
            every = OnnxTextEncoder(content, self._tokenizer, threads=0)
            validation = self._validation(every.encode(self._texts, self._max_length, together=True))
        return Figures(name, len(content) / 1e6, self._milliseconds(one), validation, neighbours, overlap)

    def _similarity(self, encoded: Floats32) -> Floats32:
        """(asked, items): a text asks as an item of a history does; it does not find itself."""
        scores: Floats32 = self._heads.history_vectors(encoded) @ self._items.T
        scores[np.arange(len(self._asked)), self._asked] = -np.inf
        return scores

    def _milliseconds(self, encoder: OnnxTextEncoder) -> float:
        medians = []
        for _ in range(3):  # the best of three: other programs only ever add time
            taken = []
            for text in self.sample[:TIMED]:
                start = time.perf_counter()
                encoder.encode([text], self._max_length)
                taken.append(time.perf_counter() - start)
            medians.append(statistics.median(taken))
        return 1e3 * min(medians)


def _best(scores: Floats32) -> NDArray[np.int64]:
    """(k, n) -> (k, 10) the best columns of each row, best first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, : min(TOP, scores.shape[1] - 1)].astype(np.int64)
