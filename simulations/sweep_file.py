"""The file of a sweep: which points it asks for, each with a name and a checked configuration. It runs none.

experiment = "ml100k-silos"        # a packaged experiment, or a .toml file beside this one
seeds = [0, 1, 2]                  # the innermost loop
[set]                              # for every point
federation.rounds = 5
[grid]                             # every combination
privacy.target-epsilon = [1, 2, 4, 8]
[[run]]                            # and single points with a name
name = "short"
federation.rounds = 2
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hushrec.common.config import RunConfig, Scalar, read_toml
from hushrec.common.errors import ConfigError
from hushrec.simulations.cli import load_experiment

SEED = "run.seed"
_TABLES = ("experiment", "seeds", "set", "grid", "run")
_NAME = re.compile(r"[\w=+-][\w.=,+-]{0,199}")


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        name: of its run directory: the changed keys, or what the file calls it.
        group: the name without the seed; points of one group differ in the seed only.
        settings: every key that differs from the experiment.
        config: all of it, checked.
    """

    name: str
    group: str
    settings: Mapping[str, Scalar]
    config: RunConfig


@dataclass(frozen=True)
class SweepFile:
    """What a sweep file asks for.

    Attributes:
        experiment: packaged name or path, as `hushrec simulate` takes it.
        points: in the order in which they run.
    """

    experiment: str
    points: tuple[Point, ...]


def read_sweep(path: Path) -> SweepFile:
    """Every point of a sweep file, checked before any of them runs.

    Raises:
        ConfigError: not there, not TOML, an unknown key, a value no run accepts, or two points of one name.
    """
    tables = read_toml(path, "sweep")
    if odd := sorted(set(tables) - set(_TABLES)):
        raise ConfigError(f"{path}: unknown key {odd[0]!r}; a sweep has {', '.join(_TABLES)}")
    base = tables.get("experiment")
    if not isinstance(base, str):
        raise ConfigError(f'{path}: expected experiment = "NAME", a packaged experiment or a .toml file')
    if base.endswith(".toml"):
        base = str((path.parent / base).resolve())
    points: dict[str, Point] = {}
    for group, seed, settings in _combinations(tables, path):
        name = ",".join(filter(None, [group, seed])) or "run"
        if not _NAME.fullmatch(name) or name in points:
            twice = "names two points" if name in points else "cannot name a run directory"
            raise ConfigError(f"{path}: {name!r} {twice}; give the point a [[run]] with a name of its own")
        try:
            config = load_experiment(base, [f"{key}={json.dumps(value)}" for key, value in settings.items()])
        except ConfigError as error:
            raise ConfigError(f"{path}, point {name}: {error}") from error
        points[name] = Point(name, group or "run", settings, config)
    return SweepFile(base, tuple(points.values()))


def _combinations(tables: Mapping[str, Any], path: Path) -> Iterator[tuple[str, str, dict[str, Scalar]]]:
    """(name without the seed, "seed=..." or "", settings) of every point."""
    fixed, seeds = _flat(tables.get("set", {}), path), tables.get("seeds", [])
    if not isinstance(seeds, list):
        raise ConfigError(f"{path}: expected a list such as seeds = [0, 1, 2], got {seeds!r}")
    varied = [*_grid_points(tables, path), *_single_points(tables, path)]
    for (group, chosen), seed in itertools.product(varied, seeds or [None]):
        wanted = {**fixed, **chosen} | ({} if seed is None else {SEED: seed})
        settings = {key: _scalar(value, key, path) for key, value in wanted.items()}
        yield group, "" if seed is None else f"seed={_word(seed)}", settings


def _grid_points(tables: Mapping[str, Any], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every combination of [grid]; a file with [[run]] tables and no grid has none, one with neither the one point."""
    grid = _flat(tables.get("grid", {}), path)
    if not grid and tables.get("run"):
        return
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{path}: expected a list of values for {key} in [grid], got {values!r}")
    last = [key.rpartition(".")[2] for key in grid]
    called = [key if last.count(short) > 1 else short for key, short in zip(grid, last, strict=True)]
    for values in itertools.product(*grid.values()):
        yield (
            ",".join(f"{name}={_word(value)}" for name, value in zip(called, values, strict=True)),
            dict(zip(grid, values, strict=True)),
        )


def _single_points(tables: Mapping[str, Any], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    runs = tables.get("run", [])
    for run in runs if isinstance(runs, list) else [runs]:
        if not isinstance(run, dict) or not isinstance(name := run.get("name"), str) or not name:
            raise ConfigError(f'{path}: every [[run]] is a table with a name = "..."')
        yield name, _flat({key: value for key, value in run.items() if key != "name"}, path)


def _flat(table: Any, path: Path, above: str = "") -> dict[str, Any]:
    """`privacy.target-epsilon = 2`, quoted or not, as a flat key."""
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: expected a table of settings, got {table!r}")
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, path, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return found


def _scalar(value: Any, key: str, path: Path) -> Scalar:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ",".join(value)
    if not isinstance(value, str | int | float | bool) or key == "run.directory":
        raise ConfigError(f"{path}: {key} = {value!r} is no setting of a point")
    return value


def _word(value: Any) -> str:
    return re.sub(r"[^\w.+-]+", "-", "+".join(map(str, value)) if isinstance(value, list) else str(value)).strip("-")
