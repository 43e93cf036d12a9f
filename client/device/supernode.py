"""The SuperNode of a device: Flower's process that holds the connection to the server, started and kept alive.

Its Runtime API listens on loopback under a secret of this run; what comes through it is checked by the launcher.
"""

from __future__ import annotations

import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sysconfig
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import IO

from hushrec.client.device import pids
from hushrec.client.device.flower_runtime import SuperNodeGone
from hushrec.client.device.folder import DeviceFolder, write_private
from hushrec.client.device.worker import end_with_launcher

LOG = "supernode.log"
START_SECONDS = 60.0
_LONGEST_WAIT = 30.0  # seconds between two starts
_STEADY = 60.0  # seconds after which a start counts as good
_LARGEST_LOG = 5 * 2**20  # bytes; then it is begun anew
_COLOUR = re.compile("\x1b\\[[0-9;]*m")


class SuperNode:
    """A running `flower-supernode`; a context manager.

    Attributes:
        address: "127.0.0.1:port" of its Runtime API.
        secret: what whoever asks it for messages must know.
    """

    def __init__(self, folder: DeviceFolder) -> None:
        self.folder = folder
        self.secret = secrets.token_hex(32).encode()
        self.address = ""
        self._wait = 1.0
        self._started = 0.0
        self._begun = 0  # where this start's part of the log begins
        self._process: subprocess.Popen[bytes] | None = None

    def require_running(self) -> None:
        """Raises:
        SuperNodeGone: it has ended, with its last words.
        """
        if self._process is not None and self._process.poll() is None:
            return
        code = None if self._process is None else self._process.returncode
        raise SuperNodeGone(f"the SuperNode ended with status {code}: {self._last_words()}")

    def _last_words(self) -> str:
        """What Flower says of its end, from this start's part of the log."""
        log = self.folder.logs / LOG
        text = log.read_bytes()[self._begun :].decode("utf-8", "replace") if log.exists() else ""
        _, _, reason = _COLOUR.sub("", text).rpartition("Exit Code:")
        return " ".join(reason.partition("\n\n")[0].split()) or "it said nothing"

    def start_again(self, stop: threading.Event) -> None:
        """Start it anew after a wait; returns at once when `stop` is set.

        The wait doubles with each start in vain and is drawn at random, since a server that comes back must not be met
        by all its devices at once. For most of a minute after a device died the server takes it for online, and its
        new SuperNode for an impostor.
        """
        if time.monotonic() - self._started > _STEADY:
            self._wait = 1.0
        while not stop.is_set():
            self._end()
            if stop.wait(self._wait * random.uniform(0.5, 1.0)):
                return
            self._wait = min(2 * self._wait, _LONGEST_WAIT)
            with suppress(SuperNodeGone):
                self._start()
                return

    def _start(self) -> None:
        invitation, path = self.folder.invitation, self.folder.path
        write_private(path / "ca.crt", invitation.ca_certificate)
        write_private(path / "supernode.secret", self.secret)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        command = [
            str(Path(sysconfig.get_path("scripts")) / "flower-supernode"),
            *("--superlink", invitation.server, "--root-certificates", str(path / "ca.crt")),
            *("--auth-supernode-private-key", str(self.folder.node_key)),
            *("--isolation", "process", "--superexec-auth-secret-file", str(path / "supernode.secret")),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]
        with _log_file(self.folder.logs / LOG) as log:
            self._begun = log.seek(0, os.SEEK_END)
            self._process = subprocess.Popen(
                command,
                cwd=path,
                env=_environment(path),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_launcher,
            )
        pids.record(self.folder.pids / "supernode", self._process.pid)
        self._started = time.monotonic()
        while not _answers(port):
            self.require_running()
            if time.monotonic() - self._started > START_SECONDS:
                raise SuperNodeGone(f"the SuperNode did not start within {START_SECONDS:g} s")
            time.sleep(0.1)

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._process = None

    def __enter__(self) -> SuperNode:
        with suppress(SuperNodeGone):  # whoever asks for messages is told, and starts it again
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()


def _environment(path: Path) -> dict[str, str]:
    """Nothing is written outside the device's folder, nothing phones home, nothing is installed."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FLWR_")} | {
        "FLWR_HOME": str(path / "flower-home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }


def _log_file(path: Path) -> IO[bytes]:
    return path.open("wb" if path.exists() and path.stat().st_size > _LARGEST_LOG else "ab")


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
            return True
    except urllib.error.HTTPError:
        return True
    except (urllib.error.URLError, OSError):
        return False
