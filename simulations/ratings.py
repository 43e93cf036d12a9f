"""Explicit rating prediction: RMSE and MAE of central controls and of prediction on the device, with intervals.

It ranks nothing and trains no adapter. Every choice is made on the validation ratings; a test rating is read once.

Which system may know what:

- global_mean, biases, mf: central controls, fitted on everybody's ratings in the clear.
- device, device_text, device_graph: prediction on the device over item biases that a centre counted in the clear, so
  these are central controls too; they say what text and graph add to the best prior.
- local_text, local_graph: nothing leaves the device and nothing is released; epsilon is 0.
- private_text, private_graph: the item biases come from one noised release, charged to the ledger before it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hushrec.common.budget import enforced_claim
from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError
from hushrec.common.item_graph import GRAPH_WEIGHTS, ItemGraph
from hushrec.common.ledger import Ledger, LedgerHeader
from hushrec.common.metrics import LEVEL, bootstrap_means, figures_of
from hushrec.common.privacy import PrivacyEvent, check_delta, report, require_budget, solve_noise_multiplier
from hushrec.common.rating_model import RatingChoices, predict_rating
from hushrec.common.run_ledger import LEDGER
from hushrec.common.workspace import open_dataset, open_split, shared_graph, shared_model
from hushrec.server.central_privacy import SERVER
from hushrec.server.ratings import (
    RatingCases,
    fit_biases,
    fit_factors,
    rating_cases,
    released_item_biases,
    smoothed_item_biases,
)

Floats = NDArray[np.float64]
ITEM_RIDGES, USER_RIDGES = (0.5, 1.0, 2.0, 5.0, 10.0), (1.0, 3.0, 5.0, 10.0)
RANKS, FACTOR_RIDGES = (4, 8, 16, 32), (3.0, 10.0, 30.0)
TEXT_RIDGES, RELEASE_RIDGES = (1.0, 10.0, 100.0), (1.0, 3.0, 10.0, 30.0)
DEVICE_GRID = {
    "level": (0.03, 0.1, 0.3, 1.0, 3.0),
    "drift": (0.0, 0.03, 0.1, 0.3),
    "memory": (0.7, 0.8, 0.9, 0.95),
    "taste": (0.0, 0.03, 0.1, 0.3, 1.0),
}
CLEAR, LOCAL, RELEASED = "central, no privacy", "nothing leaves the device", "one noised release"
BASELINE = "biases"
# What each comparison isolates: all of it, the text, the graph.
COMPARED = (
    ("device_text", BASELINE),
    ("device_text", "mf"),
    ("device", BASELINE),
    ("device_text", "device"),
    ("device_graph", "device_text"),
    ("local_text", BASELINE),
    ("local_graph", "local_text"),
    ("private_text", BASELINE),
    ("private_text", "device_text"),
    ("private_graph", "private_text"),
)


@dataclass(frozen=True, eq=False)
class Prediction:
    """One system's answers to the test cases, in their order, and how it came to them."""

    ratings: Floats
    trust: str
    choices: dict[str, float] = field(default_factory=dict)


def evaluate_ratings(config: RunConfig, folder: Path, step: Callable[[str], None]) -> dict[str, Any]:
    """The table of every system.

    Args:
        config: its data (protocol p1), model, graph and privacy are read; "central" adds the private systems.
        folder: gets the ledger of the release.
        step: told what is being computed.
    Returns:
        "systems": name -> {"RMSE", "MAE", "trust", "choices"}; "paired": "a - b" -> difference of RMSE with its
        interval over users; "privacy": the report of the release, or None; "experiment", "dataset", "seed", "cases".
    Raises:
        ConfigError: another protocol, or a privacy mechanism under which nothing is released here.
        DataError: no ratings, or no knowledge graph where one is asked for.
    """
    if config.data.protocol != "p1":
        raise ConfigError('ratings are predicted one per user, in time order: set data.protocol = "p1"')
    if config.privacy.mechanism == "gaussian":
        raise ConfigError(
            'the release of item biases is by a trusted server: set privacy.mechanism = "central", or "none" for none'
        )
    step("loading the language model and encoding the catalogue")
    dataset, split = open_dataset(config.data), open_split(config.data)
    validation, test = (rating_cases(dataset, split, group) for group in ("validation", "warm"))
    graph = shared_graph(config.model, config.data)
    study = _Study(validation, test, shared_model(config.model, config.data).start, graph, config.run.seed)
    found, privacy = study.central(step), None
    if config.privacy.mechanism == "central":
        step("the noised release")
        sums, privacy = _release(config, validation, folder, study.scale)
        found |= study.private(*sums, step)
    return {
        "experiment": config.run.experiment,
        "dataset": dataset.name,
        "graph": config.model.graph,
        "seed": config.run.seed,
        "cases": len(test.users),
        "systems": {name: _figures(one, test, config.run.seed) for name, one in found.items()},
        "paired": {
            f"{a} - {b}": _paired(found[a].ratings, found[b].ratings, test, config.run.seed)
            for a, b in COMPARED
            if a in found and b in found
        },
        "privacy": privacy,
    }


