"""Low-rank adapters for the linear layers of an encoder: `lora`, `ffa` and `sb`.

    lora   y = Wx + s.B(Ax)      A and B trained          Hu et al. 2021, arXiv:2106.09685
    ffa    y = Wx + s.B(Ax)      A fixed, B trained       Sun et al. 2024 (FFA-LoRA), arXiv:2403.12313
    sb     y = Wx + s.B(R(Ax))   only the r x r core R    A, B from the SVD of W, as in LoRA-XS, arXiv:2405.17604

All start at y = Wx. This file knows nothing of recommendation, and nothing of privacy beyond one property: a trained
factor sees its input as (rows, tokens, width), one row per privacy unit, so that per-row gradients exist.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hushrec.common.config_checks import ROLES
from hushrec.common.errors import ConfigError

KINDS = ("lora", "ffa", "sb")
# Where each role sits inside one transformer layer, by architecture family (BERT/RoBERTa, DistilBERT, MPNet).
_PATHS: dict[str, tuple[str, ...]] = {
    "query": ("attention.self.query", "attention.q_lin", "attention.attn.q"),
    "value": ("attention.self.value", "attention.v_lin", "attention.attn.v"),
    "attention_output": ("attention.output.dense", "attention.out_lin", "attention.attn.o"),
    "intermediate": ("intermediate.dense", "ffn.lin1"),
    "output": ("output.dense", "ffn.lin2"),
}


@dataclass
class RowLayout:
    """How many privacy units the current forward pass holds: its texts are (rows x texts per row) flattened.

    One instance is shared by all adapters of a model; 1 where rows do not matter (no per-row gradients wanted).
    """

    rows: int = 1


class Factor(nn.Module):
    """One trained low-rank factor: x (rows, tokens, in) -> (rows, tokens, out), weight kept in float32."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.float())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class AdaptedLinear(nn.Module):
    """A frozen linear layer with a low-rank adapter beside it.

    Args:
        base: the frozen layer, (in) -> (out).
        kind: "lora", "ffa" or "sb".
        r: rank, 1..min(in, out).
        scale: the factor s above (lora_alpha / r).
        layout: shared by the model; see RowLayout.
        rng: draws the random factors, so that every participant builds the same adapter.
    """

    def __init__(self, base: nn.Linear, kind: str, r: int, scale: float, layout: RowLayout, rng: torch.Generator):
        super().__init__()
        self.base, self.scale, self.layout = base, scale, layout
        self.lora_A: Factor | nn.Parameter
        self.lora_B: Factor | nn.Parameter
        self.core: Factor | None = None
        if kind == "sb":
            left, _, right = torch.linalg.svd(base.weight.detach().float(), full_matrices=False)
            # A pair of singular vectors may come with either sign; one rule, so that all machines get the same.
            sign = right.gather(1, right.abs().argmax(1, keepdim=True)).sign()
            left, right = left * sign.T, right * sign
            self.lora_A = nn.Parameter(right[:r].clone(), requires_grad=False)
            self.lora_B = nn.Parameter(left[:, :r].clone(), requires_grad=False)
            self.core = Factor(torch.zeros(r, r))
            return
        down = torch.randn(r, base.in_features, generator=rng) / math.sqrt(base.in_features)
        self.lora_A = Factor(down) if kind == "lora" else nn.Parameter(down, requires_grad=False)
        self.lora_B = Factor(torch.zeros(base.out_features, r))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(self.layout.rows, -1, x.shape[-1])  # (texts, length, in) -> (rows, tokens, in)
        low = _apply(self.lora_A, rows)
        if self.core is not None:
            low = self.core(low)
        change = _apply(self.lora_B, low).reshape(*x.shape[:-1], -1)
        result: Tensor = self.base(x) + change * self.scale
        return result

    @torch.no_grad()
    def change(self) -> Tensor:
        """(out, in) float32: what the adapter adds to the weight of the frozen layer."""
        up, down = (part.weight if isinstance(part, Factor) else part for part in (self.lora_B, self.lora_A))
        inner = down if self.core is None else self.core.weight @ down
        added: Tensor = (up @ inner).float().cpu() * self.scale
        return added


def _apply(factor: Factor | nn.Parameter, x: Tensor) -> Tensor:
    return F.linear(x, factor.to(x.dtype)) if isinstance(factor, nn.Parameter) else factor(x)


def add_adapters(
    layers: nn.ModuleList, roles: tuple[str, ...], *, kind: str, r: int, lora_alpha: float, layout: RowLayout, seed: int
) -> None:
    """Put an adapter beside the linear layers called `roles` in each of `layers`, in place.

    Args:
        roles: from ROLES.
        seed: public; equal on every participant.
    Raises:
        ConfigError: unknown kind or role, rank out of range, or an architecture without that role.
    """
    if kind not in KINDS:
        raise ConfigError(f"expected model.adapter in {list(KINDS)}, got {kind!r}")
    for number, layer in enumerate(layers):
        for role in roles:
            parent, name, base = _find(layer, role)
            if not 1 <= r <= min(base.in_features, base.out_features):
                raise ConfigError(f"expected model.r in 1..{min(base.in_features, base.out_features)}, got {r}")
            rng = torch.Generator().manual_seed(hash_seed(seed, number, ROLES.index(role)))
            setattr(parent, name, AdaptedLinear(base, kind, r, lora_alpha / r, layout, rng))


def hash_seed(*parts: int) -> int:
    """One 63-bit seed from several small public numbers."""
    seed = 0
    for part in parts:
        seed = (seed * 1_000_003 + part + 1) % (2**63 - 1)
    return seed


def _find(layer: nn.Module, role: str) -> tuple[nn.Module, str, nn.Linear]:
    if role not in _PATHS:
        raise ConfigError(f"expected model.targets from {list(ROLES)}, got {role!r}")
    for path in _PATHS[role]:
        head, _, name = path.rpartition(".")
        try:
            parent = layer.get_submodule(head) if head else layer
            found = getattr(parent, name)
        except AttributeError:
            continue
        if isinstance(found, nn.Linear):
            return parent, name, found
    linears = [name for name, module in layer.named_modules() if isinstance(module, nn.Linear)]
    raise ConfigError(f"this encoder has no separate {role!r} layer to adapt; its linear layers are {linears}")
