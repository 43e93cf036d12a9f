"""A student of the adapted encoder: the base model's embeddings and one or two layers, taught a teacher's vectors.

It learns from public texts alone, so a student costs no privacy beyond its teacher's (post-processing of a release). It
reads texts of its own; it is no copy of catalogue vectors.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from hushrec.client.edge.pooled_encoder import PooledEncoder, token_batches
from hushrec.common.base_model import BaseModel, load_base_model
from hushrec.common.encoder import fastest_dtype, layer_list
from hushrec.common.errors import ConfigError
from hushrec.common.memory import release_memory

Floats32 = NDArray[np.float32]
BATCH = 64  # texts of a step
OFTEN = 4  # a catalogue text comes as often as that many others: it is what is ranked
_POOL = 32  # batches that are sorted by length together, so that little is padding


@dataclass(frozen=True)
class Teaching:
    """How a student is trained.

    Attributes:
        steps: of Adam, BATCH texts each.
        rate: of Adam, falling to 0.
        seed: orders the texts.
    """

    steps: int = 1000
    rate: float = 1e-3
    seed: int = 0


def build_student(base: BaseModel, layers: int) -> PooledEncoder:
    """An untaught student: the base model with its first `layers` - 1 layers and its last one.

    Raises:
        ConfigError: not 1 or 2 layers, or a base model that has no more.
    """
    if not 1 <= layers <= 2 or layers >= base.layers:
        raise ConfigError(
            f"expected model.student-layers of 1 or 2 and below the {base.layers} layers of {base.name!r}, got {layers}"
        )
    module = copy.deepcopy(base.module)
    if getattr(module, "pooler", None) is not None:
        module.register_module("pooler", None)  # not used: texts are mean-pooled
    name, every = layer_list(module, base.layers)
    parent_name, _, own_name = name.rpartition(".")
    kept = nn.ModuleList([*list(every)[: layers - 1], every[-1]])
    setattr(module.get_submodule(parent_name), own_name, kept)
    config: Any = module.config
    config.num_hidden_layers = layers
    return PooledEncoder(module, layers)


def teach(
    student: PooledEncoder,
    base: BaseModel,
    texts: Sequence[str],
    targets: Floats32,
    maps: Floats32,
    *,
    own: int,
    max_length: int,
    teaching: Teaching,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> None:
    """Train the student's layers, in place; the embeddings stay, so that words it never met keep their place.

    The loss of a text is 1 - cosine of student and teacher, plus the squared distance of what `maps` reads of the two,
    in units of its variance: where the recommender looks, the student must agree most.

    Args:
        base: gives the tokenizer.
        targets: (texts, width) the teacher's unit vectors.
        own: number of leading texts, the catalogue's, that come OFTEN times as often as the others.
        maps: (k, width) linear maps that are read of a vector, such as both heads.
        max_length: tokens read of a text.
        progress: told steps done and steps in all.
    """
    goal, through = torch.from_numpy(targets), torch.from_numpy(maps)
    variance = ((goal - goal.mean(0)) @ through.T).square().sum(1).mean()
    parameters = [parameter for layer in student.layers for parameter in layer.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=teaching.rate)
    half = fastest_dtype() == torch.bfloat16
    rng = np.random.Generator(np.random.PCG64(teaching.seed))
    places = np.concatenate([np.arange(len(texts)), np.tile(np.arange(own), OFTEN - 1)])
    lengths = np.array([len(text) for text in texts])
    for step, chosen in zip(range(teaching.steps), _batches(places, lengths, rng), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = teaching.rate * (1 - step / teaching.steps)
        [(ids, mask)] = token_batches(base, [texts[i] for i in chosen], max_length, len(chosen))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            found = student(ids, mask)
        wanted = goal[torch.from_numpy(chosen)]
        apart = ((found.float() - wanted) @ through.T).square().sum(1).mean() / variance
        loss = (1 - F.cosine_similarity(found.float(), wanted)).mean() + apart
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        progress(step + 1, teaching.steps)
    student.requires_grad_(False)
    release_memory()


def _batches(
    places: NDArray[np.int64], lengths: NDArray[np.int64], rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Endless positions of texts, up to BATCH of like length, each of `places` once before any comes again."""
    size = min(BATCH, len(places))
    while True:
        order = rng.permutation(places)
        for start in range(0, len(order), size * _POOL):
            pool = order[start : start + size * _POOL]
            pool = pool[np.argsort(lengths[pool], kind="stable")]
            parts = [pool[i : i + size] for i in range(0, len(pool), size)]
            yield from (parts[i] for i in rng.permutation(len(parts)))


@torch.no_grad()
def encode(encoder: PooledEncoder, base: BaseModel, texts: Sequence[str], max_length: int) -> Floats32:
    """(texts, width) unit vectors of any texts, in batches of like length."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    parts: list[Tensor] = [
        encoder(ids, mask) for ids, mask in token_batches(base, [texts[i] for i in order], max_length)
    ]
    vectors = np.empty((len(texts), base.width), dtype=np.float32)
    if parts:
        vectors[order] = torch.cat(parts).numpy()
    return vectors


def write_student(folder: Path, student: PooledEncoder, base: BaseModel) -> None:
    """A `transformers` model folder, which `read_student` reads; texts are mean-pooled."""
    module: Any = student.module
    module.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)


def read_student(folder: Path, base: BaseModel) -> PooledEncoder:
    """The student in a folder of `write_student`.

    Args:
        base: of its teacher; both read tokens alike.
    Raises:
        ConfigError: no model there, or one that is no student of `base`.
    """
    found = load_base_model(str(folder))
    if found.width != base.width or found.tokenizer.get_vocab() != base.tokenizer.get_vocab():
        raise ConfigError(f"{folder} holds no student of {base.name!r}: width or vocabulary differ")
    return PooledEncoder(copy.deepcopy(found.module), found.layers)


def size(encoder: PooledEncoder) -> tuple[int, int]:
    """Parameters, and their bytes in float32."""
    count = sum(parameter.numel() for parameter in encoder.module.parameters())
    return count, 4 * count
