"""Time of a recommendation from a history over HTTP: p50, p95, p99 and requests per second, by catalogue size.

    python simulations/benchmarks/serving.py [ITEMS ...] [--seconds 10] [--callers 4]

Prints one line as JSON for each size. The vectors are synthetic, so no text is encoded; callers are threads of a
process of their own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import threading
import time
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import uvicorn

from hushrec.common.catalog import Catalog
from hushrec.common.scoring import Heads, ScoringChoices
from hushrec.common.settings import ModelConfig
from hushrec.common.stored_vectors import StoredScorer
from hushrec.common.workspace import Model
from hushrec.server.serving.app import build_app
from hushrec.server.serving.served_bundle import ServedBundle
from hushrec.server.serving.service import RecommendationService, ServeSettings

DIM, HISTORY, PORT = 64, 20, 18080


def synthetic(items: int) -> ServedBundle:
    """A bundle of random vectors."""
    rng = np.random.default_rng(0)
    numbers = range(items)
    catalog = Catalog(
        tuple(f"i{n}" for n in numbers),
        tuple(f"Title {n}" for n in numbers),
        tuple(f"Title {n}" for n in numbers),
        rng.integers(1950, 2024, items).astype(np.int32),
        tuple((("Comedy",), ("Drama",), ("War", "Drama"))[n % 3] for n in numbers),
    )
    vectors = rng.normal(size=(2, items, DIM)).astype(np.float32)
    prior = np.log1p(rng.zipf(1.5, items)).astype(np.float32)
    head = np.eye(DIM, dtype=np.float32)
    heads = Heads(np.zeros(DIM, np.float32), head, head, np.zeros(DIM, np.float32), 3.0, 0.5)
    scorer = StoredScorer(vectors[0], vectors[1], heads, prior, prior, ScoringChoices())
    model: Any = object.__new__(Model)
    object.__setattr__(model, "config", ModelConfig())
    privacy = {"mechanism": "none", "epsilon": None}
    served = ServedBundle("0" * 64, "synthetic", privacy, {}, time.time(), catalog, scorer, model, True)
    served.warm()
    return replace(served)


def main() -> None:
    """Print one JSON line per catalogue size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("items", nargs="*", type=int, default=[10_000, 100_000])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--callers", type=int, default=4)
    asked = parser.parse_args()
    for items in asked.items:
        print(json.dumps(measure(items, asked.seconds, asked.callers)), flush=True)


def measure(items: int, seconds: float, callers: int) -> dict[str, float]:
    """Serve `items` and ask for `seconds`, from a process of its own."""
    served = synthetic(items)
    service = _service(served)
    server = uvicorn.Server(uvicorn.Config(build_app(service), port=PORT, log_config=None, ws="none", http="h11"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        times = np.array(pool.apply(ask, (items, seconds, callers))) * 1000
    server.should_exit = True
    thread.join()
    p50, p95, p99 = (round(float(x), 1) for x in np.percentile(times, (50, 95, 99)))
    return {
        "items": items,
        "callers": callers,
        "requests": len(times),
        "requests_per_second": round(len(times) / seconds, 1),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
    }


def ask(items: int, seconds: float, callers: int) -> list[float]:
    """Seconds of every request, the first of each caller left out."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    def call(number: int) -> None:
        rng = np.random.default_rng(number)
        with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", trust_env=False) as client:
            first = True
            while time.perf_counter() < end:
                body = {"history": [f"i{n}" for n in rng.choice(items, HISTORY, replace=False)]}
                begun = time.perf_counter()
                client.post("/v1/recommend", json=body).raise_for_status()
                if not first:
                    times.append(time.perf_counter() - begun)
                first = False

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def _service(served: ServedBundle) -> RecommendationService:
    from hushrec.server.serving.batching import EncoderBatches
    from hushrec.server.serving.bundle_holder import BundleHolder
    from hushrec.server.serving.metrics import ServiceMetrics

    service: Any = object.__new__(RecommendationService)
    holder: Any = object.__new__(BundleHolder)
    holder.current, holder.refused, holder.watch, holder.close = served, "", lambda: None, lambda: None
    service.settings = ServeSettings(target="", open=True)
    service.metrics, service.tokens, service.batches = ServiceMetrics(), None, EncoderBatches()
    service.holder, service._limiter, service._ended = holder, None, threading.Event()
    found: RecommendationService = service
    return found


if __name__ == "__main__":
    main()
