"""A federation as real processes over TLS on loopback: the server, and devices as `hushrec client` starts them."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from hushrec.client.device import background, pids
from hushrec.client.device.database import Interaction
from hushrec.client.device.folder import DeviceFolder, create_device
from hushrec.common.config import RunConfig
from hushrec.common.errors import HushrecError
from hushrec.common.invitation import read_invitation
from hushrec.common.ledger import Replay, read_ledger
from hushrec.common.processes import wait_until
from hushrec.common.workspace import open_dataset, open_split
from hushrec.server.deployment import flower, nodes, service, training
from hushrec.server.deployment.federation import init_folder
from hushrec.server.deployment.folder import OperatorFolder, ServerSettings

REPLY_TIMEOUT = 120.0  # seconds; a slow machine must not lose a device that works


class Federation:
    """One server and its devices; `end` leaves no process."""

    def __init__(
        self,
        path: Path,
        config: RunConfig,
        devices: int = 3,
        host: str = "localhost",
        listen: str = "127.0.0.1",
        reply_timeout: float = REPLY_TIMEOUT,
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = ServerSettings(
            "films", host, port, listen=listen, devices=devices, reply_timeout_seconds=reply_timeout
        )
        self.path = path
        self.operator: OperatorFolder = init_folder(path / "operator", settings, config)
        self.config = self.operator.config()
        self.devices: list[DeviceFolder] = []
        self.raised: list[HushrecError] = []

    def add_device(self, *, enrolled: bool = True, started: bool = True) -> DeviceFolder:
        """A device that holds the training history of the data set's next user."""
        number = len(self.devices)
        name = f"device-{number}"
        device = create_device(self.path / name, read_invitation(self.operator.invitation), name)
        dataset, history = open_dataset(self.config.data), open_split(self.config.data).train[number]
        # Equal times would be ordered otherwise than in the data set, by a seeded draw.
        times = np.maximum.accumulate(history.times - np.arange(len(history))) + np.arange(len(history))
        rows = zip(history.items, times, strict=True)
        with device.open_database() as database:
            database.add_interactions([Interaction(dataset.catalog.item_ids[item], int(time)) for item, time in rows])
        if enrolled:
            nodes.enroll(self.operator, name, device.public_key)
        if started:
            background.start(device)
        self.devices.append(device)
        return device

    def online(self, count: int) -> bool:
        """Whether so many devices come online."""
        return wait_until(lambda: list(flower.node_states(self.operator).values()).count("online") == count, 180, 1.0)

    def run(self, least_nodes: int = 3) -> threading.Thread:
        """Train in the background, or go on; what goes wrong is in `raised`."""

        def follow() -> None:
            try:
                run, _ = training.begin(self.operator, self.config, least_nodes)
                training.follow(self.operator, run, lambda line: None)
            except HushrecError as error:
                self.raised.append(error)

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        return follower

    def rounds(self) -> list[dict[str, Any]]:
        """What the server wrote down of each round."""
        path = self.operator.run / "rounds.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for_round(self, number: int) -> bool:
        """Whether that round is finished in time."""
        return wait_until(lambda: any(line["round"] >= number for line in self.rounds()), 300, 0.2)

    def kill(self, device: DeviceFolder) -> None:
        """Kill a device's launcher; worker and SuperNode die with it."""
        with suppress(ProcessLookupError):
            os.kill(pids.running(device.pids / background.LAUNCHER), signal.SIGKILL)
        assert wait_until(lambda: not pids.running(device.pids / background.SUPERNODE), 20)

    def end(self) -> None:
        """Stop devices and server."""
        for device in self.devices:
            background.stop(device)
        service.stop(self.operator)


def ledger_of(device: DeviceFolder) -> Replay:
    """The device's ledger, its signatures checked."""
    return read_ledger(device.ledger, public_key=device.signing_key().public_key())


def charged(device: DeviceFolder) -> int:
    """Training rounds that the device has paid for."""
    return sum(event.steps for event in ledger_of(device).events(device.name) if event.kind == "training")


def refusals(device: DeviceFolder) -> list[str]:
    """Codes of what the device refused."""
    with device.open_database() as database:
        return [refusal.code for refusal in database.refusals()]


def until(held: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether a condition comes to hold; looked at often, to act within a round."""
    deadline = time.monotonic() + seconds
    while not held():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
