"""The one place that touches Opacus: per-row gradients, clipping and noise.

It clips and noises what it is given; that a row really is one privacy unit is rows.py's promise, and that the noise
was paid for is training.py's.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.utils import register_grad_sampler
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from hushrec.common.adapters import Factor
from hushrec.common.errors import PrivacyError
from hushrec.common.recommender import Recommender, Scale
from hushrec.common.secret_noise import secret_gaussian


@register_grad_sampler(Factor)  # type: ignore[untyped-decorator]
def _factor_gradients(layer: Factor, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """(rows, tokens, in) and (rows, tokens, out) -> (rows, out, in), summed over tokens in float32."""
    gradients = torch.einsum("nti,nto->noi", activations[0].float(), backprops.float())
    return {layer.weight: gradients}


@register_grad_sampler(Scale)  # type: ignore[untyped-decorator]
def _scale_gradients(layer: Scale, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """(rows, ..., dim) twice -> (rows, dim) for the factors and for the offsets."""
    slope = backprops.float().reshape(len(backprops), -1, backprops.shape[-1])
    gradients: dict[nn.Parameter, Tensor] = {layer.weight: (activations[0].float().reshape(slope.shape) * slope).sum(1)}
    if layer.bias.requires_grad:
        gradients[layer.bias] = slope.sum(1)
    return gradients


class _SecretNoiseOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus is untyped
    """Opacus' clipping and scaling, with noise from `secret_gaussian`."""

    def add_noise(self) -> None:
        for parameter in self.params:
            noise = secret_gaussian(parameter.numel()).view_as(parameter)
            parameter.grad = parameter.summed_grad + self.noise_multiplier * self.max_grad_norm * noise


@contextmanager
def per_row_gradients(model: Recommender) -> Iterator[None]:
    """Inside, `flat_rows` after a backward pass finds one gradient per row; outside, the model is as before."""
    was_training = model.training
    _switch_off_dropout(model)
    wrapped = GradSampleModule(model, loss_reduction="sum")
    try:
        yield
    finally:
        wrapped.remove_hooks()
        for parameter in model.parameters():
            for name in ("grad_sample", "summed_grad", "_forward_counter", "_current_grad_sample"):
                if hasattr(parameter, name):
                    delattr(parameter, name)
            parameter.grad = None
        for module in model.modules():
            for name in ("activations", "max_batch_len"):
                if hasattr(module, name):
                    delattr(module, name)
        model.train(was_training)


def _switch_off_dropout(model: nn.Module) -> None:
    """Opacus records only modules in training mode; everything that is not a trained layer stays in eval mode."""
    for module in model.modules():
        trained = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        module.training = trained  # the flag of this module alone: eval() would reach the trained layers inside


def flat_rows(model: Recommender, losses: Tensor) -> Tensor:
    """Gradient of each row's loss with respect to all trained numbers.

    Args:
        losses: (rows,), row k computed from the k-th row of every input.
    Returns:
        (rows, d) float32, tensors in the order of `Recommender.trained`.
    Raises:
        PrivacyError: a tensor got no gradient, or not one per row.
    """
    with warnings.catch_warnings():
        # The stored token states carry no gradient, which full backward hooks remark on at the lowest layer.
        warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
        torch.autograd.backward(losses.sum())
    parts = []
    for name, parameter in model.trained():
        sample = getattr(parameter, "grad_sample", None)
        if not isinstance(sample, Tensor) or len(sample) != len(losses):
            raise PrivacyError(f"{name} has no gradient per row; this layer cannot be trained privately")
        parts.append(sample.reshape(len(losses), -1).float())
        parameter.grad_sample = None  # type: ignore[attr-defined]
        parameter.grad = None
    return torch.cat(parts, dim=1)


class NoisedSum:
    """Sum of clipped rows plus Gaussian noise, divided by a public constant.

    The rows of one client may arrive in several pieces. All trained numbers are one flat parameter, so a row is
    clipped as a whole.

    Args:
        size: d, numbers per row.
        max_grad_norm: C; every row is scaled to L2 norm <= C.
        noise_multiplier: sigma; the noise has standard deviation sigma.C per number. 0 is for tests only.
        denominator: public divisor, independent of how many rows there are.
    Guarantees:
        - with sigma = 0, adding or removing one row moves `release() * denominator` by at most C.
        - no row at all still gives a noised release.
        - a NaN or infinite row counts as zero: refusing it would tell, without noise, what it holds.
    """

    def __init__(self, size: int, *, max_grad_norm: float, noise_multiplier: float, denominator: float) -> None:
        self._flat = nn.Parameter(torch.zeros(size))
        self._optimizer = _SecretNoiseOptimizer(
            torch.optim.SGD([self._flat], lr=1.0),
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=denominator,
            loss_reduction="mean",
        )
        # Pieces are summed before the one division, so Opacus must not divide by the number of pieces.
        self._pieces = 0

    def add(self, rows: Tensor) -> None:
        """Clip and add (k, d) rows; k may be 0."""
        rows = torch.where(torch.isfinite(rows).all(dim=1, keepdim=True), rows, torch.zeros(()))
        self._flat.grad_sample = rows  # type: ignore[attr-defined]
        self._optimizer.clip_and_accumulate()
        self._flat.grad_sample = None  # type: ignore[attr-defined]
        self._pieces += 1

    def release(self) -> Tensor:
        """(d,) noised mean. One release per object: a second would show the same sum under other noise.

        Raises:
            PrivacyError: called twice.
        """
        if self._flat.grad is not None:
            raise PrivacyError("this sum was released already")
        if self._pieces == 0:
            self.add(torch.zeros(0, self._flat.numel()))
        self._flat.grad_sample = torch.zeros(0, self._flat.numel())  # type: ignore[attr-defined]
        self._optimizer.add_noise()
        self._optimizer.scale_grad()
        assert self._flat.grad is not None
        return self._flat.grad.detach().clone()
