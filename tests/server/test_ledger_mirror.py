"""The server's mirror of ledgers: it only grows, and a ledger that did not grow with it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hushrec.common.errors import PrivacyError, ProtocolError
from hushrec.common.signed_head import SignedHead, sign_head
from hushrec.server.ledger_mirror import MIRROR, LedgerMirror, read_mirror

SERVER, ANNA, EVE = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2, 3))


def head(length: int, key: Ed25519PrivateKey = ANNA) -> SignedHead:
    return sign_head(f"{length:064x}", length, key)


def test_heads_are_kept_in_order_countersigned_and_read_back(tmp_path: Path) -> None:
    with LedgerMirror(tmp_path / "run", SERVER) as mirror:
        for length in (3, 5, 7):
            mirror.take(11, head(length))
        mirror.take(12, head(3, EVE))
    found = read_mirror(tmp_path / "run" / MIRROR)
    assert [(one.node, one.head.length) for one in found] == [(11, 3), (11, 5), (11, 7), (12, 3)]
    for line in (tmp_path / "run" / MIRROR).read_bytes().splitlines():
        values = json.loads(line)
        signature = bytes.fromhex(values.pop("server_signature"))
        body = json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
        SERVER.public_key().verify(signature, body)


@pytest.mark.parametrize("again", [head(4), head(3), head(6, EVE), head(5, EVE), None])
def test_a_ledger_that_was_cut_or_exchanged_is_refused_also_after_a_restart(
    tmp_path: Path, again: SignedHead | None
) -> None:
    with LedgerMirror(tmp_path, SERVER) as mirror:
        mirror.take(11, head(5))
    with LedgerMirror(tmp_path, SERVER) as mirror:
        with pytest.raises(ProtocolError) as refused:
            mirror.take(11, again)
        mirror.take(11, head(6))
    assert refused.value.code == "LEDGER_CHANGED"


def test_the_head_of_a_stored_reply_is_accepted_again(tmp_path: Path) -> None:
    with LedgerMirror(tmp_path, SERVER) as mirror:
        mirror.take(11, head(5))
        mirror.take(11, head(5))
    assert len(read_mirror(tmp_path / MIRROR)) == 1


def test_a_line_that_a_power_cut_left_is_dropped_and_the_rest_stands(tmp_path: Path) -> None:
    with LedgerMirror(tmp_path, SERVER) as mirror:
        mirror.take(11, head(5))
        mirror.take(11, head(6))
    whole = (tmp_path / MIRROR).read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole) - 1):
        (tmp_path / MIRROR).write_bytes(whole[:cut])
        with LedgerMirror(tmp_path, SERVER) as mirror:
            mirror.take(11, head(6))
        assert [one.head.length for one in read_mirror(tmp_path / MIRROR)] == [5, 6]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / MIRROR).write_bytes(b'{"node": 1}\n')
    with pytest.raises(PrivacyError, match="line 1"):
        LedgerMirror(tmp_path, SERVER)


def test_what_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    with LedgerMirror(tmp_path, SERVER) as mirror:
        monkeypatch.setattr("hushrec.server.ledger_mirror.os.write", full)
        with pytest.raises(PrivacyError, match="No space left"):
            mirror.take(11, head(5))
