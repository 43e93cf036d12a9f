"""The generated privacy units of the probes, and the run's settings over the synthetic catalogue they are taken from.

Nobody's data are read. What the units are asked for is probe_federation.py's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hushrec.client.rows import SPAN_SECONDS, Row, device_rows, user_rows
from hushrec.common.base_model import PACKAGED
from hushrec.common.budget import noise_on_server, popularity_events, statistics_events
from hushrec.common.config import RunConfig, Scalar
from hushrec.common.interactions import History
from hushrec.common.protocol import Field

Items = NDArray[np.int32]
Holdings = Mapping[str, Mapping[int, Items]]
"""client -> number of a privacy unit -> its items, oldest first"""

CATALOGUE = 120  # items of the synthetic data set
LARGEST_BASE = 400 * 2**20  # bytes; a larger language model is exchanged for the packaged one
_LARGEST_HEAD = 96  # directions; a head has at most as many as the catalogue has items
_FIRST_BIN = 9000  # times the number of slots: a time bin of slot 0, so that unit n of a device lies in slot n


def holdings(config: RunConfig, seed: int) -> Holdings:
    """Several clients; on devices and in silos one with many units, one with a single one and one with none.

    Units are of many lengths, one longer than the window that a round reads.
    """
    units = {n: draw_items(seed, n, length) for n, length in enumerate((config.train.window + 5, 2, 3, 9, 4))}
    if noise_on_server(config.privacy):
        return {f"device-{n}": {0: items} for n, items in units.items()}
    many = {n: units[n] for n in range(most_units(config))}
    return {"client-0": many, "client-1": {0: draw_items(seed, 9, 4)}, "client-2": {}}


def removals(config: RunConfig, whole: Holdings) -> Iterator[tuple[str, Holdings]]:
    """(client, holdings without one of its units) for every unit; a user under a trusted server goes as a whole."""
    for client, units in whole.items():
        for number in units:
            rest = {n: items for n, items in units.items() if n != number}
            others = {name: kept for name, kept in whole.items() if name != client}
            yield client, others if noise_on_server(config.privacy) else {**whole, client: rest}


def most_units(config: RunConfig) -> int:
    """Units of a client that has many: as many as the run allows, five at most."""
    if noise_on_server(config.privacy):
        return 1
    return min(config.privacy.max_records, 5) if config.federation.shape == "devices" else 5


def draw_items(seed: int, number: int, length: int) -> Items:
    """`length` items of the catalogue, without repeats, drawn for `number`."""
    rng = np.random.default_rng([seed, 2, number])
    return rng.choice(CATALOGUE, min(length, CATALOGUE), replace=False).astype(np.int32)


def cut_rows(config: RunConfig, units: Mapping[int, Items]) -> tuple[Row, ...]:
    """A client's rows, cut by the real code from histories in which unit n keeps to time slot n, or to user n."""
    if noise_on_server(config.privacy):
        return tuple(Row("user", items) for items in units.values())
    if config.federation.shape == "silos":
        users = [f"user-{number}" for number in units]
        return user_rows(users, [History(items, np.arange(len(items))) for items in units.values()])
    span, slots = SPAN_SECONDS[config.privacy.record_span], config.privacy.max_records
    # Two bins of each slot, so that their folding is seen too.
    times = [(_FIRST_BIN * slots + n + slots * (np.arange(len(i)) % 2)) * span for n, i in units.items()]
    when = np.concatenate([np.zeros(0, np.int64), *times])
    items = np.concatenate([np.zeros(0, np.int32), *units.values()])
    order = np.argsort(when, kind="stable")
    return device_rows(History(items[order], when[order]), config.privacy.record_span, slots)


def releases(config: RunConfig) -> tuple[Field, ...]:
    """What a private run asks its clients for."""
    found: list[Field] = []
    if config.federation.rounds and config.privacy.noise_multiplier > 0:
        found.append("update")
    if popularity_events(config.privacy):
        found.append("counts")
    if statistics_events(config):
        found.append("statistics")
    return tuple(found)


def fit(config: RunConfig) -> tuple[RunConfig, str]:
    """The run's settings over the synthetic catalogue, and what of the model had to be made smaller, "" for nothing."""
    changes: dict[str, Scalar] = {"data__name": "synthetic", "data__folder": "", "data__columns": ""}
    changes |= {"data__max_users": 0, "data__protocol": "p1"}
    # Windows cut histories before they become rows; the probe's holdings begin as rows.
    changes |= {"data__window_ends": "", "server__anchor": 0.0}
    made = []
    base = Path(config.model.base)
    weights = sum(file.stat().st_size for file in base.glob("*.safetensors")) if base.is_dir() else 0
    if config.model.base != PACKAGED and not 0 < weights <= LARGEST_BASE:
        changes |= {"model__base": PACKAGED, "model__top_layers": min(config.model.top_layers, 6)}
        made.append(f"language model {PACKAGED}")
    if config.model.head_dim > _LARGEST_HEAD:
        changes |= {"model__head_dim": _LARGEST_HEAD}
        made.append(f"head-dim {_LARGEST_HEAD}")
    return config.replace(**changes), " and ".join(made)
