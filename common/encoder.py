"""The adapted top of the language model: stored token states in, one unit vector per text out.

The layers below come from prefix.py. What a vector means for a user or an item is scorer.py's and recommender.py's
business, not this file's.
"""

from __future__ import annotations

import copy
import time
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hushrec.common.adapters import RowLayout, add_adapters
from hushrec.common.base_model import BaseModel
from hushrec.common.errors import ConfigError
from hushrec.common.memory import bound_caches
from hushrec.common.packing import pack_rows
from hushrec.common.postnorm import PostNormStack
from hushrec.common.prefix import Prefix

bound_caches()
TOKENS_PER_PASS = 4096  # bounds the activations of one pass to about 100 MB; more is not faster


def layer_list(model: nn.Module, count: int) -> tuple[str, nn.ModuleList]:
    """The transformer layers of any `transformers` encoder and the name they have in it.

    Raises:
        ConfigError: the architecture keeps its layers in no list of that length.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, module
    raise ConfigError(f"{type(model).__name__} has no list of {count} layers; hushrec needs a layered encoder")


class _PassThrough(nn.Module):
    """Stands where the embeddings were: the stored states are what the top layers start from."""

    def forward(self, *args: Tensor | None, **kwargs: Tensor | None) -> Tensor:
        states = kwargs.get("inputs_embeds")
        if states is None:
            states = next(value for value in reversed(args) if value is not None)
        return states


class TextEncoder(nn.Module):
    """The top K layers of `base` with adapters; K = 0 pools the stored states.

    Args:
        base: where the frozen weights come from; not changed.
        top_layers: K.
        roles, adapter, r, lora_alpha, seed: see adapters.add_adapters.
        dtype: of the frozen layers and the activations; adapters stay float32.
    """

    def __init__(
        self,
        base: BaseModel,
        *,
        top_layers: int,
        roles: tuple[str, ...],
        adapter: str,
        r: int,
        lora_alpha: float,
        dtype: torch.dtype,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= top_layers <= base.layers:
            raise ConfigError(f"expected model.top-layers in 0..{base.layers} for {base.name}, got {top_layers}")
        self.layout = RowLayout()
        self.width, self.dtype = base.width, dtype
        self.device = torch.device("cpu")  # where the batches go; build_model sets it with the weights
        self.top: nn.Module | None = None
        self.packs = False
        self.stack: PostNormStack | None = None
        if top_layers:
            top = _top_of(base, top_layers)
            self.packs = _keeps_texts_apart(top, base.width)
            self.stack = PostNormStack.of(top, layer_list(top, top_layers)[1], base.width)
            self.top = top.to(dtype)
            layers = layer_list(self.top, top_layers)[1]
            add_adapters(layers, roles, kind=adapter, r=r, lora_alpha=lora_alpha, layout=self.layout, seed=seed)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(texts, length, width) states and (texts, length) mask -> (texts, width) unit vectors, float32."""
        if self.top is not None:
            full = bool(mask.all())
            hidden = self.top(inputs_embeds=hidden, attention_mask=None if full else mask).last_hidden_state
        weight = mask[..., None].to(torch.float32)
        return F.normalize((hidden.float() * weight).sum(1) / weight.sum(1).clamp(min=1), dim=-1)

    def encode(self, prefix: Prefix, index: Tensor) -> Tensor:
        """(k,) text numbers -> (k, width), in batches of similar length."""
        if len(index) == 0:
            return torch.zeros(0, self.width, device=self.device)
        self.layout.rows = 1
        order = torch.argsort(prefix.lengths[index], stable=True)
        parts, start, lengths = [], 0, prefix.lengths[index][order]
        while start < len(order):
            stop = _batch_end(lengths, start)
            hidden, mask = prefix.padded(index[order[start:stop]])
            parts.append(self(hidden.to(self.device), mask.to(self.device)))
            start = stop
        return torch.cat(parts)[torch.argsort(order).to(self.device)]

    def encode_rows(self, prefix: Prefix, index: Tensor, wanted: Tensor | None = None) -> Tensor:
        """(rows, g) text numbers -> (rows, g, width), every factor seeing `rows` rows.

        Args:
            wanted: bool (rows, g); the other texts are not computed and their vectors are zero.
        """
        rows, columns = index.shape
        lengths = prefix.lengths[index] if wanted is None else prefix.lengths[index] * wanted
        if not bool(lengths.any()):
            return torch.zeros(rows, columns, self.width, device=self.device)
        try:
            self.layout.rows = rows
            if self.top is None:
                distinct, place = torch.unique(index, return_inverse=True)
                vectors = self.encode(prefix, distinct)[place.to(self.device)]
                return _only(vectors, wanted)
            if not self.packs:
                hidden, mask = prefix.padded(index.reshape(-1))
                vectors = self(hidden.to(self.device), mask.to(self.device)).view(rows, columns, self.width)
                return _only(vectors, wanted)
            packing = pack_rows(lengths.numpy(), prefix.offsets[index].numpy())
            hidden = prefix.hidden[packing.token].to(self.device)
            hidden = self.top(
                inputs_embeds=hidden, attention_mask=packing.mask(self.dtype).to(self.device)
            ).last_hidden_state
        finally:
            self.layout.rows = 1
        sums = torch.zeros(rows * columns + 1, self.width, device=self.device)  # the last one gathers the padding
        sums = sums.index_add(0, packing.text.flatten().to(self.device), hidden.float().flatten(0, 1))[:-1]
        means = sums / lengths.reshape(-1, 1).clamp(min=1).to(self.device)
        return F.normalize(means, dim=-1).view(rows, columns, self.width)


