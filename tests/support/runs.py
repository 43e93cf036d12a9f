"""Reading what runs leave behind, for tests that kill or tamper with them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from hushrec.common.ledger import read_ledger

LEDGER = "ledger.jsonl"
CENTRAL: dict[str, Any] = {  # C3, as changes of a tiny configuration
    "privacy__unit": "user",
    "privacy__mechanism": "central",
    "federation__clients_per_round": 0,
}
STATISTICS: dict[str, Any] = {"model__head_core": "full", "model__core_init": "statistics"}


def lines(folder: Path) -> list[dict[str, Any]]:
    """rounds.jsonl without what the clock says."""
    read = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "seconds" not in k} for line in read]


def charged(folder: Path) -> dict[str, Counter[str]]:
    """Client -> kind of release -> steps, from a ledger that verifies."""
    replay = read_ledger(folder / LEDGER)
    return {c: Counter({e.kind: e.steps for e in replay.events(c)}) for c in replay.clients()}


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]
