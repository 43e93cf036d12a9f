"""Continual training before and after: the adapter of every window's end on old users, new users and new items.

Rows are adapters, columns are groups of cases by window, as in the matrix of Lopez-Paz & Ranzato 2017
(arXiv:1706.08840); forgetting is Chaudhry et al. 2018's (arXiv:1801.10112). It looks at held-out items of training
users, which no ledger covers, and belongs to the simulation. It trains nothing: run.py does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hushrec.common.budget import is_private
from hushrec.common.config import RunConfig
from hushrec.common.continual_split import UNSEEN_ITEMS, before, continual_split, model_in_round, users_group
from hushrec.common.interactions import Dataset
from hushrec.common.protocol import Arrays
from hushrec.common.scorer import LMScorer
from hushrec.common.scoring import ScoringChoices
from hushrec.common.splits import Split
from hushrec.common.time_windows import count_windows, last_round, window_ends
from hushrec.common.workspace import open_dataset, open_split, shared_model
from hushrec.server.checkpoint import Checkpoint, read_checkpoint
from hushrec.server.evaluation import Evaluation, evaluate, paired
from hushrec.server.rounds import evaluated_adapter
from hushrec.server.window_adapters import read_window
from hushrec.simulations.frozen import best_choices, choices_grid, cold_start_choices

AT_ONCE = "at_once"
RECOUNTED = "recounted"  # the last window's adapter with popularity counted anew
UNTRAINED = "untrained"
Step = Callable[[str], None]
Prior = NDArray[np.float32]


def at_once_config(config: RunConfig) -> RunConfig | None:
    """The same run with everything there from round 1, in a folder inside the run directory.

    None for a private run: it would spend its epsilon a second time on the same people.
    """
    if not config.data.window_ends or is_private(config):
        return None
    folder = str(Path(config.run.directory) / AT_ONCE)
    return config.replace(data__window_ends="", server__anchor=0.0, run__directory=folder)


def continual_section(config: RunConfig, untrained: Arrays, checkpoint: Checkpoint, step: Step) -> dict[str, Any]:
    """The "continual" entry of results.json; all figures are NDCG@10, among unseen items NDCG@20.

    Each adapter has the choices that the panel's validation users give by the end of its window, so that nothing in a
    row knows what came later; untrained and at_once, which have no window, choose on all of them.

    Args:
        untrained: the adapter before round 1.
        checkpoint: of the last round; its prior, released in the first window, serves all rows but the last two of a
            run without privacy: recounted and at_once have the counts of all windows.
    """
    dataset, split, seed = open_dataset(config.data), open_split(config.data), config.run.seed
    ends = window_ends(config.data)
    found = continual_split(dataset, split, ends)
    rows: dict[str, Evaluation] = {}
    choices: dict[str, dict[str, Any]] = {}
    for name, scorer in _scorers(config, untrained, checkpoint, dataset, split):
        step(f"evaluating {name} on every window's users")
        rows[name], choices[name] = (
            evaluate(scorer, found.split, dataset, seed=seed, groups=found.groups),
            asdict(scorer.choices),
        )
    return {
        "windows": [
            {
                "until": (*config.data.window_ends, "")[window],
                "rounds": last_round(config, window) - (last_round(config, window - 1) if window else 0),
                "users": found.arrived[window],
                "items": found.released[window],
            }
            for window in range(len(ends) + 1)
        ],
        "cases": {group: len(found.split.cases[group]) for group in found.groups},
        "systems": {
            name: {group: row.figures[group][figure_of(group)] for group in found.groups} for name, row in rows.items()
        },
        **_changes(rows, found.groups, len(ends) + 1, seed),
        "choices": choices,
    }


def window_row(window: int) -> str:
    """The row of the adapter at the end of a window, counted from 0."""
    return f"window_{window + 1}"


def figure_of(group: str) -> str:
    """The figure that is shown of a group."""
    return "NDCG@20" if group == UNSEEN_ITEMS else "NDCG@10"


def _scorers(
    config: RunConfig, untrained: Arrays, checkpoint: Checkpoint, dataset: Dataset, split: Split
) -> Sequence[tuple[str, LMScorer]]:
    """(row, scorer) of every adapter, with its own validated choices."""
    model, prior, last = shared_model(config.model, config.data), checkpoint.log_popularity, count_windows(config.data)
    start = ScoringChoices(config.model.recency_decay, history_length=config.model.history_length)

    def chosen(scorer: LMScorer, known: tuple[Dataset, Split]) -> LMScorer:
        if not known[1].cases["validation"]:
            return scorer  # nobody of the panel was there yet
        best = best_choices(scorer, choices_grid(start, known[1]), known[1], config.run.seed)[1]
        return cold_start_choices(best, known[1], known[0], config.run.seed)

    def row(name: str, adapter: Arrays, prior: Prior, window: int) -> tuple[str, LMScorer]:
        known = (dataset, split)
        if window < last - 1:
            known = before(dataset, split, window_ends(config.data)[window])
        at_end = model_in_round(model, config, last_round(config, window))
        return name, chosen(LMScorer(name, at_end, adapter, prior, start), known)

    rows = [row(UNTRAINED, untrained, prior, last - 1)]
    rows += [row(window_row(window), read_window(config, window), prior, window) for window in range(last)]
    if (other := at_once_config(config)) is not None and (trained := read_checkpoint(Path(other.run.directory))):
        rows.append(row(RECOUNTED, read_window(config, last - 1), trained.log_popularity, last - 1))
        rows.append(row(AT_ONCE, evaluated_adapter(other, trained), trained.log_popularity, last - 1))
    return rows


def _changes(rows: Mapping[str, Evaluation], groups: Sequence[str], windows: int, seed: int) -> dict[str, Any]:
    """Paired differences on each group's own cases, with intervals over users.

    gained: the last adapter minus the one before the group's window (of groups without one: minus the first window's).
    recounted: what counting popularity anew adds to the last adapter; the run counts in its first window only.
    forgotten: the best of the earlier adapters from the group's window on, minus the last; above 0 is a loss. The best
    of several is picked on the same cases, so this errs on the side of forgetting.
    against_at_once: the last adapter minus the one that had everything from round 1.
    """
    last = rows[window_row(windows - 1)]
    own = {users_group(window): window for window in range(windows)}
    changes: dict[str, dict[str, Any]] = {"gained": {}, "forgotten": {}, "recounted": {}, "against_at_once": {}}
    for group in groups:
        figure, window = f"{group}/{figure_of(group)}", own.get(group, 1)
        earlier = rows[window_row(window - 1) if window else UNTRAINED]
        changes["gained"][group] = paired(last, earlier, figure, seed=seed)
        if group in own and window < windows - 1:
            kept = [rows[window_row(later)] for later in range(window, windows - 1)]
            best = kept[int(np.argmax([one.per_user[figure].mean() for one in kept]))]
            changes["forgotten"][group] = {**paired(best, last, figure, seed=seed), "best": best.system}
        if AT_ONCE in rows:
            changes["recounted"][group] = paired(rows[RECOUNTED], last, figure, seed=seed)
            changes["against_at_once"][group] = paired(last, rows[AT_ONCE], figure, seed=seed)
    return changes
