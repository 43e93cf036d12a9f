"""A federation that is served: started, stopped, and described, by whoever looks at its folder from outside.

The parts themselves are supervisor.py's; it changes nothing of the federation.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from typing import Any

from hushrec.common.errors import ConfigError, HushrecError
from hushrec.common.processes import command_of, end, end_all_in, processes_in
from hushrec.server.deployment import certificates, flower
from hushrec.server.deployment.folder import OperatorFolder, only_one
from hushrec.server.deployment.nodes import read_nodes
from hushrec.server.deployment.supervisor import part_states, supervisor_process

PATIENCE = 90.0  # seconds until everything answers
RENEW_WITHIN = 30  # days before the certificate ends


def require_linux() -> None:
    """Raises:
    ConfigError: another system, whose processes this package cannot tell apart.
    """
    if sys.platform != "linux":
        raise ConfigError("hushrec server start needs Linux")


def require_served(folder: OperatorFolder) -> None:
    """Raises:
    HushrecError: nothing serves the folder.
    """
    if supervisor_process(folder) is None:
        raise HushrecError(f"the server is not running; start it with: hushrec server start {folder.path}")


def start(folder: OperatorFolder) -> None:
    """Serve the federation in the background; return when devices can reach it.

    Raises:
        HushrecError: it is served already, or a part does not start; nothing is left running then.
    """
    require_linux()
    with only_one(folder.path / "start.lock", "another command is starting the server"):
        if supervisor_process(folder) is not None:
            raise HushrecError("the server is running already; see: hushrec server status")
        stop(folder)  # what a killed supervisor left would answer in the new one's place
        _start(folder)


def _start(folder: OperatorFolder) -> None:
    log = folder.logs / "supervisor.log"
    with log.open("ab") as stream:
        begun = stream.tell()
        supervisor = subprocess.Popen(
            [sys.executable, "-P", "-m", "hushrec.server.deployment.supervisor", str(folder.path)],
            cwd=folder.empty,
            env=flower.environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + PATIENCE
    while not answers(folder):
        failed = _what_failed(folder)
        if supervisor.poll() is not None or failed or time.monotonic() > deadline:
            stop(folder)
            supervisor.wait()
            said = log.read_bytes()[begun:].decode(errors="replace").strip().splitlines()
            raise HushrecError(failed or (said[-1] if said else f"the server did not start; {folder.logs} says why"))
        time.sleep(0.2)
    supervisor.returncode = 0  # it outlives this process, which need not wait for it


def stop(folder: OperatorFolder) -> bool:
    """End every process of the federation; whether there was one."""
    require_linux()
    supervisor = supervisor_process(folder)
    found = supervisor is not None or bool(processes_in(folder.empty))
    if supervisor is not None:
        end(supervisor, 30.0)
    end_all_in(folder.empty)
    folder.processes.unlink(missing_ok=True)
    return found


def answers(folder: OperatorFolder) -> bool:
    """Whether the SuperLink answers through the public port, with a certificate that devices take."""
    settings = folder.settings()
    local = {"0.0.0.0": "127.0.0.1", "::": "localhost"}.get(settings.listen, settings.listen)
    place = f"[{local}]" if ":" in local else local
    try:
        context = ssl.create_default_context(cafile=str(folder.ca_certificate))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(f"https://{place}:{settings.port}/health", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _what_failed(folder: OperatorFolder) -> str:
    """The part that keeps ending, and what it said last."""
    for name, part in part_states(folder).items():
        if part["starts"] > 2:
            log = folder.logs / f"{name}.log"
            said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            return f"the {name} does not start: {said[-1].strip() if said else 'it says nothing'} ({log})"
    return ""


def serving_app(folder: OperatorFolder) -> bool:
    """Whether a process of the ServerApp lives; Flower takes a while to notice that one was killed."""
    return any(flower.SERVER_APP in command_of(process) for process in processes_in(folder.empty))


def describe(folder: OperatorFolder) -> dict[str, Any]:
    """What `hushrec server status` shows: JSON values only."""
    settings, served = folder.settings(), supervisor_process(folder) is not None
    facts: dict[str, Any] = {
        "federation": settings.federation,
        "address": settings.address,
        "running": served,
        "reachable": served and answers(folder),
        "parts": part_states(folder),
        "certificate_days_left": certificates.days_left(folder.server_certificate),
        "nodes": {},
        "run": None,
    }
    states: dict[int, str] = {}
    if served:
        try:
            states = flower.node_states(folder)
            last = next(iter(flower.runs(folder)), None)
            facts["run"] = last and {"id": str(last.run_id), "status": last.status, "details": last.details}
        except flower.FlowerRefused as refused:  # the SuperLink is being started again
            facts["flower"] = str(refused)
    for name, node in read_nodes(folder).items():
        facts["nodes"][name] = "revoked" if node.revoked else states.get(node.node_id, "unknown")
    facts["online"] = sum(state == "online" for state in facts["nodes"].values())
    return facts | _progress(folder)


def _progress(folder: OperatorFolder) -> dict[str, Any]:
    from hushrec.server.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(folder.run)
    lines = read_rounds(folder)
    return {
        "round": checkpoint.server_round if checkpoint else None,
        "rounds": folder.config().federation.rounds,
        "last_round": lines[-1] if lines else None,
        "refused": dict(Counter(checkpoint.facts["refused"])) if checkpoint else {},
    }


def read_rounds(folder: OperatorFolder) -> list[dict[str, Any]]:
    """The finished rounds' lines; one that is still being written is left out."""
    path = folder.run / "rounds.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def restart_words(folder: OperatorFolder) -> str:
    """How a change of certificates takes effect."""
    if supervisor_process(folder) is None:
        return "it is used from the next start on"
    return f"it is used after: hushrec server stop {folder.path} && hushrec server start {folder.path}"
