"""The signed head of a device's ledger, shown with each reply, so that cutting or forking the ledger shows.

A head is a hash over hashes of noised replies, round numbers and public constants; it tells nothing of anybody's data.
It proves what a ledger contained, not that it is right: that is the audit's to find.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from flwr.app import ConfigRecord, Message

from hushrec.common.errors import ProtocolError

RECORD = "ledger-head"
_HEX = {"public_key": 64, "head": 64, "signature": 128}  # digits


@dataclass(frozen=True)
class SignedHead:
    """Attributes:
    public_key: hex of the Ed25519 key that signs the ledger.
    length: number of its entries, >= 1.
    head: SHA-256 (hex) of the last entry.
    signature: hex, over the head's 32 bytes; equal to the signature in that entry.
    """

    public_key: str
    length: int
    head: str
    signature: str


def sign_head(head: str, length: int, key: Ed25519PrivateKey) -> SignedHead:
    """Sign the head of a ledger with `length` entries, with the key that signs its entries."""
    public = key.public_key().public_bytes_raw().hex()
    return SignedHead(public, length, head, key.sign(bytes.fromhex(head)).hex())


def attach_head(reply: Message, head: SignedHead) -> None:
    """Send it with a reply that has content."""
    reply.content[RECORD] = ConfigRecord({name.replace("_", "-"): value for name, value in asdict(head).items()})


def take_head(message: Message) -> SignedHead | None:
    """Remove the head from a reply and check its signature; None where it carries none.

    Raises:
        ProtocolError: mistyped, or not signed by the key it names (LEDGER_CHANGED).
    """
    if message.has_error() or RECORD not in message.content:
        return None
    record = message.content.pop(RECORD)
    values = dict(record) if isinstance(record, ConfigRecord) else {}
    found = {name: values.pop(name.replace("_", "-"), None) for name in SignedHead.__dataclass_fields__}
    length = found["length"]
    texts = {name: found[name] for name in _HEX}
    if values or type(length) is not int or length < 1 or not all(map(_is_hex, texts.values(), _HEX.values())):
        raise ProtocolError("LEDGER_CHANGED", "the ledger's head is mistyped")
    head = SignedHead(length=length, **{name: str(text) for name, text in texts.items()})
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(head.public_key))
        key.verify(bytes.fromhex(head.signature), bytes.fromhex(head.head))
    except (InvalidSignature, ValueError) as error:
        raise ProtocolError("LEDGER_CHANGED", "the ledger's head is not signed by the key it names") from error
    return head


def _is_hex(text: object, digits: int) -> bool:
    return isinstance(text, str) and re.fullmatch(f"[0-9a-f]{{{digits}}}", text) is not None
