"""The supervisor restarts what dies and leaves nothing behind; here its parts are programs that only sleep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from hushrec.common.errors import HushrecError
from hushrec.common.processes import Process, processes_in, wait_until
from hushrec.server.deployment import flower, service, supervisor
from hushrec.server.deployment.certificates import fits
from hushrec.server.deployment.folder import OperatorFolder, read_json
from hushrec.server.deployment.supervisor import Supervisor, part_states, supervisor_process, write_server_pair

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    chosen = {"superlink": SLEEP, "proxy": SLEEP}
    monkeypatch.setattr(flower, "parts", lambda folder, port: chosen)
    return chosen


@pytest.fixture
def running(folder: OperatorFolder, parts: dict[str, list[str]]) -> Iterator[OperatorFolder]:
    """A supervisor in a thread of this process; signals are tested in a process of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "signal", lambda number, handler: None)
        served = Supervisor(folder)
        thread = threading.Thread(target=served.run, daemon=True)
        thread.start()
        assert wait_until(lambda: len([s for s in part_states(folder).values() if s["running"]]) == len(parts), 10)
        yield folder
        served._told(signal.SIGTERM, None)
        thread.join(20)
    assert not processes_in(folder.empty)
    assert not folder.processes.exists()


def test_a_part_that_dies_is_started_again(running: OperatorFolder) -> None:
    before = part_states(running)
    assert {name: state["running"] for name, state in before.items()} == {"superlink": True, "proxy": True}
    os.kill(before["superlink"]["pid"], signal.SIGKILL)
    assert wait_until(lambda: part_states(running)["superlink"]["starts"] == 2, 20)
    after = part_states(running)
    assert after["superlink"]["pid"] != before["superlink"]["pid"]
    assert after["superlink"]["running"]
    assert after["proxy"] == before["proxy"]


def test_a_second_supervisor_is_refused(running: OperatorFolder) -> None:
    with pytest.raises(HushrecError, match="running already"):
        Supervisor(running).run()
    assert all(state["running"] for state in part_states(running).values())


def test_a_part_that_keeps_dying_is_started_ever_later(folder: OperatorFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower, "parts", lambda folder, port: {"superlink": ["false"]})
    served, clock, starts = Supervisor(folder), [1000.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    (part,) = served.parts
    for _ in range(600):
        begun = part.starts
        served.look_after()
        if part.starts > begun:
            starts.append(clock[0])
            assert part.child is not None
            part.child.wait()
        clock[0] += 0.5
    waits = [later - earlier for earlier, later in pairwise(starts)]
    assert waits == sorted(waits)
    assert waits[0] <= 2
    assert supervisor.LONGEST_PAUSE <= waits[-1] <= supervisor.LONGEST_PAUSE + 1


def test_a_killed_supervisor_leaves_nothing_to_the_next(
    folder: OperatorFolder, parts: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    leftover = subprocess.Popen(SLEEP, cwd=folder.empty)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    served = Supervisor(folder)
    thread = threading.Thread(target=served.run, daemon=True)
    thread.start()
    assert leftover.wait(10) == -signal.SIGKILL
    served._told(signal.SIGTERM, None)
    thread.join(20)
    assert not processes_in(folder.empty)


def test_a_file_of_a_dead_supervisor_means_nothing(folder: OperatorFolder) -> None:
    """Its pids may be anybody's by now."""
    own = Process.find(os.getpid())
    assert own is not None
    state = f'{{"pid": {own.pid}, "started": "another boot/1", "superlink_port": 1, "parts": {{}}}}'
    folder.processes.write_text(state)
    assert supervisor_process(folder) is None
    assert service.stop(folder) is False
    assert own.lives()


def test_a_renewal_that_was_killed_is_made_good_at_the_start(folder: OperatorFolder) -> None:
    old = folder.server_certificate.read_bytes()
    write_server_pair(folder)
    folder.server_certificate.write_bytes(old)  # killed between the two files
    supervisor.renew_broken_pair(folder)
    assert fits(folder.server_key, folder.server_certificate)
    kept = folder.server_certificate.read_bytes()
    supervisor.renew_broken_pair(folder)
    assert folder.server_certificate.read_bytes() == kept


@pytest.mark.deployment
def test_a_port_that_is_taken_is_said_and_nothing_stays(folder: OperatorFolder) -> None:
    """With the real parts: the proxy cannot have its port, so the start fails as a whole."""
    import socket

    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", folder.settings().port))
        holder.listen()
        begun = time.monotonic()
        with pytest.raises(HushrecError, match=r"the proxy does not start: .*address already in use"):
            service.start(folder)
    assert time.monotonic() - begun < 60
    assert not processes_in(folder.empty)
    assert not read_json(folder.processes)


def test_logs_are_kept_to_a_size(folder: OperatorFolder, parts: dict[str, list[str]]) -> None:
    log = folder.logs / "proxy.log"
    log.write_bytes(b"x" * (supervisor._LARGEST_LOG + 1))
    parts["proxy"] = ["true"]
    served = Supervisor(folder)
    child = served._start(next(part for part in served.parts if part.name == "proxy"))
    child.wait()
    assert log.stat().st_size == 0
    assert Path(f"{log}.1").stat().st_size > supervisor._LARGEST_LOG


def test_a_full_disk_stops_no_part(
    folder: OperatorFolder, parts: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> None:
        raise HushrecError("cannot write: No space left on device")

    served = Supervisor(folder)
    monkeypatch.setattr(supervisor, "write_json", full)
    served.look_after()
    assert len(processes_in(folder.empty)) == len(parts)
    served._end()
    assert not processes_in(folder.empty)


def test_a_part_that_cannot_be_started_is_tried_again(
    folder: OperatorFolder, parts: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts["superlink"] = [str(folder.path / "no such program")]
    served, clock = Supervisor(folder), [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    served.look_after()
    clock[0] += 5
    served.look_after()
    assert {part.name: part.starts for part in served.parts} == {"superlink": 2, "proxy": 1}
    monkeypatch.undo()
    served._end()