def _only(vectors: Tensor, wanted: Tensor | None) -> Tensor:
    """Zeros for the texts that are not wanted."""
    return vectors if wanted is None else vectors * wanted[..., None].to(vectors.device)


def _batch_end(lengths: Tensor, start: int) -> int:
    """Largest stop such that lengths[start:stop], padded to the last and longest, stays within TOKENS_PER_PASS."""
    longest = lengths[start:]
    fits = longest * torch.arange(1, len(longest) + 1) <= TOKENS_PER_PASS
    return start + max(1, int(fits.sum()))


def _keeps_texts_apart(top: nn.Module, width: int) -> bool:
    """Whether two texts in one sequence, with a mask between them, come out as they do alone.

    Not so in architectures that take no such mask or mix tokens by other means than attention.
    """
    states = torch.randn(1, 7, width, generator=torch.Generator().manual_seed(0))
    packing = pack_rows(np.array([[4, 3]]), np.array([[0, 4]]))
    try:
        with torch.no_grad():
            packed = top(inputs_embeds=states[:, packing.token[0]], attention_mask=packing.mask(states.dtype))
            alone = [top(inputs_embeds=part, attention_mask=None) for part in (states[:, :4], states[:, 4:])]
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    expected = torch.cat([one.last_hidden_state for one in alone], dim=1)
    return torch.allclose(packed.last_hidden_state[:, :7], expected, atol=1e-3)


def _top_of(base: BaseModel, top_layers: int) -> nn.Module:
    name, layers = layer_list(base.module, base.layers)
    parent_name, _, own_name = name.rpartition(".")
    parent = base.module.get_submodule(parent_name)
    # Only the top is copied: the lower layers and the vocabulary are never needed again by this model.
    kept, embeddings = nn.ModuleList(list(layers)[base.layers - top_layers :]), base.module.embeddings
    pooler = getattr(base.module, "pooler", None)
    try:
        setattr(parent, own_name, kept)
        base.module.embeddings = _PassThrough()
        if pooler is not None:
            base.module.pooler = None  # type: ignore[assignment]  # not used: texts are mean-pooled
        top = copy.deepcopy(base.module)
    finally:
        setattr(parent, own_name, layers)
        base.module.embeddings = embeddings
        if pooler is not None:
            base.module.pooler = pooler
    return top


@lru_cache(maxsize=1)
def fastest_dtype() -> torch.dtype:
    """bfloat16 if a layer-sized product is at least a quarter faster in it on this machine, else float32."""
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        x, w = torch.randn(2048, 384).to(dtype), torch.randn(384, 1536).to(dtype)
        torch.mm(x, w)
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            torch.mm(x, w)
            best = min(best, time.perf_counter() - start)
        seconds[dtype] = best
    return torch.bfloat16 if seconds[torch.bfloat16] < 0.75 * seconds[torch.float32] else torch.float32
