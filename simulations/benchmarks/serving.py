"""Time of a recommendation from a history over HTTP, by catalogue size and number of workers: p50, p95, p99.

    python simulations/benchmarks/serving.py [ITEMS ...] [--workers 1 2] [--seconds 10] [--callers 4]

Prints one line as JSON for each size and number of workers. The service is `hushrec serve`, started on a bundle folder
whose item vectors are synthetic (clustered, a long tail of popularity) and stored already, so no catalogue is encoded.
The callers are threads of this program; they share the processors with the service, and `callers_cpu` says how much of
one they took. Recall compares the answers with those of a search that scores every item.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hushrec.common.bundle import Bundle, write_bundle
from hushrec.common.catalog import Catalog
from hushrec.common.item_index import EXACT_UP_TO
from hushrec.common.recommendation import recommend_items
from hushrec.common.scoring import Heads, ScoringChoices
from hushrec.common.settings import ModelConfig
from hushrec.common.stored_vectors import StoredScorer, store_vectors
from hushrec.common.workspace import build_text_model
from hushrec.server.serving.prepare import bundle_sha256
from hushrec.server.serving.served_bundle import vectors_folder

HISTORY, PORT, CHECKED, PER_CLUSTER = 20, 18080, 50, 300
SERVE = "from hushrec.simulations.cli import main; main()"


def main() -> None:
    """Print one JSON line per catalogue size and number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("items", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--callers", type=int, default=4)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the service ends with this program
    for items in asked.items:
        with tempfile.TemporaryDirectory(prefix="hushrec-serving-") as made:
            folder = Path(made) / "bundle"
            begun = time.perf_counter()
            catalog, scorer = write_synthetic(folder, items)
            written = round(time.perf_counter() - begun, 1)
            for workers in asked.workers:
                found = measure(folder, catalog, scorer, workers, asked.seconds, asked.callers)
                print(json.dumps({"items": items, "workers": workers, "store_seconds": written} | found), flush=True)


def write_synthetic(folder: Path, items: int) -> tuple[Catalog, StoredScorer]:
    """A bundle and, beside it, its stored vectors: what the service opens."""
    rng = np.random.default_rng(0)
    numbers = range(items)
    titles = tuple(f"Title {n}" for n in numbers)
    genres = tuple((("Comedy",), ("Drama",), ("War", "Drama"))[n % 3] for n in numbers)
    years = rng.integers(1950, 2024, items).astype(np.int32)
    catalog = Catalog(tuple(f"i{n}" for n in numbers), titles, titles, years, genres)
    config = ModelConfig(dtype="float32")
    model = build_text_model(config, catalog)
    width, dim = model.base.width, config.head_dim
    clusters = items // PER_CLUSTER + 1  # item n is of cluster n % clusters
    centers = rng.normal(size=(clusters, dim)).astype(np.float32) / np.float32(np.sqrt(dim))
    vectors = centers[np.arange(items) % clusters] + rng.normal(scale=0.07, size=(items, dim)).astype(np.float32)
    popularity = rng.exponential(1.2, items).astype(np.float32)
    head = np.eye(dim, width, dtype=np.float32)
    heads = Heads(np.zeros(width, np.float32), head, head, np.zeros(dim, np.float32), 3.0, 0.5)
    choices = ScoringChoices()
    privacy = {"mechanism": "none", "epsilon": None}
    adapter = model.recommender.read()
    write_bundle(folder, Bundle(config, model.base.sha256, catalog, adapter, popularity, choices, privacy, "synthetic"))
    scorer = StoredScorer(vectors, vectors, heads, popularity, heads.prior(vectors, popularity), choices)
    store_vectors(vectors_folder(folder, bundle_sha256(folder)), scorer)
    return catalog, scorer


def measure(
    folder: Path, catalog: Catalog, scorer: StoredScorer, workers: int, seconds: float, callers: int
) -> dict[str, Any]:
    """Serve the folder and ask for `seconds`."""
    with serving(folder, workers) as (process, started):
        recall = recall_at_10(catalog, scorer)
        begun = time.process_time()
        times = np.array(ask(len(catalog), seconds, callers)) * 1000
        busy = time.process_time() - begun
        memory = [resident(pid) for pid in serving_processes(process.pid, workers)]
    p50, p95, p99 = (round(float(x), 1) for x in np.percentile(times, (50, 95, 99)))
    return {
        "callers": callers,
        "requests": len(times),
        "requests_per_second": round(len(times) / seconds, 1),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "callers_cpu": round(busy / seconds, 2),
        "search": "index" if len(catalog) > EXACT_UP_TO else "exact",
        "recall_at_10": recall,
        "start_seconds": round(started, 1),
        "resident_mb": [round(whole / 2**20) for whole, _ in memory],
        "private_mb": [round(own / 2**20) for _, own in memory],
    }


@contextmanager
def serving(folder: Path, workers: int) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """`hushrec serve` while the block runs, and the seconds until every worker was ready."""
    command = [sys.executable, "-c", SERVE, "serve", str(folder), "--open", "--port", str(PORT)]
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, "--workers", str(workers)], stdout=log, stderr=log)
        try:
            while log_of(log).count(b'"event": "ready"') < workers or not accepts():
                if process.poll() is not None or time.perf_counter() - begun > 300:
                    sys.exit(f"the service did not start: {log_of(log).decode()[-500:]}")
                time.sleep(0.05)
            yield process, time.perf_counter() - begun
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def accepts() -> bool:
    """Whether something listens."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", PORT)) == 0


def log_of(log: Any) -> bytes:
    """What the service wrote so far; its own place in the file is left alone."""
    return os.pread(log.fileno(), 1 << 20, 0)


def ask(items: int, seconds: float, callers: int) -> list[float]:
    """Seconds of every request, the first of each caller left out."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    def call(number: int) -> None:
        rng = np.random.default_rng(number)
        bodies = [body_of(history(rng, items)) for _ in range(200)]  # made before, so that asking costs little
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
        asked = 0
        while time.perf_counter() < end:
            begun = time.perf_counter()
            post(connection, bodies[asked % len(bodies)])
            if asked:
                times.append(time.perf_counter() - begun)
            asked += 1
        connection.close()

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def recall_at_10(catalog: Catalog, scorer: StoredScorer) -> float:
    """Share of the exact first ten that the service answered, over CHECKED histories."""
    rng = np.random.default_rng(99)
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    found = 0
    for _ in range(CHECKED):
        own = history(rng, len(catalog))
        exact = recommend_items(scorer, catalog, own, [], n=10, discovery=0.0)
        answered = {item["item_id"] for item in post(connection, body_of(own))["items"]}
        found += sum(one.item_id in answered for one in exact.recommendations)
    connection.close()
    return found / (10 * CHECKED)


