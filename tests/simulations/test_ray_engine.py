"""`--engine ray`: the same run on Flower's own engine, isolated, resumable and charged in the same ledger."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from safetensors.numpy import load_file
from support.runs import CENTRAL

from hushrec.common.budget import training_event
from hushrec.common.config import RunConfig
from hushrec.common.errors import BundleError, ConfigError, HushrecError
from hushrec.common.ledger import read_ledger
from hushrec.simulations.cli import main
from hushrec.simulations.grid import InProcessGrid
from hushrec.simulations.ray_app import NumberedGrid
from hushrec.simulations.ray_engine import _failure, require_ray, train_on_ray, with_absolute_paths
from hushrec.simulations.ray_watchdog import processes_in
from hushrec.simulations.run import execute, new_run, open_run

ADAPTER = "bundle/adapter.safetensors"
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra 'ray' is not installed")


def working() -> set[int]:
    """Processes of Ray runs, told by their working folders."""
    return {
        number
        for number in processes_in(Path("/tmp"))
        if Path(f"/proc/{number}/cwd").resolve().as_posix().startswith("/tmp/hushrec-")
    }


def rounds(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]


@needs_ray
@pytest.mark.timeout(900)
def test_both_engines_train_the_same_adapter_without_privacy(
    tiny: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 of the clients are asked each round, so that they must have the same numbers, too."""
    monkeypatch.setenv("HOME", str(home := tmp_path / "home"))
    config = tiny(privacy__mechanism="none")
    here = execute(new_run(config, tmp_path / "here"))
    before, files = working(), set(home.rglob("*"))
    there = execute(new_run(config, tmp_path / "there"), engine="ray")
    assert not working() - before
    assert set(home.rglob("*")) == files  # neither Flower nor Ray leaves anything with the user
    ours, theirs = load_file(tmp_path / "here" / ADAPTER), load_file(tmp_path / "there" / ADAPTER)
    started = load_file(tmp_path / "here" / "start.safetensors")
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert np.linalg.norm(theirs[name] - value) <= 1e-5 * np.linalg.norm(value), name
        if (key := name.removeprefix("adapter/")) in started:
            assert np.linalg.norm(value - started[key]) > 1e-3 * np.linalg.norm(value), f"{name} was not trained"
    for one, other in zip(rounds(tmp_path / "here"), rounds(tmp_path / "there"), strict=True):
        for key in ("round", "asked", "answered", "refused"):
            assert one[key] == other[key]
    assert (here["cost"]["engine"], there["cost"]["engine"]) == ("in-process", "ray")
    for key in ("bytes_up_per_client_round", "bytes_down_per_client_round"):
        assert here["cost"][key] == there["cost"][key]


@needs_ray
@pytest.mark.timeout(900)
def test_an_interrupted_private_run_leaves_no_process_and_is_resumed_with_every_charge_in_one_ledger(
    tiny: Callable[..., RunConfig], hushrec: Callable[..., Any], tmp_path: Path
) -> None:
    config = tiny(
        privacy__noise_multiplier=30.0,
        privacy__popularity_noise_multiplier=60.0,
        federation__rounds=40,
        federation__clients_per_round=0,
        evaluation__every=0,
    )
    (tmp_path / "private.toml").write_text(config.to_toml())
    run, before = tmp_path / "run", working()
    process = hushrec("simulate", tmp_path / "private.toml", "--engine", "ray", "--out", run)
    deadline = time.monotonic() + 400
    while not (run / "rounds.jsonl").exists() or len((run / "rounds.jsonl").read_text().splitlines()) < 3:
        assert process.child.is_alive(), process._err.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    ended = process.wait()
    assert ended.code == 130, ended.stderr
    assert "go on with: hushrec simulate --resume" in ended.stderr
    assert not working() - before
    assert 2 <= rounds(run)[-1]["round"] < 40

    results = execute(open_run(run))
    clients, replay = results["dataset"]["clients"], read_ledger(run / "ledger.jsonl")
    assert len(replay.clients()) == results["privacy"]["clients_charged"] == clients
    steps = [
        sum(event.steps for event in replay.events(client) if event.kind == "training") for client in replay.clients()
    ]
    once = training_event(config).steps
    assert min(steps) == 40 * once  # no round is free
    assert max(steps) <= 41 * once  # and the interrupted one is paid twice at most
    assert [line["answered"] for line in rounds(run)] == [0, *[clients] * 40]


