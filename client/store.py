"""Where a client finds its own rows and its own ledger: the only place where a simulated client and a device differ.

A store holds one client's data. It never opens another client's, and never trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from hushrec.client.device.folder import DeviceFolder, open_device_folder
from hushrec.client.rows import Row, device_rows, user_rows
from hushrec.common.budget import is_private, noise_on_server
from hushrec.common.config import RunConfig
from hushrec.common.errors import BundleError, ConfigError
from hushrec.common.interactions import History
from hushrec.common.ledger import Ledger
from hushrec.common.run_ledger import open_device_ledger, open_ledger
from hushrec.common.workspace import Model, build_model, open_dataset, open_split, shared_model

DEVICE_FOLDER = "device-folder"  # in the node configuration of a real device


class Store(Protocol):
    """What training asks of a client's storage.

    Attributes:
        client: name in the ledger.
        rows: the client's privacy units.
        ledger: None where the client adds no noise itself (privacy.mechanism "none" and "central").
    """

    @property
    def client(self) -> str: ...
    @property
    def rows(self) -> tuple[Row, ...]: ...
    @property
    def ledger(self) -> Ledger | None: ...


@dataclass(frozen=True, eq=False)
class ClientStore:
    """A client's storage as it was read: of a simulation (part of a data set, one ledger for all) or of a device."""

    client: str
    rows: tuple[Row, ...]
    ledger: Ledger | None


def count_clients(config: RunConfig) -> int:
    """How many clients a simulation of `config` has."""
    users = len(open_split(config.data).users)
    return users if config.federation.shape == "devices" else min(config.federation.silos, users)


def open_store(config: RunConfig, node_config: Mapping[str, object]) -> ClientStore:
    """The store that a node's configuration names: a device's folder, or a partition of a simulation.

    Raises:
        ConfigError: it names neither.
        DataError, BundleError, PrivacyError: the device's folder is not as it should be.
    """
    folder = node_config.get(DEVICE_FOLDER)
    return open_simulated(config, node_config) if folder is None else open_device(Path(str(folder)), config)


def open_model(config: RunConfig, node_config: Mapping[str, object]) -> Model:
    """The untrained model on the catalogue of the simulation, or on the one that the device pinned."""
    folder = node_config.get(DEVICE_FOLDER)
    return shared_model(config.model, config.data) if folder is None else _device_model(str(folder))


def open_device(path: Path, config: RunConfig) -> ClientStore:
    """The store of the device in `path`: its database as it is now, and its own signed ledger.

    Raises:
        ConfigError: settings that a device with one user cannot follow.
        DataError, BundleError, PrivacyError: the folder, the database or the ledger is not as it should be.
    """
    folder = open_device_folder(path)
    if config.federation.shape != "devices":
        raise ConfigError('a device holds one user; federation.shape must be "devices"')
    with folder.open_database() as database:
        history = database.history(folder.invitation.catalog)
    rows = _rows_of_device(folder.name, history, config) if len(history) else ()
    return ClientStore(folder.name, rows, device_ledger(folder, config))


def device_ledger(folder: DeviceFolder, config: RunConfig) -> Ledger | None:
    """The device's own signed ledger; None where it adds no noise itself."""
    if not is_private(config) or noise_on_server(config.privacy):
        return None
    return open_device_ledger(folder.ledger, config, folder.name, folder.signing_key())


@lru_cache(maxsize=1)
def _device_model(path: str) -> Model:
    folder: DeviceFolder = open_device_folder(Path(path))
    pinned = folder.invitation
    model = build_model(pinned.config.model, pinned.catalog)
    if model.base.sha256 != pinned.base_sha256:
        raise BundleError(
            f"the federation trains a base model with SHA-256 {pinned.base_sha256[:12]}..., but "
            f"{pinned.config.model.base!r} here has {model.base.sha256[:12]}...; install that model"
        )
    return replace(model, training_items=pinned.training_items)


def open_simulated(config: RunConfig, node_config: Mapping[str, object]) -> ClientStore:
    """The store of partition `node_config["partition-id"]`.

    Raises:
        ConfigError: no such partition.
    """
    partition = node_config.get("partition-id")
    if not isinstance(partition, int) or not 0 <= partition < count_clients(config):
        raise ConfigError(f"no partition {partition!r}: this data set has clients 0..{count_clients(config) - 1}")
    name = f"{'device' if config.federation.shape == 'devices' else 'silo'}-{partition}"
    ledger = None if noise_on_server(config.privacy) else open_ledger(config)
    return ClientStore(name, _partition_rows(config)[partition], ledger)


@lru_cache(maxsize=2)
def _partition_rows(config: RunConfig) -> tuple[tuple[Row, ...], ...]:
    """Rows of every simulated client, cut once."""
    split = open_split(config.data)
    keys = [open_dataset(config.data).user_keys[user] for user in split.users]
    if config.federation.shape == "silos":
        shuffled = np.random.default_rng(config.data.seed).permutation(len(keys))
        parts = np.array_split(shuffled, count_clients(config))
        return tuple(user_rows([keys[u] for u in part], [split.train[u] for u in part]) for part in parts)
    if is_private(config) and config.privacy.unit == "record" and open_dataset(config.data).time_unit != "seconds":
        raise ConfigError(
            f"data set {config.data.name!r} has no clock times, and a record is what a device does in certain hours: "
            'only users can be protected there; set privacy.unit = "user"'
        )
    return tuple(_rows_of_device(key, history, config) for key, history in zip(keys, split.train, strict=True))


def _rows_of_device(key: str, history: History, config: RunConfig) -> tuple[Row, ...]:
    """Devices that add their own noise are cut by the clock; elsewhere the device's one user is one row."""
    if not is_private(config) or config.privacy.unit == "user":
        return (Row(key, history.items),)
    return device_rows(history, config.privacy.record_span, config.privacy.max_records)


def count_units(config: RunConfig) -> int:
    """How many privacy units (rows) a simulation of `config` has; known to the simulation only, never sent."""
    return sum(len(rows) for rows in _partition_rows(config))
