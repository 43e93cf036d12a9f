"""The ensemble of a run's snapshots as a system of its own: post-processing of released adapters, free of epsilon.

It evaluates nothing; simulations/results.py does, beside all other systems.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hushrec.common.config import RunConfig
from hushrec.common.ensemble import EnsembleScorer
from hushrec.common.interactions import Dataset
from hushrec.common.protocol import Arrays
from hushrec.common.scorer import LMScorer
from hushrec.common.scoring import ScoringChoices
from hushrec.common.splits import Split
from hushrec.common.workspace import Model, shared_graph
from hushrec.simulations.frozen import best_choices, best_graph, choices_grid, cold_start_choices, profile_vectors

ENSEMBLE = "hushrec_ensemble"


def ensemble_system(
    config: RunConfig,
    model: Model,
    members: Sequence[Arrays],
    prior: NDArray[np.float32],
    dataset: Dataset,
    split: Split,
) -> LMScorer:
    """The ensemble of a run's snapshots, with choices of its own from the same grids as hushrec's.

    Args:
        members: adapters of `server.snapshots`, at least one.
        prior: the popularity prior that hushrec uses.
    """
    start = ScoringChoices(config.model.recency_decay, history_length=config.model.history_length)
    scorers = []
    for adapter in members:
        member = LMScorer(ENSEMBLE, model, adapter, prior, start)
        scorers.append(member.with_profiles(profile_vectors(model, dataset, split)))  # read by this member's encoder
    seed = config.run.seed
    ensemble = best_choices(EnsembleScorer(ENSEMBLE, scorers), choices_grid(start, split), split, seed)[1]
    if (graph := shared_graph(config.model, config.data)) is not None:
        ensemble = best_graph(ensemble, graph, split, seed)
    return cold_start_choices(ensemble, split, dataset, seed)
