"""What goes wrong in a real federation, and what holds then: nothing is lost, no budget is passed, all is visible."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial

import pytest
from support.federation_on_disk import Federation, charged, ledger_of, refusals, until

from hushrec.client.device import background
from hushrec.client.device.flower_runtime import SuperNodeGone
from hushrec.client.device.folder import DeviceFolder
from hushrec.client.device.policy import Policy
from hushrec.client.device.supernode import SuperNode
from hushrec.common.budget import enforced_claim
from hushrec.common.processes import processes_in, wait_until
from hushrec.server.deployment import flower, nodes, service
from hushrec.server.deployment.certificates import write_authority

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(900)]


def reserved(device: DeviceFolder, rounds: int) -> Callable[[], bool]:
    """Whether the device has reserved so many rounds, committed or not."""

    def held() -> bool:
        return device.ledger.exists() and device.ledger.read_bytes().count(b'"type":"RESERVE"') >= rounds

    return held


def noted(device: DeviceFolder, code: str) -> bool:
    return code in refusals(device)


def assert_within_budget(federation: Federation, device: DeviceFolder) -> None:
    claim = enforced_claim(federation.config.privacy)
    assert claim.epsilon(ledger_of(device).events(device.name)) <= claim.target_epsilon


def test_a_device_killed_in_mid_round_pays_once_is_not_waited_for_and_takes_part_again(
    federate: Callable[..., Federation],
) -> None:
    # Many steps make a round long enough to be hit; the noise is for all of them.
    federation = federate(reply_timeout=90.0, federation__rounds=6, train__local_steps=60)
    devices = [federation.add_device() for _ in range(3)]
    victim = devices[2]
    training = federation.run()
    assert federation.wait_for_round(1)
    devices[0].set_policy(Policy(command=("sleep", "20")))  # long rounds: the victim needs a minute to be let in again
    assert until(reserved(victim, 2), 120)
    federation.kill(victim)
    assert ledger_of(victim).pending()  # charged, and not sent
    background.start(victim)
    training.join(700)
    assert federation.raised == []
    lines = federation.rounds()[1:]
    assert [line["round"] for line in lines] == [1, 2, 3, 4, 5, 6]
    answered = [line["answered"] for line in lines]
    assert answered[:2] == [3, 2]
    assert answered[-1] == 3, lines
    assert set(answered) == {2, 3}
    assert sum(lines[1]["refused"].values()) == 1
    steps = federation.config.train.local_steps
    assert charged(victim) == (answered.count(3) + 1) * steps
    assert charged(devices[0]) == charged(devices[1]) == 6 * steps
    assert "NOT_CONNECTED" in refusals(victim)
    for device in devices:
        assert_within_budget(federation, device)


def test_a_server_killed_in_mid_round_goes_on_where_it_was_and_devices_pay_nothing_twice(
    federate: Callable[..., Federation],
) -> None:
    federation = federate(federation__rounds=3)
    devices = [federation.add_device() for _ in range(3)]
    federation.run()
    assert federation.wait_for_round(1)
    assert until(lambda: any(reserved(device, 2)() for device in devices), 60)
    supervisor_parts = processes_in(federation.operator.empty)
    for process in supervisor_parts:
        os.kill(process.pid, signal.SIGKILL)
    service.stop(federation.operator)
    before = [line["round"] for line in federation.rounds()]
    assert before[-1] in (1, 2)

    service.start(federation.operator)
    assert federation.online(3)
    federation.raised.clear()
    federation.run().join(600)
    assert federation.raised == []
    lines = federation.rounds()
    assert [line["round"] for line in lines] == [0, 1, 2, 3]
    assert lines[-1]["answered"] == 3
    for device in devices:
        # A device that had answered the interrupted round sends the same reply again, for nothing.
        assert charged(device) <= 3
        assert_within_budget(federation, device)


@pytest.fixture
def quiet(federate: Callable[..., Federation]) -> Federation:
    """A federation that is served, without a run."""
    return federate(federation__rounds=2)


def test_who_is_not_enrolled_or_revoked_or_trusts_another_authority_stays_out(quiet: Federation) -> None:
    stranger, revoked = quiet.add_device(enrolled=False), quiet.add_device()
    assert quiet.online(1)
    nodes.revoke(quiet.operator, revoked.name)
    assert quiet.online(0)
    distrustful = quiet.add_device(started=False)
    write_authority(quiet.path / "other.key", quiet.path / "other.crt", "another federation")
    object.__setattr__(distrustful.invitation, "ca_certificate", (quiet.path / "other.crt").read_text())
    with SuperNode(distrustful) as node, pytest.raises(SuperNodeGone):
        for _ in range(600):
            node.require_running()
            time.sleep(0.1)
    assert sorted(flower.node_states(quiet.operator).values()) == ["registered", "unregistered"]
    for device in (stranger, revoked):
        assert wait_until(partial(noted, device, "NOT_CONNECTED"), 120), device.name
        assert not device.ledger.exists()
