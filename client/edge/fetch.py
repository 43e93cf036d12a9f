"""Fetching an edge folder from a service, as far as it is new; nothing of the device is sent, only a token.

What arrives is checked against the service's manifest; whether it is the right model is for whoever installs it.
"""

from __future__ import annotations

import hashlib
import shutil
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from hushrec.common.edge_folder import MANIFEST, check_edge_folder, open_edge_folder
from hushrec.common.errors import BundleError, ConfigError, DataError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
LARGEST_MANIFEST = 4 * 2**20  # bytes
_TIMEOUT = httpx.Timeout(30.0)  # seconds without a byte


def fetch_edge(address: str, into: Path, *, have: Path, token: str = "", ca: Path | None = None) -> bool:
    """Fetch the edge folder of a service.

    Args:
        address: of `hushrec serve`, such as https://rec.example.org.
        into: an empty folder.
        have: an edge folder, or none yet; of it, files that are the same are copied instead of fetched.
        token: with the scope read; "" for an open service.
        ca: the authority of the service's certificate, PEM; None: the system's.
    Returns:
        False where `have` is what the service has; `into` is empty then.
    Raises:
        ConfigError: an address that would send token and model in the clear, or an authority that cannot be read.
        DataError: the service does not answer, refuses, or nothing can be written here.
        BundleError: what arrived is not what the service's manifest describes.
    """
    _check(address)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        with httpx.Client(
            base_url=address.rstrip("/"), headers=headers, verify=_trust(ca), timeout=_TIMEOUT, trust_env=False
        ) as service:
            if not _fetch_manifest(service, into / MANIFEST, have):
                return False
            for entry in open_edge_folder(into).manifest["files"].values():
                _fetch_file(service, entry["name"], entry["bytes"], entry["sha256"], into, have)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DataError(f"{address} does not answer ({type(error).__name__}); the model is as it was") from error
    except OSError as error:
        raise DataError(f"cannot write in {into}: {error.strerror}; the model is as it was") from error
    check_edge_folder(into)
    return True


def _check(address: str) -> None:
    try:
        parts = urlsplit(address)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets or a port that are none
        known = None
    if not known:
        raise ConfigError(f"expected an address such as https://rec.example.org, got {address!r}")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ConfigError(f"{address} is not encrypted: whoever is on the way could send another model; use https://")


def _trust(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cannot read the certificate authority {ca}: {error}") from error


def _fetch_manifest(service: httpx.Client, into: Path, have: Path) -> bool:
    headers = {}
    try:
        check_edge_folder(have)  # a folder that was damaged here is fetched again
        headers["if-none-match"] = f'"{hashlib.sha256((have / MANIFEST).read_bytes()).hexdigest()}"'
    except BundleError:
        pass
    return _stream(service, "/v1/edge", into, LARGEST_MANIFEST, headers)


def _fetch_file(service: httpx.Client, name: str, size: int, sha256: str, into: Path, have: Path) -> None:
    own = have / name
    if own.exists() and own.stat().st_size == size and _sha256(own) == sha256:
        shutil.copyfile(own, into / name)
    else:
        _stream(service, f"/v1/edge/{name}", into / name, size, {})


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _stream(service: httpx.Client, path: str, into: Path, most: int, headers: dict[str, str]) -> bool:
    """Write the answer piece by piece; False where it is 304."""
    with service.stream("GET", path, headers=headers) as answer:
        if answer.status_code == 304:
            return False
        if answer.status_code != 200:
            remedy = {401: "; give --token-file with a token of scope read", 404: "; it serves no such model"}
            raise DataError(f"{answer.url} answers {answer.status_code}{remedy.get(answer.status_code, '')}")
        written = 0
        with into.open("wb") as stream:
            for piece in answer.iter_bytes(2**16):
                written += len(piece)
                if written > most:
                    raise BundleError(f"{answer.url} is larger than the {most:,} bytes that were announced")
                stream.write(piece)
    return True
