"""Flower's grid with the heads of ledgers checked: what the strategy sees is what a simulation would show it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from hushrec.common.errors import HushrecError
from hushrec.common.signed_head import RECORD, attach_head, sign_head
from hushrec.server.deployed_grid import DeployedGrid
from hushrec.server.ledger_mirror import LedgerMirror

KEY = Ed25519PrivateKey.from_private_bytes(b"\x05" * 32)


class Devices:
    """Stands in for Flower's grid: devices 1 and 2, which answer with the heads given."""

    def __init__(self, heads: dict[int, int | None]) -> None:
        self.heads, self.asked, self.online = heads, list[Message](), list(heads)
        self.timeout: float | None = None

    def get_node_ids(self) -> list[int]:
        return self.online

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        self.asked, self.timeout = list(messages), timeout
        replies = []
        for message in self.asked:
            reply = Message(RecordDict(), reply_to=message)
            if (length := self.heads[message.metadata.dst_node_id]) is not None:
                attach_head(reply, sign_head(f"{length:064x}", length, KEY))
            replies.append(reply)
        return replies


def deployed(devices: Any, mirror: LedgerMirror | None = None, reply_timeout: float = 60.0) -> DeployedGrid:
    return DeployedGrid(devices, mirror, reply_timeout)


@pytest.fixture
def messages() -> list[Message]:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 9, 1
    return [Message(RecordDict(), node, MessageType.TRAIN) for node in (1, 2)]


def test_heads_are_mirrored_and_taken_off(tmp_path: Path, messages: list[Message]) -> None:
    devices = Devices({1: 3, 2: 4})
    with LedgerMirror(tmp_path, KEY) as mirror:
        replies = list(deployed(devices, mirror).send_and_receive(messages))
    assert [reply.has_error() for reply in replies] == [False, False]
    assert all(RECORD not in reply.content for reply in replies)
    assert (tmp_path / "mirror.jsonl").read_text().count("\n") == 2


def test_a_reply_without_its_head_is_refused_and_the_others_count(tmp_path: Path, messages: list[Message]) -> None:
    devices = Devices({1: None, 2: 4})
    with LedgerMirror(tmp_path, KEY) as mirror:
        first, second = deployed(devices, mirror).send_and_receive(messages)
    assert (first.error.reason, second.has_error()) == ("LEDGER_CHANGED", False)
    assert first.metadata.src_node_id == 1


def test_without_a_mirror_nobody_needs_a_ledger(messages: list[Message]) -> None:
    replies = deployed(Devices({1: None, 2: 3})).send_and_receive(messages)
    assert [reply.has_error() for reply in replies] == [False, False]


def test_messages_expire_when_the_round_goes_on_without_their_answer(messages: list[Message]) -> None:
    devices = Devices({1: None, 2: None})
    deployed(devices, reply_timeout=42.0).send_and_receive(messages, timeout=3600)
    assert devices.timeout == 42.0
    assert {message.metadata.ttl for message in devices.asked} == {42.0}


def test_it_waits_for_enough_devices_and_then_says_how_many_came() -> None:
    grid = deployed(Devices({1: None}))
    grid.wait_for_nodes(1, 0.0)
    with pytest.raises(HushrecError, match="only 1 of 2 devices"):
        grid.wait_for_nodes(2, 0.0)
