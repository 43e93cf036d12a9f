"""Runs and federations as the page shows them: what their folders say, read again at every request.

It writes nothing, and a file that is missing or half-written is null, not an error.
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hushrec.common.budget import is_private
from hushrec.common.errors import HushrecError
from hushrec.common.ledger import read_ledger
from hushrec.common.privacy_event import PrivacyEvent

if TYPE_CHECKING:
    from hushrec.server.deployment.folder import OperatorFolder

MOST_ROUNDS = 2000  # newest lines of rounds.jsonl
MOST_CLIENTS = 1000  # of a ledger, those that spent most
LOCKS = Path("/proc/locks")  # Linux
LARGEST_FILE = 64 * 2**20  # bytes


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """The run directories in a folder, the newest first."""
    found = [path for path in _folders(folder) if _is_run(path)]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [_summary(path) for path in found]


def describe_run(folder: Path, name: str) -> dict[str, Any] | None:
    """Everything of one run; None where there is no such run."""
    path = next((path for path in _folders(folder) if path.name == name and _is_run(path)), None)
    if path is None:
        return None
    summary = _summary(path)
    return {
        **summary,
        "results": _json(path / "results.json"),
        "rounds": _rounds(path),
        "audit": _json(path / "audit.json"),
        "claim_card": _json(path / "claim_card.json"),
        "ledger": ledger_summary(path / "ledger.jsonl"),
    }


def list_federations(folder: Path) -> list[dict[str, Any]]:
    """The operator folders in a folder: devices, refusals, progress, unit and budget of the claim; best effort."""
    from hushrec.server.deployment.service import describe

    found = []
    for name, operator in _operators(folder):
        try:
            found.append(_plain({"name": name, **describe(operator), **_claimed(operator)}))
        except (HushrecError, OSError, ValueError, KeyError) as error:
            found.append({"name": name, "error": f"cannot be read ({type(error).__name__})"})
    return found


def _operators(folder: Path) -> Iterator[tuple[str, OperatorFolder]]:
    """Name and operator folder of what is one, the folder itself among them."""
    from hushrec.server.deployment.folder import OperatorFolder

    for path in [folder, *_folders(folder)]:
        operator = OperatorFolder(path)
        try:
            operator.settings()
        except (HushrecError, OSError, ValueError, KeyError, TypeError):
            continue
        yield path.name, operator


def _claimed(operator: OperatorFolder) -> dict[str, Any]:
    """Unit and budget of what is promised; null where nothing is."""
    config = operator.config()
    if not is_private(config):
        return {"unit": None, "budget": None}
    return {"unit": config.privacy.unit, "budget": config.privacy.target_epsilon}


_SUMMARIES: OrderedDict[tuple[str, int, int], dict[str, Any] | None] = OrderedDict()


def ledger_summary(path: Path) -> dict[str, Any] | None:
    """What each client has spent of its budget, the one that spent most first; None without a ledger that holds.

    Computed once for each state of the file.
    """
    try:
        stat = path.stat()
    except OSError:
        return None
    key = (str(path), stat.st_mtime_ns, stat.st_size)
    if key not in _SUMMARIES:
        _SUMMARIES[key] = _spent(path)
        while len(_SUMMARIES) > 64:
            _SUMMARIES.popitem(last=False)
    return _SUMMARIES[key]


def epsilon_left(runs: Path | None, federations: Path | None) -> dict[str, float]:
    """Run or federation -> budget left to the client that spent most; those without a claim are left out.

    Of a run, by its ledger. Of a federation, by the last round's line: the ledgers themselves are on the devices.
    """
    from hushrec.server.deployment.service import read_rounds

    left = {}
    for path in _folders(runs) if runs else []:
        summary = ledger_summary(path / "ledger.jsonl")
        if summary and summary["clients"]:
            worst = summary["clients"][0]
            left[path.name] = max(0.0, worst["budget"] - worst["epsilon"])
    for name, operator in _operators(federations) if federations else []:
        try:
            budget, lines = _claimed(operator)["budget"], read_rounds(operator)
            if budget is not None:
                spent = float(lines[-1].get("epsilon") or 0.0) if lines else 0.0
                left[name] = max(0.0, float(budget) - spent)
        except (HushrecError, OSError, ValueError, KeyError, AttributeError):
            continue
    return left


def _spent(path: Path) -> dict[str, Any] | None:
    try:
        replay = read_ledger(path)
        if not replay.clients():
            return None
        claim = replay.header.claim()
        known: dict[tuple[PrivacyEvent, ...], float] = {}
        clients: list[dict[str, Any]] = []
        for client in replay.clients():
            events = replay.events(client)
            if events not in known:
                known[events] = claim.epsilon(events)
            clients.append({"client": client, "epsilon": known[events], "budget": claim.target_epsilon})
    except (HushrecError, OSError, ValueError):
        return None
    clients.sort(key=lambda one: -one["epsilon"])
    return {
        "claim": claim.name,
        "unit": claim.unit,
        "delta": claim.delta,
        "clients_in_all": len(clients),
        "clients": clients[:MOST_CLIENTS],
    }


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _is_run(path: Path) -> bool:
    return (path / "experiment.toml").exists() or (path / "results.json").exists()


def _summary(path: Path) -> dict[str, Any]:
    results, rounds = _json(path / "results.json"), _rounds(path, 1)
    last = rounds[-1] if rounds else {}
    privacy = (results or {}).get("privacy") or {}
    experiment, unit = _experiment(path) if results is None else (results.get("experiment"), privacy.get("unit"))
    state = "finished" if results is not None else "running" if _is_held(path / "run.lock") else "stopped"
    epsilon = privacy.get("epsilon") if results is not None else last.get("epsilon")
    return {
        "name": path.name,
        "state": state,
        "round": last.get("round"),
        "rounds": last.get("rounds"),
        "experiment": experiment or path.name,
        "epsilon": epsilon,
        "unit": unit,
    }


def _experiment(path: Path) -> tuple[str, str | None]:
    """The experiment's name, and the unit of its epsilon; None where it claims none."""
    try:
        content = tomllib.loads((path / "experiment.toml").read_text(encoding="utf-8"))
        privacy = content.get("privacy", {})
        unit = privacy.get("unit") if privacy.get("mechanism", "none") != "none" else None
        return str(content.get("run", {}).get("experiment", "")), unit
    except (OSError, ValueError, AttributeError):
        return "", None


def _is_held(lock: Path) -> bool:
    """Whether a running process holds the run's lock; trying to take it would get in the way of one that starts."""
    try:
        inode = lock.stat().st_ino
        return any(line.split()[5].endswith(f":{inode}") for line in LOCKS.read_text().splitlines())
    except (OSError, IndexError):
        return False


def _json(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST_FILE:
            return None
        return _plain(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return None


def _rounds(path: Path, most: int = MOST_ROUNDS) -> list[dict[str, Any]]:
    """The newest whole lines; one that is still being written is left out."""
    try:
        with (path / "rounds.jsonl").open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - (1 << 22 if most > 1 else 1 << 16)))
            lines = stream.read().split(b"\n")[:-1]
    except OSError:
        return []
    found = []
    for line in lines[-most:]:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(_plain(value))
    return found


def _plain(value: Any) -> Any:
    """The value with null for what JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, (str, int, bool)) or value is None else str(value)
