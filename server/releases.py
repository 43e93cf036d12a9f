"""The releases before round 1: ask every client once for (noised) popularity counts or co-occurrence statistics.

What a client contributes, and what it pays, is the client's and its ledger's business; a trusted server pays and adds
the noise itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from hushrec.common.budget import is_private, popularity_events, statistics_events
from hushrec.common.config import RunConfig
from hushrec.common.core_statistics import solve_core, triangle_size
from hushrec.common.errors import PrivacyError
from hushrec.common.privacy import PrivacyEvent
from hushrec.common.protocol import Arrays, Field, Update, payload_bytes, query_content, read_update
from hushrec.common.workspace import Model
from hushrec.server.central_privacy import CentralMechanism, clip
from hushrec.server.replies import Inbox


@dataclass(frozen=True, eq=False)
class PopularityRelease:
    """Attributes:
    log_popularity: float32 (items,), >= 0.
    clients: how many contributed.
    refused: code -> replies not used.
    bytes_up: payload of one client's contribution.
    """

    log_popularity: NDArray[np.float32]
    clients: int
    refused: Counter[str]
    bytes_up: int


@dataclass(frozen=True, eq=False)
class StatisticsRelease:
    """Attributes:
    adapter: where training starts: the untrained one, or with the core that the statistics give.
    clients: how many contributed.
    refused: code -> replies not used.
    bytes_up: payload of one client's contribution.
    """

    adapter: Arrays
    clients: int
    refused: Counter[str]
    bytes_up: int


def release_popularity(
    grid: Grid, config: RunConfig, items: int, central: CentralMechanism | None = None
) -> PopularityRelease:
    """Sum the counts of all clients and take log(1 + count / noise).

    The noise of the sum has a public standard deviation, sigma x sqrt(clients), or sigma where a trusted server adds
    it; dividing by it puts the knee of the logarithm at the noise, so that items whose count is lost in it get about
    the same prior. All of it is post-processing of noised values.

    Args:
        central: clips and noises the counts where the clients do not.
    """
    none = PopularityRelease(np.zeros(items, dtype=np.float32), 0, Counter(), 0)
    events = popularity_events(config.privacy) if is_private(config) else ()
    if is_private(config) and not events:
        return none
    asked = _noised_sum(grid, query_content("popularity"), "counts", items, events, central)
    if asked.clients == 0 and central is None:
        return PopularityRelease(none.log_popularity, 0, asked.refused, 0)
    noise = events[0].noise_multiplier if events else 1.0
    if events and central is None:
        noise *= math.sqrt(asked.clients)
    log_popularity = np.log1p(np.maximum(asked.total, 0.0) / noise).astype(np.float32)
    return PopularityRelease(log_popularity, asked.clients, asked.refused, asked.bytes_up)


def release_statistics(
    grid: Grid,
    config: RunConfig,
    model: Model,
    log_popularity: NDArray[np.float32],
    central: CentralMechanism | None = None,
) -> StatisticsRelease:
    """Sum the co-occurrence statistics of all clients and solve the core that training starts from."""
    if config.model.core_init != "statistics":
        return StatisticsRelease(model.untrained, 0, Counter(), 0)
    size = triangle_size(model.start.shape[1])
    events = statistics_events(config) if is_private(config) else ()
    if is_private(config) and not events:
        raise PrivacyError("privacy.statistics-noise-multiplier is not set, so there is no noise; nothing was released")
    content = query_content("statistics", log_popularity)
    asked = _noised_sum(grid, content, "statistics", size, events, central)
    if asked.clients == 0 and central is None:
        return StatisticsRelease(model.untrained, 0, asked.refused, 0)
    weight, offset = solve_core(asked.total, model.start, log_popularity, config.model.core_strength)
    core = {"user_core.weight": weight, "user_core.bias": offset}
    return StatisticsRelease(model.untrained | core, asked.clients, asked.refused, asked.bytes_up)


@dataclass(frozen=True, eq=False)
class _Sum:
    """What all clients contributed to one release; fields as in the releases above."""

    total: NDArray[np.float64]
    clients: int
    refused: Counter[str]
    bytes_up: int


def _noised_sum(
    grid: Grid,
    content: RecordDict,
    field: Field,
    size: int,
    events: Sequence[PrivacyEvent],
    central: CentralMechanism | None,
) -> _Sum:
    """(size,) sum over the clients, noised by them or by `central`."""
    nodes = sorted(grid.get_node_ids())
    if central is not None:
        central.reserve(events[0])
    messages = [Message(content, node, MessageType.QUERY) for node in nodes]
    total, clients, inbox, bytes_up = np.zeros(size, dtype=np.float64), 0, Inbox(nodes), 0

    def read(message: Message) -> Update:
        return read_update(message, {field: (size,)}, field=field)

    for message, update in inbox.updates(grid.send_and_receive(messages), read):
        total += (update.arrays if central is None else clip(update.arrays, 1.0))[field]
        clients += update.clients
        bytes_up = bytes_up or payload_bytes(message.content.array_records[field])
    return _Sum(total if central is None else central.noised(total, events[0]), clients, inbox.refused, bytes_up)
