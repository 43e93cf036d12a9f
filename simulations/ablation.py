"""The ablation table: every component against the same run without it, with paired intervals over users.

A component that changes training is another run, compared case by case with the base run's hushrec; one that changes
what is done with the trained adapter is a system of its own run, compared with that run's hushrec. It reads finished
runs and trains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hushrec.common.config import RunConfig
from hushrec.common.errors import DataError
from hushrec.common.privacy import epsilon_rdp
from hushrec.common.privacy_event import PrivacyEvent
from hushrec.server.evaluation import Evaluation, paired
from hushrec.simulations.per_user import PER_USER, read_per_user
from hushrec.simulations.run import open_run, read_results
from hushrec.simulations.table import OURS, bytes_text, figure, half_interval

PREFIX = "ablation-"
COLUMNS = {  # path in results.json -> head of the column
    "warm/NDCG@10": "warm NDCG@10",
    "tail/HR@10": "tail recall@10",
    "cold_items/NDCG@20": "cold items NDCG@20",
    "cold_users/0/NDCG@20": "cold users h=0 NDCG@20",
    "cold_users/5/NDCG@20": "cold users h=5 NDCG@20",
    "coverage@10": "coverage@10",
}
RELEASE_NOISE = 5.0  # of the popularity release of ml100k-central, the experiment that a release is priced in
RELEASE_DELTA = 1e-5
_MARKS = {"above": "▲", "below": "▼"}
_SHOWN = 5e-4  # smaller differences are none in what is printed, and come from 16-bit sums


@dataclass(frozen=True, eq=False)
class AblationRun:
    """One finished run as the table reads it.

    Attributes:
        name: of the experiment, without "ablation-".
        values: system -> values per case, for paired intervals.
    """

    name: str
    config: RunConfig
    results: dict[str, Any]
    values: dict[str, Evaluation]


def read_run(folder: Path) -> AblationRun:
    """A finished run directory.

    Raises:
        ConfigError, DataError: no run there, not finished, or without its values per user.
    """
    config, results = open_run(folder), read_results(folder)
    if results is None:
        raise DataError(f"{folder} is not finished; go on with: hushrec simulate --resume {folder}")
    values = read_per_user(folder / PER_USER)
    if not values:
        raise DataError(f"{folder} has no {PER_USER}, from which differences are computed; evaluate it again")
    return AblationRun(str(results["experiment"]).removeprefix(PREFIX), config, results, values)


def ablation(base: AblationRun, runs: Sequence[AblationRun]) -> dict[str, Any]:
    """The table as JSON values.

    Args:
        base: the run without any component.
        runs: in the order of the rows; the base run may be among them and is left out.
    Returns:
        "experiment": of the base run; "base": its figures; "rows": one per component and system, with "figures" (mean
        and interval), "differences" (component - without it, paired, with verdict), "against", "epsilon_cost",
        "seconds", "bytes_up" and "data".
    Raises:
        DataError: a run of the base run's data that was evaluated on other cases.
    """
    rows = []
    for run in runs:
        if run.results["experiment"] == base.results["experiment"]:
            continue
        own = [name for name in run.values if name.startswith(f"{OURS}_") and name != f"{OURS}_no_graph"]
        # What is done after training is a system beside hushrec; otherwise hushrec itself is another one.
        rows += [_row(run, system, run) for system in own] or [_row(run, OURS, base)]
    return {"experiment": base.results["experiment"], "base": _facts(base, OURS), "rows": rows}


def _row(run: AblationRun, system: str, reference: AblationRun) -> dict[str, Any]:
    if reference is not run and not _same_data(run, reference):
        raise DataError(
            f"{run.name} is on {run.results['dataset']['name']} with other settings of the data than "
            f"{reference.name}: a component is compared on the same split"
        )
    seed = int(run.results["seed"])
    ours, without = run.values[system], reference.values[OURS]
    differences = {
        path: paired(ours, without, path, seed=seed)
        for path in COLUMNS
        if path in ours.per_user and path in without.per_user
    }
    return _facts(run, system) | {"differences": differences, "against": f"{OURS} of {reference.name}"}


def _same_data(one: AblationRun, other: AblationRun) -> bool:
    keys = [key for key in one.config.to_flat() if key.startswith("data.") and key != "data.folder"]
    return all(one.config.to_flat()[key] == other.config.to_flat()[key] for key in keys)


def _facts(run: AblationRun, system: str) -> dict[str, Any]:
    results, cost = run.results, run.results["cost"]
    found = {path: figure(results["systems"][system], path) for path in COLUMNS}
    return {
        "component": run.name,
        "system": system,
        "data": results["dataset"]["name"],
        "figures": {path: value for path, value in found.items() if value is not None},
        "epsilon_cost": epsilon_cost(run.config),
        "seconds": cost["seconds"],
        "bytes_up": cost["bytes_up_per_client_round"],
    }


def epsilon_cost(config: RunConfig) -> float:
    """What the component itself would be charged in a private run, beside the rounds: 0 where it reads nothing more.

    Only debiasing reads a release. It is priced alone, per user, at the noise of the popularity release of
    ml100k-central and delta 1e-5; a run that releases popularity anyway pays nothing more.
    """
    if not config.train.propensity_power:
        return 0.0
    return epsilon_rdp([PrivacyEvent(RELEASE_NOISE, 1.0, 1, "popularity")], RELEASE_DELTA)


def mark(row: dict[str, Any], path: str) -> str:
    """▲ or ▼ where the paired interval of the difference leaves 0 out and the difference can be seen; "" otherwise."""
    difference = row.get("differences", {}).get(path)
    if difference is None or abs(difference["mean"]) < _SHOWN:
        return ""
    return _MARKS.get(difference["verdict"], "")


def label(row: dict[str, Any], base: dict[str, Any]) -> str:
    """What a row is called: the component, the system where that is not hushrec, other data than the base run's."""
    system = "" if row["system"] == OURS else f" ({row['system']})"
    data = "" if row["data"] == base["data"] else f", {row['data']}"
    return f"{row['component']}{system}{data}"


def cost_cells(row: dict[str, Any]) -> list[str]:
    """Epsilon, seconds and bytes as text."""
    return [f"{row['epsilon_cost']:.2g}", f"{row['seconds']:.0f}", bytes_text(row["bytes_up"])]


def ablation_markdown(table: dict[str, Any]) -> str:
    """The table for a README; ▲ and ▼ where the paired 95 % interval of the difference leaves 0 out."""
    heads = ["component", *COLUMNS.values(), "ε cost", "training s", "up per client-round"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in [table["base"], *table["rows"]]:
        cells = [label(row, table["base"])]
        for path in COLUMNS:
            found, sign = row["figures"].get(path), mark(row, path)
            cells.append(f"{found['mean']:.3f} ± {half_interval(found):.3f} {sign}".rstrip() if found else "–")
        lines.append("| " + " | ".join([*cells, *cost_cells(row)]) + " |")
    return "\n".join(lines) + "\n"
