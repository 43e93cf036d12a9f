"""The one configuration: every key, range and combination is checked, and it survives every way of writing it down."""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushrec.common.adapters import ROLES
from hushrec.common.config import RunConfig, Scalar, _fields, parse_override, read_experiment
from hushrec.common.config_checks import _RANGES
from hushrec.common.errors import ConfigError

DEFAULTS = RunConfig().to_flat()


def a_value(key: str, wanted: Any) -> st.SearchStrategy[Scalar]:
    """Valid values of one key."""
    low, high = _RANGES.get(key, (None, None))
    if typing.get_origin(wanted) is typing.Literal:
        return st.sampled_from(typing.get_args(wanted))
    if typing.get_origin(wanted) is tuple:
        return st.lists(st.sampled_from(ROLES), min_size=1, unique=True).map(",".join)
    if wanted is bool:
        return st.booleans()
    if wanted is int:
        return st.integers(int(low or 0), 10**6 if high is None else int(high))
    if wanted is float:
        return st.floats(low, 1e6 if high is None else high)
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


VALID = st.fixed_dictionaries({}, optional={key: a_value(key, wanted) for key, wanted in _fields().items()})
# Combinations that contradict each other are tested one by one below.
ALONE: dict[str, Scalar] = {
    "privacy.mechanism": "none",
    "model.train-heads": True,
    "model.core-init": "identity",
    "server.warm-start": "none",
    "evaluation.every": 1,
    "evaluation.patience": 0,
    "model.click": False,
    "server.anchor": 0.0,
    "data.window-ends": "",
}
FREE = VALID.map(lambda flat: {**flat, **ALONE})


@given(flat=FREE)
@settings(max_examples=150, deadline=None)
def test_a_configuration_survives_flat_keys_and_toml(flat: dict[str, Scalar]) -> None:
    config = RunConfig.from_flat(flat)
    assert RunConfig.from_flat(config.to_flat()) == config
    tables = tomllib.loads(config.to_toml())
    written = {f"{part}.{name}": value for part, table in tables.items() for name, value in table.items()}
    assert written == config.to_flat()
    assert all(config.to_flat()[key] == value for key, value in flat.items())


@given(flat=FREE)
@settings(max_examples=20, deadline=None)
def test_an_experiment_file_reads_back_as_the_configuration(
    flat: dict[str, Scalar], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("experiment") / "x.toml"
    config = RunConfig.from_flat(flat)
    path.write_text(config.to_toml(), encoding="utf-8", newline="")
    assert RunConfig.from_flat(read_experiment(path), str(path)) == config


def test_the_default_configuration_is_valid_and_private() -> None:
    assert RunConfig.from_flat({}) == RunConfig()
    assert RunConfig().privacy.mechanism == "gaussian"


def test_every_number_has_a_range() -> None:
    numbers = {key for key, wanted in _fields().items() if wanted in (int, float)}
    assert numbers == set(_RANGES)


@pytest.mark.parametrize(
    ("key", "meant"),
    [("privacy.target-epsilom", "privacy.target-epsilon"), ("train.local_steps", "train.local-steps")],
)
def test_an_unknown_key_is_refused_with_the_one_that_was_meant(key: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown key '{key}' in my\.toml; did you mean '{meant}'\?"):
        RunConfig.from_flat({key: 1}, "my.toml")


@pytest.mark.parametrize("key", ["zzz", "", ".", "a.b.c", "privacy", "privacy.target-epsilon.x.y.z" * 3])
def test_a_key_like_no_other_is_refused_all_the_same(key: str) -> None:
    with pytest.raises(ConfigError, match="unknown key"):
        RunConfig.from_flat({key: 1})


OUTSIDE = [
    (key, value)
    for key, (low, high) in _RANGES.items()
    for value in (None if low is None else low - 1, None if high is None else high + 1)
    if value is not None
]


@pytest.mark.parametrize(("key", "value"), OUTSIDE)
def test_a_number_out_of_its_range_is_refused_by_name(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"expected {key} "):
        RunConfig.from_flat({key: type(DEFAULTS[key])(value)})


@pytest.mark.parametrize("key", [key for key, wanted in _fields().items() if wanted is float])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_none_is_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"expected {key} "):
        RunConfig.from_flat({key: value})


WRONG: dict[Any, list[Any]] = {
    int: ["3", 1.0, True, None, [1]],
    float: ["1.5", False, None, 10**400],
    bool: [1, "true", 0.0, None],
    str: [3, 1.5, True, None],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, wanted in _fields().items() for value in WRONG.get(wanted, [3, None])]
)
def test_a_value_of_another_type_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"expected {key} .* \(in here\)"):
        RunConfig.from_flat({key: value}, "here")


