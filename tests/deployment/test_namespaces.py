"""The happy path across machines: each device in a network namespace of its own, joined to the server by a cable.

Needs root and iproute2; elsewhere it is skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.federation_on_disk import Federation, charged, ledger_of

from hushrec.client.device import background
from hushrec.client.device.folder import DeviceFolder
from hushrec.common.config import RunConfig
from hushrec.server.deployment import service

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(900)]
SERVER = "10.213.77.1"


def ip(*words: str) -> bool:
    return subprocess.run(["ip", *words], capture_output=True).returncode == 0


@pytest.fixture
def namespaces() -> Iterator[list[str]]:
    """Two namespaces on a bridge that has the server's address."""
    names, bridge = [f"hushrec-{os.getpid()}-{number}" for number in range(2)], f"hr{os.getpid() % 100000}"
    if shutil.which("ip") is None or not ip("link", "add", bridge, "type", "bridge"):
        pytest.skip("no network namespaces here")
    try:
        assert ip("addr", "add", f"{SERVER}/24", "dev", bridge)
        assert ip("link", "set", bridge, "up")
        for number, name in enumerate(names):
            outer, inner = f"{bridge}o{number}", f"{bridge}i{number}"
            assert ip("netns", "add", name)
            assert ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", name)
            assert ip("link", "set", outer, "master", bridge, "up")
            assert ip("-n", name, "addr", "add", f"10.213.77.{number + 2}/24", "dev", inner)
            assert ip("-n", name, "link", "set", inner, "up")
            assert ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name)
        ip("link", "del", bridge)


def test_two_devices_in_networks_of_their_own_train_with_the_server(
    tiny: Callable[..., RunConfig], tmp_path: Path, namespaces: list[str]
) -> None:
    config = tiny(federation__clients_per_round=0, federation__rounds=2, evaluation__every=0)
    federation = Federation(tmp_path / "federation", config, devices=2, host=SERVER, listen=SERVER)
    try:
        service.start(federation.operator)
        devices = [federation.add_device(started=False) for _ in namespaces]
        for device, name in zip(devices, namespaces, strict=True):
            start_in(name, device)
        federation.run(2).join(600)
        assert federation.raised == []
        assert [line["answered"] for line in federation.rounds()[1:]] == [2, 2]
        assert [charged(device) for device in devices] == [2, 2]
        assert not any(ledger_of(device).pending() for device in devices)
    finally:
        federation.end()


def start_in(namespace: str, device: DeviceFolder) -> None:
    """`hushrec client start`, with nothing but that namespace's network."""
    program = ["ip", "netns", "exec", namespace, sys.executable, "-m", "hushrec.client.device.background"]
    background.start(device, program)
