"""What both sides build from one configuration: data set, split, catalogue prefix and the untrained model.

In a simulation server and clients share one process, so the result is kept and shared; a device builds the public
parts only. No user's data is combined here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hushrec.common.adapters import hash_seed
from hushrec.common.augmentation import text_variants
from hushrec.common.base_model import BaseModel, load_base_model
from hushrec.common.catalog import Catalog
from hushrec.common.datasets import data_folder, load_dataset
from hushrec.common.encoder import TextEncoder, fastest_dtype
from hushrec.common.errors import ConfigError
from hushrec.common.interactions import Dataset
from hushrec.common.item_features import item_features
from hushrec.common.item_graph import ItemGraph, build_item_graph
from hushrec.common.knowledge_graph import read_item_entities
from hushrec.common.memory import release_memory
from hushrec.common.movielens import RELEASES, find_release
from hushrec.common.prefix import Prefix, Progress, build_prefix
from hushrec.common.protocol import Arrays
from hushrec.common.recommender import Recommender
from hushrec.common.settings import DataConfig, ModelConfig
from hushrec.common.splits import Split, build_split

VARIANTS_SEED = 0  # public: every participant makes the same variants
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
        variants: states of the catalogue's texts, then of each of its public variants, (1 + variants) * items texts;
            None: training reads the texts as they are.
        profiles: float32 (users, width), every user's profile text as the frozen model encodes it, zeros where there
            is none. A simulation's alone: a device would hold its own row.
    """

    config: ModelConfig
    base: BaseModel
    prefix: Prefix
    recommender: Recommender
    untrained: Arrays
    start: NDArray[np.float32]
    training_items: NDArray[np.int64] | None = None
    variants: Prefix | None = None
    profiles: NDArray[np.float32] | None = None

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
    entities = catalog_entities(data, catalog) if config.graph in ("kg", "all") else []
    # What the language model says before training: public, and the same whatever was trained.
    vectors = shared_model(config, data).start
    matrix = build_item_graph(config.graph, catalog, vectors, entities, neighbors=config.graph_neighbors)
    return ItemGraph(matrix, config.graph_hops)


def catalog_entities(config: DataConfig, catalog: Catalog) -> list[tuple[str, ...]]:
    """What the data set's knowledge graph has next to each item; see read_item_entities."""
    folder = find_release(config.name, config.folder) if config.name in RELEASES else Path(data_folder(config.folder))
    return read_item_entities(folder or Path(config.folder), catalog)


def torch_dtype(config: ModelConfig) -> torch.dtype:
    """The dtype of the frozen layers; "auto" measures this machine once."""
    return fastest_dtype() if config.dtype == "auto" else getattr(torch, config.dtype)


def encode_catalog(config: ModelConfig, catalog: Catalog, progress: Progress | None = None) -> Prefix:
    """The stored states of the catalogue's texts, from disk where an earlier run left them."""
    return _encode_public(config, catalog.texts, progress)


def _encode_public(config: ModelConfig, texts: Sequence[str], progress: Progress | None = None) -> Prefix:
    return build_prefix(
        load_base_model(config.base),
        texts,
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
    prefix = encode_catalog(config, catalog)
    base, recommender = _untrained(config, catalog)
    start = _start(recommender, prefix, config)
    recommender.eval()
    release_memory()  # loading took several times what stays
    return Model(
        config, base, prefix, recommender, recommender.read(), start, variants=encode_variants(config, catalog)
    )


def build_text_model(config: ModelConfig, catalog: Catalog) -> Model:
    """The model without the catalogue's states: it encodes texts, in a second whatever the catalogue's size.

    Heads and centre are not started: what ranks with it has stored vectors (common/stored_vectors.py).
    """
    base, recommender = _untrained(config, catalog)
    recommender.eval()
    nothing = Prefix(torch.zeros(0, base.width), torch.zeros(1, dtype=torch.int64))
    start = np.zeros((0, config.head_dim), dtype=np.float32)
    return Model(config, base, nothing, recommender, recommender.read(), start)


def _untrained(config: ModelConfig, catalog: Catalog) -> tuple[BaseModel, Recommender]:
    """Base model and recommender, on the device that computes."""
    base = load_base_model(config.base)
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
        features=item_features(catalog) if config.item_features else None,
        residual_items=len(catalog) if config.item_residual else 0,
        profiles=config.profiles,
        click=config.click,
    )
    recommender.to(device := torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    encoder.device = device
    return base, recommender


def encode_variants(config: ModelConfig, catalog: Catalog) -> Prefix | None:
    """States of the texts, then of `model.augmentation` variants of each; None without any."""
    if not config.augmentation:
        return None
    texts = [text for variant in text_variants(catalog, config.augmentation, VARIANTS_SEED) for text in variant]
    return _encode_public(config, [*catalog.texts, *texts])


@lru_cache(maxsize=1)
def shared_model(config: ModelConfig, data: DataConfig) -> Model:
    """One model per process, for the simulated server and clients that take turns with it."""
    dataset = open_dataset(data)
    model = replace(build_model(config, dataset.catalog), training_items=np.flatnonzero(open_split(data).warm_items))
    return replace(model, profiles=encode_profiles(model, dataset.profiles)) if config.profiles else model


@torch.no_grad()
def encode_profiles(model: Model, texts: Sequence[str]) -> NDArray[np.float32]:
    """Profile texts as the language model encodes them without adapters, whatever was trained; never on disk.

    Args:
        texts: (users,), "" where nothing is known.
    Returns:
        float32 (users, width), rows of norm 1, or of zeros where nothing is known.
    """
    known = sorted({text for text in texts if text})
    vectors = np.zeros((len(texts), model.base.width), dtype=np.float32)
    if not known:
        return vectors
    length, dtype = max(model.config.max_length, 64), torch_dtype(model.config)
    prefix = build_prefix(model.base, known, top_layers=0, max_length=length, dtype=dtype, cached=False)
    sums = torch.segment_reduce(prefix.hidden.float(), "mean", lengths=prefix.lengths, axis=0)
    found = dict(zip(known, torch.nn.functional.normalize(sums, dim=-1).numpy(), strict=True))
    for row, text in enumerate(texts):
        if text:
            vectors[row] = found[text]
    return vectors


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
