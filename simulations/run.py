"""A run directory from start to finish: resolve, train, evaluate, write down; resume what was interrupted.

    experiment.toml  resolved configuration        ledger.jsonl   what privacy was spent (private runs)
    rounds.jsonl     one line per round            bundle/        what recommends
    results.json     the table                     report.html    the table and plots for people
    checkpoint.safetensors  state after the last finished round; start.safetensors  state before round 1
    per_user.npz     figures of every case, for paired intervals across runs (simulations only)
    run.lock         held by the one process that works on the run
    windows/, at_once/  of continual training: adapters of window ends, and a run that had everything from round 1

It prints nothing; whoever shows progress passes a `Watcher` and listens to the "hushrec.rounds" log.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from flwr.app import Context, RecordDict
from safetensors.numpy import load_file, save

from hushrec.client.app import app as client_app
from hushrec.client.cohort import answer_query, answer_train
from hushrec.client.store import count_clients, count_units
from hushrec.common.budget import is_private, require_plan, with_noise
from hushrec.common.bundle import Bundle, write_bundle
from hushrec.common.config import RunConfig, read_experiment
from hushrec.common.errors import BundleError, ConfigError, PrivacyError
from hushrec.common.ledger import Ledger
from hushrec.common.protocol import Arrays
from hushrec.common.run_ledger import LEDGER, close_ledgers, open_ledger
from hushrec.common.workspace import encode_catalog, open_dataset, shared_graph, shared_model, torch_dtype
from hushrec.server.app import app as server_app
from hushrec.server.checkpoint import Checkpoint, read_checkpoint, write_atomically
from hushrec.server.rounds import evaluated_adapter
from hushrec.simulations.continual import at_once_config
from hushrec.simulations.grid import QUERY, TRAIN, CohortHandler, InProcessGrid
from hushrec.simulations.interest_evaluation import check_interests
from hushrec.simulations.ray_engine import train_on_ray
from hushrec.simulations.report import write_report
from hushrec.simulations.results import Spent, evaluate_run

IN_PROCESS, RAY = "in-process", "ray"  # engines
EXPERIMENT, RESULTS, START, LOCK = "experiment.toml", "results.json", "start.safetensors", "run.lock"


@dataclass(frozen=True)
class Watcher:
    """What a run tells while it works.

    Attributes:
        step: called with the name of what starts now.
        encoding: called with (texts done, texts in all) while the catalogue is encoded.
    """

    step: Callable[[str], None] = lambda name: None
    encoding: Callable[[int, int], None] = lambda done, total: None


def new_run(config: RunConfig, folder: Path) -> RunConfig:
    """Make the run directory and resolve what is left open: noise for the target, dtype for the machine.

    Raises:
        ConfigError: the folder holds a run already, or cannot be made.
    """
    try:
        if (folder / EXPERIMENT).exists():
            raise ConfigError(f"{folder} holds a run already; go on with --resume {folder}, or choose another --out")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} is not an empty folder; choose another --out")
    except OSError as error:
        raise ConfigError(f"cannot read {folder}: {error.strerror}; choose another --out") from error
    resolved = config.replace(run__directory=str(folder.resolve()))
    resolved = with_noise(resolved, count_clients(resolved), count_units(resolved))
    require_plan(resolved, count_clients(resolved))
    dtype = str(torch_dtype(resolved.model)).removeprefix("torch.")
    resolved = resolved.replace(model__dtype=dtype)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {folder}: {error.strerror}; choose another --out") from error
    write_atomically(folder / EXPERIMENT, resolved.to_toml().encode())
    return resolved


def open_run(folder: Path) -> RunConfig:
    """The resolved configuration of an existing run; it may have been moved.

    Raises:
        ConfigError: no run there.
    """
    if not (folder / EXPERIMENT).exists():
        raise ConfigError(f"{folder} is no run directory: it has no {EXPERIMENT}")
    config = RunConfig.from_flat(read_experiment(folder / EXPERIMENT), str(folder / EXPERIMENT))
    return config.replace(run__directory=str(folder.resolve()))


def execute(config: RunConfig, watcher: Watcher | None = None, engine: str = IN_PROCESS) -> dict[str, Any]:
    """Train (or go on training), evaluate and write everything down.

    Args:
        config: of `new_run` or `open_run`.
        engine: what delivers the messages, IN_PROCESS or RAY; a run may change it when it is resumed.
    Returns:
        The content of results.json.
    Raises:
        ConfigError: another process works on this run (PrivacyError where the run is private).
        HushrecError: see its kinds; the run directory stays resumable.
    """
    watcher = watcher or Watcher()
    folder = Path(config.run.directory)
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    with _sole_writer(config):
        watcher.step("loading the language model and encoding the catalogue")
        encode_catalog(config.model, open_dataset(config.data).catalog, watcher.encoding)
        model = shared_model(config.model, config.data)
        shared_graph(config.model, config.data)  # a missing knowledge graph is told before training
        check_interests(config, open_dataset(config.data))
        if not (folder / START).exists():
            write_atomically(folder / START, save(model.untrained))
        untrained: Arrays = load_file(folder / START)
        watcher.step("training")
        checkpoint = _train(config, engine)
        if (other := at_once_config(config)) is not None:
            watcher.step("training again with everything from round 1, for comparison")
            Path(other.run.directory).mkdir(exist_ok=True)
            _train(other, engine)
        return finish(config, untrained, checkpoint, watcher.step, engine=engine)


def finish(
    config: RunConfig,
    untrained: Arrays,
    checkpoint: Checkpoint,
    step: Callable[[str], None],
    *,
    engine: str,
    spent: Spent | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluate the last checkpoint and write bundle, results and report into the run directory.

    Args:
        untrained: the adapter before round 1.
        spent: client -> what was charged to it; None: the run directory's ledger says it.
        notes: what else a reader must know, one sentence each.
    Returns:
        The content of results.json.
    """
    folder, model = Path(config.run.directory), shared_model(config.model, config.data)
    adapter = evaluated_adapter(config, checkpoint)
    results, choices = evaluate_run(config, untrained, adapter, checkpoint, step, spent)
    results["cost"]["engine"] = engine
    results["notes"] = [*results["notes"], *notes]
    step("writing the bundle and the report")
    bundle = Bundle(
        model_config=config.model,
        base_sha256=model.base.sha256,
        catalog=open_dataset(config.data).catalog,
        adapter=adapter,
        log_popularity=checkpoint.log_popularity,
        choices=choices,
        graph=shared_graph(config.model, config.data) if choices.graph_weight else None,
        privacy=results["privacy"],
        experiment=config.run.experiment,
    )
    write_bundle(folder / "bundle", bundle)
    write_atomically(folder / RESULTS, (json.dumps(results, indent=1, allow_nan=False) + "\n").encode())
    write_report(folder)
    return results


