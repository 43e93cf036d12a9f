"""A federation that is served while a test runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.federation_on_disk import REPLY_TIMEOUT, Federation

from hushrec.common.config import RunConfig
from hushrec.server.deployment import service


@pytest.fixture
def federate(tiny: Callable[..., RunConfig], tmp_path: Path) -> Iterator[Callable[..., Federation]]:
    """Make and serve a federation; keywords as in RunConfig.replace."""
    made: list[Federation] = []

    def make(*, reply_timeout: float = REPLY_TIMEOUT, **changes: Any) -> Federation:
        config = tiny(federation__clients_per_round=0, evaluation__every=0, **changes)
        federation = Federation(tmp_path / f"federation-{len(made)}", config, reply_timeout=reply_timeout)
        made.append(federation)
        service.start(federation.operator)
        return federation

    yield make
    for federation in made:
        federation.end()
        shutil.rmtree(federation.path)
