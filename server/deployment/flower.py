"""Flower's programs as this package uses them: the one file that knows their names, options and answers.

Everything goes through command lines that Flower documents; it reads none of Flower's files.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError, HushrecError
from hushrec.common.invitation import public_settings
from hushrec.server.deployment.folder import OperatorFolder, write_file

OPERATOR = "HUSHREC_OPERATOR"  # environment variable: where the ServerApp finds its private settings
SERVER_APP = "flwr-serverapp"  # what SuperExec starts for a run
_CONNECTION = "hushrec"
_APP = """[project]
name = "hushrec-federation"
version = "1.0.0"

[tool.flwr.app]
publisher = "hushrec"

[tool.flwr.app.components]
serverapp = "hushrec.server.deployed_app:app"
clientapp = "hushrec.client.app:app"
"""


class FlowerRefused(HushrecError):
    """Flower's command answered with an error; its text is Flower's."""


@dataclass(frozen=True)
class Run:
    """A run as Flower knows it.

    Attributes:
        status: such as "running" or "finished:completed".
        app_sha256: of the bundle that it sends to devices.
    """

    run_id: int
    status: str
    details: str
    app_sha256: str

    @property
    def over(self) -> bool:
        """Whether Flower does nothing more for it."""
        return self.status.startswith("finished")


def environment(folder: OperatorFolder) -> dict[str, str]:
    """Of every process of the federation: Flower's files stay in the folder and nothing phones home."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("FLWR_", "RAY_"))} | {
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]),
        "FLWR_HOME": str(folder.flower_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "1",
        OPERATOR: str(folder.path),
    }


def parts(folder: OperatorFolder, port: int) -> dict[str, list[str]]:
    """Name -> command line of what serves a federation, in the order of their start.

    Args:
        port: of the SuperLink, on loopback.
    """
    secret = ["--superexec-auth-secret-file", str(folder.secret)]
    return {
        "superlink": [
            _script("flower-superlink"),
            *("--ssl-ca-certfile", str(folder.ca_certificate), "--ssl-certfile", str(folder.server_certificate)),
            *("--ssl-keyfile", str(folder.server_key), "--enable-supernode-auth", "--isolation", "process", *secret),
            *("--host", "127.0.0.1", "--port", str(port), "--database", str(folder.database)),
            "--disable-runtime-dependency-installation",
        ],
        "superexec": [
            _script("flower-superexec"),
            *("--root-certificates", str(folder.ca_certificate), "--runtime-api-address", f"127.0.0.1:{port}", *secret),
            *("--parent-pid", str(os.getpid())),
        ],
        "proxy": [sys.executable, "-P", "-m", "hushrec.server.deployment.proxy", str(folder.path)],
    }


def write_connection(folder: OperatorFolder, port: int) -> None:
    """Tell Flower's command line where the SuperLink is."""
    authority = json.dumps(str(folder.ca_certificate), ensure_ascii=False)
    text = (
        f'[superlink]\ndefault = "{_CONNECTION}"\n\n[superlink.{_CONNECTION}]\n'
        f'address = "127.0.0.1:{port}"\nroot-certificates = {authority}\n'
    )
    write_file(folder.flower_home / "config.toml", text.encode())


def write_app(folder: OperatorFolder, config: RunConfig) -> None:
    """Flower's app: the names of the installed modules and the public settings, no code."""
    lines, section, public = [], "", public_settings(config.to_flat())
    for line in config.to_toml().splitlines():
        if line.startswith("["):
            section = line[1:-1]
            lines += ["", f"[tool.flwr.app.config.{section}]"]
        elif f"{section}.{line.partition(' = ')[0]}" in public:
            lines.append(line)
    write_file(folder.app / "pyproject.toml", (_APP + "\n".join(lines) + "\n").encode())


