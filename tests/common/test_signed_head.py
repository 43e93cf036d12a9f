"""The head of a ledger that travels with a reply: what was signed is what is read, and nothing else is accepted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Error, Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from hushrec.common.errors import ProtocolError
from hushrec.common.ledger import Ledger, LedgerHeader
from hushrec.common.privacy import PrivacyEvent, claim_for
from hushrec.common.signed_head import RECORD, SignedHead, attach_head, sign_head, take_head

KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
HEAD = sign_head("ab" * 32, 5, KEY)
ONE = {"public-key": HEAD.public_key, "length": 5, "head": HEAD.head, "signature": HEAD.signature}


def reply() -> Message:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    return Message(RecordDict(), reply_to=Message(RecordDict(), 5, MessageType.TRAIN))


def test_what_was_attached_is_taken_off_again() -> None:
    message = reply()
    assert take_head(message) is None
    attach_head(message, HEAD)
    assert take_head(message) == HEAD
    assert RECORD not in message.content


def test_an_error_reply_has_no_head() -> None:
    assert take_head(Message(Error(code=2, reason="NOT_NOW"), reply_to=reply())) is None


def test_the_signature_is_the_one_in_the_ledgers_last_entry(tmp_path: Path) -> None:
    event = PrivacyEvent(1.0, 1.0, 1)
    claim = claim_for("device", "record", delta=1e-5, target_epsilon=8.0)
    header = LedgerHeader.for_claim(claim, who="a", clipping_norm=1.0, denominator=1.0, plan=[event])
    with Ledger.open(tmp_path / "ledger.jsonl", header, key=KEY) as ledger:
        ledger.reserve(1, ["a"], event)
        head = sign_head(ledger.head, ledger.length, KEY)
    last = (tmp_path / "ledger.jsonl").read_text().splitlines()[-1]
    assert f'"signature":"{head.signature}"' in last
    assert head.length == 2


@pytest.mark.parametrize(
    "change",
    [
        {"head": "ac" * 32},
        {"signature": "00" * 64},
        {"public-key": "00" * 32},
        {"public-key": "zz" * 32},
        {"length": 0},
        {"length": True},
        {"length": "5"},
        {"head": "AB" * 32},
        {"more": 1},
    ],
)
def test_a_changed_head_is_refused(change: dict[str, str | int]) -> None:
    message = reply()
    message.content[RECORD] = ConfigRecord({**ONE, **change})
    with pytest.raises(ProtocolError) as refused:
        take_head(message)
    assert refused.value.code == "LEDGER_CHANGED"


@pytest.mark.parametrize("missing", ONE)
def test_a_head_with_a_field_less_is_refused(missing: str) -> None:
    message = reply()
    message.content[RECORD] = ConfigRecord({name: value for name, value in ONE.items() if name != missing})
    with pytest.raises(ProtocolError):
        take_head(message)


@given(st.integers(0, 511))
def test_no_bit_of_a_signature_may_change(bit: int) -> None:
    flipped = bytearray(bytes.fromhex(HEAD.signature))
    flipped[bit // 8] ^= 1 << bit % 8
    message = reply()
    attach_head(message, dataclasses.replace(HEAD, signature=flipped.hex()))
    with pytest.raises(ProtocolError):
        take_head(message)


def test_the_length_is_not_signed_but_is_checked_against_the_ledger_by_the_audit() -> None:
    message = reply()
    attach_head(message, SignedHead(HEAD.public_key, 9, HEAD.head, HEAD.signature))
    assert take_head(message) is not None
