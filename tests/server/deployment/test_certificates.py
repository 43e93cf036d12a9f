"""The federation's own authority: what Python's strictest check takes, and nobody else's certificate."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from hushrec.common.errors import BundleError, ConfigError
from hushrec.server.deployment.certificates import (
    check_name,
    days_left,
    fits,
    write_authority,
    write_server_certificate,
)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    write_authority(tmp_path / "ca.key", tmp_path / "ca.crt", "films")
    renew(tmp_path)
    return tmp_path


def renew(folder: Path) -> None:
    names = ["rec.example.org", "192.0.2.7", "2001:db8::1"]
    pair = (folder / "ca.key", folder / "ca.crt")
    write_server_certificate(pair, folder / "server.key", folder / "server.crt", names)


def handshake(folder: Path, authority: Path, name: str) -> None:
    """A TLS handshake in memory, under the strict rules of Python 3.13."""
    client = ssl.create_default_context(cafile=str(authority))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.crt", folder / "server.key")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        done = 0
        for side in (ours, theirs):
            try:
                side.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                pass
        if done == 2:
            return
    pytest.fail("the handshake never ended")


@pytest.mark.parametrize("name", ["rec.example.org", "192.0.2.7", "2001:db8::1", "localhost", "127.0.0.1"])
def test_the_certificate_is_good_for_every_name_of_the_server(made: Path, name: str) -> None:
    handshake(made, made / "ca.crt", name)


def test_it_is_good_for_no_other_name_and_under_no_other_authority(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(made, made / "ca.crt", "evil.example.org")
    (other := tmp_path / "other").mkdir()
    write_authority(other / "ca.key", other / "ca.crt", "films")  # of the same name
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(made, other / "ca.crt", "localhost")


def test_openssl_agrees(made: Path) -> None:
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile"]
    subprocess.run([*command, str(made / "ca.crt"), str(made / "server.crt")], check=True, capture_output=True)


def test_a_server_certificate_signs_nothing(made: Path) -> None:
    certificate = x509.load_pem_x509_certificate((made / "server.crt").read_bytes())
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert ipaddress.ip_address("192.0.2.7") in names.get_values_for_type(x509.IPAddress)


def test_devices_notice_nothing_of_a_renewal(made: Path) -> None:
    key, certificate, authority = ((made / name).read_bytes() for name in ("server.key", "server.crt", "ca.crt"))
    renew(made)
    assert (made / "server.key").read_bytes() != key
    assert (made / "server.crt").read_bytes() != certificate
    assert (made / "ca.crt").read_bytes() == authority
    handshake(made, made / "ca.crt", "localhost")


def test_a_clock_that_is_an_hour_behind_takes_a_fresh_certificate(made: Path) -> None:
    now = datetime.datetime.now(datetime.UTC)
    for name in ("ca.crt", "server.crt"):
        certificate = x509.load_pem_x509_certificate((made / name).read_bytes())
        assert certificate.not_valid_before_utc <= now - datetime.timedelta(minutes=59)
    assert 728 <= days_left(made / "server.crt") <= 730


def test_private_keys_are_readable_by_their_owner_only(made: Path) -> None:
    for name in ("ca.key", "server.key"):
        assert (made / name).stat().st_mode & 0o777 == 0o600


def test_a_pair_that_does_not_fit_is_noticed(made: Path) -> None:
    assert fits(made / "server.key", made / "server.crt")
    shutil.copy(made / "server.crt", made / "old.crt")
    renew(made)
    assert not fits(made / "server.key", made / "old.crt")
    assert not fits(made / "missing", made / "server.crt")


def test_a_lost_authority_is_one_clear_error(made: Path) -> None:
    (made / "ca.key").unlink()
    with pytest.raises(BundleError, match="restore it from a backup"):
        renew(made)
    with pytest.raises(BundleError, match="cannot read"):
        days_left(made / "ca.key")


@pytest.mark.parametrize("name", ["", "a b", "https://x", "a..b", "ä.example", "x" * 300, "a_b", "host:1:2"])
def test_names_that_no_certificate_holds_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="expected a host name or an IP address"):
        check_name(name)


@pytest.mark.parametrize("name", ["localhost", "rec.example.org", "10.0.0.1", "2001:db8::1", "a-b.c"])
def test_names_that_a_certificate_holds_are_taken(name: str) -> None:
    assert check_name(name) == name
