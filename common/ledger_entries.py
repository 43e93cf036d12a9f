"""The ledger's file format: entries, their hash chain, and the replay of a file. It opens and writes nothing.

One entry a line, as canonical JSON (sorted keys, no spaces, ASCII, no NaN):

    HEADER     the claim's constants, `LedgerHeader`; always and only line 1
    RESERVE    round, clients, event                charged when written, before data are touched
    RELEASE    round, clients, event, why           charged likewise; needs no COMMIT
    COMMIT     reserve (hash), replies {client: SHA-256}    what was sent for a RESERVE
    RECOVERED  charges [{clients, events}], torn {bytes, sha256}    what a torn line is charged

and in each: type, seq, prev (hash of the entry before), hash (SHA-256 of the canonical JSON of all fields but hash and
signature), and in a signed ledger signature (Ed25519 over the hash).

A power cut can leave a last line without its newline. Nothing is cut off: the next writer appends CANCEL and a
RECOVERED entry to that same line, so a line is either one entry or `torn bytes, CANCEL, RECOVERED entry`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hushrec.common.errors import ConfigError, LedgerCorrupted, PrivacyError
from hushrec.common.privacy import Claim, claim_for
from hushrec.common.privacy_event import PrivacyEvent

GENESIS = "0" * 64
CANCEL = b"\x18"
EVERYONE = "*"
"""In a RECOVERED entry: every client, also one first seen later."""

_FIELDS = {
    "RESERVE": {"round", "clients", "event"},
    "RELEASE": {"round", "clients", "event", "why"},
    "COMMIT": {"reserve", "replies"},
    "RECOVERED": {"charges", "torn"},
}
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class LedgerHeader:
    """What a ledger is for; none of it may change during its life.

    Attributes:
        who: the device, silo or simulation that writes it.
        mechanism, unit, relation, delta, target_epsilon, max_records: of the claim.
        clipping_norm: C, the largest norm of one row.
        denominator: the public constant that noised sums are divided by.
        plan: every release this ledger may charge; another noise, sampling rate or number of steps is refused.
    """

    who: str
    mechanism: str
    unit: str
    relation: str
    delta: float
    target_epsilon: float
    max_records: int
    clipping_norm: float
    denominator: float
    plan: tuple[PrivacyEvent, ...]

    @classmethod
    def for_claim(
        cls, claim: Claim, *, who: str, clipping_norm: float, denominator: float, plan: Sequence[PrivacyEvent]
    ) -> LedgerHeader:
        """The header of a ledger that will be judged by `claim`."""
        return cls(
            who=who,
            mechanism=claim.mechanism,
            unit=claim.unit,
            relation=claim.relation,
            delta=claim.delta,
            target_epsilon=claim.target_epsilon,
            max_records=claim.max_records,
            clipping_norm=float(clipping_norm),
            denominator=float(denominator),
            plan=tuple(plan),
        )

    def claim(self) -> Claim:
        """The claim that the ledger is judged by."""
        limits = {"delta": self.delta, "target_epsilon": self.target_epsilon}
        return claim_for(self.mechanism, self.unit, max_records=self.max_records, **limits)

    def to_json(self) -> dict[str, Any]:
        """JSON values; `from_json` gives back an equal header."""
        return {**asdict(self), "plan": [event.to_json() for event in self.plan]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> LedgerHeader:
        """Read a header; unknown, missing or mistyped fields raise PrivacyError."""
        types: dict[str, type | tuple[type, ...]] = {
            **dict.fromkeys(("who", "mechanism", "unit", "relation"), str),
            **dict.fromkeys(("delta", "target_epsilon", "clipping_norm", "denominator"), (int, float)),
            "max_records": int,
            "plan": list,
        }
        if set(value) != set(types):
            raise PrivacyError(f"expected a header with the fields {', '.join(sorted(types))}")
        for name, kind in types.items():
            if not isinstance(value[name], kind) or isinstance(value[name], bool):
                raise PrivacyError(f"header field {name} is mistyped")
        header = cls(**{**value, "plan": tuple(PrivacyEvent.from_json(event) for event in value["plan"])})
        try:
            relation = header.claim().relation
        except ConfigError as error:
            raise PrivacyError(f"the header makes no claim: {error}") from error
        if not header.plan or header.relation != relation:
            raise PrivacyError("the header plans no release, or names a relation that is not its claim's")
        constants = (header.clipping_norm, header.denominator, header.max_records)
        if not all(0 < float(constant) < math.inf for constant in constants):  # an int may be too large for a float
            raise PrivacyError("expected clipping_norm, denominator and max_records > 0 and finite")
        return header


def canonical(value: object) -> bytes:
    """Canonical JSON; a NaN or infinity raises PrivacyError instead of being written."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (TypeError, ValueError) as error:
        raise PrivacyError(f"the ledger stores JSON with finite numbers only: {error}") from error


