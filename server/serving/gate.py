"""What every request passes first: token, rate, size and time, and what every answer gets: headers, log, metrics.

It is ASGI middleware around the whole application; it reads no body's content.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from hushrec.server.serving.metrics import ServiceMetrics
from hushrec.server.serving.service_log import exception_facts, log
from hushrec.server.serving.tokens import TokenBook, TokenEntry

LARGEST_BODY = 2**20  # bytes
BODY_SECONDS = 15.0  # until a body must be there
LONGEST_TARGET = 4096  # bytes of path and query
PIECE = 2**16  # bytes of an answer that wait for their reader at a time
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
FAILED = "the service could not answer this request; its log says where it failed"
_METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"}
_LOCAL = ("127.0.0.1", "localhost", "[::1]")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class _Refused(Exception):
    def __init__(self, status: int, why: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(why)
        self.status, self.why, self.headers = status, why, headers or {}


class Gate:
    """The middleware.

    Args:
        tokens: None where everybody on this machine may ask everything.
    """

    def __init__(
        self,
        app: Application,
        tokens: TokenBook | None,
        metrics: ServiceMetrics,
        *,
        largest_body: int = LARGEST_BODY,
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        self._app, self._tokens, self._metrics = app, tokens, metrics
        self._largest, self._patience = largest_body, body_seconds

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Let one request through, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        begun, answer = time.perf_counter(), _Answer(send, scope["path"])
        caller: TokenEntry | None = None
        try:
            self._check_target(scope)
            caller = self._caller(scope)
            scope.setdefault("state", {})["scopes"] = None if self._tokens is None else caller and caller.scopes
            body = await self._body(scope, receive) if _is_api(scope) else b""  # elsewhere nothing reads one
            if body and not _is_json(scope):
                raise _Refused(415, "a body is JSON; send it with the header content-type: application/json")
            await self._app(scope, _replayed(body, receive), answer)
        except _Refused as refused:
            await answer.fail(refused.status, refused.why, refused.headers)
        except Exception as error:
            log("error", exception_facts(error) | {"route": _route(scope)}, logging.ERROR)
            await answer.fail(500, FAILED, {})
        self._note(scope, answer.status, time.perf_counter() - begun, caller)

    def _check_target(self, scope: Message) -> None:
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > LONGEST_TARGET:
            raise _Refused(414, f"the address is longer than {LONGEST_TARGET} bytes")
        if self._tokens is None:  # else a page of another site could make its own name lead here, and read
            host = _header(scope, b"host").decode("latin-1")
            name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
            if name not in _LOCAL:
                raise _Refused(403, "an open service answers to 127.0.0.1, localhost and [::1] only")
            origin = _header(scope, b"origin").decode("latin-1")
            if _is_api(scope) and origin and origin.partition("://")[2] != host:
                raise _Refused(403, "an open service is not asked by a page of another site")
            if _is_api(scope) and _header(scope, b"sec-fetch-site") in (b"cross-site", b"same-site"):
                raise _Refused(403, "an open service is not asked by a page of another site")

    def _caller(self, scope: Message) -> TokenEntry | None:
        """The token's entry, for /v1 alone."""
        if self._tokens is None or not _is_api(scope):
            return None
        kind, _, token = _header(scope, b"authorization").partition(b" ")
        entry = self._tokens.find(token.strip().decode("latin-1")) if kind.lower() == b"bearer" else None
        if entry is None:
            why = "this needs a token: send it as Authorization: Bearer TOKEN"
            raise _Refused(401, why, {"www-authenticate": "Bearer"})
        if wait := self._tokens.wait(entry):
            why = f"this token asks more than {entry.per_minute} times a minute; wait and ask again"
            raise _Refused(429, why, {"retry-after": str(int(wait) + 1)})
        return entry

    async def _body(self, scope: Message, receive: Receive) -> bytes:
        announced = _header(scope, b"content-length") or b"0"
        if not announced.isdigit() or len(announced) > 15 or int(announced) > self._largest:
            raise _Refused(413, f"the body is larger than {self._largest:,} bytes", {"connection": "close"})
        parts, length, more = list[bytes](), 0, True
        deadline = time.monotonic() + self._patience
        while more:
            try:
                message = await asyncio.wait_for(receive(), max(0.001, deadline - time.monotonic()))
            except TimeoutError:
                why = f"the body did not arrive within {self._patience:g} seconds"
                raise _Refused(408, why, {"connection": "close"}) from None
            if message["type"] != "http.request":
                raise _Refused(400, "the connection was closed before the body was there")
            parts.append(message.get("body", b""))
            length += len(parts[-1])
            if length > self._largest:
                raise _Refused(413, f"the body is larger than {self._largest:,} bytes", {"connection": "close"})
            more = message.get("more_body", False)
        return b"".join(parts)

    def _note(self, scope: Message, status: int, seconds: float, caller: TokenEntry | None) -> None:
        route, method = _route(scope), scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.observe_request(route, method, status, seconds)
        if route not in ("/healthz", "/readyz", "/metrics"):
            facts = {"method": method, "route": route, "status": status, "ms": round(seconds * 1000, 1)}
            log("request", facts | ({"token": caller.name} if caller else {}))


class _Answer:
    """Sends what the application answers, with the service's headers; knows the status."""

    def __init__(self, send: Send, path: str) -> None:
        self._send, self.status = send, 0
        self._added = [
            (b"content-security-policy", CONTENT_POLICY.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
        ]
        self._private = path.startswith("/v1")

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", []), *self._added]
            if self._private and not any(name.lower() == b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body" and len(body := message.get("body", b"")) > PIECE:
            # In pieces, so that a slow reader's answer waits once, not copied into the buffers of a connection.
            last = (len(body) - 1) // PIECE * PIECE
            for start in range(0, last, PIECE):
                await self._send({**message, "body": body[start : start + PIECE], "more_body": True})
            message = {**message, "body": body[last:]}
        await self._send(message)

    async def fail(self, status: int, why: str, headers: dict[str, str]) -> None:
        """Answer one sentence, unless an answer has begun: then the connection is closed over it."""
        if self.status:
            return
        body = json.dumps({"error": why}).encode()
        given = {"content-type": "application/json", "content-length": str(len(body)), **headers}
        raw = [(name.encode(), value.encode()) for name, value in given.items()]
        await self({"type": "http.response.start", "status": status, "headers": raw})
        await self({"type": "http.response.body", "body": body})


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _is_api(scope: Message) -> bool:
    return bool(scope["path"] == "/v1" or scope["path"].startswith("/v1/"))


def _is_json(scope: Message) -> bool:
    kind = _header(scope, b"content-type").partition(b";")[0].strip().lower()
    return kind == b"application/json"


def _route(scope: Message) -> str:
    """The route's template: a path may hold what a person typed."""
    template = getattr(scope.get("route"), "path", None)
    if template is None:
        return "unmatched" if scope["path"].startswith("/v1") else "page"
    return str(template)


def _header(scope: Message, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key.lower() == name), b"")
