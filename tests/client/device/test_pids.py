"""Tests of client/device/pids.py and background.py on real processes: started, ended, told from their successors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hushrec.client.device import background, pids
from hushrec.client.device.folder import DeviceFolder
from hushrec.common.errors import ConfigError

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"


@contextmanager
def child(code: str = "print(1, flush=True); import time; time.sleep(60)") -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_process_runs_until_it_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "launcher"
    assert pids.running(path) == 0
    with child() as process:
        pids.record(path, process.pid)
        assert pids.running(path) == process.pid
        process.kill()
        time.sleep(0.2)  # now a zombie: nobody has waited for it
        assert pids.running(path) == 0
    assert not pids.end(path, 1)


@pytest.mark.parametrize(
    "text",
    [b"", b"7", b"{}", b"\xff", b'{"pid": "x", "started": "", "boot": ""}', b'{"pid": 1, "started": "", "boot": ""}'],
)
def test_a_damaged_file_means_that_nothing_runs(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "launcher").write_bytes(text)
    assert pids.running(tmp_path / "launcher") == 0


@pytest.mark.parametrize("other", ["another boot/", "1"])
def test_a_later_process_with_the_same_number_is_never_ended(tmp_path: Path, other: str) -> None:
    path = tmp_path / "launcher"
    with child() as process:
        pids.record(path, process.pid)
        noted = json.loads(path.read_text())
        boot, _, tick = noted["started"].partition("/")
        started = f"{other}{tick}" if other.endswith("/") else f"{boot}/{other}"
        path.write_text(json.dumps(noted | {"started": started}))
        assert pids.running(path) == 0
        assert not pids.end(path, 0.1)
        time.sleep(0.1)
        assert process.poll() is None


@pytest.mark.parametrize(("code", "number"), [("", signal.SIGTERM), (STUBBORN, signal.SIGKILL)])
def test_a_process_is_asked_to_end_and_then_ended(tmp_path: Path, code: str, number: int) -> None:
    path = tmp_path / "launcher"
    with child(code) if code else child() as process:
        pids.record(path, process.pid)
        assert pids.end(path, 0.3)
        assert process.wait() == -number
        assert not path.exists()


def test_only_one_process_holds_a_place_and_a_killed_one_gives_it_up(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom hushrec.client.device import pids\n"
        f"with pids.only_one(Path({str(tmp_path / 'launcher')!r})):\n    print(1, flush=True)\n    time.sleep(60)"
    )
    with child(code) as process:
        assert pids.running(tmp_path / "launcher") == process.pid
        with pytest.raises(ConfigError, match="runs already"), pids.only_one(tmp_path / "launcher"):
            pass
        assert pids.running(tmp_path / "launcher") == process.pid
        process.kill()
        process.wait()
        with pids.only_one(tmp_path / "launcher"):
            assert pids.running(tmp_path / "launcher") == os.getpid()
    assert pids.running(tmp_path / "launcher") == 0


LAUNCHER = """
import sys, time
from pathlib import Path
from hushrec.client.device import pids
with pids.only_one(Path(sys.argv[1]) / "pids" / "launcher"):
    print("up", flush=True)
    time.sleep(60)
"""


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")  # as it is meant to
def test_a_launcher_in_the_background_has_its_own_session_and_log_and_is_stopped(kitchen: DeviceFolder) -> None:
    pid = background.start(kitchen, (sys.executable, "-c", LAUNCHER))
    try:
        assert pids.running(kitchen.pids / "launcher") == pid
        assert os.getsid(pid) == pid
        with pytest.raises(ConfigError, match="runs already"):
            background.start(kitchen, (sys.executable, "-c", LAUNCHER))
    finally:
        assert background.stop(kitchen)
    assert (kitchen.logs / "launcher.log").stat().st_mode & 0o077 == 0
    assert not background.stop(kitchen)
    os.waitpid(pid, 0)


def test_a_launcher_that_ends_at_once_says_why(kitchen: DeviceFolder) -> None:
    code = "import sys; print('older'); sys.exit('error: no server')"
    with pytest.raises(ConfigError, match="ended with status 1: error: no server"):
        background.start(kitchen, (sys.executable, "-c", code))


def test_a_supernode_that_was_left_behind_is_ended_too(kitchen: DeviceFolder) -> None:
    with child() as process:
        pids.record(kitchen.pids / "supernode", process.pid)
        assert background.stop(kitchen)
        assert process.wait() == -signal.SIGTERM


def test_the_background_process_says_an_expected_failure_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hushrec.client.device.background", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: DataError: ")
    assert len(ended.stderr.splitlines()) == 1
