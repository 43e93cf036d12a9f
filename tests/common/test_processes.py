"""Processes by id and start time: a recycled id is never taken for the process that had it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hushrec.common.processes import Process, command_of, end, end_all_in, processes_in, wait_until


@pytest.fixture
def child(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"], cwd=tmp_path)
    yield process
    process.kill()
    process.wait()


def find(child: subprocess.Popen[bytes]) -> Process:
    found = Process.find(child.pid)
    assert found is not None
    return found


def test_a_process_is_alive_until_it_ends(child: subprocess.Popen[bytes]) -> None:
    found = find(child)
    assert found.lives()
    child.kill()
    assert wait_until(lambda: not found.lives(), 5)  # a zombie has ended
    child.wait()
    assert Process.find(child.pid) is None


def test_a_recycled_id_is_never_signalled(child: subprocess.Popen[bytes]) -> None:
    """Another start time or another boot is another process, whatever the id says."""
    found = find(child)
    boot, tick = found.started.split("/")
    for other in (f"{boot}/{int(tick) - 1}", f"0{boot}/{tick}", ""):
        earlier = replace(found, started=other)
        assert not earlier.lives()
        earlier.send(signal.SIGKILL)
        end(earlier, 0.1)
    time.sleep(0.1)
    assert child.poll() is None


def test_what_does_not_end_when_asked_is_made_to(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    end(find(child), 0.3)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()


def test_only_processes_that_work_in_the_folder_itself_are_found(
    child: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    (inside := tmp_path / "inside").mkdir()
    assert [process.pid for process in processes_in(tmp_path)] == [child.pid]
    assert processes_in(inside) == []
    assert command_of(find(child)) == "sleep 60"
    assert os.getpid() not in [process.pid for process in processes_in(Path.cwd())]
    end_all_in(tmp_path)
    assert child.wait() == -signal.SIGKILL
    assert command_of(Process(child.pid, "")) == ""
