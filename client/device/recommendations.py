"""Recommendations on the device: its own history against the model that it holds, without any network.

It neither trains nor exports a model; client/edge does the scoring.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hushrec.client.device.folder import DeviceFolder
from hushrec.client.edge.recommender import EdgeRecommender
from hushrec.common.catalog import Catalog
from hushrec.common.edge_folder import MANIFEST, check_edge_folder, sole_writer, write_edge_folder
from hushrec.common.errors import BundleError, ConfigError, DataError
from hushrec.common.interest_profile import InterestProfile
from hushrec.common.recommendation import Answer
from hushrec.common.rules import RuleFile


def recommend_here(
    folder: DeviceFolder,
    *,
    query: str = "",
    interests: InterestProfile | None = None,
    n: int = 10,
    discovery: float = 0.0,
    rules: RuleFile | None = None,
    group: str = "",
) -> Answer:
    """The n best items for the owner, from the interactions as they are now.

    Args:
        query: what is wanted now, in words; it stays in memory.
        interests: likes and dislikes, of the owner's interests file.
        n: at least 1.
        discovery: in [0, 1]; 1 ignores popularity.
        rules, group: what is excluded, required or boosted, and whose rules count beside everyone's.
    Raises:
        DataError: no model yet, or a database that cannot be read.
        BundleError: the model is damaged.
        ConfigError: a number out of range, or a query or interests where the model reads no texts, or a rule that
            does not fit the model's catalogue.
    """
    if not (folder.edge / MANIFEST).exists():
        raise DataError(
            f"no model yet in {folder.edge}: join a round with `hushrec client start`, or install a bundle with "
            "`hushrec client update DIR BUNDLE`"
        )
    recommender = EdgeRecommender.open(folder.edge)
    with folder.open_database() as database:
        history = database.history(recommender.catalog)
    applied = None if rules is None else rules.apply(recommender.catalog, group)
    return recommender.answer(history.items, query=query, interests=interests, n=n, discovery=discovery, rules=applied)


def fetch_and_install(folder: DeviceFolder, address: str, *, token: str = "", ca: Path | None = None) -> int | None:
    """Install the edge folder of a service; what is here already is not fetched again.

    Returns:
        How many items it knows; None where the device has that model.
    Raises:
        ConfigError, DataError, BundleError: as `fetch_edge` and `install_edge`; the model is as it was.
    """
    from hushrec.client.edge.fetch import fetch_edge

    for left in folder.edge.glob("fetched-*"):  # of a fetch that was killed
        shutil.rmtree(left, ignore_errors=True)
    folder.edge.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fetched-", dir=folder.edge) as fetched:
        if not fetch_edge(address, Path(fetched), have=folder.edge, token=token, ca=ca):
            return None
        return install_edge(folder, Path(fetched))


def read_token(file: Path) -> str:
    """The token in a file.

    Raises:
        ConfigError: no file, or more or less than a token in it.
    """
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read a token from {file}; it holds one line, of: hushrec serve token new") from error
    if not token or len(token.split()) != 1:
        raise ConfigError(f"{file} does not hold one token; it is one line, of: hushrec serve token new")
    return token


def install_edge(folder: DeviceFolder, bundle: Path) -> int:
    """Make an exported edge folder this device's model, in one step: killed, it has the old one or the new one.

    Returns:
        How many items it knows.
    Raises:
        BundleError: damaged, or without some of the items that this device pinned.
        DataError: it cannot be written here.
    """
    given = check_edge_folder(bundle)
    catalog: Catalog = EdgeRecommender(given).catalog
    if missing := sorted(set(folder.invitation.catalog.item_ids) - set(catalog.item_ids)):
        raise BundleError(
            f"{bundle} is of another catalogue: it lacks {len(missing):,} items of this federation, such as "
            f"{missing[0]!r}; ask the operator for the bundle of federation {folder.invitation.federation!r}"
        )
    try:
        files = {role: given.read(role) for role in given.manifest["files"]}
        with sole_writer(folder.edge):
            write_edge_folder(folder.edge, {**given.manifest, "files": {}}, files)
    except OSError as error:
        raise DataError(f"cannot write {folder.edge}: {error.strerror}; the model is as it was") from error
    return len(catalog)
