"""Clients in time windows: what they train on, and that a client without data yet is asked, answers and pays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from support.federation import link
from support.runs import CENTRAL, charged

from hushrec.client import store as store_module
from hushrec.client.device.folder import DeviceFolder
from hushrec.client.popularity import popularity_counts
from hushrec.client.rows import device_rows
from hushrec.client.store import ClientStore, Store, count_clients, in_round, open_device, open_simulated
from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError
from hushrec.common.interactions import History
from hushrec.common.run_ledger import close_ledgers
from hushrec.common.time_windows import until, window_ends
from hushrec.common.workspace import open_split
from hushrec.server.rounds import run_rounds

ENDS = {"data__window_ends": "2000-01-10,2000-01-20", "federation__rounds": 3}
SILOS = {"federation__shape": "silos", "federation__silos": 5, "privacy__unit": "user"}
OPEN = {"privacy__mechanism": "none"}
CLAIMS: dict[str, dict[str, Any]] = {"C1": {}, "C2": SILOS, "C3": CENTRAL, "open": OPEN}


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_ledgers()


@pytest.fixture
def make(tiny: Callable[..., RunConfig], tmp_path: Path) -> Callable[..., RunConfig]:
    def build(name: str, **changes: Any) -> RunConfig:
        everybody = {"federation__clients_per_round": 0, "privacy__noise_multiplier": 12.0, "evaluation__every": 0}
        (folder := tmp_path / name).mkdir(exist_ok=True)
        return tiny(**ENDS, **{**everybody, **CLAIMS[name], **changes}, run__directory=str(folder))

    return build


def stores(config: RunConfig) -> list[ClientStore]:
    return [open_simulated(config, {"partition-id": n}) for n in range(count_clients(config))]


def held(found: list[Store]) -> list[int]:
    return sorted(item for store in found for row in store.rows for item in row.items.tolist())


@pytest.mark.parametrize("name", CLAIMS)
def test_a_round_reads_what_its_clients_had_by_the_end_of_its_window(name: str, make: Callable[..., RunConfig]) -> None:
    config = make(name)
    train = open_split(config.data).train
    for server_round, end in enumerate((*window_ends(config.data), 2**40), start=1):
        expected = sorted(item for history in train for item in until(history, end).items.tolist())
        assert len(expected) > 0
        assert held([in_round(store, config, server_round) for store in stores(config)]) == expected
    first, releases = (held([in_round(store, config, number) for store in stores(config)]) for number in (1, 0))
    assert releases == first


@pytest.mark.parametrize("slot", range(4))
def test_a_record_that_is_removed_is_one_row_less_in_every_window_and_no_other_changes(slot: int) -> None:
    rng = np.random.default_rng(slot)
    times = np.sort(rng.integers(0, 40 * 3600, 60))
    history = History(np.arange(60, dtype=np.int32), times)
    without = history.take(times // 3600 % 4 != slot)
    for end in (3600, 9 * 3600 + 17, 20 * 3600, 10**9):
        rows, rest = (
            {row.key: row.items.tolist() for row in device_rows(until(one, end), "hour", 4)}
            for one in (history, without)
        )
        rows.pop(f"slot-{slot}", None)
        assert rest == rows


def test_a_user_who_begins_later_is_no_row_or_an_empty_one_before(make: Callable[..., RunConfig]) -> None:
    open_run, devices, silos, central = (make(name) for name in ("open", "C1", "C2", "C3"))
    train = open_split(open_run.data).train
    new = [place for place, history in enumerate(train) if history.times[0] >= window_ends(open_run.data)[0]]
    assert 0 < len(new) < len(train)
    for place in new:
        assert in_round(stores(open_run)[place], open_run, 1).rows == ()
        assert in_round(stores(devices)[place], devices, 1).rows == ()
        (row,) = in_round(stores(central)[place], central, 1).rows  # the trusted server clips one update of each user
        assert len(row.items) == 0
    rows = [row for store in stores(silos) for row in in_round(store, silos, 1).rows]
    assert len(rows) == len(train) - len(new)
    assert all(len(row.items) for row in rows)


@pytest.mark.parametrize("name", ["C1", "C2", "C3"])
def test_everybody_is_asked_in_every_window_answers_and_pays(
    name: str, make: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = make(name)
    last = run_rounds(link(config), config)
    assert last.facts["refused"] == {}
    spent = charged(tmp_path / name)
    assert len(spent) == (1 if name == "C3" else count_clients(config))
    assert {kinds["training"] for kinds in spent.values()} == {3}
    if name != "C3":
        assert last.facts["client_steps"] == 3 * count_clients(config)


def test_a_release_before_round_1_knows_the_first_window_only(make: Callable[..., RunConfig]) -> None:
    config = make("open")
    prior = run_rounds(link(config), config).log_popularity
    train = [until(history, window_ends(config.data)[0]) for history in open_split(config.data).train]
    counts = np.bincount(np.concatenate([history.items for history in train]), minlength=len(prior))
    np.testing.assert_allclose(prior, np.log1p(counts), rtol=1e-6)
    everything = sum(
        update.arrays["counts"] for update in popularity_counts(stores(config), len(prior), config.privacy)
    )
    assert np.sum(everything) > counts.sum()


def test_a_client_whose_data_are_not_cut_into_windows_refuses(make: Callable[..., RunConfig]) -> None:
    config = make("open")
    uncut = replace(stores(config)[0], earlier=())
    foreign = cast(Store, SimpleNamespace(client="device-0", rows=(), ledger=None))
    for store in (uncut, foreign):
        with pytest.raises(ConfigError, match="this client holds what it has now"):
            in_round(store, config, 1)
        assert in_round(store, config, 3) is store
        assert in_round(store, config.replace(data__window_ends=""), 1) is store


def test_data_without_clock_times_are_refused(make: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    config = make("open", data__seed=7)
    real = store_module.open_dataset(config.data)
    monkeypatch.setattr(store_module, "open_dataset", lambda _: replace(real, time_unit="position"))
    with pytest.raises(ConfigError, match=r"no clock times: leave out data\.window-ends"):
        open_simulated(config, {"partition-id": 0})


def test_a_device_refuses_windows(
    tiny: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cast(DeviceFolder, SimpleNamespace(name="kitchen"))
    monkeypatch.setattr(store_module, "open_device_folder", lambda _: folder)
    with pytest.raises(ConfigError, match="a device trains on what it holds now"):
        open_device(tmp_path, tiny(**ENDS))
