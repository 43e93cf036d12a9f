"""The files of an edge folder: damage is seen, and a change happens wholly or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hushrec.client.edge.recommender import EdgeRecommender
from hushrec.common import edge_folder
from hushrec.common.catalog import ItemRow
from hushrec.common.edge_folder import check_edge_folder, open_edge_folder, write_edge_folder
from hushrec.common.errors import BundleError
from hushrec.common.manifest import sealed

SMALL, LARGE = ("catalog", "heads"), ("item_vectors", "history_vectors", "encoder")


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(bytes(content))


def test_the_check_at_install_sees_a_flipped_bit_in_any_file(folder: Path) -> None:
    check_edge_folder(folder)
    roles = open_edge_folder(folder).manifest["files"]
    assert {*SMALL, *LARGE, "tokenizer"} == set(roles)
    for entry in roles.values():
        kept = (folder / entry["name"]).read_bytes()
        flip(folder / entry["name"])
        with pytest.raises(BundleError, match=entry["name"]):
            check_edge_folder(folder)
        (folder / entry["name"]).unlink()
        with pytest.raises(BundleError, match=entry["name"]):
            check_edge_folder(folder)
        (folder / entry["name"]).write_bytes(kept)


@pytest.mark.parametrize("role", SMALL)
def test_opening_sees_a_flipped_bit_in_a_small_file(folder: Path, role: str) -> None:
    flip(open_edge_folder(folder).file(role))
    with pytest.raises(BundleError, match="not the file its manifest describes"):
        EdgeRecommender.open(folder)


def test_opening_reads_no_large_file_but_sees_one_cut_short(folder: Path) -> None:
    file = open_edge_folder(folder).file("item_vectors")
    kept = file.read_bytes()
    flip(file)
    EdgeRecommender.open(folder)
    file.write_bytes(kept[:-8])
    with pytest.raises(BundleError, match="damaged"):
        EdgeRecommender.open(folder)
    np.save(file, np.zeros((3, 8), dtype=np.float32))
    with pytest.raises(BundleError, match="has shape"):
        EdgeRecommender.open(folder)


Edit = Callable[[dict[str, object]], object]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.update(privacy={"epsilon": 0.1}), "not as it was written"),
        (lambda m: m.update(format=2), "no edge folder of format"),
        (lambda m: m.pop("files"), "not as it was written"),
    ],
)
def test_a_manifest_that_was_edited_is_refused(folder: Path, edit: Edit, message: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    with pytest.raises(BundleError, match=message):
        open_edge_folder(folder)


def test_a_manifest_that_names_a_file_elsewhere_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["catalog"]["name"] = "../catalog.json"
    (folder / "manifest.json").write_text(sealed(manifest))
    with pytest.raises(BundleError, match=r"names a file '[.][.]/catalog.json'"):
        open_edge_folder(folder)
    manifest["files"]["catalog"] |= {"name": "catalog-/../../../ab.json", "sha256": "/../../../ab"}
    (folder / "manifest.json").write_text(sealed(manifest))
    with pytest.raises(BundleError, match=r"names a file 'catalog-/"):
        open_edge_folder(folder)


def test_what_is_no_edge_folder_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no edge folder in .*hushrec export RUN_OR_BUNDLE --out DIR"):
        open_edge_folder(tmp_path / "none")
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(BundleError, match="damaged"):
        open_edge_folder(tmp_path)


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_a_crash_while_adding_leaves_the_folder_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    real, done = edge_folder._replace, []

    def crashing(file: Path, content: bytes) -> None:
        done.append(file)
        if len(done) == calls:
            file.with_name(f"{file.name}.tmp").write_bytes(content[: len(content) // 2])
            raise KeyboardInterrupt
        real(file, content)

    before = EdgeRecommender.open(folder)
    monkeypatch.setattr(edge_folder, "_replace", crashing)
    with pytest.raises(KeyboardInterrupt):
        before.add_items([ItemRow("new", "Dragon")])
    monkeypatch.undo()
    check_edge_folder(folder)
    after = EdgeRecommender.open(folder)
    assert after.catalog.item_ids == before.catalog.item_ids
    after.add_items([ItemRow("new", "Dragon")])
    assert check_edge_folder(folder).manifest["added"] == 1
    assert not list(folder.glob("*.tmp"))


def test_files_of_the_manifest_before_stay_for_its_readers_and_older_ones_go(folder: Path) -> None:
    device = EdgeRecommender.open(folder)
    for number in range(3):
        device.add_items([ItemRow(f"n{number}", f"Dragon {number}")])
    assert len(list(folder.glob("added_vectors-*.npz"))) == 2


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "catalog.json").write_text("mine too")
    write_edge_folder(tmp_path, {"files": {}}, {"catalog": b"{}"})
    assert {"notes.txt", "catalog.json", "manifest.json"} < {file.name for file in tmp_path.iterdir()}
