"""Post-norm transformer layers (BERT, RoBERTa, DistilBERT) written out: one forward pass, a backward per privacy unit.

Automatic differentiation ties a backward pass to a forward pass of its own. Here a text goes forward once, whatever the
number of rows that read it, and each row's backward pass starts from what was kept. Rows never meet: a row's gradient
is computed from its own output gradients and from the kept states of its own texts, which depend on the public
catalogue and the adapter alone.

`PostNormStack.of` refuses every encoder whose frozen forward pass it does not reproduce; those are differentiated by
Opacus' hooks (client/private.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from hushrec.common.adapters import AdaptedLinear, Factor
from hushrec.common.packing import pack_rows

_ROLES = ("query", "key", "value", "attention_output", "intermediate", "output")
# Where the parts of a layer sit, by architecture family (BERT and RoBERTa, DistilBERT).
LINEARS = (
    (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ),
    ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2"),
)
_NORMS = (("attention.output.LayerNorm", "output.LayerNorm"), ("sa_layer_norm", "output_layer_norm"))

RowGradients = dict[nn.Parameter, Tensor]
Kept = dict[str, Tensor]  # (tokens, ...) each


class _Map:
    """One linear map of a layer, with or without an adapter: y = Wx + b + s.B(R(Ax)), R the identity without a core."""

    def __init__(self, linear: nn.Module) -> None:
        adapted = linear if isinstance(linear, AdaptedLinear) else None
        base = linear.base if adapted is not None else linear
        assert isinstance(base, nn.Linear)
        self.weight, self.bias = base.weight.detach(), None if base.bias is None else base.bias.detach()
        self.adapter = adapted
        if adapted is not None:
            dtype = self.weight.dtype
            self.down, self.up = (_weight(factor).to(dtype) for factor in (adapted.lora_A, adapted.lora_B))
            self.core = None if adapted.core is None else adapted.core.weight.detach().to(dtype)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(tokens, in) -> (tokens, out), and Ax (tokens, r) for the backward pass."""
        y = F.linear(x, self.weight, self.bias)
        if self.adapter is None:
            return y, None
        low = x @ self.down.T
        inner = low if self.core is None else low @ self.core.T
        return y.addmm_(inner, self.up.T, alpha=self.adapter.scale), low

    def backward(self, x: Tensor, low: Tensor | None, slope: Tensor, found: RowGradients, *, inputs: bool) -> Tensor:
        """Write each row's gradients of the trained factors to `found`.

        Args:
            x: (rows, tokens, in) what went in; low: (rows, tokens, r) Ax of it; slope: (rows, tokens, out) of y.
        Returns:
            the gradient of x, if `inputs`; else zero.
        """
        flat = slope.flatten(0, 1)
        result = flat @ self.weight if inputs else flat.new_zeros(())
        if self.adapter is not None:
            assert low is not None
            rows, scale = len(slope), self.adapter.scale
            outer = (flat @ self.up) * scale  # gradient of what `up` receives
            inner = outer if self.core is None else outer @ self.core
            if self.adapter.core is not None:
                found[self.adapter.core.weight] = outer.view(rows, -1, outer.shape[1]).transpose(1, 2) @ low
            if isinstance(self.adapter.lora_B, Factor):
                # The smaller product first: (out, tokens) x (tokens, r), and s on the r columns.
                received = low if self.core is None else low @ self.core.T
                found[self.adapter.lora_B.weight] = slope.transpose(1, 2) @ (received * scale)
            if isinstance(self.adapter.lora_A, Factor):
                found[self.adapter.lora_A.weight] = inner.view(rows, -1, inner.shape[1]).transpose(1, 2) @ x
            if inputs:
                result.addmm_(inner, self.down)
        return result.view(x.shape) if inputs else result


def _weight(factor: Factor | nn.Parameter) -> Tensor:
    return (factor.weight if isinstance(factor, Factor) else factor).detach()


