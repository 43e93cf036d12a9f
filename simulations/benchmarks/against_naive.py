"""A private round put together from the usual parts against hushrec's, side by side at equal results.

    python simulations/benchmarks/against_naive.py [--devices 128] [--repeats 3] [--engine auto] [--json]

Naive: Flower's Ray engine with one worker per core, a NumPy-style ClientApp per client, FedAvg; peft LoRA in the same
layers of the float32 sentence encoder; tokenizer and all layers for every text of every record in every round; Opacus
for the clipping per record and the noise per device (naive_client.py). hushrec: the in-process grid with the cohort,
ledger and wire format included, as a run does it. Same devices, records (20 items, 32 negatives), draws, clipping,
noise and trained numbers (147,458).

First both compute one round in float32 without noise; the relative difference of the mean update must be at most 1e-3.
Then rounds of the naive side, of hushrec as it runs by default and of hushrec in float32 take turns; `ratio` is naive
seconds over hushrec's default seconds, medians of the repeats. Starting Ray, loading models and encoding the catalogue
by the frozen layers once are not counted. The naive side grows in proportion to the devices; hushrec takes each text
through the adapted layer once a round, so that more devices cost it less each. Without Ray (`--engine loop`) the naive
clients run one after another in this process, without the engine's cost and with every core for each. Needs peft and,
for the engine, Ray:
pip install "hushrec[benchmarks]".
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from naive_client import app as naive_app
from ray_engine import has_ray, play_on_ray
from workload import PRIVATE, Federation, films, write_devices

from hushrec.common.config import RunConfig, Scalar
from hushrec.common.protocol import Arrays
from hushrec.common.run_ledger import close_ledgers
from hushrec.simulations.grid import InProcessGrid

AGREES = 1e-3  # relative difference of the updates in float32
_NO_NOISE = 1e-9  # hushrec refuses a private round without noise


class NaiveFederation:
    """The naive side on any Flower grid, every round from `start`."""

    def __init__(self, grid: Grid, config: RunConfig, start: Arrays) -> None:
        self.grid, self.config, self.start = grid, config, start
        self.strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=1, min_train_nodes=1)

    def play(self, seed: int) -> tuple[float, Arrays]:
        """Seconds of one round with the draws of `seed`, and the mean update.

        Raises:
            SystemExit: a client failed.
        """
        names = sorted(self.start)
        arrays = ArrayRecord([self.start[name] for name in names])
        settings = ConfigRecord({**self.config.to_flat(), "seed": seed})
        begun = time.perf_counter()
        messages = list(self.strategy.configure_train(1, arrays, settings, self.grid))
        replies = list(self.grid.send_and_receive(messages))
        if failed := [reply.error.reason for reply in replies if reply.has_error()]:
            raise SystemExit(f"{len(failed)} naive clients failed: {failed[0]}")
        after, _ = self.strategy.aggregate_train(1, replies)
        seconds = time.perf_counter() - begun
        assert after is not None
        moved = dict(zip(names, after.to_numpy_ndarrays(), strict=True))
        return seconds, {name: moved[name] - self.start[name] for name in names}


def relative_difference(first: Arrays, second: Arrays) -> float:
    """|first - second| / |second| over all tensors together."""
    apart = sum(float(((first[name] - second[name]) ** 2).sum()) for name in second)
    return float(np.sqrt(apart / sum(float((value**2).sum()) for value in second.values())))


def compare(
    folder: Path, devices: int, repeats: int, engine: str, changes: Mapping[str, Scalar], films_of: str, items: int
) -> dict[str, Any]:
    """Everything that is printed.

    Args:
        engine: "ray" or "loop", of the naive side.
        changes: flat configuration keys that differ from workload.PRIVATE.
    Raises:
        SystemExit: the two sides do not agree, so that their times must not be compared.
    """
    base = RunConfig.from_flat({**PRIVATE, "data.folder": str(folder / "data"), **changes})
    write_devices(folder / "data", films(items, films_of), devices, base.train.window)
    noiseless = base.replace(model__dtype="float32", federation__wire="float32", privacy__noise_multiplier=_NO_NOISE)
    # Before the engine starts: the grid's constructor sets Flower's identity of the process, which the engine needs.
    check, shipped, float32 = (
        Federation(config.replace(run__directory=str(folder / name)))
        for name, config in (("check", noiseless), ("shipped", base), ("f32", base.replace(model__dtype="float32")))
    )
    for name in ("check", "shipped", "f32"):
        (folder / name).mkdir()

    def play(grid: Grid) -> dict[str, Any]:
        expected = check.play()
        start = check.start()
        _, update = NaiveFederation(grid, noiseless, start).play(expected.seed)
        difference = relative_difference(expected.update, update)
        if not difference <= AGREES:
            raise SystemExit(f"the updates differ by {difference:.2g} of their norm; nothing was compared")
        naive = NaiveFederation(grid, base, start)
        times: dict[str, list[float]] = {"naive": [], "hushrec": [], "hushrec_float32": []}
        naive.play(expected.seed)  # builds its model for this configuration
        for _ in range(repeats):
            times["naive"].append(naive.play(expected.seed)[0])
            for name, federation in (("hushrec", shipped), ("hushrec_float32", float32)):
                federation.play()  # the process keeps one model, and this builds it
                times[name].append(federation.play().seconds)
        return {
            "relative_difference_float32": difference,
            "times": times,
            "trained": sum(v.size for v in start.values()),
        }

    try:
        measured = (
            play_on_ray(naive_app, devices, play) if engine == "ray" else play(InProcessGrid(naive_app, devices, {}))
        )
    finally:
        close_ledgers()
    median = {name: statistics.median(values) for name, values in measured["times"].items()}
    return {
        "ratio": round(median["naive"] / median["hushrec"], 2),
        "ratio_float32": round(median["naive"] / median["hushrec_float32"], 2),
        **{f"{name}_seconds": round(value, 3) for name, value in median.items()},
        "all_seconds": {name: [round(value, 3) for value in values] for name, values in measured["times"].items()},
        "relative_difference_float32": measured["relative_difference_float32"],
        "devices": devices,
        "trained_numbers": measured["trained"],
        "hushrec_threads": torch.get_num_threads(),  # of the naive side's workers: one each, one worker per core
        "engine": engine,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--items", type=int, default=1682)
    parser.add_argument("--engine", choices=("auto", "ray", "loop"), default="auto", help="auto: ray if installed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    engine = options.engine if options.engine != "auto" else "ray" if has_ray() else "loop"
    with tempfile.TemporaryDirectory() as folder:
        result = compare(Path(folder), options.devices, options.repeats, engine, {}, "movielens-small", options.items)
    if options.json:
        print(json.dumps(result))
        return
    print(f"{result['devices']} devices, {result['trained_numbers']:,} trained numbers, naive engine: {engine}")
    print(f"updates without noise differ by {result['relative_difference_float32']:.1e} of their norm in float32")
    for name in ("naive", "hushrec", "hushrec_float32"):
        print(f"{name:>16}: {result[f'{name}_seconds']:.2f} s a round")
    print(f"ratio: {result['ratio']} ({result['ratio_float32']} with hushrec in float32)")


if __name__ == "__main__":
    main()
