"""The checkpoint: whole after a crash at any byte, and refused when a single bit of it is not what was written."""

from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hushrec.common.errors import BundleError
from hushrec.server import checkpoint as checkpoint_module
from hushrec.server.checkpoint import NAME, Checkpoint, read_checkpoint, write_atomically, write_checkpoint

RNG = np.random.default_rng(0)


def example(server_round: int = 3) -> Checkpoint:
    def array(*shape: int) -> np.ndarray:
        return RNG.normal(size=shape).astype(np.float32)

    return Checkpoint(
        server_round,
        adapter={"encoder.core": array(4, 4), "mix.weight": array(1, 2)},
        optimizer={"first/encoder.core": array(4, 4), "average/mix.weight": array(1, 2)},
        log_popularity=array(30),
        facts={"optimizer_steps": 3, "refused": {"NO_REPLY": 2}, "seconds": 1.25},
    )


def assert_equal(left: Checkpoint | None, right: Checkpoint) -> None:
    assert left is not None
    assert (left.server_round, left.facts) == (right.server_round, right.facts)
    for name in ("adapter", "optimizer"):
        ours, theirs = getattr(left, name), getattr(right, name)
        assert {key: value.tobytes() for key, value in ours.items()} == {k: v.tobytes() for k, v in theirs.items()}
        assert {key: value.shape for key, value in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert left.log_popularity.tobytes() == right.log_popularity.tobytes()


def test_what_was_written_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    for written in (example(0), example(7)):
        write_checkpoint(tmp_path, written)
        assert_equal(read_checkpoint(tmp_path), written)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_run_without_a_checkpoint_has_none(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path) is None


def test_a_transposed_array_is_stored_with_its_own_values(tmp_path: Path) -> None:
    adapter = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T}
    write_checkpoint(tmp_path, Checkpoint(1, adapter, {}, np.zeros(2, np.float32), {}))
    read = read_checkpoint(tmp_path)
    assert read is not None
    np.testing.assert_array_equal(read.adapter["a"], adapter["a"])


@pytest.mark.parametrize("when", ["while it is written", "before the new file takes the old one's place"])
def test_a_crash_leaves_the_old_checkpoint_whole(tmp_path: Path, when: str) -> None:
    old = example(1)
    write_checkpoint(tmp_path, old)
    child = os.fork()
    if child == 0:  # no thread is needed here, so a fork is safe

        def die(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        if when.startswith("while"):
            os.fsync = die  # type: ignore[assignment]
        else:
            Path.replace = die  # type: ignore[assignment,method-assign]
        write_checkpoint(tmp_path, example(2))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert_equal(read_checkpoint(tmp_path), old)
    new = example(2)
    write_checkpoint(tmp_path, new)  # the leftover of the crash is in nobody's way
    assert_equal(read_checkpoint(tmp_path), new)


def test_new_bytes_are_on_disk_before_they_take_the_old_ones_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def replaced(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    write_atomically(tmp_path / "file", b"content")
    assert events == ["file", "rename", "folder"]


def test_a_flipped_bit_anywhere_is_noticed(tmp_path: Path) -> None:
    written = example()
    write_checkpoint(tmp_path, written)
    path = tmp_path / NAME
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    places = [*range(header), *range(header, len(content), 7), len(content) - 1]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(bytes(damaged))
        try:
            read = read_checkpoint(tmp_path)
        except BundleError as error:
            assert "start a new one" in str(error)
        else:
            assert damaged[place : place + 1].isspace() or place < header  # padding of the header says nothing
            assert_equal(read, written)


@pytest.mark.parametrize("left", [0, 7, 8, 100, -1])
def test_a_cut_checkpoint_is_refused(tmp_path: Path, left: int) -> None:
    write_checkpoint(tmp_path, example())
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(BundleError, match="damaged"):
        read_checkpoint(tmp_path)


def test_bytes_after_the_end_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, example())
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes() + b"\0" * 8)
    with pytest.raises(BundleError, match="damaged"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("facts", [None, "[]", "3", json.dumps({"server_round": 1})])
def test_a_safetensors_file_that_is_no_checkpoint_is_refused(tmp_path: Path, facts: str | None) -> None:
    write_checkpoint(tmp_path, example())
    arrays = load_file(tmp_path / NAME)
    sha256 = checkpoint_module._sha256(facts or "", arrays)
    save_file(arrays, tmp_path / NAME, metadata=None if facts is None else {"hushrec": facts, "sha256": sha256})
    with pytest.raises(BundleError, match="damaged"):
        read_checkpoint(tmp_path)


def test_a_disk_that_takes_no_more_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = example(1)
    write_checkpoint(tmp_path, old)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(BundleError, match=rf"{NAME}: No space left on device; a run can be resumed"):
            write_checkpoint(tmp_path, example(2))
    assert_equal(read_checkpoint(tmp_path), old)
