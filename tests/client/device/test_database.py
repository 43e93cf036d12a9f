"""Tests of client/device/database.py: what it keeps, and what a kill, a full disk or damage leaves of it."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushrec.client.device import database as database_module
from hushrec.client.device.database import Added, DeviceDatabase, Interaction, StoredReply
from hushrec.common.errors import DataError
from hushrec.common.invitation import Invitation


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A new, empty database."""
    DeviceDatabase(tmp_path / "data.sqlite", create=True).close()
    return tmp_path / "data.sqlite"


def fill(path: Path, count: int = 300) -> None:
    with DeviceDatabase(path) as database:
        database.add_interactions([Interaction(f"item-{number}", 1000 + number, 1.0) for number in range(count)])
        for server_round in range(1, 6):
            database.save_reply(server_round, "training", "a" * 64, os.urandom(5000))
            database.add_round(
                server_round=server_round, release="training", seconds=1.5, peak_mb=300.0, bytes_down=10, bytes_up=20
            )
        database.add_refusal("NOT_PINNED", "the server asks for noise 0")


entries = st.lists(
    st.builds(
        Interaction,
        st.sampled_from([f"i{number}" for number in range(6)]),
        st.integers(0, 2**40),
        st.none() | st.floats(-5, 5, width=32),
    ),
    max_size=12,
)


@given(batches=st.lists(entries, max_size=4))
@settings(max_examples=60, deadline=None)
def test_of_an_item_the_latest_time_counts_whatever_the_order_of_batches(
    tmp_path_factory: pytest.TempPathFactory, invite: Callable[..., Invitation], batches: list[list[Interaction]]
) -> None:
    catalog = invite().catalog
    expected: dict[str, tuple[int, float | None]] = {}
    with DeviceDatabase(tmp_path_factory.mktemp("data") / "data.sqlite", create=True) as database:
        for batch in batches:
            added = database.add_interactions(batch)
            new = len({one.item_id for one in batch} - set(expected))
            assert added.new == new
            assert added.new + added.later + added.earlier == len(batch)
            for one in batch:
                time, rating = expected.get(one.item_id, (-1, None))
                if one.time >= time:
                    expected[one.item_id] = (one.time, rating if one.rating is None else one.rating)
        history = database.history(catalog)
        assert database.count() == len(history) == len(expected)
    order = sorted((time, catalog.index_of(item_id)) for item_id, (time, _) in expected.items())
    assert list(zip(history.times.tolist(), history.items.tolist(), strict=True)) == order
    ratings = [expected[catalog.item_ids[item]][1] for item in history.items]
    if all(rating is None for rating in ratings):
        assert history.ratings is None
    else:
        wanted = np.array([np.nan if rating is None else rating for rating in ratings], dtype=np.float32)
        assert np.array_equal(history.ratings, wanted, equal_nan=True)


def test_an_item_that_the_catalogue_lacks_is_named(path: Path, invite: Callable[..., Invitation]) -> None:
    with DeviceDatabase(path) as database:
        database.add_interactions([Interaction("elsewhere", 5)])
        with pytest.raises(DataError, match="'elsewhere'"):
            database.history(invite().catalog)
        assert database.remove("elsewhere")
        assert not database.remove("elsewhere")
        assert len(database.history(invite().catalog)) == 0


def test_a_batch_that_fails_leaves_nothing_of_itself(path: Path) -> None:
    no_time: Any = "soon"
    with DeviceDatabase(path) as database:
        with pytest.raises(DataError):
            database.add_interactions([Interaction("a", 1), Interaction("b", no_time)])
        assert database.count() == 0
        assert database.add_interactions([Interaction("a", 1)]) == Added(1, 0, 0)


