"""Quality against epsilon, or against the number of users, over finished runs. It trains and chooses nothing.

Runs are comparable where data set, protocol, split, users and claim are equal. At one epsilon there is one
configuration, repeated under several seeds or not: which one is a choice, and choices are made on validation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hushrec.common.errors import BundleError, ConfigError
from hushrec.common.metrics import Figure
from hushrec.server.evaluation import Evaluation, retained_gain
from hushrec.simulations.per_user import PER_USER, read_per_user
from hushrec.simulations.run import RESULTS
from hushrec.simulations.table import OURS, UNTRAINED, figure

SHOWN = (OURS, UNTRAINED, "dp_popularity", "popularity", "ease")
OPEN_CLAIM = "no privacy"
NO_OPEN_RUN = "no run without privacy is given"
_NORMAL_QUANTILE = 1.959964
# Not part of what is compared: two runs that differ here only are repetitions of one another. The dtype of the frozen
# layers is what each machine measured as its fastest.
_REPETITION = {
    "run.seed", "model.dtype", "run.directory", "run.threads", "run.experiment", "data.folder", "federation.execution",
    "evaluation.every",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """results.json of one run, and its values per user where the run wrote them."""

    path: Path
    results: Mapping[str, Any]
    values: Mapping[str, Evaluation]

    @property
    def claim(self) -> str:
        """Name and unit of the claim, such as "C2, per user"."""
        privacy = self.results["privacy"]
        if privacy["mechanism"] == "none":
            return OPEN_CLAIM
        return f"{privacy.get('name', 'claim')}, per {privacy['unit']}"

    @property
    def epsilon(self) -> float:
        """The budget the run was planned for; infinite without privacy."""
        privacy = self.results["privacy"]
        return math.inf if privacy["mechanism"] == "none" else float(privacy.get("target_epsilon", privacy["epsilon"]))

    @property
    def users(self) -> int:
        """Of the data set, training or not."""
        return int(self.results["dataset"]["users"])

    def data(self, *, with_users: bool) -> tuple[object, ...]:
        """What must be equal for figures to be of the same cases."""
        results, users = self.results, (self.users,) if with_users else ()
        return (results["dataset"]["name"], results["protocol"], results["config"].get("data.seed"), *users)

    def settings(self) -> dict[str, object]:
        """What makes the run another configuration."""
        return {key: value for key, value in self.results["config"].items() if key not in _REPETITION}


@dataclass(frozen=True)
class Retained:
    """(private − frozen) / (open − frozen), frozen being the private run's own control.

    Attributes:
        figure: None where it is undefined; `note` says why.
        note: "paired", or "approximate" for the delta method on independent intervals.
    """

    figure: Figure | None
    note: str


@dataclass(frozen=True, eq=False)
class Level:
    """One point of a curve: the runs of one configuration.

    Attributes:
        place: epsilon (infinite: no privacy), or the number of users.
        spent: the largest epsilon any of the runs spent; None without privacy.
        figures: system -> mean over the runs; `low` and `high` are the mean ends of the intervals over users.
        spread: lowest and highest mean of hushrec among the runs.
    """

    place: float
    runs: tuple[FinishedRun, ...]
    spent: float | None
    figures: Mapping[str, Figure]
    spread: tuple[float, float]
    retained: Retained | None = None


@dataclass(frozen=True, eq=False)
class Curve:
    """Levels that may be compared, by rising place; `title` says what they have in common."""

    title: str
    claim: str
    levels: tuple[Level, ...]


def read_runs(paths: Iterable[Path]) -> list[FinishedRun]:
    """Runs from results.json files, run directories and folders of run directories; each once.

    Raises:
        ConfigError: there is none in one of the paths.
        BundleError: a file is damaged or no results.json.
    """
    found: dict[Path, FinishedRun] = {}
    for path in paths:
        files = [path] if path.is_file() else [path / RESULTS] if (path / RESULTS).exists() else []
        files = files or sorted(path.glob(f"*/{RESULTS}"))
        if not files:
            raise ConfigError(f"{path} is neither a results.json nor a folder of finished runs")
        for file in files:
            found.setdefault(file.resolve(), _read_run(file))
    return list(found.values())


def _read_run(path: Path) -> FinishedRun:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} is damaged: {error}") from error
    if not isinstance(results, dict) or not {"systems", "dataset", "protocol", "privacy", "config"} <= set(results):
        raise BundleError(f"{path} is no results.json of a run")
    # Beside results.json lies per_user.npz, beside a copy called NAME.json its NAME.npz.
    values = path.with_name(PER_USER) if path.name == RESULTS else path.with_suffix(".npz")
    return FinishedRun(path, results, read_per_user(values))


def epsilon_curves(runs: Sequence[FinishedRun], path: str) -> list[Curve]:
    """A curve per data set, protocol, number of users and claim; the runs without privacy end each of their data.

    Args:
        path: of the figure, such as "warm/NDCG@10".
    Raises:
        ConfigError: a run without that figure, or two configurations at one epsilon.
    """
    curves = []
    for data, members in _grouped(runs, lambda run: run.data(with_users=True)).items():
        opens = [run for run in members if run.claim == OPEN_CLAIM]
        private = _grouped([run for run in members if run.claim != OPEN_CLAIM], lambda run: run.claim)
        for claim, claimed in (private or {OPEN_CLAIM: []}).items():
            levels = _levels([*claimed, *_of_shape(opens, claimed)], path, lambda run: run.epsilon)
            reference = levels[-1] if levels[-1].place == math.inf else None
            title = f"{data[0]}, protocol {data[1]}, {data[3]:,} users"
            curves.append(Curve(title, claim, tuple(_with_retained(level, reference, path) for level in levels)))
    return curves


def user_curves(runs: Sequence[FinishedRun], path: str) -> list[Curve]:
    """A curve over the number of users per data set, protocol, claim and epsilon.

    Raises:
        ConfigError: as `epsilon_curves`, for two configurations at one number of users.
    """
    curves = []
    for (data, claim, epsilon), members in _grouped(
        runs, lambda run: (run.data(with_users=False), run.claim, run.epsilon)
    ).items():
        title = f"{data[0]}, protocol {data[1]}" + ("" if math.isinf(epsilon) else f", epsilon {epsilon:g}")
        curves.append(Curve(title, claim, tuple(_levels(members, path, lambda run: run.users))))
    return curves


def _grouped(runs: Iterable[FinishedRun], key: Callable[[FinishedRun], Any]) -> dict[Any, list[FinishedRun]]:
    groups: dict[Any, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return groups


def _of_shape(opens: list[FinishedRun], private: list[FinishedRun]) -> list[FinishedRun]:
    """The open runs of the private runs' federation shape, where there are such; all otherwise."""
    shapes = {run.results["config"].get("federation.shape") for run in private}
    return [run for run in opens if run.results["config"].get("federation.shape") in shapes] or opens


