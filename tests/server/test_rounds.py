"""What the server writes down of its rounds, and that a resumed server goes on as if it had never stopped."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, MessageType
from support.federation import link

from hushrec.common.config import RunConfig
from hushrec.common.errors import BundleError, ConfigError
from hushrec.common.workspace import shared_model
from hushrec.server import rounds
from hushrec.server.checkpoint import Checkpoint, read_checkpoint
from hushrec.server.rounds import ROUNDS, evaluated_adapter, keep_rounds, run_rounds
from hushrec.simulations.grid import InProcessGrid

pytestmark = pytest.mark.usefixtures("closed_ledgers")


@pytest.fixture
def config(tiny: Callable[..., RunConfig], tmp_path: Path) -> RunConfig:
    return tiny(
        privacy__mechanism="none",
        federation__rounds=3,
        server__averaging=0.5,
        server__schedule="cosine",
        run__directory=str(tmp_path),
    )


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / ROUNDS).read_text().splitlines()]


def untimed(folder: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if "seconds" not in key} for line in lines(folder)]


def assert_equal(left: Checkpoint, right: Checkpoint) -> None:
    assert left.server_round == right.server_round
    for name in ("adapter", "optimizer"):
        ours, theirs = getattr(left, name), getattr(right, name)
        assert {key: value.tobytes() for key, value in ours.items()} == {k: v.tobytes() for k, v in theirs.items()}


def test_each_round_has_one_line_and_the_last_checkpoint_is_the_last_round(config: RunConfig, tmp_path: Path) -> None:
    last = run_rounds(link(config), config)
    written = lines(tmp_path)
    assert [line["round"] for line in written] == [0, 1, 2, 3]
    assert [(line["asked"], line["answered"], line["refused"]) for line in written] == [(0, 0, {})] + [(20, 20, {})] * 3
    assert all(line["epsilon"] is None for line in written)
    stored = read_checkpoint(tmp_path)
    assert stored is not None
    assert_equal(stored, last)
    assert last.facts["client_steps"] == 60
    assert last.facts["seconds"] == pytest.approx(sum(line["seconds"] for line in written), abs=1.0)
    assert last.facts["bytes_down"] > 0 < last.facts["bytes_up"]


def test_a_listener_hears_of_each_round_what_is_written(
    config: RunConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="hushrec.rounds"):
        run_rounds(link(config), config)
    heard = [record.__dict__["round"] for record in caplog.records if record.name == "hushrec.rounds"]
    assert heard == lines(tmp_path)


@pytest.mark.parametrize("every", [0, 2])
def test_the_curve_has_the_first_the_last_and_each_configured_round(
    config: RunConfig, tmp_path: Path, every: int
) -> None:
    config = config.replace(evaluation__every=every)
    run_rounds(link(config), config)
    evaluated = [line["round"] for line in lines(tmp_path) if "validation_NDCG@10" in line]
    assert evaluated == ([0, 3] if every == 0 else [0, 2, 3])


class Stop(Exception):
    pass


@pytest.mark.parametrize("point", ["write_checkpoint", "curve_point"])
@pytest.mark.parametrize("call", [1, 3])
def test_a_server_stopped_anywhere_goes_on_as_if_it_had_not_been(
    config: RunConfig, tmp_path: Path, point: str, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    expected = run_rounds(link(config), config.replace(run__directory=str(whole)))
    real, calls = getattr(rounds, point), 0

    def stopping(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Stop
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(rounds, point, stopping)
        with pytest.raises(Stop):
            run_rounds(link(config), config.replace(run__directory=str(parts)))
    assert_equal(run_rounds(link(config), config.replace(run__directory=str(parts))), expected)
    assert untimed(parts) == untimed(whole)


def test_a_finished_training_that_is_resumed_asks_nobody(config: RunConfig, tmp_path: Path) -> None:
    class Silent(InProcessGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
            assert list(messages) == []
            return []

    expected = run_rounds(link(config), config)
    before = (tmp_path / ROUNDS).read_bytes()
    assert_equal(run_rounds(link(config, Silent), config), expected)
    assert (tmp_path / ROUNDS).read_bytes() == before


def test_a_finished_training_may_be_given_more_rounds_and_nothing_else(config: RunConfig, tmp_path: Path) -> None:
    plain = config.replace(server__schedule="constant")
    run_rounds(link(plain), plain.replace(federation__rounds=2))
    with pytest.raises(ConfigError, match=r"data\.seed was 42 when this run began and is 1 now"):
        run_rounds(link(plain), plain.replace(data__seed=1))
    longer = run_rounds(link(plain), plain.replace(federation__execution="cohort", run__threads=1))
    assert longer.server_round == 3
    assert [line["round"] for line in lines(tmp_path)] == [0, 1, 2, 3]


def test_a_second_run_of_a_process_starts_untrained_too(config: RunConfig, tmp_path: Path) -> None:
    starts = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        now = config.replace(run__directory=str(tmp_path / name))
        run_rounds(link(now), now.replace(federation__rounds=0))
        stored = read_checkpoint(tmp_path / name)
        assert stored is not None
        starts.append({key: value.tobytes() for key, value in stored.adapter.items()})
        run_rounds(link(now), now)
        trained = {key: value.tobytes() for key, value in shared_model(now.model, now.data).recommender.read().items()}
        assert trained != starts[-1]
    assert starts[0] == starts[1]


def test_rounds_in_which_nobody_answers_leave_the_adapter_and_the_run_goes_on(
    config: RunConfig, tmp_path: Path
) -> None:
    class Deaf(InProcessGrid):
        rounds = 0

        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
            messages = list(messages)
            if messages and messages[0].metadata.message_type == MessageType.TRAIN:
                Deaf.rounds += 1
                if Deaf.rounds == 2:
                    return []
            return super().send_and_receive(messages)

    seen: list[Checkpoint] = []
    real = rounds.write_checkpoint
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "write_checkpoint", lambda folder, made: (seen.append(made), real(folder, made)))
        last = run_rounds(link(config, Deaf), config)
    assert [line["answered"] for line in lines(tmp_path)] == [0, 20, 0, 20]
    assert lines(tmp_path)[2]["refused"] == {"NO_REPLY": 20}
    assert last.facts["refused"] == {"NO_REPLY": 20}
    names = list(last.adapter)
    assert all(seen[1].adapter[name].tobytes() == seen[2].adapter[name].tobytes() for name in names)
    assert any(seen[2].adapter[name].tobytes() != seen[3].adapter[name].tobytes() for name in names)


def test_what_is_evaluated_is_the_running_mean_where_averaging_is_on(config: RunConfig) -> None:
    last = run_rounds(link(config), config)
    shipped = evaluated_adapter(config, last)
    plain = evaluated_adapter(config.replace(server__averaging=0.0), last)
    name = "user_core.weight"
    assert shipped[name].tobytes() != plain[name].tobytes()
    assert plain[name].tobytes() == last.adapter[name].tobytes()


def test_private_lines_say_what_the_client_asked_most_often_has_spent(
    tiny: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = tiny(
        privacy__noise_multiplier=3.0, federation__rounds=3, evaluation__every=0, run__directory=str(tmp_path)
    )
    run_rounds(link(config), config)
    spent = [line["epsilon"] for line in lines(tmp_path)]
    assert spent[0] == 0
    assert 0 < spent[1] == spent[2] < spent[3]  # 20 of 48 clients a round: from the third on, some are asked again
    assert spent[3] < config.privacy.target_epsilon


def test_a_server_without_a_directory_is_refused(config: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"run\.directory is empty"):
        run_rounds(link(config), config.replace(run__directory=""))


def test_a_damaged_checkpoint_is_refused_and_kept(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"nothing")
    with pytest.raises(BundleError, match="damaged"):
        run_rounds(link(config), config)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == b"nothing"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", []),
        ('{"round": 0}\n{"round": 1}\n{"round": 2}\n{"round": 3}\n', [0, 1, 2]),
        ('{"round": 0}\n{"round": 1}\n{"rou', [0, 1]),
        ('{"round": 0}\n3\n{"round": 1}\n', [0]),
        ('{"round": 0}\n{"other": 1}\n', [0]),
        ('{"round": 0}\n{"round": 0}\n', [0]),
    ],
)
def test_only_whole_lines_of_finished_rounds_are_kept(tmp_path: Path, text: str, kept: list[int]) -> None:
    (tmp_path / ROUNDS).write_text(text)
    assert keep_rounds(tmp_path, 2) == set(kept)
    assert [line["round"] for line in lines(tmp_path)] == kept


def test_a_run_that_wrote_no_line_yet_has_none_to_keep(tmp_path: Path) -> None:
    assert keep_rounds(tmp_path, 2) == set()
    assert not (tmp_path / ROUNDS).exists()


def test_the_averaged_adapter_is_float32(config: RunConfig) -> None:
    last = run_rounds(link(config), config)
    assert {value.dtype for value in evaluated_adapter(config, last).values()} == {np.dtype(np.float32)}
