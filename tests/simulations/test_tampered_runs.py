"""Runs that somebody changed: each is refused in one line that names what, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.runs import LEDGER, last_line

Start = Callable[..., Any]


def refused(hushrec: Start, folder: Path, kind: str) -> str:
    """The one line with which resuming is refused; nothing is written."""
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    ended = hushrec("simulate", "--resume", folder).wait()
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert ended.code == 2
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    line = last_line(ended.stderr)
    assert line.startswith(f"error: {kind}: ")
    assert {n: c for n, c in after.items() if not n.endswith(".lock")} == {
        n: c for n, c in before.items() if not n.endswith(".lock")
    }
    return line


@pytest.mark.parametrize(
    ("key", "was", "now"),
    [
        ("noise-multiplier", "12.0", "1.0"),
        ("popularity-noise-multiplier", "24.0", "2.0"),
        ("max-grad-norm", "0.5", "5.0"),
        ("target-epsilon", "8.0", "80.0"),
        ("record-span", '"hour"', '"day"'),
    ],
)
def test_a_run_whose_privacy_constants_were_changed_is_refused(
    key: str, was: str, now: str, copy: Callable[[str], Path], hushrec: Start
) -> None:
    folder = copy("private")
    text = (folder / "experiment.toml").read_text()
    assert f"\n{key} = {was}\n" in text
    (folder / "experiment.toml").write_text(text.replace(f"\n{key} = {was}\n", f"\n{key} = {now}\n"))
    assert "changed from" in refused(hushrec, folder, "PrivacyError")


@pytest.mark.parametrize(
    ("key", "was", "now"),
    [("seed", "42", "43"), ("r", "2", "3"), ("negatives", "6", "7"), ("optimizer", '"fedadam"', '"fedavg"')],
)
def test_a_run_whose_other_settings_were_changed_is_refused(
    key: str, was: str, now: str, copy: Callable[[str], Path], hushrec: Start
) -> None:
    folder = copy("private")
    text = (folder / "experiment.toml").read_text()
    assert text.count(f"\n{key} = {was}\n") == 1
    (folder / "experiment.toml").write_text(text.replace(f"\n{key} = {was}\n", f"\n{key} = {now}\n"))
    line = refused(hushrec, folder, "ConfigError")
    assert f".{key} was" in line
    assert "when this run began" in line


def test_a_run_whose_ledger_is_gone_is_refused(copy: Callable[[str], Path], hushrec: Start) -> None:
    folder = copy("private")
    (folder / LEDGER).unlink()
    assert "is gone" in refused(hushrec, folder, "PrivacyError")
    assert not (folder / LEDGER).exists()


def test_a_run_with_the_ledger_of_an_earlier_moment_is_refused(copy: Callable[[str], Path], hushrec: Start) -> None:
    folder = copy("private")
    entries = (folder / LEDGER).read_bytes().splitlines(keepends=True)
    for kept in (1, 3, len(entries) - 2):  # the header; with the popularity release; without the last round
        (folder / LEDGER).write_bytes(b"".join(entries[:kept]))
        assert "older than the run's checkpoint" in refused(hushrec, folder, "PrivacyError")


def test_a_run_with_an_edited_ledger_is_refused(copy: Callable[[str], Path], hushrec: Start) -> None:
    folder = copy("private")
    content = (folder / LEDGER).read_text()
    (folder / LEDGER).write_text(content.replace('"round":2', '"round":1', 1))
    assert "ledger line" in refused(hushrec, folder, "LedgerCorrupted")


def test_a_run_with_a_damaged_checkpoint_is_refused(copy: Callable[[str], Path], hushrec: Start) -> None:
    folder = copy("private")
    path = folder / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    assert "damaged" in refused(hushrec, folder, "BundleError")


def test_a_folder_that_is_no_run_cannot_be_resumed(hushrec: Start, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        ended = hushrec("simulate", "--resume", folder).wait()
        assert ended.code == 2
        assert "is no run directory" in last_line(ended.stderr)