def _levels(runs: Sequence[FinishedRun], path: str, place: Callable[[FinishedRun], float]) -> list[Level]:
    return [_level(at, members, path) for at, members in sorted(_grouped(runs, place).items())]


def _level(place: float, runs: Sequence[FinishedRun], path: str) -> Level:
    first = runs[0].settings()
    for other in runs[1:]:
        settings = other.settings()
        if odd := sorted(key for key in {*first, *settings} if first.get(key) != settings.get(key)):
            raise ConfigError(
                f"{runs[0].path} and {other.path} stand at the same place ({place:g}) but differ in {', '.join(odd)}; "
                "give the one that was chosen on validation (hushrec sweep sorts by it)"
            )
    figures = {name: _mean_figure(runs, name, path) for name in SHOWN}
    present = {name: found for name, found in figures.items() if found is not None}
    if OURS not in present:
        raise ConfigError(f"{runs[0].path} has no figure {path!r}; it has {', '.join(_known(runs[0]))}")
    means = [found["mean"] for run in runs if (found := figure(run.results["systems"][OURS], path))]
    spent = [run.results["privacy"]["epsilon"] for run in runs]
    return Level(
        place=place,
        runs=tuple(runs),
        spent=None if None in spent else max(spent),
        figures=present,
        spread=(min(means), max(means)),
    )


def _mean_figure(runs: Sequence[FinishedRun], name: str, path: str) -> Figure | None:
    found = [figure(run.results["systems"].get(name, {}), path) for run in runs]
    known = [one for one in found if one is not None]
    if len(known) < len(runs):
        return None
    return {end: sum(one[end] for one in known) / len(known) for end in ("mean", "low", "high")}


