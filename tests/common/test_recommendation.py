"""The n best of many scores: the order of a full stable sort, without sorting everything."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hushrec.common.manifest import sealed
from hushrec.common.recommendation import _best

SCORES = st.lists(st.sampled_from([-np.inf, -1.5, 0.0, 0.25, 3.0]), min_size=1, max_size=40)


@given(scores=SCORES, n=st.integers(0, 50))
def test_the_best_are_the_head_of_a_stable_sort(scores: list[float], n: int) -> None:
    array = np.array(scores, dtype=np.float32)
    assert _best(array, n) == np.argsort(-array, kind="stable")[:n].tolist()


@pytest.mark.parametrize("change", [{"a": 2}, {"b": 1}])
def test_a_sealed_manifest_shows_every_change(change: dict[str, int]) -> None:
    text = sealed({"a": 1})
    assert sealed(json.loads(text)) == text
    assert sealed({**json.loads(text), **change}) != text
