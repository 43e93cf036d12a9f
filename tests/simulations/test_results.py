"""results.json: the layout that reports and programs read, finite figures, and the epsilon of the ledger."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.runs import CENTRAL, STATISTICS

from hushrec.common import datasets
from hushrec.common.config import RunConfig
from hushrec.common.ledger import read_ledger
from hushrec.common.synthetic import synthetic_source
from hushrec.simulations.bundle_evaluation import DataChoice, evaluate_bundle
from hushrec.simulations.run import execute, new_run
from hushrec.simulations.table import verdict_lines

CONTROLS = {"random", "popularity", "item_knn", "ease", "ease_recency", "frozen_lm"}
WARM = {"HR@10", "NDCG@10", "HR@50", "NDCG@50", "sampled99_HR@10", "sampled99_NDCG@10", "AUC"}
COLD = {"Recall@20", "NDCG@20"}
LAYOUT = {
    "": {
        *("experiment", "dataset", "protocol", "seed", "systems", "paired", "choices", "notes"),
        *("privacy", "cost", "config"),
    },
    "dataset": {"name", "users", "items", "interactions", "training_users", "clients"},
    "privacy": {"mechanism", "unit", "relation", "epsilon", "delta", "accountant", "trust"},
    "cost": {
        *("seconds", "seconds_per_round", "client_steps_per_second", "peak_rss_mb", "refused", "machine", "engine"),
        "rounds",
        *("bytes_up_per_client_round", "bytes_down_per_client_round", "bytes_up_per_client_in_releases"),
    },
}


@pytest.fixture(scope="module")
def private(smoke_run: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((smoke_run / "results.json").read_text())
    return results


@pytest.fixture(scope="module")
def opened(tiny: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    config = tiny(privacy__mechanism="none", federation__rounds=1)
    folder = tmp_path_factory.mktemp("open") / "run"
    execute(new_run(config, folder))
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


@pytest.fixture(scope="module", params=["p2", "p3"])
def cold_run(
    request: pytest.FixtureRequest, tiny: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A short run under a protocol that has cold cases only."""
    config = tiny(privacy__mechanism="none", federation__rounds=2, data__protocol=request.param)
    folder = tmp_path_factory.mktemp("cold") / "run"
    execute(new_run(config, folder))
    return folder


