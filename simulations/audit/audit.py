"""One audit from its targets to its verdict: read, add up, compare, and run the tests that were asked for.

It prints and writes nothing; command.py shows it and page.py draws it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hushrec.common.errors import BundleError, ConfigError, PrivacyError
from hushrec.common.privacy import Claim, report
from hushrec.simulations.audit.check import Check
from hushrec.simulations.audit.claim_card import claim_card, no_claim_card, with_checks
from hushrec.simulations.audit.device import device_check, idle_check, is_devices, ledger_of, open_device
from hushrec.simulations.audit.ledgers import (
    AuditedLedger,
    Spent,
    epsilon_by_round,
    ledger_checks,
    read_ledgers,
    refuse_other_header,
    spending,
)
from hushrec.simulations.audit.mirror import is_operators, mirror_check

if TYPE_CHECKING:  # torch takes seconds to import: loaded where a run is read
    from hushrec.common.config import RunConfig

FORMAT = "hushrec audit 1"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class CodeTests:
    """Which tests of the training code to run beside the reading of files.

    Attributes:
        probes: None: in private run directories.
        thorough: more canaries, more time.
        seed: of what the tests draw.
    """

    probes: bool | None = None
    canaries: bool = False
    attack: bool = False
    thorough: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Witnesses:
    """What others know of the ledgers.

    Attributes:
        keys, heads: as in `read_ledgers`.
        mirror, server_key: as in `mirror_check`; without them, an operator's folder among the targets and a device's
            invitation say both.
    """

    keys: Sequence[str] = ()
    heads: Sequence[str] = ()
    mirror: Path | None = None
    server_key: str = ""


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        targets: what was audited.
        claim: None for a run without privacy, which promises nothing.
        checks: every answer, in the order in which a reader wants them.
        card: of `claim_card`.
        spent: per distinct history, the largest epsilon first.
        rounds: (round, largest epsilon after it, RDP).
        films, curves: of the attack, empty if it was not run.
    """

    targets: tuple[str, ...]
    claim: Claim | None
    checks: tuple[Check, ...]
    card: Mapping[str, Any]
    spent: tuple[Spent, ...] = ()
    rounds: tuple[tuple[int, float], ...] = ()
    films: Sequence[Mapping[str, Any]] = ()
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)

    def named(self, verdict: str) -> list[str]:
        """Names of the checks with this verdict."""
        return [check.name for check in self.checks if check.verdict == verdict]

    def summary(self) -> str:
        """The verdict in one line, starting with VIOLATED, NO PRIVACY or "every claim"."""
        untold = self.named("not tested")
        limits = f"; not tested: {', '.join(untold)}" if untold else ""
        if violated := self.named("VIOLATED"):
            return f"VIOLATED: {', '.join(violated)}{limits}"
        if self.claim is None:
            return f"NO PRIVACY: this run claims nothing, so no claim is violated{limits}"
        return f"every claim holds in {len(self.named('holds'))} of {len(self.checks)} checks{limits}"

    def to_json(self) -> dict[str, Any]:
        """audit.json: JSON values only."""
        clients = [
            {"client": client, "epsilon": one.epsilon, **one.figures, "rounds_left": one.rounds_left}
            for one in self.spent
            for client in one.clients
        ]
        answer: dict[str, Any] = plain(
            {
                "format": FORMAT,
                "summary": self.summary(),
                "violated": self.named("VIOLATED"),
                "targets": self.targets,
                "checks": [asdict(check) for check in self.checks],
                "clients": clients,
                "epsilon_by_round": self.rounds,
                "claim_card": self.card,
                "attack": {"films": self.films, "curves": self.curves},
            }
        )
        return answer


