"""The dial: which weight each point has, what is said of popularity, and the picture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError, DataError
from hushrec.common.interactions import History
from hushrec.common.scoring import ScoringChoices
from hushrec.common.splits import Split
from hushrec.server.evaluation import Evaluation
from hushrec.simulations.dial import FACTORS, mean_popularity, measure_dial, turned
from hushrec.simulations.dial_plot import write_dial
from hushrec.simulations.run import execute, new_run


@pytest.fixture(scope="module")
def run(tiny: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dial") / "run"
    execute(new_run(tiny(privacy__mechanism="none", federation__rounds=1), folder))
    return folder


@pytest.fixture(scope="module")
def dial(run: Path) -> dict[str, Any]:
    return measure_dial(run)


def test_points_go_from_twice_the_validated_weight_to_none_and_say_which_discovery_they_are(
    dial: dict[str, Any],
) -> None:
    assert [point["factor"] for point in dial["points"]] == list(FACTORS)
    for point in dial["points"]:
        assert point["weight"] == pytest.approx(point["factor"] * dial["validated"])
        assert point["discovery"] == (None if point["factor"] > 1 else pytest.approx(1 - point["factor"]))
    validated = next(point for point in dial["points"] if point["factor"] == 1)
    assert validated["paired"]["warm/NDCG@10"]["mean"] == 0.0
    assert set(dial["references"]) == {"ease", "popularity"}


def test_the_validated_point_is_the_run_itself(run: Path, dial: dict[str, Any]) -> None:
    ours = json.loads((run / "results.json").read_text())["systems"]["hushrec"]
    validated = next(point for point in dial["points"] if point["factor"] == 1)
    assert validated["warm/NDCG@10"] == pytest.approx(ours["warm"]["NDCG@10"])
    assert validated["coverage@10"] == pytest.approx(ours["coverage@10"])
    assert validated["deciles"]["1"]["HR@10"] == pytest.approx(ours["deciles"]["1"]["HR@10"])


def test_less_weight_shows_less_popular_items(dial: dict[str, Any]) -> None:
    means = [point["popularity"]["mean"] for point in dial["points"]]
    assert means == sorted(means, reverse=True)
    assert means[0] > means[-1]


def test_both_popularity_weights_turn_together() -> None:
    found = turned(ScoringChoices(popularity_weight=2.0, short_popularity_weight=0.5, recency_decay=0.7), 0.5)
    assert (found.popularity_weight, found.short_popularity_weight, found.recency_decay) == (1.0, 0.25, 0.7)


def test_popularity_is_the_share_of_training_users_who_have_what_is_shown() -> None:
    train = tuple(History(np.array(items, dtype=np.int32), np.arange(len(items))) for items in ([0], [0, 1], [0], [0]))
    everything = np.ones(3, dtype=np.bool_)
    split = Split("p1", 3, np.arange(4), train, everything, {}, {}, everything)
    lists = [np.array([0, 1]), np.array([2])]  # had by all and by a quarter; had by none
    found = mean_popularity(Evaluation("x", {}, {}, {"warm": np.arange(2)}, lists), split, seed=0)
    assert found["mean"] == pytest.approx((0.625 + 0.0) / 2)


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_the_picture_is_written_and_an_unknown_format_is_one_sentence(
    dial: dict[str, Any], tmp_path: Path, ending: str
) -> None:
    write_dial(dial, tmp_path / f"dial.{ending}")
    content = (tmp_path / f"dial.{ending}").read_bytes()
    assert content[:4] == b"\x89PNG" if ending == "png" else b"validated weight" in content or b"<svg" in content
    with pytest.raises(ConfigError, match="cannot write the picture"):
        write_dial(dial, tmp_path / "dial.docx")


def test_a_run_without_known_users_has_no_dial(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = tiny(privacy__mechanism="none", federation__rounds=1, data__protocol="p3")
    execute(new_run(config, tmp_path / "run"))
    with pytest.raises(DataError, match="--dial"):
        measure_dial(tmp_path / "run")
