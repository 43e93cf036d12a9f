"""Early stopping: what counts as better, when it ends, and that a whole run does it and can be resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hushrec.common.config import RunConfig
from hushrec.server import rounds
from hushrec.server.checkpoint import read_checkpoint
from hushrec.server.early_stopping import EarlyStopping
from hushrec.simulations.run import execute, new_run, open_run

NDCG = "validation_NDCG@10"


def test_training_is_over_after_patience_points_without_a_better_one() -> None:
    stopping = EarlyStopping(every=5, patience=2)
    assert stopping.improves(0, {NDCG: 0.1, "coverage@10": 0.9})
    assert not stopping.improves(5, {NDCG: 0.1})
    assert not stopping.over(5)
    assert stopping.improves(10, {NDCG: 0.2})
    assert not stopping.improves(12, {})  # no point in this round
    assert not stopping.over(15)
    assert stopping.over(20)
    assert stopping.facts() == {"best": {"round": 10, "value": 0.2}}


def test_without_patience_nothing_is_kept_and_nothing_ends() -> None:
    stopping = EarlyStopping(every=1, patience=0)
    assert not stopping.improves(0, {NDCG: 0.1})
    assert not stopping.over(1000)
    assert stopping.facts() == {}


@pytest.fixture
def falling(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The curve rises to its third point and falls from there."""
    values = [0.1, 0.2, 0.3, 0.2, 0.1, 0.0, 0.0, 0.0]
    real, seen = rounds.curve_point, []

    def point(*args: object) -> dict[str, float]:
        seen.append(real(*args))  # type: ignore[arg-type]
        return {**seen[-1], NDCG: values[len(seen) - 1]}

    monkeypatch.setattr(rounds, "curve_point", point)
    return values


def test_a_run_stops_and_ships_the_adapter_of_its_best_point(
    tiny: Callable[..., RunConfig], tmp_path: Path, falling: list[float]
) -> None:
    changes = {"federation__rounds": 7, "evaluation__every": 1, "evaluation__patience": 2}
    config = new_run(tiny(privacy__mechanism="none", **changes), tmp_path / "run")
    results = execute(config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1, 2, 3, 4]
    assert results["cost"]["rounds"] == 4
    assert results["cost"]["best_round"] == 2
    checkpoint = read_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    shipped = rounds.evaluated_adapter(config, checkpoint)
    assert all(np.array_equal(value, checkpoint.optimizer[f"best/{name}"]) for name, value in shipped.items())
    assert any(not np.array_equal(value, checkpoint.adapter[name]) for name, value in shipped.items())
    (tmp_path / "run" / "results.json").unlink()
    again = execute(open_run(tmp_path / "run"))  # resumed, it stays stopped
    assert again["cost"]["rounds"] == 4
    assert again["systems"] == results["systems"]
