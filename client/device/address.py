"""Which server and CA a device pins: those of the invitation, unless its owner replaces them knowingly.

It opens no connection; the pins are enforced where the connection is made.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from cryptography.x509 import load_pem_x509_certificates

from hushrec.common.errors import BundleError, ConfigError
from hushrec.common.invitation import Invitation


def with_address(read: Invitation, server: str, ca: Path | None, replace: bool) -> Invitation:
    """The invitation, with --server and --ca where they are to replace its own; else they must agree with it.

    Args:
        server: host:port, "" for the invitation's.
        ca: file with the CA certificate, PEM; None for the invitation's.
        replace: whether they may differ.
    Raises:
        BundleError: the invitation's certificate is damaged.
        ConfigError: they differ without `replace`, or the file is no certificate.
    """
    changes: dict[str, Any] = {}
    if server and server != read.server:
        changes["server"] = server
    try:
        pinned = load_pem_x509_certificates(read.ca_certificate.encode())
    except ValueError as error:
        raise BundleError(f"the invitation's CA certificate is damaged: {error}; ask the operator again") from error
    if ca is not None:
        try:
            text = ca.read_bytes().decode("ascii")
            if load_pem_x509_certificates(text.encode()) != pinned:
                changes["ca_certificate"] = text
        except OSError as error:
            raise ConfigError(f"cannot read --ca {ca}: {error.strerror}") from error
        except ValueError as error:
            raise ConfigError(f"--ca {ca} is no PEM certificate: {error}") from error
    if changes and not replace:
        raise ConfigError(
            f"--{'ca' if 'server' not in changes else 'server'} is not the invitation's "
            f"({read.server}); leave it out, or pin yours instead with --replace if the operator told you so"
        )
    return dataclasses.replace(read, **changes) if changes else read
