"""Sentiment of a clause in [-1, 1], from the VADER lexicon with its rules for negation and intensifiers.

An optional extra (`interests`), so devices that mine nothing do not need it. English only. It is weak on irony, on
comparison ("better than nothing"), on judgement without a word of the lexicon ("fell asleep twice"), and on words that
name a theme and sound like a judgement ("war", "horror"); interests.py takes the judged words out before it asks.

Source: Hutto and Gilbert 2014, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from hushrec.common.errors import ConfigError

Sentiment = Callable[[str], float]


@lru_cache(maxsize=1)
def load_sentiment() -> Sentiment:
    """Clause -> compound score in [-1, 1]; 0 where no word of it is in the lexicon. Loaded once per process.

    Raises:
        ConfigError: the extra is not installed.
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise ConfigError(
            "reading interests needs the sentiment lexicon of vaderSentiment: pip install 'hushrec[interests]'"
        ) from error
    analyzer = SentimentIntensityAnalyzer()
    return lambda clause: float(analyzer.polarity_scores(clause)["compound"])
