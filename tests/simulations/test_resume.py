"""Runs that are killed, interrupted, doubled or tampered with: what is resumed equals what was never interrupted."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.runs import LEDGER, charged, last_line, lines

from hushrec.common.config import RunConfig
from hushrec.common.ledger import read_ledger
from hushrec.common.privacy import PrivacyEvent
from hushrec.server.checkpoint import read_checkpoint

ADAPTER = "bundle/adapter.safetensors"
Start = Callable[..., Any]
RESERVE = "hushrec.common.ledger:Ledger.reserve"
COMMIT = "hushrec.common.ledger:Ledger.commit"
COMPUTE = "hushrec.client.cohort:train_cohort"
CHECKPOINT = "hushrec.server.rounds:write_checkpoint"
RENAME = "pathlib:Path.replace"
LINE = "hushrec.server.rounds:_Recorder._line"
TABLE = "hushrec.simulations.run:evaluate_run"
BUNDLE = "hushrec.simulations.run:write_bundle"
REPORT = "hushrec.simulations.run:write_report"


# (function, when, call): where an attempt is killed. Every resumed attempt starts counting its calls again.
OPEN_KILLS = [
    (CHECKPOINT, "before", 1),  # the popularity release is lost
    (CHECKPOINT, "after", 1),  # round 0 has a checkpoint and no line
    (COMPUTE, "before", 1),  # within round 1
    (RENAME, "before", 2),  # rounds.jsonl was taken up; round 1's checkpoint is written beside the old one
    (LINE, "before", 1),  # round 1 has a checkpoint and no line
    (COMPUTE, "after", 2),  # round 3 computed, not sent
    (LINE, "after", 1),  # round 3 has a checkpoint; its line is made and not written
    (TABLE, "before", 1),  # trained, not evaluated
    (BUNDLE, "after", 1),  # no results.json
    (REPORT, "before", 1),  # no report
]


def test_a_run_killed_at_ten_places_ends_bit_for_bit_like_one_that_was_not(
    hushrec: Start, experiments: dict[str, Path], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    arguments: tuple[object, ...] = (experiments["open"], "--out", folder)
    for at, when, call in OPEN_KILLS:
        ended = hushrec("simulate", *arguments, at=at, when=when, call=call).wait()
        assert ended.code == -signal.SIGKILL, (at, when, ended.stderr)
        arguments = ("--resume", folder)
    ended = hushrec("simulate", *arguments).wait()
    assert ended.code == 0, ended.stderr
    assert (folder / ADAPTER).read_bytes() == (whole("open") / ADAPTER).read_bytes()
    assert lines(folder) == lines(whole("open"))
    assert [line["round"] for line in lines(folder)] == [0, 1, 2, 3, 4]
    results, expected = (json.loads((path / "results.json").read_text()) for path in (folder, whole("open")))
    assert results["systems"] == expected["systems"]
    assert (folder / "report.html").exists()


# (function, when, call, whether the clients of a round or of the release may have been charged for nothing)
PRIVATE_KILLS = [
    (RESERVE, "after", 1, True),  # of the popularity release
    (COMMIT, "before", 1, True),  # noised, not recorded
    (COMMIT, "after", 1, True),  # recorded, and the checkpoint is lost
    (RESERVE, "before", 2, False),
    (RESERVE, "after", 1, True),  # of round 1
    (COMPUTE, "after", 2, True),  # of round 2
    (RENAME, "before", 2, True),  # rounds.jsonl was taken up; the checkpoint of round 2 is lost
    (CHECKPOINT, "after", 1, False),
    (TABLE, "before", 1, False),
]


def test_a_private_run_killed_at_nine_places_charges_every_round_and_at_most_one_more_for_each_kill(
    hushrec: Start, experiments: dict[str, Path], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    arguments: tuple[object, ...] = (experiments["private"], "--out", folder)
    before: dict[str, Counter[str]] = {}
    for at, when, call, costs in PRIVATE_KILLS:
        done = read_checkpoint(folder)
        ended = hushrec("simulate", *arguments, at=at, when=when, call=call).wait()
        assert ended.code == -signal.SIGKILL, (at, when, ended.stderr)
        arguments = ("--resume", folder)
        after, now = charged(folder), read_checkpoint(folder)
        rounds = (now.server_round if now else 0) - (done.server_round if done else 0)
        for client, kinds in after.items():
            was = before.get(client, Counter())
            assert all(kinds[kind] >= was[kind] for kind in was)  # nothing is ever refunded
            assert kinds.total() - was.total() <= rounds + (now is not None and done is None) + costs
        before = after
    ended = hushrec("simulate", *arguments).wait()
    assert ended.code == 0, ended.stderr
    spent, expected = charged(folder), charged(whole("private"))
    assert set(spent) == set(expected)
    wasted = sum(costs for *_, costs in PRIVATE_KILLS)
    for client, kinds in expected.items():
        assert all(spent[client][kind] >= steps for kind, steps in kinds.items())
        assert spent[client].total() <= kinds.total() + wasted
    assert [line["round"] for line in lines(folder)] == [0, 1, 2, 3, 4]
    assert all(line["answered"] == 20 for line in lines(folder)[1:])


RESERVE_CENTRAL = "hushrec.server.central_privacy:CentralMechanism._reserve"
NOISED = "hushrec.server.central_privacy:CentralMechanism.noised_mean"
# (function, when, call, what the server pays again)
CENTRAL_KILLS = [
    (RESERVE_CENTRAL, "after", 1, {"popularity": 1}),
    (RESERVE_CENTRAL, "after", 2, {"popularity": 1, "statistics": 1}),
    (CHECKPOINT, "before", 1, {"popularity": 1, "statistics": 1}),
    (RESERVE_CENTRAL, "before", 3, {}),  # both releases are kept; round 1 is not paid
    (RESERVE_CENTRAL, "after", 1, {"training": 1}),  # paid, nobody asked
    (NOISED, "after", 1, {"training": 1}),  # summed and noised; the checkpoint of round 1 is lost
    (RENAME, "before", 3, {"training": 1}),  # the same for round 2
    (TABLE, "before", 1, {}),
]


def test_a_trusted_server_killed_at_eight_places_pays_again_for_what_was_lost_and_for_nothing_else(
    hushrec: Start, experiments: dict[str, Path], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    arguments: tuple[object, ...] = (experiments["central"], "--out", folder)
    for at, when, call, _ in CENTRAL_KILLS:
        ended = hushrec("simulate", *arguments, at=at, when=when, call=call).wait()
        assert ended.code == -signal.SIGKILL, (at, when, ended.stderr)
        arguments = ("--resume", folder)
    ended = hushrec("simulate", *arguments).wait()
    assert ended.code == 0, ended.stderr
    spent, expected = charged(folder), charged(whole("central"))
    assert list(spent) == list(expected)  # the server alone
    again = sum((Counter(cost) for *_, cost in CENTRAL_KILLS), Counter[str]())
    assert [kinds - expected[name] for name, kinds in spent.items()] == [again]
    assert [line["round"] for line in lines(folder)] == [0, 1, 2, 3, 4]
    privacy, less = (json.loads((at / "results.json").read_text())["privacy"] for at in (folder, whole("central")))
    assert less["epsilon"] < privacy["epsilon"] <= less["target_epsilon"]


def test_the_popularity_release_is_charged_once_to_every_client_and_not_again_by_a_resumed_run(
    hushrec: Start, experiments: dict[str, Path], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    clients = json.loads((whole("private") / "results.json").read_text())["dataset"]["clients"]
    ledgers = [charged(whole("private"))]
    folder = tmp_path / "run"
    ended = hushrec("simulate", experiments["private"], "--out", folder, at=RESERVE, when="before", call=3).wait()
    assert ended.code == -signal.SIGKILL
    assert hushrec("simulate", "--resume", folder).wait().code == 0
    ledgers.append(charged(folder))
    for ledger in ledgers:
        assert [kinds["popularity"] for kinds in ledger.values()] == [1] * clients
    assert ledgers[0] == ledgers[1]  # killed between two rounds, nothing was wasted


def test_a_budget_that_is_planned_to_the_last_round_is_not_passed_by_repeated_rounds(
    hushrec: Start, tiny: Callable[..., RunConfig], tmp_path: Path
) -> None:
    folder, experiment = tmp_path / "run", tmp_path / "full.toml"
    config = tiny(federation__clients_per_round=0, federation__rounds=3, evaluation__every=0)
    experiment.write_text(config.to_toml())  # the noise is solved for exactly three rounds
    ended = hushrec("simulate", experiment, "--out", folder, at=COMPUTE, when="after", call=2).wait()
    assert ended.code == -signal.SIGKILL, ended.stderr
    assert hushrec("simulate", "--resume", folder).wait().code == 0
    spent = {client: kinds["training"] for client, kinds in charged(folder).items()}
    assert set(spent.values()) == {3}
    last = lines(folder)[-1]
    assert (last["round"], last["answered"], last["refused"]) == (3, 0, {"BUDGET_EXHAUSTED": len(spent)})
    privacy = json.loads((folder / "results.json").read_text())["privacy"]
    assert privacy["epsilon"] <= config.privacy.target_epsilon


def test_a_torn_line_of_rounds_and_of_the_ledger_are_taken_up(copy: Callable[[str], Path], hushrec: Start) -> None:
    folder = copy("private")
    before = charged(folder)
    for name in ("rounds.jsonl", LEDGER):
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(content + content.splitlines()[-1][:40])
    ended = hushrec("simulate", "--resume", folder).wait()
    assert ended.code == 0, ended.stderr
    assert [line["round"] for line in lines(folder)] == [0, 1, 2, 3, 4]
    for client, kinds in charged(folder).items():
        assert all(kinds[kind] >= before[client][kind] for kind in before[client])


def test_a_finished_run_that_is_resumed_shows_its_result_and_changes_nothing(
    whole: Callable[[str], Path], hushrec: Start
) -> None:
    def state() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(whole("private").rglob("*")) if path.is_file()}

    before = state()
    ended = hushrec("simulate", "--resume", whole("private"), "--json").wait()
    assert ended.code == 0
    assert "finished already" in ended.stderr
    assert json.loads(ended.stdout) == json.loads((whole("private") / "results.json").read_text())
    assert state() == before


def test_a_moved_run_is_resumed_where_it_is(copy: Callable[[str], Path], hushrec: Start, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "run"
    shutil.move(copy("private"), moved)
    assert hushrec("simulate", "--resume", moved).wait().code == 0
    assert (moved / "results.json").exists()


@pytest.mark.parametrize(("name", "kind"), [("private", "PrivacyError"), ("open", "ConfigError")])
def test_a_second_process_on_the_same_run_is_refused_and_the_first_goes_on(
    name: str, kind: str, hushrec: Start, experiments: dict[str, Path], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    first = hushrec("simulate", experiments[name], "--out", folder, at=COMPUTE, call=2, number=signal.SIGSTOP)
    first.wait_until_stopped()
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    second = hushrec("simulate", "--resume", folder).wait()
    assert second.code == 2
    assert "another" in last_line(second.stderr)
    assert last_line(second.stderr).startswith(f"error: {kind}: ")
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    os.kill(first.pid, signal.SIGCONT)
    assert first.wait().code == 0
    if name == "open":
        assert (folder / ADAPTER).read_bytes() == (whole(name) / ADAPTER).read_bytes()


def test_an_interrupt_leaves_a_run_that_can_be_resumed_and_says_how(
    hushrec: Start, experiments: dict[str, Path], whole: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    ended = hushrec("simulate", experiments["open"], "--out", folder, at=COMPUTE, call=3, number=signal.SIGINT).wait()
    assert ended.code == 130
    assert f"interrupted after round 2; go on with: hushrec simulate --resume {folder}" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert hushrec("simulate", "--resume", folder).wait().code == 0
    assert (folder / ADAPTER).read_bytes() == (whole("open") / ADAPTER).read_bytes()
    assert lines(folder) == lines(whole("open"))


def test_an_interrupt_of_a_private_round_keeps_its_charge(
    hushrec: Start, experiments: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    ended = hushrec(
        "simulate", experiments["private"], "--out", folder, at=COMPUTE, call=2, number=signal.SIGINT
    ).wait()
    assert ended.code == 130
    assert sum(kinds["training"] for kinds in charged(folder).values()) == 2 * 20
    assert hushrec("simulate", "--resume", folder).wait().code == 0
    assert sum(kinds["training"] for kinds in charged(folder).values()) == 5 * 20


def test_events_of_one_round_are_those_of_the_plan(whole: Callable[[str], Path]) -> None:
    replay = read_ledger(whole("private") / LEDGER)
    assert replay.pending() == {}
    plan = set(replay.header.plan)
    for client in replay.clients():
        for event in replay.events(client):
            assert PrivacyEvent(event.noise_multiplier, event.sample_rate, 1, event.kind) in plan
