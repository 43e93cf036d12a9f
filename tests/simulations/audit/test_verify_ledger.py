"""The standalone verifier beside the main code: equal charges and epsilon, and not one changed ledger accepted."""

from __future__ import annotations

import ast
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from hushrec.common.errors import LedgerCorrupted
from hushrec.common.ledger import Ledger, LedgerHeader, read_ledger
from hushrec.common.ledger_entries import Replay
from hushrec.common.privacy import PrivacyEvent, claim_for, merge
from hushrec.simulations.audit import verify_ledger
from hushrec.simulations.audit.verify_ledger import VerifiedLedger, verify

SHA = "ab" * 32
EVENTS = st.builds(
    PrivacyEvent, st.sampled_from([0.8, 2.0, 9.0, 40.0]), st.sampled_from([1.0, 0.5, 0.02]), st.integers(1, 20)
)
CLAIMS = [("device", "record"), ("silo", "user"), ("server", "user"), ("device", "user")]
NAMES = st.sampled_from(["a", "b", "é", '"clients":', "server"])
WORK = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "commit", "release", "torn", "reopen"]),
        st.lists(NAMES, min_size=1, unique=True),
        st.integers(0, 2),
        st.floats(0, 1),
    ),
    max_size=12,
)


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """The bytes of a ledger that the main code wrote, with power cuts at random bytes and what recovered from them."""
    mechanism, unit = draw(st.sampled_from(CLAIMS))
    claim = claim_for(mechanism, unit, delta=1e-5, target_epsilon=8.0, max_records=3)
    plan = draw(st.lists(EVENTS, min_size=1, max_size=3, unique=True))
    header = LedgerHeader.for_claim(claim, who="test", clipping_norm=0.5, denominator=1.0, plan=plan)
    key = Ed25519PrivateKey.from_private_bytes(bytes(32)) if draw(st.booleans()) else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        ledger = Ledger.open(path, header, key=key)
        for what, names, number, share in draw(WORK):
            event = plan[number % len(plan)]
            if what == "reserve":
                ledger.reserve(1, names, event)
            elif what == "release":
                ledger.release(names, event, "counts")
            elif what == "commit" and ledger.pending():
                entry, (_, clients) = next(iter(ledger.pending().items()))
                ledger.commit(entry, dict.fromkeys(clients, SHA))
            elif what in ("torn", "reopen"):
                ledger.close()
                if what == "torn":
                    cut(path, share)
                ledger = Ledger.open(path, header, key=key)
        ledger.close()
        content = path.read_bytes()
        return content[: len(content) - draw(st.integers(0, 40))] if draw(st.booleans()) else content


def cut(path: Path, share: float) -> None:
    """Lose the end of the last line, as a power cut does; the header's line stays."""
    content = path.read_bytes()
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    if last:
        path.write_bytes(content[: last + int(share * (len(content) - last - 1))])


def replayed(content: bytes) -> Replay | None:
    replay = Replay()
    try:
        for _ in replay.read(content):
            pass
    except LedgerCorrupted:
        return None
    return replay


