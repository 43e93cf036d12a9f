"""Collected ledgers: each kind of damage is named, charges add up per client, and claims are judged by the ledger."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hushrec.common.errors import LedgerCorrupted, PrivacyError
from hushrec.common.ledger import Ledger, LedgerHeader
from hushrec.common.ledger_entries import canonical
from hushrec.common.privacy import PrivacyEvent, claim_for
from hushrec.simulations.audit import ledgers as ledgers_module
from hushrec.simulations.audit.ledgers import epsilon_by_round, ledger_checks, read_ledgers, spending

ROUND = PrivacyEvent(2.0, 1.0, 1)
COUNTS = PrivacyEvent(10.0, 1.0, 1, "popularity")
CLAIM = claim_for("device", "record", delta=1e-5, target_epsilon=8.0, max_records=4)
HEADER = LedgerHeader.for_claim(CLAIM, who="device 1", clipping_norm=0.5, denominator=1.0, plan=[ROUND, COUNTS])
SHA = "ab" * 32
Edit = Callable[[list[dict[str, Any]]], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger of three rounds of clients a and b; the last one has no COMMIT."""
    return write(tmp_path / "ledger.jsonl")


def write(path: Path, *, clients: Sequence[str] = ("a", "b"), header: LedgerHeader = HEADER, rounds: int = 3) -> Path:
    with Ledger.open(path, header) as ledger:
        ledger.release(list(clients), COUNTS, "popularity counts")
        for server_round in range(1, rounds + 1):
            reserved = ledger.reserve(server_round, list(clients), ROUND)
            if server_round < rounds:
                ledger.commit(reserved, dict.fromkeys(clients, SHA))
    return path


def rewritten(path: Path, edit: Edit, *, first: int = 0) -> None:
    """Edit the parsed entries, and make every hash and link right again from entry `first` on."""
    entries = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    edit(entries)
    previous = entries[first - 1]["hash"] if first else "0" * 64
    for place in range(first, len(entries)):
        entry = {**entries[place], "seq": place, "prev": previous}
        entry.pop("hash", None)
        previous = entry["hash"] = hashlib.sha256(canonical(entry)).hexdigest()
        entries[place] = entry
    path.write_bytes(b"".join(canonical(entry) + b"\n" for entry in entries))


def lines(path: Path, change: Callable[[list[bytes]], None]) -> None:
    content = path.read_bytes().split(b"\n")
    change(content)
    path.write_bytes(b"\n".join(content))


