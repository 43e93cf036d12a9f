"""The system `hushrec_click`: hushrec re-ranked by its click model, with weights chosen on the validation cases.

It trains nothing; common/click_scorer.py does the ranking, server/evaluation.py the figures.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

from hushrec.common.click_scorer import ClickScorer
from hushrec.common.interactions import Dataset
from hushrec.common.protocol import Arrays
from hushrec.common.reranking import RERANKED
from hushrec.common.scorer import LMScorer
from hushrec.common.scoring import ScoringChoices
from hushrec.common.splits import Split
from hushrec.common.workspace import Model
from hushrec.server.evaluation import Evaluation, evaluate
from hushrec.server.ranking import validation_ndcg
from hushrec.simulations.frozen import profile_texts

CLICK = "hushrec_click"
WEIGHTS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)  # of the standardised logit beside the standardised score; 0: unchanged
_PLAIN = (
    "hushrec_click: the click model's order alone, of the first {k} candidates, gives a warm NDCG@10 of {plain:.4f} "
    "(hushrec {ours:.4f})."
)


def click_system(
    model: Model, adapter: Arrays, ours: LMScorer, split: Split, dataset: Dataset, seed: int
) -> tuple[ClickScorer, Evaluation, dict[str, Any], list[str]]:
    """hushrec_click, its evaluation, the "click" section of results.json, and what a reader must know.

    The section: "validation", choice -> weight -> NDCG; "seconds" of all re-ranking; "cases" that were re-ranked.

    Args:
        adapter: of `ours`, with a click head; the model holds it afterwards.
    """
    model.recommender.write(adapter)
    started = time.monotonic()
    click, tried = validated_click(
        ClickScorer(ours, model, profile_texts(dataset, split), split.candidates["validation"]), split, seed
    )
    evaluation = evaluate_click(click, split, dataset, seed)
    cases, seconds = sum(len(found) for found in split.cases.values()), time.monotonic() - started
    section = {"validation": tried, "cases": cases, "seconds": round(seconds, 1)}
    if "warm" not in evaluation.figures:
        return click, evaluation, section, []
    warm = split.candidates["warm"]
    plain, before = (
        evaluate(scorer, split, dataset, seed=seed, groups=["warm"]).figures["warm"]["NDCG@10"]["mean"]
        for scorer in (click.among(warm).by_clicks_alone(), ours)
    )
    return click, evaluation, section, [_PLAIN.format(k=RERANKED, plain=plain, ours=before)]


def validated_click(scorer: ClickScorer, split: Split, seed: int) -> tuple[ClickScorer, dict[str, dict[str, float]]]:
    """The weights with the highest validation NDCG, the smaller of equals; that of profiles with histories hidden.

    Returns:
        The scorer; choice -> weight -> validation NDCG.
    """
    hidden = tuple(replace(case, history=case.history.take(slice(0, 0))) for case in split.cases["validation"])
    asked = {"click_weight": split}
    if scorer.has_profiles:
        asked["profile_click_weight"] = replace(split, cases={**split.cases, "validation": hidden})
    found: dict[str, dict[str, float]] = {}
    for name, cases in asked.items():
        values = asdict(scorer.choices)
        tried = {weight: ScoringChoices(**{**values, name: weight}) for weight in WEIGHTS}
        ndcg = {weight: validation_ndcg(scorer.with_choices(one), cases, seed=seed) for weight, one in tried.items()}
        scorer = scorer.with_choices(tried[max(WEIGHTS, key=lambda weight: ndcg[weight])])
        found[name] = {str(weight): round(value, 5) for weight, value in ndcg.items()}
    return scorer, found


def evaluate_click(scorer: ClickScorer, split: Split, dataset: Dataset, seed: int) -> Evaluation:
    """As `evaluate`, the first candidates of every group being re-ranked among those of that group."""
    whole = Evaluation(scorer.name, {}, {}, {})
    for group in (group for group in split.cases if group != "validation"):
        among, groups = scorer.among(split.candidates[group]), ["warm", "tail"] if group == "warm" else [group]
        part = evaluate(among, split, dataset, seed=seed, groups=groups)
        for name, figures in part.figures.items():
            nested = name == "cold_users" and name in whole.figures
            whole.figures[name] = whole.figures[name] | figures if nested else figures
        whole.per_user.update(part.per_user)
        whole.users.update(part.users)
        whole.lists.extend(part.lists)
    return whole