@settings(max_examples=150, deadline=None)
@given(written())
def test_it_agrees_with_the_main_code_on_whatever_was_written(content: bytes) -> None:
    replay = replayed(content)
    if replay is None:  # cut within its first line
        with pytest.raises(ValueError, match="line 1"):
            VerifiedLedger(content)
        return
    found, claim = VerifiedLedger(content), replay.header.claim()
    assert (found.hashes[-1], found.torn) == (replay.head, replay.torn)
    assert list(found.charged)[1:] == list(replay.clients())
    assert set(found.pending) == set(replay.pending())
    for client in (*replay.clients(), "never seen"):
        history = {(sigma, rate): steps for sigma, rate, steps in merge(replay.events(client))}
        assert dict(found.history(client)) == history
        assert found.epsilon(client) == pytest.approx(claim.epsilon(replay.events(client)), rel=1e-6, abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(written(), st.randoms(use_true_random=False))
def test_a_changed_ledger_is_refused_by_both(content: bytes, rng: random.Random) -> None:
    """One byte replaced, dropped or added anywhere but in a torn end, or whole lines moved."""
    end = content.rfind(b"\n") + 1
    if not end:
        return
    for _ in range(20):
        place = rng.randrange(end)
        other = bytes([rng.randrange(256)])
        changed = content[:place] + rng.choice([other, b"", other + content[place : place + 1]]) + content[place + 1 :]
        if changed == content or changed[:end] == content[:end]:
            continue
        both = (replayed(changed), accepted(changed))
        assert both == (None, None) or charged(*both) >= charged(replayed(content), VerifiedLedger(content)), changed


def accepted(content: bytes) -> VerifiedLedger | None:
    try:
        return VerifiedLedger(content)
    except ValueError:
        return None


def charged(replay: Replay | None, found: VerifiedLedger | None) -> int:
    """Steps charged, equal for both: losing the last newline, say, tears a line, which is charged all the same."""
    assert replay is not None
    assert found is not None
    ours = {client: sum(event.steps for event in replay.events(client)) for client in replay.clients()}
    assert ours == {client: found.history(client).total() for client in replay.clients()}
    return sum(ours.values()) + found.charged["*"].total()


CLAIM = claim_for("device", "record", delta=1e-5, target_epsilon=8.0, max_records=4)
ROUND = PrivacyEvent(2.0, 1.0, 1)
HEADER = LedgerHeader.for_claim(CLAIM, who="test", clipping_norm=0.5, denominator=1.0, plan=[ROUND])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.jsonl"
    with Ledger.open(path, HEADER) as ledger:
        for server_round in (1, 2, 3):
            ledger.reserve(server_round, ["a", "b"], ROUND)
    return path


@pytest.fixture
def card(path: Path) -> dict[str, Any]:
    replay = read_ledger(path)
    claim = {**HEADER.to_json(), "epsilon": CLAIM.epsilon(replay.events("a"))}
    releases = [event.to_json() for event in HEADER.plan]
    return {"claim": claim, "mechanism": {"releases": releases}, "ledgers": [{"head": replay.head}]}


def with_card(path: Path, card: object) -> tuple[int, str]:
    file = path.with_name("claim_card.json")
    file.write_text(json.dumps(card))
    return verify(path, file)


def test_a_clean_ledger_and_its_card_hold(path: Path, card: dict[str, Any]) -> None:
    code, told = with_card(path, card)
    assert code == 0
    assert told.splitlines()[-1] == "holds"
    assert "2 clients; epsilon per record (add_remove), delta 1e-05: " in told


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epsilon": 1.0}, "VIOLATED: the card promises epsilon 1.0000"),
        ({"delta": 1e-9}, "VIOLATED: delta is 1e-09 on the card, 1e-05 here"),
        ({"unit": "user"}, "VIOLATED: unit is user on the card, record here"),
    ],
)
def test_a_card_that_promises_more_is_violated(
    change: dict[str, Any], reason: str, path: Path, card: dict[str, Any]
) -> None:
    code, told = with_card(path, {**card, "claim": card["claim"] | change})
    assert code == 1
    assert reason in told


def test_a_card_of_another_ledger_or_a_cut_ledger_is_unusable(path: Path, card: dict[str, Any]) -> None:
    assert with_card(path, {**card, "ledgers": [{"head": SHA}]})[0] == 2
    path.write_bytes(b"\n".join(path.read_bytes().split(b"\n")[:-2]) + b"\n")
    code, told = with_card(path, card)
    assert (code, "it was cut" in told) == (2, True)
    assert with_card(path, {"claim": 1})[0] == 2
    assert verify(path.with_name("none.jsonl"))[0] == 2


def test_a_budget_that_is_passed_is_violated(path: Path) -> None:
    with Ledger.open(path, HEADER) as ledger:
        for server_round in range(4, 60):
            ledger.reserve(server_round, ["b"], ROUND)
    code, told = verify(path)
    assert code == 1
    assert "is above the budget 8" in told


