"""Verify a privacy ledger without hushrec: chain, signatures, charges per client and epsilon, from the file alone.

    python verify_ledger.py LEDGER [claim_card.json]

Exit code 0: the budget is kept and the card promises no less than was spent; 1: one of them does not hold; 2: a file
is not what its writer wrote. It needs dp_accounting, and cryptography where a ledger is signed. It reads what was
written down; that the code did as it wrote is for the probes of `hushrec audit`.

A ledger has one JSON entry a line, HEADER first. RESERVE and RELEASE charge `clients` one `event` each; COMMIT names
what was sent for a RESERVE and charges nothing. `hash` is the SHA-256 of the entry without hash and signature, `prev`
the hash before it. After a power cut a line may be `torn bytes, 0x18, RECOVERED entry`, or the last one torn bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

CANCEL, EVERYONE, GENESIS = b"\x18", "*", "0" * 64
ORDERS = [1.05, *(1 + x / 10 for x in range(1, 90)), *range(10, 64), *range(64, 192, 16), 192, 256, 384, 512, 1024]
RELATIONS = {"record": "add_remove", "interaction": "replace_one", "user": "add_remove"}  # by unit


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def require(holds: bool, why: str) -> None:
    if not holds:
        raise ValueError(why)


class VerifiedLedger:
    """A ledger whose every line was checked; ValueError names the first that is wrong."""

    def __init__(self, content: bytes) -> None:
        self.header: dict[str, Any] = {}
        self.hashes = [GENESIS]
        self.charged: dict[str, Counter[tuple[float, float]]] = {EVERYONE: Counter()}  # steps by (sigma, rate)
        self.pending: dict[str, list[str]] = {}  # RESERVEs without COMMIT; charged all the same
        *lines, self.torn = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                torn, cancel, text = line.rpartition(CANCEL)
                self.take(self.unsealed(text), torn if cancel else None)
            except Exception as error:  # whatever a stranger's bytes can raise, the line is refused
                raise ValueError(f"line {number}: {str(error) or repr(error)}") from error
        require(bool(self.header), "line 1: no complete header")
        if self.torn:
            self.charge(self.torn_charges(self.torn))

    def unsealed(self, text: bytes) -> dict[str, Any]:
        """The entry in `text`, once its place in the chain, its hash and its signature are right."""
        entry = json.loads(text)
        body = {name: value for name, value in entry.items() if name not in ("hash", "signature")}
        digest = hashlib.sha256(canonical(body))
        require(canonical(entry) == text and entry["hash"] == digest.hexdigest(), "edited")
        place = (body.pop("seq"), body.pop("prev"))
        require(place == (len(self.hashes) - 1, self.hashes[-1]), "removed, repeated or out of order")
        key = (self.header or body)["public_key"]
        require(bool(key) == ("signature" in entry), "the signature is missing, or the header announces none")
        if key:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

            public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
            public.verify(bytes.fromhex(entry["signature"]), digest.digest())  # InvalidSignature
        self.hashes.append(entry["hash"])
        return body

    def take(self, body: dict[str, Any], torn: bytes | None) -> None:
        """Charge what one entry says, if it may say so."""
        kind = body["type"]
        require((kind == "HEADER") == (not self.header), "HEADER is the first entry and no other")
        require((kind == "RECOVERED") == (torn is not None), "bytes that no entry explains")
        if kind == "HEADER":
            require(RELATIONS.get(body["unit"]) == body["relation"], "the header makes no known claim")
            require(0 < body["delta"] < 1 and 0 < body["target_epsilon"] < float("inf"), "delta or budget out of range")
            require(len(body["plan"]) > 0 and body["max_records"] >= 1, "the header plans no release")
            self.header = body
        elif kind in ("RESERVE", "RELEASE"):
            require(self.may_charge(body["clients"], body["event"]), "the header does not allow this charge")
            self.charge([{"clients": body["clients"], "events": [body["event"]]}])
            if kind == "RESERVE":
                self.pending[self.hashes[-1]] = body["clients"]
        elif kind == "COMMIT":
            reserved = self.pending.pop(body["reserve"])
            require(set(body["replies"]) <= set(reserved), "a reply of a client that was not reserved")
        else:
            require(kind == "RECOVERED", f"unknown entry {kind!r}")
            assert torn is not None
            digest = hashlib.sha256(torn).hexdigest()
            require(body["torn"] == {"bytes": len(torn), "sha256": digest}, "other torn bytes")
            require(body["charges"] == self.torn_charges(torn), "a torn line is not charged as it must be")
            self.charge(body["charges"])

    def may_charge(self, clients: Any, event: Any) -> bool:
        named = isinstance(clients, list) and clients and all(isinstance(name, str) and name for name in clients)
        once = named and len(set(clients)) == len(clients) and EVERYONE not in clients
        return bool(once) and event in self.header["plan"]

    def charge(self, charges: list[dict[str, Any]]) -> None:
        for clients, events in ((one["clients"], one["events"]) for one in charges):
            for client in clients:
                for event in events:
                    key = (float(event["noise_multiplier"]), float(event["sample_rate"]))
                    self.charged.setdefault(client, Counter())[key] += event["steps"]

    def torn_charges(self, torn: bytes) -> list[dict[str, Any]]:
        """A torn line counts as the entry it would have been; what cannot be read: every client, the whole plan."""
        text = torn.split(CANCEL)[0].decode("ascii", errors="replace")
        if text.startswith('{"hash"'):  # a COMMIT, the one entry whose first field is its hash
            return []
        clients, events, decoder = [EVERYONE], self.header["plan"], json.JSONDecoder()
        try:
            names, end = decoder.raw_decode(text, text.index('{"clients":') + len('{"clients":'))
            if self.may_charge(names, events[0]):
                clients = names
                event, _ = decoder.raw_decode(text, text.index(',"event":', end) + len(',"event":'))
                events = [event] if self.may_charge(names, event) else events
        except (ValueError, OverflowError, RecursionError):
            pass
        return [{"clients": clients, "events": events}]

    def history(self, client: str) -> Counter[tuple[float, float]]:
        """What a client is charged: by name, and with everyone; after a torn line, so is a client never named."""
        return self.charged[EVERYONE] + (self.charged.get(client, Counter()) if client != EVERYONE else Counter())

    def epsilon(self, client: str) -> float | None:
        """Spent by a client; None for sampled rows of a group or of a replacement."""
        head = self.header
        rows = head["max_records"] if (head["mechanism"], head["unit"]) == ("device", "user") else 1
        reach = rows * (2 if head["relation"] == "replace_one" else 1)  # clipped rows by which one unit moves a sum
        return rdp_epsilon(self.history(client), reach, head["delta"])


def rdp_epsilon(history: Counter[tuple[float, float]], reach: int, delta: float) -> float | None:
    """By dp_accounting's RDP, which has no event for several sampled rows at once (None)."""
    from dp_accounting.rdp import compute_epsilon

    if reach > 1 and any(rate < 1 for _, rate in history):
        return None
    curve = sum(steps * one_step(sigma / reach, rate) for (sigma, rate), steps in history.items())
    return float(compute_epsilon(ORDERS, curve, delta)[0]) if history else 0.0