def app_sha256(folder: OperatorFolder) -> str:
    """SHA-256 (hex) of the bundle that Flower makes of the app, as it sends it to every device.

    Raises:
        HushrecError: Flower cannot build it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        command = [_script("flwr"), "build", "--app", str(folder.app)]
        built = subprocess.run(command, cwd=scratch, env=environment(folder), capture_output=True, text=True)
        found = sorted(Path(scratch).glob("*.fab"))
        if built.returncode or len(found) != 1:
            raise HushrecError(f"Flower cannot build {folder.app}: {_last_line(built.stderr + built.stdout)}")
        return hashlib.sha256(found[0].read_bytes()).hexdigest()


def register_node(folder: OperatorFolder, name: str, public_key: Path) -> int:
    """Let the holder of a key join; returns the node's id.

    Raises:
        ConfigError: the key was used before.
    """
    try:
        answer = _flwr(folder, "supernode", "register", str(public_key.absolute()), "--name", name)
    except FlowerRefused as refused:
        if "already in use" in str(refused).lower():
            raise ConfigError(
                f"{public_key} belongs to a node that is or was enrolled; the device makes a new key with its folder"
            ) from refused
        raise
    return int(answer["node-id"])


def unregister_node(folder: OperatorFolder, node: int) -> None:
    """Shut a node out; one that is out already stays out."""
    if node_states(folder).get(node, "unregistered") != "unregistered":
        _flwr(folder, "supernode", "unregister", str(node))


def node_states(folder: OperatorFolder) -> dict[int, str]:
    """Node id -> registered, online, offline or unregistered."""
    return {int(node["node-id"]): node["status"] for node in _flwr(folder, "supernode", "list", "--verbose")["nodes"]}


def submit_run(folder: OperatorFolder) -> int:
    """Hand the app to Flower; returns the run's id."""
    return int(_flwr(folder, "run", str(folder.app))["run-id"])


def runs(folder: OperatorFolder, run: int | None = None) -> list[Run]:
    """Flower's runs, the newest first; only `run` where one is named."""
    chosen = [] if run is None else ["--run-id", str(run)]
    return [
        Run(int(row["run-id"]), row["status"], row["status-details"], row["fab-hash"])
        for row in _flwr(folder, "list", *chosen)["runs"]
    ]


def stop_run(folder: OperatorFolder, run: int) -> None:
    """End a run; what its rounds reached is in the run directory."""
    _flwr(folder, "stop", str(run))


def follow_log(folder: OperatorFolder, run: int, log: Path) -> subprocess.Popen[bytes]:
    """A process that copies the run's log to a file and ends with the run."""
    with log.open("ab") as stream:
        return subprocess.Popen(
            [_script("flwr"), "log", str(run), _CONNECTION, "--stream"],
            cwd=folder.empty,
            env=environment(folder) | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for whoever follows, not for it
        )


def _flwr(folder: OperatorFolder, *arguments: str) -> dict[str, Any]:
    """The JSON answer of `flwr ARGUMENTS`, against the folder's SuperLink.

    Raises:
        FlowerRefused: it says no, or does not answer.
    """
    # The connection's name is the last of the positional arguments.
    place = next((number for number, word in enumerate(arguments) if word.startswith("--")), len(arguments))
    command = [*arguments[:place], _CONNECTION, *arguments[place:], "--format", "json"]
    try:
        done = subprocess.run(
            [_script("flwr"), *command],
            cwd=folder.empty,
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
    except subprocess.TimeoutExpired as error:
        raise FlowerRefused(
            f"Flower's SuperLink does not answer; {folder.logs / 'superlink.log'} may say why"
        ) from error
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {}
    if done.returncode or not isinstance(answer, dict) or not answer.get("success"):
        said = answer.get("error-message") if isinstance(answer, dict) else ""
        raise FlowerRefused(f"Flower says: {_last_line(said or done.stderr or done.stdout)}")
    return answer


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"


def _script(name: str) -> str:
    return str(Path(sysconfig.get_path("scripts")) / name)
