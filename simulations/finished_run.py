"""A finished run, opened for a study: its data, split and scorer as they were when its results were written.

It trains nothing, chooses nothing and writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hushrec.common.bundle import read_bundle
from hushrec.common.catalog import Catalog
from hushrec.common.config import RunConfig
from hushrec.common.errors import DataError
from hushrec.common.interactions import Dataset
from hushrec.common.scorer import LMScorer
from hushrec.common.splits import Split
from hushrec.common.workspace import Model, encode_catalog, open_dataset, open_split
from hushrec.simulations.frozen import profile_vectors
from hushrec.simulations.run import Watcher, open_run


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """What a study needs of a run.

    Attributes:
        model: set to the run's adapter.
        scorer: the run's "hushrec", under its validated choices, knowing the profile texts.
    """

    config: RunConfig
    dataset: Dataset
    split: Split
    model: Model
    scorer: LMScorer

    @property
    def catalog(self) -> Catalog:
        """The items that are ranked."""
        return self.dataset.catalog

    def require_warm(self, study: str) -> None:
        """Refuse a study of known users and items where the protocol has none.

        Raises:
            DataError: there is no warm case.
        """
        if not self.split.cases.get("warm"):
            raise DataError(
                f"--{study} looks at known users and items, and protocol {self.split.protocol!r} has no such test "
                "case here; use a run under joint or p1"
            )


def open_finished(target: Path, watcher: Watcher) -> FinishedRun:
    """Open a run directory.

    Raises:
        ConfigError, BundleError, DataError: no run, a damaged bundle, or data that cannot be read.
    """
    watcher.step("reading the run")
    config, bundle = open_run(target), read_bundle(target)
    dataset, split = open_dataset(config.data), open_split(config.data)
    watcher.step("encoding the catalogue")
    encode_catalog(bundle.model_config, bundle.catalog, watcher.encoding)
    model, _ = bundle.scorer()
    model = replace(model, training_items=np.flatnonzero(split.warm_items))  # the others are new items, as in the run
    scorer = LMScorer("hushrec", model, bundle.adapter, bundle.log_popularity, bundle.choices)
    if bundle.graph is not None:
        scorer = scorer.with_graph(bundle.graph, bundle.choices.graph_weight)
    # A profile is read by the encoder as the run's adapter leaves it, so this comes after the scorer.
    scorer = scorer.with_profiles(profile_vectors(model, dataset, split))
    return FinishedRun(config, dataset, split, model, scorer)
