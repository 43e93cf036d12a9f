"""Whole runs in this process: what a run directory holds, what is resolved, and which runs are equal."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from hushrec.common.bundle import read_bundle
from hushrec.common.config import RunConfig, read_experiment
from hushrec.common.errors import BundleError, ConfigError, PrivacyError
from hushrec.common.ledger import read_ledger
from hushrec.common.run_ledger import open_ledger
from hushrec.simulations import run as run_module
from hushrec.simulations.run import Watcher, execute, new_run, open_run, read_results

Tiny = Callable[..., RunConfig]


@pytest.fixture
def trained(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, np.ndarray]]:
    """Train without the evaluation at the end; the tensors that would be shipped."""

    def train(name: str, **changes: Any) -> dict[str, np.ndarray]:
        def shipped(config: Any, untrained: Any, adapter: Any, checkpoint: Any, step: Any, spent: Any) -> Any:
            raise Trained(adapter)

        with monkeypatch.context() as patch:
            patch.setattr(run_module, "evaluate_run", shipped)
            with pytest.raises(Trained) as caught:
                execute(new_run(tiny(evaluation__every=0, **changes), tmp_path / name))
        adapter: dict[str, np.ndarray] = caught.value.adapter
        return adapter

    return train


class Trained(Exception):
    def __init__(self, adapter: dict[str, np.ndarray]) -> None:
        self.adapter = adapter


def test_a_finished_run_holds_what_the_design_says(smoke_run: Path) -> None:
    names = {path.name for path in smoke_run.iterdir()}
    written = {"experiment.toml", "rounds.jsonl", "results.json", "ledger.jsonl", "bundle", "report.html"}
    written.add("per_user.npz")
    assert written <= names
    assert names <= {
        *written,
        *("checkpoint.safetensors", "start.safetensors", "ledger.jsonl.lock", "run.lock"),
    }
    assert {path.name for path in (smoke_run / "bundle").iterdir()} == {
        *("manifest.json", "adapter.safetensors", "catalog.json"),
    }
    assert [json.loads(line)["round"] for line in (smoke_run / "rounds.jsonl").read_text().splitlines()] == [0, 1, 2, 3]


def test_the_experiment_file_of_a_run_leaves_nothing_open(smoke_run: Path) -> None:
    values = read_experiment(smoke_run / "experiment.toml")
    assert values.keys() == RunConfig().to_flat().keys()
    assert float(values["privacy.noise-multiplier"]) > 0
    assert values["model.dtype"] in ("float32", "bfloat16")
    assert open_run(smoke_run).run.directory == str(smoke_run.resolve())


def test_the_bundle_of_a_run_ships_the_averaged_adapter_and_what_it_cost(smoke_run: Path) -> None:
    bundle = read_bundle(smoke_run)
    stored = load_file(smoke_run / "checkpoint.safetensors")
    start = load_file(smoke_run / "start.safetensors")
    for name, value in bundle.adapter.items():
        assert value.shape == start[name].shape
        assert value.tobytes() != stored[f"adapter/{name}"].tobytes()  # smoke averages its iterates
    results = read_results(smoke_run)
    assert results is not None
    assert bundle.privacy == results["privacy"]
    assert bundle.log_popularity.tobytes() == stored["log-popularity"].tobytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"model__adapter": "lora", "model__train_heads": True, "model__train_mix": True},
        {"model__adapter": "ffa", "train__shared_negatives": True, "server__optimizer": "fedavgm"},
        {"model__adapter": "sb", "train__local_steps": 2, "train__proximal": 0.1},
        {"federation__shape": "silos", "federation__silos": 5, "federation__clients_per_round": 3},
    ],
    ids=["lora", "ffa", "local steps", "silos"],
)
def test_a_cohort_and_its_clients_one_by_one_train_the_same_adapter(
    changes: dict[str, Any], trained: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    # The sum of many small gradients in another order: rounding only, so the rate must not amplify it as Adam would.
    settings = {"server__optimizer": "fedavg", "server__learning_rate": 0.05, "server__head_learning_rate": 0.05}
    common = {"privacy__mechanism": "none", **settings, **changes}
    together = trained("together", federation__execution="cohort", **common)
    alone = trained("alone", federation__execution="one-by-one", **common)
    again = trained("again", federation__execution="cohort", **common)
    assert together.keys() == alone.keys()
    start = load_file(tmp_path / "together" / "start.safetensors")
    assert max(float(np.abs(value - start[name]).max()) for name, value in together.items()) > 1e-3
    for name, value in together.items():
        np.testing.assert_allclose(alone[name], value, rtol=0, atol=1e-5, err_msg=name)
        assert again[name].tobytes() == value.tobytes()  # and equal runs are equal bit for bit


def test_a_private_cohort_charges_what_its_clients_one_by_one_would(
    trained: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    for name in ("cohort", "one-by-one"):
        trained(name, federation__execution=name, privacy__popularity_noise_multiplier=20.0, federation__rounds=3)
    left, right = (read_ledger(tmp_path / name / "ledger.jsonl") for name in ("cohort", "one-by-one"))
    assert {c: left.events(c) for c in left.clients()} == {c: right.events(c) for c in right.clients()}
    assert left.pending() == right.pending() == {}


def test_another_seed_trains_another_adapter(trained: Callable[..., dict[str, np.ndarray]]) -> None:
    first = trained("first", privacy__mechanism="none")
    second = trained("second", privacy__mechanism="none", run__seed=1)
    assert any(first[name].tobytes() != second[name].tobytes() for name in first)


def test_private_noise_is_fresh_though_everything_public_is_seeded(
    trained: Callable[..., dict[str, np.ndarray]],
) -> None:
    first, second = trained("first"), trained("second")
    assert all(first[name].tobytes() != second[name].tobytes() for name in first)


def test_a_private_run_after_an_open_one_in_the_same_process_starts_untrained(
    trained: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    opened = trained("open", privacy__mechanism="none")
    trained("private", privacy__noise_multiplier=1.0)
    starts = [load_file(tmp_path / name / "start.safetensors") for name in ("open", "private")]
    for name in opened:
        assert starts[0][name].tobytes() == starts[1][name].tobytes()
    assert any(opened[name].tobytes() != starts[1][name].tobytes() for name in opened)


@pytest.mark.parametrize(
    "changes",
    [
        {"federation__rounds": 0, "privacy__mechanism": "none"},
        {"data__protocol": "p1", "privacy__mechanism": "none"},
        {"federation__shape": "silos", "federation__silos": 6, "privacy__unit": "user"},
    ],
    ids=["no round", "p1", "private silos"],
)
def test_other_shapes_of_a_run_finish_too(changes: dict[str, Any], tiny: Tiny, tmp_path: Path) -> None:
    steps: list[str] = []
    results = execute(new_run(tiny(federation__rounds=2).replace(**changes), tmp_path / "run"), Watcher(steps.append))
    assert results == read_results(tmp_path / "run")
    assert steps[:2] == ["loading the language model and encoding the catalogue", "training"]
    assert steps[-1] == "writing the bundle and the report"


def test_a_finished_run_lets_go_of_its_locks(smoke_run: Path) -> None:
    ledger = open_ledger(open_run(smoke_run))
    assert ledger is not None
    ledger.verify()
    run_module.close_ledgers()


def test_a_run_is_refused_while_another_holds_it(tiny: Tiny, tmp_path: Path) -> None:
    for mechanism, error in (("none", ConfigError), ("gaussian", PrivacyError)):
        config = new_run(tiny(privacy__mechanism=mechanism), tmp_path / mechanism)
        with run_module._sole_writer(config):
            ledger, name = run_module.open_ledger(config), "ledger.jsonl"
            lock = run_module.FileLock(tmp_path / mechanism / "run.lock", timeout=0)
            with pytest.raises(run_module.Timeout):
                lock.acquire()
            if ledger is not None:
                with pytest.raises(error, match="another writer"):
                    type(ledger).open(tmp_path / mechanism / name, ledger.header)


def test_a_ledger_that_was_never_begun_is_no_loss_before_the_first_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    config = new_run(tiny(), tmp_path / "run")
    with run_module._sole_writer(config):
        assert (tmp_path / "run" / "ledger.jsonl").exists()


def test_the_noise_of_a_new_run_is_solved_for_its_target(tiny: Tiny, tmp_path: Path) -> None:
    loose = new_run(tiny(), tmp_path / "loose").privacy.noise_multiplier
    strict = new_run(tiny(privacy__target_epsilon=1.0), tmp_path / "strict").privacy.noise_multiplier
    given = new_run(tiny(privacy__noise_multiplier=7.5), tmp_path / "given").privacy.noise_multiplier
    assert 0 < loose < strict
    assert given == 7.5


def test_a_delta_that_says_nothing_about_this_many_records_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="delta"):
        new_run(tiny(privacy__target_delta=0.05), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_refused_and_left_alone(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty folder"):
        new_run(tiny(), tmp_path)
    with pytest.raises(ConfigError, match="not an empty folder"):
        new_run(tiny(), tmp_path / "notes.txt")
    new_run(tiny(), tmp_path / "run")
    with pytest.raises(ConfigError, match="--resume"):
        new_run(tiny(), tmp_path / "run")
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["file/run", "x" * 300, "/proc/hushrec-run"])
def test_a_folder_that_cannot_be_made_is_one_error(tiny: Tiny, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="choose another --out"):
        new_run(tiny(), tmp_path / name)


def test_a_folder_that_cannot_be_written_is_one_error(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if Path(path).name == "experiment.toml.tmp":
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr("hushrec.common.files.os.open", refuse)
    with pytest.raises(BundleError, match=r"experiment\.toml: Permission denied"):
        new_run(tiny(), tmp_path / "run")


def test_what_is_no_run_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"it has no experiment\.toml"):
        open_run(tmp_path)


def test_results_that_are_damaged_are_refused_and_none_are_none(tmp_path: Path) -> None:
    assert read_results(tmp_path) is None
    (tmp_path / "results.json").write_text('{"systems"')
    with pytest.raises(BundleError, match="damaged"):
        read_results(tmp_path)


def test_a_run_uses_as_many_threads_as_it_is_told(
    trained: Callable[..., dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    trained("one", run__threads=1, federation__rounds=1, privacy__mechanism="none")
    trained("free", federation__rounds=1, privacy__mechanism="none")
    assert asked == [1]