def seal(body: dict[str, Any], seq: int, prev: str, key: Ed25519PrivateKey | None) -> dict[str, Any]:
    """The body as the entry number `seq` after `prev`: chained, hashed and, with a key, signed."""
    entry = {**body, "seq": seq, "prev": prev}
    digest = hashlib.sha256(canonical(entry))
    entry["hash"] = digest.hexdigest()
    if key is not None:
        entry["signature"] = key.sign(digest.digest()).hex()
    return entry


def check_charge(clients: object, event: PrivacyEvent, plan: tuple[PrivacyEvent, ...]) -> None:
    """Refuse a charge that the header does not allow, or that names no client or one twice (PrivacyError)."""
    if not isinstance(clients, list) or not clients or not all(isinstance(c, str) and c for c in clients):
        raise PrivacyError("expected at least one client, each a non-empty text")
    if len(set(clients)) != len(clients) or EVERYONE in clients:
        raise PrivacyError(f"a client is named twice, or is called {EVERYONE!r}")
    if event not in plan:
        planned = "; ".join(str(p.to_json()) for p in plan)
        raise PrivacyError(f"the ledger's header does not allow the release {event.to_json()}; it allows {planned}")


class Replay:
    """The state that a ledger's entries add up to. Appending one entry costs O(its clients), not O(file).

    Attributes:
        header: the claim's constants.
        public_key: hex of the key that signs, "" in an unsigned ledger.
        head: hash of the last entry; whoever holds it can tell a truncated ledger.
        length: number of entries.
        torn: bytes of a torn last line that no writer has recovered yet; already charged here.
    """

    def __init__(self, public_key: Ed25519PublicKey | None = None) -> None:
        self.header: LedgerHeader
        self.public_key = ""
        self.head, self.length, self.torn = GENESIS, 0, b""
        self._expected_key = public_key
        self._charged: dict[str, dict[PrivacyEvent, int]] = {EVERYONE: {}}
        self._pending: dict[str, tuple[int, tuple[str, ...]]] = {}
        self._last_reply: dict[str, tuple[int, str]] = {}

    def events(self, client: str) -> tuple[PrivacyEvent, ...]:
        """Everything charged to a client so far; equal releases are one event with the sum of their steps."""
        steps = dict(self._charged[EVERYONE])
        for event, count in self._charged.get(client, {}).items():
            steps[event] = steps.get(event, 0) + count
        return tuple(PrivacyEvent(e.noise_multiplier, e.sample_rate, e.steps * n, e.kind) for e, n in steps.items())

    def clients(self) -> tuple[str, ...]:
        """Every client ever charged by name, in order of first charge."""
        return tuple(client for client in self._charged if client != EVERYONE)

    def pending(self) -> dict[str, tuple[int, tuple[str, ...]]]:
        """RESERVEs without COMMIT, charged all the same: hash -> (round, clients)."""
        return dict(self._pending)

    def last_reply(self, client: str) -> tuple[int, str] | None:
        """Round and SHA-256 of the last committed reply of a client."""
        return self._last_reply.get(client)

    def read(self, lines: bytes) -> Iterator[str]:
        """Take in the bytes of a file; yields each entry's hash.

        Raises:
            LedgerCorrupted: naming the first line that is not what was written after the line before it.
        """
        *complete, self.torn = lines.split(b"\n")
        for number, line in enumerate(complete, start=1):
            torn, cancel, text = line.rpartition(CANCEL)
            try:
                self.take(_parse(text), torn if cancel else None)
            except (PrivacyError, ValueError, OverflowError, RecursionError) as error:
                raise LedgerCorrupted(f"ledger line {number}: {error}") from error
            yield self.head
        if not self.length:
            raise LedgerCorrupted("ledger line 1: no complete header")
        if self.torn:
            for charge in torn_charges(self.torn, self.header.plan):
                self._charge(charge["clients"], [PrivacyEvent.from_json(event) for event in charge["events"]])

    def take(self, entry: dict[str, Any], torn: bytes | None = None) -> None:
        """Check one entry, then add it to the state; a refused entry changes nothing (PrivacyError)."""
        body = self._unseal(entry)
        kind = body.pop("type", None)
        if kind == "HEADER" and self.length == 0:
            self._take_header(body)
        elif self.length == 0 or not isinstance(kind, str) or kind not in _FIELDS or set(body) != _FIELDS[kind]:
            raise PrivacyError("not an entry that may stand here")
        elif (kind == "RECOVERED") != (torn is not None):
            raise PrivacyError("bytes that no entry explains")
        elif kind == "COMMIT":
            self._take_commit(body)
        elif kind == "RECOVERED":
            self._take_recovered(body, torn or b"")
        else:
            self._take_charge(kind, body, entry["hash"])
        self.head, self.length = entry["hash"], self.length + 1

    def _unseal(self, entry: dict[str, Any]) -> dict[str, Any]:
        """The entry's body, once chain, hash and signature are right."""
        body = dict(entry)
        given, signed, signature = body.pop("hash", None), "signature" in body, body.pop("signature", None)
        digest = hashlib.sha256(canonical(body))
        if body.pop("seq", None) != self.length or body.pop("prev", None) != self.head or digest.hexdigest() != given:
            raise PrivacyError("edited, removed, repeated or out of order")
        key = body.get("public_key", "") if self.length == 0 else self.public_key
        if self._expected_key is not None and key != self._expected_key.public_bytes_raw().hex():
            raise PrivacyError("not signed with the expected key")
        if bool(key) != signed:
            raise PrivacyError("the signature is missing or not announced by the header")
        if key:
            try:
                Ed25519PublicKey.from_public_bytes(_from_hex(key)).verify(_from_hex(signature), digest.digest())
            except InvalidSignature:
                raise PrivacyError("the signature is wrong") from None
        return body

    def _take_header(self, body: dict[str, Any]) -> None:
        public_key = body.pop("public_key", None)
        if not isinstance(public_key, str):
            raise PrivacyError("the header's public_key is mistyped")
        self.header, self.public_key = LedgerHeader.from_json(body), public_key

    def _take_charge(self, kind: str, body: dict[str, Any], entry_hash: str) -> None:
        event = PrivacyEvent.from_json(body["event"])
        check_charge(body["clients"], event, self.header.plan)
        if type(body["round"]) is not int or not isinstance(body.get("why", ""), str):
            raise PrivacyError("a field is mistyped")
        self._charge(body["clients"], [event])
        if kind == "RESERVE":
            self._pending[entry_hash] = (body["round"], tuple(body["clients"]))

    def _take_commit(self, body: dict[str, Any]) -> None:
        replies = body["replies"]
        if not isinstance(body["reserve"], str) or body["reserve"] not in self._pending:
            raise PrivacyError("a COMMIT needs a RESERVE that has none yet")
        server_round, clients = self._pending[body["reserve"]]
        if not isinstance(replies, dict) or not set(replies) <= set(clients):
            raise PrivacyError("a COMMIT may only name clients of its RESERVE")
        if not all(isinstance(reply, str) and _SHA256.fullmatch(reply) for reply in replies.values()):
            raise PrivacyError("a reply is named by its SHA-256 in hexadecimal")
        del self._pending[body["reserve"]]
        self._last_reply.update({client: (server_round, reply) for client, reply in replies.items()})

    def _take_recovered(self, body: dict[str, Any], torn: bytes) -> None:
        if body != recovered_body(torn, self.header.plan):
            raise PrivacyError("the torn bytes are not those that were recovered")
        for charge in body["charges"]:
            self._charge(charge["clients"], [PrivacyEvent.from_json(event) for event in charge["events"]])

    def _charge(self, clients: Iterable[str], events: Iterable[PrivacyEvent]) -> None:
        for client in clients:
            steps = self._charged.setdefault(client, {})
            for event in events:
                steps[event] = steps.get(event, 0) + 1


