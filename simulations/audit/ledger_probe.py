"""Whether the ledger is paid before data are read, and whether a spent budget ends everything, restarts or not.

It does not check the ledger of the run: ledgers.py does.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from hushrec.common.budget import enforced_claim
from hushrec.common.config import RunConfig
from hushrec.common.ledger import read_ledger
from hushrec.common.privacy import PrivacyEvent, rounds_left
from hushrec.common.protocol import Field
from hushrec.server.central_privacy import SERVER
from hushrec.simulations.audit.check import Check
from hushrec.simulations.audit.probe_federation import NothingReleased, ProbeFederation, ledger_path

LEDGER_ORDER = "ledger order"
SPENT = "BUDGET_EXHAUSTED"
_ROUNDS = 2  # the budget of a probe


def probe_ledger(federation: ProbeFederation) -> Check:
    """A budget of two releases, three requests, and a restart between them."""
    problems: list[str] = []
    figures: dict[str, int] = {}
    for field in federation.fields:
        event = replace(federation.event(field), sample_rate=1.0)  # else a round may happen to read nobody's data
        claim = enforced_claim(federation.config.privacy)
        target = max(1e-3, claim.epsilon([event] * _ROUNDS) * (1 + 1e-9))
        config = federation.variant(privacy__target_epsilon=target, privacy__sample_rate=1.0)
        allowed = rounds_left((), event, enforced_claim(config.privacy))
        watch = _Watch(federation.central, ledger_path(config), event)
        problems += [f"{field}: {problem}" for problem in _spend(federation, field, config, watch, allowed)]
        if not watch.reads:
            problems.append(f"{field}: no read of data was seen, so their order was not")
        figures |= {f"{field}: releases that the budget allows": allowed, f"{field}: reads of data": watch.reads}
    return Check(
        LEDGER_ORDER,
        "VIOLATED" if problems else "holds",
        "a release is charged and on disk (fsync) before data are read; where the budget is spent, before or after a "
        f"restart, no data are read and nothing but the word {SPENT} is sent",
        "; ".join(dict.fromkeys(problems))
        or f"{sum(figures[name] for name in figures if 'reads' in name)} reads of data, each after its charge; the "
        "release after the last one allowed was refused",
        figures,
    )


class _Watch:
    """What is on disk whenever data are read."""

    def __init__(self, central: bool, path: Path, event: PrivacyEvent) -> None:
        self.central, self.path, self.event = central, path, event
        self.round, self.reads = 0, 0
        self.problems: list[str] = []
        self._synced: set[tuple[int, int]] = set()
        self._real = os.fsync

    def fsync(self, handle: int) -> None:
        """Stands where os.fsync was."""
        self._real(handle)
        state = os.fstat(handle)
        self._synced.add((state.st_ino, state.st_size))

    def on_read(self, client: str) -> None:
        """A client's data are about to be read in `round`."""
        self.reads += 1
        state = self.path.stat()
        if (state.st_ino, state.st_size) not in self._synced:
            self.problems.append("data were read before the ledger was on disk (no fsync)")
        charged = read_ledger(self.path).events(SERVER if self.central else client)
        if sum(event.steps for event in charged) < self.round * self.event.steps:
            self.problems.append("data were read before they were paid for")


def _spend(federation: ProbeFederation, field: Field, config: RunConfig, watch: _Watch, allowed: int) -> list[str]:
    """Ask until the budget is spent, and once more; a process that begins anew knows what was charged from the file."""
    holdings = federation.holdings
    if not federation.central:  # one of them is enough, and each pays for itself
        holdings = dict(list(holdings.items())[:1])
    with patch.object(os, "fsync", watch.fsync):
        for watch.round in range(1, allowed + 2):
            before = watch.reads
            try:
                federation.release(field, holdings, config, server_round=watch.round, on_read=watch.on_read)
            except NothingReleased as refused:
                if watch.round <= allowed:
                    return [*watch.problems, f"release {watch.round} of {allowed} was refused ({refused.code})"]
                if refused.code != SPENT:
                    watch.problems.append(f"a spent budget was refused with {refused.code!r}")
                if watch.reads != before:
                    watch.problems.append("data were read although the budget was spent")
                return watch.problems
            finally:
                federation.close()
    return [*watch.problems, f"{allowed + 1} releases were sent on a budget of {allowed}"]
