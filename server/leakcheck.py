"""Leak tests of a scorer or a sampler that can be called: is the held-out item visible where it must not be?

Exported files are checked in server/score_checks.py. Neither can tell from scores alone that a good result is too good:
leaky training negatives lift PFedRec on MovieLens-100K only from 0.57 to 0.73, within the range of clean systems. That
leak is found by `check_negatives`, on the sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from hushrec.common import metrics
from hushrec.common.catalog import Catalog
from hushrec.common.errors import ConfigError
from hushrec.common.interactions import Dataset, History
from hushrec.common.metrics import Floats, Ints
from hushrec.common.splits import Case, Split
from hushrec.server.evaluation import evaluate
from hushrec.server.ranking import Scorer, case_rng, rank_cases, ranked_items
from hushrec.server.ties import tied_figures

DrawNegatives = Callable[[int, History], npt.NDArray[np.integer]]
"""(user, training history) -> item indices drawn as training negatives, repeats allowed."""
Verdict = Literal["no leak found", "LEAK", "cannot tell"]

RELABELLINGS = 500
CONFIDENCE = 0.99  # a clean system fails a check by chance in one of 200 runs: the tests are one-sided
TIE_GAIN = 0.01  # what the order of equal scores may add to HR@10 before it is reported
_TOLERANCE = 1e-4  # of scores: batched and single products may round differently


@dataclass(frozen=True)
class LeakCheck:
    """The outcome of one leak test.

    Attributes:
        name: what was checked.
        value: what was measured; for negatives the mean AUC of the held-out items, 0.5 = chance.
        low, high: the values that a system without the leak takes.
        leaks: the value lies where only a leak brings it.
        detail: one sentence for people.
        p_value: how often a system without the leak reaches the value; None where the check is a fact, not a test.
        conclusive: the leak would have been seen if it were there.
    """

    name: str
    value: float
    low: float
    high: float
    leaks: bool
    detail: str
    p_value: float | None = None
    conclusive: bool = True

    @property
    def verdict(self) -> Verdict:
        """The outcome in words."""
        if self.leaks:
            return "LEAK"
        return "no leak found" if self.conclusive else "cannot tell"


class Counts:
    """Scores read from a table of counts: no model, no training.

    Attributes:
        name: which table.
    """

    def __init__(self, counts: npt.NDArray[np.integer], rows: dict[int, int], *, name: str) -> None:
        """Take counts, (rows, n_items), and the row of each user; rarely drawn items score high."""
        self.name, self._scores, self._rows = name, -np.asarray(counts, dtype=np.float32), rows

    def score(self, cases: Sequence[Case]) -> npt.NDArray[np.float32]:
        """Scores (len(cases), n_items)."""
        return self._scores[[self._rows[case.user] for case in cases]]


class Labels:
    """The scorer that was given the answers.

    Attributes:
        name: "labels".
    """

    name = "labels"

    def __init__(self, n_items: int) -> None:
        self._n_items = n_items

    def score(self, cases: Sequence[Case]) -> npt.NDArray[np.float32]:
        """Scores (len(cases), n_items): 1 for a target, 0 for any other item."""
        scores = np.zeros((len(cases), self._n_items), dtype=np.float32)
        for row, case in zip(scores, cases, strict=True):
            row[case.targets] = 1.0
        return scores


def check_negatives(
    draw: DrawNegatives, split: Split, *, seed: int, rounds: int = 20, max_users: int = 1_000, group: str = "warm"
) -> list[LeakCheck]:
    """Do counts of training negatives tell the held-out items apart?

    Two model-free scorers prefer what was rarely drawn: for the user herself, and for all users together. A clean
    sampler leaves both at chance. The interval is what the same counts score after a random relabelling of the items
    (per user, or shared by all for the global counts), which is exact for a sampler that ignores users. A sampler that
    masks each user's training items is reported by the global counts: it draws popular items less often, so that one
    record decides about another's negatives. Drawing popular items more often stays below chance and passes.

    Args:
        draw: the sampler; called `rounds` times per training user with what that client holds.
        split: gives training histories and held-out cases.
        seed: fixes users, ties and relabellings.
        rounds: >= 1; conclusive once most items were drawn at least once per user.
        max_users: >= 1, a random sample of the users where there are more.
        group: "warm" or another group of training users.
    Returns:
        The check of per-user counts, then that of global counts.
    Raises:
        ConfigError: no case of the group belongs to a training user.
    """
    rng = np.random.default_rng(seed)
    trained = {int(user): row for row, user in enumerate(split.users)}
    cases = [case for case in split.cases[group] if case.user in trained]
    if not cases:
        raise ConfigError(f"group {group!r}: expected cases of training users, got none")
    kept = np.sort(rng.permutation(len(cases))[:max_users])
    part = replace(split, cases={group: tuple(cases[i] for i in kept)})
    users = sorted({case.user for case in part.cases[group]})
    rows = {user: row for row, user in enumerate(users)}
    counts = np.zeros((len(users), split.n_items), dtype=np.int64)
    for user, row in rows.items():
        for _ in range(rounds):
            np.add.at(counts[row], draw(user, split.train[trained[user]]), 1)
    return [
        _check_counts(Counts(counts, rows, name="per-user counts"), part, group, seed, shared=False),
        _check_counts(
            Counts(counts.sum(axis=0)[None, :], dict.fromkeys(users, 0), name="global counts"),
            part,
            group,
            seed,
            shared=True,
        ),
    ]


def check_labels(split: Split, dataset: Dataset, *, seed: int) -> LeakCheck:
    """Does the evaluation give a scorer that knows the answers the best possible figures?

    Every figure of the labels' scorer is 1.0, except Recall@20 of a case with more than 20 targets, whose best is
    20 / targets. Anything less means that candidates, targets or ties are handled wrongly.
    """
    found = evaluate(Labels(split.n_items), split, dataset, seed=seed)
    shortfalls = {}
    for figure, values in found.per_user.items():
        group = figure.rpartition("/")[0]
        best = np.ones(len(values))
        if "Recall@20" in figure:
            best = np.array([min(20 / len(case.targets), 1.0) for case in split.cases[group]])
        shortfalls[figure] = float(np.max(best - values))
    worst = max(shortfalls, key=shortfalls.__getitem__)
    short = shortfalls[worst] > 1e-9
    detail = (
        f"{worst} is short of its best by up to {shortfalls[worst]:.3g}" if short else "all figures are at their best"
    )
    return LeakCheck("labels", 1.0 - shortfalls[worst], 1.0, 1.0, short, detail)


def check_blind(scorer: Scorer, split: Split, *, seed: int, group: str = "warm", max_cases: int = 200) -> LeakCheck:
    """Do the scores stay the same when the targets are replaced and every case is asked alone?

    A scorer that reads `case.targets`, or another case of the batch, is caught.

    Args:
        scorer: the system.
        split: gives the cases.
        seed: fixes the sample and the replaced targets.
        group: which cases.
        max_cases: >= 1, a random sample of the cases where there are more.
    Raises:
        ConfigError: the group has no case.
    """
    rng = np.random.default_rng(seed)
    cases = split.cases[group]
    if not cases:
        raise ConfigError(f"group {group!r}: expected cases to check with, got none")
    sample = [cases[i] for i in rng.permutation(len(cases))[:max_cases]]
    blinded = [replace(case, targets=rng.integers(split.n_items, size=1, dtype=np.int32)) for case in sample]
    together = np.asarray(scorer.score(sample), dtype=np.float64)
    alone = np.concatenate([np.asarray(scorer.score([case]), dtype=np.float64) for case in blinded])
    scale = max(float(np.abs(together).max(initial=0.0)), 1e-12)
    change = float(np.abs(together - alone).max(initial=0.0)) / scale
    leaks = change > _TOLERANCE
    detail = f"scores of {scorer.name} change by up to {change:.2g} of the largest when targets and batch change"
    return LeakCheck("blind", change, 0.0, _TOLERANCE, leaks, detail)


def check_ties(scorer: Scorer, split: Split, *, group: str = "warm", allowed: float = TIE_GAIN) -> LeakCheck:
    """How much would HR@10 gain where ties are resolved in favour of the target?

    Constant or clipped scores, or scores that are missing for most items, look excellent in an evaluation that counts
    strictly better items only.

    Args:
        scorer: the system.
        split: gives the cases.
        group: which cases.
        allowed: >= 0, the largest gain that is not reported.
    """
    found = [tied_figures(ranked.scores, ranked.targets).hit_rate for ranked in rank_cases(scorer, split, group)]
    gains = [best - expected for _, expected, best in found]
    gain = float(np.mean(gains)) if gains else 0.0
    detail = f"HR@10 of {scorer.name} would be {gain:.3f} higher with ties resolved in favour of the target"
    return LeakCheck("ties", gain, 0.0, allowed, gain > allowed, detail)


def permuted_catalog(catalog: Catalog, rng: np.random.Generator) -> Catalog:
    """The same item ids with texts, titles, years and genres of other items, each row kept together.

    A language model read through it knows nothing about the items; what it then scores above popularity is a leak.
    """
    order = rng.permutation(len(catalog))
    return replace(
        catalog,
        texts=tuple(catalog.texts[i] for i in order),
        titles=tuple(catalog.titles[i] for i in order),
        years=catalog.years[order],
        genres=tuple(catalog.genres[i] for i in order),
    )


def _check_counts(counts: Counts, split: Split, group: str, seed: int, *, shared: bool) -> LeakCheck:
    """Compare the counts' AUC and HR@10 on the targets with those under relabelled items."""
    values, hits = [], []
    for ranked in rank_cases(counts, split, group):
        values.append(metrics.auc(ranked.scores, ranked.targets))
        hits.append(
            metrics.hit_rate(metrics.target_ranks(ranked.scores, ranked.targets, case_rng(seed, group, ranked)), 10)
        )
    value = float(np.mean(values))
    chance = _relabelled(counts, split, group, np.random.default_rng(seed), shared=shared)
    low, high = np.quantile(chance, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    detail = (
        f"held-out items have AUC {value:.3f} and HR@10 {np.mean(hits):.3f} under {counts.name} of training negatives; "
        f"chance is {low:.3f} to {high:.3f}"
    )
    return LeakCheck(counts.name, value, float(low), float(high), bool(value > high), detail)


def _relabelled(counts: Counts, split: Split, group: str, rng: np.random.Generator, *, shared: bool) -> Floats:
    """Mean AUC of the targets under each relabelling of the candidate items, (RELABELLINGS,)."""
    total = np.zeros(RELABELLINGS)
    cases, candidates = split.cases[group], np.flatnonzero(split.candidates[group])
    if shared:
        row = counts.score(cases[:1])[0][candidates]
        relabelled = np.stack([rng.permutation(row) for _ in range(RELABELLINGS)])
    for case in cases:
        items, targets = ranked_items(case, split.candidates[group])
        if shared:
            ranked = np.isin(candidates, items)
            total += _shared_auc(relabelled, ranked, np.searchsorted(candidates, items[targets]))
        else:
            total += lone_auc(counts.score([case])[0][items])[rng.integers(len(items), size=RELABELLINGS)]
    return total / len(cases)


def _wins(scores: npt.NDArray[np.floating], own: npt.NDArray[np.floating]) -> Floats:
    """How many scores lie below each of `own`, equal ones counting a half."""
    ascending = np.sort(scores)
    below, not_above = (np.searchsorted(ascending, own, side=side) for side in ("left", "right"))
    return np.asarray((below + not_above) / 2.0, dtype=np.float64)


def lone_auc(scores: npt.NDArray[np.floating]) -> Floats:
    """The AUC each candidate would have as the only target, (candidates,)."""
    return (_wins(scores, scores) - 0.5) / max(len(scores) - 1, 1)


def _shared_auc(relabelled: npt.NDArray[np.float32], ranked: npt.NDArray[np.bool_], targets: Ints) -> Floats:
    """Mean AUC of the targets among the ranked candidates, per row of (relabellings, candidates) scores."""
    others = ranked.copy()
    others[targets] = False
    left_out = relabelled[:, ~others]  # few columns: the history and the targets
    auc = np.zeros(len(relabelled))
    for target in targets:
        own = relabelled[:, target]
        inside = (left_out < own[:, None]).sum(axis=1) + (left_out == own[:, None]).sum(axis=1) / 2
        auc += (_wins(relabelled[0], own) - inside) / max(int(others.sum()), 1)
    return auc / len(targets)
