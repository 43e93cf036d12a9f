"""`hushrec evaluate-ratings`: checkerboard tastes, the charge for the release, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError, PrivacyBudgetExhausted
from hushrec.common.ledger import read_ledger
from hushrec.simulations import cli
from hushrec.simulations.ratings import evaluate_ratings

ALL = ["global_mean", "biases", "mf", "device", "device_text", "device_graph"]
PRIVATE = ["local_text", "local_graph", "private_text", "private_graph"]


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty users who love the films of one kind and hate the others: no bias explains anything."""
    folder = tmp_path_factory.mktemp("board")
    kinds = ("comedy", "horror")
    items = [f"f{n},{kinds[n % 2]} film,{1980 + n},{kinds[n % 2]}" for n in range(20)]
    seen = [
        f"u{u},f{(3 * u + 7 * t) % 20},{5 if (3 * u + 7 * t + u // 2) % 2 == 0 else 1},{1000 + t}"
        for u in range(40)
        for t in range(12)
    ]
    (folder / "items.csv").write_text("\n".join(["item,title,year,genres", *items]) + "\n")
    (folder / "interactions.csv").write_text("\n".join(["user,item,rating,time", *seen]) + "\n")
    return folder


@pytest.fixture
def configured(tiny: Callable[..., RunConfig], board: Path) -> Callable[..., RunConfig]:
    def build(**changes: Any) -> RunConfig:
        central = {
            "privacy__unit": "user", "privacy__mechanism": "central", "federation__clients_per_round": 0,
            "federation__rounds": 0, "model__graph": "attributes",
        }  # fmt: skip
        data = {"data__name": "csv", "data__folder": str(board), "data__protocol": "p1"}
        return tiny(**central, **data).replace(**changes)

    return build


def silent(_step: str) -> None:
    pass


def test_text_on_the_device_sees_a_checkerboard_that_biases_cannot(
    configured: Callable[..., RunConfig], tmp_path: Path
) -> None:
    found = evaluate_ratings(configured(), tmp_path, silent)
    assert list(found["systems"]) == ALL + PRIVATE
    rmse = {name: row["RMSE"] for name, row in found["systems"].items()}
    assert rmse["biases"]["mean"] > 1.8
    for name in ("device_text", "local_text", "private_text", "mf"):
        assert rmse[name]["mean"] < 1.0
        assert rmse[name]["low"] <= rmse[name]["mean"] <= rmse[name]["high"]
    assert found["paired"]["device_text - biases"]["verdict"] == "below"
    assert found["paired"]["device_text - biases"]["mean"] == pytest.approx(
        rmse["device_text"]["mean"] - rmse["biases"]["mean"]
    )


def test_the_release_is_charged_once_and_never_twice(configured: Callable[..., RunConfig], tmp_path: Path) -> None:
    found = evaluate_ratings(configured(), tmp_path, silent)
    events = read_ledger(tmp_path / "ledger.jsonl").events("server")
    assert [(event.kind, event.steps) for event in events] == [("statistics", 1)]
    assert found["privacy"]["name"] == "C3"
    assert 7.9 < found["privacy"]["rdp"] <= 8.0
    with pytest.raises(PrivacyBudgetExhausted):
        evaluate_ratings(configured(), tmp_path, silent)


def test_without_privacy_nothing_is_released(configured: Callable[..., RunConfig], tmp_path: Path) -> None:
    found = evaluate_ratings(configured(privacy__mechanism="none", model__graph="none"), tmp_path, silent)
    assert list(found["systems"]) == ALL[:-1]
    assert found["privacy"] is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"data__protocol": "joint"}, "data.protocol"),
        ({"privacy__mechanism": "gaussian", "privacy__unit": "record"}, "privacy.mechanism"),
    ],
)
def test_what_the_command_cannot_mean_is_refused(
    tiny: Callable[..., RunConfig], tmp_path: Path, change: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(ConfigError, match=remedy):
        evaluate_ratings(tiny(data__protocol="p1").replace(**change), tmp_path, silent)


def test_the_command_prints_a_table_and_writes_it_down(
    configured: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "board.toml").write_text(configured().to_toml())
    monkeypatch.setenv("COLUMNS", "200")

    def call(*more: str) -> tuple[Any, str, str]:
        arguments = ["hushrec", "evaluate-ratings", str(tmp_path / "board.toml"), "--out", str(tmp_path / "out"), *more]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    code, out, _ = call()
    assert code == 0
    assert "RMSE device_text - biases: -" in out
    assert "epsilon 8.00 at delta 1e-05 per user (C3)" in out or "epsilon 7.9" in out
    written = json.loads((tmp_path / "out" / "ratings.json").read_text())
    assert f"{written['systems']['mf']['RMSE']['mean']:.3f}" in out
    code, _, err = call()
    assert code == 2
    assert "holds ratings.json already" in err
    code, out, _ = call("--help")
    assert code == 0
    assert "MAE" in out
