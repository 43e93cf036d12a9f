"""A real `hushrec serve` under load while its bundle is swapped every few seconds: errors, latency, growth of RSS.

    python simulations/benchmarks/serving_swaps.py [RUN] [--seconds 600] [--every 5] [--callers 4] [--workers 1]

Prints what it measured as JSON in one line; exit code 1 on any error, or if RSS grew by more than 10 %. RUN is a run
directory; without it, the bundles are of the packaged model with synthetic films. Every fifth bundle is damaged and has
to be refused. RSS is the sum over the service's processes, median of a twentieth of the time before each mark.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from hushrec.common.bundle import ADAPTER, CATALOG, MANIFEST, Bundle, read_bundle, write_bundle
from hushrec.common.scoring import ScoringChoices
from hushrec.common.workspace import build_model, open_dataset

MOST_GROWTH, MARKS, DAMAGED_EACH = 1.10, (0.1, 0.5, 1.0), 5
PATIENCE = 120.0  # seconds until a written bundle must be taken or refused
WISHES: list[dict[str, Any]] = [{"query": "a comedy about robots"}, {"profile": "likes old westerns", "n": 20}, {}]


@dataclass
class Seen:
    """What the callers and the one that swaps saw.

    Attributes:
        times: seconds of each request.
        errors: what was not an answer.
        memory: (seconds since the start, bytes).
        taken: seconds from writing a bundle until it answered.
    """

    times: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    taken: list[float] = field(default_factory=list)
    swaps: int = 0
    refused: int = 0


def main() -> None:
    """Measure, print one JSON line, and say by the exit code whether it held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--every", type=float, default=5.0)
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        facts = measure(Path(folder), asked)
    print(json.dumps(facts))
    sys.exit(1 if facts["errors"] or facts["rss_growth"] > MOST_GROWTH else 0)