@needs_ray
@pytest.mark.timeout(900)
def test_a_trusted_server_samples_clips_and_pays_on_ray_too(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = tiny(**CENTRAL, privacy__sample_rate=0.3, federation__rounds=3, evaluation__every=0)
    results = execute(new_run(config, tmp_path / "run"), engine="ray")
    replay = read_ledger(tmp_path / "run" / "ledger.jsonl")
    (server,) = replay.clients()
    assert sum(event.steps for event in replay.events(server)) == 3
    asked = [line["asked"] for line in rounds(tmp_path / "run")[1:]]
    assert all(0 < count < results["dataset"]["clients"] for count in asked)  # the odds of none, or all: below 1e-6
    assert [line["answered"] for line in rounds(tmp_path / "run")[1:]] == asked
    assert results["privacy"]["name"] == "C3"
    assert 0 < results["privacy"]["epsilon"] <= config.privacy.target_epsilon


def test_a_missing_ray_is_one_line_that_says_what_to_install_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name, *rest))
    with pytest.raises(ConfigError, match="pip install 'hushrec\\[ray\\]'"):
        require_ray()
    monkeypatch.setattr(sys, "argv", ["hushrec", "simulate", "smoke", "--engine", "ray", "--out", str(tmp_path / "r")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "pip install 'hushrec[ray]'" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "r").exists()


def test_an_engine_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["hushrec", "simulate", "smoke", "--engine", "spark"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2


@needs_ray
def test_relative_paths_are_made_absolute_for_a_new_run_and_refused_in_a_resumed_one(
    tiny: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny(data__folder="films", run__directory=str(tmp_path))
    assert with_absolute_paths(config).data.folder == str(tmp_path / "films")
    assert with_absolute_paths(with_absolute_paths(config)) == with_absolute_paths(config)
    with pytest.raises(ConfigError, match="relative path"):
        train_on_ray(config)


def test_what_the_server_raised_comes_back_as_its_own_kind(tmp_path: Path) -> None:
    log = tmp_path / "flower.log"
    earlier = "hushrec.common.errors.ConfigError: of an earlier start\n"
    log.write_text(earlier + "Traceback\nhushrec.common.errors.BundleError: the checkpoint is damaged\nINFO bye\n")
    error = _failure(log, len(earlier), "the engine stopped")
    assert type(error) is BundleError
    assert str(error) == "the checkpoint is damaged"
    silent = _failure(log, log.stat().st_size, "the engine stopped after round 3 of 9")
    assert type(silent) is HushrecError
    assert str(silent) == f"the engine stopped after round 3 of 9; {log} says why"


@dataclass(frozen=True)
class Node:
    """What Flower tells of a node."""

    node_id: int
    registered_at: str


class Flower(InProcessGrid):
    """Flower's grid as the ServerApp first sees it: random ids, told in any order, and the last one comes late."""

    IDS = (901, 17, 544)

    def __init__(self) -> None:
        app = ClientApp()
        self.heard: list[int] = []

        @app.query()
        def answer(message: Message, context: Context) -> Message:
            self.heard.append(message.metadata.dst_node_id)
            if message.metadata.dst_node_id == 17:
                return Message(Error(code=2, reason="BAD_REQUEST"), reply_to=message)
            return Message(RecordDict(), reply_to=message)

        super().__init__(app, 3, {})
        self.asked_for_nodes = 0

    def get_nodes(self) -> Iterable[Any]:
        """Every node with the time it came."""
        self.asked_for_nodes += 1
        known = self.IDS[: min(3, self.asked_for_nodes)]
        return [Node(node, f"2026-01-01T00:00:0{second}+00:00") for second, node in enumerate(known)][::-1]


def test_nodes_are_numbered_in_the_order_of_their_partitions_once_all_are_there() -> None:
    flower = Flower()
    grid = NumberedGrid(flower, 3)
    assert list(grid.get_node_ids()) == [1, 2, 3]
    messages = [Message(RecordDict(), node, MessageType.QUERY) for node in (3, 1, 2)]
    replies = list(grid.send_and_receive(messages))
    assert flower.heard == [544, 901, 17]
    assert [reply.metadata.src_node_id for reply in replies] == [3, 1, 2]
    assert [reply.has_error() for reply in replies] == [False, False, True]
    pushed = list(grid.push_messages([Message(RecordDict(), 2, MessageType.QUERY)]))
    assert [reply.metadata.src_node_id for reply in grid.pull_messages(pushed)] == [2]


def test_a_node_that_never_comes_is_an_error_and_not_a_smaller_federation() -> None:
    with pytest.raises(HushrecError, match="only 3 of 4 nodes"):
        NumberedGrid(Flower(), 4, patience=0.3)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_the_watchdog_ends_what_works_in_its_folder_when_its_owner_is_gone_and_nothing_else(tmp_path: Path) -> None:
    inside, outside = tmp_path / "run" / "empty", tmp_path / "other"
    inside.mkdir(parents=True)
    outside.mkdir()
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    ours, theirs = subprocess.Popen(sleep, cwd=inside), subprocess.Popen(sleep, cwd=outside)
    try:
        command = [sys.executable, "-m", "hushrec.simulations.ray_watchdog", str(tmp_path / "run")]
        watchdog = subprocess.Popen(command, cwd="/", stdin=subprocess.PIPE)
        time.sleep(0.5)
        assert ours.poll() is None
        watchdog.communicate(timeout=30)
        assert ours.wait(10) == -signal.SIGKILL
        assert theirs.poll() is None
        assert not (tmp_path / "run").exists()
    finally:
        for process in (ours, theirs):
            process.kill()
            process.wait()
