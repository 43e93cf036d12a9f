"""The attack on what clients release before round 1: popularity counts and co-occurrence statistics.

Counts without noise name a client's films: they are the ones above zero. With noise, the neighbour test knows
everything but one film, and its TPR - FPR must stay under the cap of the claim for one interaction. What a release
holds is made by the client's and the trusted server's own code; this file only looks. Updates are attack.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hushrec.client.popularity import popularity_counts
from hushrec.client.rows import Row
from hushrec.client.statistics import co_occurrence
from hushrec.common.budget import noise_on_server, popularity_events, statistics_events
from hushrec.common.config import RunConfig
from hushrec.common.metrics import Figure, figures_of
from hushrec.common.privacy import PrivacyEvent, epsilon_rdp, solve_noise_multiplier
from hushrec.common.protocol import Field
from hushrec.server.central_privacy import clip
from hushrec.simulations.audit.check import Check
from hushrec.simulations.audit.membership import CuriousServer, Floats, Victim
from hushrec.simulations.audit.observer import throwaway_mechanism
from hushrec.simulations.audit.roc import Game, Guesses, Points, advantage_cap

RELEASES = "attack on the releases before round 1"
PLAYS = 300  # of the neighbour test, in and out, so that an advantage of 0.1 above the cap is seen
_QUIET = 1e-9  # a noise multiplier that stands for none; 0 is refused, as it should be
_CLAIM = (
    "without noise a client's popularity counts name its films; with it, no test of one release tells whether one film "
    "was in with TPR - FPR above (e^epsilon - 1 + 2 delta)/(e^epsilon + 1), epsilon being that of replacing one "
    "interaction"
)
_SIGMA = {"counts": "privacy__popularity_noise_multiplier", "statistics": "privacy__statistics_noise_multiplier"}


@dataclass(frozen=True, eq=False)
class _Release:
    """One release of one client, as whoever the claim is against sees it."""

    server: CuriousServer
    field: Field
    config: RunConfig
    event: PrivacyEvent

    def seen(self, victims: Sequence[Victim]) -> list[Floats]:
        """(d,) of each client alone, what leaves it, or the trusted server; the others are known, and subtracted."""
        items = len(self.server.model.prefix)
        if self.field == "counts":
            updates = popularity_counts(victims, items, self.config.privacy)
        else:
            updates = co_occurrence(self.server.model, np.zeros(items, np.float32), victims, self.config)
        if not noise_on_server(self.config.privacy):
            return [update.arrays[self.field].astype(np.float64) for update in updates]
        sums = [clip(update.arrays, 1.0)[self.field].astype(np.float64) for update in updates]
        with throwaway_mechanism(self.config) as central:
            return [central.noised(total, self.event) for total in sums]

    def with_noise(self, sigma: float) -> _Release:
        """The same with other noise."""
        config = self.config.replace(**{_SIGMA[self.field]: sigma})
        return _Release(self.server, self.field, config, PrivacyEvent(sigma, 1.0, 1, self.event.kind))

    def game(self, pairs: Sequence[tuple[Victim, Victim]]) -> Game:
        """The likelihood-ratio test between neighbours, as often as PLAYS says."""
        played = [pairs[play % len(pairs)] for play in range(PLAYS)]
        one, other = ([pair[side] for pair in played] for side in (0, 1))
        quiet = self.with_noise(_QUIET)
        scores: list[tuple[float, float]] = []
        for bare, changed, first, second in zip(
            *map(quiet.seen, (one, other)), *map(self.seen, (one, other)), strict=True
        ):
            apart, middle = bare - changed, (bare + changed) / 2
            scores.append((float((first - middle) @ apart), float((second - middle) @ apart)))
        inside, outside = np.array(scores).T
        return Game(inside, outside)


def attack_releases(
    server: CuriousServer,
    config: RunConfig,
    victims: Sequence[Victim],
    calibration: float,
    rng: np.random.Generator,
    progress: Callable[[str], None],
) -> tuple[list[Check], dict[str, Points]]:
    """Attack every release that the run makes before round 1.

    Args:
        victims: two at least, with the rows that the run's mechanism clips.
        calibration: epsilon of one interaction at which a fault shows most.
    Returns:
        One check, none where the run makes no such release; name -> (FPR, TPR) points.
    """
    releases = [_Release(server, "counts", config, event) for event in popularity_events(config.privacy)]
    releases += [_Release(server, "statistics", config, event) for event in statistics_events(config)]
    pairs = _neighbours(server, victims, rng)
    if not releases or not pairs:
        return [], {}
    figures: dict[str, Any] = {}
    curves: dict[str, Points] = {}
    delta = config.privacy.target_delta
    sigma = solve_noise_multiplier(calibration, delta, 1.0, 1, relation="replace_one")
    for release in releases:
        for level, seen in (("at calibration", release.with_noise(sigma)), ("at the run's noise", release)):
            progress(f"attack: {release.field} {level}")
            name, game = f"{release.field} {level}", seen.game(pairs)
            epsilon = epsilon_rdp([seen.event], delta, "replace_one")
            figures[name] = {"epsilon": epsilon, "delta": delta, "noise_multiplier": seen.event.noise_multiplier}
            figures[name] |= {"cap": advantage_cap(epsilon, delta), "advantage": game.advantage(), "plays": PLAYS}
            curves[f"one film, {name}"] = game.curve()
            if release.field == "counts":
                figures[name]["films"] = _enumerated(seen, victims)
    if releases[0].field == "counts":
        figures["counts without noise"] = {"films": _enumerated(releases[0].with_noise(_QUIET), victims)}
    return [_check(figures)], curves


def _neighbours(
    server: CuriousServer, victims: Sequence[Victim], rng: np.random.Generator
) -> list[tuple[Victim, Victim]]:
    """Each victim's shortest row of two films or more, and the same with one film exchanged for an unseen one."""
    pairs = []
    for victim in victims:
        row = min((r for r in victim.rows if len(np.unique(r.items)) > 1), key=lambda r: len(r.items), default=None)
        unseen = np.setdiff1d(server.films, victim.watched)
        if row is None or len(unseen) == 0:
            continue
        changed = Row(row.key, np.where(row.items == rng.choice(row.items), rng.choice(unseen), row.items))
        pairs.append((Victim(victim.client, (row,), victim.watched), Victim(victim.client, (changed,), victim.watched)))
    return pairs


