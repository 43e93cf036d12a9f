"""Verify a privacy ledger without hushrec: chain, signatures, charges per client and epsilon, from the file alone.

    python verify_ledger.py LEDGER [claim_card.json]

Exit code 0: the budget is kept and the card promises no less than was spent; 1: one of them does not hold; 2: a file
is not what its writer wrote. It needs dp_accounting, and cryptography where a ledger is signed. That the code did as
it wrote is for the probes of `hushrec audit`.

One JSON entry a line, HEADER first. `hash` is the SHA-256 of the entry without hash and signature, `prev` the hash
before it. RESERVE and RELEASE charge `clients` one `event` each; COMMIT names what was sent for a RESERVE. After a
power cut a line may be `torn bytes, 0x18, RECOVERED entry`, and the last one torn bytes alone.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from functools import cache
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Any

CANCEL, EVERYONE, GENESIS = b"\x18", "*", "0" * 64
ORDERS = [1.05, *(1 + x / 10 for x in range(1, 90)), *range(10, 64), *range(64, 192, 16), 192, 256, 384, 512, 1024]
CARD = ("mechanism", "unit", "relation", "delta", "target_epsilon", "max_records")  # that ledger and card both name
CLAIMS = {("device", "interaction", "replace_one"), ("device", "record", "add_remove")}
CLAIMS |= {(who, "user", "add_remove") for who in ("device", "silo", "server")}
KINDS = ("training", "popularity", "statistics", "metrics")
FIELDS = {  # of an entry, beside type, seq, prev, hash and signature
    "HEADER": {*CARD, "who", "clipping_norm", "denominator", "plan", "public_key"},
    "RESERVE": {"round", "clients", "event"},
    "RELEASE": {"round", "clients", "event", "why"},
    "COMMIT": {"reserve", "replies"},
    "RECOVERED": {"charges", "torn"},
}


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def require(holds: object, why: str) -> None:
    if not holds:
        raise ValueError(why)


def from_hex(text: str) -> bytes:
    require(bytes.fromhex(text).hex() == text, "hexadecimal has lower-case letters and no spaces")
    return bytes.fromhex(text)


def within(value: Any, most: float = inf) -> bool:
    return type(value) in (int, float) and 0 < float(value) <= most and value != inf


def is_release(event: dict[str, Any]) -> bool:
    fields = event.keys() == {"kind", "noise_multiplier", "sample_rate", "steps"} and event["kind"] in KINDS
    steps = fields and type(event["steps"]) is int and within(event["steps"], 2**53 - 1)
    return steps and within(event["noise_multiplier"]) and within(event["sample_rate"], 1)


class VerifiedLedger:
    """A ledger whose every line was checked; ValueError names the first that is wrong."""

    def __init__(self, content: bytes) -> None:
        self.header: dict[str, Any] = {}
        self.hashes = [GENESIS]
        self.charged: dict[str, Counter[tuple[float, float]]] = {EVERYONE: Counter()}  # steps by (sigma, rate)
        self.pending: dict[str, list[str]] = {}  # RESERVEs without COMMIT; charged all the same
        *lines, self.torn = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            torn, cancel, text = line.rpartition(CANCEL)
            try:
                self.take(self.unsealed(text), torn if cancel else None)
            except Exception as error:  # whatever a stranger's bytes can raise, the line is refused
                raise ValueError(f"line {number}: {str(error) or repr(error)}") from error
        require(self.header, "line 1: no complete header")
        self.charge(self.torn_charges(self.torn) if self.torn else [])

    def unsealed(self, text: bytes) -> dict[str, Any]:
        """The entry in `text`, once its place in the chain, its hash and its signature are right."""
        entry = json.loads(text)
        body = {name: value for name, value in entry.items() if name not in ("hash", "signature")}
        digest = sha256(canonical(body))
        require(canonical(entry) == text and entry["hash"] == digest.hexdigest(), "edited")
        place = (body.pop("seq"), body.pop("prev"))
        require(place == (len(self.hashes) - 1, self.hashes[-1]), "removed, repeated or out of order")
        key = (self.header or body)["public_key"]
        require(bool(key) == ("signature" in entry), "the signature is missing, or the header announces none")
        if key:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

            public = Ed25519PublicKey.from_public_bytes(from_hex(key))
            public.verify(from_hex(entry["signature"]), digest.digest())  # InvalidSignature
        self.hashes.append(entry["hash"])
        return body

    def take(self, body: dict[str, Any], torn: bytes | None) -> None:
        """Charge what one entry says, if it may say so."""
        kind = body.pop("type")
        expected = (kind == "HEADER") == (not self.header) and (kind == "RECOVERED") == (torn is not None)
        require(expected and body.keys() == FIELDS[kind], f"no {kind} with these fields may stand here")
        if kind == "HEADER":
            self.header = self.claimed(body)
        elif kind == "COMMIT":
            reserved, replies = self.pending.pop(body["reserve"]), body["replies"]
            require(replies.keys() <= set(reserved), "a reply of a client that was not reserved")
            require(all(len(from_hex(reply)) == 32 for reply in replies.values()), "a reply is named by its SHA-256")
        elif torn is not None:
            due = {"charges": self.torn_charges(torn), "torn": {"bytes": len(torn), "sha256": sha256(torn).hexdigest()}}
            require(canonical(body) == canonical(due), "torn bytes are not charged as they must be")
            self.charge(body["charges"])
        else:
            require(self.may_charge(body["clients"], body["event"]), "the header does not allow this charge")
            require(type(body["round"]) is int and isinstance(body.get("why", ""), str), "a field is mistyped")
            self.charge([{"clients": body["clients"], "events": [body["event"]]}])
            if kind == "RESERVE":
                self.pending[self.hashes[-1]] = body["clients"]

    def claimed(self, head: dict[str, Any]) -> dict[str, Any]:
        """The header, if it makes a known claim and plans releases that can be priced."""
        require((head["mechanism"], head["unit"], head["relation"]) in CLAIMS, "no known claim")
        texts = all(type(head[name]) is str for name in ("who", "public_key"))
        require(texts and type(head["max_records"]) is int, "a field is mistyped")
        constants = [head[name] for name in ("target_epsilon", "max_records", "clipping_norm", "denominator")]
        require(
            all(map(within, constants)) and within(head["delta"]) and head["delta"] < 1, "a constant is out of range"
        )
        require(type(head["plan"]) is list and head["plan"], "no release is planned")
        require(all(map(is_release, head["plan"])), "a planned release is out of range")
        return head

    def may_charge(self, clients: Any, event: Any) -> bool:
        named = isinstance(clients, list) and clients and all(isinstance(name, str) and name for name in clients)
        once = named and len(set(clients)) == len(clients) and EVERYONE not in clients
        return bool(once) and event in self.header["plan"] and is_release(event)

    def charge(self, charges: list[dict[str, Any]]) -> None:
        for one in charges:
            for client in one["clients"]:
                for event in one["events"]:
                    key = (float(event["noise_multiplier"]), float(event["sample_rate"]))
                    self.charged.setdefault(client, Counter())[key] += event["steps"]

    def torn_charges(self, torn: bytes) -> list[dict[str, Any]]:
        """A torn line counts as the entry it would have been; what cannot be read: every client, the whole plan."""
        text = torn.split(CANCEL)[0].decode("ascii", errors="replace")
        if text.startswith('{"hash"'):  # a COMMIT, the one entry whose first field is its hash
            return []
        clients, events, read = [EVERYONE], self.header["plan"], json.JSONDecoder().raw_decode
        try:
            names, end = read(text, text.index('{"clients":') + len('{"clients":'))
            if self.may_charge(names, events[0]):
                clients = names
                event, _ = read(text, text.index(',"event":', end) + len(',"event":'))
                events = [event] if self.may_charge(names, event) else events
        except (ValueError, OverflowError, RecursionError):
            pass
        return [{"clients": clients, "events": events}]

    def history(self, client: str) -> Counter[tuple[float, float]]:
        """What a client is charged: by name, and with everyone; after a torn line, so is a client never named."""
        return self.charged[EVERYONE] + (self.charged.get(client, Counter()) if client != EVERYONE else Counter())

    def epsilon(self, client: str) -> float | None:
        """Spent by a client; None for several sampled rows at once, for which dp_accounting's RDP has no event."""
        head, history = self.header, self.history(client)
        rows = head["max_records"] if (head["mechanism"], head["unit"]) == ("device", "user") else 1
        reach = rows * (2 if head["relation"] == "replace_one" else 1)  # clipped rows by which one unit moves a sum
        if reach > 1 and any(rate < 1 for _, rate in history):
            return None
        return rdp_epsilon(tuple(sorted(history.items())), reach, head["delta"])


