"""Seconds of a trivial round in pfl-research's simulator (arXiv:2404.06430), for overhead.py.

    python simulations/benchmarks/pfl_round.py CLIENTS REPEATS

It imports nothing of hushrec: the package `pfl` pins libraries that hushrec does not work with, so it has a virtual
environment to itself (python -m venv pfl-env && pfl-env/bin/pip install pfl). A client hands back an update of the
size that trivial_client.py sends and computes nothing, no noise is added, and messages do not exist: pfl calls a
function per user and adds up. It prints the seconds of each repeat as JSON, after one round that warms up.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import FederatedAlgorithm
from pfl.common_types import Population
from pfl.context import CentralContext
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.internal.ops import numpy_ops
from pfl.internal.ops.selector import set_framework_module
from pfl.metrics import Metrics
from pfl.stats import MappedVectorStatistics

SHAPES = {"core": (64, 64), "offset": (64,), **{f"layer.{number}": (8, 8) for number in range(5)}}


class Trivial(FederatedAlgorithm):
    """Answers with zeros."""

    def get_next_central_contexts(self, *args: Any, **kwargs: Any) -> None:
        """Not asked: the backend is called directly."""

    def process_aggregated_statistics(self, *args: Any, **kwargs: Any) -> None:
        """Not asked: the backend is called directly."""

    def simulate_one_user(self, model: Any, user_dataset: Any, central_context: Any) -> tuple[Any, Any]:
        """One client."""
        zeros = {name: np.zeros(shape, dtype=np.float32) for name, shape in SHAPES.items()}
        return MappedVectorStatistics(zeros, weight=1.0), Metrics()


def main() -> None:
    """Measure and print."""
    clients, repeats = map(int, sys.argv[1:])
    set_framework_module(numpy_ops)
    users = iter(range(clients * (repeats + 1)))
    data = FederatedDataset(lambda user: Dataset((np.zeros(1),), user_id=str(user)), lambda: next(users))
    backend = SimulatedBackend(data, data)
    context = CentralContext(
        current_central_iteration=0,
        do_evaluation=False,
        cohort_size=clients,
        population=Population.TRAIN,
        algorithm_params=None,
        model_train_params=None,
        model_eval_params=None,
    )
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        backend.gather_results(model=None, training_algorithm=Trivial(), central_context=context)
        seconds.append(time.perf_counter() - start)
    print(json.dumps(seconds[1:]))


if __name__ == "__main__":
    main()
