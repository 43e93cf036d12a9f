"""The hybrid recommender: a trained text scorer with the user's interests in words fused into the user vector.

Content-based (`LMScorer`), collaborative (server/item_knn.py, server/ease.py) and hybrid scorers all answer to
`server.ranking.Scorer`. This one learns nothing and mines nothing: it is handed one interest vector per question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hushrec.common.recommendation import HISTORY_WEIGHT
from hushrec.common.scorer import LMScorer
from hushrec.common.splits import Case

NAME = "hushrec_interests"
INTEREST_WEIGHTS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)


class InterestScorer(LMScorer):
    """`scorer` with interests, beside a history of weight 1 as in recommendation.py.

    Args:
        vectors: case -> float32 (dim,), of `interest_vector`; a case that is not there has no interests.
        weight: >= 0; 0 ranks exactly as `scorer` does.
    Guarantees:
        - a case without interests is scored exactly as by `scorer`.
    """

    def __init__(self, scorer: LMScorer, vectors: Mapping[Case, NDArray[np.float32]], weight: float) -> None:
        self.__dict__.update(scorer.__dict__)
        self.name, self.weight = NAME, weight
        self._interests = vectors

    def _users(self, cases: Sequence[Case]) -> NDArray[np.float32]:
        users = super()._users(cases)
        for user, case in zip(users, cases, strict=True):
            own = self._interests.get(case)
            length = 0.0 if own is None else float(np.linalg.norm(own))
            if own is None or not length or not self.weight:
                continue
            # A text is brought to the history's length first, so that the weight means what it says.
            wanted = float(np.linalg.norm(user)) or length
            user[:] = (HISTORY_WEIGHT * user + self.weight * (wanted / length) * own) / (HISTORY_WEIGHT + self.weight)
        return users