@pytest.mark.parametrize("key", [key for key, wanted in _fields().items() if wanted is float])
def test_a_whole_number_stands_for_a_float(key: str) -> None:
    low, high = _RANGES[key]
    value = 1 if high is None or high >= 1 else 0
    if key == "privacy.target-delta" or not (low is None or low <= value):
        return
    others = {"train.local-steps": 2, "privacy.popularity-noise-multiplier": 1.0}
    found = RunConfig.from_flat({**others, key: value}).to_flat()[key]
    assert found == value
    assert type(found) is float


@pytest.mark.parametrize("key", [k for k, wanted in _fields().items() if typing.get_origin(wanted) is typing.Literal])
def test_a_choice_that_does_not_exist_is_refused_with_those_that_do(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"expected {key} to be one of .*{DEFAULTS[key]}.*'something'"):
        RunConfig.from_flat({key: "something"})


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"privacy.unit": "user"}, 'needs federation.shape = "silos"'),
        ({"federation.shape": "silos"}, 'privacy.unit = "record" is for devices'),
        ({"train.proximal": 0.1}, "no effect at train.local-steps = 1"),
        ({"model.targets": "query,key"}, "got 'key'"),
        ({"model.targets": "query,value,query"}, "each once, got 'query'"),
        ({"model.top-layers": 0, "model.train-heads": False, "model.train-mix": False}, "nothing is trained"),
        ({"model.targets": "", "model.train-heads": False, "model.train-mix": False}, "nothing is trained"),
    ],
)
def test_values_that_contradict_each_other_are_refused(flat: dict[str, Scalar], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_flat(flat)


@pytest.mark.parametrize(
    "flat",
    [
        {"privacy.unit": "user", "federation.shape": "silos"},
        {"privacy.mechanism": "none", "federation.shape": "silos"},
        {"privacy.mechanism": "none", "privacy.unit": "user"},
        {"train.proximal": 0.1, "train.local-steps": 2},
        {"model.targets": "", "model.train-mix": False},
        {"model.targets": "", "model.train-heads": False, "model.train-mix": False, "model.head-core": "scale"},
        {"model.top-layers": 0, "model.train-heads": False, "model.train-mix": False, "federation.rounds": 0},
    ],
)
def test_values_that_go_together_are_taken(flat: dict[str, Scalar]) -> None:
    RunConfig.from_flat(flat)


def test_a_checked_copy_changes_one_value_and_checks_all() -> None:
    config = RunConfig().replace(privacy__noise_multiplier=2, run__seed=3)
    assert (config.privacy.noise_multiplier, config.run.seed) == (2.0, 3)
    assert config.data == RunConfig().data
    with pytest.raises(ConfigError, match="did you mean"):
        RunConfig().replace(privacy__noise_multiplyer=2)
    with pytest.raises(ConfigError, match=r"privacy\.sample-rate"):
        RunConfig().replace(privacy__sample_rate=0.0)


def test_a_configuration_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().privacy.noise_multiplier = 0.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run.seed=3", ("run.seed", 3)),
        ("model.train-heads = false", ("model.train-heads", False)),
        ("privacy.target-delta=1e-6", ("privacy.target-delta", 1e-6)),
        ("data.name=synthetic", ("data.name", "synthetic")),
        ('data.name="synthetic"', ("data.name", "synthetic")),
        ("data.columns=user=u,item=i", ("data.columns", "user=u,item=i")),
        ("data.folder=", ("data.folder", "")),
        ("run.experiment=2024-01-01", ("run.experiment", "2024-01-01")),
        ("model.targets=query,value", ("model.targets", "query,value")),
    ],
)
def test_an_override_is_a_toml_value_or_a_text(text: str, expected: tuple[str, Scalar]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["run.seed", "=3", "  =3", ""])
def test_an_override_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--set key=value"):
        parse_override(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed = 3", "stands outside a table"),
        (b"[run\nseed = 3", "cannot read"),
        (b"[run]\nexperiment = '\xff'", "cannot read"),
        (b"[run.deep]\nseed = 3", "must be a text, a number"),
        (b"[model]\ntargets = ['query', 3]", "must be a text, a number"),
        (b"[run]\nseed = 2024-01-01", "must be a text, a number"),
    ],
)
def test_an_experiment_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_experiment(path)
    assert "bad.toml" in str(caught.value)


def test_an_experiment_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no experiment file .*x\.toml"):
        read_experiment(tmp_path / "x.toml")
    with pytest.raises(ConfigError, match="cannot read"):
        read_experiment(tmp_path)


def test_a_list_of_texts_in_a_file_is_a_comma_separated_text(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("[model]\ntargets = ['query', 'value']\n")
    assert RunConfig.from_flat(read_experiment(path)).model.targets == ("query", "value")
