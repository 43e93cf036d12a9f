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

from hushrec.common.config_checks import ROLES, check_values
from hushrec.common.errors import ConfigError

Scalar = str | int | float | bool


@dataclass(frozen=True)
class DataConfig:
    """What is recommended to whom."""

    name: str = "movielens-small"  # movielens-small, movielens-100k, movielens-1m, synthetic, recbole, csv
    folder: str = ""  # where the files are; empty: $HUSHREC_DATA, the package or a checked download
    columns: str = ""  # csv only: "user=uid,item=sku,time=ts,title=name,genres=tags"
    max_users: int = 0  # keep a seeded subset; 0: all
    protocol: Literal["joint", "p1", "p2", "p3"] = "joint"
    seed: int = 42  # of the split and of ties in time


@dataclass(frozen=True)
class ModelConfig:
    """The language model and what of it is trained."""

    base: str = "minilm"
    top_layers: int = 1  # K: adapters sit in the top K layers, everything below is computed once
    max_length: int = 32  # tokens per text
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    adapter: Literal["lora", "ffa", "sb"] = "lora"
    r: int = 16
    lora_alpha: float = 32.0
    targets: tuple[str, ...] = ROLES
    head_dim: int = 64
    head_init: Literal["whitening", "random"] = "whitening"
    train_heads: bool = True
    # A trained map between the (then usually fixed) user head and the score: "scale" has head_dim numbers, "full" has
    # head_dim squared. Few numbers drown later in noise.
    head_core: Literal["none", "scale", "full"] = "none"
    # The core's offset: head_dim more numbers that learn which texts are popular, where no count per item is released.
    head_offset: bool = True
    # Where the core starts: the identity, or solved from one (noised) release of co-occurrence statistics.
    core_init: Literal["identity", "statistics"] = "identity"
    core_strength: float = 1.0  # of what the statistics say, against the frozen similarity
    train_mix: bool = True
    recency_decay: float = 0.9  # weight per step back in a history, while training
    history_length: int = 50  # items of a history that are read when recommending
    # The public graph over which item vectors are averaged after training; how strongly is validated.
    graph: Literal["none", "attributes", "text", "kg", "all"] = "none"
    graph_hops: int = 2
    graph_neighbors: int = 10  # edges every item asks for


@dataclass(frozen=True)
class TrainConfig:
    """What one client does in one round."""

    window: int = 20  # items of a record that are read
    negatives: int = 400  # drawn uniformly from the public catalogue
    shared_negatives: bool = True  # one public draw for the round; False: one public draw per record
    local_steps: int = 1
    learning_rate: float = 1.0  # of the local SGD steps
    proximal: float = 0.0  # FedProx term


@dataclass(frozen=True)
class FederationConfig:
    """Who takes part, and how they are run here."""

    shape: Literal["devices", "silos"] = "devices"
    silos: int = 20
    clients_per_round: int = 300  # 0: all
    rounds: int = 30
    execution: Literal["cohort", "one-by-one"] = "cohort"
    wire: Literal["float16", "float32"] = "float16"


@dataclass(frozen=True)
class ServerConfig:
    """What the server does with the mean update."""

    optimizer: Literal["fedavg", "fedavgm", "fedadam"] = "fedadam"
    learning_rate: float = 2e-3
    head_learning_rate: float = 5e-3
    momentum: float = 0.9  # fedavgm; beta_1 of fedadam
    second_momentum: float = 0.99  # beta_2 of fedadam
    averaging: float = 0.0  # weight of the running mean of iterates that is evaluated and shipped; 0: the last iterate
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # of both rates, down to 0 at the last round
    warmup_rounds: int = 0  # rounds over which both rates first rise linearly
    weight_decay: float = 0.0  # share of the adapters in the encoder that a step of rate 1 takes away


@dataclass(frozen=True)
class PrivacyConfig:
    """Every field that changes the guarantee, and nothing else."""

    # gaussian: every client adds its own noise; central: the server, which is trusted, samples users and adds it
    mechanism: Literal["none", "gaussian", "central"] = "gaussian"
    unit: Literal["record", "user"] = "record"
    record_span: Literal["hour", "day", "week"] = "hour"
    max_records: int = 4  # of a device: time bins are folded by their absolute number modulo this
    max_grad_norm: float = 0.5
    noise_multiplier: float = 0.0  # 0: solved from target_epsilon before round 1
    sample_rate: float = 1.0
    denominator: float = 1.0  # public divisor of the noised sum
    target_epsilon: float = 8.0
    target_delta: float = 1e-5
    popularity_noise_multiplier: float = 0.0  # of the one popularity release; 0: no prior is released
    statistics_noise_multiplier: float = 0.0  # of the release that core_init asks for; 0 without rounds: solved


@dataclass(frozen=True)
class EvaluationConfig:
    """Central evaluation."""

    every: int = 5  # rounds between points of the learning curve; 0: only the first and the last


@dataclass(frozen=True)
class RunSettings:
    """This run."""

    experiment: str = "custom"
    seed: int = 0
    directory: str = ""
    threads: int = 0  # 0: what torch takes


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
