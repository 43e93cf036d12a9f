"""What a device's worker does with one message: resend, refuse, or compute with the installed client and remember.

It runs in a process of its own, which may be ended at any time: what was paid is in the ledger before data are read,
and a reply that was stored is sent again instead of being computed, and paid, a second time.
"""

from __future__ import annotations

import hashlib
import logging
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Array, ConfigRecord, Context, Message, MessageType, RecordDict

from hushrec.client.cohort import RELEASE_ROUND, answer_alone, answer_query, answer_train
from hushrec.client.device.charged_rounds import require_newest
from hushrec.client.device.database import DeviceDatabase
from hushrec.client.device.flower_runtime import content_from_bytes, content_to_bytes
from hushrec.client.device.folder import DeviceFolder, open_device_folder
from hushrec.client.edge.vectors import write_vectors
from hushrec.client.store import DEVICE_FOLDER, device_ledger, open_model
from hushrec.common.edge_folder import open_edge_folder
from hushrec.common.errors import BundleError, HushrecError, ProtocolError
from hushrec.common.protocol import TrainRequest, read_train, refusal, refusal_code, total_bytes
from hushrec.common.scoring import ScoringChoices
from hushrec.common.signed_head import attach_head, sign_head

log = logging.getLogger("hushrec.client")
TRAINING = "training"
REST = 20  # times as long as writing the vectors took, before they are written again

_newest: TrainRequest | None = None  # the last adapter that this worker was sent
_refreshed = (0.0, 0.0)  # when the vectors were written last, and how long that took


def answer(path: str, message: Message) -> Message:
    """The reply to one message for the device in `path`: content with the ledger's signed head, or a refusal.

    Args:
        path: of the device's folder.
        message: as it came; what is not a request of the protocol is refused.
    """
    folder = open_device_folder(Path(path))
    with folder.open_database() as database:
        try:
            asked = _identify(message)
            _require_newest_ledger(folder, database)
            kept = _stored(database, *asked)
            content = kept if kept is not None else _computed(folder, database, message, asked)
            reply = Message(content, reply_to=message)
            _attach_head(reply, folder)
        except Exception as error:
            database.add_refusal(refusal_code(error), _detail(error))
            return refusal(message, error)
        return reply


def refresh(path: str) -> None:
    """Bring what `recommend` reads up to the adapter that came last, while that takes little of the device's time.

    Encoding the catalogue may take longer than a round, so it is done again only after REST times as long as it took.
    A model that the owner installed with `update` stays: it has validated choices and an encoder for texts.
    """
    global _refreshed
    folder, ended, took = open_device_folder(Path(path)), *_refreshed
    if _newest is None or _installed(folder) or (folder.edge.exists() and time.monotonic() - ended < REST * took):
        return
    started, config = time.monotonic(), folder.invitation.config
    choices = ScoringChoices(recency_decay=config.model.recency_decay, history_length=config.model.history_length)
    model = open_model(config, {DEVICE_FOLDER: path})
    write_vectors(
        *(folder.edge, model, folder.invitation.catalog, _newest.adapter, _newest.log_popularity, choices),
        {"note": "the adapter of a round in progress; the federation's claim is in invitation.json"},
        experiment=folder.invitation.federation,
    )
    _refreshed = time.monotonic(), time.monotonic() - started


def _installed(folder: DeviceFolder) -> bool:
    """Whether the vectors came with an encoder, which a round does not write."""
    try:
        return open_edge_folder(folder.edge).manifest["encoder"] is not None
    except BundleError:  # none yet, or damaged: written anew
        return False


def _identify(message: Message) -> tuple[str, int, str]:
    """Which release of which round is asked for, and the SHA-256 of the whole request."""
    config = message.content.get("config")
    values: Mapping[str, Any] = config if isinstance(config, ConfigRecord) else {}
    if message.metadata.message_type == MessageType.TRAIN:
        release, server_round = TRAINING, values.get("server-round")
    else:
        release, server_round = str(values.get("release", "")), RELEASE_ROUND
    if type(server_round) is not int or not 0 <= server_round < 2**31:
        raise ProtocolError("BAD_REQUEST", "the message names no round")
    return release, server_round, _sha256(message.content)


def _require_newest_ledger(folder: DeviceFolder, database: DeviceDatabase) -> None:
    config = folder.invitation.config
    ledger = device_ledger(folder, config)
    if ledger is not None:
        answered = sum(one.release == TRAINING for one in database.rounds())
        require_newest(ledger.events(folder.name), answered, config)


def _sha256(content: RecordDict) -> str:
    """Of everything in it, whatever the order of its fields."""
    digest = hashlib.sha256()
    for name in sorted(content):
        record = content[name]
        digest.update(f"{len(name)}:{name}".encode())
        for key in sorted(record):
            value = record[key]
            kind, data = (f"{value.dtype}{value.shape}", value.data) if isinstance(value, Array) else ("", repr(value))
            digest.update(f"{len(key)}:{key}{kind}{len(data)}:".encode())
            digest.update(data if isinstance(data, bytes) else data.encode())
    return digest.hexdigest()


def _stored(database: DeviceDatabase, release: str, server_round: int, digest: str) -> RecordDict | None:
    """The reply that was given to the same request before.

    Raises:
        ProtocolError: the round was answered already for another request, or a later round was (REPLAYED).
    """
    kept = database.read_reply(server_round, release)
    if kept is not None and kept.request_sha256 == digest and kept.reply:  # older replies are not kept whole
        return content_from_bytes(kept.reply)
    last = max((one.server_round for one in database.rounds() if one.release == release), default=-1)
    if kept is not None or server_round <= last:
        raise ProtocolError("REPLAYED", f"{release} of round {server_round} was answered; another request for it came")
    return None


def _computed(
    folder: DeviceFolder, database: DeviceDatabase, message: Message, asked: tuple[str, int, str]
) -> RecordDict:
    """The content of a new reply, in the outbox before it is returned.

    Raises:
        ProtocolError: the installed client refused (its code).
    """
    started, (release, server_round, digest) = time.monotonic(), asked
    context = Context(
        run_id=message.metadata.run_id,
        node_id=message.metadata.dst_node_id,
        node_config={DEVICE_FOLDER: str(folder.path)},
        state=RecordDict(),
        run_config=folder.invitation.config.to_flat(),
    )
    handler = answer_train if message.metadata.message_type == MessageType.TRAIN else answer_query
    reply = answer_alone(handler, message, context)
    if reply.has_error():
        raise ProtocolError(str(reply.error.reason), f"{release} of round {server_round}; logs/ has the rest")
    if release == TRAINING:
        global _newest
        model = open_model(folder.invitation.config, context.node_config)
        _newest = read_train(message, model.shapes, len(model.prefix))
    database.save_reply(server_round, release, digest, content_to_bytes(reply.content))
    database.drop_replies(before=server_round - 1)
    database.add_round(
        server_round=server_round,
        release=release,
        seconds=time.monotonic() - started,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        bytes_down=total_bytes(list(message.content.array_records.values())),
        bytes_up=total_bytes(list(reply.content.array_records.values())),
    )
    return reply.content


def _attach_head(reply: Message, folder: DeviceFolder) -> None:
    """The head as it is now, also with a stored reply: the server has seen older ones."""
    ledger = device_ledger(folder, folder.invitation.config)
    if ledger is not None:
        attach_head(reply, sign_head(ledger.head, ledger.length, folder.signing_key()))


def _detail(error: Exception) -> str:
    """For the owner's eyes only; of an error nobody planned for, its kind."""
    return str(error) if isinstance(error, HushrecError) else type(error).__name__
