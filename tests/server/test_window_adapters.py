"""The adapter of every window's end is kept, and an interrupted run keeps the same one to the bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.federation import link

from hushrec.common.config import RunConfig
from hushrec.common.errors import BundleError, ConfigError
from hushrec.common.protocol import Arrays
from hushrec.server import rounds
from hushrec.server.checkpoint import read_checkpoint
from hushrec.server.deployment.federation import count_devices
from hushrec.server.optimizer import ServerOptimizer
from hushrec.server.rounds import evaluated_adapter, run_rounds
from hushrec.server.window_adapters import keep_window, read_window

pytestmark = pytest.mark.usefixtures("closed_ledgers")


@pytest.fixture
def config(tiny: Callable[..., RunConfig], tmp_path: Path) -> RunConfig:
    return tiny(
        privacy__mechanism="none",
        data__window_ends="2000-01-10,2000-01-20",
        federation__rounds=6,
        server__averaging=0.5,
        server__anchor=0.2,
        evaluation__every=0,
        run__directory=str(tmp_path),
    )


def bits(adapter: Arrays) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in adapter.items()}


def test_what_is_kept_is_what_would_have_been_shipped_then(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped: list[dict[str, bytes]] = []

    def watched(folder: Path, checkpoint: Any) -> None:
        real(folder, checkpoint)
        shipped.append(bits(evaluated_adapter(config, checkpoint)))

    real = rounds.write_checkpoint
    monkeypatch.setattr(rounds, "write_checkpoint", watched)
    run_rounds(link(config), config)
    kept = [bits(read_window(config, window)) for window in range(3)]
    assert kept == [shipped[2], shipped[4], shipped[6]]  # the first is of the start
    assert kept[0] != kept[1] != kept[2]


class Stop(Exception):
    pass


@pytest.mark.parametrize("point", ["keep_window", "write_checkpoint"])
@pytest.mark.parametrize("call", [3, 4, 5])
def test_a_run_that_stops_around_a_windows_end_ends_as_if_it_had_not(
    point: str, call: int, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parts").mkdir()
    parts = config.replace(run__directory=str(tmp_path / "parts"))
    expected = bits(run_rounds(link(config), config).adapter)
    real, calls = getattr(rounds, point), 0

    def stopping(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Stop
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(rounds, point, stopping)
        with pytest.raises(Stop):
            run_rounds(link(parts), parts)
    assert bits(run_rounds(link(parts), parts).adapter) == expected
    for window in range(3):
        assert bits(read_window(parts, window)) == bits(read_window(config, window))


def test_the_anchor_is_the_last_windows_adapter_and_pulls_towards_it(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "free").mkdir()
    free = config.replace(server__anchor=0.0, run__directory=str(tmp_path / "free"))
    run_rounds(link(config), config)
    run_rounds(link(free), free)
    assert bits(read_window(config, 0)) == bits(read_window(free, 0))  # nothing to go back to before

    def moved(run: RunConfig) -> float:
        first, last = read_window(run, 0), read_window(run, 1)
        return sum(float(np.square(last[name] - first[name]).sum()) for name in first)

    assert moved(config) < 0.9 * moved(free)
    last = read_checkpoint(tmp_path)
    assert last is not None
    assert bits({n.removeprefix("anchor/"): v for n, v in last.optimizer.items() if n.startswith("anchor/")}) == bits(
        read_window(config, 2)
    )


def test_a_step_goes_back_by_the_anchors_share(tiny: Callable[..., RunConfig]) -> None:
    server = tiny(server__optimizer="fedavg", server__learning_rate=1.0, server__head_learning_rate=1.0).server
    adapter, update = {"mix": np.zeros(2, np.float32)}, {"mix": np.ones(2, np.float32)}
    plain = ServerOptimizer(server, 1)
    np.testing.assert_allclose(plain.step(adapter, update)["mix"], 1.0)
    pulled = ServerOptimizer(replace(server, anchor=0.25), 1, anchor={"mix": np.full(2, -3.0, np.float32)})
    np.testing.assert_allclose(pulled.step(adapter, update)["mix"], 1.0 + 0.25 * (-3.0 - 1.0))


def test_windows_keep_their_rounds_when_a_run_is_resumed(config: RunConfig) -> None:
    run_rounds(link(config), config)
    with pytest.raises(ConfigError, match=r"federation\.rounds was 6 when this run began and is 9 now"):
        run_rounds(link(config), config.replace(federation__rounds=9))


def test_a_missing_window_is_one_clear_error_and_a_round_in_its_middle_keeps_nothing(config: RunConfig) -> None:
    assert not keep_window(config, 1, {})
    with pytest.raises(BundleError, match="what window 1 ended with"):
        read_window(config, 0)


def test_a_deployment_with_windows_is_refused_before_anybody_is_invited(config: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"trains on what it holds now: leave out data\.window-ends"):
        count_devices(config, 5)
    assert count_devices(config.replace(data__window_ends="", server__anchor=0.0), 5) == 5
