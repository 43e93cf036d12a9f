"""The central evaluation again: a run's bundle on its own data, or its adapter on another catalogue.

It trains nothing and changes no run directory; simulations/results.py compares the systems.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hushrec.common.bundle import Bundle, read_bundle
from hushrec.common.catalog import Catalog
from hushrec.common.config import RunConfig
from hushrec.common.datasets import DATASETS
from hushrec.common.errors import ConfigError
from hushrec.common.workspace import build_model, encode_catalog, encode_profiles, open_dataset, open_split
from hushrec.server.ranking import train_counts
from hushrec.server.snapshots import read_snapshots
from hushrec.simulations.results import compare_systems
from hushrec.simulations.run import EXPERIMENT, Watcher, open_run

_TRAINED_ON = (
    "the catalogue is the one this bundle was trained on, but its split is not known here: give the protocol of the "
    "run, or evaluate the run directory; otherwise test interactions may have been trained on."
)
_GRAPH = "the item graph is {now!r} here and was {then!r} in the run, whose adapter does not depend on it."
_CLEAR = (
    "the catalogue is not the one this bundle was trained on: the popularity prior is counted anew from the training "
    "interactions of {name}, exactly and without privacy. The epsilon above is that of the bundle alone."
)


@dataclass(frozen=True)
class DataChoice:
    """What to evaluate on; empty parts are taken from the run.

    Attributes:
        name: a data set of common/datasets.py.
        folder, columns: where it is and how it is read.
        protocol: one of splits.PROTOCOLS.
        graph: model.graph under the same adapter.
    """

    name: str = ""
    folder: str = ""
    columns: str = ""
    protocol: str = ""
    graph: str = ""


def evaluate_bundle(
    target: Path, data: DataChoice, *, seed: int | None = None, watcher: Watcher | None = None
) -> dict[str, Any]:
    """Evaluate hushrec and all controls, choosing on the validation cases of that data as the run did.

    Args:
        target: a run directory or a bundle folder; a bundle inside a run directory counts as the run.
        data: by default the run's own data; another data set needs nothing but texts.
        seed: of ties, sampled negatives and intervals; None = the run's.
    Returns:
        As results.json, without "cost", with the bundle's "privacy", and with "notes" on what the figures mean.
    Raises:
        ConfigError: a bundle alone without a data set, or another protocol on the data it was trained on.
        BundleError, DataError: the bundle or the data cannot be read, or do not fit.
    """
    watcher = watcher or Watcher()
    bundle = read_bundle(target)
    config, own = _config(target, bundle, data)
    if seed is not None:
        config = config.replace(run__seed=seed)
    notes = []
    if data.graph:
        notes.append(_GRAPH.format(now=data.graph, then=config.model.graph))
        config = config.replace(model__graph=data.graph)
    watcher.step("reading the data")
    dataset, split = open_dataset(config.data), open_split(config.data)
    prior = bundle.log_popularity
    if _same(bundle.catalog, dataset.catalog):
        if (mechanism := bundle.privacy["mechanism"]) == "central":  # which goes with these two settings only
            config = config.replace(privacy__mechanism="none", federation__clients_per_round=0)
            config = config.replace(privacy__unit="user", privacy__mechanism=mechanism)
        else:
            config = config.replace(privacy__mechanism=mechanism)
        notes += [] if own else [_TRAINED_ON]
    else:
        if config.model.item_residual or config.model.item_features:
            raise ConfigError(
                "this bundle holds a vector per item or per attribute of its own catalogue (model.item-residual, "
                "model.item-features), so it says nothing of another one: train without them"
            )
        config = config.replace(privacy__mechanism="none")
        prior = _clear_prior(train_counts(split))
        notes.append(_CLEAR.format(name=dataset.name))
    watcher.step("encoding the catalogue")
    encode_catalog(config.model, dataset.catalog, watcher.encoding)
    untrained = build_model(config.model, dataset.catalog).recommender.read()
    model, _ = replace(bundle, catalog=dataset.catalog, log_popularity=prior, graph=None).scorer()
    model = replace(model, training_items=np.flatnonzero(split.warm_items))  # the others are new items, as in a run
    if config.model.profiles:
        model = replace(model, profiles=encode_profiles(model, dataset.profiles))
    members = read_snapshots(Path(config.run.directory), config.federation.rounds) if own else []
    results, _ = compare_systems(config, model, untrained, bundle.adapter, prior, watcher.step, members=members)
    return results | {"privacy": bundle.privacy, "notes": [*notes, *results["notes"]]}


def _config(target: Path, bundle: Bundle, data: DataChoice) -> tuple[RunConfig, bool]:
    """The configuration of the evaluation, and whether it is on the very split of the run."""
    run = next((folder for folder in (target, target.resolve().parent) if (folder / EXPERIMENT).exists()), None)
    if run is None:
        if not data.name:
            raise ConfigError(f"{target} is a bundle without its run, so its data are not known: give --data NAME")
        config = RunConfig().replace(run__experiment=bundle.experiment)
        return _on(replace(config, model=bundle.model_config), data), False
    config = open_run(run)
    config = replace(config, model=bundle.model_config)
    if data.name and not _same_source(config, data):
        return _on(config, data), False
    if data.protocol not in ("", config.data.protocol):
        raise ConfigError(
            f"the run trained under protocol {config.data.protocol!r}, so some test interactions of protocol "
            f"{data.protocol!r} were trained on; simulate again with --set data.protocol={data.protocol}"
        )
    folder, columns = data.folder or config.data.folder, data.columns or config.data.columns
    return config.replace(data__folder=folder, data__columns=columns), True


def _same_source(config: RunConfig, data: DataChoice) -> bool:
    """Whether `data` names the run's data set; a named one may lie elsewhere, any other is its folder."""
    if data.name != config.data.name:
        return False
    named = not DATASETS[config.data.name].needs_folder
    return named or (data.folder, data.columns) == (config.data.folder, config.data.columns)


def _on(config: RunConfig, data: DataChoice) -> RunConfig:
    """The same on another data set, all of its users."""
    return config.replace(
        data__name=data.name,
        data__folder=data.folder,
        data__columns=data.columns,
        data__protocol=data.protocol or config.data.protocol,
        data__max_users=0,
    )


def _same(first: Catalog, second: Catalog) -> bool:
    return first.item_ids == second.item_ids and first.texts == second.texts


def _clear_prior(counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Log popularity as the server makes it where nothing is noised."""
    return np.log1p(counts).astype(np.float32)
