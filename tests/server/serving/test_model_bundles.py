"""Bundles whose ranking itself asks the language model: a click model, and profiles fused into the user's vector."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support.serving import make_bundle, replace_bundle, running, serves
from support.serving_process import until

from hushrec.common.bundle import Bundle, read_bundle
from hushrec.common.config import RunConfig
from hushrec.common.recommend import Wish, no_history, recommend
from hushrec.common.scoring import ScoringChoices
from hushrec.server.serving.prepare import bundle_sha256, prepare
from hushrec.server.serving.served_bundle import vectors_folder

CLICK = ScoringChoices(popularity_weight=0.4, short_popularity_weight=0.6, click_weight=0.7, profile_click_weight=0.5)


@pytest.fixture(params=["click", "profiles"])
def asking(request: pytest.FixtureRequest, tiny: Callable[..., RunConfig], tmp_path: Path) -> tuple[Path, bool]:
    """A bundle that asks the model, and whether it does so by a click model."""
    click = request.param == "click"
    changes = {"model__click": True, "model__click_history": 3} if click else {"model__profiles": True}
    folder = tmp_path / "asking" / "bundle"
    config = tiny(model__head_core="full", federation__shape="silos", privacy__unit="user", **changes)
    make_bundle(folder, config, seed=7, **({"choices": CLICK} if click else {}))
    return folder, click


def test_it_is_served_as_it_answers_offline(asking: tuple[Path, bool], tmp_path: Path) -> None:
    folder, click = asking
    bundle = read_bundle(folder)
    model, scorer = bundle.scorer()
    history = np.array([3, 9, 1], dtype=np.int32)
    with running(folder, tmp_path) as service:
        for wish in (
            Wish(history),
            Wish(no_history(), profile="likes robots"),
            Wish(history, query="a comedy", profile="a teacher"),
        ):
            expected = recommend(model, scorer, bundle.catalog, wish, n=6).recommendations
            ids = [bundle.catalog.item_ids[item] for item in wish.history]
            answer = service.recommend(history=ids, profile=wish.profile, query=wish.query, n=6)["items"]
            assert [item["item_id"] for item in answer] == [one.item_id for one in expected]
            assert [item["score"] for item in answer] == pytest.approx([one.score for one in expected], abs=2e-3)
        put = service.ask("PUT", "/v1/items", "items", json={"items": [{"item_id": "new-1", "title": "Robots"}]})
        if click:
            assert put.status_code == 409
            assert "re-ranks by a click model" in put.json()["error"]
        else:
            assert put.json() == {"added": 1, "changed": 0}
            assert service.recommend(history=["new-1"], profile="likes robots", n=3)["note"] == ""


def test_it_takes_the_place_of_another_bundle_without_an_error(
    asking: tuple[Path, bool], made: tuple[Bundle, Path], folder: Path, tmp_path: Path
) -> None:
    # Encoding in this process would use the language model beside the requests; the service never does.
    sha256 = bundle_sha256(asking[0])
    prepare(asking[0], sha256, vectors_folder(folder, sha256))
    with running(folder, tmp_path) as service:
        answered, ended = list[int](), threading.Event()

        def load() -> None:
            while not ended.is_set():
                answered.append(service.ask("POST", "/v1/recommend", json={"query": "robots"}).status_code)

        callers = [threading.Thread(target=load) for _ in range(2)]
        for caller in callers:
            caller.start()
        try:
            for source in (asking[0], made[1], asking[0]):
                replace_bundle(folder, source)
                wanted = read_bundle(source).experiment
                until(partial(serves, service, wanted))
        finally:
            ended.set()
            for caller in callers:
                caller.join()
        assert set(answered) == {200}