class _Study:
    """The systems, each chosen on validation and asked the test cases once."""

    def __init__(
        self,
        validation: RatingCases,
        test: RatingCases,
        vectors: NDArray[np.float32],
        graph: ItemGraph | None,
        seed: int,
    ) -> None:
        self.validation, self.test, self._graph, self._seed = validation, test, graph, seed
        self._vectors = _unit(vectors)
        # The stars a platform offers are public; here they are read off the data.
        stars = np.concatenate([h.ratings for h in test.histories if h.ratings is not None])
        self.scale = (float(stars.min()), float(stars.max()))

    def central(self, step: Callable[[str], None]) -> dict[str, Prediction]:
        """Controls that see everybody's ratings, and the device over their item biases."""
        step("biases and matrix factorisation")
        cases, n = (self.validation, self.test), len(self._vectors)
        mean = [float(fit_biases(c.histories, n, item_ridge=1.0, user_ridge=1.0).mean) for c in cases]
        found = {"global_mean": self._asked(np.full(len(self.test.users), mean[1]), CLEAR)}
        fits = {
            (i, u): fit_biases(cases[0].histories, n, item_ridge=i, user_ridge=u)
            for i, u in product(ITEM_RIDGES, USER_RIDGES)
        }
        best = min(fits, key=lambda key: self._error(fits[key].predict(cases[0].users, cases[0].targets)))
        biases = fit_biases(cases[1].histories, n, item_ridge=best[0], user_ridge=best[1])
        chosen = {"item_ridge": best[0], "user_ridge": best[1]}
        found[BASELINE] = self._asked(biases.predict(self.test.users, self.test.targets), CLEAR, chosen)

        def factors(rank: int, ridge: float, place: int) -> Floats:
            base = (fits[best], biases)[place]
            fitted = fit_factors(cases[place].histories, base, rank=rank, ridge=ridge, seed=self._seed)
            return fitted.predict(cases[place].users, cases[place].targets)

        rank, ridge = min(product(RANKS, FACTOR_RIDGES), key=lambda pair: self._error(factors(pair[0], pair[1], 0)))
        found["mf"] = self._asked(factors(rank, ridge, 1), CLEAR, {**chosen, "rank": rank, "ridge": ridge})
        priors = (fits[best].mean + fits[best].items, biases.mean + biases.items)
        step("the device without text")
        found["device"] = self._device(priors, CLEAR, self._vectors, {"taste": (0.0,)}, chosen)[0]
        return found | self._both("device", priors, CLEAR, step, chosen)

    def private(self, sums: Floats, weights: Floats, step: Callable[[str], None]) -> dict[str, Prediction]:
        """Prediction on the device over nothing at all, and over one release, which both groups of cases share."""
        middle = np.full(len(self._vectors), sum(self.scale) / 2)
        found = self._both("local", (middle, middle), LOCAL, step, {})

        def prior(text_ridge: float, item_ridge: float) -> Floats:
            biases = smoothed_item_biases(sums, weights, self._vectors, text_ridge=text_ridge, item_ridge=item_ridge)
            return middle + biases

        step("ridges of the release")
        start = RatingChoices(level=1.0)
        text_ridge, item_ridge = min(
            product(TEXT_RIDGES, RELEASE_RIDGES),
            key=lambda pair: self._error(self._predicted(self.validation, prior(*pair), self._vectors, start)),
        )
        chosen = {"text_ridge": text_ridge, "item_ridge": item_ridge}
        released = prior(text_ridge, item_ridge)
        return found | self._both("private", (released, released), RELEASED, step, chosen)

    def _both(
        self,
        name: str,
        priors: tuple[Floats, Floats],
        trust: str,
        step: Callable[[str], None],
        chosen: dict[str, float],
    ) -> dict[str, Prediction]:
        """With text, and with text averaged over the graph at the weight that validation prefers."""
        step(f"{name}, with text")
        text, choices = self._device(priors, trust, self._vectors, {}, chosen)
        found = {f"{name}_text": text}
        if self._graph is None:
            return found
        step(f"{name}, with the graph")
        # A device reads the rows of its history's ego graph; they equal those of the propagated catalogue.
        candidates = {w: _unit(self._graph.propagate(self._vectors.astype(np.float32), w)) for w in GRAPH_WEIGHTS}

        def error(weight: float) -> float:
            return min(
                self._error(self._predicted(self.validation, priors[0], candidates[weight], other))
                for other in (replace(choices, taste=choices.taste * factor) for factor in (1.0, 2.0))
            )

        weight = min(candidates, key=error)
        fixed = {"memory": (choices.memory,), "drift": (choices.drift,), "level": (choices.level,)}
        known = {**chosen, "graph_weight": weight}
        found[f"{name}_graph"] = self._device(priors, trust, candidates[weight], fixed, known)[0]
        return found

    def _device(
        self,
        priors: tuple[Floats, Floats],
        trust: str,
        vectors: Floats,
        fixed: Mapping[str, tuple[float, ...]],
        known: dict[str, float],
    ) -> tuple[Prediction, RatingChoices]:
        """Choose one variance after the other, twice, on validation with the first prior; answer with the second."""
        choices = replace(RatingChoices(), **{name: values[0] for name, values in fixed.items()})
        for name, values in [*DEVICE_GRID.items(), *DEVICE_GRID.items()]:
            tried = [replace(choices, **{name: value}) for value in fixed.get(name, values)]
            if len(tried) > 1:
                choices = min(
                    tried, key=lambda one: self._error(self._predicted(self.validation, priors[0], vectors, one))
                )
        answers = self._predicted(self.test, priors[1], vectors, choices)
        return self._asked(answers, trust, {**known, **asdict(choices)}), choices

    def _predicted(self, cases: RatingCases, prior: Floats, vectors: Floats, choices: RatingChoices) -> Floats:
        asked: Iterable[tuple[int, int]] = zip(cases.users.tolist(), cases.targets.tolist(), strict=True)
        return np.array([predict_rating(cases.histories[u], i, prior, vectors, choices) for u, i in asked])

    def _asked(self, answers: Floats, trust: str, choices: dict[str, float] | None = None) -> Prediction:
        return Prediction(np.clip(answers, *self.scale), trust, choices or {})

    def _error(self, answers: Floats) -> float:
        """Validation mean squared error."""
        return float(np.mean((np.clip(answers, *self.scale) - self.validation.ratings) ** 2))


