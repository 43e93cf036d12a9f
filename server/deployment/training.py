"""A run of the federation as the operator sees it: handed to Flower, followed, resumed, stopped.

The rounds are the ServerApp's; this file reads what it writes down and what Flower says of it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hushrec.common import errors
from hushrec.common.config import RunConfig
from hushrec.common.errors import BundleError, ConfigError, DataError, HushrecError, PrivacyError
from hushrec.common.invitation import read_invitation
from hushrec.server.deployment import flower
from hushrec.server.deployment.folder import OperatorFolder, only_one
from hushrec.server.deployment.service import read_rounds, require_served, serving_app

LOG = "run.log"
PATIENCE = 60.0  # seconds for the SuperLink to be back, and for Flower to notice that a ServerApp is gone
_KINDS = {kind.__name__: kind for kind in (ConfigError, DataError, BundleError, PrivacyError)}
_BEGINNING = ("pending", "starting")


def finished_round(folder: OperatorFolder) -> int | None:
    """The last round whose checkpoint is written; None before any."""
    from hushrec.server.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(folder.run)
    return checkpoint.server_round if checkpoint else None


def begin(folder: OperatorFolder, config: RunConfig, least_nodes: int) -> tuple[flower.Run, bool]:
    """The run to follow: the one that goes on already, or a new one, which takes up the checkpoint.

    Args:
        least_nodes: that must be online before its first round; 0: as the federation was made.
    Returns:
        The run, and whether it is new.
    Raises:
        HushrecError: nothing is served, all rounds are done, or the bundle is no longer the one that devices pinned.
    """
    require_served(folder)
    if finished_round(folder) == config.federation.rounds:
        raise HushrecError(f"all {config.federation.rounds} rounds are done; what was learned is in {folder.run}")
    with only_one(folder.path / "run.lock", "another command is starting the run", patience=60.0):
        for run in flower.runs(folder):
            if run.over:
                continue
            if run.status in _BEGINNING or serving_app(folder):
                return run, False
            flower.stop_run(folder, run.run_id)  # its process was killed, and Flower has not noticed
        if flower.app_sha256(folder) != read_invitation(folder.invitation).app_sha256:
            raise ConfigError(
                f"Flower's bundle of {folder.app} is not the one that devices pinned: restore that folder from a "
                "backup, and the versions of Python and Flower that made it"
            )
        if least_nodes:
            folder.write_settings(replace(folder.settings(), least_nodes=least_nodes))
        number = flower.submit_run(folder)
    return flower.runs(folder, number)[0], True


def follow(folder: OperatorFolder, run: flower.Run, tell: Callable[[dict[str, Any]], None]) -> None:
    """Wait until the run is over and tell of every round meanwhile.

    Args:
        tell: called with the line of rounds.jsonl of each round that finishes from now on.
    Raises:
        HushrecError: what the ServerApp raised, or how else the run ended early.
    """
    log = folder.logs / LOG
    begun = log.stat().st_size if log.exists() else 0
    lines = read_rounds(folder)
    told = lines[-1]["round"] if lines else -1
    while not run.over:
        # The log also ends where the SuperLink died; the ServerApp outlives that, and the log begins again.
        stream = flower.follow_log(folder, run.run_id, log)
        try:
            while stream.poll() is None:
                told = _tell_rounds(folder, told, tell)
                time.sleep(0.3)
        finally:
            stream.kill()
            stream.wait()
        run = _look_up(folder, run)
    _tell_rounds(folder, told, tell)
    if run.status != "finished:completed":
        raise _failure(log.read_bytes()[begun:].decode(errors="replace"), run, folder)


def stop_runs(folder: OperatorFolder) -> list[int]:
    """End what Flower runs; the checkpoint of the last finished round stays."""
    require_served(folder)
    stopped = [run.run_id for run in flower.runs(folder) if not run.over]
    for number in stopped:
        flower.stop_run(folder, number)
    return stopped


def _tell_rounds(folder: OperatorFolder, told: int, tell: Callable[[dict[str, Any]], None]) -> int:
    for line in read_rounds(folder):
        if line["round"] > told:
            told = line["round"]
            tell(line)
    return told


def _look_up(folder: OperatorFolder, run: flower.Run) -> flower.Run:
    """The run as Flower knows it now; one whose ServerApp was killed is ended, which Flower does only after a while."""
    deadline = time.monotonic() + PATIENCE
    while True:
        require_served(folder)
        alive = serving_app(folder)
        try:
            run = flower.runs(folder, run.run_id)[0]
        except flower.FlowerRefused:  # the SuperLink is being started again
            if time.monotonic() > deadline:
                raise
        else:
            if run.over or alive or run.status in _BEGINNING:
                return run
            if time.monotonic() > deadline:
                flower.stop_run(folder, run.run_id)
        time.sleep(1.0)


def _failure(log: str, run: flower.Run, folder: OperatorFolder) -> HushrecError:
    """The error that the ServerApp raised, as its own kind; where the log has none, how Flower calls the end."""
    done, again = finished_round(folder), f"go on with: hushrec server run {folder.path}"
    raised = re.findall(rf"^{re.escape(errors.__name__)}\.(\w+): (.+)$", log, re.MULTILINE)
    if raised:
        kind, said = raised[-1]
        return _KINDS.get(kind, HushrecError)(said)
    after = "before round 1" if done is None else f"after round {done}"
    why = "it was stopped" if run.status == "finished:stopped" else f"Flower says {run.status}, {run.details}"
    return HushrecError(f"the run ended {after}: {why}; {folder.logs} has more; {again}")