def measure(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Serve, ask and swap for the time that was asked for."""
    sources = write_bundles(folder, asked.run)
    shutil.copytree(sources[0], folder / "bundle")
    port, seen, ended = free_port(), Seen(), threading.Event()
    code = "from hushrec.simulations.cli import main; main()"
    options = ["serve", str(folder / "bundle"), "--open", "--port", str(port), "--workers", str(asked.workers)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", code, *options], stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(address, process, folder / "log")
        item = next(iter(read_bundle(sources[0]).catalog.item_ids))
        threads = [threading.Thread(target=call, args=(address, seen, ended, n, item)) for n in range(asked.callers)]
        threads.append(threading.Thread(target=watch_memory, args=(process.pid, seen, ended)))
        for thread in threads:
            thread.start()
        swap(address, folder / "bundle", sources, seen, asked)
        ended.set()
        for thread in threads:
            thread.join()
    finally:
        ended.set()
        process.terminate()
        process.wait(60)
    return summary(seen, asked.seconds)


def write_bundles(folder: Path, run: Path | None) -> list[Path]:
    """Two bundles that hold and differ in their adapters, and a third that is damaged."""
    first = read_bundle(run / "bundle" if (run / "bundle").is_dir() else run) if run else untrained_bundle()
    rng = np.random.default_rng(1)
    shifted = {
        name: value + rng.normal(scale=0.01, size=value.shape).astype(np.float32)
        for name, value in first.adapter.items()
    }
    paths = [folder / name for name in ("first", "second", "damaged")]
    write_bundle(paths[0], first)
    write_bundle(paths[1], dataclasses.replace(first, adapter=shifted, experiment=f"{first.experiment}-shifted"))
    shutil.copytree(paths[1], paths[2])
    content = (paths[2] / ADAPTER).read_bytes()
    (paths[2] / ADAPTER).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return paths


def untrained_bundle() -> Bundle:
    """The packaged model as training finds it, with synthetic films."""
    from hushrec.simulations.cli import load_experiment

    config = load_experiment("smoke", [])
    catalog = open_dataset(config.data).catalog
    model = build_model(config.model, catalog)
    popularity = np.log1p(np.random.default_rng(0).integers(1, 60, len(catalog))).astype(np.float32)
    privacy = {"mechanism": "none", "epsilon": None}
    choices = ScoringChoices(popularity_weight=0.4, short_popularity_weight=0.6)
    adapter = dict(model.untrained)
    return Bundle(config.model, model.base.sha256, catalog, adapter, popularity, choices, privacy, "untrained")


def call(address: str, seen: Seen, ended: threading.Event, number: int, item: str) -> None:
    """Ask again and again over one connection; every third wish holds a history."""
    wishes = [*WISHES[:-1], {"history": [item]}]
    with httpx.Client(base_url=address, timeout=30, trust_env=False) as client:
        while not ended.is_set():
            begun = time.perf_counter()
            try:
                response = client.post("/v1/recommend", json=wishes[number % len(wishes)])
                if response.status_code != 200 or not response.json()["items"]:
                    seen.errors.append(f"{response.status_code} {response.text[:200]}")
            except (httpx.HTTPError, ValueError, KeyError) as error:
                seen.errors.append(f"{type(error).__name__}: {error}")
            seen.times.append(time.perf_counter() - begun)
            number += 1


def swap(address: str, target: Path, sources: list[Path], seen: Seen, asked: argparse.Namespace) -> None:
    """Replace the bundle, its manifest last, and look whether it was taken or refused before the next one."""
    end, turn = time.monotonic() + asked.seconds, 0
    with httpx.Client(base_url=address, timeout=30, trust_env=False) as client:
        while time.monotonic() < end:
            written = time.monotonic()
            before = client.get("/readyz").json()["bundle"]
            damaged = turn % DAMAGED_EACH == DAMAGED_EACH - 1
            source = sources[2] if damaged else sources[(seen.swaps + 1) % 2]
            for name in (ADAPTER, CATALOG, MANIFEST):
                shutil.copyfile(source / name, target / f"{name}.new")
                (target / f"{name}.new").replace(target / name)
            while not is_done(client, before, damaged):
                if time.monotonic() > written + PATIENCE:
                    seen.errors.append("a bundle was neither taken nor refused")
                    return
                time.sleep(0.1)
            seen.refused, seen.swaps, turn = seen.refused + damaged, seen.swaps + (not damaged), turn + 1
            if not damaged:
                seen.taken.append(time.monotonic() - written)
            time.sleep(max(0.0, min(written + asked.every, end) - time.monotonic()))


def is_done(client: httpx.Client, before: str, damaged: bool) -> bool:
    """Whether the damaged bundle is refused, or the other one has taken the place of the one before."""
    state = client.get("/readyz").json()
    return bool(state["refused"]) if damaged else state["bundle"] != before


def watch_memory(pid: int, seen: Seen, ended: threading.Event) -> None:
    """RSS of a process and its children, twice a second."""
    begun = time.monotonic()
    while not ended.wait(0.5):
        seen.memory.append((time.monotonic() - begun, sum(resident(one) for one in family(pid))))


def family(pid: int) -> list[int]:
    """A process, its children and theirs."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(other for child in children for other in family(int(child)))]


def resident(pid: int) -> int:
    """Bytes of a process that are in memory; 0 once it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def summary(seen: Seen, seconds: float) -> dict[str, Any]:
    """The line that is printed."""
    marks = {}
    for mark in MARKS:
        window = [size for at, size in seen.memory if (mark - 0.05) * seconds <= at <= mark * seconds + 0.5]
        marks[mark] = statistics.median(window) / 2**20
    p50, p95, p99 = (round(float(x) * 1000, 1) for x in np.percentile(seen.times, (50, 95, 99)))
    return {
        "seconds": seconds,
        "requests": len(seen.times),
        "errors": len(seen.errors),
        "first_errors": seen.errors[:3],
        "swaps": seen.swaps,
        "refused": seen.refused,
        "swap_p50_s": round(statistics.median(seen.taken), 2),
        "swap_most_s": round(max(seen.taken), 2),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "most_ms": round(max(seen.times) * 1000, 1),
        "rss_mib": {f"{mark:.0%}": round(size, 1) for mark, size in marks.items()},
        "rss_growth": round(marks[1.0] / marks[0.1], 3),
    }


def wait_until_ready(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the service answers.

    Raises:
        RuntimeError: it ended.
    """
    while True:
        try:
            if httpx.get(f"{address}/readyz", trust_env=False).json()["ready"]:
                return
        except httpx.TransportError:
            if process.poll() is not None:
                raise RuntimeError(log.read_text()) from None
            time.sleep(0.2)


def free_port() -> int:
    """One that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
