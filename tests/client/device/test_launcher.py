"""What stands between a server's message and the device's data: the bundle, the constants and the owner's policy."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from support import workers

from hushrec.client.device import launcher
from hushrec.client.device.folder import DeviceFolder
from hushrec.client.device.launcher import Worker, check_app, check_constants
from hushrec.client.device.policy import Policy
from hushrec.common.errors import DataError, ProtocolError
from hushrec.common.invitation import public_settings

PINNED: dict[str, Any] = {"privacy.noise-multiplier": 1.5, "train.local-steps": 1, "data.name": "synthetic"}


def bundle(**files: str) -> bytes:
    """A zip file, as Flower's bundles are."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/") + ".py", text)
    return stream.getvalue()


@pytest.fixture
def asked() -> Message:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    message = Message(RecordDict(), 5, MessageType.TRAIN)
    message.metadata.__dict__["_message_id"] = "message-1"
    return message


@pytest.fixture
def device(make_device: Callable[..., DeviceFolder]) -> DeviceFolder:
    return make_device(privacy__noise_multiplier=2.0)


class Computed:
    """A worker that notes what reached it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def answer(self, message: Message) -> Message:
        self.messages.append(message)
        return Message(RecordDict(), reply_to=message)


def respond(device: DeviceFolder, assigned: Any, worker: Any) -> Message:
    return launcher.respond(device, assigned, worker)


def assignment(device: DeviceFolder, message: Message, app: bytes, **changes: Any) -> Any:
    config = public_settings(device.invitation.config.to_flat())
    changed = {key.replace("__", ".").replace("_", "-"): value for key, value in changes.items()}
    return SimpleNamespace(message=message, app=app, run_config={**config, **changed})


def refusals(device: DeviceFolder) -> list[tuple[str, str]]:
    with device.open_database() as database:
        return [(one.code, one.detail) for one in database.refusals()]


@pytest.fixture
def pinned_app(monkeypatch: pytest.MonkeyPatch, device: DeviceFolder) -> bytes:
    app = bundle(app="...")
    object.__setattr__(device.invitation, "app_sha256", sha256(app).hexdigest())
    return app


def test_the_pinned_bundle_with_the_pinned_constants_reaches_the_worker(
    device: DeviceFolder, asked: Message, pinned_app: bytes
) -> None:
    worker = Computed()
    assert not respond(device, assignment(device, asked, pinned_app), worker).has_error()
    assert worker.messages == [asked]
    assert refusals(device) == []


def test_a_replaced_client_app_or_a_package_named_hushrec_never_runs(
    device: DeviceFolder, asked: Message, pinned_app: bytes, tmp_path: Path
) -> None:
    mark = tmp_path / "executed"
    evil = f"open({str(mark)!r}, 'w')"
    for app in (bundle(client__app=evil), bundle(hushrec____init__=evil, hushrec__client__app=evil), b"", b"no zip"):
        worker = Computed()
        reply = respond(device, assignment(device, asked, app), worker)
        assert reply.error.reason == "APP_CHANGED"
        assert worker.messages == []
    assert not mark.exists()
    assert [code for code, _ in refusals(device)] == ["APP_CHANGED"] * 4


@pytest.mark.parametrize(
    "changes",
    [
        {"privacy__noise_multiplier": 0.0},
        {"privacy__mechanism": "none"},
        {"privacy__max_grad_norm": 1000.0},
        {"train__local_steps": 50},
        {"privacy__target_epsilon": 1e6},
        {"privacy__sample_rate": 0.5},
        {"privacy__denominator": 2.0},
        {"privacy__max_records": 400},
        {"federation__rounds": 10_000},
        {"evil__setting": 1},
    ],
)
def test_other_constants_than_the_pinned_ones_are_refused_and_named(
    device: DeviceFolder, asked: Message, pinned_app: bytes, changes: dict[str, Any]
) -> None:
    worker = Computed()
    reply = respond(device, assignment(device, asked, pinned_app, **changes), worker)
    assert reply.error.reason == "NOT_PINNED"
    assert worker.messages == []
    ((code, detail),) = refusals(device)
    assert code == "NOT_PINNED"
    assert next(iter(changes)).replace("__", ".").replace("_", "-") in detail


def test_constants_are_compared_with_their_types_and_none_may_be_missing() -> None:
    check_constants(PINNED, PINNED)
    for asked in (
        {**PINNED, "train.local-steps": True},
        {**PINNED, "train.local-steps": 1.0},
        {**PINNED, "privacy.noise-multiplier": float("nan")},
        {key: value for key, value in PINNED.items() if key != "data.name"},
        {},
    ):
        with pytest.raises(ProtocolError):
            check_constants(asked, PINNED)


def test_one_bit_of_the_bundle_matters() -> None:
    app = bundle(app="x")
    check_app(app, sha256(app).hexdigest())
    for place in range(0, len(app), 7):
        changed = bytearray(app)
        changed[place] ^= 1
        with pytest.raises(ProtocolError):
            check_app(bytes(changed), sha256(app).hexdigest())


def test_the_owners_policy_is_asked_each_time(device: DeviceFolder, asked: Message, pinned_app: bytes) -> None:
    worker = Computed()
    device.set_policy(Policy(command=("false",)))
    assert respond(device, assignment(device, asked, pinned_app), worker).error.reason == "NOT_NOW"
    device.set_policy(Policy(command=("true",)))
    assert not respond(device, assignment(device, asked, pinned_app), worker).has_error()
    assert [code for code, _ in refusals(device)] == ["NOT_NOW"]


def test_a_refusal_that_cannot_be_noted_is_still_sent(
    device: DeviceFolder, asked: Message, pinned_app: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise DataError("the disk is full")

    monkeypatch.setattr("hushrec.client.device.database.DeviceDatabase.add_refusal", full)
    reply = respond(device, assignment(device, asked, b"another"), Computed())
    assert reply.error.reason == "APP_CHANGED"


def test_a_damaged_database_is_a_refusal_and_no_crash(device: DeviceFolder, asked: Message, pinned_app: bytes) -> None:
    device.database.write_bytes(b"no database at all" * 100)
    reply = respond(device, assignment(device, asked, pinned_app), Computed())
    assert reply.error.reason == "CLIENT_ERROR"


@pytest.fixture
def worker(device: DeviceFolder) -> Iterator[Worker]:
    with Worker(device) as working:
        yield working


def test_a_killed_worker_is_a_refusal_and_the_next_message_gets_a_new_one(
    device: DeviceFolder, asked: Message, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "answer_in_worker", workers.die)
    with pytest.raises(ProtocolError) as died:
        worker.answer(asked)
    assert died.value.code == "CLIENT_FAILED"
    monkeypatch.setattr(launcher, "answer_in_worker", workers.echo)
    assert worker.answer(asked).has_content()


def test_a_worker_is_ended_after_its_rest_and_not_before(
    asked: Message, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "answer_in_worker", workers.sign)
    first = _pid_of(worker.answer(asked))
    worker.rest()
    assert _pid_of(worker.answer(asked)) == first
    monkeypatch.setattr(launcher, "REST", 0.0)
    worker.rest()
    assert _pid_of(worker.answer(asked)) != first


def _pid_of(message: Message) -> int:
    return int(message.metadata.message_id)
