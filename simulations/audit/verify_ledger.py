"""Verify a privacy ledger without hushrec: `python verify_ledger.py LEDGER [claim_card.json]`.

Exit code 0: the budget is kept and the card makes the same claim at no less epsilon; 1: VIOLATED; 2: not as written.
NOT checked: that no end was cut off, unless the card names its head; that the code did as it wrote. One entry a line,
HEADER first: RESERVE and RELEASE charge each client an event, `steps` sums of rows of norm at most C, drawn with
probability `sample_rate`, plus N(0, (noise_multiplier C)^2); COMMIT names what was sent for a RESERVE. A power cut
leaves torn bytes, at the end or before 0x18 and the entry RECOVERED; they are charged as what they would have been.
"""

import json
import re
import sys
from collections import Counter
from contextlib import suppress
from functools import cache, reduce
from hashlib import sha256
from math import ceil, comb, inf, log, log1p, pi, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

CANCEL, EVERYONE, GENESIS, HEX, ROUNDING = b"\x18", "*", "0" * 64, re.compile("([0-9a-f]{64}){1,2}"), 1 + 1e-6
CLAIM = {"mechanism": str, "unit": str, "relation": str, "delta": float, "target_epsilon": float, "max_records": int}
FIELDS: dict[str, dict[str, type]] = {  # of an entry, beside type, seq, prev, hash and signature; a float may be an int
    "HEADER": {**CLAIM, "who": str, "clipping_norm": float, "denominator": float, "plan": list, "public_key": str},
    "RESERVE": {"round": int, "clients": list, "event": dict},
    "RELEASE": {"round": int, "clients": list, "event": dict, "why": str},
    "COMMIT": {"reserve": str, "replies": dict},
    "RECOVERED": {"charges": list, "torn": dict},
    "event": {"kind": str, "noise_multiplier": float, "sample_rate": float, "steps": int},
}
CLAIMS = [*((who, "user", "add_remove") for who in ("device", "silo", "server")), ("device", "record", "add_remove")]
CLAIMS.append(("device", "interaction", "replace_one"))
ORDERS = np.array([1.05, 1.1, 1.15, *np.arange(12, 100) / 10, *range(10, 64)])
ORDERS = np.append(ORDERS, [64, 72, 80, 96, 112, 128, 160, 192, 256, 384, 512, 1024])


def require(holds: object, why: str) -> None:
    if not holds:
        raise ValueError(why)


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def fits(kind: str, value: dict[str, Any]) -> bool:
    types = {name: (kind, int) if kind is float else (kind,) for name, kind in FIELDS[kind].items()}
    return value.keys() == types.keys() and all(type(value[name]) in types[name] for name in types)