@contextmanager
def _sole_writer(config: RunConfig) -> Iterator[None]:
    """Hold the run directory and, in a private run, its ledger, before anything is read or written.

    Raises:
        PrivacyError: another writer has the ledger, its constants are not those of `config`, or it knows less than
            the checkpoint says was released.
        ConfigError: another process works on the run.
    """
    folder = Path(config.run.directory)
    lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
    checkpoint = read_checkpoint(folder)
    if is_private(config) and checkpoint is not None and not (folder / LEDGER).exists():
        raise PrivacyError(
            f"{folder / LEDGER} is gone, but round {checkpoint.server_round} was released: what was spent is unknown. "
            "Put it back, or begin a new run"
        )
    try:
        ledger = open_ledger(config)
        try:
            lock.acquire()
        except Timeout as error:
            raise ConfigError(f"another process works on the run in {folder}; end that one first") from error
        if ledger is not None and checkpoint is not None:
            _refuse_older_ledger(ledger, checkpoint, folder)
        yield
    finally:
        close_ledgers()
        lock.release()


def _refuse_older_ledger(ledger: Ledger, checkpoint: Checkpoint, folder: Path) -> None:
    """A ledger from before the checkpoint (a restored copy, say) would give rounds away free of charge."""
    charged = [event for client in ledger.clients() for event in ledger.events(client)]
    steps = sum(event.steps for event in charged if event.kind == "training")
    releases = sum(event.steps for event in charged if event.kind in ("popularity", "statistics"))
    released, contributed = checkpoint.facts["client_steps"], checkpoint.facts["contributors"]
    if ledger.header.mechanism == "server":  # which pays once for all of them
        released = checkpoint.facts["paid_rounds"]
        contributed = sum(event.kind in ("popularity", "statistics") for event in ledger.header.plan)
    if steps < released or releases < contributed:
        raise PrivacyError(
            f"{folder / LEDGER} is older than the run's checkpoint: {released} steps were released, {steps} are "
            "charged. Put the right one back, or begin a new run"
        )


def _train(config: RunConfig, engine: str) -> Checkpoint:
    if engine == RAY:
        train_on_ray(config)
    else:
        _train_in_process(config)
    checkpoint = read_checkpoint(Path(config.run.directory))
    if checkpoint is None:
        raise BundleError(f"the server left no checkpoint in {config.run.directory}")
    return checkpoint


def _train_in_process(config: RunConfig) -> None:
    flat = config.to_flat()
    cohorts: dict[str, CohortHandler] = {TRAIN: answer_train, QUERY: answer_query}
    if config.federation.execution == "one-by-one":
        cohorts = {}
    grid = InProcessGrid(client_app, count_clients(config), flat, cohorts)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=flat)
    server_app(grid=grid, context=context)


def read_results(folder: Path) -> dict[str, Any] | None:
    """results.json of a finished run, None where there is none yet.

    Raises:
        BundleError: the file is damaged.
    """
    path = folder / RESULTS
    if not path.exists():
        return None
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} is damaged ({error}); delete it and use --resume to evaluate again") from error
    return results
