"""Runs over time windows: killed ones end bit for bit like others, and the table tells what was kept."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from support.runs import charged

from hushrec.common.config import RunConfig
from hushrec.server.checkpoint import read_checkpoint
from hushrec.server.evaluation import Evaluation
from hushrec.simulations.continual import _changes
from hushrec.simulations.continual_table import continual_tables
from hushrec.simulations.report import report_html

Start = Callable[..., Any]
WINDOWS = {"data__window_ends": "2000-01-10,2000-01-20", "federation__rounds": 6, "evaluation__every": 0}
KEEP = "hushrec.server.rounds:keep_window"
CHECKPOINT = "hushrec.server.rounds:write_checkpoint"
COMPUTE = "hushrec.client.cohort:train_cohort"
TABLE = "hushrec.simulations.run:evaluate_run"
ADAPTER = "bundle/adapter.safetensors"


@pytest.fixture
def experiment(tiny: Callable[..., RunConfig], tmp_path: Path) -> Callable[..., Path]:
    def write(**changes: Any) -> Path:
        path = tmp_path / "continual.toml"
        path.write_text(tiny(**{**WINDOWS, **changes}).to_toml())
        return path

    return write


def test_a_continual_run_killed_at_five_places_ends_bit_for_bit_like_one_that_was_not(
    hushrec: Start, experiment: Callable[..., Path], tmp_path: Path
) -> None:
    path, whole, folder = (
        experiment(privacy__mechanism="none", server__anchor=0.2),
        tmp_path / "whole",
        tmp_path / "run",
    )
    ended = hushrec("simulate", path, "--out", whole).wait()
    assert ended.code == 0, ended.stderr
    arguments: tuple[object, ...] = (path, "--out", folder)
    for at, when, call in [
        (KEEP, "after", 2),  # window 1's adapter is kept, the round's checkpoint is not
        (CHECKPOINT, "after", 1),  # window 1 has ended, its line is not written
        (COMPUTE, "before", 4),  # within window 3
        (COMPUTE, "after", 3),  # of the run that has everything at once
        (TABLE, "before", 1),
    ]:
        killed = hushrec("simulate", *arguments, at=at, when=when, call=call).wait()
        assert killed.code == -signal.SIGKILL, (at, when, killed.stderr)
        arguments = ("--resume", folder)
    ended = hushrec("simulate", *arguments).wait()
    assert ended.code == 0, ended.stderr
    assert "After each time window" in ended.stdout
    assert "everything at" in ended.stdout
    assert (folder / ADAPTER).read_bytes() == (whole / ADAPTER).read_bytes()
    for window in ("1", "2", "3"):
        ours, theirs = (read_checkpoint(at / "windows" / window) for at in (folder, whole))
        assert ours is not None
        assert theirs is not None
        assert {n: v.tobytes() for n, v in ours.adapter.items()} == {n: v.tobytes() for n, v in theirs.adapter.items()}
    results, expected = (json.loads((at / "results.json").read_text()) for at in (folder, whole))
    assert results["continual"] == expected["continual"]
    assert list(results["continual"]["systems"]) == [
        "untrained",
        "window_1",
        "window_2",
        "window_3",
        "recounted",
        "at_once",
    ]
    assert (folder / "report.html").read_text().count("Before and after each time window") == 1


@pytest.mark.parametrize("claim", ["C1", "C3"])
def test_a_private_continual_run_has_one_ledger_and_one_budget_for_all_windows(
    claim: str, hushrec: Start, experiment: Callable[..., Path], tmp_path: Path
) -> None:
    everybody: dict[str, Any] = {"federation__clients_per_round": 0}
    if claim == "C3":
        everybody |= {"privacy__mechanism": "central", "privacy__unit": "user", "privacy__sample_rate": 0.5}
    ended = hushrec("simulate", experiment(**everybody), "--out", tmp_path / "run").wait()
    assert ended.code == 0, ended.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    privacy, found = results["privacy"], results["continual"]
    assert 0.9 * 8 < privacy["epsilon"] <= privacy["target_epsilon"] == 8
    spent = charged(tmp_path / "run")
    assert {kinds["training"] for kinds in spent.values()} == {6}
    assert len(spent) == (1 if claim == "C3" else results["dataset"]["clients"])
    assert sum(window["users"] for window in found["windows"]) == results["dataset"]["training_users"]
    assert "at_once" not in found["systems"]  # it would spend the budget twice
    assert found["against_at_once"] == {}
    assert not (tmp_path / "run" / "at_once").exists()


def row(name: str, users_1: list[float], users_2: list[float]) -> Evaluation:
    values = {"users_1/NDCG@10": np.array(users_1), "users_2/NDCG@10": np.array(users_2)}
    return Evaluation(name, {}, values, {group: np.arange(4) for group in ("users_1", "users_2")})


def test_gain_counts_from_before_the_groups_window_and_forgetting_from_its_best_adapter() -> None:
    rows = {
        "untrained": row("untrained", [0.0] * 4, [0.1] * 4),
        "window_1": row("window_1", [0.5] * 4, [0.2] * 4),
        "window_2": row("window_2", [0.7] * 4, [0.6] * 4),
        "window_3": row("window_3", [0.4] * 4, [0.9] * 4),
    }
    changes = _changes(rows, ["users_1", "users_2"], 3, 0)
    assert changes["gained"]["users_1"]["mean"] == pytest.approx(0.4)  # from untrained
    assert changes["gained"]["users_2"]["mean"] == pytest.approx(0.7)  # from window 1
    assert changes["forgotten"]["users_1"]["mean"] == pytest.approx(0.3)
    assert changes["forgotten"]["users_1"]["best"] == "window_2"
    assert changes["forgotten"]["users_2"]["mean"] == pytest.approx(-0.3)
    assert changes["forgotten"]["users_2"]["verdict"] == "below"
    assert changes["against_at_once"] == {}


FIGURE = {"mean": 0.123, "low": 0.1, "high": 0.146}
DIFFERENCE = {"mean": -0.02, "low": -0.03, "high": -0.01, "verdict": "below"}
FOUND = {
    "windows": [
        {"until": "1997-11-15", "rounds": 20, "users": 247, "items": 1469},
        {"until": "", "rounds": 20, "users": 507, "items": 45},
    ],
    "cases": {"users_1": 157, "returning_users": 24, "cold_items": 748},
    "systems": {
        name: dict.fromkeys(("users_1", "returning_users", "cold_items"), FIGURE) for name in ("untrained", "window_1")
    },
    "gained": dict.fromkeys(("users_1", "returning_users", "cold_items"), DIFFERENCE),
    "forgotten": {"users_1": DIFFERENCE},
    "against_at_once": {},
}


def test_the_table_shows_what_was_measured_and_fits_into_80_characters() -> None:
    console = Console(width=80, record=True, force_terminal=False)
    for table in continual_tables({"continual": FOUND}):
        console.print(table)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    for shown in ("window 1", "0.123", "±0.023", "(157)", "-0.020", "[-0.030", "before 1997-11-15", "unseen", "gained"):
        assert shown in text
    assert "at once" not in text
    assert list(continual_tables({})) == []


def test_a_report_has_the_section_only_where_there_are_windows() -> None:
    base: dict[str, Any] = {
        "experiment": "x",
        "dataset": {"name": "d", "users": 1, "items": 1, "interactions": 1},
        "protocol": "joint",
        "seed": 0,
        "systems": {},
        "privacy": {"mechanism": "none"},
    }
    assert "Before and after" not in report_html(base, [])
    page = report_html(base | {"continual": FOUND}, [])
    assert "Before and after each time window" in page
    assert "returning users (24)" in page
