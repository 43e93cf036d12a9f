"""The command audit: it names the targets, shows every check and answers with an exit code. It computes nothing.

audit.py does the work, page.py the page; docs/audit.md explains every check.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from hushrec.common.errors import ConfigError

if TYPE_CHECKING:  # the accountants take a while to import: the command loads them when it runs
    from hushrec.simulations.audit.audit import Audit

AUDIT_EXAMPLES = (
    "TARGET is a run directory, or any number of ledger.jsonl files and device folders of one experiment. With an "
    "operator's folder beside them they are held against its mirror. Exit code: 0 every claim holds, 1 VIOLATED, 2 "
    "unusable input.\n\n"
    "Examples:\n\n"
    "  hushrec audit runs/quickstart\n\n"
    "  hushrec audit runs/quickstart --canaries --attack\n\n"
    "  hushrec audit collected/*.jsonl --out collected\n\n"
    "  hushrec audit collected/*.jsonl --mirror mirror.jsonl --invitation invitation.json\n\n"
    "  hushrec audit --plan rounds=100,sigma=2,q=0.1\n\n"
    "  hushrec audit --plan rounds=100 --target-epsilon 4"
)
_WIDTH = 80
_STYLES = {"VIOLATED": "bold red", "NO PRIVACY": "bold red", "not tested": "yellow", "every claim": "green"}


Targets = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[TARGET]...", help="A run directory, or ledgers and device folders.", show_default=False),
]
Plan = Annotated[
    str, typer.Option(metavar="K=V,...", help="What if? Of rounds, sigma, q, steps, delta, unit, records.")
]
Target = Annotated[float | None, typer.Option(metavar="E", help="With --plan: the budget; solves for sigma or rounds.")]
Probes = Annotated[
    bool | None, typer.Option("--probes/--no-probes", help="Probe the training code; default for run directories.")
]
Canaries = Annotated[bool, typer.Option("--canaries", help="Measure a lower bound of epsilon.")]
Attack = Annotated[bool, typer.Option("--attack", help="Attack the run, with and without privacy.")]
Thorough = Annotated[bool, typer.Option("--thorough", help="More canaries; takes longer.")]
Seed = Annotated[int, typer.Option(min=0, help="Of what the tests draw; noise never comes from it.")]
Heads = Annotated[
    list[str] | None, typer.Option("--head", metavar="HASH", help="Seen earlier, must still be there; repeatable.")
]
Keys = Annotated[
    list[str] | None, typer.Option("--key", metavar="HEX", help="Public key that must have signed; repeatable.")
]
Mirror = Annotated[
    Path | None, typer.Option("--mirror", metavar="FILE", help="Server's mirror of heads, or the operator's folder.")
]
ServerKey = Annotated[str, typer.Option("--server-key", metavar="HEX", help="Must have countersigned the mirror.")]
Invited = Annotated[
    Path | None, typer.Option("--invitation", metavar="FILE", help="Of the federation: names the server's key.")
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FOLDER", help="For audit.html, audit.json and claim_card.json.")
]
Json = Annotated[bool, typer.Option("--json", help="Print audit.json instead of lines.")]


def audit(
    targets: Targets = None,
    plan: Plan = "",
    target_epsilon: Target = None,
    probes: Probes = None,
    canaries: Canaries = False,
    attack: Attack = False,
    thorough: Thorough = False,
    seed: Seed = 0,
    heads: Heads = None,
    keys: Keys = None,
    mirror: Mirror = None,
    server_key: ServerKey = "",
    invitation: Invited = None,
    out_dir: Out = None,
    as_json: Json = False,
) -> None:
    """Does a run keep its privacy claim? Budgets from the ledger, every file against it, and tests of the real code.

    Reports go to the run directory, or for ledgers and devices to the current folder. A what-if question (--plan)
    writes nothing.
    """
    if plan:
        if targets:
            raise ConfigError("--plan asks about a schedule that is not run yet; leave out the targets")
        raise typer.Exit(_answer(plan, target_epsilon, as_json))
    if not targets or target_epsilon is not None:
        raise ConfigError("name a run directory or ledgers; --target-epsilon goes with --plan rounds=100,sigma=2")
    witnesses = (keys or (), heads or (), mirror, server_key or _server_key(invitation))
    found = _audited(targets, (probes, canaries, attack, thorough, seed), witnesses)
    written = write_audit(found, out_dir or _own_folder(targets))
    if as_json:
        typer.echo(_json(found.to_json()))
    else:
        _show(found)
        Console().print(f"Report: {written}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(int(bool(found.named("VIOLATED"))))


def _audited(
    targets: list[Path],
    asked: tuple[bool | None, bool, bool, bool, int],
    known: tuple[Sequence[str], Sequence[str], Path | None, str],
) -> Audit:
    """The audit, with a line on stderr that says what is being done."""
    from hushrec.simulations.audit.audit import CodeTests, Witnesses, audit_targets

    with Console(stderr=True).status("starting") as status:

        def tell(text: str) -> None:
            status.update(escape(text))

        return audit_targets(targets, CodeTests(*asked), Witnesses(*known), tell=tell)


def _server_key(invitation: Path | None) -> str:
    from hushrec.common.invitation import read_invitation

    return "" if invitation is None else read_invitation(invitation).server_key


def _own_folder(targets: Sequence[Path]) -> Path:
    """Where a report belongs: in a run directory; nothing is added to a device's or an operator's folder."""
    from hushrec.simulations.audit.device import is_devices

    return targets[0] if len(targets) == 1 and targets[0].is_dir() and not is_devices(targets[0]) else Path()


def write_audit(audit: Audit, folder: Path) -> Path:
    """Write audit.json, claim_card.json and audit.html; the path of the page.

    Raises:
        ConfigError: the folder cannot be written.
    """
    from hushrec.simulations.audit.audit import plain
    from hushrec.simulations.audit.page import audit_html

    page = folder / "audit.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "audit.json").write_text(_json(audit.to_json()) + "\n", encoding="utf-8")
        (folder / "claim_card.json").write_text(_json(plain(audit.card)) + "\n", encoding="utf-8")
        page.write_text(audit_html(audit), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the audit to {folder}: {error.strerror}; choose another --out") from error
    return page


def _answer(text: str, target_epsilon: float | None, as_json: bool) -> int:
    """Show what a plan costs; the exit code."""
    from hushrec.simulations.audit.audit import plain
    from hushrec.simulations.audit.plan import answer_plan, parse_plan, plan_lines

    answer = answer_plan(parse_plan(text), target_epsilon)
    if as_json:
        typer.echo(_json(plain(answer)))
    else:
        for line in plan_lines(answer):
            _line(line, _STYLES["VIOLATED"] if line.startswith("VIOLATED") else "")
    return int(answer["fits"] is False)


def _show(audit: Audit) -> None:
    _line(", ".join(audit.targets), "bold")
    if audit.claim is not None:
        claim, told = audit.claim, audit.card["claim"]
        relation = "replacing" if claim.relation == "replace_one" else "adding or removing"
        _line(
            f"Claim {claim.name}: epsilon {told['epsilon']:.4f} spent of {claim.target_epsilon:g} per {claim.unit} "
            f"({relation} one) at delta {claim.delta:g}, by {told['accountant']}; against {claim.trust}."
        )
        for key, unit in (
            ("user_epsilon", f"USER of {claim.max_records} records"),
            ("interaction_epsilon", "INTERACTION"),
        ):
            if told.get(key) is not None:
                _line(f"Per {unit}: epsilon {told[key]:.4f}.")
    _line("Not covered: " + "; ".join(audit.card["not_covered"]) + ".")
    typer.echo()
    for check in audit.checks:
        _line(f"{check.verdict}: {check.name}: {check.measured}", _STYLES.get(check.verdict, ""))
    typer.echo()
    summary = audit.summary()
    _line(summary, next(style for start, style in _STYLES.items() if summary.startswith(start)))


def _line(text: str, style: str = "") -> None:
    out = Console()
    for line in textwrap.wrap(text, _WIDTH, subsequent_indent="    ", break_on_hyphens=False):
        out.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
