"""The listening process, or several: uvicorn with the service's limits.

A worker is this module's `application`; what it serves stands in its environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import tempfile
from typing import Any, cast

import h11
import torch
import uvicorn
from threadpoolctl import threadpool_limits
from uvicorn.protocols.http.h11_impl import H11Protocol

from hushrec.server.serving.service import RecommendationService, ServeSettings
from hushrec.server.serving.service_log import configure_logging

SETTINGS = "HUSHREC_SERVE"
CONNECTIONS = 1000  # at a time and worker; beyond, the one that waits longest makes room
LARGEST_HEAD = 16 * 2**10  # bytes of a request's headers
HEAD_SECONDS = 10.0  # from the first byte of a request, or a new connection, until its headers are there
READ_SECONDS = 30.0  # until the reader of an answer takes the next piece of it
BUSY = b'{"error": "the service has too many connections; ask again"}'


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that closes on clients that are slow on purpose, so that they keep nobody from answers.

    A connection without a request in progress may be idle for the keep-alive time; once a byte has come, the headers
    must come within HEAD_SECONDS. An answer of which nothing is taken for READ_SECONDS is given up. Where there are
    CONNECTIONS, a new one takes the place of the one that has waited longest without a request.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make room, and start to wait."""
        self._late: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self._waits_since = self.loop.time()
        super().connection_made(cast("asyncio.Transport", transport))  # of a server on TCP it is one
        self._late = self.loop.call_later(HEAD_SECONDS, self.transport.abort)
        staying = self._staying()
        if len(staying) > CONNECTIONS and (waiting := [one for one in staying if one.is_waiting]):
            min(waiting, key=lambda one: one._waits_since).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop to wait."""
        self._late = _cancelled(self._late)
        self._stuck = _cancelled(self._stuck)
        super().connection_lost(exc)

    @property
    def is_waiting(self) -> bool:
        """Whether no request is in progress."""
        return self.cycle is None or self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        """Read; a request that is not whole is waited for, but not for ever."""
        self.app = _busy if len(self._staying()) > CONNECTIONS else self.config.loaded_app
        super().data_received(data)
        self._look_for_half()

    def on_response_complete(self) -> None:
        """Wait for the next request; what came of it already is handled here."""
        self._waits_since = self.loop.time()
        super().on_response_complete()
        if self.transport.is_closing():
            self._await_reader()
        else:
            self._look_for_half()

    def timeout_keep_alive_handler(self) -> None:
        """Close, also over an answer that nobody reads."""
        super().timeout_keep_alive_handler()
        self._await_reader()

    def pause_writing(self) -> None:
        """The reader is slower than the answer."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        """The reader has taken what was waiting."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._stuck = _cancelled(self._stuck)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in JSON as every other refusal."""
        body = json.dumps({"error": msg}).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        head = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        self._await_reader()

    def _staying(self) -> list[PatientProtocol]:
        """Connections that are not being closed; looked for only where there are too many in all."""
        if len(self.connections) <= CONNECTIONS:
            return []
        every = [one for one in self.connections if isinstance(one, PatientProtocol)]
        return [one for one in every if not one.transport.is_closing()]

    def _look_for_half(self) -> None:
        """Wait for the rest of a request's head, or of a body that nobody reads any more; else for the next request."""
        if self.is_waiting and (self.conn.their_state is not h11.IDLE or self.conn.trailing_data[0]):
            self._late = self._late or self.loop.call_later(HEAD_SECONDS, self.transport.abort)
            return
        self._late = _cancelled(self._late)
        if self.is_waiting and self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _await_reader(self) -> None:
        self._stuck = self._stuck or self.loop.call_later(READ_SECONDS, self.transport.abort)


def _cancelled(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    if timer is not None:
        timer.cancel()
    return None


async def _busy(_scope: Any, _receive: Any, send: Any) -> None:
    given = {"content-type": "application/json", "content-length": str(len(BUSY)), "retry-after": "5"}
    headers = [(name.encode(), value.encode()) for name, value in (given | {"connection": "close"}).items()]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": BUSY})


def share_processors(workers: int) -> None:
    """Let requests and workers be what is parallel: one thread per matrix product, the encoder's by the workers.

    A product of one user's vector is over before a second thread has begun; those that then wait for the next one keep
    other requests from the processor. With it 100,000 items took a p95 of 17 instead of 54 ms (2 workers, 2 cores).
    """
    threadpool_limits(1, user_api="blas")
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


def application() -> Any:
    """A worker's application, by the settings in its environment."""
    from hushrec.server.serving.app import build_app

    settings = ServeSettings.from_text(os.environ[SETTINGS])
    share_processors(settings.workers)
    configure_logging()
    return build_app(RecommendationService(settings))


def listen(settings: ServeSettings, service: RecommendationService) -> None:
    """Serve from this process until SIGTERM or Ctrl-C."""
    from hushrec.server.serving.app import build_app

    share_processors(settings.workers)
    configure_logging()
    server = uvicorn.Server(uvicorn.Config(build_app(service), **_options(settings)))
    server.run()
    if not server.started:
        sys.exit(1)


def listen_with_workers(settings: ServeSettings) -> None:
    """Serve from `settings.workers` processes, each with a service of its own, until SIGTERM or Ctrl-C."""
    configure_logging()
    with tempfile.TemporaryDirectory(prefix="hushrec-metrics-") as folder:
        os.environ |= {SETTINGS: settings.to_text(), "PROMETHEUS_MULTIPROC_DIR": folder}
        place = "hushrec.server.serving.listening:application"
        uvicorn.run(place, factory=True, workers=settings.workers, **_options(settings))


def _options(settings: ServeSettings) -> dict[str, Any]:
    return {
        "host": settings.host,
        "port": settings.port,
        "http": PatientProtocol,
        "ws": "none",
        "interface": "asgi3",
        "h11_max_incomplete_event_size": LARGEST_HEAD,
        "timeout_keep_alive": 65,  # longer than a load balancer keeps an idle connection
        "timeout_graceful_shutdown": 20,
        "proxy_headers": False,
        "server_header": False,
        "access_log": False,
        "log_config": None,
        "log_level": "warning",
        "ssl_certfile": settings.tls_cert or None,
        "ssl_keyfile": settings.tls_key or None,
    }


def port_is_free(host: str, port: int) -> bool:
    """Whether something can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
