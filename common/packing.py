"""Several texts in one sequence: how the texts of a privacy unit go through the encoder with little padding.

A text of 12 tokens beside one of 30 would be padded to 30. Instead the texts of one row are laid end to end in a few
sequences of nearly equal length, and a mask keeps each text's attention to itself. A row never shares a sequence with
another row, so that a factor still sees every row apart (adapters.RowLayout).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SHORTEST_SEQUENCE = 64  # tokens; longer sequences pack tighter but attention grows with their square
_ROUND_TO = 4  # lengths are multiples of this: fewer shapes, which the products are compiled for


@dataclass(frozen=True, eq=False)
class Packing:
    """Where the tokens of (rows, g) texts lie in (rows x s) sequences of equal length.

    Attributes:
        token: int64 (rows * s, length) position in Prefix.hidden; 0 at padding.
        text: int64 (rows * s, length) number of the text, row * g + column; rows * g at padding.
        starts: int64 (rows * g,) place of each text's first token in the flattened sequences.
    """

    token: Tensor
    text: Tensor
    starts: NDArray[np.int64]

    def mask(self, dtype: torch.dtype) -> Tensor:
        """(rows * s, 1, length, length) to add to attention logits: 0 inside a text, the lowest number across."""
        same = self.text[:, None, :, None] == self.text[:, None, None, :]  # padding sees padding: no empty softmax
        return torch.zeros(same.shape, dtype=dtype).masked_fill_(~same, torch.finfo(dtype).min)


def pack_rows(lengths: NDArray[np.int64], offsets: NDArray[np.int64]) -> Packing:
    """Lay out the texts of every row.

    Args:
        lengths: (rows, g) tokens per text; 0 leaves a text out. At least one is not 0.
        offsets: (rows, g) where a text's tokens start.
    """
    rows, columns = lengths.shape
    sequences = -(-int(lengths.sum(1).max()) // max(SHORTEST_SEQUENCE, int(lengths.max())))
    starts = np.zeros((rows, columns), dtype=np.int64)  # sequence x 2^32 + place, until the length is known
    fullest = 1
    for row in range(rows):
        # Longest first, each into the emptiest sequence (Graham 1969): within a few per cent of equal.
        emptiest = [(0, number) for number in range(sequences)]
        for text in np.argsort(-lengths[row], kind="stable").tolist():
            filled, number = emptiest[0]
            starts[row, text] = (row * sequences + number << 32) + filled
            heapq.heapreplace(emptiest, (filled + int(lengths[row, text]), number))
        fullest = max(fullest, max(filled for filled, _ in emptiest))
    length = -(-fullest // _ROUND_TO) * _ROUND_TO
    flat_lengths = lengths.ravel()
    first = (starts >> 32).ravel() * length + (starts & (2**32 - 1)).ravel()
    text = np.repeat(np.arange(rows * columns), flat_lengths)
    within = np.arange(len(text)) - np.repeat(np.cumsum(flat_lengths) - flat_lengths, flat_lengths)
    tokens = np.zeros(rows * sequences * length, dtype=np.int64)
    texts = np.full(rows * sequences * length, rows * columns, dtype=np.int64)
    tokens[first[text] + within] = offsets.ravel()[text] + within
    texts[first[text] + within] = text
    shape = (rows * sequences, length)
    return Packing(torch.from_numpy(tokens).view(shape), torch.from_numpy(texts).view(shape), first)
