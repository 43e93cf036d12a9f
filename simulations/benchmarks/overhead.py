"""What a trivial client-round costs in the in-process grid, whether that stays flat, and what it costs on Ray.

    python simulations/benchmarks/overhead.py [--clients 1000 10000 100000] [--ray-clients 100] [--pfl PYTHON] [--json]

Each client gets the adapter of the quickstart (as float16), reads it and sends an update of the same size back through
the real protocol checks and the real aggregation; it computes nothing. The same client, messages and aggregation run
on Flower's Ray engine where Ray is installed (fewer of them, since it is slow; `--ray-clients 0` leaves it out), with
the two engines taking turns; `ratio_ray_to_in_process` compares them at that number of clients. Medians of the repeats.
`--pfl` names the interpreter of an environment with pfl-research, whose trivial rounds then take turns with ours at the
smallest number of clients (pfl_round.py says what they are). Target: at most 1 ms, flat from 1,000 to 100,000.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid
from ray_engine import has_ray, play_on_ray
from trivial_client import ITEMS, SHAPES, app

from hushrec.common.protocol import pack
from hushrec.common.settings import ServerConfig
from hushrec.server.optimizer import ServerOptimizer
from hushrec.server.strategy import AdapterStrategy
from hushrec.simulations.grid import InProcessGrid


def seconds_of_round(grid: Grid, clients: int) -> float:
    """One round over all `clients` clients of `grid`.

    Raises:
        SystemExit: a client did not answer.
    """
    optimizer = ServerOptimizer(ServerConfig(optimizer="fedavg"), 1)
    prior = np.zeros(ITEMS, dtype=np.float32)
    strategy = AdapterStrategy(SHAPES, optimizer, prior, clients_per_round=0, wire="float16", seed=0)
    arrays: ArrayRecord = pack({name: np.zeros(shape, dtype=np.float32) for name, shape in SHAPES.items()}, "float32")
    start = time.perf_counter()
    messages = strategy.configure_train(1, arrays, ConfigRecord(), grid)
    strategy.aggregate_train(1, grid.send_and_receive(messages))
    seconds = time.perf_counter() - start
    if strategy.traffic.answered != clients:
        raise SystemExit(f"only {strategy.traffic.answered} of {clients} clients answered: {strategy.traffic}")
    return seconds


def in_process(sizes: Sequence[int], repeats: int) -> dict[str, float]:
    """Clients -> milliseconds per client-round; the sizes take turns, so that a slow minute hits all of them."""
    grids = {clients: InProcessGrid(app, clients, {"round": 0}) for clients in sizes}
    times: dict[int, list[float]] = {clients: [] for clients in sizes}
    for _ in range(repeats):
        for clients, grid in grids.items():
            times[clients].append(seconds_of_round(grid, clients))
    return {str(clients): round(statistics.median(of) / clients * 1000, 4) for clients, of in times.items()}


def beside_ray(clients: int, repeats: int) -> dict[str, float]:
    """Milliseconds per client-round of both engines, in turns, after a round that starts Ray's workers."""
    here = InProcessGrid(app, clients, {"round": 0})
    times: dict[str, list[float]] = {"ray": [], "in_process": []}

    def play(grid: Grid) -> None:
        seconds_of_round(grid, clients)
        for _ in range(repeats):
            times["ray"].append(seconds_of_round(grid, clients))
            times["in_process"].append(seconds_of_round(here, clients))

    play_on_ray(app, clients, play)
    return {name: round(statistics.median(of) / clients * 1000, 4) for name, of in times.items()}


def beside_pfl(python: str, clients: int, repeats: int) -> dict[str, float]:
    """Milliseconds per client-round of pfl-research, in an interpreter of its own, and of ours, in turns.

    Raises:
        SystemExit: the interpreter does not run pfl.
    """
    here = InProcessGrid(app, clients, {"round": 0})
    times: dict[str, list[float]] = {"pfl": [], "in_process": []}
    for _ in range(repeats):
        command = [python, str(Path(__file__).with_name("pfl_round.py")), str(clients), "1"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise SystemExit(f"{python} does not run pfl: {ended.stderr.strip().splitlines()[-1]}")
        times["pfl"] += json.loads(ended.stdout)
        times["in_process"].append(seconds_of_round(here, clients))
    return {name: round(statistics.median(of) / clients * 1000, 4) for name, of in times.items()}


def measure(sizes: Sequence[int], ray_clients: int, pfl: str, repeats: int) -> dict[str, Any]:
    """Everything that is printed."""
    measured = in_process(sizes, repeats)
    result: dict[str, Any] = {
        "milliseconds_per_client_round": measured,
        "ratio_largest_to_smallest": round(measured[str(max(sizes))] / measured[str(min(sizes))], 3),
    }
    if ray_clients:
        both = beside_ray(ray_clients, repeats)
        result |= {"ray_clients": ray_clients, "milliseconds_beside_ray": both}
        result["ratio_ray_to_in_process"] = round(both["ray"] / both["in_process"], 1)
    if pfl:
        result["milliseconds_beside_pfl"] = both = beside_pfl(pfl, min(sizes), repeats)
        result["ratio_pfl_to_in_process"] = round(both["pfl"] / both["in_process"], 2)
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--ray-clients", type=int, default=100 if has_ray() else 0)
    parser.add_argument("--pfl", default="", metavar="PYTHON", help="interpreter with pfl installed; not run without")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.clients, options.ray_clients, options.pfl, options.repeats)
    if options.json:
        print(json.dumps(result))
        return
    for clients, value in result["milliseconds_per_client_round"].items():
        print(f"{int(clients):>7,} clients in process: {value:.3f} ms per client-round")
    print(f"{max(options.clients):,} against {min(options.clients):,}: {result['ratio_largest_to_smallest']} times")
    if options.ray_clients:
        both = result["milliseconds_beside_ray"]
        print(f"{options.ray_clients:>7,} clients on Ray: {both['ray']:.2f} ms, in process {both['in_process']:.3f} ms")
        print(f"Ray against in process: {result['ratio_ray_to_in_process']} times")
    if options.pfl:
        both = result["milliseconds_beside_pfl"]
        print(f"pfl-research: {both['pfl']:.3f} ms, in process {both['in_process']:.3f} ms per client-round")


if __name__ == "__main__":
    main()
