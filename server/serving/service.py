"""The service as one object: bundle, encoder, tokens, metrics and folders, and the threads that belong to them.

It knows no HTTP; app.py gives it routes.
"""

from __future__ import annotations

import json
import logging
import os
import ssl
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import anyio.to_thread

from hushrec.common.errors import ConfigError
from hushrec.server.serving.batching import EncoderBatches
from hushrec.server.serving.bundle_holder import INTERVAL, BundleHolder
from hushrec.server.serving.edge_files import EdgeFiles
from hushrec.server.serving.metrics import ServiceMetrics
from hushrec.server.serving.prepare import prepare_apart
from hushrec.server.serving.run_folders import epsilon_left
from hushrec.server.serving.served_bundle import Prepare
from hushrec.server.serving.service_log import log
from hushrec.server.serving.tokens import TokenBook, read_tokens

LOOPBACK = ("127.0.0.1", "::1", "localhost")
BUDGETS_EVERY = 60.0  # seconds between two looks at the ledgers
THREADS = max(4, 2 * (os.cpu_count() or 1))  # requests that compute at a time
Result = TypeVar("Result")


@dataclass(frozen=True)
class ServeSettings:
    """What `hushrec serve` was told; all of it may be passed to a worker as text.

    Attributes:
        target: a run directory or bundle folder.
        tokens: the tokens' file; "" only with `open`.
        open: no tokens, on loopback alone.
        edge: an edge folder that devices fetch; "" for none.
        runs, federations: folders that the page shows; "" for none.
        workers: processes.
        items: file of the items that are put at run time; "" keeps them in memory.
    """

    target: str
    host: str = "127.0.0.1"
    port: int = 8080
    tokens: str = ""
    open: bool = False
    edge: str = ""
    runs: str = ""
    federations: str = ""
    workers: int = 1
    items: str = ""
    tls_cert: str = ""
    tls_key: str = ""

    def check(self) -> None:
        """Refuse settings that would let the wrong people in.

        Raises:
            ConfigError: names the option and the remedy.
        """
        remote = self.host not in LOOPBACK
        if self.open and (remote or self.tokens):
            raise ConfigError(
                "--open is for this machine alone and goes without tokens; leave out --open, or --host and --tokens"
            )
        if not self.tokens and not self.open:
            where = f"to listen on {self.host}" if remote else "to answer"
            other = "" if remote else ", or add --open to let every program of this machine ask"
            raise ConfigError(
                f"{where}, the service needs tokens: make one with hushrec serve token new --tokens tokens.json, "
                f"then give --tokens tokens.json{other}"
            )
        if self.tokens and not read_tokens(Path(self.tokens)):
            raise ConfigError(f"{self.tokens} holds no token; make one with hushrec serve token new")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ConfigError("--tls-cert and --tls-key go together")
        for name, value in (("--tls-cert", self.tls_cert), ("--tls-key", self.tls_key)):
            if value and not Path(value).is_file():
                raise ConfigError(f"{name} names no file: {value}")
        if self.tls_cert:
            check_certificate(self.tls_cert, self.tls_key)
        if self.items and not os.access(Path(self.items).parent, os.W_OK):
            raise ConfigError(f"--items: cannot write to the folder {Path(self.items).parent}; choose another")
        for name, value in (("--runs", self.runs), ("--federations", self.federations), ("--edge", self.edge)):
            if value and not Path(value).is_dir():
                raise ConfigError(f"{name} names no folder: {value}")

    @property
    def address(self) -> str:
        """Where the page is."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls_cert else 'http'}://{host}:{self.port}/"

    def to_text(self) -> str:
        """For a worker's environment."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Back again."""
        return cls(**json.loads(text))


def check_certificate(certificate: str, key: str) -> None:
    """Refuse a certificate and a key that no connection could be made with; nobody is asked for a password.

    Raises:
        ConfigError: names the file and the remedy.
    """
    for name, path, word in (("--tls-cert", certificate, "CERTIFICATE"), ("--tls-key", key, "PRIVATE KEY")):
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise ConfigError(f"{name} {path} cannot be read: {error.strerror}") from error
        if f"{word}-----".encode() not in content:
            raise ConfigError(f"{name} {path} holds no {word.lower()} in PEM (-----BEGIN ... {word}-----)")
    try:
        # An empty password, because without one OpenSSL would ask at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, lambda: b"")
    except (ssl.SSLError, ValueError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"the private key {key} is not that of the certificate {certificate}") from error
        why = f"the certificate {certificate} and the private key {key} cannot be used"
        raise ConfigError(f"{why}: damaged, or the key has a password; write it without one") from error


class RecommendationService:
    """Everything behind the routes.

    Args:
        prepare: encodes the catalogue of a new bundle; by default in a process of its own.
        interval: seconds between two looks at the bundle's folder.
    Raises:
        BundleError: the bundle, or the edge folder, is refused.
        ConfigError: the tokens cannot be read.
    """

    def __init__(
        self, settings: ServeSettings, *, prepare: Prepare = prepare_apart, interval: float = INTERVAL
    ) -> None:
        self.settings = settings
        self.metrics = ServiceMetrics()
        self.edge = EdgeFiles(Path(settings.edge)) if settings.edge else None
        self.tokens = TokenBook(Path(settings.tokens), 1 / settings.workers) if settings.tokens else None
        self.batches = EncoderBatches(lambda texts: self.metrics.batch.observe(texts))
        items = Path(settings.items) if settings.items else None
        self.holder = BundleHolder(Path(settings.target), self.batches, prepare, self._tell, interval, items)
        self.metrics.vector_cache.labels("hit" if self.holder.current.cached else "miss").inc()
        self.metrics.observe_bundle(self.holder.current, "")
        self._limiter: anyio.CapacityLimiter | None = None
        self._changes: anyio.CapacityLimiter | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """Watch the bundle and the budgets."""
        self.holder.watch()
        if self.settings.runs or self.settings.federations:
            threading.Thread(target=self._watch_budgets, name="budgets", daemon=True).start()
        bundle = self.holder.current
        log("ready", {"sha256": bundle.sha256, "experiment": bundle.experiment, "items": len(bundle.catalog)})

    def close(self) -> None:
        """Stop watching; what is being encoded is finished."""
        self._ended.set()
        self.holder.close()
        self.batches.close()

    async def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """The function's result, outside of the event loop, with at most THREADS at a time."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(THREADS)
        return await anyio.to_thread.run_sync(partial(function, *arguments), limiter=self._limiter)

    async def change(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """The same for what changes the service, one at a time, so that it takes no thread of those who ask."""
        if self._changes is None:
            self._changes = anyio.CapacityLimiter(1)
        return await anyio.to_thread.run_sync(partial(function, *arguments), limiter=self._changes)

    def _tell(self, event: str, facts: dict[str, Any]) -> None:
        log(event, facts, logging.WARNING if event.endswith("refused") else logging.INFO)
        if event == "bundle swapped":
            self.metrics.swaps.inc()
            self.metrics.vector_cache.labels("hit" if self.holder.current.cached else "miss").inc()
        self.metrics.observe_bundle(self.holder.current, self.holder.refused)

    def _watch_budgets(self) -> None:
        runs, federations = (Path(name) if name else None for name in (self.settings.runs, self.settings.federations))
        while True:
            for run, left in epsilon_left(runs, federations).items():
                self.metrics.epsilon_left.labels(run).set(left)
            if self._ended.wait(BUDGETS_EVERY):
                return
