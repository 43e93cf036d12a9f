"""What recommending costs on a device: time on one core, memory of the process, time per typed text, bytes on disk.

    python simulations/benchmarks/edge.py [--items 10000 100000] [--asks 200] [--folder DIR ...] [--json]

Ranking: an edge folder of synthetic items at the real width (64 directions, float32, memory-mapped) is written; a fresh
process opens it and asks for the top 10, each time with another history of 20 items, reasons included. `cold_ms` is the
first ask, after the vectors' pages were dropped from the page cache where the system allows that; `p50_ms` and `p95_ms`
are of the rest; `cpu_p50_ms` is processor time, whatever else the machine does. `peak_mb` is that process's VmHWM:
interpreter, numpy and catalogue included. With --folder, an edge folder of `hushrec export` (give several to compare,
such as int8, float32 and pruned), a process also opens its encoder and reads queries: `text_ms` is the median of
encoding one query, `query_p50_ms` of recommending by it. The synthetic folders then borrow the first one's encoder, so
that `peak_mb` is that of everything at once. One thread.
Aims: p95 at 100,000 items <= 20 ms, peak <= 250 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hushrec.client.edge.recommender import pack
from hushrec.common.edge_folder import open_edge_folder, write_edge_folder

WIDTH, DIM = 384, 64
QUERIES = ("a quiet film about the sea", "funny heist", "space opera with politics", "something for children", "noir")
_ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

# Run in a process of its own, which imports what a device does and nothing else.
_DEVICE = """
import json, sys, time
from pathlib import Path
start = time.perf_counter()
import numpy as np
from hushrec.client.edge.recommender import EdgeRecommender
imported = time.perf_counter()
device = EdgeRecommender.open(Path(sys.argv[1]))
opened = time.perf_counter()
rng, taken, used, read, texts = np.random.default_rng(0), [], [], [], []
for _ in range(int(sys.argv[2])):
    history = rng.choice(len(device.catalog), 20, replace=False).astype(np.int32)
    before, own = time.perf_counter(), time.process_time()
    assert len(device.recommend(history)) == 10
    taken.append(time.perf_counter() - before)
    used.append(time.process_time() - own)
queries = json.loads(sys.argv[3]) * 8
for query in queries if device.reads_texts else ():
    before = time.perf_counter()
    device.recommend(history, query=query)
    read.append(time.perf_counter() - before)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
if device.reads_texts:  # after the memory was read: this is a second encoder
    from hushrec.common.edge_folder import open_edge_folder
    from hushrec.client.edge.text_encoder import OnnxTextEncoder
    folder = open_edge_folder(Path(sys.argv[1]))
    encoder = OnnxTextEncoder(folder.file("encoder"), folder.read("tokenizer"))
    for query in queries:
        before = time.perf_counter()
        encoder.encode([query], 64)
        texts.append(time.perf_counter() - before)
assert not {"torch", "pandas", "transformers"} & set(sys.modules)
print(json.dumps({"import_s": imported - start, "open_s": opened - imported, "taken": taken, "used": used,
                  "texts": texts[1:], "read": read[1:], "peak_mb": int(status["VmHWM"].split()[0]) / 1024}))
"""


def write_synthetic(folder: Path, items: int, encoder: Path | None = None) -> None:
    """An edge folder of `items` made-up items, with the encoder of another edge folder if one is given."""
    rng = np.random.default_rng(0)

    def npy() -> bytes:
        path = folder.with_suffix(".npy")
        np.save(path, rng.standard_normal((items, DIM), dtype=np.float32))
        content = path.read_bytes()
        path.unlink()
        return content

    kinds = ("Drama", "Comedy", "Crime", "Fantasy", "Western")
    years = [1950 + item % 70 for item in range(items)]
    titles = [f"A Made-up Title of Usual Length {item}" for item in range(items)]
    genres = [[kinds[item % 5], kinds[item % 3]] for item in range(items)]
    texts = [f"{a} ({b}). {' '.join(c)}" for a, b, c in zip(titles, years, genres, strict=True)]
    columns = {
        "item_ids": [str(item) for item in range(items)],
        "texts": texts,
        "titles": titles,
        "years": years,
        "genres": genres,
    }
    head = rng.standard_normal((DIM, WIDTH), dtype=np.float32)
    prior = rng.standard_normal(items, dtype=np.float32)
    zeros = np.zeros(DIM, dtype=np.float32)
    arrays = {"center": np.zeros(WIDTH, dtype=np.float32), "item_head": head, "user_head": head, "offset": zeros}
    heads = pack(**arrays, mix=np.array([3.0, 0.5]), log_popularity=prior, prior=prior)
    manifest = {"items": items, "added": 0, "choices": {}, "privacy": {}, "encoder": None, "files": {}}
    lengths = {"max_length": 32, "query_length": 64}
    files = {"catalog": json.dumps(columns).encode(), "heads": heads, "item_vectors": npy(), "history_vectors": npy()}
    if encoder is not None:
        other = open_edge_folder(encoder)
        files |= {role: other.read(role) for role in ("encoder", "tokenizer")}
        manifest["encoder"] = other.manifest["encoder"]
    write_edge_folder(folder, {**manifest, **lengths}, files)


def ask(folder: Path, asks: int) -> dict[str, Any]:
    """The figures of one fresh process on one core."""
    for file in folder.glob("*.npy"):
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    arguments = [sys.executable, "-c", _DEVICE, str(folder), str(asks + 1), json.dumps(QUERIES)]
    environment = {**os.environ, **_ONE_CORE}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    cold, warm = found["taken"][0], found["taken"][1:]
    figures = {
        "items": json.loads((folder / "manifest.json").read_text())["items"],
        "megabytes": sum(file.stat().st_size for file in folder.iterdir()) / 1e6,
        "import_s": found["import_s"],
        "open_s": found["open_s"],
        "cold_ms": 1e3 * cold,
        "p50_ms": 1e3 * statistics.median(warm),
        "p95_ms": 1e3 * float(np.quantile(warm, 0.95)),
        "cpu_p50_ms": 1e3 * statistics.median(found["used"][1:]),
        "peak_mb": found["peak_mb"],
    }
    if found["texts"]:
        figures["text_ms"] = 1e3 * statistics.median(found["texts"])
        figures["query_p50_ms"] = 1e3 * statistics.median(found["read"])
    return {name: round(value, 3) for name, value in figures.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--asks", type=int, default=200)
    parser.add_argument("--folder", type=Path, nargs="*", default=[], help="edge folders with an encoder")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for items in options.items:
            write_synthetic(Path(temporary) / str(items), items, options.folder[0] if options.folder else None)
            result[f"synthetic {items}"] = ask(Path(temporary) / str(items), options.asks)
    for folder in options.folder:
        encoder = json.loads((folder / "manifest.json").read_text())["encoder"] or {"chosen": "no encoder"}
        result[str(folder)] = {"encoder": encoder["chosen"]} | ask(folder, options.asks)
    if options.json:
        print(json.dumps(result))
        return
    for name, figures in result.items():
        print(name)
        for label, value in figures.items():
            print(f"  {label:<14}{value:>12,}" if isinstance(value, float | int) else f"  {label:<14}{value:>12}")


if __name__ == "__main__":
    main()
