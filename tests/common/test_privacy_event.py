"""Privacy events: what is refused, and how they add up."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hushrec.common.errors import PrivacyError
from hushrec.common.privacy_event import PrivacyEvent, merge

GOOD = {"noise_multiplier": 1.0, "sample_rate": 0.2, "steps": 5, "kind": "training"}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise_multiplier", 0.0),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", math.nan),
        ("noise_multiplier", math.inf),
        ("noise_multiplier", True),
        ("noise_multiplier", 10**400),
        ("sample_rate", 0.0),
        ("sample_rate", 1.1),
        ("sample_rate", "0.1"),
        ("steps", 0),
        ("steps", 1.0),
        ("steps", True),
        ("kind", "gossip"),
        ("kind", []),
    ],
)
def test_an_event_out_of_range_is_refused(field: str, value: object) -> None:
    with pytest.raises(PrivacyError):
        PrivacyEvent.from_json({**GOOD, field: value})


def test_unknown_and_missing_fields_are_refused() -> None:
    with pytest.raises(PrivacyError, match="fields"):
        PrivacyEvent.from_json({**GOOD, "discount": 0.5})
    with pytest.raises(PrivacyError, match="fields"):
        PrivacyEvent.from_json({"noise_multiplier": 1.0})


@given(sigma=st.floats(1e-3, 1e6), q=st.floats(1e-6, 1.0), steps=st.integers(1, 10**9))
def test_an_event_survives_json(sigma: float, q: float, steps: int) -> None:
    event = PrivacyEvent(sigma, q, steps, "popularity")
    assert PrivacyEvent.from_json(json.loads(json.dumps(event.to_json()))) == event


@given(value=json_values, field=st.sampled_from(sorted(GOOD)))
def test_any_json_is_an_event_or_a_privacy_error(value: Any, field: str) -> None:
    for candidate in (value, {**GOOD, field: value}):
        try:
            event = PrivacyEvent.from_json(candidate)
        except PrivacyError:
            continue
        assert PrivacyEvent.from_json(event.to_json()) == event


def test_equal_releases_merge_whatever_their_order_and_kind() -> None:
    first, second = PrivacyEvent(1.0, 0.2, 5), PrivacyEvent(2.0, 1.0, 1, "popularity")
    assert merge([first, second, first]) == ((1.0, 0.2, 10), (2.0, 1.0, 1))
    assert merge([second, first, PrivacyEvent(1.0, 0.2, 5, "metrics")]) == merge([first, second, first])
