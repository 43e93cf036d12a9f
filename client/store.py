"""Where a client finds its own rows and its own ledger: the only place where a simulated client and a device differ.

A store holds one client's data. It never opens another client's, and never trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from hushrec.client.rows import Row, device_rows, user_rows
from hushrec.common.budget import is_private, noise_on_server
from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError
from hushrec.common.interactions import History
from hushrec.common.ledger import Ledger
from hushrec.common.run_ledger import open_ledger
from hushrec.common.workspace import open_dataset, open_split


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
class SimulatedStore:
    """One client of a simulation: a part of a data set, and the simulation's one ledger file."""

    client: str
    rows: tuple[Row, ...]
    ledger: Ledger | None


def count_clients(config: RunConfig) -> int:
    """How many clients a simulation of `config` has."""
    users = len(open_split(config.data).users)
    return users if config.federation.shape == "devices" else min(config.federation.silos, users)


def open_simulated(config: RunConfig, node_config: Mapping[str, object]) -> SimulatedStore:
    """The store of partition `node_config["partition-id"]`.

    Raises:
        ConfigError: no such partition.
    """
    partition = node_config.get("partition-id")
    if not isinstance(partition, int) or not 0 <= partition < count_clients(config):
        raise ConfigError(f"no partition {partition!r}: this data set has clients 0..{count_clients(config) - 1}")
    name = f"{'device' if config.federation.shape == 'devices' else 'silo'}-{partition}"
    ledger = None if noise_on_server(config.privacy) else open_ledger(config)
    return SimulatedStore(name, _partition_rows(config)[partition], ledger)


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
