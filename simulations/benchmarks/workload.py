"""What the benchmarks share: generated devices on film texts, and rounds of hushrec over them, timed.

It is no benchmark itself. The records are generated, since what is timed does not depend on taste; the texts are those
of the packaged MovieLens, since it does depend on their lengths. A round here is the whole round: messages, ledger,
training, replies and aggregation, as a run has it.
"""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord

from hushrec.client.app import app as client_app
from hushrec.client.cohort import answer_train
from hushrec.client.store import count_clients
from hushrec.common.catalog import Catalog
from hushrec.common.config import RunConfig, Scalar
from hushrec.common.protocol import Arrays, pack, unpack
from hushrec.common.settings import DataConfig
from hushrec.common.workspace import Model, open_dataset, shared_model
from hushrec.server.optimizer import ServerOptimizer
from hushrec.server.strategy import AdapterStrategy
from hushrec.simulations.grid import TRAIN, InProcessGrid

_HELD_OUT = 2  # interactions of a user that protocol p1 keeps for validation and test

# One private step per round, as in the README: one record of 20 items with 32 negatives of its own, clipped as a whole
# and noised on the device; the server adds up and does nothing else. The budget is no matter here.
PRIVATE: dict[str, Scalar] = {
    "data.name": "csv",
    "data.protocol": "p1",
    "model.head-init": "random",
    "train.window": 20,
    "train.negatives": 32,
    "train.shared-negatives": False,
    "federation.clients-per-round": 0,
    "server.optimizer": "fedavg",
    "server.learning-rate": 1.0,
    "server.head-learning-rate": 1.0,
    "privacy.noise-multiplier": 1.0,
    "privacy.target-epsilon": 1e30,
}


def films(items: int, source: str = "movielens-small") -> Catalog:
    """The first `items` films of a packaged catalogue; beyond its end they begin again under other numbers."""
    found = open_dataset(DataConfig(name=source)).catalog
    place = [number % len(found.titles) for number in range(items)]
    again = ["" if number < len(found.titles) else f" {number // len(found.titles) + 1}" for number in range(items)]
    return Catalog(
        tuple(str(number) for number in range(items)),
        tuple(found.texts[k] + suffix for k, suffix in zip(place, again, strict=True)),
        tuple(found.titles[k] + suffix for k, suffix in zip(place, again, strict=True)),
        found.years[place],
        tuple(found.genres[k] for k in place),
    )


def write_devices(folder: Path, catalog: Catalog, devices: int, history: int) -> None:
    """Data as the CSV import reads them: every device has one record of `history` items for training."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "items.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("item_id", "title", "year", "genres"))
        for number, title in enumerate(catalog.titles):
            year = int(catalog.years[number])
            writer.writerow((number, title, year if year >= 0 else "", "|".join(catalog.genres[number])))
    rng = np.random.default_rng(0)
    with (folder / "interactions.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("user_id", "item_id", "timestamp"))
        for device in range(devices):
            chosen = rng.choice(len(catalog.titles), history + _HELD_OUT, replace=False)
            writer.writerows((device, item, 3600 * 300_000 + second) for second, item in enumerate(chosen.tolist()))


@dataclass(frozen=True)
class Round:
    """What one round took and did.

    Attributes:
        seconds: from the first message to the new adapter.
        seed: public randomness of the round's draws.
        update: mean over the devices of after - before.
    """

    seconds: float
    seed: int
    update: Arrays


class Federation:
    """All devices of a configuration in process, every round from the same adapter.

    Args:
        config: with the folder of `write_devices` as data, and a run.directory of its own where it is private.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config, self.devices = config, count_clients(config)
        self.grid = InProcessGrid(client_app, self.devices, config.to_flat(), {TRAIN: answer_train})
        self._round = 0

    @property
    def model(self) -> Model:
        """The process's one model, built for this configuration where another had it."""
        return shared_model(self.config.model, self.config.data)

    def start(self) -> Arrays:
        """The untrained adapter moved a little, since at lora_B = 0 half of the gradient would be zero."""
        rng = np.random.default_rng(0)
        return {
            name: (value + 0.01 * rng.standard_normal(value.shape)).astype(np.float32)
            for name, value in sorted(self.model.untrained.items())
        }

    def play(self) -> Round:
        """One timed round of all devices.

        Raises:
            SystemExit: a device did not answer, so that nothing was measured.
        """
        self._round += 1
        model, config = self.model, self.config
        strategy = AdapterStrategy(
            model.shapes,
            ServerOptimizer(config.server, 0),
            np.zeros(len(model.prefix), dtype=np.float32),
            clients_per_round=0,
            wire=config.federation.wire,
            seed=config.run.seed,
            summed_replies=True,
        )
        before = self.start()
        packed = pack(before, "float32")
        start = time.perf_counter()
        messages = list(strategy.configure_train(self._round, packed, ConfigRecord(), self.grid))
        after, _ = strategy.aggregate_train(self._round, self.grid.send_and_receive(messages))
        seconds = time.perf_counter() - start
        if after is None or strategy.traffic.answered != self.devices:
            raise SystemExit(f"only {strategy.traffic.answered} of {self.devices} devices answered: {strategy.traffic}")
        moved = unpack(after, model.shapes)
        seed = messages[0].content.config_records["config"]["seed"]
        assert isinstance(seed, int)
        return Round(seconds, seed, {name: moved[name] - value for name, value in before.items()})
