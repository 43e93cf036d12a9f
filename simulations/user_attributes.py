"""What the source says of users beside their history: age band, occupation, gender; for judging fairness only.

The evaluator of a simulation holds the raw table; nothing that is read here becomes part of a data set, a profile, a
client or a bundle. Gender, which profiles.py leaves out so that no recommendation can depend on it, is read here all
the same: a gap between women and men that is not measured cannot be seen.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hushrec.common.identity import hash_user_ids, load_id_key
from hushrec.common.interactions import Dataset
from hushrec.common.movielens import RELEASES, find_release
from hushrec.common.profiles import ML1M_OCCUPATIONS
from hushrec.common.recbole import find_recbole, read_atomic
from hushrec.common.settings import DataConfig
from hushrec.common.tables import Table, read_table

ATTRIBUTES = ("age", "occupation", "gender")
# Lower ends; MovieLens-1M's codes are these numbers, so that one rule serves both releases.
_AGES = {
    0: "under 18",
    18: "18 to 24",
    25: "25 to 34",
    35: "35 to 44",
    45: "45 to 49",
    50: "50 to 55",
    56: "56 or more",
}
_GENDERS = {"f": "women", "female": "women", "m": "men", "male": "men"}

Labels = NDArray[np.str_]


def read_user_attributes(config: DataConfig, dataset: Dataset) -> dict[str, Labels]:
    """Attribute -> (users,) labels in the order of the data set, "" where unknown.

    Args:
        config: of the data set; MovieLens-100K, MovieLens-1M and RecBole folders may have a user table.
    Returns:
        Only attributes that the table has; nothing where there is no table.
    Raises:
        DataError: the table is damaged.
    """
    if (found := _table(config)) is None:
        return {}
    table, user_column = found
    ids, codes = table.ids(user_column)
    keys = hash_user_ids(ids, load_id_key())
    rows = {keys[code]: row for row, code in enumerate(codes.tolist())}
    places = [rows.get(key, -1) for key in dataset.user_keys]
    columns = {name: labels(name, table.cells(name)) for name in ATTRIBUTES if name in table.columns}
    return {name: np.array([column[i] if i >= 0 else "" for i in places]) for name, column in columns.items()}


def labels(attribute: str, cells: list[str]) -> list[str]:
    """A column of a user table as names of groups.

    Args:
        attribute: one of ATTRIBUTES.
        cells: as the table has them; MovieLens-1M's codes of ages and occupations are recognised.
    """
    if attribute == "age":
        return [_age(cell) for cell in cells]
    if attribute == "gender":
        return [_GENDERS.get(cell.lower(), cell.lower()) for cell in cells]
    coded = set(cells) <= ML1M_OCCUPATIONS.keys()
    return [ML1M_OCCUPATIONS[cell] if coded else cell.lower() for cell in cells]


def _age(cell: str) -> str:
    years = cell.removesuffix(".0")
    if not years.isdecimal():
        return ""
    return _AGES[max(low for low in _AGES if low <= int(years))]


def _table(config: DataConfig) -> tuple[Table, str] | None:
    """The user table and its column of ids; None where the data set has none."""
    folder: Path | None = None
    if config.name in RELEASES:
        folder = find_release(config.name, config.folder)
    elif config.name == "recbole":
        folder = Path(config.folder).expanduser()
    if folder is None:
        return None
    atomic = find_recbole(folder)
    if atomic is not None:
        path = atomic.with_suffix(".user")
        return (read_atomic(path, ("user_id",)), "user_id") if path.is_file() else None
    if (path := folder / "u.user").is_file():
        names = ("user", "age", "gender", "occupation", "zip")
        return read_table(path, separator="|", names=names, encoding="latin-1"), "user"
    if (path := folder / "users.dat").is_file():
        names = ("user", "gender", "age", "occupation", "zip")
        return read_table(path, separator="\t", names=names, separator_in_file="::", encoding="latin-1"), "user"
    return None