@cache
def one_step(sigma: float, rate: float) -> Any:
    """Renyi divergence of one noised sum at each of ORDERS."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    logging.getLogger("absl").setLevel(logging.ERROR)  # an order whose series does not converge is left out, safely
    noise = GaussianDpEvent(sigma)
    return RdpAccountant(ORDERS).compose(noise if rate == 1 else PoissonSampledDpEvent(rate, noise)).rdp


def more(one: float, other: float) -> bool:
    """Whether one is above the other by more than what two RDP accountants with different orders differ by."""
    return not one <= other * (1.01 if other < 20 else 1.25) + 1e-6


def against_card(ledger: VerifiedLedger, card: dict[str, Any], spent: float | None) -> list[str]:
    """What the card promises and the ledger does not keep; ValueError if they do not belong together."""
    claim, head = card["claim"], ledger.header
    own = any(one["head"] in ledger.hashes for one in card["ledgers"])
    require(own, "no head on the card is in this ledger: it was cut, or the card is another's")
    names = ("mechanism", "unit", "relation", "delta", "target_epsilon", "max_records")
    wrong = [f"{name} is {claim[name]} on the card, {head[name]} here" for name in names if claim[name] != head[name]]
    if spent is not None and more(spent, claim["epsilon"]):
        wrong.append(f"the card promises epsilon {claim['epsilon']:.4f}, but {spent:.4f} was spent")
    return wrong


def verify(path: Path, card: Path | None = None) -> tuple[int, str]:
    """The exit code, and what was found."""
    try:
        ledger = VerifiedLedger(path.read_bytes())
        spent = {client: ledger.epsilon(client) for client in ledger.charged}
        most = None if None in spent.values() else max(value or 0.0 for value in spent.values())
        wrong = against_card(ledger, json.loads(card.read_text(encoding="utf-8")), most) if card else []
    except (OSError, ValueError, KeyError, TypeError) as error:
        return 2, f"UNUSABLE: {error}"
    head = ledger.header
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
