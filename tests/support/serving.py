"""The service on a port of this machine, in a thread, as the tests of it need it."""

from __future__ import annotations

import dataclasses
import io
import logging
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn

from hushrec.common.bundle import Bundle, write_bundle
from hushrec.common.config import RunConfig
from hushrec.common.scoring import ScoringChoices
from hushrec.common.workspace import build_model, open_dataset
from hushrec.server.serving.app import build_app
from hushrec.server.serving.listening import PatientProtocol
from hushrec.server.serving.prepare import prepare as prepare_here
from hushrec.server.serving.served_bundle import Prepare
from hushrec.server.serving.service import RecommendationService, ServeSettings
from hushrec.server.serving.service_log import LOGGER, JsonLines
from hushrec.server.serving.tokens import new_token

SCOPES = {"read": ["read"], "items": ["items"], "admin": ["admin"]}


def make_bundle(folder: Path, config: RunConfig, *, seed: int = 5, **changes: Any) -> Bundle:
    """Write a bundle whose adapter is not the one that training starts from."""
    catalog = open_dataset(config.data).catalog
    model = build_model(config.model, catalog)
    rng = np.random.default_rng(seed)
    adapter = {n: v + rng.normal(scale=0.3, size=v.shape).astype(np.float32) for n, v in model.untrained.items()}
    popularity = np.log1p(rng.integers(1, 60, len(catalog))).astype(np.float32)
    choices = ScoringChoices(popularity_weight=0.4, short_popularity_weight=0.6)
    privacy = {"mechanism": "device", "unit": "record", "epsilon": 7.9, "delta": 1e-5}
    bundle = Bundle(config.model, model.base.sha256, catalog, adapter, popularity, choices, privacy, f"tiny-{seed}")
    bundle = dataclasses.replace(bundle, **changes)
    write_bundle(folder, bundle)
    return bundle


def replace_bundle(folder: Path, other: Path) -> None:
    """Put another bundle in a folder, its manifest last, as a deployment would copy it."""
    for name in ("adapter.safetensors", "catalog.json", "manifest.json"):
        shutil.copyfile(other / name, folder / f"{name}.new")
        (folder / f"{name}.new").replace(folder / name)


def serves(running: Running, experiment: str) -> bool:
    """Whether requests are answered from that bundle by now."""
    return running.service.holder.current.experiment == experiment


@dataclass
class Running:
    """A service that listens."""

    service: RecommendationService
    port: int
    tokens: dict[str, str]
    client: httpx.Client
    log: io.StringIO = field(default_factory=io.StringIO)

    def ask(self, method: str, path: str, scope: str = "read", **options: Any) -> httpx.Response:
        """One request with the token of a scope; "" sends none."""
        headers = dict(options.pop("headers", {}))
        if scope:
            headers.setdefault("authorization", f"Bearer {self.tokens.get(scope, scope)}")
        return self.client.request(method, path, headers=headers, **options)

    def recommend(self, **wish: Any) -> dict[str, Any]:
        """The answer to a wish; the test fails on an error."""
        response = self.ask("POST", "/v1/recommend", json=wish)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found


@contextmanager
def running(
    target: Path,
    folder: Path,
    *,
    tokens: bool = True,
    interval: float = 0.1,
    limits: Any = None,
    prepare: Prepare = prepare_here,
    **settings: Any,
) -> Iterator[Running]:
    """Serve a bundle while the block runs; the catalogue is encoded in this process."""
    made, file = {}, folder / "tokens.json"
    if tokens:
        made = {name: new_token(file, name, scopes, 1_000_000) for name, scopes in SCOPES.items()}
    options = ServeSettings(target=str(target), tokens=str(file) if tokens else "", open=not tokens, **settings)
    service = RecommendationService(options, prepare=prepare, interval=interval)
    log, handler = io.StringIO(), logging.StreamHandler(io.StringIO())
    handler.setStream(log)
    handler.setFormatter(JsonLines())
    root, level = logging.getLogger(), LOGGER.level
    root.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = uvicorn.Config(
        build_app(service, **(limits or {})), port=port, http=PatientProtocol, log_config=None, ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            yield Running(service, port, made, client, log)
    finally:
        server.should_exit = True
        thread.join(30)
        root.removeHandler(handler)
        LOGGER.setLevel(level)
