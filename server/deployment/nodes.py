"""Who may take part: names for people beside Flower's own register of node keys.

Flower decides who is let in; nodes.json says what the node is called. Nothing of a device's data is here.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hushrec.common.errors import BundleError, ConfigError
from hushrec.server.deployment import flower
from hushrec.server.deployment.folder import OperatorFolder, only_one, read_json, write_json

_NAME = re.compile(r"[a-z0-9-]{1,40}")
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
LARGEST_KEY = 10_000  # bytes of a public key file that are read


@dataclass(frozen=True)
class Node:
    """An entry of nodes.json.

    Attributes:
        node_id: Flower's; 0 while an enrolment has not finished.
        key: "SHA256:..." as ssh-keygen shows it.
        enrolled: when, in UTC.
        revoked: when, in UTC; empty while the node may take part.
    """

    node_id: int
    key: str
    enrolled: str
    revoked: str = ""


def enroll(folder: OperatorFolder, name: str, public_key: Path) -> Node:
    """Let the holder of a key take part under a name.

    Raises:
        ConfigError: the name is taken or odd, or the file is no usable public key or one that was used before.
        HushrecError: Flower does not answer.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"expected a name of 1 to 40 characters from a-z, 0-9 and -, got {name!r}")
    key = key_fingerprint(public_key)
    with _register(folder) as nodes:
        known = nodes.get(name)
        if known is not None and not known.revoked:
            if known.key == key:
                return known  # an enrolment that was cut short, or the same command again
            raise ConfigError(f"{name!r} is enrolled with another key; choose another name, or revoke it first")
        holder = next((other for other, node in nodes.items() if node.key == key), None)
        if holder is not None:
            raise ConfigError(f"this key is known as {holder!r}; a device makes a new key with its folder")
        # The name is written first: a crash between the two lines leaves a node that the next command can name.
        node = Node(0, key, _now())
        _write(folder, {**nodes, name: node})
        try:
            node = replace(node, node_id=flower.register_node(folder, name, public_key))
        except (flower.FlowerRefused, ConfigError):
            _write(folder, nodes)
            raise
        _write(folder, {**nodes, name: node})
        return node


def revoke(folder: OperatorFolder, name: str) -> Node:
    """Shut a node out for good; its key cannot come back, its name can.

    Raises:
        ConfigError: no such name, or revoked already.
        HushrecError: Flower does not answer.
    """
    with _register(folder) as nodes:
        node = nodes.get(name)
        if node is None:
            known = ", ".join(sorted(nodes)) or "none"
            raise ConfigError(f"no node {name!r} is enrolled; known: {known}")
        if node.revoked:
            raise ConfigError(f"{name!r} was revoked on {node.revoked}")
        flower.unregister_node(folder, node.node_id)
        gone = replace(node, revoked=_now())
        _write(folder, {**nodes, name: gone})
        return gone


def read_nodes(folder: OperatorFolder) -> dict[str, Node]:
    """nodes.json, by name.

    Raises:
        BundleError: damaged.
    """
    try:
        return {name: Node(**entry) for name, entry in read_json(folder.nodes).items()}
    except TypeError as error:
        raise BundleError(f"{folder.nodes} is damaged ({error}); restore it from a backup") from error


def key_fingerprint(path: Path) -> str:
    """The fingerprint of a public key that Flower takes.

    Raises:
        ConfigError: no such file, or not an ECDSA public key on a NIST curve in OpenSSH's format.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST_KEY)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if b"PRIVATE KEY" in content:
        raise ConfigError(f"{path} is a private key, which must not leave the device; take the file that ends in .pub")
    try:
        key = serialization.load_ssh_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} is no public key in OpenSSH's format; ask for the device's node_key.pub") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVES):
        raise ConfigError(
            f"{path} is no ECDSA key on a NIST curve, which Flower needs; ask for the device's node_key.pub"
        )
    blob = base64.b64decode(
        key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).split()[1]
    )
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


@contextmanager
def _register(folder: OperatorFolder) -> Iterator[dict[str, Node]]:
    """nodes.json for one writer at a time, with an enrolment that was cut short brought to its end."""
    lock = folder.nodes.with_suffix(".lock")
    with only_one(lock, "another command is changing the nodes; try again", patience=30.0):
        nodes = read_nodes(folder)
        unfinished = next((name for name, node in nodes.items() if not node.node_id), None)
        if unfinished is not None:
            nodes = _finish(folder, nodes, unfinished)
        yield nodes


def _finish(folder: OperatorFolder, nodes: dict[str, Node], name: str) -> dict[str, Node]:
    """Flower's one node without a name is the one whose enrolment was cut short; without any, it never began."""
    named = {node.node_id for node in nodes.values()}
    unnamed = [
        node for node, state in flower.node_states(folder).items() if node not in named and state != "unregistered"
    ]
    rest = {other: node for other, node in nodes.items() if other != name}
    if unnamed:
        rest[name] = replace(nodes[name], node_id=unnamed[0])
    _write(folder, rest)
    return rest


def _write(folder: OperatorFolder, nodes: dict[str, Node]) -> None:
    write_json(folder.nodes, {name: asdict(node) for name, node in nodes.items()})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
