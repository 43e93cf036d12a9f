"""The one typed configuration that drives data, model, training, privacy, federation and evaluation together.

Experiment files hold overrides of these defaults only. This file opens no data and builds no model; which values go
together is config_checks.py's.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hushrec.common.config_checks import check_values
from hushrec.common.errors import ConfigError
from hushrec.common.settings import (
    DataConfig,
    EvaluationConfig,
    FederationConfig,
    ModelConfig,
    PrivacyConfig,
    RunSettings,
    ServerConfig,
    TrainConfig,
)

Scalar = str | int | float | bool


@dataclass(frozen=True)
class RunConfig:
    """Everything a run depends on. Immutable; equal configurations give equal non-private runs."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    run: RunSettings = field(default_factory=RunSettings)

    @classmethod
    def from_flat(cls, values: Mapping[str, Scalar], source: str = "the configuration") -> RunConfig:
        """Build from flat keys such as "privacy.target-epsilon"; missing keys keep their defaults.

        Args:
            source: the file or option the values came from, named in errors.
        Raises:
            ConfigError: an unknown key, a value of the wrong type or out of range, or values that contradict.
        """
        known = _fields()
        sections: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(sorted(known))}"
                raise ConfigError(f"unknown key {key!r} in {source}{hint}")
            section, name = key.split(".")
            sections.setdefault(section, {})[name.replace("-", "_")] = _convert(key, value, known[key], source)
        built = {part.name: _section_type(part)(**sections.get(part.name, {})) for part in dataclasses.fields(cls)}
        config = cls(**built)
        check_values(config, source)
        return config

    def to_flat(self) -> dict[str, Scalar]:
        """Flat keys and scalars, as Flower's run configuration and the resolved experiment file hold them."""
        flat: dict[str, Scalar] = {}
        for part in dataclasses.fields(self):
            section = getattr(self, part.name)
            for item in dataclasses.fields(section):
                value = getattr(section, item.name)
                flat[f"{part.name}.{item.name.replace('_', '-')}"] = ",".join(value) if type(value) is tuple else value
        return flat

    def to_toml(self) -> str:
        """The resolved experiment file."""
        lines, section = [], ""
        for key, value in self.to_flat().items():
            part, name = key.split(".")
            if part != section:
                lines += ["", f"[{part}]"] if section else [f"[{part}]"]
                section = part
            lines.append(f"{name} = {_toml(value)}")
        return "\n".join(lines) + "\n"

    def replace(self, **values: Scalar) -> RunConfig:
        """A checked copy; keys as in Python, e.g. replace(run__seed=3)."""
        flat = self.to_flat()
        flat.update({key.replace("__", ".").replace("_", "-"): value for key, value in values.items()})
        return RunConfig.from_flat(flat)


def read_toml(path: Path, kind: str) -> dict[str, Any]:
    """The tables of a TOML file.

    Args:
        kind: what the file is, named in errors.
    Raises:
        ConfigError: not there, not UTF-8 or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"no {kind} file {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def read_experiment(path: Path) -> dict[str, Scalar]:
    """Flat overrides of an experiment file (TOML tables [data], [model], ...).

    Raises:
        ConfigError: not there, not UTF-8, not TOML, or deeper than one table.
    """
    tables = read_toml(path, "experiment")
    flat: dict[str, Scalar] = {}
    for section, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {section!r} stands outside a table; write it as [section] then key = value")
        for name, value in table.items():
            if isinstance(value, list) and all(isinstance(part, str) for part in value):
                value = ",".join(value)
            if not isinstance(value, str | int | float | bool):
                raise ConfigError(f"{path}: {section}.{name} must be a text, a number, true or false, got {value!r}")
            flat[f"{section}.{name}"] = value
    return flat


def parse_override(text: str) -> tuple[str, Scalar]:
    """One `--set key=value`; the value is read as TOML where it is one, as text otherwise.

    Raises:
        ConfigError: no "=" or no key.
    """
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"expected --set key=value, got {text!r}")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw
    return key.strip(), value if isinstance(value, str | int | float | bool) else raw


def _section_type(part: dataclasses.Field[Any]) -> Any:
    return typing.get_type_hints(RunConfig)[part.name]


def _fields() -> dict[str, Any]:
    """Flat key -> its annotation."""
    found = {}
    for part in dataclasses.fields(RunConfig):
        kind = _section_type(part)
        hints = typing.get_type_hints(kind)
        for item in dataclasses.fields(kind):
            found[f"{part.name}.{item.name.replace('_', '-')}"] = hints[item.name]
    return found


def _convert(key: str, value: Scalar, wanted: Any, source: str) -> Any:
    def wrong(expected: str) -> ConfigError:
        return ConfigError(f"expected {key} to be {expected}, got {value!r} (in {source})")

    origin = typing.get_origin(wanted)
    if origin is Literal:
        choices = typing.get_args(wanted)
        if value not in choices:
            raise wrong(f"one of {', '.join(map(str, choices))}")
        return value
    if origin is tuple:
        if not isinstance(value, str):
            raise wrong("a comma-separated text")
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if wanted is bool and not isinstance(value, bool):
        raise wrong("true or false")
    if wanted is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1000:
        return float(value)
    if wanted is not bool and (isinstance(value, bool) or not isinstance(value, wanted)):
        raise wrong({int: "a whole number", float: "a number", str: "a text"}[wanted])
    return value


def _toml(value: Scalar) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML's escapes, too
    return repr(value)
