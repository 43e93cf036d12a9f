"""The command that ends a deployed federation's run: `hushrec server bundle`. It parses, shows and prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

BUNDLE_EXAMPLES = (
    "Examples:\n\n"
    "  hushrec server bundle fed\n\n"
    "  hushrec export fed/run --out edge    # then, on each device: hushrec client update DIR edge"
)


def bundle(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The operator's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json instead of tables.")] = False,
) -> None:
    """Evaluate what the federation has learned, on the operator's own data, and write bundle and report to DIR/run."""
    from hushrec.simulations.federation_bundle import bundle_federation
    from hushrec.simulations.table import results_table, verdict_lines

    with Console(stderr=True).status("reading the checkpoint") as status:
        results = bundle_federation(folder, lambda name: status.update(escape(name)))
    if as_json:
        typer.echo(json.dumps(results, indent=1))
        return
    out = Console()
    out.print(results_table(results))
    for line in [*verdict_lines(results), f"Bundle: {folder / 'run' / 'bundle'}"]:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
