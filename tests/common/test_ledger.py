"""The ledger across restarts, crashes, failed writes, second writers and changed constants."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hushrec.common.errors import LedgerCorrupted, PrivacyError
from hushrec.common.ledger import Ledger, LedgerHeader, read_ledger
from hushrec.common.privacy import PrivacyEvent, claim_for

ROUND = PrivacyEvent(1.0, 0.2, 5)
POPULARITY = PrivacyEvent(10.0, 1.0, 1, "popularity")
CLAIM = claim_for("device", "record", delta=1e-5, target_epsilon=12.0, max_records=10)
HEADER = LedgerHeader.for_claim(CLAIM, who="test", clipping_norm=0.5, denominator=8.0, plan=[ROUND, POPULARITY])
SHA = "ab" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def spent(replay: Any, client: str) -> float:
    return CLAIM.epsilon(replay.events(client))


def example(path: Path) -> None:
    """A ledger with a committed and two pending RESERVEs."""
    with Ledger.open(path, HEADER) as ledger:
        ledger.release(["a", "b"], POPULARITY, "popularity counts")
        first = ledger.reserve(1, ["a", "b"], ROUND)
        ledger.commit(first, {"a": SHA, "b": SHA})
        ledger.reserve(2, ["a", "c"], ROUND)
        ledger.reserve(2, ["b"], ROUND)


def test_what_was_charged_survives_a_restart(path: Path) -> None:
    example(path)
    with Ledger.open(path, HEADER) as ledger:
        assert ledger.clients() == ("a", "b", "c")
        assert ledger.events("a") == (POPULARITY, PrivacyEvent(1.0, 0.2, 10))
        assert ledger.events("c") == (ROUND,)
        assert ledger.events("nobody") == ()
        assert ledger.last_reply("a") == (1, SHA)
        assert ledger.last_reply("c") is None
        assert ledger.header == HEADER
        assert ledger.header.claim() == CLAIM
        ledger.verify()


def test_ten_rounds_over_ten_restarts_cost_what_one_long_run_costs(path: Path) -> None:
    for server_round in range(10):
        with Ledger.open(path, HEADER) as ledger:
            ledger.commit(ledger.reserve(server_round, ["a"], ROUND), {"a": SHA})
    assert read_ledger(path).events("a") == (PrivacyEvent(1.0, 0.2, 50),)


def test_a_crash_after_reserve_is_charged_in_full(path: Path) -> None:
    program = (
        "import json, os, sys; from hushrec.common.ledger import Ledger, LedgerHeader\n"
        "ledger = Ledger.open(sys.argv[1], LedgerHeader.from_json(json.loads(sys.argv[2])))\n"
        "ledger.reserve(1, ['a'], ledger.header.plan[0]); os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path), json.dumps(HEADER.to_json())], check=False)
    assert done.returncode == 9
    with Ledger.open(path, HEADER) as ledger:  # the lock went with the process
        assert ledger.events("a") == (ROUND,)
        assert [entry[1] for entry in ledger.pending().values()] == [("a",)]


def test_a_reserve_is_on_disk_when_it_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
    with Ledger.open(path, HEADER) as ledger:
        ledger.reserve(1, ["a"], ROUND)
        assert synced[-1] == path.stat().st_size


def test_a_second_writer_is_refused_until_the_first_closes(path: Path) -> None:
    link = path.with_name("link.jsonl")
    with Ledger.open(path, HEADER) as ledger:
        link.symlink_to(path)
        for name in (path, link):
            with pytest.raises(PrivacyError, match="another writer"):
                Ledger.open(name, HEADER)
        ledger.reserve(1, ["a"], ROUND)
        assert read_ledger(path).head == ledger.head  # reading is allowed
    Ledger.open(path, HEADER).close()


def test_another_thread_may_close_a_ledger(path: Path) -> None:
    ledger = Ledger.open(path, HEADER)
    closer = threading.Thread(target=ledger.close)
    closer.start()
    closer.join()
    Ledger.open(path, HEADER).close()


def test_a_closed_ledger_takes_nothing_more(path: Path) -> None:
    ledger = Ledger.open(path, HEADER)
    ledger.close()
    ledger.close()
    with pytest.raises(PrivacyError, match="closed"):
        ledger.reserve(1, ["a"], ROUND)


def test_after_a_failed_write_nothing_follows_until_it_is_opened_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.open(path, HEADER)
    ledger.reserve(1, ["a"], ROUND)
    real = os.write

    def full_disk(handle: int, data: bytes) -> int:
        real(handle, data[:50])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full_disk)
        with pytest.raises(PrivacyError, match="No space left"):
            ledger.reserve(2, ["a"], ROUND)
    with pytest.raises(PrivacyError, match="open it again"):
        ledger.reserve(2, ["a"], ROUND)
    with Ledger.open(path, HEADER) as again:
        assert spent(again, "a") >= CLAIM.epsilon([ROUND, ROUND])


def test_short_writes_are_completed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:7]))
    with Ledger.open(path, HEADER) as ledger:
        ledger.reserve(1, ["a"], ROUND)
        ledger.verify()


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        (replace(HEADER, delta=1e-6), "delta"),
        (replace(HEADER, target_epsilon=13.0), "target_epsilon"),
        (replace(HEADER, max_records=11), "max_records"),
        (replace(HEADER, clipping_norm=5.0), "clipping_norm"),
        (replace(HEADER, denominator=1.0), "denominator"),
        (replace(HEADER, who="somebody else"), "who"),
        (replace(HEADER, unit="interaction", relation="replace_one"), "unit"),
        (replace(HEADER, plan=(replace(ROUND, noise_multiplier=0.5), POPULARITY)), "noise_multiplier"),
        (replace(HEADER, plan=(replace(ROUND, sample_rate=0.1), POPULARITY)), "sample_rate"),
        (replace(HEADER, plan=(ROUND,)), "plan"),
    ],
)
def test_a_changed_constant_is_refused_by_name(path: Path, changed: LedgerHeader, word: str) -> None:
    example(path)
    before = path.read_bytes()
    with pytest.raises(PrivacyError, match=f"^{word}.* changed from"):
        Ledger.open(path, changed)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "call",
    [
        lambda ledger: ledger.reserve(1, ["a"], replace(ROUND, steps=500)),
        lambda ledger: ledger.release(["a"], replace(POPULARITY, noise_multiplier=0.1), "popularity"),
        lambda ledger: ledger.reserve(1, [], ROUND),
        lambda ledger: ledger.reserve(1, ["a", "a"], ROUND),
        lambda ledger: ledger.reserve(1, ["*"], ROUND),
        lambda ledger: ledger.commit("0" * 64, {"a": SHA}),
        lambda ledger: ledger.commit(next(iter(ledger.pending())), {"z": SHA}),
        lambda ledger: ledger.commit(next(iter(ledger.pending())), {"a": "not a hash"}),
        lambda ledger: ledger.commit(next(iter(ledger.pending())), {"a": float("nan")}),
    ],
)
def test_an_entry_that_is_not_allowed_is_not_written(path: Path, call: Callable[[Ledger], Any]) -> None:
    example(path)
    before = path.read_bytes()
    with Ledger.open(path, HEADER) as ledger:
        events = ledger.events("a")
        with pytest.raises(PrivacyError):
            call(ledger)
        assert (path.read_bytes(), ledger.events("a")) == (before, events)
        ledger.commit(next(iter(ledger.pending())), {"a": SHA})
        ledger.verify()


def test_a_reserve_is_committed_once(path: Path) -> None:
    with Ledger.open(path, HEADER) as ledger:
        reserve = ledger.reserve(1, ["a"], ROUND)
        ledger.commit(reserve, {"a": SHA})
        with pytest.raises(PrivacyError, match="none yet"):
            ledger.commit(reserve, {"a": SHA})


def test_nan_and_infinity_are_never_written(path: Path) -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(PrivacyError, match="finite"):
            Ledger.open(path, replace(HEADER, clipping_norm=value))
    assert path.read_bytes() == b""
    Ledger.open(path, HEADER).close()


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content + b"{"])
def test_a_ledger_changed_while_open_is_found(path: Path, damage: Callable[[bytes], bytes]) -> None:
    with Ledger.open(path, HEADER) as ledger:
        ledger.reserve(1, ["a"], ROUND)
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(LedgerCorrupted, match="while it was open"):
            ledger.verify()


def test_a_file_that_is_not_a_ledger_is_left_alone(path: Path) -> None:
    path.write_bytes(b'{"notes": "mine"}')
    with pytest.raises(LedgerCorrupted, match="line 1"):
        Ledger.open(path, HEADER)
    assert path.read_bytes() == b'{"notes": "mine"}'
    with pytest.raises(PrivacyError, match="cannot read"):
        read_ledger(path.parent)
    with pytest.raises(PrivacyError, match="cannot open"):
        Ledger.open(path / "below", HEADER)


def test_a_round_of_300_clients_takes_milliseconds_however_long_the_ledger(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # the disk's time is not ours
    clients = [f"client-{number:04d}" for number in range(300)]
    seconds = []
    with Ledger.open(path, HEADER) as ledger:
        for server_round in range(200):
            started = time.perf_counter()
            ledger.commit(ledger.reserve(server_round, clients, ROUND), dict.fromkeys(clients, SHA))
            seconds.append(time.perf_counter() - started)
    assert sorted(seconds[-100:])[50] < 0.02


class LedgerMachine(RuleBasedStateMachine):
    """Random rounds, crashes and power cuts against a plain count of what was promised."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger.jsonl"
        self.ledger = Ledger.open(self.path, HEADER)
        self.charged: dict[str, int] = {}
        self.highest: dict[str, float] = {}
        self.heads: list[str] = []

    @rule(clients=st.sets(st.sampled_from("abcd"), min_size=1), commit=st.booleans(), release=st.booleans())
    def charge(self, clients: set[str], commit: bool, release: bool) -> None:
        names = sorted(clients)
        if release:
            self.ledger.release(names, ROUND, "counts")
        else:
            reserve = self.ledger.reserve(1, names, ROUND)
            if commit:
                self.ledger.commit(reserve, dict.fromkeys(names, SHA))
        for name in names:
            self.charged[name] = self.charged.get(name, 0) + ROUND.steps
        self.heads.append(self.ledger.head)

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self.ledger = Ledger.open(self.path, HEADER)

    @rule(part=st.floats(0.0, 1.0, exclude_max=True), client=st.sampled_from("abcd"))
    def power_cut_while_reserving(self, part: float, client: str) -> None:
        before = self.path.stat().st_size
        self.ledger.reserve(2, [client], ROUND)
        self.ledger.close()
        line = self.path.read_bytes()[before:]
        os.truncate(self.path, before + int(part * len(line)))
        torn = int(part * len(line)) > 0
        self.ledger = Ledger.open(self.path, HEADER)
        if torn:  # at least this client; more if it could not be read
            self.charged[client] = self.charged.get(client, 0) + ROUND.steps

    @invariant()
    def spent_covers_every_promise_and_never_decreases(self) -> None:
        for client, steps in getattr(self, "charged", {}).items():
            found = self.ledger.events(client)
            assert sum(event.steps for event in found if event.kind == "training") >= steps
            epsilon = spent(self.ledger, client)
            assert epsilon >= self.highest.get(client, 0.0) - 1e-9
            self.highest[client] = epsilon

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.verify()
            if self.heads:
                read_ledger(self.path, expected_head=self.heads[0])
            self.ledger.close()
            self.folder.cleanup()


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=60, stateful_step_count=15, deadline=None)
