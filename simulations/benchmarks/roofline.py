"""Share of this machine's measured matrix-product peak that the private adapter step reaches.

    python simulations/benchmarks/roofline.py [--records 64] [--repeats 3] [--json]

Peak: the best measured FLOP/s of a product, in bfloat16 and in float32, at the shapes of the layer (4,096 tokens) and
at a large square; a product (m, k) x (k, n) is 2mkn FLOP. Step: per-row gradients of the records through the top K
layers, before clipping and noise. Counted are only useful FLOP (padding, and texts that no record reads, are waste), at
width w, inner width f, rank r, T tokens and L = the sum of the squared text lengths: forward over every text that some
record reads, once, as the step does it; backward over every text of every record:

    frozen layer, forward               2T(4w^2 + 2wf) + 4wL             (four square maps, two wide ones, attention)
    its input gradient, upper layers    2T(4w^2 + 2wf) + 8wL
    its input gradient, lowest layer    2T(w^2 + 2wf)  + 6wL             (nothing below query, key and value is trained)
    adapter of an (a -> b) map          2Tr(a + b) forward, the same again for the weights, and for the input
                                        2Tr(a + b), or 2Trb for query and value of the lowest layer
    heads of d outputs                  2wd per vector three times; each text of a record, those of the window twice

Norms, softmax and loss are not counted (no products, or small). `share` is the step's FLOP/s over the large square's,
`share_of_layer` over what the layer's own shapes reach. The step and the peak take turns; medians. Aim: 0.5.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np
import torch
from workload import PRIVATE, films

from hushrec.client.gradients import row_gradients
from hushrec.client.rows import Row, draw_inputs
from hushrec.common.config import RunConfig
from hushrec.common.encoder import TOKENS_PER_PASS
from hushrec.common.protocol import TrainRequest
from hushrec.common.workspace import Model, build_model

_LOWEST_WITHOUT_INPUT = ("query", "value")  # of the lowest trained layer: its input needs no gradient


def product_flops(m: int, k: int, n: int, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """Best FLOP/s of (m, k) x (k, n) within about `seconds`."""
    a, b = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
    torch.mm(a, b)
    best, end = float("inf"), time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * m * k * n / best


def shapes_of(model: Model) -> tuple[int, int]:
    """(width, inner width) of the language model."""
    config: Any = model.base.module.config
    return model.base.width, int(config.intermediate_size)


def layer_flops(model: Model, dtype: torch.dtype) -> float:
    """FLOP/s of a layer's frozen products one after the other: four square ones, one up, one down."""
    w, f = shapes_of(model)
    shapes = [(w, w)] * 4 + [(w, f), (f, w)]
    rates = {shape: product_flops(TOKENS_PER_PASS, *shape, dtype) for shape in set(shapes)}
    return sum(a * b for a, b in shapes) / sum(a * b / rates[a, b] for a, b in shapes)


def useful_flops(model: Model, distinct: np.ndarray, lengths: np.ndarray, windows: int) -> float:
    """FLOP of the step; see the module's formula.

    Args:
        distinct: tokens of each text that some record reads, once.
        lengths: tokens of each text of each record, `windows` of which stand in a window.
    """
    config, (w, f) = model.config, shapes_of(model)
    ends = {"query": (w, w), "value": (w, w), "attention_output": (w, w), "intermediate": (w, f), "output": (f, w)}
    once, tokens = float(distinct.sum()), float(lengths.sum())
    square_once, squares = (float((of.astype(float) ** 2).sum()) for of in (distinct, lengths))
    total = 0.0
    for layer in range(config.top_layers):
        total += 2 * once * (4 * w * w + 2 * w * f) + 4 * w * square_once
        if layer == 0:
            total += 2 * tokens * (w * w + 2 * w * f) + 6 * w * squares
        else:
            total += 2 * tokens * (4 * w * w + 2 * w * f) + 8 * w * squares
        for role in config.targets:
            a, b = ends[role]
            into = b if layer == 0 and role in _LOWEST_WITHOUT_INPUT else a + b
            total += 2 * config.r * (once * (a + b) + tokens * (a + b + into))
    return total + 3 * 2 * w * config.head_dim * (len(lengths) + windows)


def measure(config: RunConfig, items: int, source: str, records: int, repeats: int, square: int) -> dict[str, Any]:
    """Everything that is printed."""
    model = build_model(config.model, films(items, source))
    dtype = model.prefix.hidden.dtype
    rng = np.random.default_rng(0)
    width = config.train.window
    rows = [
        (f"device-{number}", Row("slot-0", rng.choice(items, width, replace=False).astype(np.int32)))
        for number in range(records)
    ]
    model.recommender.write(model.untrained)
    times, peaks, layers, flops = [], [], [], []
    for repeat in range(repeats + 1):
        request = TrainRequest(model.untrained, np.zeros(items, dtype=np.float32), 1, repeat)
        drawn = draw_inputs(
            rows, seed=repeat, window=width, negatives=config.train.negatives, items=items, shared=False
        )
        read = np.concatenate([drawn.windows, drawn.negatives], axis=1)
        wanted = np.concatenate([drawn.mask.astype(bool), ~drawn.twins], axis=1)
        start = time.perf_counter()
        for _ in row_gradients(model, request, rows, config):
            pass
        times.append(time.perf_counter() - start)
        texts, lengths = read[wanted], model.prefix.lengths.numpy()
        flops.append(useful_flops(model, lengths[np.unique(texts)], lengths[texts], int(drawn.mask.sum())))
        peaks.append(product_flops(square, square, square, dtype))
        layers.append(layer_flops(model, dtype))
    # The first one warms up.
    step = statistics.median(done / taken for done, taken in zip(flops[1:], times[1:], strict=True))
    peak, layer = statistics.median(peaks[1:]), statistics.median(layers[1:])
    return {
        "share": round(step / peak, 4),
        "share_of_layer": round(step / layer, 4),
        "dtype": str(dtype).removeprefix("torch."),
        "step_gflops": round(step / 1e9, 3),
        "peak_gflops": {
            "square": round(peak / 1e9, 1),
            "layer": round(layer / 1e9, 1),
            "square_float32": round(product_flops(square, square, square, torch.float32) / 1e9, 1),
            "layer_float32": round(layer_flops(model, torch.float32) / 1e9, 1),
        },
        "step_seconds": round(statistics.median(times[1:]), 6),
        "useful_gflop": round(statistics.median(flops[1:]) / 1e9, 6),
        "records": records,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--square", type=int, default=2048, help="side of the large square")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config = RunConfig.from_flat(PRIVATE)
    result = measure(config, 1682, "movielens-small", options.records, options.repeats, options.square)
    if options.json:
        print(json.dumps(result))
        return
    peak = result["peak_gflops"]
    print(f"peak:  {peak['square']} GFLOP/s at a square, {peak['layer']} at the layer's shapes ({result['dtype']})")
    print(f"       {peak['square_float32']} and {peak['layer_float32']} in float32")
    work = f"{result['useful_gflop']:.1f} GFLOP in {result['step_seconds']:.3f} s"
    print(f"step:  {result['step_gflops']:.1f} GFLOP/s ({work})")
    print(f"share: {result['share']:.3f} of the square, {result['share_of_layer']:.3f} of the layer's shapes")


if __name__ == "__main__":
    main()
