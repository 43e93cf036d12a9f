"""The command line: one command, `hushrec`. It parses, shows and maps errors to exit codes; it computes nothing.

Exit codes: 0 done, 1 a check failed, 2 unusable input or configuration, 130 interrupted.
"""

from __future__ import annotations

import os

# Read by flwr when it is imported: no telemetry, no update check, no installation at run time.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1")

import json
import sys
from contextlib import nullcontext
from datetime import datetime
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from hushrec.client.device.commands import client_app
from hushrec.common.config import RunConfig, parse_override, read_experiment
from hushrec.common.errors import ConfigError, HushrecError, Interrupted
from hushrec.server.deployment.commands import server_app
from hushrec.simulations import commands, federation_commands, study_commands
from hushrec.simulations.ablation_command import ABLATION_EXAMPLES, ablation
from hushrec.simulations.audit.command import AUDIT_EXAMPLES, audit
from hushrec.simulations.distill_command import DISTILL_EXAMPLES, distill
from hushrec.simulations.export_command import EXPORT_EXAMPLES, export
from hushrec.simulations.interests_command import interests_app
from hushrec.simulations.leakcheck_command import LEAKCHECK_EXAMPLES, leakcheck
from hushrec.simulations.ratings_command import RATINGS_EXAMPLES, ratings_command
from hushrec.simulations.rules_command import RULES_EXAMPLES, rules
from hushrec.simulations.serve_command import serve_app

app = typer.Typer(
    name="hushrec",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    help="A privacy-preserving federated recommender: LoRA adapters on a language model, trained under accounted "
    "differential privacy.",
    epilog="Start with: [bold]hushrec simulate[/bold]",
)
INTERRUPTED = 130  # 128 + SIGINT, as a shell says it
out, err = Console(), Console(stderr=True)


app.command(epilog=commands.EVALUATE_EXAMPLES)(commands.evaluate)
app.command(epilog=commands.RECOMMEND_EXAMPLES)(commands.recommend)
app.command(epilog=RULES_EXAMPLES)(rules)
app.command(epilog=AUDIT_EXAMPLES)(audit)
app.command(epilog=LEAKCHECK_EXAMPLES)(leakcheck)
app.command(epilog=study_commands.SWEEP_EXAMPLES)(study_commands.sweep)
app.command(epilog=study_commands.FRONTIER_EXAMPLES)(study_commands.frontier)
app.command(epilog=ABLATION_EXAMPLES)(ablation)
app.add_typer(commands.data_app, name="data")
app.add_typer(interests_app, name="interests")
app.add_typer(serve_app, name="serve")


def experiment_names() -> list[str]:
    """Names of the packaged experiments."""
    folder = resources.files("hushrec.simulations.experiments")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_experiment(name: str, overrides: list[str]) -> RunConfig:
    """The configuration of a packaged experiment or a TOML file, with `key=value` overrides.

    Raises:
        ConfigError: no such experiment or file, or a bad key or value.
    """
    path = Path(name)
    if not name.endswith(".toml"):
        if name not in experiment_names():
            raise ConfigError(
                f"no experiment {name!r}; known: {', '.join(experiment_names())}, or a path to a .toml file"
            )
        path = Path(str(resources.files("hushrec.simulations.experiments") / f"{name}.toml"))
    flat = read_experiment(path)
    flat.setdefault("run.experiment", path.stem)
    source = str(path.name)
    for override in overrides:
        key, value = parse_override(override)
        flat[key] = value
        source = f"{path.name} and --set"
    return RunConfig.from_flat(flat, source)


operator = server_app(load_experiment)
operator.command("bundle", epilog=federation_commands.BUNDLE_EXAMPLES)(federation_commands.bundle)
app.add_typer(operator, name="server")
app.add_typer(client_app, name="client")
app.command(epilog=EXPORT_EXAMPLES)(export)
app.command(epilog=DISTILL_EXAMPLES)(distill)
app.command("evaluate-ratings", epilog=RATINGS_EXAMPLES)(ratings_command(load_experiment))


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"hushrec {version('hushrec')}")
        raise typer.Exit


