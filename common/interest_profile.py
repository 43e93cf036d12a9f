"""An interest profile in words: what a user likes and dislikes, in a file that this user reads, edits and deletes.

It mines nothing (interests.py does) and stays on the user's own device: no message of the federation has a field for
it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from hushrec.common.config import read_toml
from hushrec.common.errors import ConfigError, DataError
from hushrec.common.files import replace_file
from hushrec.common.identity import mask_text
from hushrec.common.recommendation import INTEREST_WEIGHT, ReadText
from hushrec.common.scoring import Floats32
from hushrec.common.wish_grammar import compact

InterestKind = Literal["phrase", "item", "category", "year", "typed"]
MOST_INTERESTS = 200  # of a file; every one is a text to encode
LONGEST_PHRASE = 200  # characters
_HEAD = """\
# Your interests, as hushrec understood your texts. They stay on this device.
# Delete or change what you like; a weight is between 0 and 1, and likes add where dislikes subtract.
# What is listed in `never` does not come back when the file is built again.
"""


@dataclass(frozen=True)
class Interest:
    """One like or dislike.

    Attributes:
        weight: in (0, 1].
        kind: what it is; "typed" by the user, and then kept when the file is built again.
        source: where it came from, for people.
    """

    phrase: str
    liked: bool = True
    weight: float = 1.0
    kind: InterestKind = "typed"
    source: str = "you"

    @property
    def key(self) -> str:
        """Equal for the inflections and spellings of one phrase."""
        return compact(self.phrase)


@dataclass(frozen=True)
class InterestProfile:
    """Likes and dislikes, each phrase once; `never` holds phrases that must not be mined again."""

    interests: tuple[Interest, ...] = ()
    never: tuple[str, ...] = ()

    @property
    def phrases(self) -> list[str]:
        """The texts to encode, in the order of `interests`."""
        return [interest.phrase for interest in self.interests]

    def without(self, phrase: str) -> InterestProfile:
        """The profile without a phrase, which goes to `never`.

        Raises:
            DataError: there is no such phrase; names near ones.
        """
        kept = tuple(interest for interest in self.interests if interest.key != compact(phrase))
        if len(kept) == len(self.interests):
            known = [interest.phrase for interest in self.interests]
            near = [one for one in known if phrase.lower() in one.lower()][:3]
            near = near or difflib.get_close_matches(phrase, known, n=3)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "hushrec interests show lists them."
            raise DataError(f"no interest {phrase!r} in this file; {hint}")
        return InterestProfile(kept, tuple(dict.fromkeys((*self.never, phrase))))

    def with_typed(self, phrase: str, *, liked: bool, weight: float = 1.0) -> InterestProfile:
        """The profile with a phrase of the user's own, in place of an equal one; personal data in it are masked.

        Raises:
            ConfigError: no word in it, too long, or a weight out of range.
        """
        typed = _checked({"phrase": phrase, "weight": weight}, liked, "the new interest")
        kept = tuple(interest for interest in self.interests if interest.key != typed.key)
        return InterestProfile((typed, *kept), tuple(one for one in self.never if compact(one) != typed.key))

    def rebuilt(self, mined: InterestProfile) -> InterestProfile:
        """What was mined now, with what the user typed, and without what the user never wants to see again."""
        typed = tuple(interest for interest in self.interests if interest.kind == "typed")
        taken = {interest.key for interest in typed} | {compact(phrase) for phrase in self.never}
        return InterestProfile((*typed, *(i for i in mined.interests if i.key not in taken)), self.never)


def interest_vector(interests: Sequence[Interest], vectors: Floats32) -> Floats32:
    """The signed, weighted mean of unit phrase vectors, likes positive.

    Args:
        vectors: float32 (n, dim), projected, one per interest.
    Returns:
        float32 (dim,), no longer than 1; zeros without interests.
    """
    if not interests:
        return np.zeros(vectors.shape[-1], dtype=np.float32)
    signed = np.array([i.weight if i.liked else -i.weight for i in interests], dtype=np.float32)
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    mean: Floats32 = (signed @ units / np.abs(signed).sum()).astype(np.float32)
    return mean


def interest_text(profile: InterestProfile, vectors: Floats32) -> ReadText:
    """The profile as `recommend_items` reads it, from vectors (n, dim) of its phrases; liked ones can be reasons."""
    likes = tuple(
        (interest.phrase, interest_vector([interest], vector[None]) * np.float32(interest.weight))
        for interest, vector in zip(profile.interests, vectors, strict=True)
        if interest.liked
    )
    return ReadText("your interests", INTEREST_WEIGHT, interest_vector(profile.interests, vectors), likes)


def read_interests(path: Path) -> InterestProfile:
    """Read a file of `write_interests` that a person may have edited.

    Raises:
        ConfigError: not there, not TOML, an unknown or missing key, a phrase twice, or a value out of range.
    """
    tables = read_toml(path, "interests")
    if unknown := sorted(set(tables) - {"never", "like", "dislike"}):
        raise ConfigError(f"{path}: unknown key {unknown[0]!r}; it holds never = [...], [[like]] and [[dislike]]")
    never = tables.get("never", [])
    if not isinstance(never, list) or not all(isinstance(phrase, str) for phrase in never):
        raise ConfigError(f'{path}: expected never = ["phrase", ...], got {never!r}')
    found: dict[str, Interest] = {}
    for name in ("like", "dislike"):
        entries = tables.get(name, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ConfigError(f"{path}: write every {name} as [[{name}]] with a line phrase = ...")
        for number, entry in enumerate(entries, start=1):
            interest = _checked(entry, name == "like", f"{path}, {name} {number}")
            if found.setdefault(interest.key, interest) is not interest:
                raise ConfigError(f"{path}, {name} {number}: {interest.phrase!r} occurs twice; keep one of them")
    if len(found) > MOST_INTERESTS:
        raise ConfigError(f"{path}: expected at most {MOST_INTERESTS} interests, got {len(found)}; delete the weakest")
    return InterestProfile(tuple(found.values()), tuple(never))


def write_interests(path: Path, profile: InterestProfile) -> None:
    """Write the file in one step, for its owner's eyes only.

    Raises:
        DataError: it cannot be written there.
    """
    lines = [_HEAD + f"never = [{', '.join(_quoted(phrase) for phrase in profile.never)}]"]
    for interest in sorted(profile.interests, key=lambda i: not i.liked):
        lines += [
            "",
            "[[like]]" if interest.liked else "[[dislike]]",
            f"phrase = {_quoted(interest.phrase)}",
            f"weight = {interest.weight:.3f}",
            f"kind = {_quoted(interest.kind)}",
            f"from = {_quoted(interest.source)}",
        ]
    try:
        replace_file(path, ("\n".join(lines) + "\n").encode(), 0o600)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; nothing was changed") from error


def _checked(entry: dict[str, Any], liked: bool, place: str) -> Interest:
    known = {"phrase": str, "weight": float, "kind": str, "from": str}
    for key, value in entry.items():
        if key not in known:
            raise ConfigError(f"{place}: unknown key {key!r}; known: {', '.join(known)}")
        if not isinstance(value, (int, float) if known[key] is float else known[key]) or isinstance(value, bool):
            raise ConfigError(f"{place}: expected {key} to be a {known[key].__name__}, got {value!r}")
    phrase, weight = mask_text(entry.get("phrase", "")), float(entry.get("weight", 1.0))
    if not compact(phrase) or len(phrase) > LONGEST_PHRASE or not phrase.isprintable():
        raise ConfigError(f"{place}: expected a phrase of 1 to {LONGEST_PHRASE} letters or digits, got {phrase!r}")
    if not 0 < weight <= 1:
        raise ConfigError(f"{place}: expected a weight above 0 and at most 1, got {weight:g}; delete what has none")
    kind = entry.get("kind", "typed")
    if kind not in get_args(InterestKind):
        raise ConfigError(f"{place}: expected kind to be one of {', '.join(get_args(InterestKind))}, got {kind!r}")
    return Interest(phrase, liked, weight, kind, entry.get("from", "you"))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML's escapes, too
