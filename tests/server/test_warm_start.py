"""The public warm start: what it trains, what it may read, and that no ledger hears of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.federation import link

from hushrec.common.budget import release_events, training_event
from hushrec.common.config import RunConfig
from hushrec.common.encoder import TextEncoder
from hushrec.common.errors import ConfigError, DataError
from hushrec.common.ledger import read_ledger
from hushrec.common.run_ledger import close_ledgers
from hushrec.common.workspace import Model, encode_variants, open_dataset, shared_model
from hushrec.server.checkpoint import read_checkpoint
from hushrec.server.rounds import run_rounds
from hushrec.server.warm_start import warm_start

pytestmark = pytest.mark.usefixtures("closed_ledgers")


def configured(tiny: Callable[..., RunConfig], **changes: Any) -> RunConfig:
    given = {"server__warm_start": "text", "server__warm_start_steps": 6, "model__adapter": "lora", **changes}
    return tiny(**{"privacy__mechanism": "none", **given})


def model_of(config: RunConfig) -> Model:
    return shared_model(config.model, config.data)


def catalogue_vectors(config: RunConfig, warm: dict[str, np.ndarray]) -> np.ndarray:
    model = model_of(config)
    model.recommender.write(model.untrained | warm)
    with torch.no_grad():
        encoded = model.recommender.encoder.encode(model.prefix, torch.arange(len(model.prefix)))
        vectors = model.recommender.item_vectors(encoded).numpy()
    model.recommender.write(model.untrained)
    return np.asarray(vectors)


def distance(config: RunConfig, warm: dict[str, np.ndarray]) -> float:
    """Of the catalogue's vectors from the untrained ones."""
    return float(np.square(catalogue_vectors(config, warm) - model_of(config).start).sum())


def recognised(config: RunConfig, warm: dict[str, np.ndarray]) -> float:
    """Share of the text variants whose nearest text is the one that they were made of."""
    model = model_of(config)
    prefix = encode_variants(replace(config.model, augmentation=8), open_dataset(config.data).catalog)
    assert prefix is not None
    model.recommender.write(model.untrained | warm)
    with torch.no_grad():
        encoded = model.recommender.encoder.encode(prefix, torch.arange(len(prefix)))
        vectors = torch.nn.functional.normalize(model.recommender.item_head(encoded - model.recommender.center), dim=-1)
    model.recommender.write(model.untrained)
    items = len(model.prefix)
    nearest = (vectors[items:] @ vectors[:items].T).argmax(1)
    return float((nearest == torch.arange(items).repeat(8)).float().mean())


def test_without_it_nothing_changes(tiny: Callable[..., RunConfig]) -> None:
    config = configured(tiny, server__warm_start="none")
    assert warm_start(config, model_of(config)) == {}


@pytest.mark.parametrize("kind", ["text", "attributes"])
def test_the_adapters_alone_are_trained_alike_each_time_and_the_model_stays_untrained(
    tiny: Callable[..., RunConfig], kind: str
) -> None:
    config = configured(tiny, server__warm_start=kind, model__train_heads=True)
    model = model_of(config)
    warm, again = warm_start(config, model), warm_start(config, model)
    assert set(warm) == {name for name in model.untrained if name.startswith("encoder.")}
    assert any(not np.array_equal(value, model.untrained[name]) for name, value in warm.items())
    assert all(np.array_equal(value, again[name]) for name, value in warm.items())
    assert all(np.array_equal(v, model.untrained[name]) for name, v in model.recommender.read().items())
    assert all(parameter.grad is None for _, parameter in model.recommender.trained())


def test_variants_of_a_text_come_closer_to_it_than_to_others(tiny: Callable[..., RunConfig]) -> None:
    config = configured(tiny, server__warm_start_steps=60, server__warm_start_rate=1e-2, server__warm_start_keep=0.0)
    assert recognised(config, warm_start(config, model_of(config))) > recognised(config, {}) + 0.05


