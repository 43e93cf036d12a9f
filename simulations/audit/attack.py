"""The attack on a client's update: does it tell which films the client watched, without privacy and with it?

Three attacks, by what the attacker knows. Enumeration knows no film of the victim and ranks the whole catalogue
(recall@|H|, AUC, TPR at 1 % FPR). The genre attack looks at the best guesses. The neighbour test knows everything but
one film, and is the one that a claim's cap is about: an (epsilon, delta) claim for one interaction bounds TPR - FPR of
every test between two neighbours, while an enumeration may also use what a user's films have in common. This file
chooses the levels and draws the verdicts; membership.py attacks, enumeration.py and roc.py judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hushrec.client.rows import Row
from hushrec.client.store import count_clients, count_units
from hushrec.common.budget import (
    enforced_claim,
    is_private,
    most_participations,
    noise_on_server,
    release_events,
    training_event,
    with_noise,
)
from hushrec.common.config import RunConfig
from hushrec.common.privacy import PrivacyEvent, epsilon_rdp, solve_noise_multiplier
from hushrec.common.protocol import Arrays
from hushrec.simulations.audit.check import Check, Verdict
from hushrec.simulations.audit.enumeration import Found, enumerate_films, film_table
from hushrec.simulations.audit.membership import (
    CuriousServer,
    Neighbours,
    Victim,
    choose_victims,
    expected_advantage,
    make_neighbours,
    neighbour_scores,
    noise_deviation,
    one_step,
    private_rows,
)
from hushrec.simulations.audit.release_attack import attack_releases
from hushrec.simulations.audit.roc import Game, Points, advantage_cap

VICTIMS, FEWEST = 60, 10
CALIBRATION_EPSILON = 1.0  # of one interaction and one reply; at epsilon = 8 the cap is 0.999 and tests nothing
BROKEN_AUC, BROKEN_RECALL = 0.8, 0.3  # what an attack on open updates must reach to be worth anything
WORKS, FAILS = "attack works", "attack fails under the claim"
_WORKS = (
    f"on an update without privacy the attack reaches AUC >= {BROKEN_AUC} and recall@|H| >= {BROKEN_RECALL} and twice "
    "chance; a weaker attack would show nothing about the private ones"
)
_FAILS = (
    "knowing everything but one film, no test of what is released tells whether it was in with TPR - FPR above "
    "(e^epsilon - 1 + 2 delta)/(e^epsilon + 1), epsilon being that of replacing one interaction"
)


@dataclass(frozen=True, eq=False)
class AttackReport:
    """What the attack found.

    Attributes:
        checks: "attack works", "attack fails under the claim" and, where there are any, that of release_attack.py.
        films: of one victim, by rank without privacy: title, watched, rank_without_privacy, rank_with_privacy (None in
            a run without privacy); the best |H| guesses of both and all films that the open update was computed from.
        curves: name -> (FPR, TPR) points.
    """

    checks: list[Check]
    films: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[str, Points] = field(default_factory=dict)


def _silent(message: str) -> None:
    """Nobody listens."""


def run_attack(config: RunConfig, *, seed: int = 0, progress: Callable[[str], None] = _silent) -> AttackReport:
    """Attack updates that the real training code computes for real clients of the run.

    Args:
        config: resolved, of the audited run. The attacked round is its first: the untrained adapter, one local step.
        seed: chooses victims and films; without privacy everything is determined by it.
        progress: told what starts now.
    Raises:
        HushrecError: the configured data or model cannot be used.
    """
    config = with_noise(config, count_clients(config), count_units(config))
    rng = np.random.default_rng(seed)
    people = choose_victims(config, VICTIMS, rng)
    if len(people) < FEWEST:
        few = f"{len(people)} users have the 5 interactions that an attack needs; at least {FEWEST} are needed"
        return AttackReport([Check(WORKS, "not tested", _WORKS, few), Check(FAILS, "not tested", _FAILS, few)])
    progress("attack: film vectors of the catalogue")
    server = CuriousServer(config, seed)
    progress(f"attack: updates of {len(people)} users without privacy")
    whole = [Victim(client, (Row(key, history.items),), history.items) for client, key, history in people]
    updates = [server.open_update(victim) for victim in whole]
    plain = enumerate_films(server, whole, updates, 0.0, seed)
    if not is_private(config):
        revealed = f"this run claims no privacy, and {_revealed(plain)}"
        neighbours = [] if server.user_map else make_neighbours(server, whole, rng)
        checks = [_works(server, plain, neighbours, seed), Check(FAILS, "not tested", _FAILS, revealed)]
        return AttackReport(checks, film_table(server, plain, None), {"films, without privacy": plain.guesses.curve()})
    victims = [Victim(client, private_rows(key, history, config), history.items) for client, key, history in people]
    return _attack_private(server, victims, config, plain, rng, seed, progress)


def _attack_private(
    server: CuriousServer,
    victims: Sequence[Victim],
    config: RunConfig,
    plain: Found,
    rng: np.random.Generator,
    seed: int,
    progress: Callable[[str], None],
) -> AttackReport:
    """The attacks under noise, beside `plain`, the one without."""
    progress("attack: the exchange of one film, without noise")
    neighbours = make_neighbours(server, victims, rng)
    levels = [_calibrated(config), *([_as_run(config)] if config.federation.rounds else [])]
    for level in levels:
        progress(f"attack: noised updates at {level.name}")
        level.attack(server, victims, neighbours, seed)
    checks = [_works(server, plain, neighbours, seed), _fails(config, levels)]
    last = levels[-1].found
    curves = {"films, without privacy": plain.guesses.curve()}
    for level in levels:
        curves |= {f"films, {level.name}": level.found.guesses.curve(), f"one film, {level.name}": level.game.curve()}
    released, more = attack_releases(server, config, victims, CALIBRATION_EPSILON, rng, progress)
    checks, curves = [*checks, *released], curves | more
    return AttackReport(checks, film_table(server, plain, last), curves)


# --- the levels of noise ---


@dataclass
class _Level:
    """One strength of the noise and what the attacks reach under it.

    Attributes:
        name: for people.
        config: one local step under it.
        epsilon: of replacing one interaction, by what is attacked: one reply, or one release of a trusted server.
        whole: of replacing one interaction, by the whole run; None for the calibration.
    """

    name: str
    config: RunConfig
    epsilon: float
    whole: float | None = None

    def attack(
        self, server: CuriousServer, victims: Sequence[Victim], neighbours: Sequence[Neighbours], seed: int
    ) -> None:
        """Attack the whole catalogue, then one film given the rest."""
        sent = server.private_updates(victims, self.config)
        self.found = enumerate_films(server, victims, sent, noise_deviation(self.config), seed)
        inside = server.private_updates([pair.inside for pair in neighbours], self.config)
        outside = server.private_updates([pair.outside for pair in neighbours], self.config)
        one, other, self.distances = neighbour_scores(neighbours, inside, outside, self.config)
        self.game = Game(one, other)

    @property
    def cap(self) -> float:
        """Largest advantage that the claim allows."""
        return advantage_cap(self.epsilon, self.config.privacy.target_delta)

    def figures(self, seed: int = 0) -> dict[str, Any]:
        """As JSON values."""
        privacy = self.config.privacy
        return {
            "epsilon": self.epsilon,
            "delta": privacy.target_delta,
            "run_epsilon": self.whole,
            "noise_multiplier": privacy.noise_multiplier,
            "sample_rate": privacy.sample_rate,
            "cap": self.cap,
            "advantage": self.game.advantage(),
            "expected_advantage": expected_advantage(self.distances, privacy.sample_rate),
            "plays": len(self.game.inside),
            "films": self.found.figures(seed),
        }


def _calibrated(config: RunConfig) -> _Level:
    """The run's mechanism with noise for CALIBRATION_EPSILON, every row drawn: a fault shows most there."""
    delta = config.privacy.target_delta
    sigma = solve_noise_multiplier(CALIBRATION_EPSILON, delta, 1.0, 1, relation="replace_one")
    changed = one_step(config).replace(privacy__noise_multiplier=sigma, privacy__sample_rate=1.0)
    epsilon = epsilon_rdp([PrivacyEvent(sigma, 1.0, 1)], delta, "replace_one")
    return _Level(f"epsilon {epsilon:.2g}", changed, epsilon)


