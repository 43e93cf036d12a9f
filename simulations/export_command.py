"""The command export: a run or bundle as a folder that devices recommend from. It parses, shows and prints.

client/edge/export.py does the work; the run's validation cases, where they are at hand, judge it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:  # torch takes a second to import: the command loads it when it runs
    from collections.abc import Callable

    from hushrec.client.edge.export import ExportOptions
    from hushrec.client.edge.ranking_check import Validation
    from hushrec.common.edge_folder import EdgeFolder
    from hushrec.common.scorer import LMScorer

EXPORT_EXAMPLES = (
    "Examples:\n\n"
    "  hushrec export runs/quickstart --out edge\n\n"
    "  hushrec export bundle --out edge --prune-heads 12 --prune-feed-forward 0.25\n\n"
    "  hushrec export runs/quickstart --out edge --fp32 --json"
)


def export(
    target: Annotated[Path, typer.Argument(metavar="RUN_OR_BUNDLE")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The edge folder; an older one is replaced.")],
    prune_heads: Annotated[int, typer.Option(min=0, metavar="N", help="Remove the N least important heads.")] = 0,
    prune_feed_forward: Annotated[
        float, typer.Option(min=0, max=0.99, metavar="SHARE", help="Remove that share of the inner units.")
    ] = 0.0,
    student: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Export the student of `hushrec distill` as the encoder.")
    ] = None,
    fp32: Annotated[bool, typer.Option("--fp32", help="Do not quantise.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Export for devices: memory-mapped vectors and an int8 encoder whose ranking is checked.

    RUN_OR_BUNDLE is a run directory or a bundle folder. The smallest int8 form that loses at most 1 % of NDCG against
    float32 is taken, on public texts and, where the run is given, on its validation cases too; where none does, the
    encoder stays float32. Pruning is priced in the same table.
    """
    from hushrec.client.edge.export import ExportOptions

    options = ExportOptions(fp32, prune_heads, prune_feed_forward)
    with Console(stderr=True).status("reading the bundle") as status:
        made = export_bundle(target, out, options, lambda name: status.update(escape(name)), student)
    manifest = dict(made.manifest)
    if as_json:
        shown = {name: manifest[name] for name in ("items", "dim", "dtype", "encoder", "files", "privacy")}
        typer.echo(json.dumps({"folder": str(out)} | shown, indent=1, ensure_ascii=False, allow_nan=False))
        return
    console = Console()
    console.print(_table(manifest["encoder"]))
    megabytes = sum(entry["bytes"] for entry in manifest["files"].values()) / 1e6
    console.print(
        f"{out}: {manifest['items']:,} items, {manifest['encoder']['chosen']} encoder, {megabytes:.1f} MB. "
        f"Loss: of NDCG against float32, the larger one on {manifest['encoder']['decided_by']}.",
        highlight=False,
        markup=False,
    )


def export_bundle(
    target: Path, out: Path, options: ExportOptions, step: Callable[[str], None], student: Path | None = None
) -> EdgeFolder:
    """Export what `target` holds.

    Args:
        target: a run directory or a bundle folder; a bundle inside a run directory counts as the run.
        student: a folder of `hushrec distill`; None: the model's own encoder.
    Raises:
        BundleError, ConfigError: as reading the bundle and exporting it.
    """
    from hushrec.client.edge.export import export as export_edge
    from hushrec.client.edge.student import read_student
    from hushrec.common.bundle import read_bundle

    bundle = read_bundle(target)
    step("encoding the catalogue")
    model, scorer = bundle.scorer()
    return export_edge(
        out,
        model,
        bundle.catalog,
        scorer,
        bundle.adapter,
        bundle.privacy,
        options,
        experiment=bundle.experiment,
        validation=_validation(target, scorer, bundle.catalog.item_ids),
        step=step,
        student=None if student is None else read_student(student, model.base),
    )


def _validation(target: Path, scorer: LMScorer, item_ids: tuple[str, ...]) -> Validation | None:
    """NDCG on the run's validation cases by the encoded catalogue; None without the run or its data."""
    from hushrec.common.errors import DataError
    from hushrec.common.workspace import open_dataset, open_split
    from hushrec.server.ranking import validation_ndcg
    from hushrec.simulations.run import EXPERIMENT, open_run

    run = next((folder for folder in (target, target.resolve().parent) if (folder / EXPERIMENT).exists()), None)
    if run is None:
        return None
    config = open_run(run)
    try:
        if open_dataset(config.data).catalog.item_ids != item_ids:
            return None
        split = open_split(config.data)
    except DataError:
        return None  # the run was moved here without its data
    if not split.cases["validation"]:
        return None
    return lambda encoded: validation_ndcg(scorer.with_encoded(encoded), split, seed=config.run.seed)


def _table(encoder: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for head in ("encoder", "MB", "ms/text", "NDCG", "loss", "neighbours", "overlap", ""):
        table.add_column(head, justify="left" if head in ("encoder", "") else "right", no_wrap=head != "encoder")
    for row in encoder["tried"]:
        validation = "-" if row["validation"] is None else f"{row['validation']:.4f}"
        table.add_row(
            escape(row["name"]),
            f"{row['megabytes']:.1f}",
            f"{row['milliseconds']:.1f}",
            validation,
            f"{row['loss']:+.2%}",
            f"{row['neighbours']:.4f}",
            f"{row['overlap']:.0%}",
            "chosen" if row["name"] == encoder["chosen"] else "",
        )
    return table
