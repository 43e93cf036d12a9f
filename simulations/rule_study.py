"""What a rule file does to a finished run before anybody is shown it: figures with the rules against those without.

It applies the file as `recommend` does (common/rules.py), group by group of users, and trains and chooses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hushrec.common import metrics
from hushrec.common.errors import ConfigError
from hushrec.common.rules import AppliedRules, RuleFile, read_rules
from hushrec.common.scorer import LMScorer
from hushrec.common.scoring import Floats32
from hushrec.common.splits import Case
from hushrec.server.evaluation import Evaluation, evaluate, paired
from hushrec.simulations.finished_run import FinishedRun, open_finished
from hushrec.simulations.run import Watcher
from hushrec.simulations.table import figure
from hushrec.simulations.user_attributes import ATTRIBUTES, Labels, read_user_attributes

FIGURES = ("warm/NDCG@10", "tail/HR@10", "cold_items/NDCG@20", "cold_users/0/NDCG@20", "cold_users/5/NDCG@20")


class RuledScorer:
    """A recommender whose rankings keep to rules; forbidden items come last.

    Args:
        rules: group of users -> what the file says to them; "" for everybody else.
        groups: (users,) the group of each user of the data set.
    """

    def __init__(self, scorer: LMScorer, rules: Mapping[str, AppliedRules], groups: Labels) -> None:
        self.name, self.scorer, self._rules, self._groups = f"{scorer.name}_rules", scorer, rules, groups

    def score(self, cases: Sequence[Case]) -> Floats32:
        """(cases, items) scores."""
        scores = self.scorer.score(cases).astype(np.float32)
        for row, case in zip(scores, cases, strict=True):
            rules = self._rules[str(self._groups[case.user])]
            allowed = rules.allowed.copy()
            allowed[case.history.items] = False
            if allowed.any():
                row += (rules.boost * float(row[allowed].std())).astype(np.float32)
                row[~rules.allowed] = row.min() - 1
        return scores


def measure_rules(
    target: Path, file: Path, *, attribute: str = "", seed: int | None = None, watcher: Watcher | None = None
) -> dict[str, Any]:
    """Evaluate a run with and without a rule file.

    Args:
        target: a run directory.
        attribute: "age", "occupation" or "gender": users are in the group of the file that is called as their label,
            such as "under 18" or "student". "" = nobody is in a group.
        seed: of ties and intervals; None = the run's.
    Returns:
        "rules": their number; "allowed": items that everybody may be shown; "users": group -> users; "forbidden":
        share of the users' held-out warm items that the rules forbid them; "figures": path -> "without", "with" and
        "difference" (paired).
    Raises:
        ConfigError, DataError, BundleError: no run or rule file, an attribute or a group that there is not.
    """
    watcher = watcher or Watcher()
    file_rules = read_rules(file)
    run = open_finished(target, watcher)
    seed = run.config.run.seed if seed is None else seed
    groups = user_groups(run, file_rules, attribute)
    rules = {name: file_rules.apply(run.catalog, name) for name in {"", *groups.tolist()}}
    watcher.step("evaluating without the rules")
    without = evaluate(run.scorer, run.split, run.dataset, seed=seed)
    watcher.step("evaluating with the rules")
    ruled = evaluate(RuledScorer(run.scorer, rules, groups), run.split, run.dataset, seed=seed)
    return {
        "seed": seed,
        "rules": len(file_rules.rules),
        "allowed": int(rules[""].allowed.sum()),
        "items": len(run.catalog),
        "users": {name: int((groups == name).sum()) for name in sorted(rules)},
        "forbidden": _forbidden(run, rules, groups, seed),
        "figures": _figures(without, ruled, seed),
    }


def user_groups(run: FinishedRun, file: RuleFile, attribute: str) -> Labels:
    """(users,) the group of the file that each user is in, "" for none.

    Raises:
        ConfigError: the data tell no such attribute, or the file names a group that no user is in.
    """
    named = {rule.group for rule in file.rules if rule.group}
    if not attribute:
        return np.full(len(run.dataset), "", dtype="<U40")
    if attribute not in ATTRIBUTES:
        raise ConfigError(f"expected --group-by to be one of {', '.join(ATTRIBUTES)}, got {attribute!r}")
    labels = read_user_attributes(run.config.data, run.dataset).get(attribute)
    if labels is None:
        raise ConfigError(f"the data of this run tell no {attribute} of users; leave out --group-by")
    if unknown := named - set(labels.tolist()):
        have = ", ".join(sorted({label for label in labels.tolist() if label}))
        raise ConfigError(
            f"no user is in the group {sorted(unknown)[0]!r} of the rules; by {attribute} there are: {have}"
        )
    return np.where(np.isin(labels, sorted(named)), labels, "")


def _forbidden(run: FinishedRun, rules: Mapping[str, AppliedRules], groups: Labels, seed: int) -> metrics.Figure | None:
    cases = run.split.cases.get("warm", ())
    if not cases:
        return None
    shares = [float((~rules[str(groups[case.user])].allowed[case.targets]).mean()) for case in cases]
    owners: NDArray[np.int64] = np.array([case.user for case in cases])
    return metrics.figures_of({"forbidden": np.array(shares)}, owners, seed=seed)["forbidden"]


def _figures(without: Evaluation, ruled: Evaluation, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in FIGURES:
        if path not in without.per_user:
            continue
        before, after = figure(without.figures, path), figure(ruled.figures, path)
        found[path] = {"without": before, "with": after, "difference": paired(ruled, without, path, seed=seed)}
    if without.lists:
        found["coverage@10"] = {"without": without.figures["coverage@10"], "with": ruled.figures["coverage@10"]}
    return found
