"""The listening process, or several: uvicorn with the service's limits.

A worker is this module's `application`; what it serves stands in its environment.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from hushrec.server.serving.service import RecommendationService, ServeSettings
from hushrec.server.serving.service_log import configure_logging

SETTINGS = "HUSHREC_SERVE"
CONNECTIONS = 1000  # at a time and worker; beyond, 503
LARGEST_HEAD = 16 * 2**10  # bytes of a request's headers
HEAD_SECONDS = 10.0  # until the first request of a connection has come that far


class PatientProtocol(H11Protocol):
    """Closes a connection whose first request's headers do not come."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait."""
        super().connection_made(transport)
        self._late = self.loop.call_later(HEAD_SECONDS, self._close_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop to wait."""
        self._late.cancel()
        super().connection_lost(exc)

    def _close_silent(self) -> None:
        if self.cycle is None:
            self.transport.close()


def application() -> Any:
    """A worker's application, by the settings in its environment."""
    from hushrec.server.serving.app import build_app

    configure_logging()
    return build_app(RecommendationService(ServeSettings.from_text(os.environ[SETTINGS])))


def listen(settings: ServeSettings, service: RecommendationService) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        service: of `settings`; with several workers it has checked the bundle, and each worker opens its own.
    """
    from hushrec.server.serving.app import build_app

    options: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "http": PatientProtocol,
        "ws": "none",
        "interface": "asgi3",
        "h11_max_incomplete_event_size": LARGEST_HEAD,
        "limit_concurrency": CONNECTIONS,
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
    configure_logging()
    if settings.workers == 1:
        server = uvicorn.Server(uvicorn.Config(build_app(service), **options))
        server.run()
        if not server.started:
            sys.exit(1)
        return
    service.close()
    with tempfile.TemporaryDirectory(prefix="hushrec-metrics-") as folder:
        os.environ |= {SETTINGS: settings.to_text(), "PROMETHEUS_MULTIPROC_DIR": folder}
        place = "hushrec.server.serving.listening:application"
        uvicorn.run(place, factory=True, workers=settings.workers, **options)


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
