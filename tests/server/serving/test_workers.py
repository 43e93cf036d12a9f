"""Two workers as `hushrec serve --workers 2` starts them: one service, also when one of them dies."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.serving_process import Served, served, until

from hushrec.server.serving.prepare import bundle_sha256, prepare
from hushrec.server.serving.served_bundle import vectors_folder

REQUESTS, CALLERS = 200, 6
ITEM = {"item_id": "new-1", "title": "Robots and Roses", "year": 2024, "genres": []}


def answered(service: Served) -> float:
    """Answers to /v1/recommend that the metrics of all workers count."""
    lines = service.client.get("/metrics").text.splitlines()
    wanted = 'hushrec_requests_total{method="POST",route="/v1/recommend",status="200"}'
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(wanted)), 0.0)


def status(service: Served) -> int:
    """Of one request over a connection of its own; 0 where the connection breaks."""
    wish = {"query": "robots", "n": 1}
    try:
        return httpx.post(f"{service.client.base_url}/v1/recommend", json=wish, timeout=30, trust_env=False).status_code
    except httpx.TransportError:
        return 0


def found(service: Served) -> list[dict[str, Any]]:
    """The new item, as a worker finds it that is asked over a connection of its own."""
    url = f"{service.client.base_url}/v1/items"
    items: list[dict[str, Any]] = httpx.get(url, params={"search": "robots and"}, trust_env=False).json()["items"]
    return items


@pytest.mark.deployment
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes are found in /proc")
def test_two_workers_are_one_service_and_one_that_dies_is_replaced(folder: Path, tmp_path: Path) -> None:
    prepare(folder, bundle_sha256(folder), vectors_folder(folder, bundle_sha256(folder)))  # a process less to start
    with served(folder, tmp_path, "--open", "--workers", 2, "--items", tmp_path / "items.jsonl") as service:
        until(lambda: service.log.read_text().count('"ready"') == 2)
        workers = service.children()
        assert len(workers) == 2
        with ThreadPoolExecutor(CALLERS) as pool:
            statuses = list(pool.map(lambda _: status(service), range(REQUESTS)))
        assert statuses == [200] * REQUESTS
        assert answered(service) == REQUESTS  # of both, whichever of them is asked
        assert answered(service) == REQUESTS

        os.kill(workers[0], signal.SIGKILL)
        until(lambda: len(set(service.children()) - {workers[0]}) == 2)
        until(lambda: service.log.read_text().count('"ready"') == 3)
        time.sleep(0.2)
        assert [status(service) for _ in range(40)] == [200] * 40
        assert answered(service) >= REQUESTS + 40  # what the dead one counted is not lost
        (metrics,) = Path(tempfile.gettempdir()).glob(f"hushrec-metrics-*/gauge_live*_{workers[1]}.db")
        assert not metrics.with_name(metrics.name.replace(str(workers[1]), str(workers[0]))).exists()

        put = service.client.put("/v1/items", json={"items": [ITEM]})
        assert put.json() == {"added": 1, "changed": 0}
        # A worker says what it has taken; the one that wrote looks at the file too.
        until(lambda: service.log.read_text().count('"items taken"') == 2)
        assert [found(service) for _ in range(20)] == [[ITEM]] * 20

        last = service.children()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(40) == 0
        assert not [pid for pid in last if Path(f"/proc/{pid}").exists()]
        assert "Traceback" not in service.log.read_text()
