"""Replace a file as a whole: after a crash at any byte it is the old one or the new one, and on disk on return."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write beside `path`, flush to disk, rename over it.

    Args:
        mode: permissions of the new file, before the user's mask.
    Raises:
        OSError: the disk is full or does not let us; `path` is as it was.
    """
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)  # of a writer that was killed
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
