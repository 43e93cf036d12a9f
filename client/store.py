"""Where a client finds its own rows and its own ledger: the only place where a simulated client and a device differ.

A store holds one client's data. It never opens another client's, and never trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hushrec.client.device.folder import DeviceFolder, open_device_folder
from hushrec.client.rows import Row, device_rows, user_rows
from hushrec.common.budget import is_private, noise_on_server
from hushrec.common.config import RunConfig
from hushrec.common.errors import BundleError, ConfigError
from hushrec.common.interactions import History
from hushrec.common.ledger import Ledger
from hushrec.common.run_ledger import open_device_ledger, open_ledger
from hushrec.common.time_windows import count_windows, until, window_ends, window_of
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
    """A client's storage as it was read: of a simulation (part of a data set, one ledger for all) or of a device.

    Attributes:
        earlier: its rows by the end of every time window but the last; see `in_round`.
    """

    client: str
    rows: tuple[Row, ...]
    ledger: Ledger | None
    earlier: tuple[tuple[Row, ...], ...] = ()


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
    if config.data.window_ends:
        raise ConfigError("a device trains on what it holds now; leave out data.window-ends")
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
    *earlier, rows = (clients[partition] for clients in _partition_rows(config))
    return ClientStore(name, rows, ledger, tuple(earlier))


def in_round(store: Store, config: RunConfig, server_round: int) -> Store:
    """The store with the rows that its client has by the end of the round's time window.

    A row holds what is before the end of the window, whatever else its client holds, so a unit is still one row in
    every round: C1 a slot of hours, which grows from window to window, C2 and C3 a user. A unit that begins later is no
    row before, or an empty one; its client is asked all the same, answers with noise and pays, since who is asked would
    tell who is new. So every client's ledger is an upper bound, and one budget holds for all windows together.

    Args:
        server_round: 0 for the releases before round 1, which see the first window.
    Raises:
        ConfigError: a store that is not cut into windows.
    """
    if (window := window_of(config, server_round)) == count_windows(config.data) - 1:
        return store
    if not isinstance(store, ClientStore) or len(store.earlier) < count_windows(config.data) - 1:
        raise ConfigError("data.window-ends cuts a simulation's data; this client holds what it has now")
    return replace(store, rows=store.earlier[window])


@lru_cache(maxsize=2)
def _partition_rows(config: RunConfig) -> tuple[tuple[tuple[Row, ...], ...], ...]:
    """Rows of every simulated client by the end of every window, cut once."""
    train, ends = open_split(config.data).train, window_ends(config.data)
    if ends and open_dataset(config.data).time_unit != "seconds":
        raise ConfigError(f"data set {config.data.name!r} has no clock times: leave out data.window-ends")
    windows = [*(tuple(until(history, end) for history in train) for end in ends), train]
    return tuple(_cut_clients(config, histories) for histories in windows)


def _cut_clients(config: RunConfig, histories: Sequence[History]) -> tuple[tuple[Row, ...], ...]:
    """Rows of every simulated client whose users have these histories; without privacy or in silos no empty ones."""
    split = open_split(config.data)
    keys = [open_dataset(config.data).user_keys[user] for user in split.users]
    profiles: list[NDArray[np.float32] | None] = [None] * len(keys)
    if config.model.profiles:
        vectors = shared_model(config.model, config.data).profiles
        assert vectors is not None
        profiles = [vectors[user] for user in split.users]
    if config.federation.shape == "silos":
        shuffled = np.random.default_rng(config.data.seed).permutation(len(keys))
        parts = np.array_split(shuffled, count_clients(config))
        held = ([u for u in part if len(histories[u])] for part in parts)
        return tuple(
            user_rows([keys[u] for u in part], [histories[u] for u in part], [profiles[u] for u in part])
            for part in held
        )
    if is_private(config) and config.privacy.unit == "record" and open_dataset(config.data).time_unit != "seconds":
        raise ConfigError(
            f"data set {config.data.name!r} has no clock times, and a record is what a device does in certain hours: "
            'only users can be protected there; set privacy.unit = "user"'
        )
    found = zip(keys, histories, profiles, strict=True)
    return tuple(_rows_of_device(key, history, config, profile) for key, history, profile in found)


def _rows_of_device(
    key: str, history: History, config: RunConfig, profile: NDArray[np.float32] | None = None
) -> tuple[Row, ...]:
    """Devices that add their own noise are cut by the clock; elsewhere the device's one user is one row.

    Only that one row may read the profile: no record holds it.
    """
    if not is_private(config) and not len(history):
        return ()
    if not is_private(config) or config.privacy.unit == "user":
        return (Row(key, history.items, profile),)
    return device_rows(history, config.privacy.record_span, config.privacy.max_records)


def count_units(config: RunConfig) -> int:
    """How many privacy units (rows) a simulation of `config` has; known to the simulation only, never sent."""
    return sum(len(rows) for rows in _partition_rows(config)[-1])
