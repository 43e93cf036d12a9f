"""The trained model: encoder top, two projection heads and the mix of similarity and popularity.

It maps text numbers to vectors and vectors to scores, and knows which of its numbers are trained and travel. It never
reads a history from disk and never adds noise.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from hushrec.common.encoder import TextEncoder


class Scale(nn.Module):
    """One trained factor and one trained offset per direction: x (..., dim) -> (..., dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


class Recommender(nn.Module):
    """score(u, i) = scale . <user vector, item vector> + beta . log popularity(i).

    Attributes:
        center: (width,) fixed mean of the frozen catalogue vectors, subtracted before the heads.
        item_head, user_head: (width) -> (head_dim), no bias.
        user_core: an affine map (head_dim) -> (head_dim) after the user head, the identity at the start: one factor
            per direction, a matrix, or nothing. Its offset is what is said about a user of whom nothing is known: the
            popular direction of the text space, learned without a count per item.
        mix: two numbers, (scale, beta).
        item_map: (features) -> (head_dim), added to an item's vector as it is ranked; None without item features.
        item_residual: (items, head_dim), added to an item's vector as it is ranked and as part of a history; None
            without. Items that never train keep the zeros it starts with.
        profile_head: (width) -> (head_dim), what a user's profile text adds to the user's vector; None without.
        click_head: (width) -> one logit, of a user and a candidate read together (click_model.py); None without.
    All of these start at zero, so that training starts at the untrained recommender.

    Args:
        features: float32 (items, features) of item_features.py; None leaves `item_map` out.
        residual_items: number of items of `item_residual`; 0 leaves it out.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        head_dim: int,
        *,
        train_heads: bool,
        train_mix: bool,
        head_core: str = "none",
        head_offset: bool = True,
        features: np.ndarray | None = None,
        residual_items: int = 0,
        profiles: bool = False,
        click: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.center = nn.Parameter(torch.zeros(encoder.width), requires_grad=False)
        self.item_head = nn.Linear(encoder.width, head_dim, bias=False).requires_grad_(train_heads)
        self.user_head = nn.Linear(encoder.width, head_dim, bias=False).requires_grad_(train_heads)
        self.user_core: nn.Module = nn.Identity()
        if head_core == "scale":
            self.user_core = Scale(head_dim)
        elif head_core == "full":
            self.user_core = nn.Linear(head_dim, head_dim)
            nn.init.eye_(self.user_core.weight)
            nn.init.zeros_(self.user_core.bias)
        if head_core != "none":
            self.user_core.get_parameter("bias").requires_grad_(head_offset)
        self.mix = nn.Linear(2, 1, bias=False).requires_grad_(train_mix)
        self.item_map: nn.Linear | None = None
        self.item_residual: nn.Embedding | None = None
        self.profile_head: nn.Linear | None = None
        self.click_head: nn.Linear | None = None
        if features is not None:
            self.register_buffer("features", torch.from_numpy(features))
            self.item_map = nn.Linear(features.shape[1], head_dim, bias=False)
            nn.init.zeros_(self.item_map.weight)
        if residual_items:
            self.item_residual = nn.Embedding(residual_items, head_dim)
            nn.init.zeros_(self.item_residual.weight)
        if profiles:
            self.profile_head = nn.Linear(encoder.width, head_dim, bias=False)
            nn.init.zeros_(self.profile_head.weight)
        if click:
            self.click_head = nn.Linear(encoder.width, 1)
            nn.init.zeros_(self.click_head.weight)
            nn.init.zeros_(self.click_head.bias)

    def item_vectors(self, encoded: Tensor, index: Tensor | None = None) -> Tensor:
        """(..., width) encoded texts and (...) their catalogue positions -> (..., head_dim).

        Args:
            index: None for texts that are not in the catalogue: they have neither features nor a residual.
        """
        vectors: Tensor = self.item_head(encoded - self.center)
        if index is not None and self.item_map is not None:
            vectors = vectors + self.item_map(self.get_buffer("features")[index.to(encoded.device)])
        if index is not None and self.item_residual is not None:
            vectors = vectors + self.item_residual(index.to(encoded.device))
        return vectors

    def user_vectors(self, encoded: Tensor, index: Tensor | None = None) -> Tensor:
        """As `item_vectors`: what one history item says about its user."""
        vectors: Tensor = self.user_core(self.user_head(encoded - self.center))
        if index is not None and self.item_residual is not None:
            vectors = vectors + self.item_residual(index.to(encoded.device))
        return vectors

    def profile_vectors(self, encoded: Tensor) -> Tensor | None:
        """(..., width) profile texts as the frozen model encodes them -> (..., head_dim); None without profiles.

        A profile that is not known is a row of zeros, and says nothing.
        """
        if self.profile_head is None:
            return None
        known = encoded.abs().sum(-1, keepdim=True) > 0
        vectors: Tensor = self.profile_head((encoded - self.center) * known)
        return vectors

    def scores(self, users: Tensor, items: Tensor, log_popularity: Tensor) -> Tensor:
        """(b, p, dim) users, (b, m, dim) items, (b, m) log popularity -> (b, p, m)."""
        similarity = users @ items.transpose(1, 2)
        prior = log_popularity[:, None, :].expand_as(similarity)
        mixed: Tensor = self.mix(torch.stack([similarity, prior], dim=-1))
        return mixed.squeeze(-1)

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name, parameter) of every trained tensor, in a fixed order: all that ever travels."""
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                yield name, parameter

    def read(self) -> dict[str, np.ndarray]:
        """Copies of the trained tensors, float32."""
        return {name: parameter.detach().cpu().numpy().copy() for name, parameter in self.trained()}

    @torch.no_grad()
    def write(self, adapter: dict[str, np.ndarray]) -> None:
        """Set the trained tensors to `adapter`, which must have their names and shapes (protocol.py checks)."""
        for name, parameter in self.trained():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(adapter[name], dtype=np.float32)))


def recency_pool(vectors: Tensor, mask: Tensor, decay: float) -> Tensor:
    """Causal recency-weighted mean: position p sees items 0..p, weight decay^(p - j).

    Args:
        vectors: (b, w, dim), oldest first.
        mask: (b, w), 1 where there is an item.
        decay: in (0, 1].
    Returns:
        (b, w, dim); zero where nothing has been seen.
    """
    width = vectors.shape[1]
    place = torch.arange(width, device=vectors.device)
    age = place[:, None] - place[None, :]  # (p, j)
    weight = (decay ** age.clamp(min=0).float() * (age >= 0))[None] * mask[:, None, :]
    return weight @ vectors / weight.sum(-1, keepdim=True).clamp(min=1e-6)
