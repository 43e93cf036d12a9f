"""The popularity release: ask every client once for its (noised) counts, and turn their sum into a prior.

What a client contributes, and what it pays, is client/popularity.py's and its ledger's business.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from hushrec.common.budget import is_private, popularity_events
from hushrec.common.config import RunConfig
from hushrec.common.protocol import Update, read_update
from hushrec.server.replies import Inbox


@dataclass(frozen=True, eq=False)
class PopularityRelease:
    """Attributes:
    log_popularity: float32 (items,), >= 0.
    clients: how many contributed.
    refused: code -> replies not used.
    """

    log_popularity: NDArray[np.float32]
    clients: int
    refused: Counter[str]


def release_popularity(grid: Grid, config: RunConfig, items: int) -> PopularityRelease:
    """Sum the counts of all clients and take log(1 + count / noise).

    The noise of the sum has a public standard deviation, sigma x sqrt(clients); dividing by it puts the knee of the
    logarithm at the noise, so that items whose count is lost in it get about the same prior. All of it is
    post-processing of noised values.
    """
    none = PopularityRelease(np.zeros(items, dtype=np.float32), 0, Counter())
    if is_private(config) and not popularity_events(config.privacy):
        return none
    content = RecordDict({"config": ConfigRecord({"release": "popularity"})})
    nodes = sorted(grid.get_node_ids())
    messages = [Message(content, node, MessageType.QUERY) for node in nodes]
    total, clients, inbox = np.zeros(items, dtype=np.float64), 0, Inbox(nodes)

    def read(message: Message) -> Update:
        return read_update(message, {"counts": (items,)}, field="counts")

    for _, update in inbox.updates(grid.send_and_receive(messages), read):
        total += update.arrays["counts"]
        clients += update.clients
    if clients == 0:
        return PopularityRelease(none.log_popularity, 0, inbox.refused)
    noise = config.privacy.popularity_noise_multiplier * math.sqrt(clients) if is_private(config) else 1.0
    return PopularityRelease(np.log1p(np.maximum(total, 0.0) / noise).astype(np.float32), clients, inbox.refused)
