"""Runs with a click model: the extra system in results.json, its validated weights, and the bundle that re-ranks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hushrec.common.bundle import read_bundle
from hushrec.common.click_model import ClickReader
from hushrec.common.config import RunConfig
from hushrec.common.recommendation import recommend_items
from hushrec.simulations.bundle_evaluation import DataChoice, evaluate_bundle
from hushrec.simulations.click import CLICK, WEIGHTS
from hushrec.simulations.recommend import Wish, recommend
from hushrec.simulations.run import execute, new_run


@pytest.fixture(scope="module")
def run(tiny: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny(privacy__mechanism="none", federation__rounds=3, model__click=True, model__adapter="lora")
    folder = tmp_path_factory.mktemp("click") / "run"
    execute(new_run(config, folder))
    return folder


def results(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "results.json").read_text())
    return found


def test_a_run_with_a_click_model_evaluates_it_on_every_group_beside_hushrec(run: Path) -> None:
    systems = results(run)["systems"]
    assert systems[CLICK].keys() == systems["hushrec"].keys()
    assert systems[CLICK]["cold_users"].keys() == systems["hushrec"]["cold_users"].keys()
    assert f"hushrec - {CLICK}" in results(run)["paired"]
    assert results(run)["click"]["cases"] > 0
    assert any(note.startswith(f"{CLICK}: the click model's order alone") for note in results(run)["notes"])


def test_the_weight_is_the_best_on_validation_and_zero_is_among_them(run: Path) -> None:
    found = results(run)["choices"][CLICK]
    tried = results(run)["click"]["validation"]["click_weight"]
    assert [float(weight) for weight in tried] == list(WEIGHTS)
    assert WEIGHTS[0] == 0
    assert tried[str(found["click_weight"])] == max(tried.values())
    assert len(set(tried.values())) > 1


def test_the_bundle_scores_as_the_run_did(run: Path) -> None:
    bundle = read_bundle(run)
    assert bundle.choices.click_weight == results(run)["choices"][CLICK]["click_weight"]
    again = evaluate_bundle(run, DataChoice())
    assert again["systems"] == results(run)["systems"]


def test_a_bundle_reranks_by_its_weight_but_not_what_was_asked_for(run: Path) -> None:
    bundle = read_bundle(run)
    model, scorer = bundle.scorer()
    history = np.array([3, 14, 8], dtype=np.int32)

    def answer(weight: float, query: str = "") -> list[str]:
        choices = replace(bundle.choices, click_weight=weight)
        wish = Wish(history, query=query)
        found = recommend(model, scorer.with_choices(choices), bundle.catalog, wish, n=60)
        return [item.item_id for item in found.recommendations]

    plain, clicked = answer(0.0), answer(1e6)
    place = {item_id: position for position, item_id in enumerate(bundle.catalog.item_ids)}
    first = np.array([place[item_id] for item_id in plain[:50]])
    logits = ClickReader(model).logits([history], first[None])[0]
    assert clicked[:50] == [plain[position] for position in np.argsort(-logits, kind="stable")]
    assert clicked[:50] != plain[:50]
    assert clicked[50:] == plain[50:]
    assert answer(1e6, "toys") == answer(0.0, "toys")
    # Where nothing reads pairs, as on a device without torch, the weight says nothing.
    weighted = scorer.with_choices(replace(bundle.choices, click_weight=1e6))
    on_device = recommend_items(weighted, bundle.catalog, history, [], n=60, discovery=0.0)
    assert [item.item_id for item in on_device.recommendations] == plain
