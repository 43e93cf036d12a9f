"""The ServerApp of a deployed federation: the simulation's rounds on Flower's grid, with the operator's settings.

What is the operator's own (paths, keys, the panel) is read from the operator's folder, which the environment names;
the app bundle, which every device sees, holds none of it.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from hushrec.common.budget import is_private, noise_on_server
from hushrec.common.config import RunConfig, read_experiment
from hushrec.common.errors import ConfigError
from hushrec.common.invitation import public_settings
from hushrec.server.deployed_grid import DeployedGrid
from hushrec.server.ledger_mirror import LedgerMirror
from hushrec.server.rounds import run_rounds

OPERATOR = "HUSHREC_OPERATOR"  # environment variable: the operator's folder
RUN, CONFIG, SETTINGS, KEY = "run", "run.toml", "server.json", "countersign.key"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, or go on training; checkpoint, rounds and mirror are in the operator's run folder afterwards."""
    folder = Path(os.environ.get(OPERATOR, ""))
    config = operator_config(folder)
    _refuse_other_constants(config, context)
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    with ExitStack() as held:
        mirror = None
        if is_private(config) and not noise_on_server(config.privacy):
            mirror = held.enter_context(LedgerMirror(folder / RUN, read_key(folder / KEY)))
        deployed = DeployedGrid(grid, mirror, float(settings.get("reply_timeout_seconds", 600)))
        deployed.wait_for_nodes(int(settings.get("least_nodes", 1)), float(settings.get("patience_seconds", 600)))
        run_rounds(deployed, config)


def operator_config(folder: Path) -> RunConfig:
    """The whole configuration of the federation in the operator's folder.

    Raises:
        ConfigError: there is none, or a value in it is wrong.
    """
    path = folder / CONFIG
    config = RunConfig.from_flat(read_experiment(path), str(path))
    # A reply is one device's: it must not speak for others, as the first of a simulated cohort may.
    return config.replace(run__directory=str((folder / RUN).absolute()), federation__execution="one-by-one")


def read_key(path: Path) -> Ed25519PrivateKey:
    """An Ed25519 key, 32 bytes in hexadecimal.

    Raises:
        ConfigError: not there, or not such a key.
    """
    try:
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text(encoding="ascii").strip()))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the key {path}: {error}; restore it from your backup") from error


def _refuse_other_constants(config: RunConfig, context: Context) -> None:
    """The bundle that devices pinned and the operator's configuration must say the same."""
    public = public_settings(config.to_flat())
    for key, value in context.run_config.items():
        if key in public and public[key] != value:
            raise ConfigError(
                f"{key} is {value!r} in the app bundle that devices pinned and {public[key]!r} in {CONFIG}; restore it"
            )