@pytest.mark.parametrize("kind", ["kg", "all"])
def test_items_that_share_an_entity_come_closer(
    tiny: Callable[..., RunConfig], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(
        tiny, server__warm_start=kind, server__warm_start_steps=60, server__warm_start_rate=1e-2,
        server__warm_start_keep=0.0,
    )  # fmt: skip
    model = model_of(config)
    people = np.arange(len(model.prefix)) % 2
    monkeypatch.setattr("hushrec.server.warm_start.catalog_entities", lambda *_: [(f"p{one}",) for one in people])
    same = people[:, None] == people[None, :]

    def apart(warm: dict[str, np.ndarray]) -> float:
        vectors = catalogue_vectors(config, warm)
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = vectors @ vectors.T
        return float(cosines[same].mean() - cosines[~same].mean())

    assert apart(warm_start(config, model)) > apart({}) + 0.02


def test_the_keep_term_holds_the_vectors_where_they_were(tiny: Callable[..., RunConfig]) -> None:
    far, near = (
        distance(config, warm_start(config, model_of(config)))
        for config in (configured(tiny, server__warm_start_keep=keep) for keep in (0.0, 100.0))
    )
    assert 0 < near < far / 2


@pytest.mark.parametrize("kind", ["text", "attributes"])
def test_items_that_are_cold_in_the_split_are_not_read(
    tiny: Callable[..., RunConfig], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tiny, server__warm_start=kind)
    model, read = model_of(config), set()
    encode = TextEncoder.encode

    def watched(self: TextEncoder, prefix: Any, index: torch.Tensor) -> torch.Tensor:
        read.update((index % len(model.prefix)).tolist())
        return encode(self, prefix, index)

    monkeypatch.setattr(TextEncoder, "encode", watched)
    warm_start(config, model)
    assert model.training_items is not None
    assert len(model.training_items) < len(model.prefix)
    assert read == set(model.training_items.tolist())


def test_round_0_starts_from_it_and_a_resumed_run_does_not_begin_again(
    tiny: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tiny, federation__rounds=0, run__directory=str(tmp_path))
    first = run_rounds(link(config), config)
    model = model_of(config)
    warm = warm_start(config, model)
    assert all(np.array_equal(first.adapter[name], value) for name, value in (model.untrained | warm).items())
    monkeypatch.setattr("hushrec.server.rounds.warm_start", lambda *_: pytest.fail("warmed up a second time"))
    config = config.replace(federation__rounds=1)
    assert run_rounds(link(config), config).server_round == 1


def test_the_ledger_and_its_plan_are_those_of_a_run_without_it(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    found = []
    for kind in ("none", "text"):
        folder = tmp_path / kind
        folder.mkdir()
        config = tiny(
            server__warm_start=kind, server__warm_start_steps=2, federation__rounds=1, run__directory=str(folder),
            privacy__popularity_noise_multiplier=4.0, privacy__noise_multiplier=4.0,
        )  # fmt: skip
        run_rounds(link(config), config)
        close_ledgers()
        ledger = read_ledger(folder / "ledger.jsonl")
        plan = (*release_events(config), training_event(config))
        found.append((ledger.header.plan, plan, {client: ledger.events(client) for client in ledger.clients()}))
    assert found[0] == found[1]
    assert found[0][2]


def test_what_fails_in_it_fails_before_anything_is_released(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = configured(tiny, server__warm_start="kg", run__directory=str(tmp_path))
    with pytest.raises(DataError, match="kg"):
        run_rounds(link(config), config)
    assert read_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [
        {"model__top_layers": 0},
        {"model__head_core": "full", "model__core_init": "statistics"},
        {"server__warm_start": "ids"},
        {"server__warm_start_steps": 0},
        {"server__warm_start_keep": -1.0},
    ],
)
def test_a_warm_start_that_means_nothing_is_refused(tiny: Callable[..., RunConfig], change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"server\.warm-start"):
        configured(tiny, **change)
