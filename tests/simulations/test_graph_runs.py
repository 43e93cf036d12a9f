"""Runs with an item graph: the ablation in results.json, the graph in the bundle, and a missing graph told early."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hushrec.common.bundle import read_bundle
from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError, DataError
from hushrec.simulations.bundle_evaluation import DataChoice, evaluate_bundle
from hushrec.simulations.run import execute, new_run

PLAIN = "hushrec_no_graph"


@pytest.fixture(scope="module")
def run(tiny: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny(
        privacy__mechanism="none", federation__rounds=1, model__graph="kg", run__seed=0, data__name="recbole",
        data__folder=str(recbole_folder(tmp_path_factory.mktemp("kg"))), model__head_dim=4,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("graph") / "run"
    execute(new_run(config, folder))
    return folder


def recbole_folder(folder: Path) -> Path:
    """Forty films of two directors, each with users of his own; only the texts of the old films tell them apart."""
    genres = [("Comedy", "Horror")[n % 2] if n < 20 else "Western" for n in range(40)]
    films = [f"{n}\tFilm {n}\t{1980 + n % 7}\t{genre}" for n, genre in enumerate(genres)]
    seen = [f"{u}\t{i}\t5\t{1000 + t}" for u in range(30) for t, i in enumerate(range(u % 2, 40, 2)) if (u + t) % 5]
    files = {
        "item": ("item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq", films),
        "inter": ("user_id:token\titem_id:token\trating:float\ttimestamp:float", seen),
        "link": ("item_id:token\tentity_id:token", [f"{n}\tm{n}" for n in range(40)]),
        "kg": ("head_id:token\trelation_id:token\ttail_id:token", [f"m{n}\tby\tdirector{n % 2}" for n in range(40)]),
    }
    for ending, (head, rows) in files.items():
        (folder / f"films.{ending}").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return folder


def results(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "results.json").read_text())
    return found


def test_a_run_with_a_graph_holds_its_own_ablation(run: Path) -> None:
    found = results(run)
    assert found["choices"][PLAIN]["graph_weight"] == 0.0
    assert found["choices"]["hushrec"]["graph_weight"] > 0  # directors are all there is to know
    assert f"hushrec - {PLAIN}" in found["paired"]
    assert found["systems"]["hushrec"]["warm"]["AUC"]["mean"] > found["systems"][PLAIN]["warm"]["AUC"]["mean"]


def test_the_bundle_scores_as_the_run_did(run: Path) -> None:
    assert read_bundle(run).graph is not None
    again = evaluate_bundle(run, DataChoice())
    assert again["systems"] == results(run)["systems"]


def test_the_same_adapter_can_be_evaluated_without_the_graph(run: Path) -> None:
    without = evaluate_bundle(run, DataChoice(graph="none"))
    assert PLAIN not in without["systems"]
    assert without["systems"]["hushrec"] == results(run)["systems"][PLAIN]


def test_a_missing_knowledge_graph_is_told_before_training(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    folder = recbole_folder(tmp_path)
    (folder / "films.kg").unlink()
    config = tiny(privacy__mechanism="none", model__graph="kg", data__name="recbole", data__folder=str(folder),
                  model__head_dim=4)  # fmt: skip
    with pytest.raises(DataError, match=r"films\.kg"):
        execute(new_run(config, tmp_path / "run"))
    assert not (tmp_path / "run" / "rounds.jsonl").exists()


@pytest.mark.parametrize(
    "change", [{"model__graph": "social"}, {"model__graph_hops": 0}, {"model__graph_neighbors": 0}]
)
def test_a_graph_that_means_nothing_is_refused(tiny: Callable[..., RunConfig], change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"model\.graph"):
        tiny(**change)
