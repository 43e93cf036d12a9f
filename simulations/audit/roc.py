"""What an attack's scores are worth: recall, area, ROC curve and advantage, with intervals over victims.

It knows nothing of films, updates or privacy beyond the cap that a claim puts on any attack.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hushrec.common.metrics import Figure, auc, figures_of, recall, target_ranks
from hushrec.simulations.audit.bounds import clopper_pearson_upper

Floats = NDArray[np.float64]
Points = list[tuple[float, float]]
# False positive rates at which a curve is read; 0.01 is the one that is reported.
RATES = np.array([0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, *np.linspace(0.1, 1.0, 19)])
_ONE_PERCENT = int(np.argmin(np.abs(RATES - 0.01)))
LEVEL = 0.95


def advantage_cap(epsilon: float, delta: float) -> float:
    """Largest TPR - FPR of any test between two neighbours of an (epsilon, delta) claim, in (0, 1].

    Source: Kairouz, Oh, Viswanath 2015, arXiv:1311.0776; Humphries et al. 2020, arXiv:2010.12112.
    """
    # tanh(epsilon / 2) is (e^epsilon - 1) / (e^epsilon + 1), and does not overflow.
    return min(1.0, math.tanh(epsilon / 2) + 2 * delta / (math.exp(min(epsilon, 700.0)) + 1))


@dataclass(frozen=True, eq=False)
class Guesses:
    """How well films were ranked for each victim.

    Attributes:
        recalls, chances, areas: (victims,): recall@|H|, what guessing would reach, area under the ROC curve.
        rates: (victims, RATES) true positive rate of each victim at each false positive rate.
    """

    recalls: Floats
    chances: Floats
    areas: Floats
    rates: Floats

    @classmethod
    def of(cls, scores: Sequence[Floats], members: Sequence[NDArray[np.int64]], seed: int) -> Guesses:
        """Judge rankings.

        Args:
            scores: per victim (candidates,), higher is more likely.
            members: per victim the positions of what was in the update, at least one and fewer than the candidates.
            seed: breaks ties.
        """
        rng = np.random.default_rng(seed)
        recalls, chances, areas, rates = [], [], [], []
        for own, inside in zip(scores, members, strict=True):
            recalls.append(recall(target_ranks(own, inside, rng), len(inside)))
            chances.append(len(inside) / len(own))
            areas.append(auc(own, inside))
            rates.append(_true_positive_rates(own[inside], np.delete(own, inside)))
        return cls(np.array(recalls), np.array(chances), np.array(areas), np.array(rates))

    def figures(self, seed: int) -> dict[str, Figure]:
        """Means over victims (two or more), 95 % bootstrap intervals; "advantage" is the largest TPR - FPR."""
        values = {
            "recall": self.recalls,
            "chance": self.chances,
            "auc": self.areas,
            "tpr_at_1_percent_fpr": self.rates[:, _ONE_PERCENT],
            "advantage": self._advantages(),
        }
        return figures_of(values, np.arange(len(self.areas)), seed=seed)

    def _advantages(self) -> Floats:
        """(victims,) TPR - FPR where the other half of the victims has its largest; a maximum over one's own is > 0."""
        half = np.arange(len(self.rates)) % 2
        best = np.array([np.argmax(self.rates[half != side].mean(0) - RATES) for side in (0, 1)])[half]
        gained: Floats = self.rates[np.arange(len(half)), best] - RATES[best]
        return gained

    def curve(self) -> Points:
        """(FPR, TPR) points, victims averaged at each FPR."""
        return [(float(x), float(y)) for x, y in zip(RATES, self.rates.mean(0), strict=True)]


def _true_positive_rates(inside: Floats, outside: Floats) -> Floats:
    """(RATES,) share of `inside` above the threshold that at most that share of `outside` passes."""
    ordered = np.sort(outside)[::-1]
    passed = np.minimum(np.floor(RATES * len(ordered)).astype(int), len(ordered) - 1)
    found = (inside[None, :] > ordered[passed][:, None]).mean(1)
    found[RATES >= 1.0] = 1.0
    return np.asarray(found, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Game:
    """Scores of a test between two neighbours; positive says "the film was in".

    Attributes:
        inside, outside: (plays,) scores where it was in, and where it was not.
    """

    inside: Floats
    outside: Floats

    def advantage(self) -> Figure:
        """TPR - FPR at the threshold 0, fixed beforehand, with exact bounds.

        Returns:
            "mean", and "low" and "high" from Clopper-Pearson intervals of both rates, which hold together with 95 %.
        """
        hits, alarms = int((self.inside > 0).sum()), int((self.outside > 0).sum())
        hit, alarm = _clopper_pearson(hits, len(self.inside)), _clopper_pearson(alarms, len(self.outside))
        mean = hits / len(self.inside) - alarms / len(self.outside)
        return {"mean": mean, "low": hit[0] - alarm[1], "high": hit[1] - alarm[0]}

    def curve(self) -> Points:
        """(FPR, TPR) of every threshold, from (0, 0) to (1, 1)."""
        thresholds = np.sort(np.concatenate([self.inside, self.outside]))[::-1]
        points = [(float((self.outside >= t).mean()), float((self.inside >= t).mean())) for t in thresholds]
        return [(0.0, 0.0), *points]


def _clopper_pearson(hits: int, trials: int) -> tuple[float, float]:
    """Interval of a share; each end misses with at most a quarter of 1 - LEVEL, so four of them with at most all."""
    tail = (1 - LEVEL) / 4
    high, missed = clopper_pearson_upper(np.array([hits, trials - hits]), trials, tail)
    return 1.0 - float(missed), float(high)
