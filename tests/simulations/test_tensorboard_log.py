"""TensorBoard event files of a run: read back, they say what rounds.jsonl and results.json say, each step once."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError
from hushrec.simulations.tensorboard_log import FOLDER, TensorBoardLog, logged_rounds, require_tensorboard

Start = Callable[..., Any]


def read(folder: Path) -> tuple[dict[str, dict[int, float]], dict[str, str]]:
    """(tag -> step -> value, tag -> text) of a run directory; a doubled step fails."""
    (file,) = (folder / FOLDER).iterdir()
    events = EventAccumulator(str(file), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    scalars = {}
    for tag in events.Tags()["scalars"]:
        steps = [event.step for event in events.Scalars(tag)]
        assert len(steps) == len(set(steps)), tag
        scalars[tag] = {event.step: event.value for event in events.Scalars(tag)}
    texts = {
        tag.removesuffix("/text_summary"): events.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
        for tag in events.Tags()["tensors"]
    }
    return scalars, texts


def expected(folder: Path, unit: str) -> dict[str, dict[int, float]]:
    """What rounds.jsonl says."""
    found: dict[str, dict[int, float]] = {}
    for text in (folder / "rounds.jsonl").read_text().splitlines():
        line = json.loads(text)
        step = line.pop("round")
        del line["rounds"]
        line |= {f"refused/{code}": count for code, count in line.pop("refused").items()}
        line[f"epsilon_per_{unit}"] = line.pop("epsilon")
        for tag, value in line.items():
            if value is not None:
                found.setdefault(tag, {})[step] = pytest.approx(value, rel=1e-6)
    return found


def of_rounds(scalars: dict[str, dict[int, float]]) -> dict[str, dict[int, float]]:
    return {tag: values for tag, values in scalars.items() if not tag.startswith(("test_", "cost/"))}


def test_a_private_run_that_was_killed_and_resumed_is_logged_without_doubled_steps(
    hushrec: Start, experiments: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    line = "hushrec.server.rounds:_Recorder._line"
    arguments = ("simulate", experiments["private"], "--out", folder, "--log", "tensorboard")
    assert hushrec(*arguments, at=line, when="before", call=4).wait().code == -signal.SIGKILL
    before = read(folder)[0]
    assert before["asked"].keys() == {0, 1, 2}
    ended = hushrec("simulate", "--resume", folder, "--log", "tensorboard").wait()
    assert ended.code == 0, ended.stderr
    scalars, texts = read(folder)
    assert of_rounds(scalars) == expected(folder, "record")
    assert scalars["epsilon_per_record"].keys() == {0, 1, 2, 3, 4}
    results = json.loads((folder / "results.json").read_text())
    for system, figures in results["systems"].items():
        mean = figures["warm"]["NDCG@10"]["mean"]
        assert scalars[f"test_warm_NDCG@10/{system}"] == {4: pytest.approx(mean, rel=1e-6)}
    assert scalars["cost/bytes_up_per_client_round"] == {4: results["cost"]["bytes_up_per_client_round"]}
    privacy = results["privacy"]
    assert f"epsilon {privacy['epsilon']:.4g} per record at delta" in texts["privacy"]
    assert privacy["trust"] in texts["privacy"]
    assert "unit = record" in texts["run"]


def test_a_run_without_privacy_says_so_and_has_no_epsilon(whole: Callable[[str], Path], hushrec: Start) -> None:
    folder = whole("open")
    ended = hushrec("simulate", "--resume", folder, "--log", "tensorboard").wait()  # a finished run is logged, too
    assert ended.code == 0, ended.stderr
    scalars, texts = read(folder)
    assert of_rounds(scalars) == expected(folder, "record")
    assert "epsilon_per_record" not in scalars
    assert texts["privacy"].startswith("NO PRIVACY")


def test_lines_are_taken_once_and_only_when_they_are_whole(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = tiny(run__directory=str(tmp_path))
    (tmp_path / "experiment.toml").write_text(config.to_toml())
    lines = [
        json.dumps({"round": k, "rounds": 2, "asked": k, "refused": {"NOT_NOW": k}, "seconds": 0.5, "epsilon": None})
        for k in range(3)
    ]
    log = TensorBoardLog(config)
    rounds = tmp_path / "rounds.jsonl"
    log.catch_up()  # no file yet
    rounds.write_text(lines[0] + "\n" + lines[1] + "\n" + lines[2][:9])
    log.catch_up()
    log.catch_up()
    assert read(tmp_path)[0]["refused/NOT_NOW"] == {0: 0.0, 1: 1.0}
    rounds.write_text("\n".join(lines) + "\n")
    log.catch_up()
    log.close()
    assert read(tmp_path)[0] == expected(tmp_path, "record")


def test_a_run_that_another_process_holds_keeps_its_files(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    config = tiny(run__directory=str(tmp_path))
    (tmp_path / "experiment.toml").write_text(config.to_toml())
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "events").write_text("of the other process")
    with pytest.raises(ConfigError), logged_rounds(config):
        raise ConfigError("another process works on the run")
    assert (tmp_path / FOLDER / "events").exists()


def test_without_the_library_it_is_one_sentence_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'hushrec\[log\]'"):
        require_tensorboard()
