"""The final table: hushrec beside every control on the same cases, with intervals, paired differences and the price.

This is the simulation's view: it looks at training users' held-out items, which no ledger covers. A deployment sees
the panel only.
"""

from __future__ import annotations

import platform
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hushrec.client.store import count_clients
from hushrec.common.budget import enforced_claim, is_private
from hushrec.common.calibration import CalibratedScorer
from hushrec.common.config import RunConfig
from hushrec.common.interactions import Dataset
from hushrec.common.ledger import read_ledger
from hushrec.common.privacy import PrivacyEvent, report
from hushrec.common.protocol import Arrays
from hushrec.common.scorer import LMScorer
from hushrec.common.scoring import ScoringChoices
from hushrec.common.splits import COLD_USER_HISTORIES, Split
from hushrec.common.workspace import Model, open_dataset, open_split, shared_graph, shared_model
from hushrec.server.checkpoint import Checkpoint
from hushrec.server.controls import Scorer, fit_controls
from hushrec.server.evaluation import Evaluation, evaluate, paired
from hushrec.server.ranking import counts_validate
from hushrec.server.snapshots import read_snapshots
from hushrec.simulations.click import CLICK, click_system
from hushrec.simulations.continual import continual_section
from hushrec.simulations.distillation import STUDENT, STUDENT_FOLDER, student_system, validated
from hushrec.simulations.dp_popularity import dp_popularity
from hushrec.simulations.ensemble import ensemble_system
from hushrec.simulations.frozen import (
    best_choices,
    best_graph,
    choices_grid,
    cold_start_choices,
    frozen_scorer,
    profile_texts,
    profile_vectors,
)
from hushrec.simulations.interest_evaluation import has_dated_texts, interest_system
from hushrec.simulations.per_user import PER_USER, write_per_user

Step = Callable[[str], None]
Spent = Mapping[str, Sequence[PrivacyEvent]]
COMPARED = (
    "warm/HR@10",
    "warm/NDCG@10",
    "warm/sampled99_HR@10",
    "warm/sampled99_NDCG@10",
    "warm/AUC",
    "tail/NDCG@10",
    "cold_items/Recall@20",
    "cold_items/NDCG@20",
    "cold_items/Recall@20_all",
    "cold_items/NDCG@20_all",
    *(f"cold_users/{h}/{figure}" for h in COLD_USER_HISTORIES for figure in ("Recall@20", "NDCG@20")),
)
_NO_TIMES = (
    "the data have no times: a user's interactions are in a seeded random order, so the last one is one drawn at "
    "random, recency means nothing, and privacy can be claimed per user only."
)
_NO_CLOCK = "the data give an order but no clock times, so privacy can be claimed per user only."
_NOT_VALIDATED = (
    "no count says anything about a cold item, so item_knn, ease and ease_recency have default settings instead of "
    "validated ones, and rank cold items at random."
)


def evaluate_run(
    config: RunConfig,
    untrained: Arrays,
    adapter: Arrays,
    checkpoint: Checkpoint,
    step: Step,
    spent: Spent | None = None,
) -> tuple[dict[str, Any], ScoringChoices]:
    """results.json of a finished run, and the validated choices that go into its bundle.

    Args:
        untrained: the adapter before round 1.
        adapter: what is evaluated and shipped.
        step: told what is being computed, for the progress display.
        spent: client -> what was charged to it; None: the run directory's ledger says it.
    """
    model = shared_model(config.model, config.data)
    kept: dict[str, Evaluation] = {}
    members = read_snapshots(Path(config.run.directory), checkpoint.server_round)
    prior = checkpoint.log_popularity
    students = Path(config.run.directory) / STUDENT_FOLDER
    results, choices = compare_systems(config, model, untrained, adapter, prior, step, kept, members, students)
    write_per_user(Path(config.run.directory) / PER_USER, kept)
    results["dataset"]["clients"] = count_clients(config)
    if config.data.window_ends:
        results["continual"] = continual_section(config, untrained, checkpoint, step)
    return results | {
        "privacy": privacy_section(config, spent),
        "cost": cost_section(config, checkpoint),
        "config": {key: value for key, value in config.to_flat().items() if key != "run.directory"},
    }, choices


