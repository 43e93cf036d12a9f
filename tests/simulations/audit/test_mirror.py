"""Ledgers against the server's mirror: what was cut, forked or exchanged since is named, what is newer is not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hushrec.common.errors import PrivacyError
from hushrec.common.ledger import Ledger, LedgerHeader
from hushrec.common.privacy import PrivacyEvent, claim_for
from hushrec.common.signed_head import sign_head
from hushrec.server.ledger_mirror import LedgerMirror, read_mirror
from hushrec.simulations import cli
from hushrec.simulations.audit.check import Check
from hushrec.simulations.audit.ledgers import read_ledgers
from hushrec.simulations.audit.mirror import mirror_check

SERVER, OTHER, *KEYS = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(1, 6))
ROUND = PrivacyEvent(3.0, 1.0, 1)
CLAIM = claim_for("device", "record", delta=1e-5, target_epsilon=8.0, max_records=4)
HEADER = LedgerHeader.for_claim(CLAIM, who="device 0", clipping_norm=0.5, denominator=1.0, plan=[ROUND])
SHA = "ab" * 32


def hexed(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()


def play(path: Path, number: int, rounds: list[int], mirror: LedgerMirror | None, reply: str = SHA) -> None:
    """Rounds of one device; with a mirror, each reply arrives there."""
    name, key = f"device {number}", KEYS[number]
    with Ledger.open(path, replace(HEADER, who=name), key=key) as ledger:
        for server_round in rounds:
            ledger.commit(ledger.reserve(server_round, [name], ROUND), {name: reply})
            if mirror is not None:
                mirror.take(number, sign_head(ledger.head, ledger.length, key))


@pytest.fixture
def ledgers(tmp_path: Path) -> list[Path]:
    """Two devices after rounds 1 to 3, each of their ledgers 7 lines long and mirrored at lines 3, 5 and 7."""
    paths = [tmp_path / "0.jsonl", tmp_path / "1.jsonl"]
    with LedgerMirror(tmp_path, SERVER) as mirror:
        for server_round in (1, 2, 3):
            for number, path in enumerate(paths):
                play(path, number, [server_round], mirror)
    return paths


def judged(paths: list[Path], server_key: str = hexed(SERVER)) -> Check:
    return mirror_check(read_ledgers(paths), paths[0].parent / "mirror.jsonl", server_key)


def shorten(path: Path, lines: int) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]))


def test_whole_ledgers_hold_and_a_lost_reply_is_told_and_no_fault(ledgers: list[Path]) -> None:
    check = judged(ledgers)
    assert (check.verdict, check.figures["heads"], check.figures["countersigned"]) == ("holds", 6, True)
    assert "further" not in check.measured
    play(ledgers[1], 1, [4], None)
    check = judged(ledgers)
    assert check.verdict == "holds"
    assert "1.jsonl has 2 further line(s) after line 7: a reply was lost" in check.measured
    assert "1 further device(s) of the mirror whose ledgers were not given" in judged(ledgers[:1]).measured
    assert "countersignatures NOT checked" in judged(ledgers, "").measured


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        (6, "0.jsonl was cut after line 6 (round 3): line 5 of the mirror saw line 7 on 20"),
        (5, "0.jsonl was cut after line 5 (round 2): line 5 of the mirror saw line 7 on 20"),
        (3, "0.jsonl was cut after line 3 (round 1): line 3 of the mirror saw line 5 on 20"),
    ],
)
def test_a_cut_ledger_is_violated_and_the_line_and_round_are_named(lines: int, what: str, ledgers: list[Path]) -> None:
    shorten(ledgers[0], lines)
    check = judged(ledgers)
    assert check.verdict == "VIOLATED"
    assert what in check.measured
    assert len(check.figures["wrong"]) == 1


def test_a_torn_end_of_what_was_shown_is_a_cut(ledgers: list[Path]) -> None:
    ledgers[0].write_bytes(ledgers[0].read_bytes()[:-5])
    assert "was cut after line 6 (round 3)" in judged(ledgers).measured


@pytest.mark.parametrize("further", [[3], [3, 4, 5]], ids=["as long", "longer"])
def test_a_ledger_forked_after_a_cut_is_violated(further: list[int], ledgers: list[Path]) -> None:
    shorten(ledgers[0], 5)
    play(ledgers[0], 0, further, None, reply="cd" * 32)
    check = judged(ledgers)
    assert check.verdict == "VIOLATED"
    assert "0.jsonl was forked or exchanged after line 5, at line 7 at the latest (round 3)" in check.measured


def test_a_ledger_that_was_written_anew_is_violated_with_its_own_key_and_with_another(ledgers: list[Path]) -> None:
    ledgers[0].unlink()
    play(ledgers[0], 0, [1, 2, 3], None, reply="cd" * 32)
    assert "forked or exchanged after line 0, at line 3 at the latest (round 1)" in judged(ledgers).measured
    ledgers[0].unlink()
    play(ledgers[0], 2, [1, 2, 3], None)
    check = judged(ledgers)
    assert check.verdict == "VIOLATED"
    assert f"its key {hexed(KEYS[2])} is not in the mirror: exchanged, or no reply arrived" in check.measured


def test_an_unsigned_ledger_is_violated_and_one_without_charges_is_not(ledgers: list[Path], tmp_path: Path) -> None:
    unsigned, empty = tmp_path / "unsigned.jsonl", tmp_path / "empty.jsonl"
    with Ledger.open(unsigned, replace(HEADER, who="device 3")) as ledger:
        ledger.reserve(1, ["device 3"], ROUND)
    assert "unsigned.jsonl: it is not signed" in judged([*ledgers, unsigned]).measured
    play(empty, 2, [], None)
    assert judged([*ledgers, empty]).verdict == "holds"
    assert judged([empty]).verdict == "not tested"


def edited(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda line: json.dumps({**json.loads(line), **changes}, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "change",
    [
        edited(length=9),
        edited(node=2),
        edited(time=1),
        edited(head=SHA),
        edited(public_key=hexed(OTHER)),
        edited(server_signature="00" * 64),
        edited(length="7"),
        edited(more=1),
        lambda line: b"[]",
        lambda line: line[:-9],
        lambda line: b"\xff" + line,
    ],
)
def test_a_mirror_that_was_changed_is_unusable_and_the_line_is_named(
    change: Callable[[bytes], bytes], ledgers: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "mirror.jsonl"
    lines = path.read_bytes().splitlines()
    lines[3] = change(lines[3])
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(PrivacyError, match=r"mirror\.jsonl, line 4 is (damaged|not as it was signed)"):
        judged(ledgers)


def test_another_servers_mirror_is_unusable_and_a_torn_last_line_is_left_out(
    ledgers: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(PrivacyError, match="line 1 is not as it was signed"):
        judged(ledgers, hexed(OTHER))
    path = tmp_path / "mirror.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert len(read_mirror(path, SERVER.public_key())) == 5
    check = judged(ledgers)
    assert (check.verdict, check.figures["heads"]) == ("holds", 5)
    path.unlink()
    with pytest.raises(PrivacyError, match="there is no mirror"):
        judged(ledgers)


def test_the_command_says_it_with_its_exit_code(
    ledgers: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def audit(*arguments: object) -> tuple[Any, str]:
        monkeypatch.setattr(sys, "argv", ["hushrec", "audit", *map(str, [*ledgers, *arguments])])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr()
        return ended.value.code, " ".join((told.out + told.err).split())

    named = ("--mirror", "mirror.jsonl", "--server-key")
    assert audit(*named, hexed(SERVER))[0] == 0
    assert audit(*named, hexed(OTHER))[0] == 2
    assert audit(*named, "zz")[0] == 2
    assert audit("--mirror", "none.jsonl")[0] == 2
    assert audit("--server-key", hexed(SERVER))[0] == 2
    shorten(ledgers[1], 5)
    code, told = audit(*named, hexed(SERVER))
    assert code == 1
    assert "1.jsonl was cut after line 5 (round 2)" in told
    assert json.loads((tmp_path / "audit.json").read_text())["violated"] == ["mirror"]
