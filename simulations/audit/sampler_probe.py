"""Whether units enter a round as the accountant assumes: each on its own, with the sample rate, and nobody always.

Which units took part is read from the released sums themselves. Amplification by sampling rests on this file's check.
"""

from __future__ import annotations

import numpy as np
from flwr.app import ConfigRecord
from numpy.typing import NDArray
from scipy import stats

from hushrec.client.rows import Row
from hushrec.client.training import train_cohort
from hushrec.common.errors import PrivacyError
from hushrec.common.protocol import pack
from hushrec.common.run_ledger import open_ledger
from hushrec.server.central_privacy import SERVER, CentralMechanism
from hushrec.simulations.audit.check import Check
from hushrec.simulations.audit.probe_federation import ProbeFederation, ProbeGrid, WatchedStore

SAMPLER = "sampler"
SAME = 0.05  # of C: how closely a sum is known again as that of some rows; 16-bit layers differ by 0.002
FALSE_ALARM = 1e-7  # as in noise_probe.py
_UNITS = (5, 1)  # of a client; on a server 20 and 1 users: the rate must not depend on how many there are
_CLAIM = (
    "each unit enters a round with probability {rate:g} (privacy.sample-rate), independently of the others and of how "
    "many there are; a round that nobody enters counts"
)
Draws = NDArray[np.bool_]


def probe_sampler(federation: ProbeFederation) -> Check:
    """Inclusions of every unit in many rounds against the binomial distribution."""
    rate = federation.config.privacy.sample_rate
    if "update" not in federation.fields:
        return Check(
            SAMPLER, "not tested", _CLAIM.format(rate=1), "the run trains in no round; its releases sample nobody"
        )
    draws = _server_draws(federation) if federation.central else _client_draws(federation)
    problems: list[str] = []
    figures: dict[str, float] = {"sample_rate": rate}
    for drawn in draws:
        rounds, units = drawn.shape
        label = f"{units} units"
        tests = sampler_tests(drawn, rate)
        figures |= {f"{label}: rounds": rounds, f"{label}: empty rounds": int((~drawn.any(axis=1)).sum())}
        figures |= {f"{label}: {test}": value for test, value in tests.items()}
        for test in ("total", "units", "empty"):
            if (p := tests[f"p of {test}"]) < FALSE_ALARM / (3 * len(draws)):
                problems.append(f"of {label} {_FAILED[test]}: share included {drawn.mean():.4g} (p = {p:.1g})")
    shown = ", ".join(f"{drawn.mean():.4f} of {drawn.shape[1]} units in {len(drawn)} rounds" for drawn in draws)
    return Check(
        SAMPLER,
        "VIOLATED" if problems else "holds",
        _CLAIM.format(rate=rate),
        "; ".join(problems) or f"share included: {shown}",
        figures,
    )


_FAILED = {
    "total": "more or fewer were included than the sample rate says",
    "units": "one was included more or less often than the sample rate says",
    "empty": "rounds with nobody are not as frequent as independent draws make them",
}


def sampler_tests(drawn: Draws, rate: float) -> dict[str, float]:
    """Exact binomial tests of (rounds, units) inclusions, and the chi-squared statistic over units for the reader.

    Returns:
        "p of total" (all inclusions), "p of units" (the least of the units', times their number), "p of empty" (rounds
        without any unit) and "chi-squared of units" with "p of chi-squared", which is approximate and decides nothing.
    """
    rounds, units = drawn.shape
    counts = drawn.sum(axis=0)
    least = min(stats.binomtest(int(count), rounds, rate).pvalue for count in counts)
    empty = stats.binomtest(int((~drawn.any(axis=1)).sum()), rounds, (1 - rate) ** units).pvalue
    result = {
        "p of total": float(stats.binomtest(int(counts.sum()), drawn.size, rate).pvalue),
        "p of units": min(1.0, float(least) * units),
        "p of empty": float(empty),
    }
    if rate < 1:
        statistic = float((np.square(counts - rounds * rate) / (rounds * rate * (1 - rate))).sum())
        result |= {"chi-squared of units": statistic, "p of chi-squared": float(stats.chi2.sf(statistic, units))}
    return result


def _client_draws(federation: ProbeFederation) -> list[Draws]:
    """Which rows are in a client's sum, solved from the sum and the rows' own contributions."""
    rate = federation.config.privacy.sample_rate
    rounds = 12 if rate >= 1 else int(np.clip(np.ceil(20 / rate), 60, 300))
    rows = tuple(row for n in range(_UNITS[0]) for row in federation.rows({0: federation.items(n, 2 + n)}))
    alone = _sums(federation, [(row,) for row in rows], 1.0)
    distinct = next(n for n in range(min(_UNITS[0], alone.shape[1]), 0, -1) if _well_conditioned(alone[:n]))
    draws = []
    for units in sorted({distinct, 1}, reverse=True):
        sums = _sums(federation, [rows[:units]] * rounds, rate)
        shares = np.linalg.lstsq(alone[:units].T, sums.T, rcond=None)[0].T
        drawn = shares > 0.5
        if not np.allclose(sums, drawn @ alone[:units], atol=SAME):
            raise PrivacyError("a client's sum is not the sum of some of its clipped rows")
        draws.append(drawn)
    return draws


def _well_conditioned(vectors: NDArray[np.float64]) -> bool:
    return bool(np.linalg.cond(vectors) < 1e3)


def _sums(federation: ProbeFederation, clients: list[tuple[Row, ...]], rate: float) -> NDArray[np.float64]:
    """(clients, d) sums of the rows that each draws, in units of C; all have one name, and so read a row alike."""
    config = federation.quiet(privacy__max_grad_norm=federation.max_grad_norm, privacy__sample_rate=rate)
    stores = [WatchedStore("client", rows, None, lambda client: None) for rows in clients]
    updates = train_cohort(federation.model, federation.request, stores, config)
    return np.stack([federation.in_clipping_norms(update.arrays, config) for update in updates])


def _server_draws(federation: ProbeFederation) -> list[Draws]:
    """Which clients a trusted server asks, and that it pays for the round whoever they are."""
    rate = federation.config.privacy.sample_rate
    rounds = 12 if rate >= 1 else 60
    draws = []
    for units in (4 * _UNITS[0], _UNITS[1]):
        config = federation.variant()
        ledger = open_ledger(config)
        assert ledger is not None
        strategy, _ = federation.strategy(config, CentralMechanism(config, ledger))
        grid, adapter = ProbeGrid(units, config), pack(federation.request.adapter, "float32")
        drawn = np.zeros((rounds, units), dtype=np.bool_)
        for number in range(rounds):
            messages = strategy.configure_train(number + 1, adapter, ConfigRecord(), grid)
            drawn[number, [message.metadata.dst_node_id - 1 for message in messages]] = True
        if (paid := sum(event.steps for event in ledger.events(SERVER))) != rounds:
            raise PrivacyError(f"the server paid for {paid} of {rounds} rounds")
        draws.append(drawn)
    return draws
