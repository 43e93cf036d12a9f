"""100,000 changed ledgers: what the reader takes is what was written, as far as it goes, and is charged for it.

A chain cannot show that its end is missing, nor that a forger without a key wrote all of it anew; a head that was kept
elsewhere shows both. Everything else must be refused. Seeded, so that every run tries the same changes.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hushrec.common.errors import LedgerCorrupted
from hushrec.common.ledger import Ledger, LedgerHeader, _replay
from hushrec.common.ledger_entries import EVERYONE, GENESIS, Replay, canonical
from hushrec.common.privacy import PrivacyEvent, claim_for
from hushrec.simulations.audit.verify_ledger import VerifiedLedger

UNSIGNED, SIGNED, FORGED = 82_000, 9_000, 12_000
SECOND_READER = 5  # every fifth ledger is also read by the standalone verifier
ROUND = PrivacyEvent(1.0, 0.2, 5)
POPULARITY = PrivacyEvent(10.0, 1.0, 1, "popularity")
CLAIM = claim_for("device", "record", delta=1e-5, target_epsilon=12.0, max_records=10)
HEADER = LedgerHeader.for_claim(CLAIM, who="test", clipping_norm=0.5, denominator=8.0, plan=[ROUND, POPULARITY])
KEY, FORGERS_KEY = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
SHA = "ab" * 32
Charges = dict[str, Counter[tuple[float, float]]]


def write(path: Path, names: str, key: Ed25519PrivateKey | None, *, torn: int = 0) -> bytes:
    """A ledger with every kind of entry; with `torn`, a power cut that many bytes before the end and its recovery."""
    one, *others = names
    with Ledger.open(path, HEADER, key=key) as ledger:
        ledger.release(list(names), POPULARITY, "counts")
        first = ledger.reserve(1, list(names), ROUND)
        ledger.commit(first, dict.fromkeys(names, SHA))
        ledger.reserve(2, others or [one], ROUND)
    if torn:
        path.write_bytes(path.read_bytes()[:-torn])
        with Ledger.open(path, HEADER, key=key) as ledger:
            ledger.reserve(3, [one], ROUND)
    return path.read_bytes()


# --- changes ---


def flipped(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def inserted(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.choice([rng.randbytes(1), rng.choice([b"\n", b"\x18", b" ", b'"'])]) + content[place:]


def deleted(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + content[place + rng.choice([1, 1, 2, 8]) :]


def replaced(content: bytes, rng: random.Random) -> bytes:
    place, length = rng.randrange(len(content)), rng.choice([1, 1, 2, 8])
    return content[:place] + rng.randbytes(length) + content[place + length :]


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def lines_moved(content: bytes, rng: random.Random) -> bytes:
    """Two lines swapped, one written twice, or one removed."""
    lines = content.splitlines(keepends=True)
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(3)
    if kind == 0:
        lines[one], lines[other] = lines[other], lines[one]
    elif kind == 1:
        lines.insert(other, lines[one])
    else:
        del lines[one]
    return b"".join(lines)


def number_edited(content: bytes, rng: random.Random) -> bytes:
    """A number, text or list of one entry exchanged, in canonical form, the hashes left as they were."""
    lines = content.split(b"\n")
    number = rng.randrange(len(lines) - 1)
    try:
        entry = json.loads(lines[number])
    except ValueError:
        return flipped(content, rng)
    edit(entry, rng)
    return b"\n".join([*lines[:number], canonical(entry), *lines[number + 1 :]])


def edit(entry: dict[str, Any], rng: random.Random) -> None:
    """Exchange one field, at any depth."""
    name = rng.choice(sorted(entry))
    value = entry[name]
    if isinstance(value, dict) and value and rng.random() < 0.8:
        edit(value, rng)
    elif isinstance(value, list) and value and isinstance(value[0], dict) and rng.random() < 0.8:
        edit(rng.choice(value), rng)
    elif rng.random() < 0.1:
        del entry[name]
    elif isinstance(value, int | float) and rng.random() < 0.8:
        entry[name] = rng.choice([value + 1, value - 1, 2 * value, -value, 0, 0.5, 10**400, True, str(value)])
    else:
        entry[name] = rng.choice([None, "", "z", ["z"], ["a"], ["a", "a"], ["*"], {}, 7, [], 1e300, SHA])


CHANGES: list[Callable[[bytes, random.Random], bytes]] = [
    flipped,
    inserted,
    deleted,
    replaced,
    cut,
    lines_moved,
    number_edited,
]


def changed(corpus: list[bytes], rng: random.Random) -> tuple[bytes, bytes]:
    """A ledger of the corpus, and what one to three changes made of it; sometimes the end is another ledger's."""
    original = content = rng.choice(corpus)
    if rng.random() < 0.2:
        other = rng.choice(corpus)
        if rng.random() < 0.5:  # at the same entry
            place = rng.randrange(1, 5)
            content = b"".join(content.splitlines(True)[:place] + other.splitlines(True)[place:])
        else:
            content = content[: rng.randrange(len(content))] + other[rng.randrange(len(other)) :]
    while content == original or rng.random() < 0.2:
        content = rng.choice(CHANGES)(content if b"\n" in content else original, rng)
    return original, content