def _known(run: FinishedRun) -> list[str]:
    """Paths of all figures of hushrec in a run."""

    def walk(entry: Mapping[str, Any], above: str) -> list[str]:
        paths = []
        for key, value in entry.items():
            if isinstance(value, Mapping):
                paths += [above + key] if "mean" in value else walk(value, f"{above}{key}/")
        return paths

    return walk(run.results["systems"].get(OURS, {}), "")


def _with_retained(level: Level, reference: Level | None, path: str) -> Level:
    if level.place == math.inf:
        return level
    retained = Retained(None, NO_OPEN_RUN)
    if reference is not None and not _training_gains(reference, path):
        retained = Retained(None, "undefined: without privacy, too, training does not beat its own frozen control")
    elif reference is not None:
        retained = _paired_gain(level, reference, path) or approximate_gain(
            level.figures.get(OURS), level.figures.get(UNTRAINED), reference.figures.get(OURS)
        )
    return Level(level.place, level.runs, level.spent, level.figures, level.spread, retained)


def _training_gains(reference: Level, path: str) -> bool:
    """Whether every open run is above its own control; else what it has more is its exact counts, not its training."""
    name = f"{OURS} - {UNTRAINED}"
    judged = [run.results.get("paired", {}).get(name, {}).get(path) for run in reference.runs]
    return all(one is None or one["verdict"] == "above" for one in judged)


def _paired_gain(level: Level, reference: Level, path: str) -> Retained | None:
    """From the values per user; None where a run has none."""
    private, frozen = _mean_values(level.runs, OURS, path), _mean_values(level.runs, UNTRAINED, path)
    full = _mean_values(reference.runs, OURS, path)
    if private is None or frozen is None or full is None:
        return None
    above = full.per_user[path].mean() > frozen.per_user[path].mean()
    found = retained_gain(private, frozen, full, path, seed=0) if above else None
    return (
        Retained(found, "paired")
        if found
        else Retained(None, "undefined: the interval of open − frozen holds 0 or less")
    )


def _mean_values(runs: Sequence[FinishedRun], system: str, path: str) -> Evaluation | None:
    """Every case's value, averaged over repetitions.

    Raises:
        ConfigError: the repetitions were evaluated on other cases.
    """
    entries = [
        run.values[system] for run in runs if path in run.values.get(system, Evaluation("", {}, {}, {})).per_user
    ]
    if len(entries) < len(runs):
        return None
    group = path.rpartition("/")[0]
    for run, entry in zip(runs, entries, strict=True):
        if not np.array_equal(entry.users[group], entries[0].users[group]):
            raise ConfigError(f"{run.path} was evaluated on other cases than {runs[0].path}")
    mean = np.mean([entry.per_user[path] for entry in entries], axis=0)
    return Evaluation(system, {}, {path: mean}, {group: entries[0].users[group]})


def approximate_gain(private: Figure | None, frozen: Figure | None, full: Figure | None) -> Retained:
    """Retained gain with an interval by the delta method, as if the three means were independent.

    They are means over the same users and rise and fall together, so the interval is usually too wide, and what is
    undefined here may be defined with paired values.

    Args:
        private, frozen, full: figures with 95 % intervals; `full` of the run without privacy.
    """
    if private is None or frozen is None or full is None:
        return Retained(None, "no frozen control with this figure")
    variance = {name: _variance(one) for name, one in (("p", private), ("f", frozen), ("o", full))}
    gain = full["mean"] - frozen["mean"]
    if gain <= _NORMAL_QUANTILE * math.sqrt(variance["o"] + variance["f"]):
        return Retained(None, "undefined: the approximate interval of open − frozen holds 0 or less")
    ratio = (private["mean"] - frozen["mean"]) / gain
    spread = math.sqrt(variance["p"] + ratio**2 * variance["o"] + (ratio - 1) ** 2 * variance["f"]) / abs(gain)
    ends = {"low": ratio - _NORMAL_QUANTILE * spread, "high": ratio + _NORMAL_QUANTILE * spread}
    return Retained({"mean": ratio, **ends}, "approximate")


def _variance(found: Figure) -> float:
    return ((found["high"] - found["low"]) / 2 / _NORMAL_QUANTILE) ** 2
