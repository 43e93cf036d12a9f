"""The pointwise click model sigmoid(M(u || i)): the language model reads user and candidate together.

Late interaction: the layers below the top K read every text alone, once, as they do for the recommender (prefix.py);
the top K layers attend across the texts of a pair, whose token states are laid end to end. The same adapter serves
both readings, and `Recommender.click_head` turns a pair's vector into a logit. Nothing here trains, ranks or draws.

Precomputed token states of separate texts, joined in the top layers: MacAvaney et al. 2020 (PreTTR), arXiv:2004.14255.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hushrec.common.adapters import hash_seed
from hushrec.common.encoder import TOKENS_PER_PASS
from hushrec.common.prefix import Prefix, build_prefix, concatenate
from hushrec.common.workspace import Model, torch_dtype

# What is added to every number of a candidate's token states, with a fixed sign per direction. Attention has no order
# and no sides above the embeddings: without a mark {a, b} with candidate c reads exactly like {a, c} with candidate b.
MARK = 0.25
_ROWS_AT_ONCE = 16  # users whose pairs are laid out at once: about 50 MB of states for 50 candidates each


@dataclass(frozen=True, eq=False)
class Pairs:
    """Some users, each with as many candidates: text numbers of one `Prefix`.

    Attributes:
        history: int64 (rows, m), what stands for the user, in any order; read where `mask` is True.
        mask: bool (rows, m).
        candidates: int64 (rows, c).
        wanted: bool (rows, c); the other pairs are not read.
    """

    history: Tensor
    mask: Tensor
    candidates: Tensor
    wanted: Tensor

    def __len__(self) -> int:
        return len(self.history)

    def take(self, chosen: NDArray[np.int64] | slice) -> Pairs:
        """The chosen rows."""
        which = chosen if isinstance(chosen, slice) else torch.from_numpy(chosen)
        return Pairs(self.history[which], self.mask[which], self.candidates[which], self.wanted[which])

    def tokens(self, texts: Prefix) -> Tensor:
        """(rows, c) length of every pair, 0 where it is not wanted."""
        return (self.mask.sum(1, keepdim=True) + texts.lengths[self.candidates]) * self.wanted


def pair_prefix(texts: Prefix, pairs: Pairs) -> Prefix:
    """Every pair as one text, rows x c of them, row after row; a pair that is not wanted is empty.

    Of a history item the mean of its token states is read, of a candidate every token: a pair of 5 items and a
    candidate has 17 tokens instead of 72, and costs a quarter.
    """
    rows, width = pairs.candidates.shape
    parts = pairs.history.shape[1] + 1
    index = torch.cat([pairs.history[:, None, :].expand(rows, width, -1), pairs.candidates[:, :, None]], dim=2)
    read = torch.cat([pairs.mask[:, None, :].expand(rows, width, -1), pairs.wanted[:, :, None]], dim=2)
    lengths = torch.ones_like(index)
    lengths[:, :, -1] = texts.lengths[pairs.candidates]
    lengths = lengths * (read & pairs.wanted[:, :, None])
    flat = lengths.flatten()
    part = torch.repeat_interleave(torch.arange(len(flat)), flat)
    within = torch.arange(len(part)) - (flat.cumsum(0) - flat)[part]
    text, offered = index.flatten()[part], part % parts == parts - 1
    hidden = texts.hidden.new_empty(len(part), texts.hidden.shape[1])
    hidden[offered] = texts.hidden[(texts.offsets[text] + within)[offered]] + _mark(hidden.shape[1]).to(hidden.dtype)
    hidden[~offered] = _means(texts, text[~offered])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.sum(2).flatten().cumsum(0)])
    return Prefix(hidden, offsets)


def _means(texts: Prefix, index: Tensor) -> Tensor:
    """(k,) text numbers -> (k, width) mean token states, each text's taken once."""
    if len(index) == 0:
        return texts.hidden.new_empty(0, texts.hidden.shape[1])
    distinct, place = torch.unique(index, return_inverse=True)
    hidden, mask = texts.padded(distinct)
    means = (hidden.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return means.to(texts.hidden.dtype)[place]


def _mark(width: int) -> Tensor:
    """(width,), equal on every participant."""
    rng = torch.Generator().manual_seed(hash_seed(0, 13))
    return MARK * (2.0 * torch.randint(0, 2, (width,), generator=rng) - 1.0)


def pair_logits(model: Model, vectors: Tensor) -> Tensor:
    """(..., width) pair vectors -> (...) logits of a click.

    Unit vectors have small coordinates; brought to about 1 each, a step of the head's rate moves a logit visibly.
    """
    recommender = model.recommender
    assert recommender.click_head is not None
    logits: Tensor = recommender.click_head((vectors - recommender.center) * vectors.shape[-1] ** 0.5).squeeze(-1)
    return logits


class ClickReader:
    """Click logits of one adapter for people, beside the catalogue's texts and texts of their own.

    Args:
        model: its recommender must hold the adapter, with a click head, whenever `logits` is called.
        texts: read as catalogue items are and never written down; text k has the number len(catalogue) + k.
    """

    def __init__(self, model: Model, texts: Sequence[str] = ()) -> None:
        self._model, self._texts = model, model.prefix
        if texts:
            own = build_prefix(
                model.base,
                texts,
                top_layers=model.config.top_layers,
                max_length=max(model.config.max_length, 64),
                dtype=torch_dtype(model.config),
                cached=False,
            )
            self._texts = concatenate(model.prefix, own)

    @torch.no_grad()
    def logits(self, users: Sequence[NDArray[np.integer]], candidates: NDArray[np.int64]) -> NDArray[np.float32]:
        """What the model says of each candidate of each user.

        Args:
            users: text numbers of each user, oldest first, at least one; the last model.click-history are read.
            candidates: (users, c) catalogue positions.
        Returns:
            (users, c).
        """
        newest = self._model.config.click_history
        history = np.zeros((len(users), newest), dtype=np.int64)
        mask = np.zeros((len(users), newest), dtype=np.bool_)
        for row, items in enumerate(users):
            read = items[-newest:]
            history[row, : len(read)], mask[row, : len(read)] = read, True
        wanted = torch.ones(candidates.shape, dtype=torch.bool)
        pairs = Pairs(torch.from_numpy(history), torch.from_numpy(mask), torch.from_numpy(candidates), wanted)
        # Users of like length together: a pair is padded to the longest of its pass.
        order = np.argsort(pairs.tokens(self._texts).sum(1).numpy(), kind="stable")
        found = np.empty(candidates.shape, dtype=np.float32)
        for start in range(0, len(order), _ROWS_AT_ONCE):
            chosen = order[start : start + _ROWS_AT_ONCE]
            prefix = pair_prefix(self._texts, pairs.take(chosen))
            vectors = self._model.recommender.encoder.encode(prefix, torch.arange(len(prefix)))
            logits = pair_logits(self._model, vectors).cpu().numpy()
            found[chosen] = logits.reshape(len(chosen), -1)
        return found


def rows_per_pass(tokens: Tensor) -> int:
    """Rows of pairs, (rows, c) tokens each, that go through the encoder at once."""
    return max(1, int(TOKENS_PER_PASS / max(1.0, float(tokens.sum()) / max(1, len(tokens)))))
