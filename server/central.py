"""Central evaluation during training: the curve on the validation cases of consenting panel users.

The final table with its controls belongs to simulations/results.py, since it looks at training users too.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hushrec.common.metrics import coverage
from hushrec.common.protocol import Arrays
from hushrec.common.scorer import LMScorer
from hushrec.common.scoring import ScoringChoices
from hushrec.common.splits import Split
from hushrec.common.workspace import Model
from hushrec.server.ranking import validation_ndcg, validation_top

CURVE_CASES = 400  # cases whose lists the coverage is read from


def curve_point(
    model: Model, adapter: Arrays, log_popularity: NDArray[np.float32], split: Split, seed: int
) -> dict[str, Any]:
    """Validation NDCG@10 (in p2 NDCG@20), and coverage@10, which falls when item vectors collapse."""
    start = time.monotonic()
    decay, length = model.config.recency_decay, model.config.history_length
    choices = ScoringChoices(recency_decay=decay, new_item_decay=decay, history_length=length)
    scorer = LMScorer("hushrec", model, adapter, log_popularity, choices)
    ndcg = validation_ndcg(scorer, split, seed=seed)
    cases = split.cases["validation"][:CURVE_CASES]
    scores = np.where(split.candidates["validation"], scorer.score(cases), -np.inf)
    for row, case in zip(scores, cases, strict=True):
        row[case.history.items] = -np.inf
    top = np.argpartition(-scores, min(10, split.n_items - 1), axis=1)[:, :10]
    counts = np.bincount(top.ravel(), minlength=split.n_items)[split.candidates["validation"]]
    return {
        f"validation_NDCG@{validation_top(split.protocol)}": round(ndcg, 6),
        "coverage@10": round(coverage(counts), 6),
        "evaluation_seconds": round(time.monotonic() - start, 3),
    }
