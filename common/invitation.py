"""The invitation: all that a device pins before it joins a federation, in one public file from the operator.

It holds no secret and nothing of anybody's data. Whoever joins compares its fingerprint with the one the operator
shows, since a forged invitation would pin a forger's constants.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hushrec.common.catalog import Catalog, catalog_from_json, catalog_to_json
from hushrec.common.config import RunConfig
from hushrec.common.errors import BundleError, ConfigError, DataError

FORMAT = 1
LARGEST = 200 * 2**20  # bytes of an invitation file that are read at all
# Settings of the operator's own machine, which say nothing to a device.
_OWN = ("data.folder", "run.directory", "run.threads", "evaluation.every")
_FIELDS = {
    "format": int,
    "federation": str,
    "server": str,
    "ca_certificate": str,
    "server_key": str,
    "app_sha256": str,
    "base_sha256": str,
    "config": dict,
    "catalog": dict,
    "training_items": list,
}
_SHA256 = re.compile("[0-9a-f]{64}")
_ADDRESS = re.compile(r"[\w.-]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}")


@dataclass(frozen=True, eq=False)
class Invitation:
    """What a device of one federation pins.

    Attributes:
        federation: its name, for people.
        server: "host:port" of the operator's public port.
        ca_certificate: PEM of the one authority that the server's certificate must come from.
        server_key: hex of the Ed25519 key with which the server countersigns the heads of ledgers.
        app_sha256: of Flower's app bundle; any other bundle is refused unseen.
        base_sha256: of the language model's weights.
        config: every constant of the federation, with the noise already solved.
        catalog: the public items, in their fixed order.
        training_items: int64, catalogue positions that exist while training, increasing.
        settings: the public settings as the operator's hushrec wrote them. One that it did not know yet is missing and
            has its default in `config`; only settings of privacy may not be missing.
    """

    federation: str
    server: str
    ca_certificate: str
    server_key: str
    app_sha256: str
    base_sha256: str
    config: RunConfig
    catalog: Catalog
    training_items: NDArray[np.int64]
    settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.settings:
            object.__setattr__(self, "settings", public_settings(self.config.to_flat()))

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything in it."""
        return hashlib.sha256(_canonical(self._values())).hexdigest()

    def _values(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "federation": self.federation,
            "server": self.server,
            "ca_certificate": self.ca_certificate,
            "server_key": self.server_key,
            "app_sha256": self.app_sha256,
            "base_sha256": self.base_sha256,
            "config": dict(self.settings),
            "catalog": catalog_to_json(self.catalog),
            "training_items": self.training_items.tolist(),
        }


def public_settings(flat: Mapping[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
    """A configuration's flat keys without those of the operator's own machine; what a device pins and compares."""
    return {key: value for key, value in flat.items() if key not in _OWN}


def write_invitation(path: Path, invitation: Invitation) -> None:
    """Write the file; equal invitations give equal bytes."""
    path.write_bytes(_canonical({**invitation._values(), "fingerprint": invitation.fingerprint}))


def read_invitation(path: Path) -> Invitation:
    """Read and check an invitation.

    Raises:
        BundleError: missing, too large, damaged, of another format, or changed since it was written.
    """
    again = "ask the operator for the file again"
    try:
        if path.stat().st_size > LARGEST:
            raise BundleError(f"{path} has more than {LARGEST >> 20} MB, so it is no invitation; {again}")
        values = json.loads(path.read_bytes())
        given = values.pop("fingerprint")
        if values.get("format") != FORMAT:
            raise BundleError(
                f"{path} is an invitation of format {values.get('format')!r}, this hushrec reads {FORMAT}; "
                "install the version of hushrec that the operator uses"
            )
        invitation = _from_values(values)
    except OSError as error:
        raise BundleError(f"cannot read the invitation {path}: {error.strerror}; {again}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError, DataError) as error:
        raise BundleError(f"the invitation {path} is damaged: {error}; {again}") from error
    known = (name for name in invitation.config.to_flat() if name.startswith("privacy."))
    if newer := sorted(set(known) - set(values["config"])):
        raise BundleError(
            f"the invitation {path} is of a version of hushrec without the setting {newer[0]}; install the version "
            "that the operator uses"
        )
    if invitation.fingerprint != given:
        raise BundleError(f"the invitation {path} is not as it was written; {again}")
    return invitation


def _from_values(values: dict[str, Any]) -> Invitation:
    if set(values) != set(_FIELDS):
        odd = sorted(set(values) ^ set(_FIELDS))
        raise ValueError(f"unknown or missing fields: {', '.join(odd)}")
    for name, kind in _FIELDS.items():
        if type(values[name]) is not kind:
            raise ValueError(f"{name} is mistyped")
    for name in ("server_key", "app_sha256", "base_sha256"):
        if not _SHA256.fullmatch(values[name]):
            raise ValueError(f"{name} is not 64 hexadecimal digits")
    if not _ADDRESS.fullmatch(values["server"]):
        raise ValueError(f"server {values['server']!r} is not HOST:PORT")
    catalog = catalog_from_json(values["catalog"])
    items = np.array(values["training_items"], dtype=np.int64)
    if items.ndim != 1 or not len(items) or items[0] < 0 or items[-1] >= len(catalog) or (np.diff(items) <= 0).any():
        raise ValueError("training_items are not increasing positions of the catalogue")
    names = ("federation", "server", "ca_certificate", "server_key", "app_sha256", "base_sha256")
    return Invitation(
        **{name: values[name] for name in names},
        config=RunConfig.from_flat(values["config"], "the invitation"),
        catalog=catalog,
        training_items=items,
        settings=values["config"],
    )


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
