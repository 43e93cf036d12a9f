"""Runs with components: a trained profile, residual or feature map reaches evaluation, bundle and recommendation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hushrec.common.bundle import read_bundle
from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError
from hushrec.common.workspace import encode_profiles, open_dataset, shared_model
from hushrec.simulations.bundle_evaluation import DataChoice, evaluate_bundle
from hushrec.simulations.recommend import Wish, no_history, recommend
from hushrec.simulations.run import execute, new_run

# Of synthetic.py, where somebody's profile says which films she likes.
TASTES = ("Western", "Science Fiction", "Romance", "Crime", "Horror", "Sports")


def trained(tiny: Callable[..., RunConfig], folder: Path, **changes: Any) -> dict[str, Any]:
    more = {"federation__rounds": 12, "evaluation__every": 0, "federation__clients_per_round": 0}
    return execute(new_run(tiny(privacy__mechanism="none", **more, **changes), folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("components")


def test_a_trained_profile_ranks_for_users_without_a_history(tiny: Callable[..., RunConfig], folder: Path) -> None:
    before = trained(tiny, folder / "plain")
    after = trained(tiny, folder / "profiles", model__profiles=True)
    found = [results["systems"]["hushrec"]["cold_users"]["0"]["NDCG@20"]["mean"] for results in (before, after)]
    assert found[1] > found[0] + 0.05
    bundle = read_bundle(folder / "profiles")
    model, scorer = bundle.scorer()
    shares = []
    for taste in TASTES:
        wish = Wish(no_history(), f"somebody who likes {taste.lower()} films")
        answer = recommend(model, scorer, bundle.catalog, wish, n=10, discovery=1.0)
        shares.append(np.mean([taste in item.genres for item in answer.recommendations]))
    assert np.mean(shares) >= 0.3, shares  # a sixth by chance
    again = evaluate_bundle(folder / "profiles", DataChoice())
    assert again["systems"]["hushrec"] == after["systems"]["hushrec"]


def test_profiles_are_encoded_without_adapters_and_unknown_ones_are_zero(tiny: Callable[..., RunConfig]) -> None:
    config = tiny(privacy__mechanism="none", model__profiles=True)
    model = shared_model(config.model, config.data)
    first = encode_profiles(model, ["a", "", "b"])
    model.recommender.write({name: value + 0.5 for name, value in model.untrained.items()})
    np.testing.assert_array_equal(encode_profiles(model, ["a", "", "b"]), first)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), [1, 0, 1], rtol=1e-3)
    assert model.profiles is not None
    assert len(model.profiles) == len(open_dataset(config.data))


def test_what_belongs_to_a_catalogue_is_evaluated_again_on_it_alone(
    tiny: Callable[..., RunConfig], folder: Path, tmp_path: Path
) -> None:
    results = trained(tiny, folder / "hybrid", model__item_residual=True, model__item_features=True)
    again = evaluate_bundle(folder / "hybrid", DataChoice())
    assert again["systems"]["hushrec"] == results["systems"]["hushrec"]
    items = "".join(f"i{n},Film {n}\n" for n in range(9))
    (tmp_path / "items.csv").write_text("item,title\n" + items)
    (tmp_path / "interactions.csv").write_text("user,item\n" + "".join(f"u{n % 5},i{n % 9}\n" for n in range(45)))
    with pytest.raises(ConfigError, match=r"model\.item-residual"):
        evaluate_bundle(folder / "hybrid", DataChoice("csv", str(tmp_path), "user=user,item=item,title=title"))


def test_items_that_never_train_keep_a_residual_of_zero(tiny: Callable[..., RunConfig], folder: Path) -> None:
    if not (folder / "hybrid").exists():
        trained(tiny, folder / "hybrid", model__item_residual=True, model__item_features=True)
    config = tiny(privacy__mechanism="none", model__item_residual=True, model__item_features=True)
    residual = read_bundle(folder / "hybrid").adapter["item_residual.weight"]
    warm = shared_model(config.model, config.data).training_items
    assert warm is not None
    cold = np.setdiff1d(np.arange(len(residual)), warm)
    assert len(cold) > 0
    assert not residual[cold].any()
    assert residual[warm].any()