def test_each_client_pays_for_its_own_entries_and_pending_ones_are_charged(path: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.jsonl", clients=["c"], header=replace(HEADER, who="device 2"), rounds=1)
    collected = read_ledgers([path, other])
    spent = spending(collected)
    assert [one.clients for one in spent] == [("a", "b"), ("c",)]
    assert spent[0].events == (COUNTS, PrivacyEvent(2.0, 1.0, 3))
    assert spent[0].figures["rdp"] == CLAIM.epsilon([COUNTS, PrivacyEvent(2.0, 1.0, 3)])
    assert spent[0].epsilon == max(value for value in spent[0].figures.values() if value is not None)
    assert spent[1].rounds_left is not None
    assert spent[0].rounds_left == spent[1].rounds_left - 2
    assert {check.verdict for check in ledger_checks(collected, spent, 3)} == {"holds"}


def test_rounds_left_is_the_largest_number_that_fits(path: Path) -> None:
    spent = spending(read_ledgers([path]))[0]
    assert spent.rounds_left is not None
    fits = [*spent.events, PrivacyEvent(2.0, 1.0, spent.rounds_left)]
    assert CLAIM.epsilon(fits) <= 8.0 < CLAIM.epsilon([*fits, ROUND])


def test_a_client_of_two_ledgers_pays_for_both(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", rounds=8)
    two = write(tmp_path / "two.jsonl", clients=["a"], header=replace(HEADER, who="device 2"), rounds=8)
    alone = spending(read_ledgers([one]))
    both = spending(read_ledgers([one, two]))
    assert [one.clients for one in both] == [("a",), ("b",)]
    assert both[0].figures["rdp"] == CLAIM.epsilon([PrivacyEvent(2.0, 1.0, 16), replace(COUNTS, steps=2)])
    assert both[1].epsilon == alone[0].epsilon < both[0].epsilon


def test_epsilon_grows_with_every_round_up_to_what_is_spent(path: Path) -> None:
    collected = read_ledgers([path])
    curve = epsilon_by_round(collected)
    assert [server_round for server_round, _ in curve] == [0, 1, 2, 3]
    assert [epsilon for _, epsilon in curve] == [
        CLAIM.epsilon([COUNTS, *([PrivacyEvent(2.0, 1.0, rounds)] if rounds else [])]) for rounds in range(4)
    ]


def test_a_torn_last_line_is_charged_as_the_entry_it_would_have_been(path: Path) -> None:
    whole = spending(read_ledgers([path]))[0]
    path.write_bytes(path.read_bytes()[:-2])
    torn = read_ledgers([path])
    assert torn[0].replay.torn
    assert spending(torn)[0].events == whole.events
    check = ledger_checks(torn, spending(torn), 2)[0]
    assert (check.verdict, check.figures["torn"]) == ("holds", 1)


def test_a_torn_line_that_names_nobody_charges_everyone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    Ledger.open(path, HEADER).close()
    path.write_bytes(path.read_bytes() + b'{"cli')
    spent = spending(read_ledgers([path]))
    assert [one.clients for one in spent] == [("*",)]
    assert spent[0].events == (COUNTS, ROUND)


def moved(content: list[bytes]) -> None:
    content[2], content[3] = content[3], content[2]


def edited(content: list[bytes]) -> None:
    content[2] = content[2].replace(b'"round":1', b'"round":9')


DAMAGES: dict[str, tuple[Callable[[list[bytes]], None], str]] = {
    "edited": (edited, r"ledger\.jsonl: ledger line 3: .*\(edited: "),
    "removed": (lambda content: content.__delitem__(3), r"ledger line 4: .*removed: entry 4 stands where"),
    "repeated": (lambda content: content.insert(3, content[2]), r"ledger line 4: .*repeated: entry 2 stands"),
    "reordered": (moved, r"ledger line 3: .*\(reordered: entry 3 stands where entry 2 belongs\)"),
    "cut at the head": (lambda content: content.__delitem__(0), "ledger line 1: "),
    "NaN": (
        lambda content: content.__setitem__(1, content[1].replace(b"10.0", b"NaN")),
        "ledger line 2: the ledger stores JSON with finite numbers only",
    ),
    "not JSON": (lambda content: content.__setitem__(1, b"hello"), "ledger line 2: Expecting value"),
    "empty": (lambda content: content.clear(), "ledger line 1: no complete header"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_with_its_line(name: str, path: Path) -> None:
    change, message = DAMAGES[name]
    lines(path, change)
    with pytest.raises(LedgerCorrupted, match=message):
        read_ledgers([path])


def sigma(entries: list[dict[str, Any]]) -> None:
    entries[2]["event"]["noise_multiplier"] = 1.0


def newer(entries: list[dict[str, Any]]) -> None:
    entries[0]["format"] = 2


def strange(entries: list[dict[str, Any]]) -> None:
    entries[2]["type"] = "REFUND"


FORGERIES: dict[str, tuple[Edit, str]] = {
    "noise outside the plan": (sigma, "ledger line 3: the ledger's header does not allow the release"),
    "future version": (newer, r"ledger line 1: .*\(unknown: format; written by a newer hushrec"),
    "unknown entry": (strange, r"ledger line 3: .*\(unknown: REFUND; written by a newer hushrec"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forger_who_mends_the_chain_is_still_named(name: str, path: Path) -> None:
    edit, message = FORGERIES[name]
    rewritten(path, edit)
    with pytest.raises(LedgerCorrupted, match=message):
        read_ledgers([path])


def test_an_entry_grafted_from_another_history_is_a_fork(path: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.jsonl", clients=["a"])
    lines(path, lambda content: content.__setitem__(3, other.read_bytes().split(b"\n")[3]))
    with pytest.raises(LedgerCorrupted, match=r"ledger line 4: .*\(forked: "):
        read_ledgers([path])


def test_two_copies_that_part_are_a_fork_and_a_shorter_copy_is_named(path: Path, tmp_path: Path) -> None:
    fork, copy = tmp_path / "fork.jsonl", tmp_path / "copy.jsonl"
    content = path.read_bytes().split(b"\n")
    for target in (fork, copy):
        target.write_bytes(b"\n".join(content[:4]) + b"\n")
    with Ledger.open(fork, HEADER) as ledger:
        ledger.reserve(7, ["a"], ROUND)
    with pytest.raises(LedgerCorrupted, match="are alike up to line 4 and differ after it: forked"):
        read_ledgers([path, fork])
    with pytest.raises(LedgerCorrupted, match="are one ledger, one of them perhaps cut"):
        read_ledgers([path, copy])


def test_a_head_seen_earlier_shows_a_cut_that_the_chain_cannot(path: Path) -> None:
    head = read_ledgers([path])[0].replay.head
    read_ledgers([path], heads=[head])
    lines(path, lambda content: content.__delitem__(-2))
    read_ledgers([path])  # the chain alone is whole
    with pytest.raises(LedgerCorrupted, match=f"no ledger contains the head {head}: truncated, or forked"):
        read_ledgers([path], heads=[head])


def test_a_ledger_of_another_experiment_is_named_by_what_differs(path: Path, tmp_path: Path) -> None:
    header = replace(HEADER, who="device 2", clipping_norm=1.0)
    other = write(tmp_path / "other.jsonl", clients=["c"], header=header)
    with pytest.raises(PrivacyError, match=r"other\.jsonl is the ledger of another experiment .*clipping_norm is 1\.0"):
        read_ledgers([path, other])


def test_a_foreign_key_is_refused_and_the_right_one_is_not(tmp_path: Path) -> None:
    path, key, other = tmp_path / "ledger.jsonl", Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    with Ledger.open(path, HEADER, key=key) as ledger:
        ledger.reserve(1, ["a"], ROUND)
    own, foreign = (each.public_key().public_bytes_raw().hex() for each in (key, other))
    assert read_ledgers([path], keys=[own])[0].replay.public_key == own
    with pytest.raises(PrivacyError, match="is not signed with a key that was given, but with"):
        read_ledgers([path], keys=[foreign])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match=r"cannot read the ledger .*none\.jsonl: No such file"):
        read_ledgers([tmp_path / "none.jsonl"])


def test_a_budget_that_is_passed_is_violated_and_names_the_client(tmp_path: Path) -> None:
    path = write(tmp_path / "ledger.jsonl", rounds=40)  # the ledger records; it is the client that refuses
    collected = read_ledgers([path])
    spent = spending(collected)
    checks = {check.name: check for check in ledger_checks(collected, spent, 2)}
    assert checks["budget"].verdict == "VIOLATED"
    assert "2 client(s) passed it, first a" in checks["budget"].measured
    assert spent[0].rounds_left == 0
    assert [name for name, check in checks.items() if check.verdict == "VIOLATED"] == ["budget"]


def test_a_delta_that_allows_a_leak_is_violated(path: Path) -> None:
    collected = read_ledgers([path])
    check = ledger_checks(collected, spending(collected), 20_000)[-1]
    assert (check.name, check.verdict) == ("delta", "VIOLATED")
    assert ledger_checks(collected, spending(collected), None)[-1].verdict == "not tested"


def test_accountants_that_disagree_are_violated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hushrec.common.accountants.pld_epsilon", lambda *_: 0.01)
    collected = read_ledgers([path])
    spent = spending(collected)
    checks = {check.name: check for check in ledger_checks(collected, spent, 2)}
    assert checks["accountants"].verdict == "VIOLATED"
    assert "a: the accountants contradict each other" in checks["accountants"].measured
    assert math.isclose(spent[0].epsilon, CLAIM.epsilon(spent[0].events))


@pytest.mark.parametrize("fault", ["forgets pending", "halves epsilon"])
def test_a_replay_that_counts_otherwise_than_the_verifier_is_violated(
    fault: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected = read_ledgers([path])
    spent = spending(collected)
    if fault == "forgets pending":
        real = collected[0].replay.events
        monkeypatch.setattr(collected[0].replay, "events", lambda client: real(client)[:1])
    else:
        other = ledgers_module.VerifiedLedger
        monkeypatch.setattr(other, "epsilon", lambda self, client: CLAIM.epsilon([ROUND]) / 2)
    check = next(one for one in ledger_checks(collected, spent, 2) if one.name == "independent verifier")
    assert check.verdict == "VIOLATED"
