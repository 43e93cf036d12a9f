"""For every test: no network and no telemetry, two threads, a fixed id key, and one cache of encoded catalogues."""

from __future__ import annotations

import os

# Before flwr, transformers and torch are imported anywhere.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HUSHREC_ID_KEY"] = "a fixed key for the tests"

import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from hushrec.common.config import RunConfig
from hushrec.common.datasets import load_dataset
from hushrec.common.run_ledger import close_ledgers

# A machine that is busy for 200 ms fails no property; pytest-timeout ends what really hangs.
settings.register_profile("hushrec", deadline=None)
settings.load_profile("hushrec")

# Two at most: with more than there are free cores, small products wait for each other; OMP_NUM_THREADS=1 stands.
torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache for the session, so that the packaged model encodes each catalogue once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUSHREC_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny random BERT that knows the words of the synthetic catalogue."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    texts = load_dataset("synthetic").catalog.texts
    words = sorted({word.strip("().").lower() for text in texts for word in text.split()})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=len(words) + 5, initializer_range=0.3, **size)).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def closed_ledgers() -> Iterator[None]:
    """Let go of the ledgers that a test opened in this process."""
    yield
    close_ledgers()


@pytest.fixture(scope="session")
def tiny(tiny_base: str) -> Callable[..., RunConfig]:
    """Configurations whose rounds take milliseconds; keywords as in RunConfig.replace."""

    def build(**changes: Any) -> RunConfig:
        flat: dict[str, Any] = {
            "data.name": "synthetic",
            "model.base": tiny_base,
            "model.dtype": "float32",
            "model.adapter": "sb",
            "model.r": 2,
            "model.head-dim": 8,
            "model.train-heads": False,
            "model.train-mix": False,
            "model.head-core": "scale",
            "train.window": 5,
            "train.negatives": 6,
            "train.shared-negatives": False,
            "federation.clients-per-round": 20,
            "federation.rounds": 4,
            "federation.wire": "float32",
            "evaluation.every": 1,
            "run.experiment": "tiny",
        }
        return RunConfig.from_flat(flat).replace(**changes)

    return build


@dataclass(frozen=True)
class Finished:
    """How a `hushrec` process ended; a killed one has the negative number of its signal as code."""

    code: int
    stdout: str
    stderr: str


_CHILD = """
import os, sys
os.environ.update({environment!r})
sys.argv = ["hushrec", *{arguments!r}]
for stream, path in ((1, {stdout!r}), (2, {stderr!r})):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
import importlib
{hook}
from hushrec.simulations.cli import main
main()
"""
_HOOK = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
module, _, names = {where!r}.partition(":")
*owners, name = names.split(".")
owner = importlib.import_module(module)
for part in owners:
    owner = getattr(owner, part)
real, calls = getattr(owner, name), 0

def hooked(*args, **kwargs):
    global calls
    calls += 1
    if calls == {call} and {when!r} == "before":
        os.kill(os.getpid(), {number})
    result = real(*args, **kwargs)
    if calls == {call} and {when!r} == "after":
        os.kill(os.getpid(), {number})
    return result

setattr(owner, name, hooked)
"""


class Process:
    """A running `hushrec` command in a process of its own."""

    def __init__(self, arguments: list[str], folder: Path, hook: str) -> None:
        self._out, self._err = folder / "stdout", folder / "stderr"
        code = _CHILD.format(
            environment={"COLUMNS": "200"}, arguments=arguments, stdout=str(self._out), stderr=str(self._err), hook=hook
        )
        self.child = _forks().Process(target=exec, args=(code, {"__name__": "hushrec-child"}))
        self.child.start()
        assert self.child.pid is not None
        self.pid: int = self.child.pid

    def wait(self, seconds: float = 120.0) -> Finished:
        """The end of the process; one that takes longer is killed, and the test fails."""
        self.child.join(seconds)
        if self.child.exitcode is None:
            self.child.kill()
            pytest.fail(f"the process ran for more than {seconds} s: {self._err.read_text()}")
        return Finished(self.child.exitcode, self._out.read_text(), self._err.read_text())

    def wait_until_stopped(self, seconds: float = 120.0) -> None:
        """Return once the process has got SIGSTOP; the test fails if it never does."""
        stat, deadline = Path(f"/proc/{self.pid}/stat"), time.monotonic() + seconds
        while stat.read_text().rpartition(")")[2].split()[0] != "T":
            if time.monotonic() > deadline:
                pytest.fail(f"the process never stopped: {self._err.read_text()}")
            time.sleep(0.01)


@lru_cache(maxsize=1)
def _forks() -> Any:
    """Processes forked from a server that has imported everything: they start in milliseconds instead of seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            *(f"hushrec.simulations.{name}" for name in ("cli", "progress", "plots")),
            "transformers.models.auto.modeling_auto",
            *(f"transformers.models.bert.{name}_bert" for name in ("modeling", "tokenization")),
            *("matplotlib.figure", "matplotlib.backends.backend_svg"),
        ]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # read once, when torch is imported there
        forkserver.ensure_running()
    return context


@pytest.fixture(scope="session")
def hushrec(_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Process]:
    """Start `hushrec ARGUMENTS...`; with `at="module:function"` it gets a signal at a chosen call of that function."""

    def start(*arguments: object, at: str = "", when: str = "before", call: int = 1, number: int = 9) -> Process:
        hook = _HOOK.format(where=at, when=when, call=call, number=int(number)) if at else ""
        return Process([str(argument) for argument in arguments], tmp_path_factory.mktemp("process"), hook)

    return start


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run of the packaged experiment `smoke`: private, with the packaged language model."""
    from hushrec.simulations.cli import load_experiment
    from hushrec.simulations.run import execute, new_run

    folder = tmp_path_factory.mktemp("smoke") / "run"
    execute(new_run(load_experiment("smoke", []), folder))
    return folder
