"""What a simulated client holds: its own part of the data, cut into units, and the simulation's one ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hushrec.client import store as store_module
from hushrec.client.rows import SPAN_SECONDS
from hushrec.client.store import count_clients, count_units, open_simulated
from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError, PrivacyError
from hushrec.common.run_ledger import close_ledgers, open_ledger
from hushrec.common.workspace import open_dataset, open_split


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_ledgers()


@pytest.fixture
def private(tmp_path: Path) -> RunConfig:
    values = {"data.name": "synthetic", "privacy.noise-multiplier": 2.0, "run.directory": str(tmp_path)}
    return RunConfig.from_flat(values)


@pytest.fixture
def silos(private: RunConfig) -> RunConfig:
    folder = f"{private.run.directory}/silos"
    return private.replace(federation__shape="silos", federation__silos=7, privacy__unit="user", run__directory=folder)


OPEN = RunConfig.from_flat({"data.name": "synthetic", "privacy.mechanism": "none"})


def stores(config: RunConfig) -> list[store_module.SimulatedStore]:
    return [open_simulated(config, {"partition-id": n}) for n in range(count_clients(config))]


def held(config: RunConfig) -> list[int]:
    return sorted(item for store in stores(config) for row in store.rows for item in row.items.tolist())


def trained(config: RunConfig) -> list[int]:
    return sorted(item for history in open_split(config.data).train for item in history.items.tolist())


def test_all_clients_together_hold_each_training_interaction_once(private: RunConfig, silos: RunConfig) -> None:
    for config in (private, silos, OPEN):
        assert held(config) == trained(config)
        names = [store.client for store in stores(config)]
        assert len(set(names)) == len(names)


def test_a_private_device_is_one_user_cut_by_the_clock(private: RunConfig) -> None:
    split = open_split(private.data)
    assert count_clients(private) == len(split.users)
    for store, history in zip(stores(private), split.train, strict=True):
        assert len(store.rows) <= private.privacy.max_records
        slots = history.times // SPAN_SECONDS["hour"] % private.privacy.max_records
        for row in store.rows:
            slot = int(row.key.removeprefix("slot-"))
            assert row.items.tolist() == history.items[slots == slot].tolist()


def test_without_privacy_a_device_is_one_row() -> None:
    for store, history in zip(stores(OPEN), open_split(OPEN.data).train, strict=True):
        (row,) = store.rows
        assert row.items.tolist() == history.items.tolist()
        assert store.ledger is None


def test_a_silo_has_one_row_per_user_and_a_user_one_silo(silos: RunConfig) -> None:
    parts = stores(silos)
    assert len(parts) == count_clients(silos) == 7
    keys = [row.key for store in parts for row in store.rows]
    users = open_split(silos.data).users
    assert sorted(keys) == sorted(open_dataset(silos.data).user_keys[user] for user in users)
    assert max(len(store.rows) for store in parts) - min(len(store.rows) for store in parts) <= 1
    assert count_units(silos) == len(users)


def test_there_are_never_more_silos_than_users(silos: RunConfig) -> None:
    assert count_clients(silos.replace(federation__silos=10_000)) == len(open_split(silos.data).users)


@pytest.mark.parametrize("partition", [None, -1, 10_000, "0", 0.0])
def test_a_partition_that_does_not_exist_is_refused(private: RunConfig, partition: object) -> None:
    with pytest.raises(ConfigError, match="no partition"):
        open_simulated(private, {"partition-id": partition})
    with pytest.raises(ConfigError, match="no partition"):
        open_simulated(private, {})


def test_a_simulation_has_one_ledger_opened_once(private: RunConfig, tmp_path: Path) -> None:
    first, second = (open_simulated(private, {"partition-id": n}) for n in (0, 1))
    assert first.ledger is second.ledger
    assert first.ledger is open_ledger(private)
    assert (tmp_path / "ledger.jsonl").exists()


def test_closing_gives_the_ledger_to_the_next_process(private: RunConfig) -> None:
    first = open_ledger(private)
    close_ledgers()
    second = open_ledger(private)
    assert second is not first
    assert second is not None
    second.verify()


def test_a_private_run_needs_a_place_for_its_ledger_and_an_open_run_has_none(private: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"run\.directory"):
        open_ledger(private.replace(run__directory=""))
    assert open_ledger(OPEN) is None


def test_a_ledger_of_other_constants_is_refused(private: RunConfig) -> None:
    open_ledger(private)
    close_ledgers()
    with pytest.raises(PrivacyError, match="clipping_norm changed"):
        open_ledger(private.replace(privacy__max_grad_norm=0.9))


def test_other_constants_are_refused_by_the_process_that_has_the_ledger_open(private: RunConfig) -> None:
    open_ledger(private)
    with pytest.raises(PrivacyError):
        open_ledger(private.replace(privacy__max_grad_norm=0.9))
