"""Seconds and peak memory of a private round against users, items, history, window, top layers and rank.

    python simulations/benchmarks/scale.py [--quick] [--json]

Around one base point one size at a time is changed; every point runs in a process of its own, so that its peak of
resident memory is its own, and prints the median of its rounds after a warm-up round (ML-1M: its first round, which is
long). A round is whole: messages, ledger, per-row gradients, clipping, noise per device, replies, aggregation.
`start_mb` is the peak after loading model and catalogue, `peak_mb` of the whole process. The base point trains 4,480
numbers as the private experiments do (`sb` r = 8, fixed heads with a full core). The point "ML-1M" has the size of
MovieLens-1M: 6,040 devices and 3,706 items with 165 interactions each, of which a round reads a window of 20. Target:
it stays within 3,072 MB. About ten minutes on 2 cores, `--quick` about one, with sizes too small to conclude from.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from workload import PRIVATE, Federation, films, write_devices

from hushrec.common.config import RunConfig, Scalar
from hushrec.common.run_ledger import close_ledgers

TARGET_MB = 3072


@dataclass(frozen=True)
class Point:
    """One size of everything.

    Attributes:
        users: devices, of one record each.
        history: interactions of a record; a round reads at most `window` of them.
        adapter, r, heads: what is trained in the `top_layers` top layers, and whether the heads are trained too.
        rounds: timed after one that warms up; 0 times the first round, warm-up included.
    """

    users: int = 60
    items: int = 1682
    history: int = 20
    window: int = 20
    negatives: int = 32
    top_layers: int = 1
    adapter: str = "sb"
    r: int = 8
    heads: bool = False
    rounds: int = 3

    def config(self, folder: Path) -> dict[str, Scalar]:
        """Flat configuration of a private round of this size."""
        return {
            **PRIVATE,
            "data.folder": str(folder / "data"),
            "run.directory": str(folder / "run"),
            "train.window": self.window,
            "train.negatives": self.negatives,
            "model.top-layers": self.top_layers,
            "model.adapter": self.adapter,
            "model.r": self.r,
            "model.train-heads": self.heads,
            "model.train-mix": self.heads,
            "model.head-core": "none" if self.heads else "full",
        }


def points(quick: bool) -> dict[str, Point]:
    """Name -> point, the base first."""
    base = replace(Point(), users=8, items=200, rounds=1) if quick else Point()
    axes: dict[str, list[dict[str, Any]]] = {
        "users": [{"users": n} for n in ((32,) if quick else (20, 200))],
        "items": [{"items": n} for n in ((400,) if quick else (5_000, 15_000))],
        "history": [{"history": n} for n in (() if quick else (200,))],
        "window": [{"window": n, "history": n} for n in (() if quick else (5, 50))],
        "top_layers": [{"top_layers": n} for n in ((2,) if quick else (2, 3))],
        "r": [{"r": n} for n in (() if quick else (2, 32))],
        "lora with heads, r": [{"adapter": "lora", "heads": True, "r": n} for n in (() if quick else (4, 16))],
    }
    found = {"base": base}
    for axis, changes in axes.items():
        for change in changes:
            found[f"{axis} = {change.get(axis, change.get('r'))}"] = replace(base, **change)
    if not quick:
        found["ML-1M"] = Point(users=6040, items=3706, history=165, rounds=0)
    return found


def peak_mb() -> float:
    """Highest resident memory of this process in MB; of the program alone, where the system tells it apart."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # counts what started us, too


def run_point(point: Point, folder: Path, changes: Mapping[str, Scalar], source: str) -> dict[str, Any]:
    """Time the point in this process.

    Args:
        changes: flat configuration keys on top of the point's.
        source: whose films.
    """
    write_devices(folder / "data", films(point.items, source), point.users, point.history)
    (folder / "run").mkdir()
    federation = Federation(RunConfig.from_flat({**point.config(folder), **changes}))
    numbers = sum(value.size for value in federation.start().values())
    start_mb = peak_mb()
    try:
        if point.rounds:
            federation.play()
        seconds = [federation.play().seconds for _ in range(max(1, point.rounds))]
    finally:
        close_ledgers()
    return {
        "seconds": round(statistics.median(seconds), 3),
        "peak_mb": round(peak_mb(), 1),
        "start_mb": round(start_mb, 1),
        "trained_numbers": numbers,
        **asdict(point),
    }


def fresh(point: Point) -> dict[str, Any]:
    """`run_point` in a process of its own.

    Raises:
        SystemExit: it failed; its errors are on stderr.
    """
    command = [sys.executable, __file__, "--point", json.dumps(asdict(point))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the point {point} failed with code {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(chosen: Mapping[str, Point], done: Callable[[str, dict[str, Any]], None]) -> dict[str, Any]:
    """Everything that is printed; `done` is told each point as it ends."""
    results: dict[str, Any] = {}
    start = time.perf_counter()
    for name, point in chosen.items():
        results[name] = fresh(point)
        done(name, results[name])
    report: dict[str, Any] = {"points": results, "seconds": round(time.perf_counter() - start, 1)}
    if "ML-1M" in results:
        report |= {"target_mb": TARGET_MB, "within_target": results["ML-1M"]["peak_mb"] <= TARGET_MB}
    return report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--point", help="one point as JSON, in this process; e.g. '{\"users\": 6040}'")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.point:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(run_point(Point(**json.loads(options.point)), Path(folder), {}, "movielens-small")))
        return

    def show(name: str, result: Mapping[str, Any]) -> None:
        if not options.json:
            print(f"{name:<24} {result['seconds']:>8.2f} s {result['peak_mb']:>8.0f} MB", flush=True)

    report = measure(points(options.quick), show)
    if options.json:
        print(json.dumps(report))
    elif "within_target" in report:
        print(f"ML-1M within {TARGET_MB} MB: {'yes' if report['within_target'] else 'no'}")


if __name__ == "__main__":
    main()
