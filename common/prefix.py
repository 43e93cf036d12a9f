"""The frozen part of the encoder, computed once per text and kept: token states at the input of the top K layers.

Adapters sit only in the top K layers, so everything below is the same for every client, round and run; it is stored
on disk under a key of (model hash, texts, K, length, dtype). This file never sees an adapter or a user.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hushrec.common.base_model import BaseModel

Progress = Callable[[int, int], None]


def cache_folder() -> Path:
    """$HUSHREC_CACHE, or hushrec/ under $XDG_CACHE_HOME or ~/.cache."""
    if own := os.environ.get("HUSHREC_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hushrec"


@dataclass(frozen=True)
class Prefix:
    """Hidden states of n texts without padding.

    Attributes:
        hidden: (tokens of all texts, width) in bfloat16 or float32.
        offsets: (n + 1,) int64; text i owns hidden[offsets[i]:offsets[i + 1]].
    """

    hidden: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """(n,) tokens per text."""
        return self.offsets[1:] - self.offsets[:-1]

    def padded(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """States of the texts `index` (k,), padded to the longest of them.

        Returns:
            (k, length, width) states and (k, length) int64 mask, 1 at a token.
        """
        lengths = self.lengths[index]
        reach = torch.arange(int(lengths.max()))
        mask = reach[None, :] < lengths[:, None]
        position = self.offsets[index][:, None] + reach.clamp(max=int(lengths.max()))[None, :] * mask
        return self.hidden[position], mask.long()


def concatenate(first: Prefix, second: Prefix) -> Prefix:
    """The texts of `first`, then those of `second`."""
    offsets = torch.cat([first.offsets, second.offsets[1:] + first.offsets[-1]])
    return Prefix(torch.cat([first.hidden, second.hidden]), offsets)


def build_prefix(
    base: BaseModel,
    texts: Sequence[str],
    *,
    top_layers: int,
    max_length: int,
    dtype: torch.dtype,
    cached: bool = True,
    progress: Progress | None = None,
) -> Prefix:
    """Run `texts` through the layers below the top `top_layers`, or read the result of an earlier run from disk.

    Args:
        texts: any number; an empty text is encoded as the tokenizer's special tokens alone.
        top_layers: K, 0..base.layers. With K = 0 the stored state is the final one.
        max_length: tokens kept per text.
        cached: False keeps the disk out of it (texts typed by a user must not be written down).
        progress: called with (texts done, texts in all).
    Guarantees:
        - two runs that share the cache folder never read a half-written file: files appear by atomic rename.
        - a damaged cache file is computed again, not trusted.
    """
    if not cached:
        return _compute(base, texts, top_layers, max_length, dtype, progress)
    key = hashlib.sha256()
    for part in (base.sha256, str(top_layers), str(max_length), str(dtype), *texts):
        key.update(hashlib.sha256(part.encode()).digest())
    path = cache_folder() / "prefix" / f"{key.hexdigest()[:32]}.states"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # the second of two runs waits, then reads
        if (found := _read(path, len(texts), base.width)) is not None:
            return found
        prefix = _compute(base, texts, top_layers, max_length, dtype, progress)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        content = save({"hidden": prefix.hidden, "offsets": prefix.offsets})
        with temporary.open("wb") as stream:
            stream.write(hashlib.sha256(content).digest())
            stream.write(content)
        temporary.replace(path)
    return prefix


def _read(path: Path, count: int, width: int) -> Prefix | None:
    if not path.exists():
        return None
    try:
        with path.open("rb") as stream:  # the states of a large catalogue: one copy at a time
            digest, content = stream.read(32), stream.read()
        if hashlib.sha256(content).digest() != digest:
            return None
        stored = load(content)
        prefix = Prefix(stored["hidden"], stored["offsets"])
    except (SafetensorError, KeyError, OSError):
        return None
    fits = len(prefix) == count and prefix.hidden.shape == (int(prefix.offsets[-1]), width)
    return prefix if fits else None


class _PrefixReached(Exception):
    """Stops the forward pass at the first adapted layer, which would only be thrown away."""

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


def _stop(_module: torch.nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
    raise _PrefixReached(args[0] if args else kwargs["hidden_states"])


@torch.no_grad()
def _compute(
    base: BaseModel,
    texts: Sequence[str],
    top_layers: int,
    max_length: int,
    dtype: torch.dtype,
    progress: Progress | None,
    batch: int = 256,
) -> Prefix:
    """Texts are batched by length, so that almost nothing is padding."""
    from hushrec.common.encoder import layer_list

    tokens = base.tokenizer(list(texts), truncation=True, max_length=max_length, return_attention_mask=False)[
        "input_ids"
    ]
    lengths = torch.tensor([len(ids) for ids in tokens], dtype=torch.int64)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    hidden = torch.empty(int(offsets[-1]), base.width, dtype=dtype)
    model = base.module
    layers = layer_list(model, base.layers)[1]
    hook = layers[base.layers - top_layers].register_forward_pre_hook(_stop, with_kwargs=True) if top_layers else None
    try:
        order = torch.argsort(lengths, stable=True)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            longest = int(lengths[chosen].max())
            ids = torch.full((len(chosen), longest), base.tokenizer.pad_token_id or 0)
            mask = torch.zeros(len(chosen), longest, dtype=torch.int64)
            for row, text in enumerate(chosen.tolist()):
                ids[row, : len(tokens[text])] = torch.tensor(tokens[text])
                mask[row, : len(tokens[text])] = 1
            states = _states(model, ids, mask, dtype)
            for row, text in enumerate(chosen.tolist()):
                hidden[offsets[text] : offsets[text + 1]] = states[row, : lengths[text]].to(dtype)
            if progress is not None:
                progress(min(start + batch, len(order)), len(order))
    finally:
        if hook is not None:
            hook.remove()
    return Prefix(hidden, offsets)


def _states(model: torch.nn.Module, ids: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
    with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        try:
            result: Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
        except _PrefixReached as reached:
            result = reached.hidden
    return result
