"""What a person reads while a run works."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hushrec.common.config import RunConfig
from hushrec.common.errors import Interrupted
from hushrec.simulations import progress
from hushrec.simulations.progress import describe_run, show_run
from hushrec.simulations.run import Watcher

Tiny = Callable[..., RunConfig]
LINE = {"round": 2, "rounds": 4, "asked": 20, "answered": 18, "refused": {"NO_REPLY": 2}, "epsilon": 1.25}


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200, force_terminal=False)


def written(console: Console) -> str:
    stream = console.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def fake_run(monkeypatch: pytest.MonkeyPatch, *lines: dict[str, Any], error: BaseException | None = None) -> None:
    def execute(config: RunConfig, watcher: Watcher, engine: str) -> dict[str, Any]:
        watcher.step("loading the language model and encoding the catalogue")
        watcher.encoding(1, 2)
        watcher.encoding(2, 2)
        watcher.step("training")
        for line in lines:
            logging.getLogger("hushrec.rounds").info("round", extra={"round": line})
        if error is not None:
            raise error
        watcher.step("control ease")
        return {"done": True}

    monkeypatch.setattr(progress, "execute", execute)


def test_before_the_start_it_says_what_is_promised(tiny: Tiny) -> None:
    private = tiny(privacy__noise_multiplier=1.5)
    silos = private.replace(federation__shape="silos", privacy__unit="user")
    assert (
        "unit = record (hour slots), epsilon <= 8 at delta = 1e-05, noise multiplier 1.500" in describe_run(private)[1]
    )
    assert "unit = user of a silo" in describe_run(silos)[1]
    central = private.replace(
        privacy__mechanism="central",
        privacy__unit="user",
        federation__clients_per_round=0,
        privacy__noise_multiplier=2.0,
    )
    for config, on_server in ((private, False), (silos, False), (central, True)):
        assert ("added by the server, which is trusted" in describe_run(config)[1]) == on_server
        assert ("before anything leaves a client" in describe_run(config)[1]) != on_server
    assert describe_run(tiny(privacy__mechanism="none"))[1].startswith("NO PRIVACY")


def test_a_round_shows_who_answered_what_was_refused_and_what_was_spent(
    tiny: Tiny, console: Console, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    curve = {"validation_NDCG@10": 0.12345, "coverage@10": 0.5}
    fake_run(monkeypatch, LINE, LINE | {"round": 3, "refused": {}} | curve, LINE | {"round": 4, "refused": {}})
    assert show_run(tiny(run__directory=str(tmp_path)), console) == {"done": True}
    text = written(console)
    assert "round    2  18/20 clients  epsilon 1.25 spent  refused: 2 x NO_REPLY" in text
    assert "round    3  18/20 clients  epsilon 1.25 spent  validation NDCG@10 0.1235  coverage@10 0.500" in text
    assert "round    4" not in text  # nothing new to say: the bar shows it
    assert "control ease" in text


def test_a_round_without_privacy_says_so(
    tiny: Tiny, console: Console, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_run(monkeypatch, LINE | {"epsilon": None})
    show_run(tiny(privacy__mechanism="none", run__directory=str(tmp_path)), console)
    assert "18/20 clients  no privacy" in written(console)


def test_an_interrupt_tells_how_to_go_on(
    tiny: Tiny, console: Console, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "my [red]run"
    folder.mkdir()
    fake_run(monkeypatch, LINE, error=KeyboardInterrupt())
    expected = f"interrupted after round 0; go on with: hushrec simulate --resume '{folder}'"
    with pytest.raises(Interrupted, match=re.escape(expected)):
        show_run(tiny(run__directory=str(folder)), console)


def test_afterwards_nobody_listens_any_more(
    tiny: Tiny, console: Console, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = logging.getLogger("hushrec.rounds")
    before = (list(log.handlers), log.propagate)
    for error in (None, ValueError("stop")):
        fake_run(monkeypatch, LINE, error=error)
        if error is None:
            show_run(tiny(run__directory=str(tmp_path)), console)
        else:
            with pytest.raises(ValueError, match="stop"):
                show_run(tiny(run__directory=str(tmp_path)), console)
        assert (list(log.handlers), log.propagate) == before
