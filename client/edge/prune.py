"""Prune the merged encoder: whole attention heads and inner feed-forward units leave its matrices, for good.

What goes is decided on public texts and public weights alone, so it costs no privacy; what it costs in ranking is
measured by ranking_check.py. Nothing is trained afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hushrec.client.edge.pooled_encoder import PooledEncoder
from hushrec.common.errors import ConfigError
from hushrec.common.postnorm import LINEARS, layer_parts

Ids = Tensor  # int64 (texts, length)


def prune_heads(encoder: PooledEncoder, count: int, batches: Sequence[tuple[Ids, Tensor]]) -> list[tuple[int, int]]:
    """Remove the `count` heads whose absence changes the vectors of `batches` least; each layer keeps one at least.

    Args:
        encoder: changed in place.
        batches: (ids, mask) of public texts.
    Returns:
        (layer, head) of each removed one, the least important first.
    Raises:
        ConfigError: more heads than can go, or an architecture whose heads are not known.
    """
    layers = [_linears(layer) for layer in encoder.layers]
    heads, width = encoder.heads, layers[0][0].out_features // encoder.heads
    most = len(layers) * (heads - 1)
    if not 0 <= count <= most:
        raise ConfigError(f"expected --prune-heads in 0..{most} ({len(layers)} layers keep one head each), got {count}")
    if count == 0:
        return []
    change = _head_changes(encoder, layers, width, batches)
    left, gone = [heads] * len(layers), list[tuple[int, int]]()
    for layer, head in sorted(change, key=lambda place: change[place]):
        if len(gone) < count and left[layer] > 1:
            left[layer] -= 1
            gone.append((layer, head))
    for number, (query, key, value, output, _, _) in enumerate(layers):
        removed = {head for layer, head in gone if layer == number}
        kept = torch.cat([torch.arange(width) + head * width for head in range(heads) if head not in removed])
        for linear in (query, key, value):
            _keep_outputs(linear, kept)
        _keep_inputs(output, kept)
    return gone


def prune_feed_forward(encoder: PooledEncoder, share: float) -> int:
    """Remove that share of every layer's inner feed-forward units, those of the smallest weights in and out.

    Args:
        encoder: changed in place.
        share: in [0, 1).
    Returns:
        Inner units left per layer.
    Raises:
        ConfigError: share out of range, or an architecture whose layers are not known.
    """
    if not 0 <= share < 1:
        raise ConfigError(f"expected --prune-feed-forward in [0, 1), got {share}")
    left = 0
    for layer in encoder.layers:
        *_, up, down = _linears(layer)
        left = max(up.out_features - round(share * up.out_features), 1)
        size = up.weight.norm(dim=1) * down.weight.norm(dim=0)
        kept = torch.sort(torch.argsort(size, descending=True, stable=True)[:left]).values
        _keep_outputs(up, kept)
        _keep_inputs(down, kept)
    return left


@torch.no_grad()
def _head_changes(
    encoder: PooledEncoder, layers: list[tuple[nn.Linear, ...]], width: int, batches: Sequence[tuple[Ids, Tensor]]
) -> dict[tuple[int, int], float]:
    """(layer, head) -> summed squared change of the texts' vectors where that head says nothing."""
    whole = [encoder(ids, mask) for ids, mask in batches]
    change = {}
    for number, (_, _, _, output, _, _) in enumerate(layers):
        for head in range(encoder.heads):
            columns = output.weight[:, head * width : (head + 1) * width]
            kept = columns.clone()
            columns.zero_()
            without = [encoder(ids, mask) for ids, mask in batches]
            columns.copy_(kept)
            change[number, head] = sum(float((a - b).square().sum()) for a, b in zip(whole, without, strict=True))
    return change


def _linears(layer: nn.Module) -> tuple[nn.Linear, ...]:
    """Query, key, value, attention output, and up and down of the feed-forward."""
    found: tuple[Any, ...] = layer_parts(layer, LINEARS, nn.Linear)
    if not found:
        raise ConfigError(
            f"no pruning for {type(layer).__name__}: only layers of BERT, RoBERTa and DistilBERT are known"
        )
    return found


@torch.no_grad()
def _keep_outputs(linear: nn.Linear, kept: Tensor) -> None:
    linear.weight = nn.Parameter(linear.weight[kept].clone(), requires_grad=False)
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias[kept].clone(), requires_grad=False)
    linear.out_features = len(kept)


@torch.no_grad()
def _keep_inputs(linear: nn.Linear, kept: Tensor) -> None:
    linear.weight = nn.Parameter(linear.weight[:, kept].clone(), requires_grad=False)
    linear.in_features = len(kept)
