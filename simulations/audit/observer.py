"""What those who watch releases share: an update as one vector, and a server mechanism whose ledger is thrown away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from hushrec.common.budget import ledger_header
from hushrec.common.config import RunConfig
from hushrec.common.ledger import Ledger
from hushrec.common.protocol import Arrays
from hushrec.server.central_privacy import CentralMechanism


def flat(arrays: Arrays) -> NDArray[np.float64]:
    """(d,) all numbers of an update."""
    return np.concatenate([value.ravel() for value in arrays.values()]).astype(np.float64)


@contextmanager
def throwaway_mechanism(config: RunConfig) -> Iterator[CentralMechanism]:
    """The trusted server's mechanism, paying into a ledger that nobody keeps."""
    header = ledger_header(config, "audit")
    with TemporaryDirectory() as folder, Ledger.open(Path(folder) / "ledger.jsonl", header) as ledger:
        yield CentralMechanism(config, ledger)
