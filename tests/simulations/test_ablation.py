"""The ablation table: what is compared with what, its verdicts, its price, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from hushrec.common.config import RunConfig
from hushrec.common.errors import DataError
from hushrec.server.evaluation import Evaluation
from hushrec.simulations.ablation import AblationRun, ablation, ablation_markdown, epsilon_cost, read_run
from hushrec.simulations.cli import app
from hushrec.simulations.run import execute, new_run

USERS = np.arange(40)


def finished(name: str, systems: dict[str, float], **changes: Any) -> AblationRun:
    """A run whose warm NDCG@10 is `value` for every user and every system of `systems`."""
    values = {
        system: Evaluation(system, {}, {"warm/NDCG@10": np.linspace(0, 0.1, 40) + value}, {"warm": USERS})
        for system, value in systems.items()
    }
    figures = {
        system: {"warm": {"NDCG@10": {"mean": value, "low": value - 0.1, "high": value + 0.1}}}
        for system, value in systems.items()
    }
    results = {
        "experiment": f"ablation-{name}",
        "seed": 0,
        "dataset": {"name": "films"},
        "systems": figures,
        "cost": {"seconds": 12.4, "bytes_up_per_client_round": 2_000},
    }
    return AblationRun(name, RunConfig().replace(privacy__mechanism="none", **changes), results, values)


def test_training_is_compared_with_the_base_run_and_what_comes_after_with_its_own_run() -> None:
    base = finished("base", {"hushrec": 0.3, "frozen_lm": 0.1})
    better = finished("dropout", {"hushrec": 0.4, "frozen_lm": 0.1})
    same = finished("contrast", {"hushrec": 0.3, "frozen_lm": 0.1})
    after = finished("click", {"hushrec": 0.5, "hushrec_click": 0.4, "frozen_lm": 0.1})
    table = ablation(base, [better, base, same, after])
    assert [row["component"] for row in table["rows"]] == ["dropout", "contrast", "click"]
    found = [row["differences"]["warm/NDCG@10"] for row in table["rows"]]
    assert [difference["verdict"] for difference in found] == ["above", "indistinguishable", "below"]
    assert found[0]["mean"] == pytest.approx(0.1)
    assert [row["against"] for row in table["rows"]] == ["hushrec of base", "hushrec of base", "hushrec of click"]
    lines = ablation_markdown(table).splitlines()
    assert lines[2].startswith("| base | 0.300 ± 0.100 | – |")
    assert lines[3].startswith("| dropout | 0.400 ± 0.100 ▲ |")
    assert lines[5].startswith("| click (hushrec_click) | 0.400 ± 0.100 ▼ |")
    assert lines[5].endswith("| 0 | 12 | 2.0 kB |")


def test_only_what_reads_a_release_costs_epsilon() -> None:
    plain = RunConfig().replace(privacy__mechanism="none", train__contrast=1.0, train__dropout=0.5)
    assert epsilon_cost(plain) == 0
    assert 0.5 < epsilon_cost(plain.replace(train__propensity_power=0.3)) < 2


def test_another_split_is_refused() -> None:
    base, other = finished("base", {"hushrec": 0.3}), finished("x", {"hushrec": 0.3}, data__seed=7)
    with pytest.raises(DataError, match="same split"):
        ablation(base, [other])


def test_the_command_reads_real_runs(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    for name, changes in {"base": {}, "residual": {"model__item_residual": True}}.items():
        config = tiny(privacy__mechanism="none", run__experiment=f"ablation-{name}", **changes)
        execute(new_run(config, tmp_path / name))
    out = tmp_path / "table.json"
    ended = CliRunner().invoke(app, ["ablation", str(tmp_path / "base"), str(tmp_path / "residual"), "--out", str(out)])
    assert ended.exit_code == 0, ended.output
    (row,) = json.loads(out.read_text())["rows"]
    assert row["component"] == "residual"
    base = read_run(tmp_path / "base")
    assert row["bytes_up"] > base.results["cost"]["bytes_up_per_client_round"]  # a vector per item travels, too
    assert set(row["differences"]) >= {"warm/NDCG@10", "cold_items/NDCG@20", "cold_users/0/NDCG@20"}
    (tmp_path / "base" / "per_user.npz").unlink()
    with pytest.raises(DataError, match=r"per_user\.npz"):
        read_run(tmp_path / "base")
