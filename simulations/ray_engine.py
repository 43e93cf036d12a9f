"""Training on Flower's own simulation engine: `flwr run` on a SuperLink of the run's own, with Ray as backend.

Everything Flower and Ray write goes to a private temporary folder, except RUN/flower.log. Each client is asked and
answers alone; the ServerApp, the ClientApp, the checkpoint and the ledger are those of the in-process engine.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from hushrec.client.store import count_clients
from hushrec.common import errors
from hushrec.common.config import RunConfig
from hushrec.common.datasets import data_folder
from hushrec.common.errors import BundleError, ConfigError, DataError, HushrecError, PrivacyError
from hushrec.common.run_ledger import open_ledger
from hushrec.common.shared_ledger import ADDRESS, share_ledger
from hushrec.server.checkpoint import read_checkpoint
from hushrec.server.rounds import ROUNDS
from hushrec.server.rounds import log as rounds_log
from hushrec.simulations import ray_watchdog
from hushrec.simulations.ray_app import NODES
from hushrec.simulations.ray_watchdog import end_processes

LOG = "flower.log"
_APP = """[project]
name = "hushrec-run"
version = "1.0.0"
[tool.flwr.app]
publisher = "hushrec"
[tool.flwr.app.components]
serverapp = "hushrec.simulations.ray_app:app"
clientapp = "hushrec.client.app:app"
"""
_CONNECTION = '[superlink]\ndefault = "run"\n[superlink.run]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
_KINDS = {kind.__name__: kind for kind in (ConfigError, DataError, BundleError, PrivacyError)}


def require_ray() -> None:
    """Raises:
    ConfigError: Ray is not installed, or there is none for this system.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("--engine ray needs the extra 'ray': pip install 'hushrec[ray]'")
    if sys.platform != "linux":
        raise ConfigError("--engine ray needs Linux; leave it out for the in-process engine")


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The configuration with the paths of its data and its model made absolute: Flower's processes run elsewhere."""
    folder, base = config.data.folder, config.model.base
    return config.replace(
        data__folder=str(Path(data_folder(folder)).absolute()) if folder else "",
        model__base=str(Path(base).absolute()) if Path(base).exists() else base,
    )


def train_on_ray(config: RunConfig) -> None:
    """Run or resume the configured rounds; the checkpoint, the rounds and the ledger are in the run directory then.

    Raises:
        ConfigError: Ray is not installed, or a path in the configuration is relative.
        HushrecError: what the ServerApp raised, or that the engine stopped early; RUN/flower.log has the rest.
    """
    require_ray()
    if with_absolute_paths(config) != config:
        raise ConfigError(
            "data.folder or model.base is a relative path, which Flower's processes cannot follow: go on without "
            "--engine ray, or begin a new run with it"
        )
    folder = Path(config.run.directory)
    with (folder / LOG).open("ab") as log, _private_folder() as scratch, ExitStack() as held:
        begun = log.tell()
        environment = _environment(scratch, count_clients(config))
        if (ledger := open_ledger(config)) is not None:
            held.enter_context(share_ledger(ledger, scratch / "ledger"))
            environment[ADDRESS] = str(scratch / "ledger")
        start = _Starter(scratch / "empty", environment, log)
        held.callback(start.end)
        _start_superlink(scratch, start)
        _follow_run(scratch, start, config)
    checkpoint = read_checkpoint(folder)
    done = checkpoint.server_round if checkpoint else 0
    if checkpoint is None or done < config.federation.rounds:
        raise _failure(folder / LOG, begun, f"the engine stopped after round {done} of {config.federation.rounds}")


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder for this user only; when the block is left or this process dies, whatever works in it is ended."""
    # Ray's sockets live in it, and the path of a socket holds 107 characters at most.
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) <= 20 else "/tmp"
    scratch = Path(tempfile.mkdtemp(prefix="hushrec-", dir=parent)).resolve()
    for name in ("home", "empty", "app"):
        (scratch / name).mkdir()
    command = [sys.executable, "-P", "-m", ray_watchdog.__name__, str(scratch)]
    watchdog = subprocess.Popen(command, cwd="/", stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield scratch
    finally:
        watchdog.communicate()


class _Starter:
    """Starts processes in an empty folder and in a session of their own, where Ctrl-C does not reach them."""

    def __init__(self, folder: Path, environment: dict[str, str], log: IO[bytes]) -> None:
        self.folder, self.environment, self.log = folder, environment, log
        self._started: list[subprocess.Popen[bytes]] = []

    def __call__(self, script: str, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [str(Path(sysconfig.get_path("scripts")) / script), *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def end(self) -> None:
        """End what was started and everything that came of it."""
        end_processes(self.folder)
        for process in self._started:
            process.wait()


def _environment(scratch: Path, nodes: int) -> dict[str, str]:
    """Of every process of the run: nothing is written to the user's folders, nothing phones home, one thread each."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("FLWR_", "RAY_"))} | {
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]),
        "OMP_NUM_THREADS": "1",
        "FLWR_HOME": str(scratch / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        "RAY_TMPDIR": str(scratch),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",  # Ray listens on the network: nobody else may give it work
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(200 * 2**20),
        NODES: str(nodes),
    }


def _start_superlink(scratch: Path, start: _Starter) -> None:
    """A SuperLink on a free local port, told to `flwr run` by the connection in the run's FLWR_HOME."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (scratch / "home" / "config.toml").write_text(_CONNECTION.format(port=port), encoding="utf-8")
    superlink = start("flower-superlink", "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port))
    deadline = time.monotonic() + 120
    while not _answers(port):
        if superlink.poll() is not None or time.monotonic() > deadline:
            raise HushrecError(f"Flower's SuperLink did not start; {start.log.name} says why")
        time.sleep(0.1)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _follow_run(scratch: Path, start: _Starter, config: RunConfig) -> None:
    """`flwr run`, until it is over; tells of every round as the in-process engine does."""
    # A reply here is one client's, so it must not speak for others as a cohort's first reply may.
    settings = config.replace(federation__execution="one-by-one").to_toml()
    text = _APP + ("\n" + settings).replace("\n[", "\n[tool.flwr.app.config.")
    (scratch / "app" / "pyproject.toml").write_text(text, encoding="utf-8")
    cores = len(os.sched_getaffinity(0))
    size = f"num-supernodes={start.environment[NODES]} client-resources-num-cpus=1 init-args-num-cpus={cores}"
    run = start("flwr", "run", str(scratch / "app"), "run", "--stream", "--federation-config", size)
    path, checkpoint = Path(config.run.directory) / ROUNDS, read_checkpoint(Path(config.run.directory))
    told = checkpoint.server_round if checkpoint else -1
    while run.poll() is None:
        told = _tell_rounds(path, told)
        time.sleep(0.2)
    _tell_rounds(path, told)


def _tell_rounds(path: Path, told: int) -> int:
    """Log the rounds after `told` that the ServerApp has written down; returns the last one told."""
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else ():
        if not line.endswith("\n"):  # still being written
            break
        if (record := json.loads(line))["round"] > told:
            told = record["round"]
            rounds_log.info("round %d", told, extra={"round": record})
    return told


def _failure(log: Path, begun: int, what: str) -> HushrecError:
    """The error that the ServerApp raised, as its own kind; where it left none in the log, `what` happened."""
    text = log.read_bytes()[begun:].decode(errors="replace")
    raised = re.findall(rf"^{re.escape(errors.__name__)}\.(\w+): (.+)$", text, re.MULTILINE)
    if raised:
        kind, said = raised[-1]
        return _KINDS.get(kind, HushrecError)(said)
    return HushrecError(f"{what}; {log} says why")