class VerifiedLedger:
    """A ledger whose every line was checked; ValueError names the first that is wrong."""

    def __init__(self, content: bytes) -> None:
        self.header: dict[str, Any] = {}
        self.hashes = [GENESIS]
        self.pending: dict[str, list[str]] = {}  # clients of RESERVEs without COMMIT; charged all the same
        self.charged: dict[str, Counter[tuple[float, float]]] = {EVERYONE: Counter()}  # steps by (sigma, rate)
        *lines, self.torn = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                self.take(*line.rpartition(CANCEL))
            except Exception as error:  # whatever a stranger's bytes can raise
                raise ValueError(f"line {number}: {str(error) or repr(error)}") from error
        require(self.header, "line 1: no complete header")
        self.charge(self.due(self.torn))

    def take(self, torn: bytes, cancel: bytes, text: bytes) -> None:
        """Check form, hash, place, signature and fields of the entry in a line, and charge what it says."""
        entry = json.loads(text)
        require(canonical(entry) == text, "not canonical JSON")
        given, signed, signature = entry.pop("hash"), "signature" in entry, entry.pop("signature", "")
        digest, kind = sha256(canonical(entry)), entry.pop("type")
        require(given == digest.hexdigest(), "edited")
        place, expected = (entry.pop("seq"), entry.pop("prev")), (len(self.hashes) - 1, self.hashes[-1])
        require(place == expected, "removed, repeated or out of order")
        require((kind == "HEADER", kind == "RECOVERED") == (not self.header, bool(cancel)), "it may not stand here")
        require(fits(kind, entry), f"fields of {kind} are missing, unknown or mistyped")
        if kind == "HEADER":
            self.begin(entry)
        key, due = self.header["public_key"], self.due(torn if cancel else text)
        require(bool(key) == signed and (not signed or HEX.fullmatch(signature)), "signature missing or unexpected")
        if signed:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(bytes.fromhex(signature), digest.digest())
        if kind == "COMMIT":
            require(entry["replies"].keys() <= set(self.pending.pop(entry["reserve"])), "a reply of no reserved client")
            require(all(len(reply) == 64 and HEX.fullmatch(reply) for reply in entry["replies"].values()), "no SHA-256")
        elif kind == "RECOVERED":
            found = {"charges": due, "torn": {"bytes": len(torn), "sha256": sha256(torn).hexdigest()}}
            require(entry == found, "not what the torn bytes must be charged")
        elif kind in ("RESERVE", "RELEASE"):
            charge = {"clients": entry["clients"], "events": [entry["event"]]}
            require(due == [charge] and EVERYONE not in entry["clients"], "the header allows no such charge")
        if kind == "RESERVE":
            self.pending[given] = entry["clients"]
        self.charge(due if kind != "HEADER" else [])
        self.hashes.append(given)

    def begin(self, head: dict[str, Any]) -> None:
        """Take the header, if it makes a known claim and every number in it is within its range."""
        require(all(fits("event", event) for event in head["plan"]), "a planned release has missing or mistyped fields")
        numbers = [n for part in (head, *head["plan"]) for n in part.values() if type(n) in (int, float)]
        require(head["plan"] and all(0 < float(n) < inf for n in numbers), "no plan, or a number is not in its range")
        require(all(event["sample_rate"] <= 1 and event["steps"] < 2**53 for event in head["plan"]), "no such sampling")
        require((head["mechanism"], head["unit"], head["relation"]) in CLAIMS and head["delta"] < 1, "no known claim")
        self.header = head

    def due(self, line: bytes) -> list[dict[str, Any]]:
        """What a line is charged, whole or torn; what cannot be read counts as every client and the whole plan."""
        start, _, rest = line.split(CANCEL)[0].decode("ascii", errors="replace").partition('{"clients":')
        charge, read = {"clients": [EVERYONE], "events": self.header["plan"]}, json.JSONDecoder().raw_decode
        with suppress(ValueError, TypeError, AttributeError, RecursionError):
            clients, end = read(rest)
            named = type(clients) is list and clients and all(type(name) is str for name in clients)
            require(named and len({*clients, "", EVERYONE}) == len(clients) + 2, "not each client once")
            charge["clients"] = clients
            event, _ = read(rest[end:].partition(',"event":')[2])
            charge["events"] = [event] if fits("event", event) and event in self.header["plan"] else charge["events"]
        return [charge] if line and not start.startswith('{"hash"') else []  # a COMMIT starts with its hash

    def charge(self, charges: list[dict[str, Any]]) -> None:
        for client, event in ((name, event) for one in charges for name in one["clients"] for event in one["events"]):
            noise = (float(event["noise_multiplier"]), float(event["sample_rate"]))
            self.charged.setdefault(client, Counter())[noise] += event["steps"]

    def history(self, client: str) -> Counter[tuple[float, float]]:
        """What a client is charged, by name and, after a torn line, with everyone."""
        return self.charged[EVERYONE] + (self.charged.get(client, Counter()) if client != EVERYONE else Counter())

    def epsilon(self, client: str) -> float:
        """Spent: Renyi divergences add up, and give epsilon by Canonne, Kamath and Steinke 2020, Proposition 12."""
        head, history = self.header, self.history(client)
        rows = head["max_records"] if (head["mechanism"], head["unit"]) == ("device", "user") else 1
        curve = sum(n * divergence(*noise, rows, head["relation"] == "replace_one") for noise, n in history.items())
        bound = curve + np.log1p(-1 / ORDERS) - np.log(head["delta"] * ORDERS) / (ORDERS - 1)
        return max(0.0, float(bound.min())) if history else 0.0


