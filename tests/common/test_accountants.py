"""The three accountants against each other, against the libraries and against published numbers."""

from __future__ import annotations

import logging
import time
import warnings

import numpy as np
import pytest

from hushrec.common import accountants
from hushrec.common.accountants import ORDERS, AccountantError, pld_epsilon, prv_epsilon, rdp_epsilon

DELTA = 1e-5
SETTINGS = [(1.0, 0.2, 50), (2.0, 0.1, 300), (4.0, 0.5, 100), (1.0, 0.01, 1000), (8.0, 1.0, 50), (0.5, 0.3, 3)]


@pytest.mark.parametrize("setting", SETTINGS)
def test_rdp_is_at_least_prv_and_prv_agrees_with_pld(setting: tuple[float, float, int]) -> None:
    rdp, prv, pld = (f((setting,), DELTA, "add_remove", 1) for f in (rdp_epsilon, prv_epsilon, pld_epsilon))
    assert rdp >= prv
    assert prv == pytest.approx(pld, abs=0.02)


@pytest.mark.parametrize(("sigma", "q"), [(1.0, 0.2), (4.0, 0.5), (0.6, 0.01), (20.0, 0.001)])
def test_renyi_curve_equals_that_of_opacus(sigma: float, q: float) -> None:
    with accountants._quiet():
        from opacus.accountants.analysis.rdp import compute_rdp

        orders = ORDERS[(ORDERS >= 1.5) & (ORDERS <= 256)]
        expected = compute_rdp(q=q, noise_multiplier=sigma, steps=1, orders=orders.tolist())
    ours = accountants._rdp_curve(sigma, q, "add_remove", 1)[(ORDERS >= 1.5) & (ORDERS <= 256)]
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize(("sigma", "q"), [(1.0, 0.2), (3.0, 0.5), (2.0, 1.0)])
def test_curve_and_conversion_equal_those_of_dp_accounting(sigma: float, q: float) -> None:
    whole = (ORDERS.round() == ORDERS) & (ORDERS <= 64)  # at fractional orders it adds up absolute values
    with accountants._quiet():
        import dp_accounting as dpa
        from dp_accounting.rdp import RdpAccountant, compute_epsilon

        accountant = RdpAccountant(ORDERS[whole].tolist())
        accountant.compose(dpa.PoissonSampledDpEvent(q, dpa.GaussianDpEvent(sigma)), 50)
        ours = 50 * accountants._rdp_curve(sigma, q, "add_remove", 1)
        converted, _ = compute_epsilon(ORDERS.tolist(), ours.tolist(), DELTA)
    np.testing.assert_allclose(ours[whole], accountant.rdp, rtol=1e-7)
    assert rdp_epsilon(((sigma, q, 50),), DELTA, "add_remove", 1) == pytest.approx(converted)


@pytest.mark.parametrize(("setting", "removed", "replaced"), [(SETTINGS[1], 4.18, 8.33), (SETTINGS[2], 5.87, 13.08)])
def test_replacing_costs_more_than_removing(setting: tuple[float, float, int], removed: float, replaced: float) -> None:
    assert pld_epsilon((setting,), DELTA, "add_remove", 1) == pytest.approx(removed, abs=0.01)
    assert pld_epsilon((setting,), DELTA, "replace_one", 1) == pytest.approx(replaced, abs=0.01)
    assert replaced < rdp_epsilon((setting,), DELTA, "replace_one", 1) < 1.1 * replaced


@pytest.mark.parametrize(("rows", "expected"), [(1, 1.56), (10, 24.48), (50, 275.9)])
def test_a_user_with_more_records_pays_more(rows: int, expected: float) -> None:
    history = ((2.0, 0.05, 200),)
    assert pld_epsilon(history, DELTA, "add_remove", rows) == pytest.approx(expected, abs=0.02 * rows)
    assert expected < rdp_epsilon(history, DELTA, "add_remove", rows) < 1.12 * expected


@pytest.mark.parametrize("accountant", [rdp_epsilon, prv_epsilon, pld_epsilon])
def test_without_sampling_k_rows_are_one_row_of_k_times_the_norm(accountant: object) -> None:
    assert callable(accountant)
    several = accountant(((12.0, 1.0, 5),), DELTA, "add_remove", 3)
    assert several == pytest.approx(accountant(((4.0, 1.0, 5),), DELTA, "add_remove", 1))
    replaced = accountant(((24.0, 1.0, 5),), DELTA, "replace_one", 3)
    assert replaced == pytest.approx(several, rel=1e-3)


def test_sampled_and_unsampled_releases_compose_under_replacement() -> None:
    mixed = ((2.0, 0.1, 100), (10.0, 1.0, 1))
    parts = [pld_epsilon((part,), DELTA, "replace_one", 1) for part in mixed]
    assert max(parts) < pld_epsilon(mixed, DELTA, "replace_one", 1) < sum(parts)


def test_replacing_several_sampled_rows_is_refused() -> None:
    for accountant in (rdp_epsilon, pld_epsilon):
        with pytest.raises(AccountantError, match="replacing several sampled rows"):
            accountant(((2.0, 0.1, 10),), DELTA, "replace_one", 2)


def test_prv_and_pld_refuse_what_they_cannot_express() -> None:
    with pytest.raises(AccountantError, match="one row only"):
        prv_epsilon(((2.0, 0.1, 10),), DELTA, "replace_one", 1)
    with pytest.raises(AccountantError, match="too many"):
        pld_epsilon(((2.0, 0.1, 10),), DELTA, "add_remove", 65)
    with pytest.raises(AccountantError, match="too large"):
        prv_epsilon(((0.3, 0.5, 200),), DELTA, "add_remove", 1)


def test_long_histories_of_tiny_losses_are_not_overstated() -> None:
    history = ((5.0, 0.001, 10_000),)
    assert pld_epsilon(history, DELTA, "add_remove", 1) == pytest.approx(0.061, abs=0.003)


def test_accountants_are_quiet_and_leave_warnings_and_logging_as_they_were(capfd: pytest.CaptureFixture[str]) -> None:
    filters, level = list(warnings.filters), logging.getLogger("absl").level
    prv_epsilon(((7.5, 1.0, 3),), DELTA, "add_remove", 1)
    pld_epsilon(((7.5, 0.9, 3),), DELTA, "replace_one", 1)
    assert list(warnings.filters) == filters
    assert logging.getLogger("absl").level == level
    assert capfd.readouterr() == ("", "")


def test_an_enforced_epsilon_is_cheap_enough_for_300_devices_a_round() -> None:
    rdp_epsilon(((1.23, 0.17, 40),), DELTA, "add_remove", 1)
    started = time.perf_counter()
    for steps in range(1, 301):
        rdp_epsilon(((1.23, 0.17, steps),), DELTA, "add_remove", 1)
    assert time.perf_counter() - started < 0.3