def rehashed(content: bytes, rng: random.Random, key: Ed25519PrivateKey | None, *, sign: bool) -> bytes:
    """One to three fields exchanged, and every hash after them made right, as a forger can.

    Args:
        sign: with `key`, whose public half the header then names; else old signatures are left in place.
    """
    entries = [json.loads(line) for line in content.split(b"\n")[:-1]]
    for _ in range(rng.randint(1, 3)):
        edit(entries[rng.randrange(len(entries))], rng)
    if sign and key is not None and "public_key" in entries[0]:
        entries[0]["public_key"] = key.public_key().public_bytes_raw().hex()
    previous, new = GENESIS, {}
    for place, entry in enumerate(entries):
        old, signature = entry.pop("hash", None), entry.pop("signature", None)
        entry |= {"prev": previous, "seq": place} if rng.random() < 0.98 else {}
        if isinstance(reserve := entry.get("reserve"), str):
            entry["reserve"] = new.get(reserve, reserve)
        digest = hashlib.sha256(canonical(entry))
        previous = new[old if isinstance(old, str) else ""] = entry["hash"] = digest.hexdigest()
        if key is not None:
            entry["signature"] = key.sign(digest.digest()).hex() if sign else signature
    return b"".join(canonical(entry) + b"\n" for entry in entries)


# --- what must hold ---


def read(content: bytes, key: Ed25519PublicKey | None = None, head: str = "") -> Replay | None:
    """What the reader makes of it; None: refused. Any other error is a crash and fails the test."""
    try:
        return _replay(content, key, head)
    except LedgerCorrupted:
        return None


def charges(replay: Replay) -> Charges:
    """Steps by client and noise."""
    found: Charges = {}
    for client in (*replay.clients(), EVERYONE):
        events = replay.events("" if client == EVERYONE else client)
        found[client] = Counter({(e.noise_multiplier, e.sample_rate): e.steps for e in events})
    return found


def agrees(content: bytes, replay: Replay | None) -> bool:
    """Whether the standalone verifier refuses it too, or charges everybody the same."""
    try:
        found = VerifiedLedger(content)
    except ValueError:
        return replay is None
    return replay is not None and charges(replay) == {client: found.history(client) for client in charges(replay)}