@cache
def divergence(sigma: float, rate: float, rows: int, replaced: bool) -> Any:
    """Renyi divergence, at ORDERS, between a noised sum with a unit of `rows` rows and without; the larger way round.

    Worst are rows of norm C that point one way, or, `replaced`, then the other way (arXiv:2401.10294). k such rows have
    likelihood ratio exp((2kz - k^2) / (2 sigma^2)) to z ~ N(0, sigma^2); order a is log E[P^a Q^(1-a)] / (a - 1).
    """
    if rate == 1:
        return ORDERS * (rows * (1 + replaced) / sigma) ** 2 / 2
    most = 16 if rows > 16 else 64 if rows > 4 or sigma < 0.5 else 1024  # so much sensitivity needs no higher order
    step = min(sigma / 4, sigma**2 / 2)  # the trapezoid rule is exact to rounding here: the integrand is analytic
    z = step * np.arange(-(half := ceil((2 * most * rows + 12 * sigma) / step)), half + 1)  # beyond every order's peak
    drawn = [log(comb(rows, k)) + k * log(rate) + (rows - k) * log1p(-rate) for k in range(rows + 1)]
    ratios = ((w + (2 * k * y - k * k) / (2 * sigma**2) for k, w in enumerate(drawn)) for y in (z, -z))
    p, q = (reduce(np.logaddexp, ratio) for ratio in ratios)
    q = q if replaced else 0 * z
    base = log(step / sigma / sqrt(2 * pi)) - (z / sigma) ** 2 / 2
    ways = [[np.logaddexp.reduce(base + a * x + (1 - a) * y) for a in ORDERS] for x, y in ((p, q), (q, p))]
    return np.where(most >= ORDERS, np.maximum(0, np.max(ways, axis=0)) / (ORDERS - 1), inf) + 1e-12  # above rounding


def verify(path: Path, card: Path | None = None) -> tuple[int, str]:
    """The exit code, and what was found."""
    wrong = []
    try:
        ledger = VerifiedLedger(path.read_bytes())
        head, most = ledger.header, max(map(ledger.epsilon, ledger.charged))
        if card:
            told = json.loads(card.read_text(encoding="utf-8"))
            known = any(one["head"] in ledger.hashes for one in told["ledgers"])
            require(known, "no head on the card is in this ledger: it was cut, or the card is another's")
            claim = {**told["claim"], "plan": told["mechanism"]["releases"]}
            other = (name for name in (*CLAIM, "plan") if claim[name] != head[name])
            wrong = [f"{name} is {claim[name]} on the card, {head[name]} here" for name in other]
            if not most <= claim["epsilon"] * ROUNDING:
                wrong.append(f"the card promises epsilon {claim['epsilon']:.4f}, but {most:.4f} was spent")
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, MemoryError) as error:
        return 2, f"UNUSABLE: {error}"
    if not most <= head["target_epsilon"] * ROUNDING:
        wrong.append(f"epsilon {most:.4f} is above the budget {head['target_epsilon']:g}")
    found = [
        f"{len(ledger.hashes) - 1} entries, signed by {head['public_key'] or 'nobody'}, head {ledger.hashes[-1]}",
        f"{len(ledger.pending)} RESERVEs without COMMIT and {len(ledger.torn)} torn bytes at the end, charged",
        f"{len(ledger.charged) - 1} clients; epsilon per {head['unit']} ({head['relation']}), delta {head['delta']:g}: "
        f"{most:.4f} of {head['target_epsilon']:g}",
    ]
    return int(bool(wrong)), "\n".join(found + [f"VIOLATED: {reason}" for reason in wrong] + ["holds"] * (not wrong))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    code, words = verify(*map(Path, sys.argv[1:]))
    sys.stdout.write(words + "\n")
    sys.exit(code)