def compare_systems(
    config: RunConfig,
    model: Model,
    untrained: Arrays,
    adapter: Arrays,
    prior: NDArray[np.float32],
    step: Step,
    kept: dict[str, Evaluation] | None = None,
    members: Sequence[Arrays] = (),
    students: Path | None = None,
) -> tuple[dict[str, Any], ScoringChoices]:
    """The part of results.json that looks at data and systems only, and the validated choices.

    Args:
        config: its data, seed and privacy mechanism are read.
        model: on the catalogue of that data.
        prior: float32 (items,), the log popularity that both language-model systems use.
        kept: gets the evaluations with their values per user.
        members: adapters of the run's snapshots; an ensemble of them is evaluated, too.
        students: where the student that `model.student-layers` asks for is written; None: none is taught.
    """
    dataset, split, seed = open_dataset(config.data), open_split(config.data), config.run.seed
    systems: dict[str, Scorer] = {}
    chosen: dict[str, dict[str, Any]] = {}
    for name, control in fit_controls(split, seed=seed, step=lambda name: step(f"control {name}")).items():
        systems[name], chosen[name] = control, dict(control.choices)
        if name == "popularity" and is_private(config):
            systems["dp_popularity"], chosen["dp_popularity"] = dp_popularity(config)
    step("control frozen_lm")
    frozen, found = frozen_scorer(model, untrained, prior, split, seed)
    frozen = frozen.with_profiles(profile_vectors(model, dataset, split))  # by the encoder that is set: untrained
    step("hushrec")
    ours = trained_scorer(config, model, adapter, prior, split)
    ours = ours.with_profiles(profile_vectors(model, dataset, split))
    if (graph := shared_graph(config.model, config.data)) is not None:
        plain = cold_start_choices(ours, split, dataset, seed)
        systems["hushrec_no_graph"], chosen["hushrec_no_graph"] = plain, asdict(plain.choices)
        frozen, ours = (best_graph(scorer, graph, split, seed) for scorer in (frozen, ours))
        found["graph_weight"] = frozen.choices.graph_weight
    frozen, ours = (cold_start_choices(scorer, split, dataset, seed) for scorer in (frozen, ours))
    systems |= {"frozen_lm": frozen, "hushrec": ours}
    if config.evaluation.interests and has_dated_texts(dataset):
        step("interests")
        fused, found_interests = interest_system(ours, model, adapter, dataset, split, seed)
        systems[fused.name], chosen[fused.name] = fused, found_interests
    if members:
        step("ensemble of snapshots")
        ensemble = ensemble_system(config, model, members, prior, dataset, split)
        systems[ensemble.name], chosen[ensemble.name] = ensemble, {"members": len(members), **asdict(ensemble.choices)}
    if config.evaluation.calibration:
        calibrated = CalibratedScorer(ours, config.evaluation.calibration)
        systems[calibrated.name], chosen[calibrated.name] = calibrated, {"calibration": calibrated.strength}
    sections: dict[str, Any] = {}
    if config.model.student_layers and students is not None:
        step("teaching a student")
        profiles = profile_texts(dataset, split)
        taught, facts = student_system(model, adapter, ours, dataset.catalog, profiles, students)
        systems[STUDENT], sections = taught, {"student": facts | {"validation": validated(ours, taught, split, seed)}}
    found |= {
        name: asdict(frozen.choices)[name] for name in ("short_popularity_weight", "new_item_decay", "profile_weight")
    }
    chosen |= {"frozen_lm": found, "hushrec": asdict(ours.choices)}
    evaluations: dict[str, Evaluation] = {}
    for name, scorer in systems.items():
        step(f"evaluating {name}")
        evaluations[name] = evaluate(scorer, split, dataset, seed=seed)
    choices, notes = replace(ours.choices, calibration=config.evaluation.calibration), _notes(dataset, split)
    if config.model.click:
        step("re-ranking by clicks")
        click, evaluations[CLICK], section, more = click_system(model, adapter, ours, split, dataset, seed)
        chosen[CLICK], sections["click"], notes = asdict(click.choices), section, [*notes, *more]
        choices = replace(click.choices, calibration=choices.calibration)
    if kept is not None:
        kept.update(evaluations)
    results = {
        "experiment": config.run.experiment,
        "dataset": {
            "name": dataset.name,
            "users": len(dataset),
            "items": len(dataset.catalog),
            "interactions": int(sum(map(len, dataset.histories))),
            "training_users": len(split.train),
        },
        "protocol": config.data.protocol,
        "seed": seed,
        "systems": {name: evaluation.figures for name, evaluation in evaluations.items()},
        "paired": paired_differences(evaluations, seed),
        "choices": chosen,
        "notes": notes,
    } | sections
    return results, choices


