"""The command `hushrec ablation`: finished runs of components against the run without any.

It computes nothing (simulations/ablation.py does) and changes no run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

ABLATION_EXAMPLES = (
    "Examples:\n\n"
    "  hushrec simulate ablation-base --out runs/base\n\n"
    "  hushrec simulate ablation-dropout --out runs/dropout\n\n"
    "  hushrec ablation runs/base runs/dropout runs/contrast\n\n"
    "  hushrec ablation runs/base runs/* --out ablation.json"
)
# Of ablation.COLUMNS and ablation.cost_cells, in lines that leave room for the component in 80 characters.
_HEADS = (
    *("warm\nNDCG\n@10", "tail\nrecall\n@10", "cold\nitems\nN@20", "users\nh=0\nN@20", "users\nh=5\nN@20"),
    *("cover-\nage\n@10", "eps.\ncost", "s", "up"),
)


def ablation(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="The run without any component.")],
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs of one component each.")],
    out_file: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the table as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """What each component changes: quality, epsilon, seconds and bytes against the same run without it.

    ▲ and ▼ stand where the paired 95 % interval of the difference leaves 0 out. A row is one seed: of many rows some
    are marked by chance.
    """
    from hushrec.common.errors import ConfigError
    from hushrec.simulations.ablation import ablation as compare
    from hushrec.simulations.ablation import read_run

    others = [folder for folder in runs if folder.resolve() != base.resolve()]
    if not others:
        raise ConfigError(f"no run to compare with {base}; give run directories, such as runs/ablation-*")
    found = compare(read_run(base), [read_run(folder) for folder in others])
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if out_file is not None:
        try:
            out_file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write {out_file}: {error.strerror}; choose another --out") from error
    if as_json:
        typer.echo(text, nl=False)
    else:
        Console().print(_table(found))


def _table(found: dict[str, Any]) -> Table:
    from hushrec.simulations.ablation import COLUMNS, cost_cells, label, mark

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column("component", width=18, overflow="fold")
    for head in _HEADS:
        table.add_column(head, justify="right", no_wrap=True)
    for row in [found["base"], *found["rows"]]:
        cells = []
        for path in COLUMNS:
            value = row["figures"].get(path)
            cells.append(Text(f"{value['mean']:.3f}{mark(row, path) or ' '}" if value else "–"))
        table.add_row(Text(label(row, found["base"])), *cells, *map(Text, cost_cells(row)))
    return table
