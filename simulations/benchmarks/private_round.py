"""Seconds of one private round, and of one open round, of 300 devices on MovieLens-100K-sized data.

    python simulations/benchmarks/private_round.py [--rows 300] [--json]

A private row is one record of 20 items with 32 negatives of its own: its gradient through the top layer (LoRA r = 16 on
five matrices and two heads, 147,458 numbers), clipped as a whole and noised per device. An open round is one summed
backward pass over the distinct texts. The records are generated: what is timed does not depend on taste. Target:
private <= 15 s on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass

import numpy as np
from workload import films

from hushrec.client.rows import Row
from hushrec.client.training import train_cohort
from hushrec.common.config import RunConfig
from hushrec.common.protocol import TrainRequest
from hushrec.common.settings import ModelConfig
from hushrec.common.workspace import Model, build_model

ITEMS = 1682


@dataclass(frozen=True)
class _Device:
    client: str
    rows: tuple[Row, ...]
    ledger: None = None


def measured_model(config: ModelConfig) -> Model:
    """The model on the first 1,682 films of the packaged MovieLens, whose texts are as long as MovieLens-100K's."""
    return build_model(config, films(ITEMS))


def seconds_per_round(model: Model, config: RunConfig, devices: int, repeats: int = 3) -> list[float]:
    """Times of `repeats` rounds after one warm-up."""
    rng = np.random.default_rng(0)
    stores = [
        _Device(f"device-{number}", (Row("slot-0", rng.choice(ITEMS, 20, replace=False).astype(np.int32)),))
        for number in range(devices)
    ]
    times = []
    for repeat in range(repeats + 1):
        request = TrainRequest(model.recommender.read(), np.zeros(ITEMS, dtype=np.float32), 1, repeat)
        start = time.perf_counter()
        train_cohort(model, request, stores, config)
        times.append(time.perf_counter() - start)
    return times[1:]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    private = RunConfig.from_flat(
        {"train.negatives": 32, "train.shared-negatives": False, "privacy.noise-multiplier": 1.0}
    )
    open_ = RunConfig.from_flat({"train.negatives": 400, "privacy.mechanism": "none"})
    model = measured_model(private.model)
    result: dict[str, float | int | str] = {
        name: round(statistics.median(seconds_per_round(model, config, options.rows)), 3)
        for name, config in (("private_seconds", private), ("open_seconds", open_))
    }
    tokens = float(model.prefix.lengths.float().mean())
    result |= {"devices": options.rows, "tokens_per_text": round(tokens, 2), "dtype": str(model.prefix.hidden.dtype)}
    if options.json:
        print(json.dumps(result))
        return
    print(f"private: {result['private_seconds']} s a round of {options.rows} devices, one record of 20 + 32 texts each")
    print(f"open:    {result['open_seconds']} s a round of {options.rows} devices, 400 shared negatives")


if __name__ == "__main__":
    main()
