"""Ratings predicted on the device: checkerboard tastes whose right answer is known, and what nothing known gives."""

from __future__ import annotations

import numpy as np
import pytest

from hushrec.common.interactions import History
from hushrec.common.rating_model import RatingChoices, predict_rating

PRIOR = np.full(8, 3.0)
COLOURS = np.array([[1.0, 0.0], [0.0, 1.0]] * 4)  # items of even and odd positions


def history(items: list[int], ratings: list[float]) -> History:
    return History(np.array(items, np.int32), np.arange(len(items)), np.array(ratings, np.float32))


def test_checkerboard_tastes_are_found_from_text() -> None:
    seen = history([0, 1, 2, 3, 4, 5], [5, 1, 5, 1, 5, 1])
    choices = RatingChoices(level=0.1, drift=0.0, taste=10.0)
    assert predict_rating(seen, 6, PRIOR, COLOURS, choices) > 4.7
    assert predict_rating(seen, 7, PRIOR, COLOURS, choices) < 1.3


def test_without_taste_both_colours_get_the_users_level() -> None:
    seen = history([0, 2, 4], [5, 5, 5])
    choices = RatingChoices(level=1.0, drift=0.0, taste=0.0)
    found = [predict_rating(seen, item, PRIOR, COLOURS, choices) for item in (6, 7)]
    assert found == pytest.approx([3 + 2 * 3 / (3 + 1)] * 2)  # ridge: n / (n + 1 / level)


def test_drift_weighs_the_newest_ratings_most() -> None:
    choices = RatingChoices(level=0.0, drift=1.0, memory=0.5, taste=0.0)
    rising = predict_rating(history([0, 1, 2], [1, 3, 5]), 6, PRIOR, COLOURS, choices)
    falling = predict_rating(history([0, 1, 2], [5, 3, 1]), 6, PRIOR, COLOURS, choices)
    assert rising > 3.3
    assert falling == pytest.approx(6 - rising)


def test_without_ratings_the_prior_stands() -> None:
    prior = np.arange(8.0)
    assert predict_rating(history([], []), 5, prior, COLOURS, RatingChoices()) == 5.0


def test_old_ratings_beyond_the_window_are_not_read() -> None:
    many = np.arange(250)
    prior, vectors = np.full(251, 3.0), np.ones((251, 1))
    ratings = np.where(many < 50, 1.0, 5.0).tolist()
    new = history(many[50:].tolist(), ratings[50:])
    choices = RatingChoices()
    expected = predict_rating(new, 250, prior, vectors, choices)
    assert predict_rating(history(many.tolist(), ratings), 250, prior, vectors, choices) == pytest.approx(expected)
