"""What a person sees while a run works: a bar with round, clients, epsilon and time left, on stderr.

It shows what the run tells; it decides nothing.
"""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hushrec.common.budget import is_private, noise_on_server
from hushrec.common.config import RunConfig
from hushrec.common.errors import Interrupted
from hushrec.server.checkpoint import read_checkpoint
from hushrec.simulations.run import IN_PROCESS, Watcher, execute


class _RoundHandler(logging.Handler):
    """Turns the server's round records into the bar and, now and then, a line."""

    def __init__(self, progress: Progress, row: Any) -> None:
        super().__init__()
        self.progress, self.row = progress, row

    def emit(self, record: logging.LogRecord) -> None:
        """Show one finished round."""
        line: dict[str, Any] = record.__dict__["round"]
        spent = "no privacy" if line["epsilon"] is None else f"epsilon {line['epsilon']:.2f} spent"
        clients = f"{line['answered']}/{line['asked']} clients" if line["asked"] else "start"
        self.progress.update(self.row, completed=line["round"], total=line["rounds"], note=f"{clients}, {spent}")
        refused = ", ".join(f"{count} x {code}" for code, count in line["refused"].items())
        validated = next((key for key in line if key.startswith("validation_")), None)
        if validated or refused:
            parts = [f"round {line['round']:>4}", clients, spent]
            if validated:
                parts.append(f"{validated.replace('_', ' ')} {line[validated]:.4f}")
                parts.append(f"coverage@10 {line['coverage@10']:.3f}")
            if refused:
                parts.append(f"refused: {refused}")
            self.progress.console.print("  ".join(parts), highlight=False)


def describe_run(config: RunConfig) -> list[str]:
    """Two lines before the start: what runs, and what is promised."""
    federation, privacy = config.federation, config.privacy
    first = (
        f"{config.run.experiment}: {config.data.name}, protocol {config.data.protocol}, {federation.shape}, "
        f"{federation.rounds} rounds, adapter {config.model.adapter} r={config.model.r} in the top "
        f"{config.model.top_layers} layer(s)"
    )
    if not is_private(config):
        return [first, "NO PRIVACY (privacy.mechanism = none): updates leave the clients in the clear; research only"]
    unit, where = "user of a silo", "added before anything leaves a client"
    if privacy.unit == "record":
        unit = f"record ({privacy.record_span} slots)"
    elif noise_on_server(privacy):
        unit, where = "user", "added by the server, which is trusted with every update"
    sigma = privacy.noise_multiplier or privacy.statistics_noise_multiplier
    return [
        first,
        f"privacy: unit = {unit}, epsilon <= {privacy.target_epsilon:g} at delta = {privacy.target_delta:g}, "
        f"noise multiplier {sigma:.3f}, {where}",
    ]


def show_run(config: RunConfig, console: Console, engine: str = IN_PROCESS) -> dict[str, Any]:
    """Execute a run with its progress on `console`; Ctrl-C leaves a run that can be resumed.

    Raises:
        Interrupted: by Ctrl-C; says how to resume.
    """
    folder = Path(config.run.directory)
    for line in describe_run(config):
        console.print(line, markup=False, highlight=False)
    console.print(f"run directory: {folder}", markup=False, highlight=False, soft_wrap=True)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    rounds = logging.getLogger("hushrec.rounds")
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )
    with progress:
        encoding = progress.add_task("encoding", total=None, note="texts of the catalogue", visible=False)
        training = progress.add_task("training", total=config.federation.rounds, note="", visible=False)
        handler = _RoundHandler(progress, training)

        def step(name: str) -> None:
            progress.update(encoding, visible=False)
            progress.update(training, visible=name == "training" or name.startswith("loading"), note=name)
            if name != "training" and not name.startswith("loading"):
                progress.console.print(f"[dim]{name}[/dim]")

        def encoded(done: int, total: int) -> None:
            progress.update(encoding, visible=done < total, completed=done, total=total)

        rounds.addHandler(handler)
        before, rounds.propagate = rounds.propagate, False
        rounds.setLevel(logging.INFO)
        try:
            return execute(config, Watcher(step, encoded), engine)
        except KeyboardInterrupt:
            checkpoint = read_checkpoint(folder)
            done = checkpoint.server_round if checkpoint else 0
            go_on = f"hushrec simulate --resume {shlex.quote(str(folder))}"
            raise Interrupted(f"interrupted after round {done}; go on with: {go_on}") from None
        finally:
            rounds.removeHandler(handler)
            rounds.propagate = before
