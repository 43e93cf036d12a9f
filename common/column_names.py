"""What the columns of a table of interactions, items or users are called; it reads no table."""

from __future__ import annotations

# What a column may be called when the map does not say; the first that is there counts.
DEFAULT_COLUMNS: dict[str, tuple[str, ...]] = {
    "user": ("user_id", "user", "userId"),
    "item": ("item_id", "item", "itemId"),
    "time": ("timestamp", "time"),
    "rating": ("rating",),
    "title": ("title", "name"),
    "year": ("year", "release_year"),
    "genres": ("genres", "categories", "tags"),
    "profile": ("profile",),
}
