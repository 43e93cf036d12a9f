"""The command export on finished runs: what it writes, prints and refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from hushrec.client.edge.recommender import EdgeRecommender
from hushrec.common.bundle import read_bundle
from hushrec.common.edge_folder import check_edge_folder
from hushrec.common.errors import BundleError, ConfigError
from hushrec.simulations.export_command import export
from hushrec.simulations.recommend import Wish, recommend


@pytest.fixture
def run() -> Callable[..., Any]:
    app = typer.Typer()
    app.command()(export)

    def invoke(*arguments: object) -> Any:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "120"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


def test_a_run_is_exported_and_judged_on_its_validation_cases(
    whole: Callable[[str], Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    source, out = whole("private"), tmp_path / "edge"
    before = {file.name: file.stat().st_mtime_ns for file in source.rglob("*")}
    result = run(source, "--out", out, "--prune-heads", 1)
    assert result.exit_code == 0
    assert {file.name: file.stat().st_mtime_ns for file in source.rglob("*")} == before
    entry = check_edge_folder(out).manifest["encoder"]
    assert entry["decided_by"] == "public texts and validation cases"
    assert all(row["validation"] > 0 for row in entry["tried"])
    for row in entry["tried"]:
        assert row["name"] in result.stdout
    assert "chosen" in result.stdout
    bundle = read_bundle(source)
    model, scorer = bundle.scorer()
    history = np.array([3, 30, 4], dtype=np.int32)
    expected = recommend(model, scorer, bundle.catalog, Wish(history)).recommendations
    assert EdgeRecommender.open(out).recommend(history) == expected
    assert EdgeRecommender.open(out).manifest["privacy"] == bundle.privacy


def test_a_bundle_alone_is_judged_on_public_texts(
    whole: Callable[[str], Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    alone = shutil.copytree(whole("open") / "bundle", tmp_path / "bundle")
    result = run(alone, "--out", tmp_path / "edge", "--fp32", "--json")
    shown = json.loads(result.stdout)
    assert shown["encoder"]["decided_by"] == "public texts"
    assert shown["encoder"]["chosen"] == "float32"
    assert [row["validation"] for row in shown["encoder"]["tried"]] == [None]
    assert set(shown["files"]) == {"catalog", "item_vectors", "history_vectors", "heads", "encoder", "tokenizer"}


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(
    whole: Callable[[str], Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "edge"
    with pytest.raises(BundleError, match="no bundle in"):
        run(tmp_path, "--out", out)
    with pytest.raises(ConfigError, match="--prune-heads"):
        run(whole("open"), "--out", out, "--prune-heads", 99)
    assert not out.exists()
    assert run(whole("open"), "--out", out, "--prune-feed-forward", 1.0).exit_code == 2
