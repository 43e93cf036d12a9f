"""The server's mirror of its devices' ledgers: each signed head it was shown, countersigned, in a file that only grows.

It holds heads, not entries: enough to show that a ledger was cut or forked since, and not what is in it.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hushrec.common.errors import PrivacyError, ProtocolError
from hushrec.common.signed_head import SignedHead

MIRROR = "mirror.jsonl"


@dataclass(frozen=True)
class MirroredHead:
    """One line of the mirror: which node showed which head, and when (seconds since 1970 by the server's clock)."""

    node: int
    time: int
    head: SignedHead

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {"node": self.node, "time": self.time, **asdict(self.head)}


class LedgerMirror:
    """The mirror in a run directory; a context manager.

    Args:
        folder: of the run.
        key: countersigns each line.
    Raises:
        PrivacyError: the file is damaged or cannot be written.
    """

    def __init__(self, folder: Path, key: Ed25519PrivateKey) -> None:
        self.path, self._key = folder / MIRROR, key
        self._last: dict[int, SignedHead] = {}
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._keep_whole_lines()
            for line in read_mirror(self.path):
                self._last[line.node] = line.head
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise PrivacyError(f"cannot open the mirror {self.path}: {error.strerror}") from error

    def take(self, node: int, head: SignedHead | None) -> None:
        """Check a head against the last one of the same device, and write it down before its reply is used.

        Raises:
            ProtocolError: no head, another key than before, or a ledger that did not grow (LEDGER_CHANGED).
            PrivacyError: it cannot be written.
        """
        before = self._last.get(node)
        if head is None:
            raise ProtocolError("LEDGER_CHANGED", "a private reply without the head of its ledger")
        if before is not None and (head.public_key != before.public_key or head.length <= before.length):
            if head == before:  # a stored reply, sent again: nothing was charged for it a second time
                return
            raise ProtocolError("LEDGER_CHANGED", "the ledger was cut or exchanged since its last reply")
        body = MirroredHead(node, int(time.time()), head).to_json()
        line = {**body, "server_signature": self._key.sign(_canonical(body)).hex()}
        try:
            os.write(self._file, _canonical(line) + b"\n")
            os.fsync(self._file)
        except OSError as error:
            raise PrivacyError(f"cannot write the mirror {self.path}: {error.strerror}") from error
        self._last[node] = head

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def __enter__(self) -> LedgerMirror:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _keep_whole_lines(self) -> None:
        """Drop what a power cut left of a last line: its reply was not used."""
        if self.path.exists():
            content = self.path.read_bytes()
            if len(whole := content[: content.rfind(b"\n") + 1]) < len(content):
                os.truncate(self.path, len(whole))


def read_mirror(path: Path, server_key: Ed25519PublicKey | None = None) -> list[MirroredHead]:
    """The lines of a mirror, oldest first; empty where there is none yet.

    What a power cut left of a last line is left out: its reply was not used.

    Args:
        server_key: checks the countersignatures; None: they are not checked.
    Raises:
        PrivacyError: a line is damaged, or not as the server wrote it (named).
    """
    *lines, _ = path.read_bytes().split(b"\n") if path.exists() else [b""]
    found = []
    for number, text in enumerate(lines, start=1):
        try:
            found.append(_read_line(text, server_key))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise PrivacyError(f"{path}, line {number} is damaged; restore the file from a backup") from error
        except InvalidSignature as error:
            raise PrivacyError(
                f"{path}, line {number} is not as it was signed: it was changed, or countersigned by another server"
            ) from error
    return found


def _read_line(text: bytes, server_key: Ed25519PublicKey | None) -> MirroredHead:
    """One line, its head signed by the device it names."""
    values = json.loads(text)
    signature = bytes.fromhex(values.pop("server_signature"))
    line = MirroredHead(
        values["node"], values["time"], SignedHead(*(values[n] for n in SignedHead.__dataclass_fields__))
    )
    if line.to_json() != values or not all(type(n) is int for n in (line.node, line.time, line.head.length)):
        raise ValueError("unknown or mistyped fields")
    if line.head.length < 1:
        raise ValueError("no ledger is that short")
    device = Ed25519PublicKey.from_public_bytes(bytes.fromhex(line.head.public_key))
    device.verify(bytes.fromhex(line.head.signature), bytes.fromhex(line.head.head))
    if server_key is not None:
        server_key.verify(signature, _canonical(values))
    return line


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
