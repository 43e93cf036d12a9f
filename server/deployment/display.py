"""What the operator sees: bars on stderr, tables and JSON on stdout. It decides nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from hushrec.server.deployment.service import RENEW_WITHIN


def say(*lines: str, error: bool = False) -> None:
    """Lines as they are, on stdout or stderr."""
    console = Console(stderr=error)
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def show_json(value: Any) -> None:
    """One JSON value on stdout."""
    Console().out(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False), highlight=False)


def show_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; without heads, the first column is bold."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, show_header=bool(heads))
    for head in heads or ["" for _ in rows[:1] for _ in rows[0]]:
        table.add_column(head)
    for first, *others in rows:
        table.add_row(Text(first, "" if heads else "bold"), *(Text(value) for value in others))
    Console().print(table)


@contextmanager
def working(what: str) -> Iterator[None]:
    """A turning wheel on stderr while the block runs."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(what, total=None)
        yield


@contextmanager
def rounds_bar(rounds: int, done: int | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar over the rounds; call what it yields with each finished round's line."""
    columns = (
        TextColumn("training"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        row = progress.add_task(
            "training", total=rounds, completed=done or 0, note="waiting for devices and their first answers"
        )

        def tell(line: dict[str, Any]) -> None:
            progress.update(row, completed=line["round"], note=_round_words(line))
            if line["refused"]:
                told = f"round {line['round']}: refused: {_counts(line['refused'])}"
                progress.console.print(told, highlight=False, markup=False)

        yield tell


def status_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Labels and values of `hushrec server status`."""
    days = facts["certificate_days_left"]
    renewal = "" if days > RENEW_WITHIN else "; renew it with: hushrec server renew"
    rows = [
        ("federation", f"{facts['federation']} at {facts['address']}"),
        ("server", ("reachable" if facts["reachable"] else "running") if facts["running"] else "not running"),
    ]
    for name, part in facts["parts"].items():
        restarts = f", restarted {part['starts'] - 1} times" if part["starts"] > 1 else ""
        rows.append((name, f"process {part['pid']}{restarts}" if part["running"] else f"not running{restarts}"))
    if "flower" in facts:
        rows.append(("Flower", facts["flower"]))
    rows.append(("certificate", f"{days} days left{renewal}"))
    enrolled = [state for state in facts["nodes"].values() if state != "revoked"]
    rows.append(("devices", f"{facts['online']} online of {len(enrolled)} enrolled"))
    if facts["run"]:
        rows.append(("run", f"{facts['run']['id']}: {facts['run']['status']}"))
    begun = facts["round"] is not None
    rows.append(
        ("rounds", f"{facts['round']} of {facts['rounds']} done" if begun else f"none of {facts['rounds']} done")
    )
    if facts["last_round"]:
        rows.append(("last round", _round_words(facts["last_round"])))
    rows.append(("refusals", _counts(facts["refused"]) or "none"))
    return rows


def _round_words(line: Mapping[str, Any]) -> str:
    clients = f"{line['answered']}/{line['asked']} devices" if line["asked"] else "start"
    spent = "no privacy" if line["epsilon"] is None else f"epsilon {line['epsilon']:.2f} spent"
    return f"{clients}, {spent}"


def _counts(refused: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {code}" for code, count in sorted(refused.items()))
