"""The end of a deployed federation's run: evaluate its checkpoint on the operator's own data and write the bundle.

It reads no device. What devices have spent stands in their ledgers; here stands the most that the plan lets one spend.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hushrec.common.budget import is_private, noise_on_server, release_events, training_event
from hushrec.common.config import RunConfig
from hushrec.common.errors import BundleError
from hushrec.common.privacy import PrivacyEvent
from hushrec.common.workspace import shared_model
from hushrec.server.checkpoint import read_checkpoint, write_atomically
from hushrec.server.deployed_app import operator_config
from hushrec.simulations.results import Spent
from hushrec.simulations.run import EXPERIMENT, finish

ENGINE = "flower-superlink"
NOTE = (
    "devices keep their own ledgers: epsilon is the most that a device which answered in every round has spent; the "
    "systems are compared on the operator's own data"
)


def bundle_federation(folder: Path, step: Callable[[str], None] = lambda name: None) -> dict[str, Any]:
    """Write bundle, results and report into the run directory of an operator's folder.

    Args:
        folder: made by `hushrec server init`, with at least one finished round.
    Returns:
        The content of results.json.
    Raises:
        BundleError: no round is finished yet.
    """
    config = operator_config(folder)
    run = Path(config.run.directory)
    checkpoint = read_checkpoint(run)
    if checkpoint is None:
        raise BundleError(f"{run} has no finished round; train with: hushrec server run {folder}")
    write_atomically(run / EXPERIMENT, config.to_toml().encode())
    step("loading the language model and encoding the catalogue")
    model = shared_model(config.model, config.data)
    spent = None if noise_on_server(config.privacy) else planned_spending(config, checkpoint.server_round)
    return finish(config, model.untrained, checkpoint, step, engine=ENGINE, spent=spent, notes=[NOTE])


def planned_spending(config: RunConfig, rounds: int) -> Spent:
    """What a device has been charged that answered everything until the end of round `rounds`."""
    if not is_private(config):
        return {}
    events = list(release_events(config))
    if rounds:
        one = training_event(config)
        events.append(PrivacyEvent(one.noise_multiplier, one.sample_rate, one.steps * rounds, one.kind))
    return {"a device of every round": events}