def recovered_body(torn: bytes, plan: tuple[PrivacyEvent, ...]) -> dict[str, Any]:
    """The RECOVERED entry's fields for a torn line, without its type."""
    digest = hashlib.sha256(torn).hexdigest()
    return {"charges": torn_charges(torn, plan), "torn": {"bytes": len(torn), "sha256": digest}}


def torn_charges(torn: bytes, plan: tuple[PrivacyEvent, ...]) -> list[dict[str, Any]]:
    """What a torn line is charged: never less than the entry it would have been.

    A torn line means that its append never returned, so its data were not touched; it is charged all the same. Keys are
    sorted, so a charge starts with its clients, then its event. What cannot be read any more counts as worst:
    every client, and each release of the plan once.
    """
    text = torn.split(CANCEL)[0].decode("ascii", errors="replace")  # what follows a CANCEL is an unfinished recovery
    if text.startswith('{"hash"'):  # a COMMIT: its RESERVE is charged already
        return []
    clients, events = [EVERYONE], [event.to_json() for event in plan]
    decoder = json.JSONDecoder()
    try:
        names, end = decoder.raw_decode(text, text.index('{"clients":') + len('{"clients":'))
        check_charge(names, plan[0], plan)
        clients = names
        event, _ = decoder.raw_decode(text, text.index(',"event":', end) + len(',"event":'))
        check_charge(names, PrivacyEvent.from_json(event), plan)
        events = [event]
    except (PrivacyError, ValueError, OverflowError, RecursionError):
        pass  # the worst case above stands
    return [{"clients": clients, "events": events}]


def _parse(text: bytes) -> dict[str, Any]:
    """One entry; anything but its canonical form is refused, so not one byte of a line can change."""
    entry = json.loads(text)
    if not isinstance(entry, dict) or canonical(entry) != text:
        raise PrivacyError("not an entry in canonical form")
    return entry


def _from_hex(text: object) -> bytes:
    """The bytes of a key or signature, which can be written in one way only: no hash covers the signature's text."""
    if not isinstance(text, str) or bytes.fromhex(text).hex() != text:
        raise PrivacyError("a key or signature is not in lower-case hexadecimal")
    return bytes.fromhex(text)
