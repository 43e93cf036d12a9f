"""A run's figures as TensorBoard event files in OUT/tensorboard: the lines of rounds.jsonl, then the test figures.

It reads what a run has written down and nothing else, so it holds nothing that the run directory does not; training
knows nothing of it. The event files are written anew whenever a run is taken up, so no step is there twice. Their clock
starts when the run was made and counts the seconds of its rounds, so a pause leaves no gap.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError
from hushrec.server.rounds import ROUNDS
from hushrec.simulations.progress import describe_run
from hushrec.simulations.run import EXPERIMENT

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
_SECONDS = ("seconds", "evaluation_seconds")
_LEFT_OUT = {"round", "rounds"}  # the step, and a setting


def require_tensorboard() -> None:
    """Raises:
    ConfigError: the extra is not installed.
    """
    if find_spec("tensorboard") is None:
        raise ConfigError("--log tensorboard needs the extra 'log': pip install 'hushrec[log]'")


class TensorBoardLog:
    """The event files of one run.

    Args:
        config: of `new_run` or `open_run`.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config, self._folder = config, Path(config.run.directory)
        self._read, self._round = 0, 0  # bytes of rounds.jsonl; the last round
        self._clock = (self._folder / EXPERIMENT).stat().st_mtime

    @cached_property
    def _writer(self) -> SummaryWriter:
        """Made at the first line: until then another process may hold the run, and its files are to stay."""
        from torch.utils.tensorboard import SummaryWriter

        own = self._folder / FOLDER
        shutil.rmtree(own, ignore_errors=True)
        # purge_step: a TensorBoard that watches the folder drops what it read of the files before.
        writer = SummaryWriter(str(own), purge_step=0)
        promised = "\n\n".join(describe_run(self._config))
        writer.add_text("run", promised, 0, self._clock)
        return writer

    def catch_up(self) -> None:
        """Write the lines that rounds.jsonl has won since the last call."""
        try:
            with (self._folder / ROUNDS).open("rb") as stream:
                stream.seek(self._read)
                whole, end, _ = stream.read().rpartition(b"\n")
        except OSError:
            return
        self._read += len(whole) + len(end)
        for line in whole.splitlines():
            self._line(json.loads(line))
        self._writer.flush()

    def finish(self, results: dict[str, Any]) -> None:
        """Write the test figures of every system at the last round, and what the run promises."""
        self.catch_up()
        for system, figures in results["systems"].items():
            for name, value in sorted(_means(figures)):
                self._scalar(f"test_{name}/{system}", value)
        for name, value in results["cost"].items():
            if _is_number(value):
                self._scalar(f"cost/{name}", value)
        card = privacy_card(results["privacy"])
        self._writer.add_text("privacy", card, self._round, self._clock)

    def close(self) -> None:
        """Write out what is left."""
        if "_writer" in self.__dict__:
            self._writer.close()

    def _line(self, line: dict[str, Any]) -> None:
        self._round = int(line["round"])
        self._clock += sum(float(line.get(name) or 0.0) for name in _SECONDS)
        for name, value in line.items():
            if isinstance(value, dict):
                for inner, count in value.items():
                    self._scalar(f"{name}/{inner}", count)
            elif _is_number(value) and name not in _LEFT_OUT:
                self._scalar(f"epsilon_per_{self._config.privacy.unit}" if name == "epsilon" else name, value)

    def _scalar(self, tag: str, value: float) -> None:
        self._writer.add_scalar(tag, value, self._round, self._clock)


@contextmanager
def logged_rounds(config: RunConfig) -> Iterator[TensorBoardLog]:
    """A log that follows the run while the block runs; it is closed when the block ends, by an error too."""
    written = TensorBoardLog(config)
    handler = _RoundHandler(written)
    rounds = logging.getLogger("hushrec.rounds")
    rounds.addHandler(handler)
    try:
        yield written
    finally:
        rounds.removeHandler(handler)
        written.close()


class _RoundHandler(logging.Handler):
    """Told that a round's line is there; what the line says is read from the file."""

    def __init__(self, written: TensorBoardLog) -> None:
        super().__init__()
        self._written = written

    def emit(self, record: logging.LogRecord) -> None:
        """One more round is finished."""
        self._written.catch_up()


def privacy_card(privacy: dict[str, Any]) -> str:
    """The claim as Markdown: epsilon with its unit, against whom, and what it does not cover."""
    if privacy["mechanism"] == "none":
        return str(privacy["trust"])
    per = [
        f"epsilon {privacy['epsilon']:.4g} per {privacy['unit']} at delta = {privacy['delta']:g} "
        f"({privacy['mechanism']}, {privacy['relation']})",
        f"against: {privacy['trust']}",
    ]
    for name, unit in (("user_epsilon", "user"), ("interaction_epsilon", "interaction")):
        if privacy.get(name) is not None:
            per.append(f"epsilon {privacy[name]:.4g} per {unit}")
    per += [f"assumes: {one}" for one in privacy.get("assumptions", ())]
    per += [f"does not cover: {one}" for one in privacy.get("not_covered", ())]
    return "\n".join(f"* {line}" for line in per)


def _means(figures: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """(name, mean) of each figure; the tenths of popularity stay in the report."""
    for name, value in figures.items():
        if name == "deciles" or not isinstance(value, dict):
            continue
        if "mean" in value:
            if _is_number(value["mean"]):
                yield name, value["mean"]
        else:
            yield from ((f"{name}_{inner}", mean) for inner, mean in _means(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
