"""Several adapters of one run as one recommender: its scores are the means of theirs.

A mean of inner products is the inner product of concatenated vectors, so an ensemble is a scorer like any other, with
vectors that are as many times longer. It trains nothing; server/snapshots.py says why it costs no privacy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hushrec.common.errors import ConfigError
from hushrec.common.scorer import LMScorer


class EnsembleScorer(LMScorer):
    """The mean of scorers on one catalogue, under the first one's choices.

    Args:
        members: before any graph is laid over them, with the same profiles.
    Raises:
        ConfigError: there is none.
    """

    def __init__(self, name: str, members: Sequence[LMScorer]) -> None:
        if not members:
            raise ConfigError("an ensemble needs a snapshot: set server.snapshots, and train at least one round")
        self.__dict__.update(members[0].__dict__)
        self.name, self.scale = name, 1.0
        # A user vector is linear in the history vectors, so concatenating those concatenates the users.
        shares = [np.float32(member.scale / len(members)) for member in members]
        weighted = [share * member.item_vectors for share, member in zip(shares, members, strict=True)]
        self.item_vectors = np.concatenate(weighted, axis=1)
        self.history_vectors = np.concatenate([member.history_vectors for member in members], axis=1)
        self.prior = np.mean([member.prior for member in members], axis=0, dtype=np.float32)
        self._head = np.concatenate([member._head for member in members])
        known = members[0]._profiles
        self._profiles = {user: np.concatenate([member._profiles[user] for member in members]) for user in known}
        fused = [member._fused for member in members if member._fused is not None]
        self._fused = np.concatenate(fused, axis=1) if fused else None

    def project(self, encoded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Refused: each member encodes a text with its own adapter, so no one vector is the text's."""
        raise ConfigError("an ensemble reads no further text; give it to the members")

    def with_encoded(self, encoded: NDArray[np.float32]) -> LMScorer:
        """Refused, as `project`."""
        raise ConfigError("an ensemble's encoders differ, so no one set of encoded texts serves it")
