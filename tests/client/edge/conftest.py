"""A tiny bundle with an adapter that does something, and its edge folder with a float32 encoder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hushrec.client.edge.export import ExportOptions, export
from hushrec.client.edge.recommender import EdgeRecommender
from hushrec.common.catalog import Catalog
from hushrec.common.config import RunConfig
from hushrec.common.protocol import Arrays
from hushrec.common.scorer import LMScorer
from hushrec.common.scoring import ScoringChoices
from hushrec.common.workspace import Model, build_model, open_dataset

CHOICES = ScoringChoices(
    recency_decay=0.7,
    popularity_weight=0.4,
    short_popularity_weight=1.3,
    history_length=7,
    profile_weight=1.5,
)
PRIVACY = {"mechanism": "none", "name": "test"}


@dataclass(frozen=True, eq=False)
class Trained:
    """A model at an adapter that is not the one it started from."""

    model: Model
    catalog: Catalog
    adapter: Arrays
    log_popularity: np.ndarray
    scorer: LMScorer


@pytest.fixture(scope="session")
def trained(tiny: Callable[..., RunConfig]) -> Trained:
    config = tiny(model__head_core="full", model__train_heads=True, model__train_mix=True, model__adapter="lora")
    catalog = open_dataset(config.data).catalog
    model = build_model(config.model, catalog)
    rng = np.random.default_rng(5)
    adapter = {
        name: value + rng.normal(scale=0.3, size=value.shape).astype(np.float32)
        for name, value in model.untrained.items()
    }
    popularity = np.log1p(rng.integers(1, 60, len(catalog))).astype(np.float32)
    return Trained(model, catalog, adapter, popularity, LMScorer("t", model, adapter, popularity, CHOICES))


@pytest.fixture(scope="session")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An edge folder with a float32 encoder; tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("edge") / "folder"
    given = (trained.model, trained.catalog, trained.scorer, trained.adapter, PRIVACY)
    export(folder, *given, ExportOptions(fp32=True), experiment="tiny")
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(exported, tmp_path / "edge"))


@pytest.fixture
def device(folder: Path) -> EdgeRecommender:
    return EdgeRecommender.open(folder)