def test_a_round_has_one_reply_for_ever(path: Path) -> None:
    with DeviceDatabase(path) as database:
        assert database.read_reply(1, "training") is None
        for _ in range(2):
            database.save_reply(1, "training", "a", b"reply")
        for request, reply in (("a", b"other"), ("b", b"reply")):
            with pytest.raises(DataError, match="another training reply"):
                database.save_reply(1, "training", request, reply)
        assert database.read_reply(1, "training") == StoredReply("a", b"reply")
        database.save_reply(1, "popularity", "b", b"counts")
        database.save_reply(2, "training", "c", b"next")
        assert database.drop_replies(2) == 2
        assert database.drop_replies(2) == 0
        assert database.read_reply(1, "training") == StoredReply("a", b"")
        assert database.read_reply(2, "training") == StoredReply("c", b"next")
        with pytest.raises(DataError, match="another training reply"):
            database.save_reply(1, "training", "b", b"reply")


def test_rounds_and_refusals_come_back_in_order_with_their_time(path: Path) -> None:
    before = int(time.time())
    fill(path)
    with DeviceDatabase(path) as database:
        rounds, (refusal,) = database.rounds(), database.refusals()
        assert [one.server_round for one in rounds] == [1, 2, 3, 4, 5]
        assert (rounds[0].seconds, rounds[0].peak_mb, rounds[0].bytes_down, rounds[0].bytes_up) == (1.5, 300.0, 10, 20)
        assert before <= rounds[0].finished <= time.time()
        assert (refusal.code, refusal.detail) == ("NOT_PINNED", "the server asks for noise 0")
        assert database.rounds_since(before) == 5
        assert database.rounds_since(int(time.time()) + 60) == 0


def test_a_server_that_is_refused_without_end_fills_no_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "MOST_REFUSALS", 10)
    with DeviceDatabase(path) as database:
        for number in range(25):
            database.add_refusal(f"CODE_{number}", "x" * 10_000)
        kept = database.refusals()
    assert [one.code for one in kept] == [f"CODE_{number}" for number in range(15, 25)]
    assert {len(one.detail) for one in kept} == {500}


def test_forgetting_leaves_no_trace_in_the_file(path: Path) -> None:
    fill(path)
    with DeviceDatabase(path) as database:
        database.forget(keep_interactions=True)
        assert (database.count(), database.rounds(), database.refusals()) == (300, (), ())
        database.forget()
        assert database.count() == 0
    assert b"item-1" not in path.read_bytes()
    assert b"NOT_PINNED" not in path.read_bytes()
    assert not path.with_name("data.sqlite-wal").exists()


def test_a_removed_item_leaves_no_trace_in_the_file(path: Path) -> None:
    with DeviceDatabase(path) as database:
        database.add_interactions([Interaction("my-secret-film", 5), Interaction("other", 6)])
        database.remove("my-secret-film")
    assert b"my-secret-film" not in path.read_bytes()
    assert b"other" in path.read_bytes()


def test_only_the_owner_may_read_it_while_it_is_open_too(path: Path) -> None:
    with DeviceDatabase(path) as database:
        database.add_interactions([Interaction("a", 1)])
        files = sorted(path.parent.glob("data.sqlite*"))
        assert len(files) == 3
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


@pytest.mark.parametrize("empty", [False, True])
def test_lost_data_are_noticed(tmp_path: Path, empty: bool) -> None:
    if empty:
        (tmp_path / "data.sqlite").touch()
    with pytest.raises(DataError, match=r"is missing.*ledger and budget are elsewhere"):
        DeviceDatabase(tmp_path / "data.sqlite")
    DeviceDatabase(tmp_path / "data.sqlite", create=True).close()
    DeviceDatabase(tmp_path / "data.sqlite").close()


def test_a_newer_schema_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as base:
        base.execute("PRAGMA user_version = 2")
    base.close()
    with pytest.raises(DataError, match="schema 2, this hushrec knows 1"):
        DeviceDatabase(path)


