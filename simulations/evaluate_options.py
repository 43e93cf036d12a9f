"""What `hushrec evaluate --faithfulness` and `--robustness` show. It prints; the modules of those names measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from hushrec.simulations.faithfulness import measure_faithfulness
from hushrec.simulations.robustness import measure_robustness
from hushrec.simulations.run import Watcher


def measure(target: Path, *, faithfulness: bool, robustness: bool, seed: int, watcher: Watcher) -> dict[str, Any]:
    """The measurements that are asked for, by name."""
    found = {}
    if faithfulness:
        found["faithfulness"] = measure_faithfulness(target, seed=seed, watcher=watcher)
    if robustness:
        found["robustness"] = measure_robustness(target, seed=seed, watcher=watcher)
    return found


def show(found: dict[str, Any], out: Console) -> None:
    """Print the measurements of `measure`."""
    if (faithful := found.get("faithfulness")) is not None:
        verdict = "meets" if faithful["faithful"]["mean"] >= faithful["goal"] else "misses"
        for line in (
            f"Reasons of {faithful['recommendations']:,} recommendations to {faithful['users']:,} test users; "
            f"{_share(faithful['explained'])} name a history item.",
            "Without the named item the score falls more than without a random other in "
            f"{_share(faithful['faithful'])}: {verdict} the goal of {faithful['goal']:.0%}.",
        ):
            out.print(line, markup=False, highlight=False)
    if (robust := found.get("robustness")) is not None:
        out.print(_robustness_table(robust))


def _robustness_table(robust: dict[str, Any]) -> Table:
    name = robust["figure"].replace("/", " ")
    table = Table("item texts", name, "lost", "lost, %", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("as they are", _interval(robust["clean"]), "", "")
    for text, row in robust["perturbed"].items():
        table.add_row(text, _interval(row["value"]), _interval(row["lost"]), f"{row['lost_share']:.0%}")
    return table


def _interval(figure: dict[str, float]) -> str:
    return f"{figure['mean']:.4f} [{figure['low']:.4f}, {figure['high']:.4f}]"


def _share(figure: dict[str, float]) -> str:
    return f"{figure['mean']:.1%} [{figure['low']:.1%}, {figure['high']:.1%}]"
