"""Bearer tokens of the service: made once, kept as hashes in a file that its owner alone can read.

A token is 256 random bits, so one SHA-256 is as good as a slow hash; nobody can guess what is behind it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock

from hushrec.common.errors import ConfigError
from hushrec.common.files import replace_file

SCOPES = ("read", "items", "admin")
PER_MINUTE = 600  # requests of one token and minute, unless its entry says otherwise
BURST_SECONDS = 10  # a token that was silent may catch up on so much at once
LOOK_AGAIN = 1.0  # seconds until a changed file counts
_PREFIX = "hushrec_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class TokenEntry:
    """What is kept of a token.

    Attributes:
        name: for people and logs.
        sha256: of the token's text.
        scopes: of SCOPES.
        per_minute: requests, at least 1.
    """

    name: str
    sha256: str
    scopes: tuple[str, ...]
    per_minute: int = PER_MINUTE


def new_token(path: Path, name: str, scopes: Sequence[str], per_minute: int = PER_MINUTE) -> str:
    """Make a token and add its hash to the file, which is created where there is none.

    Returns:
        The token; it is shown to nobody again.
    Raises:
        ConfigError: a name that is taken or no name, an unknown scope, or a file that cannot be read or written.
    """
    if _NAME.fullmatch(name) is None:
        raise ConfigError(f"expected a token name of at most 64 letters, digits, '.', '_' or '-', got {name!r}")
    if not scopes or (unknown := [scope for scope in scopes if scope not in SCOPES]):
        raise ConfigError(f"expected scopes among {', '.join(SCOPES)}, got {(unknown if scopes else 'none')!r}")
    if per_minute < 1:
        raise ConfigError(f"expected at least 1 request per minute, got {per_minute}")
    token = _PREFIX + secrets.token_urlsafe(32)
    entry = TokenEntry(name, _digest(token), tuple(dict.fromkeys(scopes)), per_minute)
    with _locked(path):
        known = read_tokens(path) if path.exists() else ()
        if any(other.name == name for other in known):
            raise ConfigError(f"{path} has a token called {name!r} already; revoke it or choose another name")
        _write(path, (*known, entry))
    return token


def revoke_token(path: Path, name: str) -> None:
    """Remove a token; a running service refuses it from the next second on.

    Raises:
        ConfigError: there is none of that name, or the file cannot be read or written.
    """
    with _locked(path):
        known = read_tokens(path)
        if not any(entry.name == name for entry in known):
            names = ", ".join(entry.name for entry in known) or "none"
            raise ConfigError(f"{path} has no token called {name!r}; it has: {names}")
        _write(path, [entry for entry in known if entry.name != name])


def read_tokens(path: Path) -> tuple[TokenEntry, ...]:
    """Read the file.

    Raises:
        ConfigError: not there, readable by others than its owner, or not as it was written.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} can be read by others; run: chmod 600 {path}")
        entries = json.loads(path.read_text(encoding="utf-8"))["tokens"]
        found = tuple(replace(TokenEntry(**entry), scopes=tuple(entry["scopes"])) for entry in entries)
    except OSError as error:
        raise ConfigError(
            f"cannot read the tokens {path}: {error.strerror}; make one with: hushrec serve token new --tokens {path}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"the tokens {path} are damaged; delete the file and make new tokens") from error
    for entry in found:
        if (
            not re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
            or entry.per_minute < 1
            or not set(entry.scopes) <= {*SCOPES}
        ):
            raise ConfigError(f"the token {entry.name!r} of {path} is damaged; revoke it and make a new one")
    return found


class TokenBook:
    """The tokens of a running service; a changed file counts within a second.

    Args:
        share: of each token's rate that is this process's own, in (0, 1]: one of several workers answers its part.
    """

    def __init__(self, path: Path, share: float = 1.0) -> None:
        self._path, self._share = path, share
        self._entries = read_tokens(path)
        self._stat, self._looked = self._signature(), time.monotonic()
        self._buckets: dict[str, TokenBucket] = {}
        self._turn = threading.Lock()

    def find(self, token: str) -> TokenEntry | None:
        """The entry of a token; every entry is compared, in constant time."""
        self._look_again()
        digest, found = _digest(token), None
        for entry in self._entries:
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        return found

    def wait(self, entry: TokenEntry) -> float:
        """Seconds until the token may ask again; 0 counts as a request."""
        with self._turn:
            bucket = self._buckets.get(entry.sha256)
            if bucket is None or bucket.per_minute != entry.per_minute * self._share:
                bucket = self._buckets[entry.sha256] = TokenBucket(entry.per_minute * self._share)
            return bucket.take(time.monotonic())

    def _look_again(self) -> None:
        if (now := time.monotonic()) - self._looked < LOOK_AGAIN:
            return
        self._looked = now
        if (found := self._signature()) != self._stat:
            try:
                self._entries, self._stat = read_tokens(self._path), found
            except ConfigError:
                self._entries = ()  # nobody is let in by a file that cannot be trusted

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino, stat.st_mode


class TokenBucket:
    """A rate: `per_minute` requests, of which a silent caller may make those of BURST_SECONDS at once."""

    def __init__(self, per_minute: float) -> None:
        self.per_minute = per_minute
        self._most = max(1.0, per_minute * BURST_SECONDS / 60)
        self._left, self._at = self._most, float("-inf")

    def take(self, now: float) -> float:
        """Take one request; 0, or the seconds until there is one.

        Args:
            now: seconds of a clock that never goes back.
        """
        rate = self.per_minute / 60
        if self._at > float("-inf"):
            self._left = min(self._most, self._left + (now - self._at) * rate)
        self._at = now
        if self._left < 1:
            return (1 - self._left) / rate
        self._left -= 1
        return 0.0


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _locked(path: Path) -> FileLock:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write the tokens {path}: {error.strerror}") from error
    return FileLock(f"{path}.lock")


def _write(path: Path, entries: Sequence[TokenEntry]) -> None:
    text = json.dumps({"tokens": [asdict(entry) for entry in entries]}, indent=1) + "\n"
    mask = os.umask(0o077)
    try:
        replace_file(path, text.encode(), 0o600)
    except OSError as error:
        raise ConfigError(f"cannot write the tokens {path}: {error.strerror}") from error
    finally:
        os.umask(mask)