def plain(value: Any) -> Any:
    """JSON values: numpy's scalars as Python's, what is not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if hasattr(value, "tolist"):  # numpy
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def audit_targets(targets: Sequence[Path], tests: CodeTests, witnesses: Witnesses, *, tell: Tell) -> Audit:
    """Audit one run directory, or any number of ledgers and device folders of one experiment.

    Args:
        targets: beside ledgers, an operator's folder, for its mirror.
        tell: told what is being done.
    Raises:
        ConfigError: targets that do not go together.
        HushrecError: a file that cannot be used, named with the place.
    """
    operators = [target for target in targets if is_operators(target)]
    sources = [target for target in targets if target not in operators]
    if not sources or len(operators) > 1:
        raise ConfigError(f"{operators[0]} is an operator's folder: it holds a mirror; give ledgers of devices with it")
    if witnesses.mirror is None and operators:
        witnesses = replace(witnesses, mirror=operators[0])
    runs = [source for source in sources if source.is_dir() and not is_devices(source)]
    if runs and (len(sources) > 1 or witnesses.mirror is not None):
        raise ConfigError("give one run directory, or any number of ledgers; a run directory is audited by itself")
    if witnesses.server_key and witnesses.mirror is None:
        raise ConfigError("a server's key checks a mirror; give it with --mirror")
    tell("reading the ledger")
    if runs:
        return _audit_run(runs[0], tests, witnesses, tell)
    if tests.probes or tests.canaries or tests.attack:
        raise ConfigError("probes, canaries and the attack run the code of a run: give its directory, not a ledger")
    return _audit_collected(sources, witnesses, tell)


def _audit_collected(targets: Sequence[Path], witnesses: Witnesses, tell: Tell) -> Audit:
    """Ledgers that were copied from devices, and whole device folders."""
    devices = [open_device(target) if is_devices(target) else None for target in targets]
    if claimless := [device.folder.path for device in devices if device is not None and not device.is_private]:
        if len(targets) > 1:
            raise ConfigError(f"the federation of {claimless[0]} claims no privacy; audit it by itself")
        return _open_audit(targets[0], None, [])
    places = [target if device is None else ledger_of(device) for target, device in zip(targets, devices, strict=True)]
    paths = [path for path in places if path is not None]
    if not paths:
        raise PrivacyError(f"{targets[0]} has no ledger: nothing was ever asked of this device, so nothing is spent")
    ledgers = read_ledgers(paths, keys=witnesses.keys, heads=witnesses.heads)
    by_path, own = dict(zip(paths, ledgers, strict=True)), list[Check]()
    for device, path in zip(devices, places, strict=True):
        if device is not None:
            own.append(idle_check(device) if path is None else device_check(device, by_path[path]))
    if witnesses.mirror is not None:
        pinned = [device.invitation.server_key for device in devices if device is not None and device.invitation]
        own.append(mirror_check(ledgers, witnesses.mirror, witnesses.server_key or next(iter(pinned), "")))
    return _judged(targets, ledgers, own, tell)


def _audit_run(folder: Path, tests: CodeTests, witnesses: Witnesses, tell: Tell) -> Audit:
    from hushrec.common.budget import is_private, ledger_header
    from hushrec.common.run_ledger import LEDGER
    from hushrec.server.checkpoint import read_checkpoint
    from hushrec.simulations.audit.agreement import checkpoint_check, open_run_checks
    from hushrec.simulations.run import EXPERIMENT, open_run

    config, results = open_run(folder), _results(folder)
    if not is_private(config):
        return _tested(_open_audit(folder, results, open_run_checks(folder, results)), config, tests, tell)
    if not (folder / LEDGER).exists():
        raise PrivacyError(
            f"{folder} has no {LEDGER}, so what was spent is unknown; put it back, or begin the run with --resume"
        )
    checkpoint = read_checkpoint(folder)  # before the ledger, which a live run may go on charging
    ledgers = read_ledgers([folder / LEDGER], keys=witnesses.keys, heads=witnesses.heads)
    refuse_other_header(ledgers[0], ledger_header(config, "simulation"), str(folder / EXPERIMENT))
    own = [checkpoint_check(ledgers[0], checkpoint)]
    return _tested(_judged([folder], ledgers, own, tell, run=folder, results=results), config, tests, tell)


def _results(folder: Path) -> Mapping[str, Any] | None:
    from hushrec.simulations.run import RESULTS, read_results

    results = read_results(folder)
    parts = ("privacy", "dataset", "choices")
    if results is not None and not all(isinstance(results.get(part), dict) for part in parts):
        raise BundleError(f"{folder / RESULTS} is damaged: it lacks one of {', '.join(parts)}")
    return results


def _open_audit(folder: Path, results: Mapping[str, Any] | None, checks: Sequence[Check]) -> Audit:
    return Audit((str(folder),), None, tuple(checks), no_claim_card(results))


def _judged(
    targets: Sequence[Path],
    ledgers: Sequence[AuditedLedger],
    own: Sequence[Check],
    tell: Tell,
    *,
    run: Path | None = None,
    results: Mapping[str, Any] | None = None,
) -> Audit:
    """Everything that follows from files alone."""
    from hushrec.simulations.audit.agreement import known_units, results_checks

    tell("adding up what every client spent")
    claim, spent = ledgers[0].replay.header.claim(), spending(ledgers)
    clients = sum(len(one.clients) for one in spent)
    found = _report(claim, spent) | {"clients_charged": clients}
    checks = [*ledger_checks(ledgers, spent, known_units(results, claim, clients)), *own]
    if run is not None:
        checks += results_checks(run, results, found)
    left = min((one.rounds_left for one in spent if one.rounds_left is not None), default=None)
    card = claim_card(ledgers, found | {"rounds_left": left}, checks, results)
    rounds = tuple(epsilon_by_round(ledgers))
    return Audit(tuple(map(str, targets)), claim, tuple(checks), card, tuple(spent), rounds)


def _report(claim: Claim, spent: Sequence[Spent]) -> dict[str, Any]:
    """`report` of the client that spent most; where the accountants contradict each other, RDP's figure alone."""
    events = spent[0].events if spent else ()
    try:
        return report(events, claim)
    except PrivacyError as error:
        names = {"accountants": {}, "releases": {}, "notes": [str(error)], "accountant": "rdp"}
        return {**asdict(claim), **names, "rdp": claim.epsilon(events), "epsilon": spent[0].epsilon}


def _tested(audit: Audit, config: RunConfig, tests: CodeTests, tell: Tell) -> Audit:
    """The audit with the tests of the training code that were asked for; the card then names them, too."""
    checks: list[Check] = []
    if tests.probes or (tests.probes is None and audit.claim is not None):
        from hushrec.simulations.audit.probes import run_probes

        tell("probes: running the training code on planted data")
        checks += run_probes(config, seed=tests.seed)
    if tests.canaries:
        from hushrec.simulations.audit.canaries import run_canaries

        checks += run_canaries(config, thorough=tests.thorough, seed=tests.seed, progress=tell)
    films: Sequence[Mapping[str, Any]] = ()
    curves: Mapping[str, Sequence[tuple[float, float]]] = {}
    if tests.attack:
        from hushrec.simulations.audit.attack import run_attack

        attacked = run_attack(config, seed=tests.seed, progress=tell)
        checks += attacked.checks
        films, curves = attacked.films, attacked.curves
    every = (*audit.checks, *checks)
    card = with_checks(audit.card, every) if audit.claim is not None else audit.card
    return replace(audit, checks=every, card=card, films=films, curves=curves)
