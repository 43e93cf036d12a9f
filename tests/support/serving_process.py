"""`hushrec serve` as a process of its own, as a test of the real thing starts it, and a certificate for it."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

COMMAND = [sys.executable, "-c", "from hushrec.simulations.cli import main; main()", "serve"]


@dataclass
class Served:
    """A service in a process of its own, and a client of it."""

    process: subprocess.Popen[bytes]
    port: int
    client: httpx.Client
    log: Path

    def children(self) -> list[int]:
        """Processes that it started and that run python code of the service: its workers."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@contextmanager
def served(target: Path, folder: Path, *options: object, verify: Any = None) -> Iterator[Served]:
    """Serve while the block runs, then end it by SIGTERM.

    Args:
        folder: for its log.
        verify: an SSL context, where it is asked by https.
    """
    port, log = free_port(), folder / f"log-{time.monotonic_ns()}"
    arguments = [*COMMAND, str(target), "--port", str(port), *map(str, options)]
    with log.open("wb") as stream:
        process = subprocess.Popen(arguments, stdout=stream, stderr=stream, env=os.environ | {"OMP_NUM_THREADS": "1"})
    address = f"http{'s' if verify else ''}://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=address, timeout=30, trust_env=False, verify=verify or True) as client:
            until(lambda: is_ready(client, process, log), 120)
            yield Served(process, port, client, log)
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def is_ready(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> bool:
    """Whether it answers; the test fails if it has ended."""
    try:
        return bool(client.get("/readyz").json()["ready"])
    except httpx.TransportError:
        assert process.poll() is None, log.read_text()
        return False


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for something; the test fails if it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def free_port() -> int:
    """One that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def write_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    built = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = folder / f"{name}.crt", folder / f"{name}.key"
    certificate_path.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8
    key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
    return certificate_path, key_path
