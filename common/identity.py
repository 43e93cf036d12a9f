"""De-identification on import: keyed hashes instead of raw user ids, and masks in free text.

It is no anonymisation and no differential privacy: a history can still single a person out.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hushrec.common.errors import DataError

ID_KEY_VARIABLE = "HUSHREC_ID_KEY"
_KEY_BYTES = 32
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
# Links without http or www are found by a path or one of these endings.
_URL = re.compile(
    r"(?:\bhttps?://|\bwww\.)[^\s<>\"']+|\b[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|edu|gov|io|info)\b(?:/\S*)?", re.I
)
_YEARS = re.compile(r"(?:1[89]|20)\d\d(?:[\s/-]+(?:1[89]|20)\d\d)+")  # "1990-1995" is no telephone number
_PHONE = re.compile(r"(?<![\w.])(?:\+|\(|00)?\d(?:[\s()./-]{0,2}\d){6,14}(?!\w)")
_CARD = re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?!\w)")
# Bank accounts (IBAN), and keys and vouchers such as ABCD-12EF34-GHIJ.
_CODE = re.compile(
    r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"
    r"|\b(?=[A-Z-]*\d)(?=[\d-]*[A-Z])[A-Z0-9]{4,6}(?:-[A-Z0-9]{4,6}){2,}\b"
)
_HANDLE = re.compile(r"(?<![\w@/])@\w{2,}")
_STREET_WORDS = "Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Square|Highway|Hwy|Terrace"
_ADDRESS = re.compile(
    rf"\b\d{{1,5}}[A-Za-z]?\s+(?:[A-Z][\w'’.-]*\s+){{1,3}}(?:{_STREET_WORDS})\b"
    r"|\b[A-ZÄÖÜ][\w-]*(?:straße|strasse|str\.|weg|platz|allee|gasse)\s+\d{1,4}[a-z]?\b"
)


def hash_user_ids(raw_ids: Iterable[str], key: bytes) -> tuple[str, ...]:
    """Replace raw user ids by keyed hashes (BLAKE2b, 128 bits, hexadecimal).

    Protects against: reading ids from files, logs and messages, and testing a guessed id, by anyone
    without the key. The same id under the same key gives the same hash, so imports can be joined.
    Does not protect against: whoever holds the key; linking through the history itself; the order of the users
    in a data set, which follows a public hash of the raw id so that splits agree between machines.

    Args:
        key: 16 to 64 bytes, secret.
    Raises:
        DataError: the key is too short or too long.
    """
    if not 16 <= len(key) <= 64:
        raise DataError(f"expected an id key of 16 to 64 bytes, got {len(key)}; set a longer {ID_KEY_VARIABLE}")
    return tuple(
        hashlib.blake2b(raw_id.encode(), digest_size=16, key=key, person=b"hushrec-user").hexdigest()
        for raw_id in raw_ids
    )


def load_id_key() -> bytes:
    """Return the key for `hash_user_ids`: $HUSHREC_ID_KEY, else this machine's key file, made on first use.

    The file is $XDG_CONFIG_HOME/hushrec/id.key (or ~/.config/hushrec/id.key), mode 600. Deleting it makes new
    imports unlinkable to old ones. Machines that must agree on user keys share one HUSHREC_ID_KEY.

    Raises:
        DataError: the key is too short, or the file cannot be made, or others can read it.
    """
    given = os.environ.get(ID_KEY_VARIABLE, "")
    if given:
        if len(given.encode()) < 16:
            raise DataError(f"expected at least 16 characters in {ID_KEY_VARIABLE}, got {len(given)}")
        return hashlib.blake2b(given.encode(), digest_size=_KEY_BYTES, person=b"hushrec-idkey").digest()
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    path = Path(home) / "hushrec" / "id.key"
    try:
        if not path.exists():
            _create_key(path)
        mode, text = stat.S_IMODE(path.stat().st_mode), path.read_text("ascii").strip()
        key = bytes.fromhex(text)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot read or make the id key {path}: {reason}; or set {ID_KEY_VARIABLE}") from None
    except ValueError:
        key, mode = b"", 0
    if mode & 0o077:
        raise DataError(f"{path} can be read by other users (mode {mode:o}); run: chmod 600 {path}")
    if len(key) != _KEY_BYTES:
        raise DataError(f"{path} holds no key of {_KEY_BYTES} bytes; delete it to get a new one")
    return key


def mask_text(text: str) -> str:
    """Replace personal data that a pattern can find by [email], [link], [handle], [code], [number], [phone], [address].

    White space is trimmed. It knows no names. Of postal addresses it finds "12 Some Street" and "Somestraße 12" only:
    no post box, no town, nothing without a house number; and a title such as "21 Jump Street" is masked as well.
    Masking a masked text changes nothing.
    """
    text = _EMAIL.sub("[email]", text)
    text = _URL.sub("[link]", text)
    text = _HANDLE.sub("[handle]", text)
    text = _ADDRESS.sub("[address]", text)
    text = _CODE.sub("[code]", text)
    text = _CARD.sub(lambda match: match[0] if _YEARS.fullmatch(match[0]) else "[number]", text)
    text = _PHONE.sub(lambda match: match[0] if _YEARS.fullmatch(match[0]) else "[phone]", text)
    return " ".join(text.split())


def public_hashes(ids: Sequence[str], purpose: str, seed: int) -> NDArray[np.uint64]:
    """Hash ids without a secret, so that every machine draws the same order.

    Args:
        purpose: separates uses, so that no two of them draw the same order.
        seed: any integer.
    Returns:
        uint64 (n,); depends on each id alone, not on its place.
    """
    prefix = f"{purpose}\0{seed}\0".encode()
    digests = b"".join(hashlib.blake2b(prefix + i.encode(), digest_size=8).digest() for i in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def mix_hashes(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Combine two hash columns into one, element by element (splitmix64 finaliser)."""
    with np.errstate(over="ignore"):
        z = left * np.uint64(0x9E3779B97F4A7C15) ^ right
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _create_key(path: Path) -> None:
    """Write a new key so that of two starting programs both end up with the same one."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"id.key.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(_KEY_BYTES) + "\n")
        with contextlib.suppress(FileExistsError):  # another program was first; its key counts
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
