"""The commands over many runs: sweep and frontier. They parse, show and print; they compute nothing.

Results go to stdout, progress to stderr. simulations/cli.py registers them and turns errors into one line.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hushrec.common.errors import Interrupted

if TYPE_CHECKING:  # torch takes seconds to import: commands load it when they run
    from hushrec.simulations.sweep import Outcome, Standing, Sweep

SWEEP_EXAMPLES = (
    "A sweep file, privacy.toml:\n\n"
    '  experiment = "ml100k-silos"\n\n'
    "  seeds = \\[0, 1, 2]\n\n"
    "  \\[set]\n\n"
    '  data.folder = "ml-100k"\n\n'
    "  \\[grid]\n\n"
    "  privacy.target-epsilon = \\[1, 2, 4, 8]\n\n"
    "Beside the grid, or instead of it, single points: \\[\\[run]] tables with a name and settings.\n\n"
    "Examples:\n\n"
    "  hushrec sweep privacy.toml --dry-run\n\n"
    "  hushrec sweep privacy.toml --out runs/privacy\n\n"
    "  hushrec sweep privacy.toml --out runs/privacy --list\n\n"
    "  nohup hushrec sweep privacy.toml --out runs/privacy &"
)
FRONTIER_EXAMPLES = (
    "Examples:\n\n"
    "  hushrec frontier runs/privacy runs/open --out frontier.png\n\n"
    "  hushrec frontier runs/*/results.json --figure cold_items/NDCG@20\n\n"
    "  hushrec frontier runs/by-users --users --out users.png"
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The sweep, a .toml file.")],
    out_dir: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Default: runs/NAME-OF-FILE.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the points and how far each is, and stop.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check FILE, print what would run, and stop.")] = False,
    test: Annotated[bool, typer.Option("--test", help="Show test figures, too; they order nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Run a grid of experiments one by one; stopped in any way, the same command goes on where it was.

    Finished points are skipped, interrupted ones resumed, failed ones written down in DIR/sweep.jsonl and tried again
    by the next call. The table is sorted by the validation figure.
    """
    from hushrec.simulations.sweep import Sweep, check_folder
    from hushrec.simulations.sweep_file import read_sweep
    from hushrec.simulations.sweep_table import point_rows, sweep_json, sweep_tables

    out = Console()
    found = Sweep(read_sweep(file), out_dir or Path("runs") / file.stem)
    if list_ or dry_run:
        check_folder(found)
        for point in found.points:
            state = found.state(point)
            if list_:
                typer.echo(": ".join(filter(None, [f"{state:<12}{point.name}", found.error(point)])))
            elif state != "finished":
                typer.echo("hushrec " + shlex.join(found.arguments(point)))
        return
    failed = _show_sweep(found)
    rows = point_rows(found, test=test)
    if as_json:
        _print_json(sweep_json(rows))
    else:
        for table in sweep_tables(rows):
            out.print(table)
    if failed:
        raise typer.Exit(1)


def _show_sweep(found: Sweep) -> int:
    """Run it with its progress on stderr; the number of points that failed."""
    from hushrec.simulations.sweep import run_sweep

    err, n = Console(stderr=True), len(found.points)
    outcomes: list[Outcome] = []
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=err, transient=True) as progress:
        row = progress.add_task("points", total=n, note="")

        def tell(standing: Standing) -> None:
            rounds = standing.point.config.federation.rounds
            note = f"{standing.point.name} round {standing.server_round}/{rounds}, {_duration(standing.seconds_left)}"
            progress.update(row, completed=standing.place - 1, note=note)

        try:
            for outcome in run_sweep(found, tell):
                outcomes.append(outcome)
                progress.update(row, completed=len(outcomes))
                text = f"{len(outcomes)} of {n}: {outcome.point.name} {_how(outcome)}"
                err.print(text, markup=False, highlight=False, soft_wrap=True)
        except KeyboardInterrupt:
            text = f"stopped after {len(outcomes)} of {n} points; the same command goes on from here"
            raise Interrupted(text) from None
    return sum(outcome.state == "failed" for outcome in outcomes)


def _how(outcome: Outcome) -> str:
    if outcome.state == "failed":
        return f"failed after {outcome.seconds:.0f} s: {outcome.error}"
    return f"finished in {outcome.seconds:.0f} s" if outcome.seconds else "finished before"


def _duration(seconds: float) -> str:
    minutes, hours = round(seconds / 60), seconds / 3600
    return f"about {hours:.1f} h left" if hours >= 2 else f"about {minutes} min left" if minutes else "under 1 min left"


def frontier(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="results.json files, runs or sweeps.")],
    figure: Annotated[str, typer.Option(metavar="PATH", help="As in results.json.")] = "warm/NDCG@10",
    users: Annotated[bool, typer.Option("--users", help="Over the number of users instead of epsilon.")] = False,
    out_file: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Draw a picture, x.png.")] = None,
    as_json: Json = False,
) -> None:
    """Compare finished runs: quality against epsilon, and how much of the gain of training each epsilon retains.

    Runs of equal data, protocol, users and claim make a table; give one configuration per epsilon, under as many seeds
    as there are, and one without privacy. Retained gain is (private - frozen) / (open - frozen), where frozen is the
    private run's own untrained control.

    With --users: the same figure over the number of users (data.max-users), and the noise of one step, computed by
    formula, up to 10^8 users.
    """
    from hushrec.simulations.frontier import epsilon_curves, read_runs, user_curves
    from hushrec.simulations.frontier_plot import write_picture
    from hushrec.simulations.frontier_table import curve_json, epsilon_table, user_tables

    runs = read_runs(results)
    curves = (user_curves if users else epsilon_curves)(runs, figure)
    if out_file is not None:
        write_picture(curves, out_file, figure, over_users=users)
        Console(stderr=True).print(f"picture: {out_file}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        _print_json([curve_json(curve, figure, over_users=users) for curve in curves])
        return
    for curve in curves:
        for table in user_tables(curve, figure) if users else [epsilon_table(curve, figure)]:
            Console().print(table)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))
