"""A run's student: what it is taught, its place in the results, and the command that makes one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from hushrec.client.edge.student import Teaching, encode, read_student
from hushrec.common.config import RunConfig
from hushrec.common.workspace import open_dataset, open_split, shared_model
from hushrec.simulations import distillation
from hushrec.simulations.bundle_evaluation import DataChoice, evaluate_bundle
from hushrec.simulations.cli import app
from hushrec.simulations.distillation import STUDENT, distil
from hushrec.simulations.run import execute, new_run

pytestmark = pytest.mark.usefixtures("closed_ledgers")
DIFFERENCE = f"hushrec - {STUDENT}"


@pytest.fixture(scope="module")
def run(tiny: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distillation, "Teaching", lambda: Teaching(steps=40, rate=3e-3))
        execute(new_run(tiny(privacy__mechanism="none", federation__rounds=1, model__student_layers=1), folder))
    return folder


def results(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "results.json").read_text())
    return found


def test_the_student_stands_beside_its_teacher_on_the_same_cases(run: Path) -> None:
    found = results(run)
    assert set(found["systems"][STUDENT]) == set(found["systems"]["hushrec"])
    assert {"warm/NDCG@10", "cold_items/NDCG@20"} <= set(found["paired"][DIFFERENCE])
    facts = found["student"]
    assert facts["layers"] == 1
    assert facts["bytes"] < facts["teacher_bytes"]
    assert facts["speed_ratio"] > 0
    assert facts["validation"]["kept"] == pytest.approx(facts["validation"]["student"] / facts["validation"]["teacher"])
    assert 0 < facts["cosine"]["unseen"] <= 1


def test_the_written_student_gives_the_figures_of_the_results(run: Path, tiny: Callable[..., RunConfig]) -> None:
    config = tiny(model__student_layers=1)
    model, catalog = shared_model(config.model, config.data), open_dataset(config.data).catalog
    vectors = encode(read_student(run / "student", model.base), model.base, catalog.texts, 32)
    assert vectors.shape == (len(catalog), model.base.width)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_an_evaluation_of_the_bundle_teaches_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "teach", lambda *_, **__: pytest.fail("taught again"))
    assert STUDENT not in evaluate_bundle(run, DataChoice())["systems"]


def test_texts_of_cold_items_are_not_taught(tiny: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(privacy__mechanism="none", model__student_layers=1)
    model, seen = shared_model(config.model, config.data), list[str]()

    def watched(student: Any, base: Any, texts: Sequence[str], *_: Any, **__: Any) -> None:
        seen.extend(texts)

    monkeypatch.setattr(distillation, "teach", watched)
    catalog, warm = open_dataset(config.data).catalog, open_split(config.data).warm_items
    distil(model, model.untrained, catalog)
    known = {text for text, is_warm in zip(catalog.texts, warm, strict=True) if is_warm}
    cold = set(catalog.texts) - known
    assert known <= set(seen)
    assert cold
    assert not cold & set(seen)
    seen.clear()
    distil(replace(model, training_items=None), model.untrained, catalog)
    assert cold <= set(seen)


def test_the_command_writes_the_student_and_says_what_it_keeps(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "student"
    arguments = ["distill", str(run), "--layers", "1", "--steps", "5", "--out", str(out)]
    said = CliRunner().invoke(app, [*arguments, "--json"])
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert found == json.loads((out / "student.json").read_text())
    assert found["student"]["steps"] == 5
    assert set(found["systems"]) == {"hushrec", STUDENT}
    assert found["systems"]["hushrec"]["warm"] == results(run)["systems"]["hushrec"]["warm"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "cold_items/NDCG@20" in shown.stdout
    assert "times as fast" in shown.stdout


def test_the_command_exports_a_student(run: Path, tmp_path: Path) -> None:
    said = CliRunner().invoke(
        app,
        ["export", str(run), "--student", str(run / "student"), "--fp32", "--out", str(tmp_path / "edge"), "--json"],
    )
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["encoder"]["chosen"] == "float32, student of 1 layers"
