"""What Prometheus reads of the service: counts, times and distributions in fixed buckets.

No label and no value holds anything of a request: routes are templates, items count by tenth of popularity.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from hushrec.server.serving.distribution_drift import DistributionDrift
from hushrec.server.serving.served_bundle import DECILES, ServedBundle

disable_created_metrics()  # a series more for each, which nothing here reads
MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"  # set by the process that starts several workers
_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_HISTORY = (0, 5, 20, 50)  # upper ends of the buckets of a history's length
HISTORY_BUCKETS = ("0", "1-5", "6-20", "21-50", "51+")
KINDS = ("nothing", "history", "text", "history and text")
_FORGET = 3600.0  # seconds after which coverage counts anew


class ServiceMetrics:
    """All metrics of one process.

    Args:
        baseline_seconds: how long what is seen counts as the distribution that later ones are compared with.
    """

    def __init__(self, baseline_seconds: float = 3600.0) -> None:
        self.registry = registry = CollectorRegistry()
        labels = ("route", "method")
        self.seconds = Histogram(
            "hushrec_request_seconds", "Time to answer.", labels, buckets=_SECONDS, registry=registry
        )
        self.requests = Counter("hushrec_requests", "Requests.", (*labels, "status"), registry=registry)
        self.batch = Histogram(
            "hushrec_encoder_batch_texts",
            "Texts per encoder call.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.vector_cache = Counter("hushrec_vector_cache", "Bundles opened.", ("result",), registry=registry)
        self.swaps = Counter("hushrec_bundle_swaps", "Bundles that took another's place.", registry=registry)
        self.written = _gauge("hushrec_bundle_written_timestamp_seconds", "When the bundle was written.", registry)
        self.refused = _gauge("hushrec_bundle_refused", "1 while a newer bundle is refused.", registry)
        self.items = _gauge("hushrec_catalog_items", "Items that can be recommended.", registry)
        self.epsilon_left = Gauge(
            "hushrec_epsilon_left",
            "Budget left to the client that spent most, by run or federation.",
            ("run",),
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.history = Counter("hushrec_request_history", "By history length.", ("items",), registry=registry)
        self.kind = Counter("hushrec_request_kind", "By what is given.", ("given",), registry=registry)
        self.served = Counter(
            "hushrec_served_items", "By tenth of popularity, 10 = most popular.", ("decile",), registry=registry
        )
        self.coverage = _gauge("hushrec_served_coverage", "Share of the catalogue served this hour.", registry)
        self.drift = Gauge(
            "hushrec_drift",
            "Distance of the last hour from the first, 0 to 1.",
            ("of",),
            registry=registry,
            multiprocess_mode="livemax",
        )
        sizes = {"history": len(HISTORY_BUCKETS), "kind": len(KINDS), "popularity": DECILES}
        self._drifts = {name: DistributionDrift(size, baseline_seconds) for name, size in sizes.items()}
        for name in sizes:
            self.drift.labels(name).set(0)
        self._shown: NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)
        self._since = time.monotonic()
        self._turn = threading.Lock()

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """One answered request, by its route's template."""
        self.seconds.labels(route, method).observe(seconds)
        self.requests.labels(route, method, str(status)).inc()

    def observe_recommendation(self, served: ServedBundle, history: int, text: bool, items: Sequence[str]) -> None:
        """One answer: how much was given, whether it held a text, and the ids of what was served."""
        length = int(np.searchsorted(_HISTORY, history))
        kind = (1 if history else 0) + (2 if text else 0)
        places = [served.positions[item] for item in items]
        deciles = served.deciles[places]
        self.history.labels(HISTORY_BUCKETS[length]).inc()
        self.kind.labels(KINDS[kind]).inc()
        for decile, count in enumerate(np.bincount(deciles, minlength=DECILES)):
            if count:
                self.served.labels(str(decile + 1)).inc(int(count))
        now = time.monotonic()
        with self._turn:
            self._cover(len(served.catalog), places, now)
            seen = {"history": [length], "kind": [kind], "popularity": deciles.tolist()}
            for name, buckets in seen.items():
                self._drifts[name].add(buckets, now)
                self.drift.labels(name).set(self._drifts[name].distance(now))

    def observe_bundle(self, served: ServedBundle, refused: str) -> None:
        """The bundle in use, and whether a newer one is refused."""
        self.written.set(served.written)
        self.items.set(len(served.catalog))
        self.refused.set(1 if refused else 0)

    def text(self) -> bytes:
        """All of it in Prometheus' text format; of all workers where there are several."""
        if folder := os.environ.get(MULTIPROCESS):
            _forget_dead(Path(folder))
            together = CollectorRegistry()
            MultiProcessCollector(together)
            return generate_latest(together)
        return generate_latest(self.registry)

    def _cover(self, items: int, places: list[int], now: float) -> None:
        if len(self._shown) != items or now - self._since > _FORGET:
            self._shown, self._since = np.zeros(items, dtype=np.bool_), now
        self._shown[places] = True
        self.coverage.set(float(self._shown.mean()))


def _gauge(name: str, says: str, registry: CollectorRegistry) -> Any:
    return Gauge(name, says, registry=registry, multiprocess_mode="livemax")


def _forget_dead(folder: Path) -> None:
    """Remove what a worker said of itself that is no more; what it counted stays."""
    for pid in {int(path.stem.rpartition("_")[2]) for path in folder.glob("gauge_live*.db")}:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid, str(folder))
