"""The operator's folder: where everything of one federation lies on the server, and how its small files are written.

    ca.key ca.crt server.key server.crt  TLS            invitation.json  what device owners get; public
    superexec.secret countersign.key     other secrets  run.toml         the whole configuration
    server.json nodes.json               small facts    app/             Flower's app: wiring only
    flower-home/ state.db                Flower's own   run/             checkpoint, rounds, ledger
    logs/ processes.json                 while running  empty/           where every process works

It is private to one user (700, files 600). It starts nothing and knows no cryptography.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hushrec.common.config import RunConfig, read_experiment
from hushrec.common.errors import BundleError, ConfigError, HushrecError
from hushrec.common.files import replace_file


@dataclass(frozen=True)
class ServerSettings:
    """server.json.

    Attributes:
        federation: its name, for people.
        host: name or IP address by which devices reach the server.
        port: public port.
        listen: local IP address of the public port.
        addresses: further IP addresses of the server, for its certificate.
        devices: how many clients the noise was solved for.
        least_nodes: how many must be online before round 1.
        patience_seconds: how long the run waits for them.
        reply_timeout_seconds: after which a round goes on without whoever has not answered.
    """

    federation: str
    host: str
    port: int
    listen: str = "0.0.0.0"
    addresses: tuple[str, ...] = ()
    devices: int = 0
    least_nodes: int = 1
    patience_seconds: float = 600.0
    reply_timeout_seconds: float = 600.0

    @property
    def address(self) -> str:
        """host:port as devices write it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class OperatorFolder:
    """The paths of one operator's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.ca_key, self.ca_certificate = self.path / "ca.key", self.path / "ca.crt"
        self.server_key, self.server_certificate = self.path / "server.key", self.path / "server.crt"
        self.secret, self.countersign_key = self.path / "superexec.secret", self.path / "countersign.key"
        self.flower_home, self.database = self.path / "flower-home", self.path / "state.db"
        self.app, self.run, self.logs = self.path / "app", self.path / "run", self.path / "logs"
        self.configuration, self.invitation = self.path / "run.toml", self.path / "invitation.json"
        self.settings_file, self.nodes = self.path / "server.json", self.path / "nodes.json"
        self.processes, self.supervisor_lock = self.path / "processes.json", self.path / "supervisor.lock"
        self.empty = self.path / "empty"

    def make(self) -> None:
        """The folder and those inside it; its parents too."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.mkdir(mode=0o700)
        for inside in (self.flower_home, self.app, self.run, self.logs, self.empty):
            inside.mkdir(mode=0o700)

    def settings(self) -> ServerSettings:
        """Raises:
        BundleError: server.json is damaged.
        """
        values = read_json(self.settings_file)
        try:
            return ServerSettings(**{**values, "addresses": tuple(values["addresses"])})
        except (KeyError, TypeError) as error:
            raise BundleError(f"{self.settings_file} is damaged ({error}); restore it from a backup") from error

    def write_settings(self, settings: ServerSettings) -> None:
        """Replace server.json."""
        write_json(self.settings_file, asdict(settings))

    def config(self) -> RunConfig:
        """run.toml, with the run directory where the folder is now: a restored backup may lie elsewhere.

        Raises:
            ConfigError: missing or damaged.
        """
        config = RunConfig.from_flat(read_experiment(self.configuration), str(self.configuration))
        return config.replace(run__directory=str(self.run))


def open_folder(path: Path) -> OperatorFolder:
    """An existing operator's folder.

    Raises:
        ConfigError: there is none.
    """
    folder = OperatorFolder(path)
    if not folder.settings_file.is_file():
        raise ConfigError(f"{path} is no operator's folder; make one with: hushrec server init {path} ...")
    return folder


def write_file(path: Path, content: bytes) -> None:
    """Replace a file of the folder, mode 600: after a crash at any byte it is the old one or the new one, whole.

    Raises:
        HushrecError: the disk is full or does not let us; the file is as it was.
    """
    try:
        replace_file(path, content, 0o600)
    except OSError as error:
        raise HushrecError(f"cannot write {path}: {error.strerror}; it is as it was before") from error


def write_json(path: Path, value: Any) -> None:
    """Replace a small JSON file."""
    write_file(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON file; one that is not there is empty.

    Raises:
        BundleError: damaged.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} is damaged ({error}); restore it from a backup") from error
    if not isinstance(value, dict):
        raise BundleError(f"{path} is damaged; restore it from a backup")
    return value


@contextmanager
def only_one(path: Path, what: str, patience: float = 0.0) -> Iterator[None]:
    """Hold a lock file while the block runs.

    Args:
        what: what another process is doing that holds it.
    Raises:
        HushrecError: another process holds it.
    """
    lock = FileLock(path, timeout=patience, mode=0o600)
    try:
        lock.acquire()
    except Timeout as error:
        raise HushrecError(what) from error
    try:
        yield
    finally:
        lock.release()
