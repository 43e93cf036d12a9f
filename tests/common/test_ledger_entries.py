"""The ledger's file: tampering, torn lines, signatures and random bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hushrec.common.errors import LedgerCorrupted, PrivacyError
from hushrec.common.ledger import Ledger, LedgerHeader, read_ledger
from hushrec.common.ledger_entries import EVERYONE, seal, torn_charges
from hushrec.common.privacy import PrivacyEvent, claim_for

ROUND = PrivacyEvent(1.0, 0.2, 5)
POPULARITY = PrivacyEvent(10.0, 1.0, 1, "popularity")
CLAIM = claim_for("device", "record", delta=1e-5, target_epsilon=12.0, max_records=10)
HEADER = LedgerHeader.for_claim(CLAIM, who="test", clipping_norm=0.5, denominator=8.0, plan=[ROUND, POPULARITY])
SHA = "ab" * 32
DAMAGES = [
    (damage, line)
    for damage in ("edited", "reformatted", "duplicated", "removed", "swapped")
    for line in range(5 if damage in ("removed", "swapped") else 6)  # a cut at the end needs a head held elsewhere
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def lines(path: Path) -> list[bytes]:
    """The lines of the ledger at `path`: HEADER RESERVE RESERVE COMMIT RESERVE RELEASE."""
    with Ledger.open(path, HEADER) as ledger:
        ledger.reserve(1, ["c"], ROUND)
        first = ledger.reserve(1, ["a", "b"], ROUND)
        ledger.commit(first, {"a": SHA, "b": SHA})
        ledger.reserve(2, ["a", "c"], ROUND)
        ledger.release(["b"], POPULARITY, "popularity counts")
    return path.read_bytes().splitlines(keepends=True)


def written(lines: list[bytes], client: str) -> list[PrivacyEvent]:
    """What lines charge a client, read without the code under test."""
    entries = [json.loads(line) for line in lines]
    return [PrivacyEvent.from_json(entry["event"]) for entry in entries if client in entry.get("clients", ())]


@pytest.mark.parametrize(("damage", "line"), DAMAGES)
def test_a_tampered_line_is_found_and_named(path: Path, lines: list[bytes], damage: str, line: int) -> None:
    if damage == "edited":
        lines[line] = lines[line].replace(b'"seq":', b'"Seq":')
    elif damage == "reformatted":
        lines[line] = lines[line].replace(b":", b": ", 1)
    elif damage == "duplicated":
        lines.insert(line, lines[line])
    elif damage == "removed":
        del lines[line]
    else:
        lines[line], lines[line + 1] = lines[line + 1], lines[line]
    path.write_bytes(b"".join(lines))
    named = line + 1 + (damage == "duplicated")
    with pytest.raises(LedgerCorrupted, match=f"line {named}:"):
        read_ledger(path)
    with pytest.raises(LedgerCorrupted, match=f"line {named}:"):
        Ledger.open(path, HEADER)
    assert path.read_bytes() == b"".join(lines)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0), byte=st.integers(1, 255))
def test_no_changed_byte_of_a_complete_line_goes_unseen(
    path: Path, lines: list[bytes], position: int, byte: int
) -> None:
    content = bytearray(b"".join(lines))
    content[position % (len(content) - 1)] ^= byte
    path.write_bytes(content)
    with pytest.raises(LedgerCorrupted):
        read_ledger(path)


def test_an_edited_line_with_its_own_hash_made_right_breaks_the_next(path: Path, lines: list[bytes]) -> None:
    entry = json.loads(lines[1])
    body = {name: entry[name] for name in ("type", "round", "event")}
    forged = seal({**body, "clients": ["somebody else"]}, entry["seq"], entry["prev"], None)
    lines[1] = json.dumps(forged, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(LedgerCorrupted, match="line 3:"):
        read_ledger(path)


def test_a_cut_ledger_is_found_by_whoever_holds_a_head(path: Path, lines: list[bytes]) -> None:
    head = read_ledger(path).head
    assert read_ledger(path, expected_head=head).length == 6
    path.write_bytes(b"".join(lines[:-1]))
    read_ledger(path)  # the chain alone cannot tell
    with pytest.raises(LedgerCorrupted, match="cut or forked"):
        read_ledger(path, expected_head=head)


@pytest.mark.parametrize("line", [3, 4, 5], ids=["COMMIT", "RESERVE", "RELEASE"])
def test_a_cut_at_any_byte_is_recovered_and_never_costs_less(
    path: Path, lines: list[bytes], line: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # it would be most of the test's time
    before, kind = b"".join(lines[:line]), json.loads(lines[line])["type"]
    for cut in range(1, len(lines[line])):
        path.write_bytes(before + lines[line][:cut])
        auditor = read_ledger(path)
        with Ledger.open(path, HEADER) as ledger:
            for client in ("a", "b", "c", "new"):
                promised = written(lines[: line + (kind != "COMMIT")], client)
                assert CLAIM.epsilon(ledger.events(client)) >= CLAIM.epsilon(promised)
                assert sorted(map(str, auditor.events(client))) == sorted(map(str, ledger.events(client)))
            ledger.verify()
        assert path.read_bytes().startswith(before + lines[line][:cut])  # nothing was taken away


def test_a_header_cut_at_any_byte_is_completed(path: Path, lines: list[bytes]) -> None:
    for cut in range(0, len(lines[0]), 11):
        path.write_bytes(lines[0][:cut])
        Ledger.open(path, HEADER).close()
        assert path.read_bytes() == lines[0]


def test_a_torn_charge_counts_as_worst_what_cannot_be_read(lines: list[bytes]) -> None:
    reserve, plan = lines[4], HEADER.plan
    everything = [event.to_json() for event in plan]
    named_and_known = {"clients": ["a", "c"], "events": [ROUND.to_json()]}
    assert torn_charges(reserve[:-1], plan) == [named_and_known]
    assert torn_charges(reserve[: reserve.index(b"}") + 1], plan) == [named_and_known]
    assert torn_charges(reserve[: reserve.index(b"}")], plan) == [{"clients": ["a", "c"], "events": everything}]
    assert torn_charges(reserve[: reserve.index(b"]")], plan) == [{"clients": [EVERYONE], "events": everything}]
    assert torn_charges(b"\0" * 300, plan) == [{"clients": [EVERYONE], "events": everything}]
    foreign = reserve.replace(b'"noise_multiplier":1.0', b'"noise_multiplier":9.9')
    assert torn_charges(foreign, plan) == [{"clients": ["a", "c"], "events": everything}]


def test_everyone_includes_clients_first_seen_later(path: Path, lines: list[bytes]) -> None:
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:14])
    with Ledger.open(path, HEADER) as ledger:
        assert ledger.events("new") == (ROUND, POPULARITY)
        assert ledger.clients() == ("c", "a", "b")
        ledger.reserve(3, ["new"], ROUND)
        assert ledger.events("new") == (PrivacyEvent(1.0, 0.2, 10), POPULARITY)


def test_a_torn_commit_charges_nobody_again(path: Path, lines: list[bytes]) -> None:
    path.write_bytes(b"".join(lines[:3]) + lines[3][:40])
    with Ledger.open(path, HEADER) as ledger:
        assert ledger.events("a") == (ROUND,)
        assert ledger.last_reply("a") is None
        assert [clients for _, clients in ledger.pending().values()] == [("c",), ("a", "b")]


def test_a_crash_during_recovery_charges_once(path: Path, lines: list[bytes]) -> None:
    torn = b"".join(lines[:-1]) + lines[-1][:-5]
    path.write_bytes(torn)
    Ledger.open(path, HEADER).close()
    recovered, expected = path.read_bytes(), read_ledger(path).events("b")
    assert expected == (ROUND, POPULARITY)
    for cut in range(len(torn), len(recovered), 7):
        path.write_bytes(recovered[:cut])
        with Ledger.open(path, HEADER) as ledger:
            assert ledger.events("b") == expected
            assert ledger.events("new") == ()


def test_recovered_bytes_cannot_be_edited_later(path: Path, lines: list[bytes]) -> None:
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:-5])
    Ledger.open(path, HEADER).close()
    path.write_bytes(path.read_bytes().replace(b'"why":"popularity', b'"why":"Popularity'))
    with pytest.raises(LedgerCorrupted, match="line 6:"):
        read_ledger(path)


def test_a_signed_ledger_refuses_another_key_and_a_wrong_signature(path: Path) -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    with Ledger.open(path, HEADER, key=key) as ledger:
        ledger.reserve(1, ["a"], ROUND)
        ledger.verify()
    assert read_ledger(path, public_key=key.public_key()).events("a") == (ROUND,)
    with pytest.raises(LedgerCorrupted, match="expected key"):
        read_ledger(path, public_key=other.public_key())
    for wrong in (other, None):
        with pytest.raises(PrivacyError, match="public_key changed"):
            Ledger.open(path, HEADER, key=wrong)
    for signature in (other.sign(b"anything").hex(), "00", 7, None):
        header, line = path.read_bytes().splitlines()
        entry = {**json.loads(line), "signature": signature}
        if signature is None:
            del entry["signature"]
        forged = path.with_name("forged.jsonl")
        forged.write_bytes(header + b"\n" + json.dumps(entry, sort_keys=True, separators=(",", ":")).encode() + b"\n")
        with pytest.raises(LedgerCorrupted, match="line 2:"):
            read_ledger(forged)


@pytest.mark.parametrize("key", [Ed25519PrivateKey.generate(), None], ids=["forger's key", "no key"])
def test_a_forger_who_rebuilds_the_chain_lacks_the_signature(path: Path, key: Ed25519PrivateKey | None) -> None:
    Ledger.open(path, HEADER, key=key).close()
    with pytest.raises(LedgerCorrupted, match="expected key"):
        read_ledger(path, public_key=Ed25519PrivateKey.generate().public_key())


@pytest.mark.parametrize(
    "body",
    [
        {"type": "REFUND", "clients": ["a"], "event": ROUND.to_json()},
        {"type": ["RESERVE"], "clients": ["a"], "event": ROUND.to_json(), "round": 1},
        {"type": "RESERVE", "clients": ["a"], "event": ROUND.to_json(), "round": "1"},
        {"type": "RESERVE", "clients": [1], "event": ROUND.to_json(), "round": 1},
        {"type": "RESERVE", "clients": ["a"], "event": {**ROUND.to_json(), "steps": 1}, "round": 1},
        {"type": "RELEASE", "clients": ["a"], "event": ROUND.to_json(), "round": 1},
        {"type": "COMMIT", "reserve": ["x"], "replies": {}},
        {"type": "RECOVERED", "charges": [], "torn": {"bytes": 0, "sha256": SHA}},
        {"type": "HEADER", **HEADER.to_json(), "public_key": ""},
    ],
)
def test_a_well_chained_line_that_is_no_entry_is_refused(path: Path, lines: list[bytes], body: dict[str, Any]) -> None:
    entry = seal(body, 6, read_ledger(path).head, None)
    path.write_bytes(b"".join(lines) + json.dumps(entry, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    with pytest.raises(LedgerCorrupted, match="line 7:"):
        read_ledger(path)


@pytest.mark.parametrize(
    "change",
    [
        {"plan": []},
        {"clipping_norm": 0.0},
        {"target_epsilon": 10**400},
        {"relation": "replace_one"},
        {"unit": "galaxy"},
        {"delta": "1"},
        {"public_key": 0},
    ],
)
def test_a_well_hashed_header_without_a_claim_is_refused(path: Path, change: dict[str, Any]) -> None:
    entry = seal({"type": "HEADER", **HEADER.to_json(), "public_key": "", **change}, 0, "0" * 64, None)
    path.write_bytes(json.dumps(entry, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    with pytest.raises(LedgerCorrupted, match="line 1:"):
        read_ledger(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), keep=st.integers(0, 6))
def test_random_bytes_are_a_ledger_or_corrupted(path: Path, lines: list[bytes], content: bytes, keep: int) -> None:
    path.write_bytes(b"".join(lines[:keep]) + content)
    try:
        read_ledger(path)
    except LedgerCorrupted:
        return
    assert keep
    assert b"\n" not in content


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), line=st.integers(0, 5), value=json_values)
def test_any_value_in_any_field_is_accepted_or_corrupted(
    path: Path, lines: list[bytes], data: st.DataObject, line: int, value: Any
) -> None:
    entry = json.loads(lines[line])
    entry[data.draw(st.sampled_from(sorted(entry)))] = value
    seq, prev = entry.pop("seq"), entry.pop("prev")
    entry.pop("hash", None)
    if not isinstance(seq, int) or not isinstance(prev, str):
        return
    sealed = json.dumps(seal(entry, seq, prev, None), sort_keys=True, separators=(",", ":")).encode() + b"\n"
    path.write_bytes(b"".join(lines[:line]) + sealed)
    try:
        read_ledger(path)
    except LedgerCorrupted as error:
        assert error.args[0].startswith(f"ledger line {line + 1}:")  # it may also be accepted


def test_an_unsigned_ledger_has_no_signature_of_any_kind(path: Path, lines: list[bytes]) -> None:
    lines[-1] = lines[-1].replace(b',"type"', b',"signature":null,"type"')
    assert b'"signature":null' in lines[-1]
    path.write_bytes(b"".join(lines))
    with pytest.raises(LedgerCorrupted, match="line 6: the signature"):
        read_ledger(path)
