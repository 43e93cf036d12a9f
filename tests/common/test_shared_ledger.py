"""One ledger file, many processes: all they charge is in it; without its writer nobody is charged or served."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Client
from pathlib import Path

import pytest

from hushrec.common.budget import ledger_header, training_event
from hushrec.common.config import RunConfig
from hushrec.common.errors import PrivacyError
from hushrec.common.ledger import Ledger, read_ledger
from hushrec.common.run_ledger import close_ledgers, open_ledger
from hushrec.common.shared_ledger import ADDRESS, SharedLedger, share_ledger

CHARGES = """
import sys
from hushrec.common.privacy_event import PrivacyEvent
from hushrec.common.shared_ledger import SharedLedger
ledger = SharedLedger(sys.argv[1])
event = next(event for event in ledger.header.plan if event.kind == "training")
for server_round in range(1, 11):
    ledger.commit(ledger.reserve(server_round, [sys.argv[2]], event), {sys.argv[2]: "0" * 64})
"""


@pytest.fixture
def config(tiny: Callable[..., RunConfig], tmp_path: Path) -> RunConfig:
    return tiny(privacy__noise_multiplier=12.0, run__directory=str(tmp_path))


@pytest.fixture
def ledger(config: RunConfig, tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "ledger.jsonl", ledger_header(config, "simulation")) as opened:
        yield opened


def test_what_several_processes_charge_at_once_is_all_in_the_one_file(ledger: Ledger, tmp_path: Path) -> None:
    names = ["device-0", "device-1", "device-2"]
    with share_ledger(ledger, tmp_path / "writer"):
        command = [sys.executable, "-c", CHARGES, str(tmp_path / "writer")]
        workers = [subprocess.Popen([*command, name]) for name in names]
        assert [worker.wait() for worker in workers] == [0, 0, 0]
    replay = read_ledger(ledger.path)
    assert sorted(replay.clients()) == names
    assert not replay.pending()
    for name in names:
        assert sum(event.steps for event in replay.events(name)) == 10 * ledger.header.plan[-1].steps


def test_a_worker_sees_what_another_one_charged(ledger: Ledger, config: RunConfig, tmp_path: Path) -> None:
    event = training_event(config)
    with share_ledger(ledger, tmp_path / "writer"):
        one, other = SharedLedger(str(tmp_path / "writer")), SharedLedger(str(tmp_path / "writer"))
        assert one.header == ledger.header
        one.reserve(1, ["device-7"], event)
        assert other.events("device-7") == ledger.events("device-7") == (event,)
        assert other.clients() == ("device-7",)
        one.close()
        other.close()


def test_what_the_writer_refuses_is_refused_to_the_worker_and_not_written(
    ledger: Ledger, config: RunConfig, tmp_path: Path
) -> None:
    before = ledger.head
    with share_ledger(ledger, tmp_path / "writer"):
        worker = SharedLedger(str(tmp_path / "writer"))
        with pytest.raises(PrivacyError, match="twice"):
            worker.reserve(1, ["device-0", "device-0"], training_event(config))
        assert ledger.head == before
        worker.reserve(1, ["device-0"], training_event(config))  # the connection is as good as before
        worker.close()
    assert ledger.head != before


def test_a_worker_may_ask_nothing_but_what_a_charge_needs(ledger: Ledger, tmp_path: Path) -> None:
    with share_ledger(ledger, tmp_path / "writer"):
        with Client(str(tmp_path / "writer"), family="AF_UNIX") as worker:
            worker.send(("close",))
            assert worker.recv() == (False, "a worker asked the ledger for 'close', which it may not")
        assert ledger.head


def test_without_the_writer_a_worker_is_refused(ledger: Ledger, config: RunConfig, tmp_path: Path) -> None:
    with share_ledger(ledger, tmp_path / "writer"):
        worker = SharedLedger(str(tmp_path / "writer"))
    with pytest.raises(PrivacyError, match="not there; resume"):
        SharedLedger(str(tmp_path / "writer"))
    ledger.close()
    with pytest.raises(PrivacyError, match="closed"):
        worker.reserve(1, ["device-0"], training_event(config))
    worker.close()
    assert read_ledger(ledger.path).clients() == ()


def test_a_process_that_was_told_of_a_writer_opens_no_file_itself(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv(ADDRESS, str(tmp_path / "nobody"))
        with pytest.raises(PrivacyError, match="not there; resume"):
            open_ledger(config)
    assert not os.path.exists(tmp_path / "ledger.jsonl")
    assert type(open_ledger(config)) is Ledger
    close_ledgers()


def test_a_writer_under_other_constants_is_refused(
    ledger: Ledger, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ADDRESS, str(tmp_path / "writer"))
    with share_ledger(ledger, tmp_path / "writer"):
        assert isinstance(open_ledger(config), SharedLedger)
        with pytest.raises(PrivacyError, match="other constants"):
            open_ledger(config.replace(privacy__noise_multiplier=1.0))
        close_ledgers()
