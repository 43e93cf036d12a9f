"""What a device's worker does with a message: compute once, send the same again, refuse the rest; nothing is unpaid."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from hushrec.client.device import answering
from hushrec.client.device.answering import answer
from hushrec.client.device.database import Interaction
from hushrec.client.device.folder import DeviceFolder
from hushrec.client.edge.recommender import EdgeRecommender
from hushrec.client.store import open_model
from hushrec.common.budget import training_event
from hushrec.common.edge_folder import open_edge_folder, write_edge_folder
from hushrec.common.ledger import read_ledger
from hushrec.common.protocol import TrainRequest, query_content, read_update, train_content
from hushrec.common.run_ledger import close_ledgers
from hushrec.common.signed_head import SignedHead, take_head

PRIVATE = {"privacy__mechanism": "gaussian", "privacy__unit": "record", "privacy__noise_multiplier": 2.0}


@pytest.fixture
def device(make_device: Callable[..., DeviceFolder], closed_ledgers: None) -> DeviceFolder:
    return make_device(**PRIVATE)


def ask(device: DeviceFolder, server_round: int = 1, seed: int = 7, shift: float = 0.0) -> Message:
    """A train message as the server makes it."""
    model = open_model(device.invitation.config, {"device-folder": str(device.path)})
    adapter = {name: value + np.float32(shift) for name, value in model.untrained.items()}
    request = TrainRequest(adapter, np.zeros(len(model.prefix), np.float32), server_round, seed)
    return addressed(train_content(request, "float32"), MessageType.TRAIN)


def addressed(content: RecordDict, kind: str) -> Message:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    message = Message(content, 5, kind)
    message.metadata.__dict__["_message_id"] = "message-1"
    return message


def spent(device: DeviceFolder) -> int:
    """Training events in the ledger on disk."""
    replay = read_ledger(device.ledger, public_key=device.signing_key().public_key())
    return sum(event.steps for event in replay.events(device.name) if event.kind == "training")


def head_of(reply: Message) -> SignedHead:
    head = take_head(reply)
    assert head is not None
    return head


def arrays_of(device: DeviceFolder, reply: Message) -> dict[str, np.ndarray]:
    model = open_model(device.invitation.config, {"device-folder": str(device.path)})
    return dict(read_update(reply, model.shapes).arrays)


def test_a_reply_is_paid_stored_and_shows_the_head_of_the_ledger(device: DeviceFolder) -> None:
    reply = answer(str(device.path), ask(device))
    head = head_of(reply)
    ledger = read_ledger(device.ledger, public_key=device.signing_key().public_key())
    assert (head.head, head.length) == (ledger.head, ledger.length)
    assert head.public_key == device.signing_key().public_key().public_bytes_raw().hex()
    assert ledger.events(device.name) == (training_event(device.invitation.config),)
    assert not ledger.pending()
    assert arrays_of(device, reply)
    with device.open_database() as database:
        (joined,) = database.rounds()
    assert (joined.server_round, joined.release) == (1, "training")
    assert joined.bytes_up > 0
    assert joined.bytes_down > 0
    assert joined.peak_mb > 50


def test_the_same_request_again_gets_the_same_noised_reply_and_costs_nothing(device: DeviceFolder) -> None:
    first = answer(str(device.path), ask(device))
    close_ledgers()  # the worker was ended meanwhile
    again = answer(str(device.path), ask(device))
    assert head_of(first) == head_of(again)
    one, two = arrays_of(device, first), arrays_of(device, again)
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert spent(device) == 1


@pytest.mark.parametrize("other", [{"seed": 8}, {"shift": 0.5}])
def test_another_request_for_an_answered_round_is_refused(device: DeviceFolder, other: dict[str, Any]) -> None:
    answer(str(device.path), ask(device))
    refused = answer(str(device.path), ask(device, **other))
    assert refused.error.reason == "REPLAYED"
    assert spent(device) == 1
    with device.open_database() as database:
        assert [one.code for one in database.refusals()] == ["REPLAYED"]


def test_an_older_round_is_refused_and_a_newer_one_answered(device: DeviceFolder) -> None:
    for server_round in (1, 2, 4):
        assert not answer(str(device.path), ask(device, server_round)).has_error()
    for old in (1, 3):
        assert answer(str(device.path), ask(device, old, seed=9)).error.reason == "REPLAYED"
    assert answer(str(device.path), ask(device, 1)).error.reason == "REPLAYED"  # its reply is not kept any more
    assert not answer(str(device.path), ask(device, 4)).has_error()
    assert spent(device) == 3


def test_a_ledger_from_an_old_backup_answers_nothing(device: DeviceFolder) -> None:
    answer(str(device.path), ask(device, server_round=1))
    close_ledgers()
    old = device.ledger.read_bytes()
    answer(str(device.path), ask(device, server_round=2))
    close_ledgers()  # as the launcher's next worker finds it
    device.ledger.write_bytes(old)
    reply = answer(str(device.path), ask(device, server_round=3))
    assert reply.error.reason == "PRIVACY_REFUSED"
    assert spent(device) == 1
    with device.open_database() as database:
        assert "it is an older copy" in database.refusals()[-1].detail


def test_a_spent_budget_is_refused_and_noted(make_device: Callable[..., DeviceFolder], closed_ledgers: None) -> None:
    device = make_device(**PRIVATE, privacy__target_epsilon=4.0)
    answers = [answer(str(device.path), ask(device, server_round)) for server_round in range(1, 6)]
    codes = [one.error.reason if one.has_error() else "" for one in answers]
    assert codes[0] == ""
    assert codes[-1] == "BUDGET_EXHAUSTED"
    assert spent(device) == codes.count("")
    with device.open_database() as database:
        assert {one.code for one in database.refusals()} == {"BUDGET_EXHAUSTED"}


def test_a_reply_that_could_not_be_stored_is_not_sent_and_stays_charged(
    device: DeviceFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **named: object) -> None:
        raise answering.HushrecError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("hushrec.client.device.database.DeviceDatabase.save_reply", full)
        assert answer(str(device.path), ask(device)).error.reason == "CLIENT_ERROR"
    assert spent(device) == 1
    assert not answer(str(device.path), ask(device)).has_error()
    assert spent(device) == 2


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"config": ConfigRecord({"server-round": "1"})}),
        RecordDict({"config": ConfigRecord({"server-round": -1})}),
        RecordDict({"config": ConfigRecord({"server-round": 1})}),
    ],
)
def test_what_is_no_request_is_refused_and_pays_nothing(device: DeviceFolder, content: RecordDict) -> None:
    assert answer(str(device.path), addressed(content, MessageType.TRAIN)).error.reason == "BAD_REQUEST"
    assert not device.ledger.exists() or spent(device) == 0


def test_a_release_is_answered_once(make_device: Callable[..., DeviceFolder], closed_ledgers: None) -> None:
    device = make_device(**PRIVATE, privacy__popularity_noise_multiplier=5.0)
    first = answer(str(device.path), addressed(query_content("popularity"), MessageType.QUERY))
    again = answer(str(device.path), addressed(query_content("popularity"), MessageType.QUERY))
    assert head_of(first) == head_of(again)
    assert first.content["counts"] == again.content["counts"]
    other = query_content("popularity", np.zeros(len(device.invitation.catalog), np.float32))
    assert answer(str(device.path), addressed(other, MessageType.QUERY)).error.reason == "REPLAYED"


def test_without_privacy_there_is_no_ledger_and_no_head(make_device: Callable[..., DeviceFolder]) -> None:
    device = make_device(privacy__mechanism="none")
    reply = answer(str(device.path), ask(device))
    assert take_head(reply) is None
    assert not device.ledger.exists()
    assert arrays_of(device, reply)


def test_a_device_without_interactions_answers_with_noise(
    make_device: Callable[..., DeviceFolder], closed_ledgers: None
) -> None:
    device = make_device(**PRIVATE, interactions=[])
    reply = answer(str(device.path), ask(device))
    head_of(reply)
    assert all(np.abs(value).max() > 0 for value in arrays_of(device, reply).values())
    assert spent(device) == 1


def test_what_is_logged_is_read_by_the_next_round(make_device: Callable[..., DeviceFolder]) -> None:
    device = make_device(privacy__mechanism="none", interactions=[])
    before = arrays_of(device, answer(str(device.path), ask(device, 1)))
    ids = device.invitation.catalog.item_ids
    with device.open_database() as database:
        database.add_interactions([Interaction(ids[number], 1000 + number) for number in range(6)])
    after = arrays_of(device, answer(str(device.path), ask(device, 2)))
    assert all(np.abs(value).max() == 0 for value in before.values())
    assert any(np.abs(value).max() > 0 for value in after.values())


def test_the_ledger_of_another_device_is_not_taken_over(device: DeviceFolder, tmp_path: Path) -> None:
    answer(str(device.path), ask(device))
    close_ledgers()
    device.ledger_key.write_text("00" * 32 + "\n")
    assert answer(str(device.path), ask(device, 2)).error.reason == "PRIVACY_REFUSED"


def test_the_vectors_of_recommend_follow_the_adapter_that_came(
    device: DeviceFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "_refreshed", (0.0, 0.0))
    history = np.arange(4, dtype=np.int32)
    scores = []
    for server_round, shift in ((1, 0.0), (2, 0.5)):
        assert not answer(str(device.path), ask(device, server_round, shift=shift)).has_error()
        answering.refresh(str(device.path))
        found = EdgeRecommender.open(device.edge).recommend(history, n=5)
        assert not {one.item_id for one in found} & set(device.invitation.catalog.item_ids[:4])
        scores.append([one.score for one in found])
        monkeypatch.setattr(answering, "_refreshed", (0.0, 0.0))
    assert scores[0] != scores[1]


def test_vectors_are_not_written_more_often_than_they_are_worth(
    device: DeviceFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "_refreshed", (0.0, 0.0))
    answer(str(device.path), ask(device))
    answering.refresh(str(device.path))
    before = (device.edge / "manifest.json").read_bytes()
    monkeypatch.setattr(answering, "_refreshed", (time.monotonic(), 1e3))
    answer(str(device.path), ask(device, 2, shift=0.5))
    answering.refresh(str(device.path))
    assert (device.edge / "manifest.json").read_bytes() == before


def test_an_installed_model_is_not_replaced_by_a_round(device: DeviceFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "_refreshed", (0.0, 0.0))
    answer(str(device.path), ask(device))
    answering.refresh(str(device.path))
    rounds_own = open_edge_folder(device.edge)
    assert rounds_own.manifest["encoder"] is None
    files = {"encoder": b"an encoder", "tokenizer": b"{}"}
    write_edge_folder(device.edge, {**rounds_own.manifest, "encoder": {"chosen": "int8"}}, files)
    before = (device.edge / "manifest.json").read_bytes()
    monkeypatch.setattr(answering, "_refreshed", (0.0, 0.0))
    answer(str(device.path), ask(device, 2, shift=0.5))
    answering.refresh(str(device.path))
    assert (device.edge / "manifest.json").read_bytes() == before
