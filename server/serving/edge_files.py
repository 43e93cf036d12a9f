"""The edge folder that devices fetch: checked as a whole, then given out file by file from disk.

It reads no file into memory but the manifest, and knows no HTTP.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from dataclasses import dataclass
from pathlib import Path

from hushrec.common.edge_folder import check_edge_folder
from hushrec.common.errors import BundleError
from hushrec.common.manifest import sealed
from hushrec.server.serving.service_log import log


@dataclass(frozen=True)
class EdgeFile:
    """A file on disk.

    Attributes:
        sha256: as the folder's manifest says it.
    """

    path: Path
    sha256: str


@dataclass(frozen=True)
class CheckedEdge:
    """A folder all of whose files were what its manifest describes.

    Attributes:
        manifest: its bytes.
        sha256: of those bytes.
        files: name -> file.
    """

    manifest: bytes
    sha256: str
    files: dict[str, EdgeFile]


class EdgeFiles:
    """What is given out; another export in the folder takes its place once it is whole.

    Attributes:
        refused: why the folder as it is now is not what is given out; "" where it is.
    Raises:
        BundleError: the folder is damaged at the start.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._turn = folder, threading.Lock()
        self.refused = ""
        self._seen = self._signature()
        self._current = _checked(folder)
        self._before = self._current

    def look(self) -> CheckedEdge:
        """What to give out now; hashes the files where the folder has changed since the last look."""
        with self._turn:
            if (seen := self._signature()) != self._seen:
                self._seen = seen
                self._take()
            return self._current

    def find(self, name: str) -> EdgeFile | None:
        """A file of this export, or of the one before: a device that began with that one can end with it."""
        current = self.look()
        found = current.files.get(name) or self._before.files.get(name)
        return found if found is not None and found.path.is_file() else None

    def _take(self) -> None:
        try:
            found = _checked(self._folder)
        except BundleError as error:
            self.refused = str(error)
            log("edge folder refused", {"why": self.refused, "kept": self._current.sha256}, logging.WARNING)
            return
        self.refused = ""
        if found.sha256 != self._current.sha256:
            self._before, self._current = self._current, found
            log("edge folder swapped", {"sha256": found.sha256})

    def _signature(self) -> tuple[tuple[str, int, int, int], ...]:
        """Changes with any file, so a folder that is still being copied is looked at again."""
        try:
            found = [(path.name, path.stat()) for path in self._folder.iterdir()]
        except OSError:
            return ()
        return tuple(sorted((name, stat.st_mtime_ns, stat.st_size, stat.st_ino) for name, stat in found))


def _checked(folder: Path) -> CheckedEdge:
    """Raises:
    BundleError: missing or damaged.
    """
    found = check_edge_folder(folder).manifest
    manifest = sealed(dict(found)).encode()  # the bytes of the file, as opening it has made sure
    files = {entry["name"]: EdgeFile(folder / entry["name"], entry["sha256"]) for entry in found["files"].values()}
    return CheckedEdge(manifest, hashlib.sha256(manifest).hexdigest(), files)
