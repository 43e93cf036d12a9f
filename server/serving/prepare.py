"""Encodes a bundle's catalogue and stores the vectors, in a process of its own, so that requests are not slowed.

It answers no request and checks no privacy claim.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from hushrec.common.bundle import MANIFEST, read_bundle
from hushrec.common.errors import BundleError, HushrecError
from hushrec.common.stored_vectors import StoredScorer, store_vectors

LONGEST = 3600.0  # seconds


def bundle_sha256(folder: Path) -> str:
    """SHA-256 of the manifest, which names the hashes of the other files.

    Raises:
        BundleError: it cannot be read.
    """
    try:
        return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    except OSError as error:
        raise BundleError(f"no bundle in {folder}: cannot read {MANIFEST} ({error.strerror})") from error


def prepare(folder: Path, sha256: str, vectors: Path) -> None:
    """Encode the catalogue of the bundle `sha256` and write the folder `vectors`, unless another process did.

    Raises:
        BundleError: damaged, for another base model, or no longer that bundle.
        OSError: the vectors cannot be written.
    """
    with FileLock(f"{vectors}.lock"):
        if vectors.exists():
            return
        bundle = read_bundle(folder)
        if bundle_sha256(folder) != sha256:
            raise BundleError(f"the bundle in {folder} was replaced while it was read; the next look takes the new one")
        store_vectors(vectors, StoredScorer.of(bundle.scorer()[1]))


def prepare_apart(folder: Path, sha256: str, vectors: Path) -> None:
    """The same in a process of its own, at low priority.

    Raises:
        BundleError: it failed; says why.
    """
    command = [sys.executable, "-P", "-m", "hushrec.server.serving.prepare", str(folder), sha256, str(vectors)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
    except subprocess.TimeoutExpired as error:
        raise BundleError(f"the catalogue was not encoded within {LONGEST / 60:g} minutes") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise BundleError(said[-1].strip() if said else "the catalogue could not be encoded")


def main() -> None:
    """Entry point: BUNDLE SHA256 VECTORS."""
    os.nice(10)
    try:
        prepare(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
    except (HushrecError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