def _enumerated(release: _Release, victims: Sequence[Victim]) -> dict[str, Figure]:
    """How well the largest counts name each victim's films: recall@|H| and AUC, with intervals over victims."""
    films = [np.unique(np.concatenate([row.items for row in victim.rows])).astype(np.int64) for victim in victims]
    guesses = Guesses.of(release.seen(victims), films, 0)
    values = {"recall": guesses.recalls, "chance": guesses.chances, "auc": guesses.areas}
    return figures_of(values, np.arange(len(victims)), seed=0)


def _check(figures: dict[str, Any]) -> Check:
    levels = {name: found for name, found in figures.items() if "cap" in found}
    problems = [
        f"{name} reveals more than claimed"
        for name, found in levels.items()
        if found["advantage"]["low"] > found["cap"]
    ]
    parts = [
        f"{name} (epsilon {found['epsilon']:.3g}) the advantage is {found['advantage']['mean']:.3f} "
        f"[{found['advantage']['low']:.3f}, {found['advantage']['high']:.3f}], cap {found['cap']:.4g}"
        + (f", and {100 * found['films']['recall']['mean']:.3g} % of the films are named" if "films" in found else "")
        for name, found in levels.items()
    ]
    if bare := figures.get("counts without noise"):
        named = bare["films"]["recall"]["mean"]
        parts.append(f"without noise the counts name {100 * named:.3g} % of the films")
        if named < 1.0:
            problems.append("the audit is unusable: counts without noise must name every film, or the attack is broken")
    return Check(RELEASES, "VIOLATED" if problems else "holds", _CLAIM, "; ".join(problems + parts), figures)
