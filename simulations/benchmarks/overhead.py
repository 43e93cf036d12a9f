"""What the in-process grid costs per trivial client-round, and whether that stays flat as the federation grows.

    python simulations/benchmarks/overhead.py [--json]

Each client gets the adapter of the quickstart (as float16), reads it and sends an update of the same size back through
the real protocol checks and the real aggregation; it computes nothing. Target: <= 1 ms, flat from 1,000 to 10,000.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from hushrec.common.config import ServerConfig
from hushrec.common.protocol import Update, pack, read_train, reply
from hushrec.server.optimizer import ServerOptimizer
from hushrec.server.strategy import AdapterStrategy
from hushrec.simulations.grid import InProcessGrid

SHAPES = {"core": (64, 64), "offset": (64,), **{f"layer.{number}": (8, 8) for number in range(5)}}
ITEMS = 1682

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Read the request, send zeros."""
    request = read_train(message, SHAPES, ITEMS)
    zeros = {name: np.zeros_like(value) for name, value in request.adapter.items()}
    return reply(message, Update(zeros, 1), "float16")


def milliseconds_per_client(clients: int, rounds: int = 2) -> float:
    """Best of `rounds` full rounds over `clients` clients."""
    grid = InProcessGrid(app, clients, {"round": 0})
    optimizer = ServerOptimizer(ServerConfig(optimizer="fedavg"), rounds)
    prior = np.zeros(ITEMS, dtype=np.float32)
    strategy = AdapterStrategy(SHAPES, optimizer, prior, clients_per_round=0, wire="float16", seed=0)
    arrays: ArrayRecord = pack({name: np.zeros(shape, dtype=np.float32) for name, shape in SHAPES.items()}, "float32")
    best = float("inf")
    for server_round in range(1, rounds + 1):
        start = time.perf_counter()
        messages = strategy.configure_train(server_round, arrays, ConfigRecord(), grid)
        strategy.aggregate_train(server_round, grid.send_and_receive(messages))
        best = min(best, time.perf_counter() - start)
        assert strategy.traffic.answered == clients
    return best / clients * 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    measured = {str(clients): round(milliseconds_per_client(clients), 4) for clients in (1_000, 3_000, 10_000)}
    result = {
        "milliseconds_per_client_round": measured,
        "ratio_10000_to_1000": round(measured["10000"] / measured["1000"], 3),
    }
    if as_json:
        print(json.dumps(result))
        return
    for clients, value in measured.items():
        print(f"{int(clients):>6,} clients: {value:.3f} ms per client-round")
    print(f"10,000 against 1,000 clients: {result['ratio_10000_to_1000']} times")


if __name__ == "__main__":
    main()