def _as_run(config: RunConfig) -> _Level:
    """The run's own constants, and one reply of it."""
    changed, federation = one_step(config), config.federation
    delta, event = config.privacy.target_delta, training_event(changed)
    rounds = most_participations(count_clients(config), federation.rounds, federation.clients_per_round)
    steps = training_event(config).steps * rounds
    everything = [*release_events(config), PrivacyEvent(event.noise_multiplier, event.sample_rate, steps)]
    epsilon = epsilon_rdp([event], delta, "replace_one")
    return _Level("the run's noise", changed, epsilon, epsilon_rdp(everything, delta, "replace_one"))


# --- verdicts ---


def _revealed(plain: Found) -> str:
    figures = plain.figures(0)
    return (
        f"an update without privacy reveals {_percent(figures['recall'])} of the films it was computed from (guessing: "
        f"{100 * figures['chance']['mean']:.2g} %), AUC {_spread(figures['auc'])}, TPR at 1 % FPR "
        f"{_spread(figures['tpr_at_1_percent_fpr'])}, favourite genre right for {_percent(figures['genre'])} "
        f"(majority: {_percent(figures['genre_majority'])}), over {len(plain.read)} users"
    )


def _works(server: CuriousServer, plain: Found, neighbours: Sequence[Neighbours], seed: int) -> Check:
    """Whether the attack is strong enough for its failure to mean something."""
    figures = plain.figures(seed)
    recall, chance = figures["recall"]["mean"], figures["chance"]["mean"]
    works = figures["auc"]["mean"] >= BROKEN_AUC and recall >= max(BROKEN_RECALL, 2 * chance)
    measured = _revealed(plain)
    if not works and not server.user_map and neighbours:
        # Without a matrix that history films go through, nothing in the update holds their vectors as they are.
        told = _told_apart(server, neighbours)
        figures |= {"neighbours_told_apart": told}
        works = told == 1.0
        measured += f"; with the rest of the record known, one film is told in {100 * told:.3g} % of the cases"
    if not works:
        measured = f"the audit is unusable: the attack is too weak to judge private updates by, since {measured}"
    verdict: Verdict = "holds" if works else "VIOLATED"
    return Check(WORKS, verdict, _WORKS, measured, {"victims": len(plain.read), **figures})


