"""Tests of common/interests.py with its parts: key phrases, entities and sentiment."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushrec.common.catalog import Catalog
from hushrec.common.entities import Entities
from hushrec.common.errors import ConfigError
from hushrec.common.identity import mask_text
from hushrec.common.interest_profile import Interest
from hushrec.common.interests import MOST_MINED, InterestMiner, UserText
from hushrec.common.key_phrases import UNKNOWN_WORD, KeyPhrases
from hushrec.common.sentiment import load_sentiment

FILMS = [
    ("Dark City", 1998, ("Sci-Fi", "Film-Noir")),
    ("The Quiet Garden", 1994, ("Drama", "Romance")),
    ("It", 1990, ("Horror",)),
    ("Space Pirates", 1994, ("Sci-Fi", "Comedy")),
    ("Pirate Kitchen", -1, ("Comedy",)),
]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    titles, years, genres = zip(*FILMS, strict=True)
    texts = tuple(f"{t} ({y}). {' '.join(g)}" for t, y, g in FILMS)
    return Catalog(tuple("abcde"), texts, titles, np.array(years, dtype=np.int32), genres)


@pytest.fixture(scope="module")
def miner(catalog: Catalog) -> InterestMiner:
    return InterestMiner(catalog)


def mined(miner: InterestMiner, *texts: str, **options: Any) -> dict[str, Interest]:
    found = miner.mine([UserText(text, f"line {n}", **options) for n, text in enumerate(texts, start=1)])
    return {interest.phrase: interest for interest in found.interests}


def test_what_is_loved_is_liked_and_what_is_boring_is_not(miner: InterestMiner) -> None:
    found = mined(miner, "I love submarine stories. The courtroom scenes were terribly boring!")
    assert found["submarine stories"].liked
    assert not found["courtroom scenes"].liked
    assert found["submarine stories"].source == "line 1"


def test_a_contrast_divides_the_sentiment(miner: InterestMiner) -> None:
    found = mined(miner, "Loved the puppets but the narrator was awful")
    assert found["puppets"].liked
    assert not found["narrator"].liked


def test_a_negation_does_not_reach_over_a_comma_but_a_judgement_may(miner: InterestMiner) -> None:
    assert not mined(miner, "The hammer did not work, terrible support")["support"].liked
    found = mined(miner, "I hate puppets, robots")
    assert not found["puppets"].liked
    assert not found["robots"].liked


@pytest.mark.parametrize("text", ["No zombies please", "I don't like zombies", "this is not a zombies story"])
def test_a_negation_before_the_phrase_makes_it_a_dislike(miner: InterestMiner, text: str) -> None:
    assert not next(i for phrase, i in mined(miner, text).items() if "zombies" in phrase).liked


def test_a_word_that_names_a_theme_is_not_its_own_judgement(miner: InterestMiner) -> None:
    assert load_sentiment()("horror") < -0.4
    assert mined(miner, "I enjoy horror")["Horror"].liked


def test_an_intensifier_makes_an_interest_stronger(miner: InterestMiner) -> None:
    found = mined(miner, "Puppets are good. Robots are extremely good!")
    assert found["robots"].weight > found["puppets"].weight


def test_stars_count_beside_the_words(miner: InterestMiner) -> None:
    assert not mined(miner, "about puppets", rating=1.0)["puppets"].liked
    assert mined(miner, "about puppets", rating=5.0)["puppets"].liked


def test_a_search_asks_for_what_it_names(miner: InterestMiner) -> None:
    found = mined(miner, "space pirates comedy, no horror", is_search=True)
    assert found["Comedy"].liked
    assert found["Space Pirates"].kind == "item"
    assert not found["Horror"].liked


def test_names_are_those_of_the_catalogue_alone(catalog: Catalog) -> None:
    entities = Entities(catalog, KeyPhrases(catalog.texts).salience)
    text = 'Like "It" or dark city and sci fi of 1994, the 1990s; not Alien, it is from 1979'
    assert [(e.name, e.kind) for e in entities.find(text)] == [
        ("It", "item"),
        ("Dark City", "item"),
        ("Sci-Fi", "category"),
        ("1994", "year"),
        ("1990s", "year"),
    ]


def test_rare_catalogue_words_say_more_than_common_and_unknown_ones(catalog: Catalog) -> None:
    phrases = KeyPhrases([*catalog.texts, *["space trash"] * 20])
    found = {phrase.text: phrase.salience for phrase in phrases.find("garden, space, grandmother")}
    assert found["garden"] > found["grandmother"] == UNKNOWN_WORD
    assert "space" not in found  # of nearly every item


def test_phrases_are_runs_of_at_most_three_content_words(catalog: Catalog) -> None:
    found = KeyPhrases(catalog.texts).find("We saw hidden river boats, and old wooden paddle steamer museums.")
    assert [phrase.text for phrase in found] == ["hidden river boats", "old wooden paddle"]


def test_personal_data_are_masked_before_anything_reads_the_text(catalog: Catalog) -> None:
    seen: list[str] = []

    def listening(clause: str) -> float:
        seen.append(clause)
        return 0.5

    secret = "jo@example.org", "4111 1111 1111 1111", "+49 30 1234567", "12 Hill Road", "www.example.org/jo", "@jo_doe"
    profile = InterestMiner(catalog, listening).mine([UserText(f"puppets for {' and '.join(secret)} robots")])
    everything = " ".join([*seen, *(f"{i.phrase} {i.source}" for i in profile.interests)])
    assert "puppets" in profile.phrases
    for word in (*secret, "example", "4111", "1234567", "Hill", "jo_doe"):
        assert word not in everything
    assert not {"email", "phone", "link", "number", "handle", "address"} & set(" ".join(profile.phrases).split())


def test_the_strongest_are_kept_relative_to_the_strongest(miner: InterestMiner) -> None:
    words = [f"gadget{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(60)]
    found = mined(miner, *[f"I love {word}" for word in words], "I love puppets", "I love puppets")
    assert len(found) == MOST_MINED
    assert next(iter(found)) == "puppets"
    assert found["puppets"].weight == 1.0
    assert found["puppets"].source == "line 61, line 62"


def test_mining_is_deterministic_and_merges_inflections(miner: InterestMiner) -> None:
    texts = ["great robots and a robot", "I like the robot"]
    assert mined(miner, *texts) == mined(miner, *texts)
    assert list(mined(miner, *texts)) == ["robots"]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=120), st.booleans())
def test_any_text_can_be_mined(text: str, is_search: bool) -> None:
    catalog = Catalog(("a", "b"), ("Dark City", "It"), ("Dark City", "It"), np.array([1990, -1], np.int32), ((), ()))
    for interest in InterestMiner(catalog).mine([UserText(text, is_search=is_search)]).interests:
        assert 0 < interest.weight <= 1
        assert interest.phrase.lower() in mask_text(text).lower() or interest.kind != "phrase"


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refusing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("vaderSentiment"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refusing)
    load_sentiment.cache_clear()
    with pytest.raises(ConfigError, match=r"hushrec\[interests\]"):
        load_sentiment()
