"""Sweeps: the points a file asks for, order by validation alone, and every way of stopping one and going on."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from rich.console import Console

from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError
from hushrec.simulations.run import open_run
from hushrec.simulations.sweep import Sweep, check_folder, rounds_done
from hushrec.simulations.sweep_file import read_sweep
from hushrec.simulations.sweep_table import point_rows, ranked, sweep_json, sweep_tables

Start = Callable[..., Any]


@pytest.fixture
def sweep_file(tmp_path: Path, tiny: Callable[..., RunConfig]) -> Callable[[str], Path]:
    """A sweep file over the open tiny experiment, with what the test adds."""
    (tmp_path / "tiny.toml").write_text(tiny(privacy__mechanism="none", federation__rounds=3).to_toml())

    def write(text: str) -> Path:
        (tmp_path / "sweep.toml").write_text(f'experiment = "tiny.toml"\n{text}')
        return tmp_path / "sweep.toml"

    return write


def names(path: Path) -> list[str]:
    return [point.name for point in read_sweep(path).points]


def test_a_grid_gives_every_combination_with_the_seeds_innermost(sweep_file: Callable[[str], Path]) -> None:
    path = sweep_file(
        "seeds = [0, 7]\n[set]\ntrain.window = 4\n[grid]\n'model.r' = [1, 2]\nserver.momentum = [0.5, 0.9]"
    )
    points = read_sweep(path).points
    assert [point.name for point in points[:3]] == [
        "r=1,momentum=0.5,seed=0",
        "r=1,momentum=0.5,seed=7",
        "r=1,momentum=0.9,seed=0",
    ]
    assert len(points) == 8
    assert {point.config.train.window for point in points} == {4}
    assert [(p.config.model.r, p.config.server.momentum, p.config.run.seed) for p in points[-2:]] == [
        (2, 0.9, 0),
        (2, 0.9, 7),
    ]
    assert points[0].group == points[1].group == "r=1,momentum=0.5"


def test_single_points_have_their_names_and_come_after_the_grid(sweep_file: Callable[[str], Path]) -> None:
    runs = '[[run]]\nname = "wide"\nmodel.targets = ["query", "value"]\n[[run]]\nname = "short"\ntrain.window = 2\n'
    assert names(sweep_file(runs)) == ["wide", "short"]
    wide, short = read_sweep(sweep_file(runs)).points
    assert wide.config.model.targets == ("query", "value")
    assert short.config.train.window == 2
    assert names(sweep_file(f"[grid]\ntrain.window = [3]\n{runs}")) == ["window=3", "wide", "short"]
    assert names(sweep_file("")) == ["run"]


def test_keys_of_one_last_word_are_told_apart(sweep_file: Callable[[str], Path]) -> None:
    path = sweep_file("[grid]\ntrain.learning-rate = [1.0]\nserver.learning-rate = [0.5]")
    assert names(path) == ["train.learning-rate=1.0,server.learning-rate=0.5"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("grids = 1", "unknown key 'grids'"),
        ("[grid]\nmodel.r = 2", "expected a list of values for model.r"),
        ("[grid]\nmodel.r = []", "expected a list of values for model.r"),
        ("[grid]\nmodel.rr = [1]", "point rr=1: unknown key 'model.rr'"),
        ("[grid]\nmodel.r = [1, 0]", "point r=0: expected model.r at least 1"),
        ("[grid]\nmodel.r = [1, 1]", "'r=1' names two points"),
        ("[[run]]\nmodel.r = 1", "every [[run]] is a table with a name"),
        ('[[run]]\nname = "../up"', "'../up' cannot name a run directory"),
        ('[[run]]\nname = ".."', "'..' cannot name a run directory"),
        ('[set]\nrun.directory = "x"', "run.directory = 'x' is no setting of a point"),
        ("seeds = 3", "expected a list such as seeds"),
    ],
)
def test_a_bad_sweep_file_is_refused_before_anything_runs(
    text: str, says: str, sweep_file: Callable[[str], Path]
) -> None:
    with pytest.raises(ConfigError) as refused:
        read_sweep(sweep_file(text))
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def made(folder: Path, name: str, config: RunConfig, validation: float | None, test: float = 0.0) -> None:
    """The files of a finished run that a table reads; round 0 and round 2 have a validation figure."""
    run = folder / name
    run.mkdir(parents=True)
    (run / "experiment.toml").write_text(config.replace(run__directory=str(run)).to_toml())
    lines: list[dict[str, Any]] = [
        {"round": 0, "epsilon": None},
        {"round": 1, "epsilon": 1.0},
        {"round": 2, "epsilon": 2.0},
    ]
    if validation is not None:
        lines[0]["validation_NDCG@20"], lines[2]["validation_NDCG@20"] = 0.11, validation
    (run / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"round": 3, "vali')
    figure = {"mean": test, "low": test, "high": test}
    (run / "results.json").write_text(json.dumps({"systems": {"hushrec": {"warm": {"NDCG@10": figure}}}}))
    (run / "report.html").write_text("")


def test_points_are_sorted_by_validation_even_where_test_figures_say_the_opposite(
    sweep_file: Callable[[str], Path], tmp_path: Path
) -> None:
    sweep = Sweep(read_sweep(sweep_file("[grid]\nmodel.r = [1, 2, 3, 4]")), tmp_path / "out")
    planted = [(0.2, 0.8), (0.4, 0.1), (float("nan"), 0.9), (0.3, 0.5)]
    for point, (validation, test) in zip(sweep.points, planted, strict=True):
        made(sweep.folder, point.name, point.config, validation, test)
    for test_shown in (False, True):
        rows = point_rows(sweep, test=test_shown)
        assert [group.name for group in ranked(rows)] == ["r=2", "r=4", "r=1", "r=3"]
        assert [entry["point"] for entry in sweep_json(rows)] == ["r=2", "r=4", "r=1", "r=3"]
    best = point_rows(sweep)[1]
    assert (best.metric, best.validation, best.untrained, best.epsilon) == ("NDCG@20", 0.4, 0.11, 2.0)


def test_test_figures_are_not_even_read_without_being_asked_for(
    sweep_file: Callable[[str], Path], tmp_path: Path
) -> None:
    sweep = Sweep(read_sweep(sweep_file("")), tmp_path / "out")
    made(sweep.folder, "run", sweep.points[0].config, 0.25, test=0.777)
    shown = {test: text(sweep_tables(point_rows(sweep, test=test))) for test in (False, True)}
    assert "0.777" in shown[True]
    assert "0.777" not in shown[False]
    assert "0.2500" in shown[False]
    assert "0.777" not in json.dumps(sweep_json(point_rows(sweep)))
    (sweep.folder / "run" / "results.json").write_text("damaged")
    assert point_rows(sweep)[0].validation == 0.25


def text(tables: list[Any]) -> str:
    console = Console(file=io.StringIO(), width=80)
    for table in tables:
        console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_mean_over_seeds_orders_and_a_failed_seed_is_left_out(
    sweep_file: Callable[[str], Path], tmp_path: Path
) -> None:
    sweep = Sweep(read_sweep(sweep_file("seeds = [0, 1]\n[grid]\nmodel.r = [1, 2]")), tmp_path / "out")
    for point, validation in zip(sweep.points[:3], (0.50, 0.10, 0.35), strict=True):
        made(sweep.folder, point.name, point.config, validation)
    first, second = ranked(point_rows(sweep))
    assert (first.name, first.mean("validation"), len(first.finished)) == ("r=2", 0.35, 1)
    assert second.mean("validation") == pytest.approx(0.30)
    shown = text(sweep_tables(point_rows(sweep)))
    assert "1/2" in shown
    assert "0.1000 0.5000" in shown


def test_a_folder_with_the_runs_of_another_sweep_is_refused(sweep_file: Callable[[str], Path], tmp_path: Path) -> None:
    sweep = Sweep(read_sweep(sweep_file("[grid]\nmodel.r = [1]")), tmp_path / "out")
    config = sweep.points[0].config
    made(sweep.folder, "r=1", config.replace(run__threads=1), 0.2)
    check_folder(sweep)
    shutil.rmtree(sweep.folder)
    made(sweep.folder, "r=1", config.replace(train__window=3), 0.2)
    with pytest.raises(ConfigError, match=r"train.window = 3, the sweep file 5; choose another --out"):
        check_folder(sweep)


def lines(folder: Path) -> list[dict[str, Any]]:
    """rounds.jsonl without what the clock says."""
    read = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "seconds" not in k} for line in read]


def journal(folder: Path) -> list[tuple[str, str]]:
    return [
        (line["point"], line["state"]) for line in map(json.loads, (folder / "sweep.jsonl").read_text().splitlines())
    ]


@pytest.fixture
def two_points(sweep_file: Callable[[str], Path]) -> Path:
    """A sweep of two points, the first of which trains for many rounds."""
    return sweep_file('[[run]]\nname = "long"\nfederation.rounds = 40\n[[run]]\nname = "other"\nmodel.r = 1')


def wait_for_round(folder: Path, server_round: int) -> None:
    deadline = time.monotonic() + 100
    while rounds_done(folder) < server_round:
        assert time.monotonic() < deadline, "the point never came so far"
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_sweep_that_is_killed_or_interrupted_goes_on_where_it_was(
    number: int, code: int, two_points: Path, hushrec: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    first = hushrec("sweep", two_points, "--out", folder)
    wait_for_round(folder / "long", 3)
    os.kill(first.pid, number)
    ended = first.wait()
    assert ended.code == code, ended.stderr
    assert "Traceback" not in ended.stderr
    done = len(lines(folder / "long"))
    assert 3 <= done < 41, "it was stopped too late to show anything"
    assert not (folder / "long" / "results.json").exists()
    assert not (folder / "other").exists()
    again = hushrec("sweep", two_points, "--out", folder, "--json").wait(200)
    assert again.code == 0, again.stderr
    assert [line["round"] for line in lines(folder / "long")] == list(range(41))
    assert {row["point"]: row["state"] for row in json.loads(again.stdout)} == {"long": "finished", "other": "finished"}
    interrupted = [("long", "interrupted")] if number == signal.SIGINT else []
    assert journal(folder) == [*interrupted, ("long", "finished"), ("other", "finished")]
    if number == signal.SIGINT:
        return
    # A point of a stopped sweep is the run that `hushrec simulate` makes of the same settings.
    alone = tmp_path / "alone"
    settings = [f"--set={key}={json.dumps(v)}" for key, v in read_sweep(two_points).points[0].settings.items()]
    assert hushrec("simulate", tmp_path / "tiny.toml", *settings, "--out", alone).wait().code == 0
    assert lines(alone) == lines(folder / "long")
    adapter = "bundle/adapter.safetensors"
    assert (alone / adapter).read_bytes() == (folder / "long" / adapter).read_bytes()


def test_finished_points_are_left_alone_and_a_failing_one_stops_no_other(
    sweep_file: Callable[[str], Path], hushrec: Start, tmp_path: Path
) -> None:
    points = '[[run]]\nname = "broken"\ndata.name = "csv"\ndata.folder = "nowhere"\n[[run]]\nname = "good"\n'
    path, folder = sweep_file(points), tmp_path / "out"
    ended = hushrec("sweep", path, "--out", folder, "--json").wait(200)
    assert ended.code == 1
    rows = json.loads(ended.stdout)
    assert [(row["point"], row["state"]) for row in rows] == [("good", "finished"), ("broken", "failed")]
    assert rows[1]["error"].startswith(("DataError: ", "ConfigError: "))
    assert "\n" not in rows[1]["error"]
    before = {path: path.stat().st_mtime_ns for path in (folder / "good").rglob("*")}
    (folder / "sweep.jsonl").write_text((folder / "sweep.jsonl").read_text() + '{"point": "go')  # torn by a crash
    listed = hushrec("sweep", path, "--out", folder, "--list").wait()
    assert listed.stdout.splitlines()[0].startswith("failed      broken: ")
    assert listed.stdout.splitlines()[1] == "finished    good"
    assert hushrec("sweep", path, "--out", folder).wait(200).code == 1
    assert {path: path.stat().st_mtime_ns for path in (folder / "good").rglob("*")} == before
    assert [line["state"] for line in Sweep(read_sweep(path), folder).journal()] == ["failed", "finished", "failed"]


def test_a_point_that_began_is_resumed_and_another_one_begun(two_points: Path, tmp_path: Path) -> None:
    sweep = Sweep(read_sweep(two_points), tmp_path / "out")
    made(sweep.folder, "long", sweep.points[0].config, 0.2)
    (sweep.folder / "long" / "results.json").unlink()
    assert sweep.arguments(sweep.points[0]) == ["simulate", "--resume", str(sweep.folder / "long")]
    assert sweep.arguments(sweep.points[1])[-2:] == ["--out", str(sweep.folder / "other")]
    assert open_run(sweep.folder / "long").federation.rounds == 40


def test_a_second_process_on_the_same_sweep_is_refused(two_points: Path, hushrec: Start, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with FileLock(folder / "sweep.lock"):
        ended = hushrec("sweep", two_points, "--out", folder).wait()
    assert ended.code == 2
    assert "another process works on the sweep" in ended.stderr
    assert [path.name for path in folder.iterdir()] == ["sweep.lock"]


def test_a_dry_run_prints_commands_and_writes_nothing(two_points: Path, hushrec: Start, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    ended = hushrec("sweep", two_points, "--out", folder, "--dry-run").wait()
    assert ended.code == 0
    tiny = tmp_path / "tiny.toml"
    assert ended.stdout.splitlines() == [
        f"hushrec simulate {tiny} --set=federation.rounds=40 --out {folder / 'long'}",
        f"hushrec simulate {tiny} --set=model.r=1 --out {folder / 'other'}",
    ]
    assert not folder.exists()
