"""The files of an edge folder: what a device needs to recommend, named by a sealed manifest.

Every file's name carries the start of its SHA-256, so new content is a new file: the manifest, replaced last and in
one step, decides which files count, and a reader of the old one still finds its files. This file knows nothing of what
the files mean.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hushrec.common.errors import BundleError
from hushrec.common.manifest import sealed

FORMAT = 1
MANIFEST = "manifest.json"
ROLES = {
    "catalog": "catalog.json",
    "item_vectors": "item_vectors.npy",
    "history_vectors": "history_vectors.npy",
    "heads": "heads.npz",
    "added_catalog": "added_catalog.json",
    "added_vectors": "added_vectors.npz",
    "encoder": "encoder.onnx",
    "tokenizer": "tokenizer.json",
}
_OWN = re.compile("|".join(rf"{name.replace('.', '-[0-9a-f]{12}[.]')}(\\.tmp)?" for name in ROLES.values()))
_REMEDY = "fetch it again, or write it with: hushrec export RUN_OR_BUNDLE --out DIR"


@dataclass(frozen=True)
class EdgeFolder:
    """An edge folder whose manifest was checked.

    Attributes:
        path: of the folder.
        manifest: as read; see client/edge/vectors.py for its entries.
    """

    path: Path
    manifest: Mapping[str, Any]

    def has(self, role: str) -> bool:
        """Whether the folder has that file: named in the manifest, and there."""
        return role in self.manifest["files"] and self.file(role).exists()

    def file(self, role: str) -> Path:
        """Where the file of that role is."""
        return self.path / str(self.manifest["files"][role]["name"])

    def read(self, role: str) -> bytes:
        """The content of a small file, its hash checked.

        Raises:
            BundleError: missing, or not what the manifest describes.
        """
        try:
            content = self.file(role).read_bytes()
        except OSError as error:
            raise BundleError(f"cannot read {self.file(role)}: {error.strerror}; {_REMEDY}") from error
        if hashlib.sha256(content).hexdigest() != self.manifest["files"][role]["sha256"]:
            raise BundleError(f"{self.file(role)} is not the file its manifest describes; {_REMEDY}")
        return content


def open_edge_folder(path: Path) -> EdgeFolder:
    """Read the manifest alone.

    Raises:
        BundleError: missing, damaged, of another format, or naming files that are no edge folder's.
    """
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
        manifest = json.loads(text)
        if manifest["format"] != FORMAT or manifest["kind"] != "edge":
            raise BundleError(f"{path} is no edge folder of format {FORMAT}; {_REMEDY}")
        if sealed(manifest) != text:
            raise BundleError(f"{path / MANIFEST} is not as it was written; {_REMEDY}")
        for role, entry in manifest["files"].items():
            known = role in ROLES and re.fullmatch("[0-9a-f]{64}", entry["sha256"]) and type(entry["bytes"]) is int
            if not known or entry["name"] != _name(role, entry["sha256"]):
                raise BundleError(
                    f"{path / MANIFEST} names a file {entry['name']!r} that no edge folder has; {_REMEDY}"
                )
    except OSError as error:
        raise BundleError(f"no edge folder in {path}: cannot read {MANIFEST} ({error.strerror}); {_REMEDY}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"the edge folder {path} is damaged: {error!r}; {_REMEDY}") from error
    return EdgeFolder(path, manifest)


def check_edge_folder(path: Path) -> EdgeFolder:
    """Check every file's hash, the large ones too: once, when a folder arrives on a device.

    Opening checks the manifest, the small files' hashes and the large files' shapes only. Hashing the vectors at every
    open would read all of a file that is memory-mapped precisely so that it need not be read before it is used; what
    damages a file is its transfer, and that is over.

    Raises:
        BundleError: a file is missing or not what the manifest describes.
    """
    folder = open_edge_folder(path)
    for role, entry in folder.manifest["files"].items():
        try:
            with folder.file(role).open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise BundleError(f"cannot read {folder.file(role)}: {error.strerror}; {_REMEDY}") from error
        if found != entry["sha256"]:
            raise BundleError(f"{folder.file(role)} is not the file its manifest describes; {_REMEDY}")
    return folder


def write_edge_folder(path: Path, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> EdgeFolder:
    """Write the new files, then the manifest in one step, then remove what neither it nor the one before names.

    Args:
        manifest: its "files" name the files to keep of the folder as it is; "format" and "kind" are filled in.
        files: role -> content of the new ones.
    Guarantees:
        - a crash at any moment leaves the folder as it was or as it should be.
    """
    path.mkdir(parents=True, exist_ok=True)
    try:
        before = {entry["name"] for entry in open_edge_folder(path).manifest["files"].values()}
    except BundleError:
        before = set()
    entries = dict(manifest.get("files", {}))
    for role, content in files.items():
        digest = hashlib.sha256(content).hexdigest()
        entries[role] = {"name": _name(role, digest), "sha256": digest, "bytes": len(content)}
        _replace(path / entries[role]["name"], content)
    text = sealed({"format": FORMAT, "kind": "edge", **manifest, "files": entries})
    _replace(path / MANIFEST, text.encode())
    kept = before | {entry["name"] for entry in entries.values()}
    for file in path.iterdir():
        if _OWN.fullmatch(file.name) and file.name not in kept:
            file.unlink(missing_ok=True)
    return EdgeFolder(path, json.loads(text))


@contextlib.contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Hold the folder's lock; a second writer waits."""
    from filelock import FileLock

    path.mkdir(parents=True, exist_ok=True)
    with FileLock(path / "edge.lock"):
        yield


def _name(role: str, digest: str) -> str:
    stem, _, suffix = ROLES[role].partition(".")
    return f"{stem}-{digest[:12]}.{suffix}"


def _replace(file: Path, content: bytes) -> None:
    temporary = file.with_name(f"{file.name}.tmp")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)
