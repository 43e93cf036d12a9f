"""The command evaluate-ratings: it parses, shows and writes down; simulations/ratings.py computes.

Results go to stdout, progress to stderr. simulations/cli.py registers it and turns errors into one line.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from hushrec.common.errors import ConfigError

if TYPE_CHECKING:
    from hushrec.common.config import RunConfig

RATINGS = "ratings.json"
RATINGS_EXAMPLES = (
    "Examples:\n\n"
    "  hushrec evaluate-ratings\n\n"
    "  hushrec evaluate-ratings ablation-ratings --set model.graph=kg --out runs/ratings-kg\n\n"
    "  hushrec evaluate-ratings --set privacy.target-epsilon=2 --json"
)


def ratings_command(load: Callable[[str, list[str]], RunConfig]) -> Callable[..., None]:
    """The command.

    Args:
        load: experiment name or path and overrides -> configuration.
    """

    def evaluate_ratings(
        experiment: Annotated[
            str, typer.Argument(help="A packaged experiment or a .toml file, protocol p1.")
        ] = "ablation-ratings",
        set_: Annotated[
            list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting; repeatable.")
        ] = None,
        out_dir: Annotated[
            Path | None, typer.Option("--out", metavar="DIR", help="Default: runs/EXPERIMENT-TIME.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    ) -> None:
        """Predict every user's next star rating: RMSE and MAE beside the global mean, biases and matrix factorisation.

        Prediction is on the device, from the user's own ratings and the texts of the items, with and without the
        public item graph. DIR gets ratings.json and, with privacy.mechanism = "central", the ledger of the release.
        """
        from hushrec.simulations.ratings import evaluate_ratings as evaluate

        config = load(experiment, set_ or [])
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        folder = out_dir or Path("runs") / f"{config.run.experiment}-{stamp}"
        if (folder / RATINGS).exists():
            raise ConfigError(f"{folder} holds ratings.json already; choose another --out")
        err = Console(stderr=True)
        with err.status("starting") as status:
            results = evaluate(config, folder, lambda name: status.update(name))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / RATINGS).write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write {folder / RATINGS}: {error.strerror}; choose another --out") from error
        if as_json:
            typer.echo(json.dumps(results, indent=1, allow_nan=False))
            return
        _show(results, Console())
        err.print(f"written: {folder / RATINGS}", markup=False, highlight=False, soft_wrap=True)

    return evaluate_ratings


def _show(results: dict[str, Any], out: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for head in ("system", "RMSE", "95 %", "MAE", "what is known of others"):
        table.add_column(head, justify="right" if head in ("RMSE", "MAE") else "left", no_wrap=True)
    for name, row in results["systems"].items():
        rmse, mae = row["RMSE"], row["MAE"]["mean"]
        table.add_row(
            name, f"{rmse['mean']:.3f}", f"{rmse['low']:.3f} to {rmse['high']:.3f}", f"{mae:.3f}", row["trust"]
        )
    out.print(table)
    for pair, found in results["paired"].items():
        span = f"{found['mean']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"
        out.print(f"RMSE {pair}: {span} {found['verdict']}", highlight=False, markup=False)
    if (privacy := results["privacy"]) is not None:
        line = f"release: epsilon {privacy['epsilon']:.2f} at delta {privacy['delta']:g} per user ({privacy['name']})"
        out.print(f"{line}; one draw of the noise", highlight=False, markup=False)
