"""The public port: a reverse proxy that lets devices reach Flower's Fleet API and nothing else of the SuperLink.

Flower serves Fleet, Control and Runtime on one port and protects only the first by node keys; so the SuperLink stays on
loopback and this process stands before it. A node signs a timestamp, not the path or the body, and its headers pass
unchanged. It keeps nothing and judges no message.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from hushrec.server.deployment.folder import OperatorFolder

LARGEST_BODY = 16 * 2**20  # bytes; Flower cuts messages in pieces of 5 MB
LARGEST_HEAD = 16 * 2**10  # bytes of a request's headers
SILENCE = 60.0  # seconds that a device may pause inside one request
CONNECTIONS = 1000  # at a time; beyond, 503, which devices take as "try again"
# Matched against the bytes of the request line as they came: no dot, no second slash, no %, no query can be in it.
_FLEET = re.compile(rb"/v1/fleet/[a-z]+(-[a-z]+)*")
_HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
    b"transfer-encoding", b"upgrade", b"expect", b"host", b"forwarded", b"via",
}  # fmt: skip

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class _Refused(Exception):
    """The device's request went wrong half-way; the status that it gets."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def is_allowed(method: str, target: bytes, query: bytes, headers: Headers) -> bool:
    """Whether a request may pass.

    Args:
        target: the request line's target before "?", as raw bytes; an absolute URL or an authority stays one.
        query: what followed "?".
    """
    if query or any(name.lower() in (b"upgrade", b"http2-settings") for name, _ in headers):
        return False
    if target == b"/health":
        return method in ("GET", "HEAD")
    return method == "POST" and _FLEET.fullmatch(target) is not None


class FleetProxy:
    """The ASGI application.

    Args:
        upstream: a client whose base URL is the SuperLink and that trusts the federation's authority alone.
    """

    def __init__(self, upstream: httpx.AsyncClient, largest_body: int = LARGEST_BODY, silence: float = SILENCE) -> None:
        self._upstream, self._largest, self._silence = upstream, largest_body, silence

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: 404 unless it is allowed, otherwise what the SuperLink says, or 502 without it."""
        target = scope.get("raw_path") or scope["path"].encode()
        if not is_allowed(scope["method"], target, scope["query_string"], scope["headers"]):
            await _answer(send, 404)
            return
        if sum(len(name) + len(value) for name, value in scope["headers"]) > LARGEST_HEAD:
            await _answer(send, 431)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not announced.isdigit() or int(announced) > self._largest:
            await _answer(send, 413)
            return
        await self._pass_on(scope, target, receive, send)

    async def _pass_on(self, scope: Scope, target: bytes, receive: Receive, send: Send) -> None:
        begun = False
        request = self._upstream.build_request(
            scope["method"],
            target.decode("ascii"),
            headers=_end_to_end(scope["headers"]),
            content=self._body(receive) if scope["method"] == "POST" else None,
        )
        try:
            response = await self._upstream.send(request, stream=True)
            try:
                begun = True
                headers = _end_to_end(response.headers.raw)
                await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
                async for chunk in response.aiter_raw():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            finally:
                await response.aclose()
        except _Refused as refused:
            await _answer(send, refused.status)
        except httpx.HTTPError as error:
            if begun:  # the status is out: only a broken connection can still tell the device
                raise
            # Devices try again after 502, 503 and 504, and end themselves after any other failure.
            await _answer(send, 504 if isinstance(error, httpx.TimeoutException) else 502)

    async def _body(self, receive: Receive) -> AsyncIterator[bytes]:
        """The request's body, piece by piece, as it comes."""
        length, more = 0, True
        while more:
            try:
                message = await asyncio.wait_for(receive(), self._silence)
            except TimeoutError:
                raise _Refused(504) from None
            if message["type"] != "http.request":
                raise _Refused(400)  # the device is gone
            length += len(message.get("body", b""))
            if length > self._largest:
                raise _Refused(413)
            more = message.get("more_body", False)
            if message.get("body"):
                yield message["body"]


def _end_to_end(headers: Headers) -> Headers:
    named = {
        part.strip().lower() for name, value in headers if name.lower() == b"connection" for part in value.split(b",")
    }
    return [
        (name, value)
        for name, value in headers
        if name.lower() not in _HOP_BY_HOP | named and not name.lower().startswith(b"x-forwarded")
    ]


async def _answer(send: Send, status: int) -> None:
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def upstream_client(port: int, authority: Path) -> httpx.AsyncClient:
    """Connections to the SuperLink on loopback, whose certificate must come from the federation's authority."""
    # The SuperLink drops idle connections after 5 s; ours go first, so that none breaks under a request.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=2.0)
    context = ssl.create_default_context(cafile=str(authority))
    transport = httpx.AsyncHTTPTransport(verify=context, limits=limits, retries=1, trust_env=False)
    timeout = httpx.Timeout(60.0, connect=5.0, pool=30.0)
    return httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{port}", transport=transport, timeout=timeout, trust_env=False
    )


def serve(folder: OperatorFolder, superlink_port: int) -> None:
    """Serve the public port until SIGTERM."""
    settings = folder.settings()
    config = uvicorn.Config(
        FleetProxy(upstream_client(superlink_port, folder.ca_certificate)),
        host=settings.listen,
        port=settings.port,
        http="h11",  # the parser that hands over the target as it came
        ws="none",
        lifespan="off",
        interface="asgi3",
        h11_max_incomplete_event_size=LARGEST_HEAD,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,  # longer than a device keeps an idle connection
        timeout_graceful_shutdown=3,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_level="warning",
        ssl_certfile=folder.server_certificate,
        ssl_keyfile=folder.server_key,
    )
    server = uvicorn.Server(config)
    server.run()
    if not server.started:
        sys.exit(1)


if __name__ == "__main__":
    where = OperatorFolder(Path(sys.argv[1]))
    serve(where, json.loads(where.processes.read_text())["superlink_port"])