@cache
def rdp_epsilon(history: tuple[tuple[tuple[float, float], int], ...], reach: int, delta: float) -> float:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    logging.getLogger("absl").setLevel(logging.ERROR)  # an order whose series does not converge is left out, safely
    accountant = RdpAccountant(ORDERS)
    for (sigma, rate), steps in history:
        noise = GaussianDpEvent(sigma / reach)
        accountant.compose(noise if rate == 1 else PoissonSampledDpEvent(rate, noise), steps)
    return float(accountant.get_epsilon(delta)) if history else 0.0


def more(one: float, other: float) -> bool:
    """Whether one is above the other by more than what two RDP accountants with different orders differ by."""
    return not one <= other * (1.02 if other < 10 else 1.25) + 1e-6


def verify(path: Path, card: Path | None = None) -> tuple[int, str]:
    """The exit code, and what was found."""
    wrong = []
    try:
        ledger = VerifiedLedger(path.read_bytes())
        head, spent = ledger.header, [ledger.epsilon(client) for client in ledger.charged]
        most = max((one for one in spent if one is not None), default=0.0) if None not in spent else None
        if card:
            promise = json.loads(card.read_text(encoding="utf-8"))
            own = any(one["head"] in ledger.hashes for one in promise["ledgers"])
            require(own, "no head on the card is in this ledger: it was cut, or the card is another's")
            claim = promise["claim"]
            other = [name for name in CARD if claim[name] != head[name]]
            wrong = [f"{name} is {claim[name]} on the card, {head[name]} here" for name in other]
            if most is not None and more(most, claim["epsilon"]):
                wrong.append(f"the card promises epsilon {claim['epsilon']:.4f}, but {most:.4f} was spent")
    except (OSError, ValueError, KeyError, TypeError) as error:
        return 2, f"UNUSABLE: {error}"
    if most is not None and more(most, head["target_epsilon"]):
        wrong.append(f"epsilon {most:.4f} is above the budget {head['target_epsilon']:g}")
    shown = "not derived (sampled rows of a group)" if most is None else f"{most:.4f} of {head['target_epsilon']:g}"
    signed = f"signed by {head['public_key']}" if head["public_key"] else "not signed"
    lines = [
        f"{len(ledger.hashes) - 1} entries, {signed}, head {ledger.hashes[-1]}",
        f"{len(ledger.pending)} RESERVEs without COMMIT and {len(ledger.torn)} torn bytes at the end, charged",
        f"{len(spent) - 1} clients; epsilon per {head['unit']} ({head['relation']}), delta {head['delta']:g}: {shown}",
    ]
    return int(bool(wrong)), "\n".join(lines + ([f"VIOLATED: {reason}" for reason in wrong] or ["holds"]))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    code, told = verify(*map(Path, sys.argv[1:]))
    sys.stdout.write(told + "\n")
    sys.exit(code)
