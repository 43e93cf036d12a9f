"""Public warm start: the adapter of round 0, trained on catalogue texts and the public item graph before any client.

It opens no history and no release, so it costs no privacy and appears in no ledger. Its batches hold public items
alone: only for that reason may the other items of a batch be negatives here, which in private rounds would mix records
before clipping. Items that are cold in the split do not exist while training: no text or edge of theirs is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hushrec.common.config import RunConfig
from hushrec.common.item_graph import attributes, nearest, rare_first
from hushrec.common.memory import release_memory
from hushrec.common.prefix import Prefix
from hushrec.common.protocol import Arrays
from hushrec.common.workspace import Model, catalog_entities, encode_variants, open_dataset

VIEWS = 8  # variants of a text, beside the text itself, that are drawn from
BATCH = 128  # items of a step
TEMPERATURE = 0.2  # of the cosines of projected vectors
_SIGNALS = {"text": ("text",), "attributes": ("attributes",), "kg": ("kg",), "all": ("text", "attributes", "kg")}


@dataclass(frozen=True, eq=False)
class _Signal:
    """Which texts belong together.

    Attributes:
        items: int64 (n,) catalogue positions that may be anchors.
        edges: float32 (catalogue, catalogue), > 0 where one item is a positive of another; None: of itself alone.
    """

    items: NDArray[np.int64]
    edges: scipy.sparse.csr_array | None

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Distinct anchors (b,) and a positive for each, likelier the nearer it is."""
        anchors = rng.permutation(self.items)[:BATCH]
        if self.edges is None:
            return anchors, anchors
        rows = [slice(*self.edges.indptr[anchor : anchor + 2]) for anchor in anchors]
        weights = [self.edges.data[row] / self.edges.data[row].sum() for row in rows]
        drawn = [rng.choice(self.edges.indices[row], p=w) for row, w in zip(rows, weights, strict=True)]
        return anchors, np.array(drawn, dtype=np.int64)

    def related(self, anchors: NDArray[np.int64], positives: NDArray[np.int64]) -> Tensor:
        """Bool (b, b): pairs off the diagonal that are no negatives, the same item or neighbours."""
        found = anchors[:, None] == positives[None, :]
        if self.edges is not None:
            found |= (self.edges[anchors][:, positives]).toarray() > 0
        return torch.from_numpy(found & ~np.eye(len(anchors), dtype=np.bool_))


def warm_start(config: RunConfig, model: Model) -> Arrays:
    """Train the encoder's adapters for `server.warm-start-steps` steps of Adam.

    The loss of a step is InfoNCE (Oord et al. 2018, arXiv:1807.03748) in both directions between anchors and positives,
    plus `server.warm-start-keep` times the squared distance of the anchors' vectors from the untrained ones, in units
    of their mean square, so that the frozen geometry, a strong recommender by itself, is kept.

    Returns:
        The trained tensors that changed, float32; nothing with server.warm-start = "none".
    Guarantees:
        - the same tensors for the same configuration on the same machine; `model` is left untrained.
    Raises:
        DataError: a knowledge graph is asked for and the data set has none.
    """
    server, recommender = config.server, model.recommender
    if server.warm_start == "none":
        return {}
    signals = [_signal(kind, config, model) for kind in _SIGNALS[server.warm_start]]
    views = replace(config.model, augmentation=VIEWS if server.warm_start in ("text", "all") else 0)
    texts = encode_variants(views, open_dataset(config.data).catalog) or model.prefix
    recommender.write(model.untrained)
    trained = {name: parameter for name, parameter in recommender.trained() if name.startswith("encoder.")}
    optimizer = torch.optim.Adam(trained.values(), lr=server.warm_start_rate)
    untrained = torch.from_numpy(model.start)
    rng = np.random.Generator(np.random.PCG64([config.run.seed, 17]))
    for step in range(server.warm_start_steps):
        for group in optimizer.param_groups:
            group["lr"] = server.warm_start_rate * (1 - step / server.warm_start_steps)
        loss = _loss(model, texts, signals[step % len(signals)], untrained, server.warm_start_keep, rng)
        gradients = torch.autograd.grad(loss, list(trained.values()))
        for parameter, gradient in zip(trained.values(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    changed = {name: parameter.detach().cpu().numpy().copy() for name, parameter in trained.items()}
    optimizer.zero_grad()
    recommender.write(model.untrained)
    release_memory()
    return changed


def _signal(kind: str, config: RunConfig, model: Model) -> _Signal:
    every = len(model.prefix)
    items = np.arange(every) if model.training_items is None else model.training_items
    if kind == "text":
        return _Signal(items, None)
    catalog = open_dataset(config.data).catalog
    labels = attributes(catalog) if kind == "attributes" else catalog_entities(config.data, catalog)
    own = nearest(rare_first([labels[item] for item in items]), config.model.graph_neighbors).tocoo()
    edges = scipy.sparse.csr_array((own.data, (items[own.row], items[own.col])), shape=(every, every))
    both = edges.maximum(edges.T).tocsr()
    return _Signal(np.flatnonzero(np.diff(both.indptr)), both)


def _loss(
    model: Model, texts: Prefix, signal: _Signal, untrained: Tensor, keep: float, rng: np.random.Generator
) -> Tensor:
    anchors, positives = signal.draw(rng)
    items, views = len(model.prefix), len(texts) // len(model.prefix)
    first, second = (rng.integers(views, size=len(anchors)) for _ in range(2))
    if signal.edges is None:
        second = (first + 1 + rng.integers(views - 1, size=len(anchors))) % views
    numbers = torch.from_numpy(np.concatenate([anchors, anchors + first * items, positives + second * items]))
    distinct, place = torch.unique(numbers, return_inverse=True)
    vectors = _project(model, model.recommender.encoder.encode(texts, distinct))[place]
    plain, one, other = vectors.chunk(3)
    logits = F.normalize(one, dim=-1) @ F.normalize(other, dim=-1).T / TEMPERATURE
    logits = logits.masked_fill(signal.related(anchors, positives).to(logits.device), -torch.inf)
    target = torch.arange(len(anchors), device=logits.device)
    contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    before = untrained[torch.from_numpy(anchors)].to(vectors.device)
    return contrast + keep * (plain - before).square().sum() / before.square().sum()


def _project(model: Model, encoded: Tensor) -> Tensor:
    """Through the untrained item head: distances there are those that rank."""
    recommender = model.recommender
    projected: Tensor = F.linear(encoded - recommender.center, recommender.item_head.weight.detach())
    return projected