@dataclass
class Written:
    """What honest writers wrote: entry ends -> charges and head there."""

    ledgers: list[bytes]
    key: Ed25519PublicKey | None = None
    ends: dict[bytes, Charges] = field(default_factory=dict)
    heads: dict[bytes, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for content in self.ledgers:
            lines = content.splitlines(keepends=True)
            for number in range(1, len(lines) + 1):
                replay = read(part := b"".join(lines[:number]), self.key)
                assert replay is not None
                self.ends[part], self.heads[part] = charges(replay), replay.head

    def judge(self, original: bytes, content: bytes, replay: Replay) -> str:
        """Which of the ways of being accepted this is; fails the test if it is none.

        Its complete lines are the first lines of a ledger that was written, byte for byte, nobody is charged less than
        they say, and whoever holds the original's head sees whether it is still there.
        """
        complete = content[: content.rfind(b"\n") + 1]
        assert complete in self.ends, f"accepted what nobody wrote: {content!r}"
        assert replay.torn == content[len(complete) :]
        told, promised = charges(replay), self.ends[complete]
        assert all(told[client] >= steps for client, steps in promised.items())
        if not replay.torn:
            assert told == promised
        for whole in self.ledgers if replay.torn else ():  # a line that was being written when the power went
            line = whole[len(complete) :].split(b"\n")[0] if whole.startswith(complete) else b""
            if line.startswith(replay.torn):
                due = self.ends[complete + line + b"\n"]
                everyone = told.get(EVERYONE, Counter())
                assert all(told.get(client, everyone) >= steps for client, steps in due.items())
        head = self.heads[original]
        assert (read(content, self.key, head) is not None) == complete.startswith(original)
        return "torn" if replay.torn else "whole" if complete in self.ledgers else "prefix"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Ed25519PrivateKey | None], Written]]:
    folder = tmp_path_factory.mktemp("ledgers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)

        def written(key: Ed25519PrivateKey | None) -> Written:
            name = "signed" if key else "open"
            parts = [("ab", 0), ("b", 0), ("ab", 30), ("acb", 300)]
            paths = [folder / f"{name}-{number}.jsonl" for number in range(len(parts))]
            made = [write(path, names, key, torn=torn) for path, (names, torn) in zip(paths, parts, strict=True)]
            return Written(made, key.public_key() if key else None)

        yield written


@pytest.mark.parametrize(("key", "cases", "seed"), [(None, UNSIGNED, 1), (KEY, SIGNED, 2)], ids=["unsigned", "signed"])
def test_what_is_accepted_of_a_changed_ledger_is_what_was_written_as_far_as_it_goes(
    corpus: Callable[..., Written], key: Ed25519PrivateKey | None, cases: int, seed: int
) -> None:
    written, rng = corpus(key), random.Random(seed)
    seen: Counter[str] = Counter()
    for number in range(cases):
        original, content = changed(written.ledgers, rng)
        replay = read(content, written.key)
        seen["refused" if replay is None else written.judge(original, content, replay)] += 1
        if number % SECOND_READER == 0:
            assert agrees(content, replay), content
    assert seen.total() == cases
    assert seen["refused"] > 0.5 * cases
    assert min(seen[kind] for kind in ("torn", "prefix", "whole")) > 0.001 * cases, seen


def test_a_forger_without_the_key_is_refused_or_seen_by_whoever_holds_a_head(corpus: Callable[..., Written]) -> None:
    """Every hash is right. In a signed ledger the signatures are old or another key's; an open one shows its head."""
    opened, signed, rng = corpus(None), corpus(KEY), random.Random(3)
    plain = {id(one): [whole for whole in one.ledgers if b"\x18" not in whole] for one in (opened, signed)}
    accepted = 0
    for number in range(FORGED):
        written = signed if number % 3 == 0 else opened
        original = rng.choice(plain[id(written)])
        sign, content = rng.random() < 0.5, original
        while content == original:
            content = rehashed(original, rng, (FORGERS_KEY if sign else KEY) if written is signed else None, sign=sign)
        if written is signed:
            assert read(content, KEY.public_key()) is None, content
            continue
        replay = read(content)
        assert read(content, head=written.heads[original]) is None, content
        if replay is not None:  # a ledger in its own right, with other charges: exactly those that it names
            accepted += 1
            assert charges(replay) == named(content), content
        if number % SECOND_READER == 0:
            assert agrees(content, replay), content
    assert accepted > 100


def named(content: bytes) -> Charges:
    """What the entries charge, added up without the code under test."""
    found: Charges = {EVERYONE: Counter()}
    for line in content.split(b"\n")[:-1]:
        entry = json.loads(line)
        for client in entry.get("clients", ()):
            key = (float(entry["event"]["noise_multiplier"]), float(entry["event"]["sample_rate"]))
            found.setdefault(client, Counter())[key] += entry["event"]["steps"]
    return found
