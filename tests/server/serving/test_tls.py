"""HTTPS as a real process serves it, and certificates and keys that it refuses before it listens."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from support.serving_process import COMMAND, free_port, served, write_certificate

from hushrec.common.errors import ConfigError
from hushrec.server.serving.service import check_certificate


@pytest.mark.deployment
def test_the_service_answers_over_tls_1_2_and_later_and_not_in_the_clear(folder: Path, tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path, "own")
    trusts = ssl.create_default_context(cafile=str(certificate))
    options = ("--open", "--tls-cert", certificate, "--tls-key", key)
    with served(folder, tmp_path, *options, verify=trusts) as service:
        assert service.client.post("/v1/recommend", json={"query": "robots", "n": 2}).json()["items"]
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{service.port}/healthz", trust_env=False)
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"https://127.0.0.1:{service.port}/healthz", trust_env=False)
        assert handshake(service.port, certificate, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
        assert handshake(service.port, certificate, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        with (
            pytest.raises(ssl.SSLError, match=r"ALERT_PROTOCOL_VERSION|EOF occurred"),
            pytest.warns(DeprecationWarning, match="TLSv1_1"),
        ):
            handshake(service.port, certificate, ssl.TLSVersion.TLSv1_1)
        assert service.client.get("/healthz").json() == {"alive": True}


def handshake(port: int, certificate: Path, version: ssl.TLSVersion) -> str | None:
    context = ssl.create_default_context(cafile=str(certificate))
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = min(version, ssl.TLSVersion.TLSv1_2)
    context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        return secure.version()


def of_another(folder: Path, certificate: Path, key: Path) -> tuple[Path, Path]:
    return certificate, write_certificate(folder, "other")[1]


def swapped(folder: Path, certificate: Path, key: Path) -> tuple[Path, Path]:
    return key, certificate


def cut_off(folder: Path, certificate: Path, key: Path) -> tuple[Path, Path]:
    certificate.write_bytes(certificate.read_bytes()[:120])
    return certificate, key


def a_folder(folder: Path, certificate: Path, key: Path) -> tuple[Path, Path]:
    return folder, key


def with_a_password(folder: Path, certificate: Path, key: Path) -> tuple[Path, Path]:
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    closed = serialization.BestAvailableEncryption(b"secret")
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, closed))
    return certificate, key


Harm = Callable[[Path, Path, Path], tuple[Path, Path]]


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (of_another, "is not that of the certificate"),
        (swapped, "--tls-cert .*own.key holds no certificate in PEM"),
        (cut_off, "cannot be used: damaged"),
        (a_folder, "--tls-cert .* cannot be read: Is a directory"),
        (with_a_password, "the key has a password"),
    ],
)
def test_a_pair_that_no_connection_could_be_made_with_is_refused(harm: Harm, says: str, tmp_path: Path) -> None:
    certificate, key = harm(tmp_path, *write_certificate(tmp_path, "own"))
    with pytest.raises(ConfigError, match=says):
        check_certificate(str(certificate), str(key))


def test_a_key_that_its_reader_may_not_open_is_refused(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path, "own")
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    key.chmod(0)
    with pytest.raises(ConfigError, match=r"--tls-key .* cannot be read: Permission denied"):
        check_certificate(str(certificate), str(key))


@pytest.mark.deployment
def test_the_command_ends_with_one_sentence_before_it_listens(folder: Path, tmp_path: Path) -> None:
    certificate, _ = write_certificate(tmp_path, "own")
    _, key = write_certificate(tmp_path, "other")
    port = free_port()
    options = ["--open", "--port", str(port), "--tls-cert", str(certificate), "--tls-key", str(key)]
    done = subprocess.run([*COMMAND, str(folder), *options], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "is not that of the certificate" in said
    assert "Traceback" not in said
    assert said.count("hushrec: ") <= 1
    assert "items." not in said  # the bundle was not even read
