"""A sweep: many runs of one experiment, one after the other, that goes on where it was stopped. It chooses nothing.

Every point is an ordinary run directory in a process of its own (`sweep_point.py`): torch's number of threads and the
process's peak memory, which results.json reports, would pass from one point to the next, and a point that is killed
for its memory would take the sweep with it. The price is some seconds of imports a point.

    NAME/  run directory      sweep.jsonl  one line per attempt at a point
    NAME.log  its messages    sweep.lock   held by the one process that works on the sweep
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from hushrec.common.config import RunConfig, read_experiment
from hushrec.common.errors import ConfigError
from hushrec.simulations.report import REPORT
from hushrec.simulations.run import EXPERIMENT, LOCK, RESULTS
from hushrec.simulations.sweep_file import Point, SweepFile

JOURNAL, SWEEP_LOCK = "sweep.jsonl", "sweep.lock"
State = Literal["finished", "failed", "interrupted", "waiting"]
_SECONDS_TO_END = 60.0  # for an interrupted point to leave what it does, and for a lock to be let go
# Resolved or allowed to change when a run is resumed, so no sign of another sweep in the same folder.
_OPEN_KEYS = {"run.directory", "run.threads", "federation.execution", "evaluation.every"}


@dataclass(frozen=True)
class Sweep:
    """A sweep file and the folder of its runs, which need not exist yet."""

    file: SweepFile
    folder: Path

    @property
    def points(self) -> tuple[Point, ...]:
        """In the order in which they run."""
        return self.file.points

    def arguments(self, point: Point) -> list[str]:
        """What to give to `hushrec` so that it begins, or goes on with, a point."""
        folder = self.folder / point.name
        if (folder / EXPERIMENT).exists():
            return ["simulate", "--resume", str(folder)]
        pairs = [f"--set={key}={json.dumps(value, ensure_ascii=False)}" for key, value in point.settings.items()]
        return ["simulate", self.file.experiment, *pairs, "--out", str(folder)]

    def state(self, point: Point) -> State:
        """How far a point has come; "failed" where its last attempt ended with an error."""
        folder = self.folder / point.name
        if (folder / RESULTS).exists() and (folder / REPORT).exists():
            return "finished"
        if self.error(point):
            return "failed"
        return "interrupted" if (folder / EXPERIMENT).exists() else "waiting"

    def error(self, point: Point) -> str:
        """The one line with which the last attempt failed, or ""."""
        last = [line for line in self.journal() if line.get("point") == point.name][-1:]
        return str(last[0].get("error", "")) if last else ""

    def journal(self) -> list[dict[str, Any]]:
        """The lines of sweep.jsonl; one torn by a crash is left out."""
        path, found = self.folder / JOURNAL, []
        for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                found.append(dict(json.loads(text)))
            except (ValueError, TypeError):
                continue
        return found


@dataclass(frozen=True)
class Standing:
    """Where a running sweep stands: point `place` of `points` (from 1), its round, and a guess of the seconds left."""

    place: int
    points: int
    point: Point
    server_round: int
    seconds_left: float


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a point ended; `error` is one line where it failed. Finished before: 0 seconds."""

    point: Point
    state: State
    seconds: float = 0.0
    error: str = ""


def run_sweep(sweep: Sweep, tell: Callable[[Standing], None] = lambda standing: None) -> Iterator[Outcome]:
    """Run what is not finished, one point at a time, and yield how each ended; a failed one does not stop the others.

    Args:
        tell: called about once a second.
    Raises:
        ConfigError: another process works on the sweep, or a run in its folder is not that of the sweep file.
        KeyboardInterrupt: passed on; the running point has ended and can be resumed.
    """
    with _sole_writer(sweep.folder):
        check_folder(sweep)
        for place, point in enumerate(sweep.points, start=1):
            yield Outcome(point, "finished") if sweep.state(point) == "finished" else _attempt(sweep, place, tell)


