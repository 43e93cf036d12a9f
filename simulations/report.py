"""report.html: a finished run on one self-contained page."""

from __future__ import annotations

from pathlib import Path


def write_report(folder: Path) -> Path:
    """Write report.html beside results.json."""
    path = folder / "report.html"
    path.write_text((folder / "results.json").read_text())
    return path
