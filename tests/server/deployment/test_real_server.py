"""The whole server as real processes over TLS on loopback, with Flower's own SuperNode as the device."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sysconfig
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from hushrec.common.errors import ConfigError, HushrecError
from hushrec.common.invitation import read_invitation
from hushrec.common.processes import processes_in, wait_until
from hushrec.server.deployment import flower, nodes, service, training
from hushrec.server.deployment.folder import OperatorFolder, read_json
from hushrec.server.deployment.supervisor import part_states, supervisor_process, write_server_pair

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(600)]


@pytest.fixture
def served(folder: OperatorFolder) -> Iterator[OperatorFolder]:
    service.start(folder)
    yield folder
    service.stop(folder)
    assert not processes_in(folder.empty)
    assert supervisor_process(folder) is None
    assert not service.answers(folder)


class Device:
    """flower-supernode with a key, through the public port."""

    def __init__(self, folder: OperatorFolder, key: Path, port: int) -> None:
        self.log = key.with_suffix(".log")
        (home := key.with_suffix(".home")).mkdir(exist_ok=True)
        address = f"127.0.0.1:{folder.settings().port}"
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                [
                    str(Path(sysconfig.get_path("scripts")) / "flower-supernode"),
                    *("--root-certificates", str(folder.ca_certificate), "--superlink", address),
                    *("--auth-supernode-private-key", str(key), "--port", str(port), "--isolation", "process"),
                ],
                cwd=home,
                env=os.environ | {"FLWR_HOME": str(home)},
                stdout=stream,
                stderr=subprocess.STDOUT,
            )

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def device(free_port: Callable[[], int]) -> Iterator[Callable[[OperatorFolder, Path], Device]]:
    started: list[Device] = []

    def start(folder: OperatorFolder, key: Path) -> Device:
        started.append(Device(folder, key, free_port()))
        return started[-1]

    yield start
    for each in started:
        each.end()


def state(folder: OperatorFolder, name: str) -> str:
    return flower.node_states(folder)[nodes.read_nodes(folder)[name].node_id]


def test_an_enrolled_device_comes_online_and_a_revoked_one_is_shut_out(
    served: OperatorFolder, new_key: Callable[..., Path], device: Callable[[OperatorFolder, Path], Device]
) -> None:
    key, strange = new_key("node_key"), new_key("stranger")
    stranger = device(served, strange)
    nodes.enroll(served, "phone", key.with_suffix(".pub"))
    assert state(served, "phone") == "registered"
    phone = device(served, key)
    assert wait_until(lambda: state(served, "phone") == "online", 60, 1.0), phone.log.read_text()
    facts = service.describe(served)
    assert facts["nodes"] == {"phone": "online"}
    assert facts["reachable"]
    stranger.process.wait(60)  # not enrolled: Flower's node ends itself
    assert len(flower.node_states(served)) == 1

    nodes.revoke(served, "phone")
    phone.process.wait(90)
    device(served, key).process.wait(60)
    assert state(served, "phone") == "unregistered"
    with pytest.raises(ConfigError, match=r"was enrolled|known as"):
        nodes.enroll(served, "tablet", key.with_suffix(".pub"))


def test_a_stranger_with_the_certificate_reaches_neither_control_nor_runtime(served: OperatorFolder) -> None:
    """Against the real SuperLink: each of these does something when it is reached on loopback."""
    context = ssl.create_default_context(cafile=str(served.ca_certificate))
    with httpx.Client(
        base_url=f"https://localhost:{served.settings().port}", verify=context, trust_env=False
    ) as public:
        for path in ("/v1/control/list-nodes", "/v1/control/register-node", "/v1/runtime/acquire-task", "/docs"):
            assert public.post(path, content=b"").status_code == 404
            assert public.get(path).status_code == 404
        assert public.get("/health").status_code == 200
        content = {"content-type": "application/protobuf"}
        unsigned = public.post("/v1/fleet/pull-messages", content=b"", headers=content)
        assert unsigned.status_code in (400, 401, 415)
    port = read_json(served.processes)["superlink_port"]
    with httpx.Client(base_url=f"https://localhost:{port}", verify=context, trust_env=False) as inside:
        assert inside.get("/docs").status_code == 200  # what the 404 above keeps from strangers
        assert inside.post("/v1/runtime/acquire-task", content=b"").status_code in (400, 401, 415)
    assert flower.node_states(served) == {}


def test_a_run_has_the_pinned_bundle_can_be_joined_and_stopped(served: OperatorFolder) -> None:
    config = served.config()
    run, new = training.begin(served, config, 9)  # it waits for nine devices
    assert new
    assert run.app_sha256 == read_invitation(served.invitation).app_sha256
    assert served.settings().least_nodes == 9
    assert wait_until(lambda: service.serving_app(served), 60, 0.5)
    again, new = training.begin(served, config, 0)
    assert (again.run_id, new) == (run.run_id, False)

    os.kill(part_states(served)["superlink"]["pid"], signal.SIGKILL)  # the ServerApp outlives it
    raised: list[BaseException] = []

    def follow() -> None:
        try:
            training.follow(served, run, lambda line: None)
        except HushrecError as error:
            raised.append(error)

    follower = threading.Thread(target=follow)
    follower.start()
    assert wait_until(lambda: _stop(served) == [run.run_id], 60, 1.0)
    follower.join(60)
    assert "the run ended before round 1: it was stopped" in str(raised[0])
    assert "hushrec server run" in str(raised[0])


def _stop(folder: OperatorFolder) -> list[int]:
    try:
        return training.stop_runs(folder)
    except flower.FlowerRefused:
        return []


def test_what_the_serverapp_says_reaches_the_operator(served: OperatorFolder) -> None:
    served.write_settings(replace(served.settings(), patience_seconds=1.0))
    run, _ = training.begin(served, served.config(), 1)
    with pytest.raises(HushrecError, match=r"only 0 of 1 devices came online"):
        training.follow(served, run, lambda line: None)


def test_parts_come_back_after_a_kill_and_a_node_finds_them_again(
    served: OperatorFolder, new_key: Callable[..., Path], device: Callable[[OperatorFolder, Path], Device]
) -> None:
    key = new_key("node_key")
    nodes.enroll(served, "phone", key.with_suffix(".pub"))
    phone = device(served, key)
    assert wait_until(lambda: state(served, "phone") == "online", 60, 1.0)
    for part in part_states(served).values():
        os.kill(part["pid"], signal.SIGKILL)
    assert wait_until(lambda: all(part["starts"] == 2 for part in part_states(served).values()), 20)
    assert wait_until(lambda: service.answers(served), 60, 0.5)
    assert state(served, "phone") in ("online", "offline")  # enrolled still
    assert wait_until(lambda: state(served, "phone") == "online", 60, 1.0)

    supervisor = supervisor_process(served)
    assert supervisor is not None
    supervisor.send(signal.SIGKILL)
    assert wait_until(lambda: supervisor_process(served) is None, 10)
    write_server_pair(served)  # a new certificate of the same authority
    service.start(served)  # another port inside, the same outside
    assert wait_until(lambda: state(served, "phone") == "online", 90, 1.0)
    assert phone.process.poll() is None