class _Layer:
    """One layer with the adapter weights of the moment. What backward reads is kept by name, one line per token."""

    def __init__(self, layer: nn.Module, heads: int) -> None:
        linears, norms = (
            layer_parts(layer, LINEARS, nn.Linear | AdaptedLinear),
            layer_parts(layer, _NORMS, nn.LayerNorm),
        )
        self.maps = dict(zip(_ROLES, map(_Map, linears), strict=True))
        self.first, self.second = norms
        self.heads = heads

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Kept]:
        """(sequences, length, width) and the mask of Packing.mask -> the same shape, and what backward reads."""
        shape = states.shape
        kept: Kept = {}

        def through(role: str, x: Tensor) -> Tensor:
            y, low = self.maps[role](x)
            if low is not None:
                kept[f"{role}.low"] = low
            return y

        def normed(norm: nn.Module, name: str, x: Tensor) -> Tensor:
            assert isinstance(norm, nn.LayerNorm)
            y, kept[f"{name}.mean"], kept[f"{name}.rstd"] = torch.native_layer_norm(
                x, norm.normalized_shape, norm.weight, norm.bias, norm.eps
            )
            kept[name] = x
            return y

        x = kept["states"] = states.flatten(0, 1)
        for role in ("query", "key", "value"):
            kept[role] = through(role, x)
        query, key, value = (_split(kept[role], shape, self.heads) for role in ("query", "key", "value"))
        context = kept["context"] = _joined(_attention(query, key, mask) @ value)
        between = kept["between"] = normed(self.first, "first", through("attention_output", context).add_(x))
        inner = kept["inner"] = through("intermediate", between)
        out = normed(self.second, "second", through("output", F.gelu(inner)).add_(between))
        return out.view(shape), kept

    def backward(self, slope: Tensor, kept: Kept, mask: Tensor, found: RowGradients, *, inputs: bool) -> Tensor | None:
        """Gradients of the rows, from the gradient of this layer's output (rows, tokens, width).

        Args:
            kept: of the rows' tokens, row after row; mask: (sequences, 1, length, length).
            inputs: whether the gradient of this layer's input is wanted.
        """
        shape, rows = slope.shape, len(slope)

        def through(role: str, x: Tensor, slope: Tensor) -> Tensor:
            low = kept.get(f"{role}.low")
            low = None if low is None else low.view(rows, -1, low.shape[-1])
            wanted = inputs or role not in ("query", "key", "value")
            return self.maps[role].backward(x.view(rows, -1, x.shape[-1]), low, slope, found, inputs=wanted)

        def normed(norm: nn.Module, name: str, slope: Tensor) -> Tensor:
            assert isinstance(norm, nn.LayerNorm)
            given = (kept[name], norm.normalized_shape, kept[f"{name}.mean"], kept[f"{name}.rstd"])
            result: Tensor = torch.ops.aten.native_layer_norm_backward(
                slope.flatten(0, 1), *given, norm.weight, norm.bias, [True, False, False]
            )[0]
            return result.view(slope.shape)

        down = normed(self.second, "second", slope)
        wide = through("output", F.gelu(kept["inner"]), down)
        wide = torch.ops.aten.gelu_backward(wide, kept["inner"].view(wide.shape))
        down = normed(self.first, "first", through("intermediate", kept["between"], wide).add_(down))
        context = through("attention_output", kept["context"], down)
        sequences = torch.Size((len(mask), mask.shape[-1], shape[-1]))
        query, key, value, context = (
            _split(lines, sequences, self.heads) for lines in (kept["query"], kept["key"], kept["value"], context)
        )
        attention = _attention(query, key, mask)
        logits = torch.ops.aten._softmax_backward_data(
            context @ value.transpose(2, 3), attention, -1, attention.dtype
        ).mul_(1 / math.sqrt(query.shape[-1]))
        slopes = {"query": logits @ key, "value": attention.transpose(2, 3) @ context}
        if inputs:
            slopes["key"] = logits.transpose(2, 3) @ query
        for role, one in slopes.items():
            below = through(role, kept["states"], _joined(one).view(shape))
            down = down + below if inputs else down
        return down if inputs else None


def _split(lines: Tensor, sequences: torch.Size, heads: int) -> Tensor:
    """(tokens, width) -> (sequences, heads, length, width / heads)."""
    return lines.reshape(*sequences[:2], heads, -1).transpose(1, 2)


def _joined(heads: Tensor) -> Tensor:
    """The way back."""
    return heads.transpose(1, 2).flatten(2).flatten(0, 1)