def _release(
    config: RunConfig, cases: RatingCases, folder: Path, scale: tuple[float, float]
) -> tuple[tuple[Floats, Floats], dict[str, Any]]:
    """Pay, then release: of the training ratings alone, so that the same release serves validation and test."""
    privacy, n_users = config.privacy, len(cases.histories)
    check_delta(privacy.target_delta, n_users)
    claim = enforced_claim(privacy)
    event = PrivacyEvent(
        solve_noise_multiplier(privacy.target_epsilon, privacy.target_delta, 1.0, 1), 1.0, 1, "statistics"
    )
    header = LedgerHeader.for_claim(
        claim, who="rating release, one row per user", clipping_norm=float(np.sqrt(2)), denominator=1.0, plan=(event,)
    )
    with Ledger.open(folder / LEDGER, header) as ledger:
        require_budget(ledger.events(SERVER), event, claim)
        ledger.release([SERVER], event, "item biases of the rating prediction")
        events = ledger.events(SERVER)
    n_items = len(open_dataset(config.data).catalog)
    spread = (scale[1] - scale[0]) / 2 or 1.0
    sums = released_item_biases(cases.histories, n_items, noise_multiplier=event.noise_multiplier, spread=spread)
    return sums, report(events, claim)


def _unit(vectors: NDArray[np.floating]) -> Floats:
    """float64 of mean squared norm 1."""
    wide = vectors.astype(np.float64)
    scaled: Floats = wide / (np.sqrt(np.mean(np.sum(wide**2, axis=1))) or 1.0)
    return scaled


def _figures(one: Prediction, cases: RatingCases, seed: int) -> dict[str, Any]:
    """RMSE and MAE with intervals over users. The root is monotone, so it maps the ends of the interval, too."""
    errors = one.ratings - cases.ratings
    figures = figures_of({"RMSE": errors**2, "MAE": np.abs(errors)}, cases.users, seed=seed)
    figures["RMSE"] = {end: float(np.sqrt(value)) for end, value in figures["RMSE"].items()}
    return {**figures, "trust": one.trust, "choices": one.choices}


def _paired(a: Floats, b: Floats, cases: RatingCases, seed: int) -> dict[str, Any]:
    """RMSE(a) - RMSE(b), and how often it is so over resampled users."""
    squares = np.stack([(a - cases.ratings) ** 2, (b - cases.ratings) ** 2], axis=1)
    drawn = np.sqrt(bootstrap_means(squares, cases.users, seed=seed))
    low, high = np.quantile(drawn[:, 0] - drawn[:, 1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    roots = np.sqrt(squares.mean(axis=0))
    verdict = "below" if high < 0 else "above" if low > 0 else "indistinguishable"
    return {"mean": float(roots[0] - roots[1]), "low": float(low), "high": float(high), "verdict": verdict}