@app.callback()
def _root(
    _show: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(
    epilog="Examples:\n\n"
    "  hushrec simulate\n\n"
    "  hushrec simulate ml100k-silos --set data.folder=ml-100k --out runs/silos\n\n"
    "  hushrec simulate quickstart --set privacy.target-epsilon=2 --set run.seed=1\n\n"
    "  hushrec simulate --resume runs/silos\n\n"
    "  hushrec simulate smoke --engine ray\n\n"
    "  hushrec simulate --log tensorboard"
)
def simulate(
    experiment: Annotated[str, typer.Argument(help="A packaged experiment or a .toml file.")] = "quickstart",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting; repeatable.")
    ] = None,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Run directory; default runs/EXPERIMENT-TIME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with an interrupted run directory.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the packaged experiments and stop.")] = False,
    engine: Annotated[
        Literal["in-process", "ray"],
        typer.Option(help="What delivers the messages: this process, or Flower's Ray engine (extra 'ray')."),
    ] = "in-process",
    log: Annotated[
        Literal["", "tensorboard"],
        typer.Option(help="Also write every round's figures for TensorBoard, into OUT/tensorboard (extra 'log')."),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json instead of tables.")] = False,
) -> None:
    """Run a federation on this machine and show what training gained over honest controls, and at which epsilon."""
    from hushrec.simulations.progress import show_run
    from hushrec.simulations.ray_engine import require_ray, with_absolute_paths
    from hushrec.simulations.report import REPORT, write_report
    from hushrec.simulations.run import RAY, new_run, open_run, read_results
    from hushrec.simulations.tensorboard_log import logged_rounds, require_tensorboard

    if list_:
        for name in experiment_names():
            out.print(f"[bold]{name:<16}[/bold] {_first_comment(name)}", highlight=False)
        return
    if engine == RAY:
        require_ray()
    if log:
        require_tensorboard()
    if resume is not None:
        if set_ or out_dir:
            raise ConfigError("--resume goes on with the run as it was configured; leave out --set and --out")
        config = open_run(resume)
        results = read_results(resume)
        if results is not None:
            err.print(f"{resume} is finished already; this is its result.", markup=False, soft_wrap=True)
            if not (resume / REPORT).exists():  # killed between the two
                write_report(resume)
    else:
        config = load_experiment(experiment, set_ or [])
        if engine == RAY:
            config = with_absolute_paths(config)
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        config = new_run(config, out_dir or Path("runs") / f"{config.run.experiment}-{stamp}")
        results = None
    folder = Path(config.run.directory)
    with logged_rounds(config) if log else nullcontext() as logged:
        if results is None:
            results = show_run(config, err, engine)
        if logged:
            logged.finish(results)
    if as_json:
        sys.stdout.write(json.dumps(results, indent=1) + "\n")
        return
    from hushrec.simulations.continual_table import continual_tables
    from hushrec.simulations.table import results_table, verdict_lines

    out.print(results_table(results))
    for shown in continual_tables(results):
        out.print(shown)
    for line in verdict_lines(results):
        out.print(line, markup=False, highlight=False)
    out.print(f"Report: {folder / REPORT}", markup=False, highlight=False, soft_wrap=True)


def _first_comment(name: str) -> str:
    text = (resources.files("hushrec.simulations.experiments") / f"{name}.toml").read_text(encoding="utf-8")
    return text.splitlines()[0].lstrip("# ")


def main() -> None:
    """Entry point: run a command, and turn every expected failure into one line and an exit code."""
    try:
        status = app(standalone_mode=False, prog_name="hushrec")
    except Interrupted as stopped:
        err.print(str(stopped), markup=False, highlight=False, soft_wrap=True)
        sys.exit(INTERRUPTED)
    except HushrecError as error:
        err.print(f"[bold red]error:[/bold red] {type(error).__name__}: ", end="")
        err.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except typer.Abort:  # the end of the input, at a question
        status = INTERRUPTED
    except Exception as error:
        if (show := getattr(error, "show", None)) is None:  # click's usage errors know how to print themselves
            raise
        show()
        sys.exit(getattr(error, "exit_code", 2))
    if status == INTERRUPTED:  # typer turns a KeyboardInterrupt into this status, and says nothing
        err.print("interrupted")
    sys.exit(status if isinstance(status, int) else 0)
