"""What both sides build from one configuration: data set, split, catalogue prefix and the untrained model.

In a simulation server and clients share one process, so the result is kept and shared; a device builds the public
parts only. No user's data is combined here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hushrec.common.adapters import hash_seed
from hushrec.common.base_model import BaseModel, load_base_model
from hushrec.common.catalog import Catalog
from hushrec.common.datasets import load_dataset
from hushrec.common.encoder import TextEncoder, fastest_dtype
from hushrec.common.errors import ConfigError
from hushrec.common.interactions import Dataset
from hushrec.common.item_graph import ItemGraph, build_item_graph
from hushrec.common.knowledge_graph import read_item_entities
from hushrec.common.memory import release_memory
from hushrec.common.movielens import RELEASES, find_release
from hushrec.common.prefix import Prefix, Progress, build_prefix
from hushrec.common.protocol import Arrays
from hushrec.common.recommender import Recommender
from hushrec.common.settings import DataConfig, ModelConfig
from hushrec.common.splits import Split, build_split

WHITENING_POWER = 0.5  # divides a principal direction by its standard deviation to this power; design.md's control


@lru_cache(maxsize=2)
def open_dataset(config: DataConfig) -> Dataset:
    """The configured data set, read once per process."""
    return load_dataset(
        config.name, folder=config.folder, columns=config.columns, max_users=config.max_users, tie_seed=config.seed
    )


@lru_cache(maxsize=2)
def open_split(config: DataConfig) -> Split:
    """The configured split of it."""
    return build_split(open_dataset(config), config.protocol, config.seed)


@dataclass(frozen=True, eq=False)
class Model:
    """A recommender with the catalogue it ranks.

    Attributes:
        base: the frozen language model, for texts that are not in the catalogue.
        prefix: stored states of the catalogue's texts.
        recommender: adapters and heads; one object per process, set to the adapter in use before each use.
        untrained: its tensors as they were built, where every run of the process starts.
        start: float32 (items, head_dim), item vectors of the catalogue before training.
        training_items: int64 catalogue positions that exist while training; None: all. An item that comes later is no
            negative before, or every new item would have been trained to be disliked.
    """

    config: ModelConfig
    base: BaseModel
    prefix: Prefix
    recommender: Recommender
    untrained: Arrays
    start: NDArray[np.float32]
    training_items: NDArray[np.int64] | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every trained tensor."""
        return {name: value.shape for name, value in self.untrained.items()}

    @torch.no_grad()
    def encode_texts(self, texts: list[str]) -> Tensor:
        """(n, width) vectors of free texts; nothing is written to disk."""
        prefix = build_prefix(
            self.base,
            texts,
            top_layers=self.config.top_layers,
            max_length=max(self.config.max_length, 64),
            dtype=torch_dtype(self.config),
            cached=False,
        )
        return self.recommender.encoder.encode(prefix, torch.arange(len(texts))).cpu()


@lru_cache(maxsize=1)
def shared_graph(config: ModelConfig, data: DataConfig) -> ItemGraph | None:
    """The configured public item graph; None for "none".

    Raises:
        DataError: a knowledge graph is asked for and the data set has none.
    """
    if config.graph == "none":
        return None
    catalog = open_dataset(data).catalog
    entities: list[tuple[str, ...]] = []
    if config.graph in ("kg", "all"):
        folder = find_release(data.name, data.folder) if data.name in RELEASES else Path(data.folder).expanduser()
        entities = read_item_entities(folder or Path(data.folder), catalog)
    # What the language model says before training: public, and the same whatever was trained.
    vectors = shared_model(config, data).start
    matrix = build_item_graph(config.graph, catalog, vectors, entities, neighbors=config.graph_neighbors)
    return ItemGraph(matrix, config.graph_hops)


def torch_dtype(config: ModelConfig) -> torch.dtype:
    """The dtype of the frozen layers; "auto" measures this machine once."""
    return fastest_dtype() if config.dtype == "auto" else getattr(torch, config.dtype)