def _told_apart(server: CuriousServer, neighbours: Sequence[Neighbours], most: int = 20) -> float:
    """Share of open updates that are nearer to what the true data set would send than to its neighbour's."""
    right = []
    for pair in neighbours[:most]:
        for victim, own, other in (
            (pair.inside, pair.inside_update, pair.outside_update),
            (pair.outside, pair.outside_update, pair.inside_update),
        ):
            sent = server.few_negatives_update(victim)
            right.append(_distance(sent, own) < _distance(sent, other))
    return float(np.mean(right))


def _distance(one: Arrays, other: Arrays) -> float:
    return float(sum(np.square(value - other[name], dtype=np.float64).sum() for name, value in one.items()))


def _fails(config: RunConfig, levels: Sequence[_Level]) -> Check:
    """Whether the advantage is within every level's cap."""
    figures = {level.name: level.figures() for level in levels}
    broken = [name for name, found in figures.items() if found["advantage"]["low"] > found["cap"]]
    parts = [_level_words(name, found) for name, found in figures.items()]
    if not config.federation.rounds:
        parts.append("the run itself plans no round, so no update leaves a client and only its mechanism was tested")
    if noise_on_server(config.privacy):
        parts.append("this is what is seen outside the server; the trusted server itself sees updates without noise")
    if broken:
        parts.insert(0, f"the updates reveal more than claimed at {' and '.join(broken)}")
    claim = enforced_claim(config.privacy)
    return Check(
        FAILS,
        "VIOLATED" if broken else "holds",
        f"{claim.name}, against {claim.trust}: {_FAILS}",
        "; ".join(parts),
        figures,
    )


def _level_words(name: str, found: Mapping[str, Any]) -> str:
    films = found["films"]
    run = "" if found["run_epsilon"] is None else f", the whole run {found['run_epsilon']:.3g}"
    return (
        f"at {name} (one release epsilon {found['epsilon']:.3g}{run}) the advantage is {_spread(found['advantage'])}, "
        f"cap {found['cap']:.4g}, {found['expected_advantage']:.2g} expected of the best test; ranking all films: "
        f"AUC {_spread(films['auc'])}, recall@|H| {_percent(films['recall'])} (guessing: "
        f"{100 * films['chance']['mean']:.2g} %), TPR at 1 % FPR {_spread(films['tpr_at_1_percent_fpr'])}, favourite "
        f"genre {_percent(films['genre'])} (majority: {_percent(films['genre_majority'])})"
    )


def _spread(figure: Mapping[str, float]) -> str:
    return f"{figure['mean']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _percent(figure: Mapping[str, float]) -> str:
    return f"{100 * figure['mean']:.3g} % [{100 * figure['low']:.3g}, {100 * figure['high']:.3g}]"
