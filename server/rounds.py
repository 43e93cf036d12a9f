"""The rounds of a run: popularity release, training with a checkpoint after every round, and what is written down.

Flower's Strategy.start drives the loop; this file feeds it and takes up an interrupted run where it stood. It never
opens a client's data.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid

from hushrec.common.budget import is_private, noise_on_server, spent_after
from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError
from hushrec.common.memory import release_memory
from hushrec.common.protocol import Arrays, pack, unpack
from hushrec.common.run_ledger import open_ledger
from hushrec.common.workspace import Model, open_split, shared_model
from hushrec.server.central import curve_point
from hushrec.server.central_privacy import CentralMechanism
from hushrec.server.checkpoint import Checkpoint, read_checkpoint, write_atomically, write_checkpoint
from hushrec.server.early_stopping import EarlyStopping, StoppedEarly
from hushrec.server.optimizer import ServerOptimizer
from hushrec.server.releases import release_popularity, release_statistics
from hushrec.server.snapshots import keep_snapshot
from hushrec.server.strategy import AdapterStrategy, RoundTraffic
from hushrec.server.warm_start import warm_start
from hushrec.server.window_adapters import keep_window

ROUNDS = "rounds.jsonl"
# What may change before a run is resumed; anything else would make its rounds, or its clients, not those of one run.
_RESUMABLE = {"run.directory", "run.threads", "evaluation.every", "federation.execution", "federation.rounds"}
# One record per finished round, as `extra={"round": {...}}`: whoever shows progress attaches a handler.
log = logging.getLogger("hushrec.rounds")


def run_rounds(grid: Grid, config: RunConfig) -> Checkpoint:
    """Run or resume the configured rounds.

    Returns:
        The checkpoint of the last round.
    Raises:
        ConfigError: no run directory is configured, or a setting is not that of the run's first round.
        BundleError: the checkpoint to resume from is damaged.
    """
    if not config.run.directory:
        raise ConfigError("run.directory is empty: the server keeps its checkpoint there")
    folder = Path(config.run.directory)
    model = shared_model(config.model, config.data)
    central = central_mechanism(config)
    checkpoint = read_checkpoint(folder) or _first_checkpoint(grid, config, model, folder, central)
    _refuse_changes(checkpoint.facts.get("config", {}), config)
    optimizer = ServerOptimizer(config.server, config.federation.rounds)
    optimizer.restore(checkpoint.optimizer, int(checkpoint.facts["optimizer_steps"]))
    strategy = AdapterStrategy(
        model.shapes,
        optimizer,
        checkpoint.log_popularity,
        clients_per_round=config.federation.clients_per_round,
        wire=config.federation.wire,
        seed=config.run.seed,
        first_round=checkpoint.server_round,
        summed_replies=config.federation.execution == "cohort" and not is_private(config),
        central=central,
    )
    recorder = _Recorder(folder, config, model, strategy, checkpoint, len(list(grid.get_node_ids())))
    over = recorder.stopping.over(checkpoint.server_round)
    with suppress(StoppedEarly):
        strategy.start(
            grid,
            pack(checkpoint.adapter, "float32"),
            num_rounds=0 if over else max(0, config.federation.rounds - checkpoint.server_round),
            evaluate_fn=recorder.after_round,
        )
    return recorder.checkpoint


def central_mechanism(config: RunConfig) -> CentralMechanism | None:
    """What the server adds where it is trusted to (C3); None elsewhere.

    Raises:
        PrivacyError: the ledger cannot be opened, or there is no noise.
    """
    if not noise_on_server(config.privacy):
        return None
    ledger = open_ledger(config)
    assert ledger is not None
    return CentralMechanism(config, ledger)


def evaluated_adapter(config: RunConfig, checkpoint: Checkpoint) -> Arrays:
    """The adapter that is evaluated and shipped.

    The best of the curve where early stopping is on, else the last iterate, or the running mean where averaging is on.
    """
    optimizer = ServerOptimizer(config.server, config.federation.rounds)
    optimizer.restore(checkpoint.optimizer, int(checkpoint.facts["optimizer_steps"]))
    return optimizer.best or optimizer.evaluated(checkpoint.adapter)


def _refuse_changes(begun: dict[str, Any], config: RunConfig) -> None:
    """A changed split or partition, say, would charge one person's rounds to another's name in the ledger."""
    resumable = _RESUMABLE - {"federation.rounds"} if config.data.window_ends else _RESUMABLE
    for key, now in config.to_flat().items():
        if key not in resumable and key in begun and begun[key] != now:
            raise ConfigError(f"{key} was {begun[key]!r} when this run began and is {now!r} now; restore it")


def _first_checkpoint(
    grid: Grid, config: RunConfig, model: Model, folder: Path, central: CentralMechanism | None
) -> Checkpoint:
    started = time.monotonic()
    warm = warm_start(config, model)  # before anything is released: what fails here has cost no privacy
    release = release_popularity(grid, config, len(model.prefix), central)
    statistics = release_statistics(grid, config, model, release.log_popularity, central)
    facts = {
        "optimizer_steps": 0,
        "config": config.to_flat(),
        "contributors": release.clients + statistics.clients,
        "last_round": _traffic_facts(RoundTraffic()),
        "refused": dict(release.refused + statistics.refused),
        "seconds": time.monotonic() - started,
        "bytes_up": 0,
        "bytes_down": 0,
        "release_bytes_up": release.bytes_up + statistics.bytes_up,
        "client_steps": 0,
        "paid_rounds": 0,
    }
    checkpoint = Checkpoint(0, statistics.adapter | warm, {}, release.log_popularity, facts)
    write_checkpoint(folder, checkpoint)
    return checkpoint


class _Recorder:
    """Writes down each round: checkpoint first, then the line for people."""

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        model: Model,
        strategy: AdapterStrategy,
        checkpoint: Checkpoint,
        clients: int,
    ) -> None:
        self.folder, self.config, self.model, self.strategy = folder, config, model, strategy
        self.checkpoint, self.clients = checkpoint, clients
        self.stopping = EarlyStopping.of(config, checkpoint.facts)
        self._split = open_split(config.data)
        self._written = keep_rounds(folder, checkpoint.server_round)

    def after_round(self, server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Called by Flower with 0 before the first round of this process, then after each."""
        release_memory()
        finished = server_round + self.strategy.first_round
        adapter = unpack(arrays, self.model.shapes)
        written = server_round == 0 and finished in self._written
        if written and (self.stopping.best_round >= 0 or not self.stopping.patience):
            return None  # resumed, and not between the checkpoint of this round and its line
        curve = self._curve(finished, adapter)
        if self.stopping.improves(finished, curve):
            self.strategy.optimizer.best = self.strategy.optimizer.evaluated(adapter)
        if written:
            return None
        if server_round > 0:
            self._remember(finished, adapter)
        record = self._line(finished) | curve
        with (self.folder / ROUNDS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
        log.info("round %d", finished, extra={"round": record})
        if server_round > 0 and self.stopping.over(finished):
            raise StoppedEarly
        return None

    def _remember(self, finished: int, adapter: Arrays) -> None:
        traffic, before = self.strategy.traffic, self.checkpoint.facts
        facts = {
            "optimizer_steps": self.strategy.optimizer.steps,
            "config": before["config"],
            "contributors": before["contributors"],
            "release_bytes_up": before["release_bytes_up"],
            "last_round": _traffic_facts(traffic),
            "refused": dict(Counter(before["refused"]) + traffic.refused),
            "seconds": before["seconds"] + traffic.seconds,
            "bytes_up": traffic.bytes_up or before["bytes_up"],
            "bytes_down": traffic.bytes_down,
            "paid_rounds": before["paid_rounds"] + traffic.paid,
            "client_steps": before["client_steps"] + traffic.answered * self.config.train.local_steps,
            **self.stopping.facts(),
        }
        shipped = self.strategy.optimizer.evaluated(adapter)
        if keep_window(self.config, finished, shipped) and self.config.server.anchor:
            self.strategy.optimizer.anchor = shipped
        optimizer = self.strategy.optimizer.state()
        self.checkpoint = Checkpoint(finished, adapter, optimizer, self.checkpoint.log_popularity, facts)
        keep_snapshot(self.config, finished, self.strategy.optimizer.evaluated(adapter))
        write_checkpoint(self.folder, self.checkpoint)

    def _line(self, finished: int) -> dict[str, Any]:
        return {
            "round": finished,
            "rounds": self.config.federation.rounds,
            **self.checkpoint.facts["last_round"],
            "epsilon": spent_after(self.config, self.clients, finished) if is_private(self.config) else None,
        }

    def _curve(self, finished: int, adapter: Arrays) -> dict[str, Any]:
        """The round's point of the curve; {} where it has none."""
        every, last = self.config.evaluation.every, self.config.federation.rounds
        if finished not in (0, last) and not (every and finished % every == 0):
            return {}
        shipped = self.strategy.optimizer.evaluated(adapter)
        return curve_point(self.model, shipped, self.checkpoint.log_popularity, self._split, self.config.run.seed)


def _traffic_facts(traffic: RoundTraffic) -> dict[str, Any]:
    """What a round's line says of it, kept in the checkpoint, too: a crash may come between the two."""
    return {
        "asked": traffic.asked,
        "answered": traffic.answered,
        "refused": dict(traffic.refused),
        "seconds": round(traffic.seconds, 3),
    }


def keep_rounds(folder: Path, last: int) -> set[int]:
    """Drop lines of rounds after `last`, which a resumed run writes again, and what follows a damaged line.

    Returns:
        The rounds whose lines are kept.
    """
    path = folder / ROUNDS
    if not path.exists():
        return set()
    kept: dict[int, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if (number := int(json.loads(line)["round"])) <= last:
                kept.setdefault(number, line)
        except (ValueError, KeyError, TypeError):
            break
    write_atomically(path, "".join(line + "\n" for line in kept.values()).encode())
    return set(kept)
