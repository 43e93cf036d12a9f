"""Everything that leaves a client in a round and before it: each field and byte, and what pays for it.

The inventory of the numbers' worth is the other probes'; this file sees names, types and sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from flwr.app import ArrayRecord, Message, MetricRecord

from hushrec.common.config import RunConfig
from hushrec.common.errors import ProtocolError
from hushrec.common.ledger import read_ledger
from hushrec.common.protocol import ALLOWED, CODES, Field, reply_sha256, unpack
from hushrec.simulations.audit.check import Check
from hushrec.simulations.audit.probe_federation import ProbeFederation, ledger_path
from hushrec.simulations.audit.probe_units import Holdings, most_units

EGRESS = "egress"
_METRIC_BYTES = 8
_CONSTANTS = {"num-examples": 1, "num-clients": 1}


@dataclass(frozen=True)
class Sent:
    """One thing that left a client.

    Attributes:
        release: the field that was asked for.
        name: of the record and of the array or number in it.
        kind: type and shape of an array; type and value of a number, since a public one is a constant.
        bytes: as it travels, array header included.
        paid_by: the ledger's event, or why none is needed.
    """

    release: Field
    name: str
    kind: str
    bytes: int
    paid_by: str


def probe_egress(federation: ProbeFederation) -> Check:
    """Replies of clients with many, one and no unit, in full."""
    problems: list[str] = []
    inventory: list[Sent] = []
    for field in federation.fields:
        config = federation.variant()
        holdings = _two_sizes(federation)
        answers = federation.ask(field, holdings, config)
        lists = [_sent(federation, field, answer) for answer in answers]
        inventory += lists[0]
        if any(other != lists[0] for other in lists):
            problems.append(
                f"the {field} replies of clients with more and fewer data differ in fields, sizes or metrics"
            )
        for client, answer in zip(holdings, answers, strict=True):
            problems += _problems(federation, field, config, client, answer)
    total = {field: sum(sent.bytes for sent in inventory if sent.release == field) for field in federation.fields}
    return Check(
        EGRESS,
        "VIOLATED" if problems else "holds",
        "whatever leaves a client is on the protocol's list: noised fields that a ledger event pays for, and "
        "constants; its size and form do not depend on the data",
        "; ".join(dict.fromkeys(problems))
        or ", ".join(f"{field}: {size:,} bytes" for field, size in total.items()) + ", whatever the data",
        {"inventory": [asdict(sent) for sent in inventory]},
    )


def _two_sizes(federation: ProbeFederation) -> Holdings:
    """Clients that differ in all that could show: many long units, one short one, and none where there may be none."""
    many = {number: federation.items(number, 30 + number) for number in range(most_units(federation.config))}
    none: Holdings = {} if federation.central else {"no data": {}}
    return {"much data": many, "little data": {0: federation.items(7, 2)}, **none}


def _sent(federation: ProbeFederation, field: Field, answer: Message) -> list[Sent]:
    if answer.has_error():
        word = answer.error.reason or ""
        return [Sent(field, "error", word, len(word), "a fixed word" if word in CODES else "NOT ON THE LIST")]
    event = federation.event(field)
    payer = "the server's ledger (it sees this in the clear)" if federation.central else "the client's ledger"
    paid_by = (
        f"{payer}: {event.kind}, sigma {event.noise_multiplier:g}, rate {event.sample_rate:g}, steps {event.steps}"
    )
    found = []
    for name, record in answer.content.items():
        if isinstance(record, ArrayRecord):
            status = paid_by if name == field and ALLOWED.get(name) == "noised" else "NOT ON THE LIST"
            for key, array in record.items():
                kind = f"{array.stype} {array.dtype} {tuple(array.shape)}"
                found.append(Sent(field, f"{name}/{key}", kind, len(array.data), status))
            continue
        for key, value in record.items():
            public = isinstance(record, MetricRecord) and name == "metrics" and ALLOWED.get(key) == "public"
            known = public and _CONSTANTS.get(key) == value
            status = "a constant" if known else "NOT ON THE LIST"
            found.append(Sent(field, f"{name}/{key}", f"{type(value).__name__} {value!r}", _METRIC_BYTES, status))
    return found


def _problems(
    federation: ProbeFederation, field: Field, config: RunConfig, client: str, answer: Message
) -> Sequence[str]:
    """What of one reply is not as the protocol and the ledger say."""
    if answer.has_error():
        return [f"a client with {client} answered the {field} request with an error"]
    problems = [
        f"{sent.name} ({sent.bytes} bytes) leaves a client and is not on the list"
        for sent in _sent(federation, field, answer)
        if sent.paid_by == "NOT ON THE LIST"
    ]
    record = answer.content.get(field)
    if not isinstance(record, ArrayRecord):
        return [*problems, f"a reply lacks {field}"]
    try:
        unpack(record, federation.shapes(field))
    except ProtocolError as error:
        problems.append(f"{field}: {error}")
    if not federation.central:
        committed = read_ledger(ledger_path(config)).last_reply(client)
        if committed is None or committed[1] != reply_sha256(record):
            problems.append(f"the ledger's COMMIT does not name the {field} reply that was sent")
    return problems