def encode_catalog(config: ModelConfig, catalog: Catalog, progress: Progress | None = None) -> Prefix:
    """The stored states of the catalogue's texts, from disk where an earlier run left them."""
    return build_prefix(
        load_base_model(config.base),
        catalog.texts,
        top_layers=config.top_layers,
        max_length=config.max_length,
        dtype=torch_dtype(config),
        progress=progress,
    )


def build_model(config: ModelConfig, catalog: Catalog) -> Model:
    """The untrained model on `catalog`: equal numbers on every participant of equal configuration.

    With model.head-init = "whitening" both heads start at the frozen control (PCA whitening of the catalogue), so
    training starts at the best untrained recommender instead of at noise.
    """
    base = load_base_model(config.base)
    prefix = encode_catalog(config, catalog)
    encoder = TextEncoder(
        base,
        top_layers=config.top_layers,
        roles=config.targets,
        adapter=config.adapter,
        r=config.r,
        lora_alpha=config.lora_alpha,
        dtype=torch_dtype(config),
    )
    recommender = Recommender(
        encoder,
        config.head_dim,
        train_heads=config.train_heads,
        train_mix=config.train_mix,
        head_core=config.head_core,
        head_offset=config.head_offset,
    )
    recommender.to(device := torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    encoder.device = device
    start = _start(recommender, prefix, config)
    recommender.eval()
    release_memory()  # loading took several times what stays
    return Model(config, base, prefix, recommender, recommender.read(), start)


@lru_cache(maxsize=1)
def shared_model(config: ModelConfig, data: DataConfig) -> Model:
    """One model per process, for the simulated server and clients that take turns with it."""
    model = build_model(config, open_dataset(data).catalog)
    return replace(model, training_items=np.flatnonzero(open_split(data).warm_items))


@torch.no_grad()
def _start(recommender: Recommender, prefix: Prefix, config: ModelConfig) -> NDArray[np.float32]:
    """Set the heads, the centre and the mix; the item vectors that follow."""
    encoded = recommender.encoder.encode(prefix, torch.arange(len(prefix)))
    center, heads = whitening(encoded, config.head_dim, WHITENING_POWER)
    recommender.center.copy_(center)
    if config.head_init == "random":
        rng = torch.Generator().manual_seed(hash_seed(0, 11))
        bound = encoded.shape[1] ** -0.5
        for head in (recommender.item_head, recommender.user_head):
            head.weight.copy_((torch.rand(head.weight.shape, generator=rng) * 2 - 1) * bound)
        recommender.center.zero_()
    else:
        recommender.item_head.weight.copy_(heads)
        recommender.user_head.weight.copy_(heads)
    recommender.mix.weight.copy_(torch.tensor([[3.0, 0.5]]))  # scale, beta
    vectors: NDArray[np.float32] = recommender.item_vectors(encoded).float().cpu().numpy()
    return vectors


def whitening(encoded: Tensor, dim: int, power: float) -> tuple[Tensor, Tensor]:
    """Mean and PCA-whitening map of public catalogue vectors.

    Args:
        encoded: (items, width).
        dim: principal directions kept.
        power: 0 rotates only, 1 whitens fully.
    Returns:
        (width,) mean; (dim, width) map, scaled so that projected vectors have mean norm 1.
    Raises:
        ConfigError: fewer items than directions.
    """
    if dim > min(encoded.shape):
        raise ConfigError(f"expected model.head-dim of at most {min(encoded.shape)} (items, width), got {dim}")
    center = encoded.mean(0)
    _, singular, directions = torch.linalg.svd(encoded - center, full_matrices=False)
    spread = singular[:dim] / np.sqrt(len(encoded))
    heads = directions[:dim] / spread.clamp(min=1e-6)[:, None] ** power
    return center, heads / ((encoded - center) @ heads.T).norm(dim=1).mean()
