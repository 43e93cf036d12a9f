"""The federation's own certificate authority and the server's certificate, as X.509 files.

Devices trust this one authority and no other; nothing here opens a connection.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
import ssl
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hushrec.common.errors import BundleError, ConfigError
from hushrec.server.deployment.folder import write_file

AUTHORITY_DAYS, SERVER_DAYS = 3650, 730
# A device's clock may be behind the server's; a certificate made this minute must not be "not yet valid" there.
_EARLIER = datetime.timedelta(hours=1)
_HOST = re.compile(r"[a-zA-Z0-9-]{1,63}(\.[a-zA-Z0-9-]{1,63})*")
_LOCAL = ("localhost", "127.0.0.1")  # Flower's own parts and the proxy reach the SuperLink by these


def write_authority(key_path: Path, certificate_path: Path, federation: str) -> None:
    """A new certificate authority: EC P-256, valid for ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "hushrec CA"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation),
        ]
    )
    usage = _usage(key_cert_sign=True, crl_sign=True)
    builder = _builder(name, name, key, AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage, critical=True)
    write_file(key_path, _private_pem(key))
    write_file(certificate_path, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))


def write_server_certificate(
    authority: tuple[Path, Path], key_path: Path, certificate_path: Path, names: Sequence[str]
) -> None:
    """A new key and certificate for the server, from the same authority, so that devices notice nothing.

    Args:
        authority: key and certificate of the authority.
        names: host names and IP addresses of the server; localhost and 127.0.0.1 are added.
    Raises:
        BundleError: the authority's files are missing or damaged.
    """
    try:
        signer = serialization.load_pem_private_key(authority[0].read_bytes(), None)
        issuer = x509.load_pem_x509_certificate(authority[1].read_bytes())
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot read the authority {authority[0]}: {error}; restore it from a backup") from error
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hushrec server")])
    builder = _builder(subject, issuer.subject, key, SERVER_DAYS)
    every = dict.fromkeys([*names, *_LOCAL])
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    for extension, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectAlternativeName([_general_name(name) for name in every]), False),
        (issued_by, False),
    ):
        builder = builder.add_extension(extension, critical=critical)
    certificate = builder.sign(signer, hashes.SHA256())
    write_file(key_path, _private_pem(key))
    write_file(certificate_path, certificate.public_bytes(serialization.Encoding.PEM))


def fits(key_path: Path, certificate_path: Path) -> bool:
    """Whether key and certificate belong together; a renewal that was killed leaves a pair that does not."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate_path, key_path)
    except (OSError, ssl.SSLError):
        return False
    return True


def days_left(certificate_path: Path) -> int:
    """Whole days until the certificate ends; negative afterwards.

    Raises:
        BundleError: missing or damaged.
    """
    try:
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot read {certificate_path}: {error}; restore it from a backup") from error
    return (certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)).days


def check_name(name: str) -> str:
    """A host name or IP address that a certificate can hold.

    Raises:
        ConfigError: it is neither.
    """
    if len(name) > 253 or not (_HOST.fullmatch(name) or _is_ip_address(name)):
        raise ConfigError(f"expected a host name or an IP address, got {name!r}")
    return name


def _is_ip_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _general_name(name: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(name)) if _is_ip_address(name) else x509.DNSName(name)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(**granted: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: granted.get(name, False) for name in names})


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
