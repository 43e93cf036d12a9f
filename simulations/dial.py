"""Popularity deconfounding as a dial: what a finished run scores as its popularity weight goes from twice to nothing.

Nothing is trained or chosen: the weight that was validated stays the run's own, and the others show what it costs to
leave it. It reads test users' held-out items, so it is a study of a simulation and no way to choose a weight.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hushrec.common import metrics
from hushrec.common.errors import ConfigError
from hushrec.common.scoring import ScoringChoices
from hushrec.common.splits import Split
from hushrec.server.evaluation import Evaluation, evaluate, paired
from hushrec.server.ranking import train_counts
from hushrec.simulations.finished_run import open_finished
from hushrec.simulations.run import Watcher, read_results

FACTORS = (2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25, 0.0)  # of the validated weight
REFERENCES = ("ease", "popularity")
COMPARED = ("warm/NDCG@10", "tail/HR@10")
SHOWN = ("warm/NDCG@10", "tail/HR@10", "coverage@10", "gini@10")


def measure_dial(target: Path, *, seed: int | None = None, watcher: Watcher | None = None) -> dict[str, Any]:
    """Evaluate a run at every factor of FACTORS on its popularity weight.

    Args:
        target: a run directory.
        seed: of ties and intervals; None = the run's.
    Returns:
        "validated": the weight that is 1 on this scale; "points", from popular to rare: "factor", "weight",
        "discovery" (the value of `hushrec recommend --discovery` that is this point; None above the validated
        weight), "warm/NDCG@10", "tail/HR@10" (None without a tail case), "coverage@10", "gini@10", "popularity" (mean
        over recommended items of the share of training users who have the item) and "deciles", each figure with its
        interval, and "paired": this point minus the validated one; "references": EASE and popularity, of results.json.
    Raises:
        ConfigError, BundleError, DataError: no run, a damaged bundle, no warm case, or nothing that the dial turns.
    """
    watcher = watcher or Watcher()
    run = open_finished(target, watcher)
    run.require_warm("dial")
    validated = run.scorer.choices
    if validated.popularity_weight <= 0 or not run.scorer.prior.any():
        raise ConfigError(
            f"{target} ranks by taste alone (its validated popularity weight is {validated.popularity_weight:g}), so "
            "there is no popularity for --dial to turn"
        )
    seed = run.config.run.seed if seed is None else seed
    found: dict[float, Evaluation] = {}
    for factor in FACTORS:
        watcher.step(f"evaluating at {factor:g} times the validated popularity weight")
        scorer = run.scorer.with_choices(turned(validated, factor))
        found[factor] = evaluate(scorer, run.split, run.dataset, seed=seed, groups=["warm", "tail"])
    points = [
        point(found[factor], found[1.0], run.split, seed=seed)
        | {
            "factor": factor,
            "weight": factor * validated.popularity_weight,
            "discovery": 1 - factor if factor <= 1 else None,
        }
        for factor in FACTORS
    ]
    systems = (read_results(target) or {}).get("systems", {})
    references = {name: _shown(systems[name]) for name in REFERENCES if name in systems}
    return {"validated": validated.popularity_weight, "seed": seed, "points": points, "references": references}


def turned(choices: ScoringChoices, factor: float) -> ScoringChoices:
    """Both popularity weights times `factor`, as `recommend --discovery` multiplies them by 1 - discovery."""
    return replace(
        choices,
        popularity_weight=factor * choices.popularity_weight,
        short_popularity_weight=factor * choices.short_popularity_weight,
    )


def point(found: Evaluation, validated: Evaluation, split: Split, *, seed: int) -> dict[str, Any]:
    """The figures of one point, and its paired differences from the validated one."""
    return {
        **_shown(found.figures),
        "popularity": mean_popularity(found, split, seed=seed),
        "deciles": found.figures["deciles"],
        "paired": {
            figure: paired(found, validated, figure, seed=seed) for figure in COMPARED if figure in found.per_user
        },
    }


def mean_popularity(found: Evaluation, split: Split, *, seed: int) -> metrics.Figure:
    """Mean over users of the mean, over the items of their list, of the share of training users who have the item."""
    shares = train_counts(split) / max(len(split.train), 1)
    values = np.array([shares[items].mean() for items in found.lists])
    return metrics.figures_of({"popularity": values}, found.users["warm"], seed=seed)["popularity"]


def _shown(figures: dict[str, Any]) -> dict[str, Any]:
    """SHOWN of a system's entry; None for what it does not have."""
    found: dict[str, Any] = {}
    for path in SHOWN:
        group, _, name = path.rpartition("/")
        found[path] = (figures.get(group, {}) if group else figures).get(name)
    return found
