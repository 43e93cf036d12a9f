"""`hushrec server`: every error is one line with the remedy, and every answer has a JSON form."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from hushrec.common.config import RunConfig, parse_override
from hushrec.common.errors import ConfigError, HushrecError, Interrupted, PrivacyError
from hushrec.common.invitation import read_invitation
from hushrec.server.checkpoint import Checkpoint, write_checkpoint
from hushrec.server.deployment import flower, service, training
from hushrec.server.deployment.commands import server_app
from hushrec.server.deployment.folder import OperatorFolder

Call = Callable[..., str]


@pytest.fixture
def call(tiny: Callable[..., RunConfig]) -> Call:
    """Run a command; its output. Errors are raised as they are."""

    def resolve(name: str, overrides: list[str]) -> RunConfig:
        if name != "tiny":
            raise ConfigError(f"no experiment {name!r}")
        return RunConfig.from_flat(tiny(federation__rounds=3).to_flat() | dict(map(parse_override, overrides)))

    app: typer.Typer = server_app(resolve)

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
        if result.exception is not None:
            raise result.exception
        return result.output

    return run


def test_init_says_what_to_send_and_what_is_promised(call: Call, tmp_path: Path) -> None:
    said = call("init", tmp_path / "fed", "--experiment", "tiny", "--host", "rec.example.org", "--devices", "3")
    invitation = read_invitation(tmp_path / "fed" / "invitation.json")
    assert invitation.fingerprint in said
    assert invitation.server == "rec.example.org:8443"
    assert invitation.federation == "fed"
    assert "claim C1" in said
    again = json.loads(call("invite", tmp_path / "fed", "--json", "--out", tmp_path / "copy.json"))
    assert again == {"fingerprint": invitation.fingerprint, "file": str(tmp_path / "copy.json")}
    assert read_invitation(tmp_path / "copy.json").fingerprint == invitation.fingerprint


def test_without_privacy_it_says_so(call: Call, tmp_path: Path) -> None:
    options = ("--experiment", "tiny", "--host", "::1", "--set", "privacy.mechanism=none")
    assert "NO PRIVACY" in call("init", tmp_path / "fed", *options)
    assert read_invitation(tmp_path / "fed" / "invitation.json").server == "[::1]:8443"


@pytest.mark.parametrize("command", [("list",), ("enroll", "phone"), ("revoke", "phone"), ("run",), ("run", "--stop")])
def test_commands_that_need_the_server_say_how_to_start_it(
    call: Call, folder: OperatorFolder, new_key: Callable[..., Path], command: tuple[str, ...]
) -> None:
    key = [new_key("key").with_suffix(".pub")] if command[0] == "enroll" else []
    with pytest.raises(HushrecError, match=f"start it with: hushrec server start {folder.path}"):
        call(command[0], folder.path, *command[1:], *key)


@pytest.mark.parametrize("command", ["start", "stop", "status", "list", "run", "renew", "invite"])
def test_a_folder_that_is_none_is_one_error(call: Call, tmp_path: Path, command: str) -> None:
    with pytest.raises(ConfigError, match="is no operator's folder"):
        call(command, tmp_path / "nothing")


def test_another_experiment_than_the_pinned_one_is_refused(call: Call, folder: OperatorFolder) -> None:
    with pytest.raises(ConfigError, match="make a new federation for it"):
        call("run", folder.path, "tiny", "--set", "privacy.max-grad-norm=9.0")
    with pytest.raises(ConfigError, match="no experiment 'other'"):
        call("run", folder.path, "other")
    with pytest.raises(HushrecError, match="not running"):  # the same experiment gets as far as the server
        call("run", folder.path, "tiny")


def test_status_without_a_server_still_tells_of_the_rounds(call: Call, folder: OperatorFolder) -> None:
    facts = {"refused": {"ROUND_REPLAYED": 2}, "config": {}}
    write_checkpoint(folder.run, Checkpoint(2, {}, {}, np.zeros(3, np.float32), facts))
    line = {"round": 2, "rounds": 3, "asked": 3, "answered": 1, "refused": {"ROUND_REPLAYED": 2}, "epsilon": 1.5}
    (folder.run / "rounds.jsonl").write_text(json.dumps(line) + "\n" + '{"round": 3, "hal')
    answer = json.loads(call("status", folder.path, "--json"))
    assert (answer["running"], answer["round"], answer["rounds"]) == (False, 2, 3)
    assert answer["refused"] == {"ROUND_REPLAYED": 2}
    assert answer["last_round"] == line
    said = call("status", folder.path)
    for words in ("not running", "2 of 3 done", "1/3 devices, epsilon 1.50 spent", "2 x ROUND_REPLAYED"):
        assert words in said


def test_a_finished_federation_is_not_run_again(folder: OperatorFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "require_served", lambda folder: None)
    write_checkpoint(folder.run, Checkpoint(3, {}, {}, np.zeros(3, np.float32), {"refused": {}}))
    with pytest.raises(HushrecError, match="all 3 rounds are done"):
        training.begin(folder, folder.config(), 0)


def test_run_of_a_finished_federation_says_so_and_is_no_error(call: Call, folder: OperatorFolder) -> None:
    write_checkpoint(folder.run, Checkpoint(3, {}, {}, np.zeros(3, np.float32), {"refused": {}}))
    assert "all 3 rounds are done" in call("run", folder.path)


def test_a_changed_app_is_never_sent(folder: OperatorFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(folder: OperatorFolder) -> int:
        raise AssertionError

    monkeypatch.setattr(training, "require_served", lambda folder: None)
    monkeypatch.setattr(flower, "runs", lambda folder, run=None: [])
    monkeypatch.setattr(flower, "submit_run", never)
    with (folder.app / "pyproject.toml").open("a") as stream:
        stream.write("# changed\n")
    (folder.app / "extra.py").write_text("x = 1\n")
    with pytest.raises(ConfigError, match="is not the one that devices pinned"):
        training.begin(folder, folder.config(), 0)


def test_a_run_whose_process_is_gone_is_ended_and_begun_again(
    folder: OperatorFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []
    known = {7: "running"}

    def runs(folder: OperatorFolder, run: int | None = None) -> list[flower.Run]:
        return [flower.Run(number, status, "", "") for number, status in known.items() if run in (None, number)]

    def submit(folder: OperatorFolder) -> int:
        known[8] = "pending"
        return 8

    def stop(folder: OperatorFolder, run: int) -> None:
        known[run] = "finished:stopped"
        done.append(run)

    for name, fake in (("runs", runs), ("submit_run", submit), ("stop_run", stop)):
        monkeypatch.setattr(flower, name, fake)
    monkeypatch.setattr(training, "require_served", lambda folder: None)
    monkeypatch.setattr(training, "serving_app", lambda folder: False)
    run, new = training.begin(folder, folder.config(), 2)
    assert (run.run_id, new, done) == (8, True, [7])
    assert folder.settings().least_nodes == 2
    assert training.begin(folder, folder.config(), 0) == (run, False)  # just handed over: no process yet


def test_renewal_says_when_it_takes_effect(call: Call, folder: OperatorFolder) -> None:
    before = folder.server_certificate.read_bytes()
    assert "from the next start on" in call("renew", folder.path)
    assert folder.server_certificate.read_bytes() != before


def test_stop_of_what_does_not_run_is_no_error(call: Call, folder: OperatorFolder) -> None:
    assert call("stop", folder.path).strip() == "it was not running"
    assert service.describe(folder)["parts"] == {}


def test_ctrl_c_leaves_the_run_and_says_how_to_end_it(
    call: Call, folder: OperatorFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    def never(folder: OperatorFolder, run: int) -> None:
        raise AssertionError

    monkeypatch.setattr(training, "begin", lambda *given: (flower.Run(7, "running", "", ""), False))
    monkeypatch.setattr(training, "follow", interrupted)
    monkeypatch.setattr(flower, "stop_run", never)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(Interrupted, match=f"run 7 goes on; .* hushrec server run {folder.path} --stop"):
            call("run", folder.path)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_the_serverapp_raised_is_told_as_its_own_kind(folder: OperatorFolder) -> None:
    run = flower.Run(7, "finished:failed", "why", "")
    log = "Traceback\nhushrec.common.errors.PrivacyError: the ledger is gone\nother\n"
    failure = training._failure(log, run, folder)
    assert (type(failure), str(failure)) == (PrivacyError, "the ledger is gone")
    assert "finished:failed, why" in str(training._failure("nothing", run, folder))
