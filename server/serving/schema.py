"""What requests and answers look like as JSON; lengths are bounded here, and FastAPI checks them.

It knows no catalogue: what an id or a rule means is asked elsewhere.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

MOST_HISTORY, MOST_INTERESTS, MOST_RULES, MOST_PUT = 1000, 100, 20, 500
LARGEST_ID = 2**63 - 1  # of an id that is sent as a number


def _number_as_text(value: Any) -> Any:
    whole = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST_ID
    return str(int(value)) if whole and value == int(value) else value


_TEXT = {"type": "string", "minLength": 1, "maxLength": 300}
_NUMBER = {"type": "integer", "minimum": -LARGEST_ID, "maximum": LARGEST_ID}
Title = Annotated[str, StringConstraints(min_length=1, max_length=300)]
Name = Annotated[Title, BeforeValidator(_number_as_text), WithJsonSchema({"anyOf": [_TEXT, _NUMBER]})]
Phrase = Annotated[str, StringConstraints(min_length=1, max_length=200)]


def _only_number(value: Any) -> Any:
    if isinstance(value, (bool, str)):
        raise ValueError("expected a number")
    return value


OnlyNumber = BeforeValidator(_only_number)  # else "1" and true would pass as numbers
Year = Annotated[int, OnlyNumber, Field(ge=1500, le=2099)]


class Strict(BaseModel):
    """A request: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Interests(Strict):
    """What a user likes and dislikes, in phrases."""

    likes: list[Phrase] = Field(default_factory=list, max_length=MOST_INTERESTS)
    dislikes: list[Phrase] = Field(default_factory=list, max_length=MOST_INTERESTS)


class RecommendRequest(Strict):
    """One person's wish; every part may be left out, and nothing of it is kept."""

    history: list[Name] = Field(
        default_factory=list, max_length=MOST_HISTORY, description="Item ids or titles, oldest first."
    )
    profile: str = Field("", max_length=4000, description="Who it is, in words.")
    query: str = Field("", max_length=1000, description="What is wanted now, in words; years and genres must hold.")
    interests: Interests = Field(default_factory=Interests)
    n: Annotated[int, OnlyNumber] = Field(10, ge=1, le=100)
    discovery: Annotated[float, OnlyNumber] = Field(
        0.0, ge=0, le=1, description="0: popularity as validated; 1: popularity ignored."
    )
    rules: dict[str, Any] | None = Field(None, description="A rule file as JSON: rule, blocklist, approved.")
    group: str = Field("", max_length=200, description="Also the rules of this group of users.")


class Item(BaseModel):
    """An item of the catalogue; `year` is null where it is not known."""

    item_id: str
    title: str
    year: int | None
    genres: list[str]


class RankedItem(Item):
    """An item of an answer; scores are comparable within one answer only."""

    rank: int
    score: float
    reasons: list[str]


class BundleFacts(BaseModel):
    """Which bundle answered, and what it cost in privacy."""

    experiment: str
    sha256: str
    privacy: dict[str, Any]


class RecommendAnswer(BaseModel):
    """The items, best first; what was understood of the query as a constraint; what the reader should know."""

    items: list[RankedItem]
    understood: str
    note: str
    bundle: BundleFacts


class SimilarAnswer(BaseModel):
    """Items near to one, nearest first."""

    items: list[RankedItem]


class ItemsAnswer(BaseModel):
    """Items whose title holds the text."""

    items: list[Item]


class NewItem(Strict):
    """An item to add, or to change where the id is known; public texts only."""

    item_id: Name
    title: Title
    year: Year | None = None
    genres: list[Annotated[str, StringConstraints(min_length=1, max_length=60)]] = Field(
        default_factory=list, max_length=30
    )


class PutItems(Strict):
    """Items to add or change."""

    items: list[NewItem] = Field(min_length=1, max_length=MOST_PUT)


class PutAnswer(BaseModel):
    """How many items are new and how many were changed."""

    added: int
    changed: int


class Failure(BaseModel):
    """Why a request was not answered, in one sentence."""

    error: str