def history(rng: np.random.Generator, items: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """HISTORY items of four clusters: somebody with tastes."""
    clusters = items // PER_CLUSTER + 1
    liked = rng.integers(clusters, size=4)
    drawn = rng.choice(items // clusters, HISTORY, replace=False) * clusters + rng.choice(liked, HISTORY)
    return np.unique(drawn[drawn < items]).astype(np.int32)


def body_of(items: np.ndarray[Any, np.dtype[np.int32]]) -> bytes:
    """A request."""
    return json.dumps({"history": [f"i{n}" for n in items]}).encode()


def post(connection: http.client.HTTPConnection, body: bytes) -> dict[str, Any]:
    """The answer to one request; anything but 200 ends the program."""
    connection.request("POST", "/v1/recommend", body, {"content-type": "application/json"})
    response = connection.getresponse()
    content = response.read()
    if response.status != 200:
        sys.exit(f"the service answered {response.status}: {content[:200]!r}")
    answer: dict[str, Any] = json.loads(content)
    return answer


def serving_processes(parent: int, workers: int) -> list[int]:
    """The processes that answer: the one that was started, or its children that are workers."""
    if workers == 1:
        return [parent]
    children = [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    return sorted(children, key=lambda pid: resident(pid)[0])[-workers:]  # beside them, multiprocessing has a small one


def resident(pid: int) -> tuple[int, int]:
    """Bytes in memory, and those that it shares with nobody (Linux)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    bytes_of = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return bytes_of["Rss"], bytes_of["Private_Clean"] + bytes_of["Private_Dirty"]


if __name__ == "__main__":
    main()
