"""What is ranked for a case, and by whom: scorers, candidates, and the one figure that choices may look at.

It never summarises test cases; that is the evaluation.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hushrec.common.errors import DataError
from hushrec.common.metrics import Floats, Ints
from hushrec.common.splits import Case, Split

DECILES = 10
_BLOCK_SCORES = 4_000_000  # scores held at once: 16 MB of float32


class Scorer(Protocol):
    """Anything that ranks items: a control, the frozen language model, hushrec itself."""

    @property
    def name(self) -> str:
        """The system's name in results.json."""

    def score(self, cases: Sequence[Case]) -> npt.NDArray[np.float32]:
        """Scores (len(cases), n_items), finite, higher is better, from `case.history` only and never `case.targets`."""


@dataclass(frozen=True)
class RankedCase:
    """One case with what is ranked for it: candidates without the history, targets always among them."""

    index: int
    case: Case
    items: Ints  # (candidates,), ascending item indices
    scores: npt.NDArray[np.float32]  # (candidates,)
    targets: Ints  # (k,), positions in `items`
    row: npt.NDArray[np.float32]  # (n_items,), the scores of all items


def validation_top(protocol: str) -> int:
    """The n of a protocol's validation NDCG@n: 20 among the cold items of p2, else 10."""
    return 20 if protocol == "p2" else 10


def counts_validate(split: Split) -> bool:
    """Whether any item that validation ranks has training interactions; in p2 none has, and counts say nothing."""
    return bool((split.candidates["validation"] & split.warm_items).any())


def validation_ndcg(scorer: Scorer, split: Split, *, seed: int, max_cases: int = 1_000) -> float:
    """Mean NDCG of the full ranking over the validation cases: the only figure that choices may use.

    NDCG@10 of one target a case, in p2 NDCG@20 of one or more. The same ranks as `rank_cases` and
    `metrics.target_ranks` give, ties apart, but a block of cases at once.

    Args:
        scorer: the system, as configured.
        split: gives the validation cases.
        seed: fixes the sample and ties, the same for every system and configuration.
        max_cases: >= 1, a random sample of the cases where there are more, so that a grid stays cheap.
    Raises:
        DataError: the split has no validation case, or the scores are of the wrong shape or not finite.
    """
    rng = np.random.default_rng(seed)
    every = split.cases["validation"]
    sample = [every[i] for i in np.sort(rng.permutation(len(every))[:max_cases])]
    top = validation_top(split.protocol)
    gains = []
    for cases, scores in _blocks(scorer, sample, split.n_items):
        allowed = np.tile(split.candidates["validation"], (len(cases), 1))
        for row, case in zip(allowed, cases, strict=True):
            row[case.history.items] = False
        one = all(len(case.targets) == 1 for case in cases)
        gains.append((_single_gains if one else _gains)(scores, allowed, cases, top, rng))
    if not gains:
        raise DataError("the split has no validation case to choose by; use more users or longer histories")
    return float(np.mean(np.concatenate(gains)))


def _single_gains(
    scores: npt.NDArray[np.float32],
    allowed: npt.NDArray[np.bool_],
    cases: Sequence[Case],
    top: int,
    rng: np.random.Generator,
) -> Floats:
    """NDCG@top of cases with one target: (k, n_items) scores and candidates -> (k,)."""
    rows = np.arange(len(cases))
    targets = np.array([case.targets[0] for case in cases])
    allowed[rows, targets] = False
    own = scores[rows, targets][:, None]
    better = np.count_nonzero((scores > own) & allowed, axis=1)
    equal = np.count_nonzero((scores == own) & allowed, axis=1)
    ranks = 1 + better + rng.integers(equal + 1)
    return np.where(ranks <= top, 1.0 / np.log2(ranks + 1.0), 0.0)


def _gains(
    scores: npt.NDArray[np.float32],
    allowed: npt.NDArray[np.bool_],
    cases: Sequence[Case],
    top: int,
    rng: np.random.Generator,
) -> Floats:
    """The same for cases with any number of targets."""
    wanted = np.zeros_like(allowed)
    for row, case in zip(wanted, cases, strict=True):
        row[case.targets] = True
    columns = rng.permutation(np.flatnonzero((allowed | wanted).any(axis=0)))  # the order among equal scores
    ranked = (allowed | wanted)[:, columns]
    order = np.argsort(np.where(ranked, -scores[:, columns], np.inf), axis=1, kind="stable")[:, :top]
    discounts = 1.0 / np.log2(np.arange(top) + 2.0)
    gained = np.take_along_axis(wanted[:, columns], order, axis=1) @ discounts[: order.shape[1]]
    ideal = np.cumsum(discounts)[np.minimum(wanted.sum(axis=1), top) - 1]
    return np.asarray(gained / ideal)


def rank_cases(scorer: Scorer, split: Split, group: str) -> Iterator[RankedCase]:
    """Score a group's cases block by block; history and excluded items leave the candidates, targets never do.

    Raises:
        DataError: scores of the wrong shape, or not finite.
    """
    index = 0
    for cases, scores in _blocks(scorer, split.cases[group], split.n_items):
        for case, row in zip(cases, scores, strict=True):
            items, targets = ranked_items(case, split.candidates[group])
            yield RankedCase(index, case, items, row[items], targets, row)
            index += 1


def _blocks(
    scorer: Scorer, cases: Sequence[Case], n_items: int
) -> Iterator[tuple[Sequence[Case], npt.NDArray[np.float32]]]:
    """The cases with checked scores, a block at a time."""
    size = max(_BLOCK_SCORES // n_items, 1)
    for start in range(0, len(cases), size):
        part = cases[start : start + size]
        scores = np.asarray(scorer.score(part))
        if scores.shape != (len(part), n_items) or not np.all(np.isfinite(scores)):
            raise DataError(
                f"system {scorer.name!r}: expected finite scores of shape {(len(part), n_items)}, "
                f"got shape {scores.shape} with {np.count_nonzero(~np.isfinite(scores))} not finite"
            )
        yield part, scores


def ranked_items(case: Case, candidates: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """The case's candidate items and the targets' positions among them."""
    allowed = candidates.copy()
    allowed[case.history.items] = False
    allowed[case.excluded] = False
    allowed[case.targets] = True
    items = np.flatnonzero(allowed).astype(np.int64)
    return items, np.searchsorted(items, case.targets).astype(np.int64)


def case_rng(seed: int, group: str, ranked: RankedCase) -> np.random.Generator:
    """The case's own generator: independent of the system, of the block size and of the other groups."""
    return np.random.default_rng([seed, zlib.crc32(group.encode()), ranked.index])


def train_counts(split: Split) -> Ints:
    """How many training users have each item, (n_items,)."""
    counts = np.zeros(split.n_items, dtype=np.int64)
    for history in split.train:
        counts[np.unique(history.items)] += 1
    return counts


def popularity_deciles(split: Split, *, seed: int) -> Ints:
    """Decile of each item by training count among the warm items, (n_items,): 1 = most popular tenth, 0 = cold."""
    warm = np.flatnonzero(split.warm_items)
    draw = np.random.default_rng(seed).random(len(warm))  # equal counts fall into deciles at random, not by index
    order = warm[np.lexsort((draw, -train_counts(split)[warm]))]
    deciles = np.zeros(split.n_items, dtype=np.int64)
    deciles[order] = np.arange(len(order)) * DECILES // max(len(order), 1) + 1
    return deciles
