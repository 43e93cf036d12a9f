"""per_user.npz: what hushrec's systems and their control scored on every case, for paired intervals across runs.

It lies beside results.json in a run directory and belongs to the simulation: it tells of every user whether the item
held out was found, which no ledger covers. It is part of no bundle and of no report.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hushrec.common.errors import BundleError
from hushrec.server.checkpoint import write_atomically
from hushrec.server.evaluation import Evaluation
from hushrec.simulations.table import OURS, UNTRAINED

PER_USER = "per_user.npz"
_USERS = "users"  # "users|warm" -> (cases,); "hushrec|warm/NDCG@10" -> (cases,)


def write_per_user(path: Path, evaluations: Mapping[str, Evaluation]) -> None:
    """Write hushrec's systems and their untrained control, which gains and ablations are differences of.

    Raises:
        BundleError: it cannot be written.
    """
    kept = [found for name, found in evaluations.items() if name == UNTRAINED or name.startswith(OURS)]
    arrays: dict[str, Any] = {f"{_USERS}|{group}": users for group, users in kept[0].users.items()}
    for evaluation in kept:
        for figure, values in evaluation.per_user.items():
            arrays[f"{evaluation.system}|{figure}"] = values.astype(np.float32)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_atomically(path, content.getvalue())


def read_per_user(path: Path) -> dict[str, Evaluation]:
    """System -> its values without figures; empty where there is no such file.

    Raises:
        BundleError: it is damaged.
    """
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as content:
            parts = [(*name.split("|", 1), content[name]) for name in content.files]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path} is damaged ({error}); delete it: intervals are approximate without it") from error
    users = {name: values.astype(np.int64) for system, name, values in parts if system == _USERS}
    found: dict[str, Evaluation] = {}
    for system, figure, values in parts:
        if system != _USERS:
            entry = found.setdefault(system, Evaluation(system, {}, {}, users))
            entry.per_user[figure] = values.astype(np.float64)
    return found