@pytest.fixture(scope="module", params=["private", "opened"])
def results(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.getfixturevalue(request.param)
    return found


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from numbers(part, f"{path}/{key}")
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from numbers(part, f"{path}/{number}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def test_the_layout_is_the_documented_one(results: dict[str, Any]) -> None:
    for section, keys in LAYOUT.items():
        found = set(results[section] if section else results)
        if section == "privacy":  # a private run adds what its claim assumes
            assert found >= keys
            assert found == keys or results["privacy"]["mechanism"] != "none"
        else:
            assert found == keys, section


def test_every_system_has_every_figure_with_its_interval(results: dict[str, Any]) -> None:
    for name, system in results["systems"].items():
        assert set(system) >= {"warm", "tail", "cold_items", "cold_users", "coverage@10", "gini@10"}, name
        assert set(system["warm"]) == WARM
        assert set(system["tail"]) == WARM | {"users"}
        assert set(system["cold_items"]) == COLD | {f"{figure}_all" for figure in COLD}  # _all: among all items
        assert set(system["cold_users"]) == {"0", "1", "5"}
        figures = [*system["warm"].values(), *(system["tail"][key] for key in WARM), *system["cold_items"].values()]
        figures += [figure for group in system["cold_users"].values() for figure in group.values()]
        for figure in [*figures, system["coverage@10"], system["gini@10"]]:
            assert set(figure) == {"mean", "low", "high"}
            assert 0 <= figure["low"] <= figure["mean"] <= figure["high"] <= 1


def test_every_number_is_finite_and_no_cost_is_negative(results: dict[str, Any]) -> None:
    found = dict(numbers(results))
    assert len(found) > 500
    assert all(math.isfinite(value) for value in found.values())
    assert all(value >= 0 for path, value in found.items() if path.startswith("/cost/"))
    assert results["cost"]["bytes_up_per_client_round"] > 0
    assert results["cost"]["client_steps_per_second"] > 0


def test_every_control_is_in_the_table_and_compared_with_hushrec(
    private: dict[str, Any], opened: dict[str, Any]
) -> None:
    assert set(opened["systems"]) == CONTROLS | {"hushrec"}
    assert set(private["systems"]) == CONTROLS | {"hushrec", "dp_popularity"}
    for results in (private, opened):
        others = set(results["systems"]) - {"hushrec"}
        assert set(results["paired"]) == {f"hushrec - {name}" for name in others}
        assert set(results["choices"]) == set(results["systems"])
        for figures in results["paired"].values():
            assert "warm/NDCG@10" in figures
            for figure in figures.values():
                assert set(figure) == {"mean", "low", "high", "verdict"}
                assert figure["verdict"] in ("above", "below", "indistinguishable")
                if figure["verdict"] == "above":
                    assert figure["low"] > 0
                if figure["verdict"] == "below":
                    assert figure["high"] < 0


def test_a_run_under_a_cold_protocol_has_its_figures_its_curve_and_its_report(cold_run: Path) -> None:
    results: dict[str, Any] = json.loads((cold_run / "results.json").read_text())
    groups, paths, figure = {
        "p2": ({"cold_items"}, {"cold_items/NDCG@20", "cold_items/NDCG@20_all"}, "NDCG@20"),
        "p3": ({"cold_users"}, {f"cold_users/{h}/Recall@20" for h in (0, 1, 5)}, "NDCG@10"),
    }[results["protocol"]]
    assert set(results["systems"]) == CONTROLS | {"hushrec"}
    for system in results["systems"].values():
        assert set(system) == groups
    for differences in results["paired"].values():
        assert set(differences) >= paths
        assert {path.partition("/")[0] for path in differences} == groups
    rounds = [json.loads(line) for line in (cold_run / "rounds.jsonl").read_text().splitlines()]
    assert all(0 < line[f"validation_{figure}"] < 1 for line in rounds)
    assert f"validation {figure}</text>" in (cold_run / "report.html").read_text()
    assert [("default settings" in note) for note in results["notes"]] == ([True] if groups == {"cold_items"} else [])
    again = evaluate_bundle(cold_run, DataChoice())
    assert again["systems"] == results["systems"]
    assert again["notes"] == results["notes"]


def test_in_p2_text_finds_cold_items_and_counts_do_not(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = tiny(privacy__mechanism="none", federation__rounds=1, data__protocol="p2")
    systems = execute(new_run(config, tmp_path / "run"))["systems"]
    found = {name: system["cold_items"]["NDCG@20"] for name, system in systems.items()}
    assert found["frozen_lm"]["low"] > max(found[name]["mean"] for name in ("popularity", "item_knn", "ease"))


def test_data_without_times_are_named_as_such(
    tiny: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, log, profiles = synthetic_source()
    timeless = replace(log, times=None)
    monkeypatch.setattr(datasets, "synthetic_source", lambda: (catalog, timeless, profiles))
    config = tiny(privacy__mechanism="none", federation__rounds=1, data__protocol="p1", data__seed=977)
    results = execute(new_run(config, tmp_path / "run"))
    assert [note.partition(":")[0] for note in results["notes"]] == ["the data have no times"]
    assert "the data have no times" in (tmp_path / "run" / "report.html").read_text()
    assert any("the data have no times" in line.replace("\xa0", " ") for line in verdict_lines(results))


def test_a_run_without_privacy_says_so_and_claims_no_epsilon(opened: dict[str, Any]) -> None:
    privacy = opened["privacy"]
    assert privacy["mechanism"] == "none"
    assert privacy["trust"].startswith("NO PRIVACY")
    assert [privacy[key] for key in ("unit", "relation", "epsilon", "delta", "accountant")] == [None] * 5


def test_the_epsilon_of_a_private_run_is_its_ledgers_and_within_the_target(
    private: dict[str, Any], smoke_run: Path
) -> None:
    ledger = read_ledger(smoke_run / "ledger.jsonl")
    claim = ledger.header.claim()
    spent = {client: claim.epsilon(ledger.events(client)) for client in ledger.clients()}
    privacy = private["privacy"]
    assert privacy["epsilon"] == pytest.approx(max(spent.values()), rel=1e-12)
    assert 0 < privacy["epsilon"] <= private["config"]["privacy.target-epsilon"]
    assert privacy["clients_charged"] == len(spent) == private["dataset"]["clients"]
    assert (privacy["mechanism"], privacy["unit"], privacy["relation"]) == ("gaussian", "record", "add_remove")
    assert privacy["delta"] == private["config"]["privacy.target-delta"]
    assert privacy["user_epsilon"] > privacy["epsilon"]  # a record is not a user, and the report says both
    assert ledger.pending() == {}


def test_the_last_line_of_the_rounds_agrees_with_the_table(private: dict[str, Any], smoke_run: Path) -> None:
    last = json.loads((smoke_run / "rounds.jsonl").read_text().splitlines()[-1])
    assert last["epsilon"] == pytest.approx(private["privacy"]["epsilon"])
    assert last["round"] == private["config"]["federation.rounds"]


def test_the_configuration_in_the_results_runs_again(results: dict[str, Any]) -> None:
    config = RunConfig.from_flat(results["config"])
    assert config.to_flat() == results["config"] | {"run.directory": ""}  # a table names no machine's folders
    assert config.run.experiment == results["experiment"]
    assert config.run.seed == results["seed"]


def test_what_the_figures_must_order_is_in_order(results: dict[str, Any]) -> None:
    """The synthetic tastes are known: whoever knows collaborative or textual similarity beats chance by far."""
    for name in ("item_knn", "ease"):
        for figure in ("NDCG@10", "sampled99_NDCG@10"):
            ours, chance = (results["systems"][system]["warm"][figure] for system in (name, "random"))
            assert ours["low"] > chance["high"]
    hit = results["systems"]["hushrec"]["warm"]
    assert hit["HR@10"]["mean"] <= hit["HR@50"]["mean"]
    assert hit["NDCG@10"]["mean"] <= hit["HR@10"]["mean"]


def test_a_bundle_of_a_run_with_statistics_recommends_and_is_evaluated_again(
    tiny: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = tiny(**CENTRAL, **STATISTICS, federation__rounds=0)
    folder = tmp_path / "run"
    started = new_run(config, folder)
    results = execute(started)
    assert results["privacy"]["name"] == "C3"
    lone = tmp_path / "bundle"
    shutil.copytree(folder / "bundle", lone)
    for target in (folder, lone):
        again = evaluate_bundle(target, DataChoice("synthetic"))
        assert again["systems"]["hushrec"].keys() == results["systems"]["hushrec"].keys()