def test_a_file_that_is_no_database_is_named_with_what_is_lost(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(DataError, match=r"is damaged.*ledger, budget, keys and model are elsewhere") as error:
        DeviceDatabase(path)
    assert str(path) in str(error.value)


def use_all(path: Path, invite: Callable[..., Invitation]) -> None:
    with DeviceDatabase(path) as database:
        database.count()
        database.rounds()
        database.refusals()
        for server_round in range(1, 6):
            database.read_reply(server_round, "training")
        database.history(invite().catalog)


@pytest.mark.parametrize("seed", range(8))
def test_damage_at_random_bytes_is_a_data_error_or_harmless(
    tmp_path: Path, invite: Callable[..., Invitation], seed: int
) -> None:
    source = tmp_path / "source.sqlite"
    DeviceDatabase(source, create=True).close()
    fill(source)
    content, rng, noticed = source.read_bytes(), random.Random(seed), 0
    for number in range(25):
        path = tmp_path / f"{number}.sqlite"
        damaged = bytearray(content)
        if number % 5 == 4:
            del damaged[rng.randrange(1, len(damaged)) :]
        for _ in range(rng.choice([1, 8, 64])):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            use_all(path, invite)
        except DataError as error:
            noticed += str(path) in str(error) or "no item with id" in str(error)
        else:
            pytest.fail("ids of the film catalogue cannot be in it")
    assert noticed == 25


def test_a_changed_reply_is_never_given_out(path: Path) -> None:
    fill(path)
    with sqlite3.connect(path) as base:
        base.execute("UPDATE replies SET reply = zeroblob(5000) WHERE server_round = 3")
    base.close()
    with DeviceDatabase(path) as database:
        assert database.read_reply(2, "training") is not None
        with pytest.raises(DataError, match="reply of round 3 has changed"):
            database.read_reply(3, "training")


WRITER = """
import sys
from pathlib import Path
from hushrec.client.device.database import DeviceDatabase, Interaction
database = DeviceDatabase(Path(sys.argv[1]))
for batch in range(10**6):
    database.add_interactions([Interaction(f"{sys.argv[2]}-{batch}-{k}", batch) for k in range(50)])
    print(batch, flush=True)
"""


def writer(path: Path, name: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], stdout=subprocess.PIPE)


@pytest.mark.parametrize("wait", [0.0, 0.003, 0.011, 0.05])
def test_a_killed_writer_leaves_whole_batches_and_all_it_was_told_are_there(path: Path, wait: float) -> None:
    child = writer(path, "x")
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(wait)
    child.send_signal(signal.SIGKILL)
    told = 1 + len(child.stdout.read().splitlines())
    child.wait()
    child.stdout.close()
    with DeviceDatabase(path) as database:
        assert database.count() in (50 * told, 50 * (told + 1))


def test_processes_write_and_read_at_the_same_time(path: Path) -> None:
    children = [writer(path, name) for name in "ab"]
    try:
        told = []
        with DeviceDatabase(path) as database:
            for number in range(20):
                database.add_interactions([Interaction(f"mine-{number}", number)])
                assert database.count() % 50 == number + 1
        for child in children:
            assert child.stdout is not None
            told.append(child.stdout.readline())
        assert told == [b"0\n", b"0\n"]
    finally:
        for child in children:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()


def test_a_lock_that_never_ends_is_a_clear_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with DeviceDatabase(path) as database:
        with pytest.raises(DataError, match="another process has held"):
            database.add_interactions([Interaction("a", 1)])
        other.execute("ROLLBACK")
        other.close()
        assert database.add_interactions([Interaction("a", 1)]).new == 1


FULL = """
import os, resource, signal, sys
from pathlib import Path
from hushrec.client.device.database import DeviceDatabase
from hushrec.common.errors import DataError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
with DeviceDatabase(Path(sys.argv[1])) as database:
    try:
        database.save_reply(9, "training", "a" * 64, os.urandom(400_000))
    except DataError as error:
        print(error)
    print(database.read_reply(9, "training"), database.count())
    database.add_refusal("SMALL", "fits again")
"""


def test_a_full_disk_changes_nothing_and_is_a_clear_error(path: Path) -> None:
    """A limit on the size of files stands for the disk; it is the process's, so a child has it."""
    fill(path)
    child = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    said, left = child.stdout.splitlines()
    assert "nothing was changed; free some space" in said
    assert str(path) in said
    assert left == "None 300"
    with DeviceDatabase(path) as database:
        assert database.read_reply(9, "training") is None
        assert database.count() == 300
        assert database.refusals()[-1].code == "SMALL"
        database.save_reply(9, "training", "a" * 64, b"smaller")
