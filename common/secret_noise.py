"""Randomness that privacy rests on: Gaussian noise and Poisson sampling from the operating system's entropy.

It scales nothing and charges nothing: whoever adds the noise knows the clipping norm, and the ledger was paid before.
"""

from __future__ import annotations

import math
import os

import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from torch import Tensor


def _secret_bytes(count: int) -> bytearray:
    """Fresh entropy of the operating system, never from a configuration.

    torch's own generator would not do: it keeps 32 bits of its seed, few enough to try them all, and its next outputs
    follow from earlier ones, which the server sees bare wherever a gradient is zero (all of lora_A in round 1). AES in
    counter mode, under a key that is used once, stretches the entropy ten times faster than the system would.
    """
    stream = Cipher(AES(os.urandom(32)), CTR(os.urandom(16))).encryptor()
    return bytearray(stream.update(bytes(count)))


def secret_uniform(size: int) -> Tensor:
    """(size,) float64 in (0, 1), size >= 1, 53 bits each."""
    bits = torch.frombuffer(_secret_bytes(8 * size), dtype=torch.int64)
    return bits.bitwise_and_(2**53 - 1).double().add_(0.5).mul_(2.0**-53)


def secret_gaussian(size: int) -> Tensor:
    """(size,) float32 standard normal numbers that no one can predict (Box & Muller 1958)."""
    pairs = -(-size // 2)
    # 53 bits for the radius, whose logarithm makes the tails; 32 for the angle, more than the result can show.
    radius = secret_uniform(pairs).log_().mul_(-2).sqrt_().float()
    turn = torch.frombuffer(_secret_bytes(4 * pairs), dtype=torch.int32).float().mul_(math.pi / 2**31)
    return torch.cat([radius * torch.cos(turn), radius.mul_(torch.sin(turn))])[:size]


def poisson_choice(rows: int, sample_rate: float) -> list[int]:
    """Each of `rows` with probability `sample_rate`, independently; all of them at 1. May be empty."""
    if rows == 0 or sample_rate >= 1.0:
        return list(range(rows))
    chosen: list[int] = torch.nonzero(secret_uniform(rows) < sample_rate).flatten().tolist()
    return chosen
