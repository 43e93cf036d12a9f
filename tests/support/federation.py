"""A simulated federation as the runs use it; what the tests of server and clients share."""

from __future__ import annotations

from hushrec.client.app import app as client_app
from hushrec.client.cohort import answer_query, answer_train
from hushrec.client.store import count_clients
from hushrec.common.config import RunConfig
from hushrec.simulations.grid import QUERY, TRAIN, InProcessGrid


def link(config: RunConfig, kind: type[InProcessGrid] = InProcessGrid) -> InProcessGrid:
    """A grid over all clients of `config`, cohorts and all."""
    return kind(client_app, count_clients(config), config.to_flat(), {TRAIN: answer_train, QUERY: answer_query})
