"""The benchmark programs at their smallest size: they run, their two sides agree, and their counts are right."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hushrec.common.config import RunConfig
from hushrec.common.workspace import build_model

FOLDER = Path(__file__).parents[2] / "simulations" / "benchmarks"
needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")

Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """A program of the folder as a module, found as when it is run: with its own folder first in the path."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.fixture
def small(tiny_base: str) -> dict[str, Any]:
    """Flat keys that make a round of the benchmarks' private step take milliseconds."""
    return {
        "model.base": tiny_base,
        "model.dtype": "float32",
        "model.r": 2,
        "model.head-dim": 4,
        "train.window": 4,
        "train.negatives": 5,
    }


@pytest.mark.parametrize("program", sorted(path.name for path in FOLDER.glob("*.py")))
def test_every_file_says_what_it_is_and_every_program_how_it_is_run(program: str) -> None:
    text = (FOLDER / program).read_text(encoding="utf-8")
    assert text.startswith('"""')
    if "__main__" in text:
        assert f"python simulations/benchmarks/{program}" in text
        assert "--json" in text or "as JSON" in text


def test_a_program_explains_itself_and_prints_json_alone(tiny_base: str) -> None:
    for arguments in (["--help"], ["--clients", "5", "9", "--ray-clients", "0", "--repeats", "1", "--json"]):
        done = subprocess.run([sys.executable, FOLDER / "overhead.py", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ratio_largest_to_smallest"] > 0


def test_the_workload_has_one_record_of_the_asked_length_per_device(load: Load, small: Any, tmp_path: Path) -> None:
    from hushrec.client.store import count_units
    from hushrec.common.workspace import open_split

    workload = load("workload")
    workload.write_devices(tmp_path, workload.films(30, "synthetic"), devices=3, history=4)
    config = RunConfig.from_flat({**workload.PRIVATE, **small, "data.folder": str(tmp_path)})
    assert count_units(config) == 3
    assert [len(history) for history in open_split(config.data).train] == [4, 4, 4]


def test_films_begin_again_under_other_texts(load: Load) -> None:
    texts = load("workload").films(200, "synthetic").texts
    assert len(set(texts)) == 200


def test_overhead_counts_milliseconds_per_client(load: Load) -> None:
    result = load("overhead").measure([4, 8], ray_clients=0, pfl="", repeats=1)
    assert set(result["milliseconds_per_client_round"]) == {"4", "8"}
    assert all(0 < value < 1000 for value in result["milliseconds_per_client_round"].values())


@needs_ray
@pytest.mark.timeout(120)
def test_overhead_runs_the_same_clients_on_ray() -> None:
    arguments = ["--clients", "4", "8", "--ray-clients", "3", "--repeats", "1", "--json"]
    done = subprocess.run([sys.executable, FOLDER / "overhead.py", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ratio_ray_to_in_process"] > 1


@needs_peft
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_the_naive_side_computes_the_same_update(load: Load, small: Any, tmp_path: Path) -> None:
    naive = load("against_naive")
    result = naive.compare(tmp_path, 3, 1, "loop", small, "synthetic", 40)
    assert result["relative_difference_float32"] <= naive.AGREES
    assert result["ratio"] > 0
    assert result["trained_numbers"] == 2 * (4 * (32 + 32) + (32 + 48) + (48 + 32)) - 2 * 64 + 2 * 32 * 4 + 2


@needs_peft
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_a_naive_side_that_differs_is_refused(
    load: Load, small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    naive, client = load("against_naive"), load("naive_client")
    real = client.record_losses
    monkeypatch.setattr(client, "record_losses", lambda *args: real(*args[:3], replace(args[3], decay=0.5)))
    with pytest.raises(SystemExit, match="nothing was compared"):
        naive.compare(tmp_path, 3, 1, "loop", small, "synthetic", 40)


def test_relative_difference_is_zero_for_equals_and_one_for_nothing(load: Load) -> None:
    difference = load("against_naive").relative_difference
    there = {"a": np.ones(3, dtype=np.float32), "b": np.full(2, 2.0, dtype=np.float32)}
    assert difference(there, there) == 0.0
    assert difference({name: np.zeros_like(value) for name, value in there.items()}, there) == pytest.approx(1.0)


def test_scale_measures_a_point_and_changes_one_size_at_a_time(load: Load, small: Any, tmp_path: Path) -> None:
    scale = load("scale")
    point = scale.Point(users=3, items=30, history=6, window=4, negatives=5, r=2, rounds=1)
    result = scale.run_point(point, tmp_path, small, "synthetic")
    assert result["seconds"] > 0
    assert result["peak_mb"] >= result["start_mb"] > 50
    assert result["trained_numbers"] == 5 * 2 * 2 + 4 * 4 + 4  # five cores and the head's, with its offset
    full = scale.points(quick=False)
    assert full["ML-1M"].users == 6040
    assert full["r = 32"] == scale.replace(full["base"], r=32)


@pytest.mark.parametrize("top_layers", [1, 2])
def test_useful_flops_are_those_that_torch_counts_without_padding(load: Load, small: Any, top_layers: int) -> None:
    roofline, workload = load("roofline"), load("workload")
    config = RunConfig.from_flat({**workload.PRIVATE, **small, "model.top-layers": top_layers})
    model = build_model(config.model, workload.films(30, "synthetic"))
    hidden, mask = model.prefix.padded(torch.zeros(6, dtype=torch.int64))
    recommender, lengths = model.recommender, model.prefix.lengths.numpy()[[0] * 6]
    with FlopCounterMode(display=False) as counter:
        encoded = recommender.encoder(hidden, mask).view(1, 6, -1)
        total = recommender.item_vectors(encoded).sum() + recommender.user_vectors(encoded[:, :4]).sum()
        total.backward()
    assert counter.get_total_flops() == pytest.approx(roofline.useful_flops(model, lengths, lengths, 4))


def test_roofline_reports_a_share(load: Load, small: Any) -> None:
    roofline, workload = load("roofline"), load("workload")
    config = RunConfig.from_flat({**workload.PRIVATE, **small})
    result = roofline.measure(config, 40, "synthetic", records=2, repeats=1, square=64)
    assert result["share"] > 0
    assert result["share"] == pytest.approx(result["step_gflops"] / result["peak_gflops"]["square"], rel=0.05, abs=1e-3)
    assert result["useful_gflop"] == pytest.approx(result["step_gflops"] * result["step_seconds"], rel=0.05)
    assert result["dtype"] == "float32"


def test_a_private_round_is_timed(load: Load, small: Any) -> None:
    program, workload = load("private_round"), load("workload")
    config = RunConfig.from_flat({**workload.PRIVATE, **small})
    model = build_model(config.model, workload.films(1682, "synthetic"))
    assert all(seconds > 0 for seconds in program.seconds_per_round(model, config, 2, repeats=1))


def test_the_device_benchmark_measures_a_process_of_its_own(load: Load, tmp_path: Path) -> None:
    edge = load("edge")
    folder = tmp_path / "edge"
    edge.write_synthetic(folder, 300)
    figures = edge.ask(folder, 5)
    assert figures["items"] == 300
    assert 20 < figures["peak_mb"] < 200
    assert 0 < figures["p50_ms"] <= figures["p95_ms"]
    assert "text_ms" not in figures


def test_a_device_answers_among_100_000_items_within_20_ms_and_250_mb(load: Load, tmp_path: Path) -> None:
    edge = load("edge")
    edge.write_synthetic(tmp_path / "edge", 100_000)
    figures = edge.ask(tmp_path / "edge", 20)
    assert figures["cpu_p50_ms"] <= 20
    assert figures["peak_mb"] <= 250


def test_masks_are_measured_on_data_that_patterns_know_and_on_data_that_they_do_not(load: Load) -> None:
    """Luhn's sum by another route; a share and its interval against the quadratic that Wilson solves."""
    masking = load("masking")
    rng = np.random.default_rng(0)
    for _ in range(50):
        digits = [int(sign) for sign in masking.card(rng) if sign.isdecimal()]
        assert len(digits) == 16
        assert (sum(digits[1::2]) + sum(2 * d - 9 * (d > 4) for d in digits[::2])) % 10 == 0
    found = masking.wilson(9, 30)
    for end in ("low", "high"):
        assert (0.3 - found[end]) ** 2 == pytest.approx(1.959964**2 * found[end] * (1 - found[end]) / 30, rel=1e-2)
    draws = {kind: draw(rng) for kind, draw in masking.KINDS.items()}
    assert "[email]" in masking.mask_text(draws["e-mail"])
    assert masking.mask_text(draws["name of a person"]) == draws["name of a person"]
