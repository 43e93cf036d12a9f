"""Pay first: who may take part, what is charged when, and that nothing refused reads data or writes the ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from hushrec.client.charging import charge
from hushrec.client.rows import Row
from hushrec.common.budget import enforced_claim, ledger_header, popularity_events, training_event
from hushrec.common.config import RunConfig
from hushrec.common.errors import PrivacyBudgetExhausted, PrivacyError
from hushrec.common.ledger import Ledger, read_ledger
from hushrec.common.privacy import PrivacyEvent

CONFIG = RunConfig.from_flat(
    {
        "train.local-steps": 2,
        "privacy.noise-multiplier": 4.0,
        "privacy.sample-rate": 0.5,
        "privacy.popularity-noise-multiplier": 6.0,
        "privacy.target-epsilon": 8.0,
    }
)
EVENT = training_event(CONFIG)
PRIVACY = CONFIG.privacy
SHA = "ab" * 32
Open = Callable[..., Ledger]


@dataclass(frozen=True)
class Unread:
    """A store whose data must not be read."""

    client: str
    ledger: Ledger | None

    @property
    def rows(self) -> tuple[Row, ...]:
        pytest.fail("data were read")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def opened(path: Path, config: RunConfig = CONFIG) -> Ledger:
    return Ledger.open(path, ledger_header(config, "test"))


def test_ten_carried_rounds_cost_what_one_long_run_costs(path: Path) -> None:
    for server_round in range(1, 11):
        with opened(path) as ledger:  # a new process every round
            receipts = charge([Unread("a", ledger)], EVENT, PRIVACY, server_round)
            assert receipts.paid == (0,)
            receipts.commit({"a": SHA})
    spent = enforced_claim(PRIVACY).epsilon(read_ledger(path).events("a"))
    long_run = enforced_claim(PRIVACY).epsilon([PrivacyEvent(4.0, 0.5, 20)])
    assert spent == long_run
    assert spent > 2 * enforced_claim(PRIVACY).epsilon([EVENT])


def test_one_reservation_on_disk_covers_a_whole_cohort_before_any_data_are_read(path: Path) -> None:
    with opened(path) as ledger:
        receipts = charge([Unread("a", ledger), Unread("b", ledger)], EVENT, PRIVACY, 3)
        assert receipts.paid == (0, 1)
        assert len(path.read_text().splitlines()) == 2  # header and RESERVE
        on_disk = read_ledger(path)
        assert on_disk.events("a") == on_disk.events("b") == (EVENT,)
        assert list(on_disk.pending().values()) == [(3, ("a", "b"))]
        receipts.commit({"a": SHA, "b": "cd" * 32})
    closed = read_ledger(path)
    assert not closed.pending()
    assert closed.last_reply("b") == (3, "cd" * 32)


def test_a_crash_after_the_reservation_is_charged(path: Path) -> None:
    with opened(path) as ledger:
        charge([Unread("a", ledger)], EVENT, PRIVACY, 1)
    with opened(path) as ledger:
        assert ledger.events("a") == (EVENT,)
        charge([Unread("a", ledger)], EVENT, PRIVACY, 1).commit({"a": SHA})
    assert read_ledger(path).events("a") == (PrivacyEvent(4.0, 0.5, 4),)
    assert len(read_ledger(path).pending()) == 1


def test_a_client_that_failed_after_paying_stays_charged(path: Path) -> None:
    with opened(path) as ledger:
        charge([Unread("a", ledger), Unread("b", ledger)], EVENT, PRIVACY, 1).commit({"a": SHA})
        assert ledger.events("b") == (EVENT,)
        assert ledger.last_reply("b") is None


def test_a_spent_budget_is_refused_without_reading_data_or_touching_the_ledger(path: Path) -> None:
    with opened(path) as ledger:
        for server_round in range(1, 100):
            receipts = charge([Unread("a", ledger)], EVENT, PRIVACY, server_round)
            if receipts.refused:
                break
            receipts.commit({"a": SHA})
        assert 3 < server_round < 99
        error = receipts.refused[0]
        assert isinstance(error, PrivacyBudgetExhausted)
        assert error.epsilon_after > error.target_epsilon == 8.0
        assert enforced_claim(PRIVACY).epsilon(ledger.events("a")) <= 8.0
        content = path.read_bytes()
        again = charge([Unread("a", ledger)], EVENT, PRIVACY, server_round + 1)
        assert (again.paid, again.reserved) == ((), ())
        again.commit({})
        assert path.read_bytes() == content


def test_the_popularity_release_counts_against_the_same_budget(path: Path) -> None:
    (release,) = popularity_events(PRIVACY)
    price = enforced_claim(PRIVACY).epsilon([release, EVENT])
    small = CONFIG.replace(privacy__target_epsilon=price - 0.01)
    with opened(path, small) as ledger:
        assert charge([Unread("a", ledger)], EVENT, small.privacy, 1).paid == (0,)
        refused = charge([Unread("a", ledger)], release, small.privacy, 0).refused
        assert isinstance(refused[0], PrivacyBudgetExhausted)


def test_a_client_without_budget_does_not_stop_the_others(path: Path) -> None:
    with opened(path) as ledger:
        while charge([Unread("a", ledger)], EVENT, PRIVACY, 1).paid:
            pass
        receipts = charge([Unread("a", ledger), Unread("b", ledger)], EVENT, PRIVACY, 2)
        assert receipts.paid == (1,)
        assert set(receipts.refused) == {0}
        assert ledger.events("b") == (EVENT,)


def test_without_a_ledger_nobody_takes_part() -> None:
    receipts = charge([Unread("a", None)], EVENT, PRIVACY, 1)
    assert receipts.paid == ()
    assert isinstance(receipts.refused[0], PrivacyError)


def test_a_client_asked_twice_in_one_cohort_pays_and_answers_once(path: Path) -> None:
    with opened(path) as ledger:
        receipts = charge([Unread("a", ledger), Unread("a", ledger), Unread("b", ledger)], EVENT, PRIVACY, 1)
        assert receipts.paid == (0, 2)
        assert set(receipts.refused) == {1}
        assert ledger.events("a") == (EVENT,)


def test_clients_with_ledgers_of_their_own_are_charged_there(tmp_path: Path) -> None:
    with opened(tmp_path / "a.jsonl") as a, opened(tmp_path / "b.jsonl") as b:
        receipts = charge([Unread("a", a), Unread("b", b)], EVENT, PRIVACY, 1)
        receipts.commit({"a": SHA, "b": SHA})
        assert receipts.paid == (0, 1)
        assert (a.events("a"), a.events("b")) == ((EVENT,), ())
        assert (b.events("a"), b.events("b")) == ((), (EVENT,))


def test_a_release_that_the_ledger_does_not_plan_is_not_charged(path: Path) -> None:
    with opened(path) as ledger:
        content = path.read_bytes()
        with pytest.raises(PrivacyError, match="does not allow"):
            charge([Unread("a", ledger)], PrivacyEvent(100.0, 0.5, 2), PRIVACY, 1)
        assert path.read_bytes() == content