def chained(path: Path, number: int, change: Callable[[dict[str, Any]], None]) -> None:
    """Change one entry and mend every hash after it, as a forger without a key can."""
    entries = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    change(entries[number])
    previous = verify_ledger.GENESIS
    for entry in entries:
        entry["prev"] = previous
        entry.pop("hash")
        previous = entry["hash"] = verify_ledger.sha256(verify_ledger.canonical(entry)).hexdigest()
    path.write_bytes(b"".join(verify_ledger.canonical(entry) + b"\n" for entry in entries))


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry["event"].update(noise_multiplier=9.0),
        lambda entry: entry.update(clients=["a", "a"]),
        lambda entry: entry.update(clients=[]),
        lambda entry: entry.update(clients=["*"]),
        lambda entry: entry.update(type="REFUND"),
        lambda entry: entry.update(type="COMMIT", reserve=SHA, replies={}),
    ],
    ids=["other noise", "a client twice", "nobody", "everyone", "unknown entry", "COMMIT of nothing"],
)
def test_a_mended_chain_with_an_entry_that_may_not_stand_there_is_refused(
    change: Callable[[dict[str, Any]], None], path: Path
) -> None:
    chained(path, 2, change)
    code, told = verify(path)
    assert code == 2
    assert "UNUSABLE: line 3: " in told
    assert replayed(path.read_bytes()) is None


@pytest.mark.parametrize("order", [[0, 2, 3], [0, 2, 1, 3], [0, 1, 1, 2, 3]], ids=["removed", "swapped", "repeated"])
def test_whole_lines_that_were_moved_are_refused(order: list[int], path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[place] for place in order))
    code, told = verify(path)
    assert code == 2
    assert "removed, repeated or out of order" in told


def test_a_wrong_signature_is_refused(tmp_path: Path) -> None:
    path, key = tmp_path / "signed.jsonl", Ed25519PrivateKey.generate()
    with Ledger.open(path, HEADER, key=key) as ledger:
        ledger.reserve(1, ["a"], ROUND)
    assert verify(path)[0] == 0
    entries = path.read_bytes().split(b"\n")
    entry = json.loads(entries[1])
    entry["signature"] = key.sign(b"something else").hex()
    path.write_bytes(b"\n".join([entries[0], verify_ledger.canonical(entry), b""]))
    code, told = verify(path)
    assert code == 2
    assert "line 2: InvalidSignature" in told


@pytest.mark.parametrize(
    ("unit", "sigma", "rate", "steps", "rows"),
    [
        ("user", 4.0, 0.5, 3, 4),
        ("user", 30.0, 0.2, 20, 20),
        ("user", 4.0, 1.0, 3, 4),
        ("interaction", 2.0, 1.0, 3, 1),
        ("interaction", 0.6, 0.3, 50, 1),
        ("record", 0.3, 0.02, 50, 1),
        ("record", 0.8, 0.1, 500, 1),
        ("record", 50.0, 0.1, 10, 1),
    ],
)
def test_its_own_divergences_give_the_main_codes_epsilon(
    unit: str, sigma: float, rate: float, steps: int, rows: int, tmp_path: Path
) -> None:
    claim = claim_for("device", unit, delta=1e-5, target_epsilon=1000.0, max_records=rows)
    plan = [PrivacyEvent(sigma, rate, steps)]
    header = LedgerHeader.for_claim(claim, who="test", clipping_norm=1.0, denominator=1.0, plan=plan)
    with Ledger.open(tmp_path / "ledger.jsonl", header) as ledger:
        ledger.reserve(1, ["a"], plan[0])
    found = VerifiedLedger((tmp_path / "ledger.jsonl").read_bytes()).epsilon("a")
    assert found == pytest.approx(claim.epsilon(plan), rel=1e-6, abs=1e-9)


def test_a_card_that_plans_another_release_is_violated(path: Path, card: dict[str, Any]) -> None:
    card["mechanism"]["releases"][0]["noise_multiplier"] = 9.0
    code, told = with_card(path, card)
    assert code == 1
    assert "VIOLATED: plan is [{" in told


def test_it_is_one_file_that_needs_nothing_of_hushrec(path: Path, tmp_path: Path) -> None:
    source = Path(verify_ledger.__file__)
    alone = tmp_path / "elsewhere" / "verify_ledger.py"
    alone.parent.mkdir()
    alone.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    imported = {
        (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else alias.name.split(".")[0]
        for node in ast.walk(ast.parse(alone.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported - set(sys.stdlib_module_names) == {"numpy", "cryptography"}
    done = subprocess.run([sys.executable, str(alone), str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "holds")
    assert subprocess.run([sys.executable, str(alone)], capture_output=True, check=False).returncode == 1
