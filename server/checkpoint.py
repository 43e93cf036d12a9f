"""The state of a run after a round, in one file that is replaced atomically.

It holds only released values (adapter, optimiser state, noised prior) and their hash; budgets live in the ledger.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hushrec.common.errors import BundleError
from hushrec.common.files import replace_file
from hushrec.common.protocol import Arrays

NAME = "checkpoint.safetensors"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Everything the server needs to go on with the next round.

    Attributes:
        server_round: the last finished round; 0 after the popularity release.
        adapter: trained tensors.
        optimizer: ServerOptimizer.state().
        log_popularity: float32 (items,).
        facts: small JSON values: steps taken, refusals by code, seconds, bytes, the last round's traffic.
    """

    server_round: int
    adapter: Arrays
    optimizer: Arrays
    log_popularity: NDArray[np.float32]
    facts: dict[str, Any] = field(default_factory=dict)


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint: after a crash at any byte the file is the old one or the new one, whole."""
    arrays = {f"adapter/{name}": value for name, value in checkpoint.adapter.items()}
    arrays |= {f"optimizer/{name}": value for name, value in checkpoint.optimizer.items()}
    arrays["log-popularity"] = checkpoint.log_popularity
    arrays = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in arrays.items()}
    facts = json.dumps({"server_round": checkpoint.server_round, "facts": checkpoint.facts})
    metadata = {"hushrec": facts, "sha256": _sha256(facts, arrays)}
    write_atomically(folder / NAME, save(arrays, metadata=metadata))


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint in `folder`, or None where there is none yet.

    Raises:
        BundleError: the file is damaged.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="np") as stored:
            metadata = stored.metadata() or {}
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dict
        if metadata["sha256"] != _sha256(metadata["hushrec"], arrays):
            raise ValueError("its values are not those that were written")
        facts = json.loads(metadata["hushrec"])
        adapter = {n.removeprefix("adapter/"): v for n, v in arrays.items() if n.startswith("adapter/")}
        optimizer = {n.removeprefix("optimizer/"): v for n, v in arrays.items() if n.startswith("optimizer/")}
        return Checkpoint(facts["server_round"], adapter, optimizer, arrays["log-popularity"], facts["facts"])
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise BundleError(f"{path} is damaged ({error}); this run cannot be resumed, start a new one") from error


def _sha256(facts: str, arrays: Arrays) -> str:
    """Over everything that is restored; safetensors itself does not notice a changed number."""
    digest = hashlib.sha256(facts.encode())
    for name, value in sorted(arrays.items()):
        digest.update(f"\0{name}\0{value.dtype}\0{value.shape}\0".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to disk, rename over it.

    Raises:
        BundleError: the disk is full or does not let us; `path` is as it was.
    """
    try:
        replace_file(path, content)
    except OSError as error:
        raise BundleError(f"cannot write {path}: {error.strerror}; a run can be resumed from its last round") from error