def _attention(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    logits = (query @ key.transpose(2, 3)).mul_(1 / math.sqrt(query.shape[-1])).add_(mask)
    return torch.softmax(logits, dim=-1)


def layer_parts(layer: nn.Module, families: tuple[tuple[str, ...], ...], kind: Any) -> tuple[Any, ...]:
    """The modules of the first family whose names the layer has; nothing if there is none, or one is not a `kind`."""
    for names in families:
        try:
            found = tuple(layer.get_submodule(name) for name in names)
        except AttributeError:
            continue
        return found if all(isinstance(part, kind) for part in found) else ()
    return ()


@dataclass(frozen=True, eq=False)
class Encoded:
    """Texts that went forward once.

    Attributes:
        vectors: (n, width) float32 unit vectors.
        norms: (n, 1) length of the mean of a text's token states.
        lengths, starts: int64 (n,) tokens of a text, and its first line in `kept`.
    """

    vectors: Tensor
    norms: Tensor
    lengths: NDArray[np.int64]
    starts: NDArray[np.int64]
    kept: list[Kept]


class PostNormStack:
    """The top layers of an encoder, with the adapter that they hold when `forward` is called."""

    def __init__(self, layers: nn.ModuleList, heads: int, width: int) -> None:
        self._modules, self._heads, self._width = layers, heads, width
        self._layers: list[_Layer] = []

    @classmethod
    def of(cls, top: nn.Module, layers: nn.ModuleList, width: int) -> PostNormStack | None:
        """The stack that computes what `top`, without adapters and in float32, computes; None if none does."""
        heads = getattr(getattr(top, "config", None), "num_attention_heads", 0)
        if not heads or not all(
            layer_parts(layer, LINEARS, nn.Linear) and layer_parts(layer, _NORMS, nn.LayerNorm) for layer in layers
        ):
            return None
        stack = cls(layers, heads, width)
        states = torch.randn(7, width, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = top(inputs_embeds=states[None], attention_mask=None).last_hidden_state.mean(1)
        found = stack.forward(states, np.array([7]), np.array([0])).vectors
        return stack if torch.allclose(found, F.normalize(expected, dim=-1), atol=1e-4) else None

    def bytes_per_token(self) -> int:
        """What `forward` keeps of a token, about: eight values of the layer's width and one of the inner one."""
        weight = _Layer(self._modules[0], self._heads).maps["intermediate"].weight
        return len(self._modules) * weight.element_size() * (8 * self._width + len(weight))

    @torch.no_grad()
    def forward(self, states: Tensor, lengths: NDArray[np.int64], offsets: NDArray[np.int64]) -> Encoded:
        """Encode n >= 1 texts.

        Args:
            states: (tokens, width) of the whole catalogue, as the layers below left them.
            lengths, offsets: (n,) tokens of each text and where they begin.
        """
        self._layers = [_Layer(module, self._heads) for module in self._modules]
        device = self._layers[0].maps["query"].weight.device
        packing = pack_rows(lengths[None], offsets[None])
        hidden, mask = states[packing.token].to(device), packing.mask(states.dtype).to(device)
        kept = []
        for layer in self._layers:
            hidden, one = layer.forward(hidden, mask)
            kept.append(one)
        sums = torch.zeros(len(lengths) + 1, self._width, device=device)  # the last one gathers the padding
        sums = sums.index_add_(0, packing.text.flatten().to(device), hidden.float().flatten(0, 1))[:-1]
        means = sums / torch.from_numpy(lengths)[:, None].clamp(min=1).to(device)
        norms = means.norm(dim=1, keepdim=True).clamp(min=1e-12)
        return Encoded(means / norms, norms, lengths, packing.starts, kept)

    def rows(self, encoded: Encoded, index: Tensor, wanted: Tensor) -> Tensor:
        """The texts of some rows, as inputs of their losses.

        Args:
            index: int64 (rows, g) numbers of texts in `encoded`, which the last `forward` returned.
            wanted: bool (rows, g); the other texts' vectors are zero.
        Returns:
            (rows, g, width). A backward pass through it leaves the rows' gradients in `grad_sample` of each trained
            factor, where Opacus' hooks leave theirs.
        """
        anchor = torch.zeros((), requires_grad=True)  # autograd calls no function whose inputs need no gradient
        apply: Callable[..., Tensor] = _Rows.apply
        return apply(anchor, self, encoded, index, wanted)

    @torch.no_grad()
    def backward(self, encoded: Encoded, index: Tensor, wanted: Tensor, slopes: Tensor) -> RowGradients:
        """Gradients of the trained factors, (rows, *shape of the factor), from those of `rows`' result."""
        device, dtype = encoded.vectors.device, encoded.kept[0]["states"].dtype
        flat = index.flatten().to(device)
        vectors, slope = encoded.vectors[flat], slopes.flatten(0, 1)
        # Through the unit length, then through the mean over a text's tokens.
        slope = (slope - vectors * (slope * vectors).sum(1, keepdim=True)) / encoded.norms[flat]
        lengths = encoded.lengths[index.numpy()]
        slope = slope / torch.from_numpy(lengths.ravel())[:, None].clamp(min=1).to(device)
        slope = torch.cat([slope, slope.new_zeros(1, self._width)]).to(dtype)  # the last one is the padding's
        packing = pack_rows(lengths * wanted.numpy(), encoded.starts[index.numpy()])
        down: Tensor | None = slope[packing.text.to(device)].view(len(index), -1, self._width)
        mask, tokens = packing.mask(dtype).to(device), packing.token.flatten().to(device)
        found: RowGradients = {}
        for number in reversed(range(len(self._layers))):
            assert down is not None
            kept = {name: lines.index_select(0, tokens) for name, lines in encoded.kept[number].items()}
            down = self._layers[number].backward(down, kept, mask, found, inputs=number > 0)
        return found


class _Rows(torch.autograd.Function):
    """See PostNormStack.rows."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, stack: PostNormStack, encoded: Encoded, index: Tensor, wanted: Tensor
    ) -> Tensor:
        ctx.given = (stack, encoded, index, wanted)
        vectors = encoded.vectors[index.to(encoded.vectors.device)]
        return vectors * wanted[..., None].to(vectors.device)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[None, ...]:
        stack, encoded, index, wanted = ctx.given
        for parameter, gradients in stack.backward(encoded, index, wanted, slopes).items():
            known = getattr(parameter, "grad_sample", None)  # of another reading of the same rows
            parameter.grad_sample = gradients if known is None else known + gradients
        return (None,) * 5
