"""Typed wishes of simulated new users: what is ranked, what counts as found, and who is compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hushrec.common.catalog import Catalog
from hushrec.common.config import RunConfig
from hushrec.common.errors import DataError
from hushrec.common.recommendation import Answer, Recommendation
from hushrec.common.wish import WishReader
from hushrec.simulations import wishes
from hushrec.simulations.finished_run import FinishedRun
from hushrec.simulations.run import execute, new_run
from hushrec.simulations.wishes import SYSTEMS, TOP, measure_wishes, sentences, typed_wishes

FORMS = {"genre and decade", "recent, popular, genre", "like a title"}


def test_what_is_ranked_holds_neither_the_wished_item_nor_another_users_part(opened: FinishedRun) -> None:
    found = list(typed_wishes(opened, WishReader(opened.catalog), 0))
    assert {wish.form for wish in found} == FORMS
    cases = {case.user: case for case in opened.split.cases["cold_users/0"]}
    for wish in found:
        fits = wish.read.allowed(opened.catalog)
        assert not wish.allowed[wish.wished]
        assert fits[wish.relevant].all()
        assert wish.allowed[wish.relevant].all()
        assert wish.wished in cases[wish.user].targets
        assert set(wish.relevant.tolist()) < set(cases[wish.user].targets.tolist())
        assert not wish.allowed[cases[wish.user].excluded].any()


def test_every_system_is_measured_on_the_same_users(studied: Path) -> None:
    found = measure_wishes(studied)
    assert set(found["forms"]) == FORMS
    for row in found["forms"].values():
        assert set(row["systems"]) == set(SYSTEMS)
        assert set(row["differences"]) == set(SYSTEMS) - {"hushrec"}
        assert row["users"] > 0
        for name, difference in row["differences"].items():
            means = [row["systems"][system]["mean"] for system in ("hushrec", name)]
            assert difference["mean"] == pytest.approx(means[0] - means[1])
    decade = found["forms"]["genre and decade"]["systems"]
    assert decade["popularity_held"]["mean"] > decade["popularity"]["mean"]
    assert measure_wishes(studied) == found


@pytest.mark.parametrize(("order", "expected"), [("relevant first", 1.0), ("never relevant", 0.0)])
def test_a_perfect_and_a_useless_answer_have_the_ends_of_the_scale(
    opened: FinishedRun, studied: Path, monkeypatch: pytest.MonkeyPatch, order: str, expected: float
) -> None:
    found = typed_wishes(opened, WishReader(opened.catalog), 0)
    relevant = {(wish.text, wish.allowed.tobytes()): wish.relevant for wish in found}

    def answer(*given: Any, rules: Any, **_: Any) -> Answer:
        own = relevant[given[3].query, rules.allowed.tobytes()]
        others = np.setdiff1d(np.flatnonzero(rules.allowed), own)
        chosen = ([*own] if order == "relevant first" else []) + [*others]
        items = [opened.catalog.item_ids[place] for place in chosen[:TOP]]
        return Answer(tuple(Recommendation(1, item, item, -1, (), 0.0, ("",)) for item in items))

    monkeypatch.setattr(wishes, "recommend", answer)
    for row in measure_wishes(studied)["forms"].values():
        assert row["systems"]["hushrec"] == pytest.approx({"mean": expected, "low": expected, "high": expected})


def test_sentences_say_only_what_the_catalogue_knows() -> None:
    genres = (("Film-Noir", "Crime"), ("Comedy",), ())
    names = ("Laura", "Unknown Year", "Plain")
    catalog = Catalog(("a", "b", "c"), names, names, np.array([1944, -1, 1990], dtype=np.int32), genres)
    assert sentences(catalog, 0)["genre and decade"] == "film-noir from the 1940s"
    assert set(sentences(catalog, 1)) == {"like a title", "recent, popular, genre"}
    assert sentences(catalog, 2) == {"like a title": "something like Plain"}


def test_a_protocol_without_new_users_is_refused(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    execute(new_run(tiny(privacy__mechanism="none", federation__rounds=1, data__protocol="p1"), tmp_path / "run"))
    with pytest.raises(DataError, match="use a run under joint or p3"):
        measure_wishes(tmp_path / "run")