def _notes(dataset: Dataset, split: Split) -> list[str]:
    """What a reader must know about this data under this protocol, one sentence each."""
    notes = {"none": [_NO_TIMES], "position": [_NO_CLOCK], "seconds": []}[dataset.time_unit]
    return notes if counts_validate(split) else [*notes, _NOT_VALIDATED]


def trained_scorer(
    config: RunConfig, model: Model, adapter: Arrays, prior: NDArray[np.float32], split: Split
) -> LMScorer:
    """hushrec with recency and popularity weight chosen on validation from the same grid as the frozen control."""
    start = ScoringChoices(config.model.recency_decay, history_length=config.model.history_length)
    scorer = LMScorer("hushrec", model, adapter, prior, start)
    return best_choices(scorer, choices_grid(start, split), split, config.run.seed)[1]


def paired_differences(evaluations: dict[str, Evaluation], seed: int) -> dict[str, Any]:
    """hushrec minus every other system, on the same cases."""
    ours, differences = evaluations["hushrec"], {}
    for name, other in evaluations.items():
        if name != "hushrec":
            differences[f"hushrec - {name}"] = {
                figure: paired(ours, other, figure, seed=seed)
                for figure in COMPARED
                if figure in ours.per_user and figure in other.per_user
            }
    return differences


def privacy_section(config: RunConfig, spent: Spent | None = None) -> dict[str, Any]:
    """What the client that spent most has spent; `spent` as for `evaluate_run`."""
    privacy = config.privacy
    if not is_private(config):
        return {
            "mechanism": "none",
            "unit": None,
            "relation": None,
            "epsilon": None,
            "delta": None,
            "accountant": None,
            "trust": "NO PRIVACY: updates leave the clients in the clear; for research only",
        }
    claim = enforced_claim(privacy)
    if spent is None:
        ledger = read_ledger(Path(config.run.directory) / "ledger.jsonl")
        spent = {client: ledger.events(client) for client in ledger.clients()}
    worst = max(spent.values(), key=claim.epsilon, default=())
    return {
        "mechanism": privacy.mechanism,
        **{key: value for key, value in report(worst, claim).items() if key != "mechanism"},
        "noise_added_by": claim.mechanism,
        "clients_charged": len(spent),
        "noise_multiplier": privacy.noise_multiplier,
        "max_grad_norm": privacy.max_grad_norm,
        "record_span": privacy.record_span if privacy.unit == "record" else None,
    }


def cost_section(config: RunConfig, checkpoint: Checkpoint) -> dict[str, Any]:
    """Seconds, bytes and memory. Bytes are those of one client's messages, however the cohort was executed."""
    facts, rounds = checkpoint.facts, max(1, checkpoint.server_round)
    seconds = float(facts["seconds"])
    return {
        "seconds": round(seconds, 2),
        "rounds": checkpoint.server_round,
        **({"best_round": facts["best"]["round"]} if "best" in facts else {}),
        "seconds_per_round": round(seconds / rounds, 3),
        "client_steps_per_second": round(facts["client_steps"] / seconds, 2) if seconds else 0.0,
        "bytes_up_per_client_round": facts["bytes_up"],
        "bytes_down_per_client_round": facts["bytes_down"],
        "bytes_up_per_client_in_releases": facts.get("release_bytes_up", 0),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "refused": facts["refused"],
        "machine": f"{platform.machine()}, {config.run.threads or 'all'} threads, {platform.system()}",
    }
