"""Flower's own simulation engine (Ray), driven from a Python program, for benchmarks that compare with it.

hushrec's own runs do not use it; `run_simulation` is deprecated in Flower in favour of `flwr run`, which starts the
same engine from a command line and so cannot interleave its rounds with another engine's.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

# Before flwr is imported anywhere.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

T = TypeVar("T")


def has_ray() -> bool:
    """Whether the extra `flwr[simulation]` is installed."""
    return importlib.util.find_spec("ray") is not None


def play_on_ray(client_app: ClientApp, nodes: int, play: Callable[[Grid], T]) -> T:
    """Result of `play`, called with Flower's grid once all `nodes` are registered; one client per core at a time.

    Args:
        client_app: of a module beside this file or installed, which the worker processes can import.
    """
    from flwr.simulation import run_simulation

    path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))  # inherited by the workers
    os.environ["OMP_NUM_THREADS"] = "1"  # of a worker, of which each core has one; this process has begun with its own
    server_app, results = ServerApp(), []

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        while len(list(grid.get_node_ids())) < nodes:
            time.sleep(0.1)
        results.append(play(grid))

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    backend: dict[str, dict[str, Any]] = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": cores},
    }
    run_simulation(server_app, client_app, nodes, backend_config=backend)
    return results[0]