@contextmanager
def _sole_writer(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / SWEEP_LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise ConfigError(f"another process works on the sweep in {folder}; end that one first") from error
    except OSError as error:
        raise ConfigError(f"cannot write in {folder}: {error.strerror}; choose another --out") from error
    try:
        yield
    finally:
        lock.release()


def check_folder(sweep: Sweep) -> None:
    """Refuse runs of the same name but other settings, which would stand in the table under a wrong name.

    Raises:
        ConfigError: names the first of them.
    """
    for point in sweep.points:
        path = sweep.folder / point.name / EXPERIMENT
        if not path.exists():
            continue
        ran, wanted = RunConfig.from_flat(read_experiment(path), str(path)).to_flat(), point.config.to_flat()
        solved = {"privacy.noise-multiplier": 0.0, "model.dtype": "auto"}  # such values are resolved by the run
        for key, value in wanted.items():
            if key not in _OPEN_KEYS and value != ran[key] and solved.get(key) != value:
                raise ConfigError(f"{path} has {key} = {ran[key]!r}, the sweep file {value!r}; choose another --out")


def _attempt(sweep: Sweep, place: int, tell: Callable[[Standing], None]) -> Outcome:
    """Begin a point or go on with it, in a process that ends with this one; write the outcome down."""
    point, started = sweep.points[place - 1], time.monotonic()
    _await_release(sweep.folder / point.name / LOCK)
    before = rounds_done(sweep.folder / point.name)
    command = [sys.executable, "-m", "hushrec.simulations.sweep_point", *sweep.arguments(point)]
    outcome = Outcome(point, "interrupted")
    with (sweep.folder / f"{point.name}.log").open("w+b") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # closed when this process ends, in whatever way: then the point interrupts itself
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, "COLUMNS": "200"},
            start_new_session=True,  # Ctrl-C reaches this process only, which then ends the point once
        )
        try:
            while child.poll() is None:
                done = rounds_done(sweep.folder / point.name)
                now = time.monotonic() - started
                left = _seconds_left(sweep, place, done, now / (done - before + 1))
                tell(Standing(place, len(sweep.points), point, done, left))
                try:
                    child.wait(1.0)
                except subprocess.TimeoutExpired:
                    continue
            log.seek(0)
            outcome = _outcome(point, child.returncode, log.read(), sweep)
        finally:
            _end(child)
            outcome = replace(outcome, seconds=round(time.monotonic() - started, 2))
            _write_journal(sweep, outcome, rounds_done(sweep.folder / point.name) - before)
    return outcome


def _outcome(point: Point, code: int, log: bytes, sweep: Sweep) -> Outcome:
    if code == 0 and (sweep.folder / point.name / RESULTS).exists():
        return Outcome(point, "finished")
    said = [line for line in log.decode("utf-8", "replace").splitlines() if line.strip()]
    error = said[-1].strip().removeprefix("error: ") if said else f"ended with exit code {code} and no message"
    if code < 0:
        error = f"the process was killed by {signal.Signals(-code).name}"
    return Outcome(point, "failed", error=error)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Let a running point interrupt itself; kill one that does not, which is resumable too."""
    assert child.stdin is not None
    child.stdin.close()
    try:
        child.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _await_release(path: Path) -> None:
    """A point of a sweep that was killed a moment ago may still be ending; after a while its lock speaks for itself."""
    if path.exists():
        try:
            with FileLock(path, timeout=_SECONDS_TO_END):
                pass
        except Timeout:
            return


def _write_journal(sweep: Sweep, outcome: Outcome, rounds: int) -> None:
    line = {
        "point": outcome.point.name,
        "state": outcome.state,
        "seconds": outcome.seconds,
        "rounds": rounds,
        "error": outcome.error,
    }
    path = sweep.folder / JOURNAL
    torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    with path.open("a", encoding="utf-8") as stream:
        stream.write("\n" * torn + json.dumps(line, ensure_ascii=False) + "\n")


def _seconds_left(sweep: Sweep, place: int, done: int, pace: float) -> float:
    """Rounds still to be run times the seconds of a round so far; a point's start and evaluation count as one."""
    ran = [line for line in sweep.journal() if line.get("state") == "finished"]
    if rounds := sum(line["rounds"] + 1 for line in ran):
        pace = sum(line["seconds"] for line in ran) / rounds
    ahead = [point for point in sweep.points[place:] if sweep.state(point) != "finished"]
    return pace * (
        max(1, sweep.points[place - 1].config.federation.rounds + 1 - done)
        + sum(point.config.federation.rounds + 1 for point in ahead)
    )


def rounds_done(folder: Path) -> int:
    """The last round of a run's rounds.jsonl; 0 where there is none."""
    lines = round_lines(folder)
    return int(lines[-1].get("round", 0)) if lines else 0


def round_lines(folder: Path) -> list[dict[str, Any]]:
    """rounds.jsonl of a run that may still be written: a torn line is left out."""
    path, found = folder / "rounds.jsonl", []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(dict(json.loads(text)))
        except ValueError:
            continue
    return found
