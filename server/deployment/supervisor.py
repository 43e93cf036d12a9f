"""The one process that keeps a federation's parts running: SuperLink, SuperExec and proxy.

A part that dies is started again; what the parts do is theirs. It holds a lock for as long as it lives, so a folder
never has two, and everything it starts works in the folder's `empty`, where leftovers of a killed one are found.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hushrec.common.errors import HushrecError
from hushrec.common.processes import Process, end, end_all_in
from hushrec.server.deployment import certificates, flower
from hushrec.server.deployment.folder import OperatorFolder, only_one, read_json, write_json

LONGEST_PAUSE = 30.0  # seconds before a part that keeps dying is started again
log = logging.getLogger("hushrec.server")
STEADY = 60.0  # seconds after which a part counts as healthy again
_LARGEST_LOG = 10 * 2**20  # bytes; beyond, the next start of the part begins a new file and keeps one old


@dataclass
class Part:
    """One process that is to run.

    Attributes:
        pause: seconds to wait before the next start.
        due: monotonic time of the next start.
        starts: how often it was started.
    """

    name: str
    command: list[str]
    child: subprocess.Popen[bytes] | None = None
    pause: float = 1.0
    due: float = 0.0
    starts: int = 0
    since: float = field(default=0.0)


class Supervisor:
    """Starts the parts and looks after them until it is told to stop."""

    def __init__(self, folder: OperatorFolder) -> None:
        self.folder = folder
        self.port = _free_port()
        self.parts = [Part(name, command) for name, command in flower.parts(folder, self.port).items()]
        self._stop = threading.Event()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; then end everything.

        Raises:
            HushrecError: the federation is served already.
        """
        with only_one(self.folder.supervisor_lock, "the server is running already"):
            end_all_in(self.folder.empty)  # of a supervisor that was killed
            renew_broken_pair(self.folder)
            flower.write_connection(self.folder, self.port)
            before = {number: signal.signal(number, self._told) for number in (signal.SIGTERM, signal.SIGINT)}
            try:
                self._write_down()  # the proxy reads the port there
                while not self._stop.is_set():
                    self.look_after()
                    self._stop.wait(0.2)
            finally:
                self._end()
                for number, handler in before.items():
                    signal.signal(number, handler)

    def look_after(self) -> None:
        """Start what is due; notice what died."""
        now, changed = time.monotonic(), False
        for part in self.parts:
            if part.child is not None and part.child.poll() is not None:
                if now - part.since > STEADY:
                    part.pause = 1.0
                part.child, part.due, changed = None, now + (part.pause if part.starts else 0), True
                part.pause = min(2 * part.pause, LONGEST_PAUSE)
            if part.child is None and now >= part.due:
                part.starts += 1
                changed = True
                try:
                    part.child, part.since = self._start(part), now
                except OSError as error:  # no memory or no disk: try again, the other parts go on
                    part.due = now + part.pause
                    log.error("%s: %s", part.name, error)
        if changed:
            try:
                self._write_down()
            except HushrecError as error:
                log.error("%s", error)

    def _start(self, part: Part) -> subprocess.Popen[bytes]:
        path = self.folder.logs / f"{part.name}.log"
        if path.exists() and path.stat().st_size > _LARGEST_LOG:
            path.replace(path.with_suffix(".log.1"))
        with path.open("ab") as stream:
            return subprocess.Popen(
                part.command,
                cwd=self.folder.empty,
                env=flower.environment(self.folder),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                umask=0o077,
                start_new_session=True,  # Ctrl-C reaches this process only, which ends them in order
            )

    def _write_down(self) -> None:
        parts: dict[str, Any] = {}
        for part in self.parts:
            found = Process.find(part.child.pid) if part.child else None
            parts[part.name] = {
                "pid": found.pid if found else 0,
                "started": found.started if found else "",
                "starts": part.starts,
            }
        own = Process.find(os.getpid())
        assert own is not None
        facts = {"pid": own.pid, "started": own.started, "superlink_port": self.port, "parts": parts}
        write_json(self.folder.processes, facts)

    def _end(self) -> None:
        for part in reversed(self.parts):
            if part.child is None:
                continue
            if found := Process.find(part.child.pid):
                # The SuperLink waits for open log streams; its state is SQLite's, so it may be cut short.
                end(found, 3.0)
            part.child.wait()
        end_all_in(self.folder.empty)
        self.folder.processes.unlink(missing_ok=True)

    def _told(self, number: int, frame: object) -> None:
        self._stop.set()


def supervisor_process(folder: OperatorFolder) -> Process | None:
    """The supervisor, as it wrote itself down; None where it did not, or is gone."""
    facts = read_json(folder.processes)
    found = Process(int(facts.get("pid", 0)), str(facts.get("started", "")))
    return found if found.lives() else None


def part_states(folder: OperatorFolder) -> dict[str, dict[str, Any]]:
    """Part -> its pid, whether it lives, and how often it was started; empty when nothing is served."""
    return {
        name: {
            "pid": part["pid"],
            "running": Process(part["pid"], part["started"]).lives(),
            "starts": part["starts"],
        }
        for name, part in read_json(folder.processes).get("parts", {}).items()
    }


def renew_broken_pair(folder: OperatorFolder) -> None:
    """Make the server's key and certificate again where a killed renewal left a pair that does not fit."""
    if not certificates.fits(folder.server_key, folder.server_certificate):
        write_server_pair(folder)


def write_server_pair(folder: OperatorFolder) -> None:
    """A new key and certificate for the server's names."""
    settings = folder.settings()
    names = [settings.host, *settings.addresses]
    if settings.listen not in ("0.0.0.0", "::"):
        names.append(settings.listen)
    certificates.write_server_certificate(
        (folder.ca_key, folder.ca_certificate), folder.server_key, folder.server_certificate, names
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    """`python -m hushrec.server.deployment.supervisor DIR`, detached by `hushrec server start`."""
    try:
        Supervisor(OperatorFolder(Path(sys.argv[1]))).run()
    except HushrecError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
