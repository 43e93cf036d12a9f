"""The command distill: a small encoder from a finished run, with what it keeps and how much faster it is.

simulations/distillation.py does the work; this file parses, writes down and prints.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:  # torch takes a second to import: the command loads it when it runs
    from hushrec.common.prefix import Progress

DISTILL_EXAMPLES = (
    "Examples:\n\n"
    "  hushrec distill runs/quickstart --out student\n\n"
    "  hushrec distill runs/quickstart --layers 1 --out student --json\n\n"
    "  hushrec export runs/quickstart --student student --out edge"
)
FACTS = "student.json"


def distill(
    target: Annotated[Path, typer.Argument(metavar="RUN")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The student, a transformers model folder.")],
    layers: Annotated[int, typer.Option(min=1, max=2, help="Transformer layers of the student.")] = 2,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of 64 texts; default 1,000.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Teach a small encoder what the run's encoder says of public texts, and show how much of the ranking it keeps.

    It is taught item texts, variants of them and made-up ones; texts of items that the run never trained on are left
    out, so that the figures on cold items are about texts that it never saw. Costs no privacy.
    """
    with Console(stderr=True).status("reading the run") as status:
        found = distill_run(target, out, layers, steps, lambda done, of: status.update(f"teaching {done} of {of}"))
    if as_json:
        typer.echo(json.dumps(found, indent=1, allow_nan=False))
        return
    console = Console()
    console.print(_table(found))
    facts = found["student"]
    console.print(
        f"{out}: {facts['layers']} layers, {facts['parameters'] / 1e6:.1f} M of "
        f"{facts['teacher_parameters'] / 1e6:.1f} M parameters, encodes {facts['speed_ratio']:.1f} times as fast; "
        f"taught in {facts['seconds']:.0f} s.",
        highlight=False,
        markup=False,
    )


def distill_run(target: Path, out: Path, layers: int, steps: int | None, progress: Progress) -> dict[str, Any]:
    """Teach, evaluate beside the teacher and write both the encoder and `student.json` to `out`.

    Args:
        target: a run directory.
        steps: None for the default of `Teaching`.
    Returns:
        "student": its facts; "systems" and "paired" as in results.json, of the teacher and the student.
    Raises:
        ConfigError, BundleError, DataError: no run, a damaged bundle, or no data for it.
    """
    import numpy as np

    from hushrec.client.edge.student import Teaching
    from hushrec.common.bundle import read_bundle
    from hushrec.common.files import replace_file
    from hushrec.common.workspace import open_dataset, open_split
    from hushrec.server.evaluation import evaluate
    from hushrec.simulations.distillation import STUDENT, student_system, validated
    from hushrec.simulations.frozen import profile_texts, profile_vectors
    from hushrec.simulations.results import paired_differences
    from hushrec.simulations.run import open_run

    config, bundle = open_run(target), read_bundle(target)
    dataset, split = open_dataset(config.data), open_split(config.data)
    model, scorer = bundle.scorer()
    settings = replace(model.config, student_layers=layers)
    model = replace(model, config=settings, training_items=np.flatnonzero(split.warm_items))
    teacher = scorer.with_profiles(profile_vectors(model, dataset, split))
    teaching = Teaching(steps=steps) if steps else Teaching()
    profiles = profile_texts(dataset, split)
    student, facts = student_system(model, bundle.adapter, teacher, bundle.catalog, profiles, out, teaching, progress)
    seed = config.run.seed
    systems = {"hushrec": teacher, STUDENT: student}
    evaluations = {name: evaluate(one, split, dataset, seed=seed) for name, one in systems.items()}
    found = {
        "experiment": bundle.experiment,
        "student": facts | {"validation": validated(teacher, student, split, seed)},
        "systems": {name: evaluation.figures for name, evaluation in evaluations.items()},
        "paired": paired_differences(evaluations, seed),
    }
    replace_file(out / FACTS, (json.dumps(found, indent=1, allow_nan=False) + "\n").encode())
    return found


def _table(found: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for head in ("NDCG", "teacher", "student", "kept", "lost, 95 % interval"):
        table.add_column(head, justify="left" if head == "NDCG" else "right", no_wrap=True)
    validation = found["student"]["validation"]
    row = [f"{validation['teacher']:.4f}", f"{validation['student']:.4f}", f"{validation['kept']:.1%}", "-"]
    table.add_row("validation", *row)
    for name, lost in found["paired"]["hushrec - hushrec_student"].items():
        if "NDCG" not in name:
            continue
        ours, kept = (_figure(found["systems"][system], name) for system in ("hushrec", "hushrec_student"))
        share = f"{kept / ours:.1%}" if ours else "-"
        interval = f"{lost['mean']:+.4f} ({lost['low']:+.4f} to {lost['high']:+.4f})"
        table.add_row(name, f"{ours:.4f}", f"{kept:.4f}", share, interval)
    return table


def _figure(figures: dict[str, Any], name: str) -> float:
    for part in name.split("/"):
        figures = figures[part]
    return float(figures["mean"])
