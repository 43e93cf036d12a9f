"""The public port lets the Fleet API and /health through, and nothing that is written in another way."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from hypothesis import example, given
from hypothesis import strategies as st

from hushrec.server.deployment.certificates import write_authority, write_server_certificate
from hushrec.server.deployment.proxy import LARGEST_HEAD, FleetProxy, is_allowed, upstream_client

FLEET_PATHS = (
    "register-node", "activate-node", "deactivate-node", "unregister-node", "send-node-heartbeat", "pull-messages",
    "push-messages", "get-run", "get-fab", "push-object", "pull-object", "confirm-message-received",
)  # fmt: skip
PIECES = st.sampled_from(
    [b"/", b"//", b".", b"..", b"%2e", b"%2E%2e", b"%2f", b"\\", b"v1", b"fleet", b"control", b"runtime", b"list-nodes",
     b"get-run", b"health", b";", b"\x00", b"%00", b"#", b"@", b":", b"https://localhost", b"\xff", b"-", b" "]
)  # fmt: skip


@pytest.mark.parametrize("name", FLEET_PATHS)
def test_every_call_that_a_node_makes_may_pass(name: str) -> None:
    assert is_allowed("POST", f"/v1/fleet/{name}".encode(), b"", [])


def test_these_are_the_calls_that_flower_s_node_makes() -> None:
    """A contract with the installed Flower: a new path must pass, too."""
    from flwr.supernode import fleet_http_client

    assert fleet_http_client.__file__ is not None
    text = Path(fleet_http_client.__file__).read_text(encoding="utf-8")
    used = [line.split('"')[1] for line in text.splitlines() if 'path="' in line]
    assert sorted(used) == sorted(f"/v1/fleet/{name}" for name in FLEET_PATHS)


@given(
    st.lists(PIECES, max_size=8).map(b"".join), st.sampled_from(["GET", "POST", "HEAD", "PUT", "CONNECT", "OPTIONS"])
)
@example(b"/v1/fleet/../control/list-nodes", "POST")
@example(b"/v1/fleet/%2e%2e/control/list-nodes", "POST")
@example(b"//v1/fleet/get-run", "POST")
@example(b"https://localhost/v1/fleet/get-run", "POST")
@example(b"localhost:8443", "CONNECT")
@example(b"*", "OPTIONS")
@example(b"/v1/fleet/get-run\n", "POST")
def test_what_passes_is_a_plain_fleet_path_or_health(target: bytes, method: str) -> None:
    if not is_allowed(method, target, b"", []):
        return
    if method == "POST":
        prefix, last = target[: len(b"/v1/fleet/")], target[len(b"/v1/fleet/") :]
        assert prefix == b"/v1/fleet/"
        assert last
        assert set(last) <= set(b"abcdefghijklmnopqrstuvwxyz-")
    else:
        assert (target, method in ("GET", "HEAD")) == (b"/health", True)


@given(st.binary(max_size=60))
def test_bytes_outside_the_two_forms_never_pass(target: bytes) -> None:
    assert not is_allowed("POST", b"/v1/" + target.replace(b"fleet", b""), b"", [])
    assert not is_allowed("GET", target, b"", []) or target == b"/health"


def test_queries_and_upgrades_do_not_pass() -> None:
    assert not is_allowed("POST", b"/v1/fleet/get-run", b"a=b", [])
    for header in (b"upgrade", b"Upgrade", b"http2-settings"):
        assert not is_allowed("GET", b"/health", b"", [(header, b"h2c")])


class Served:
    """The proxy over TLS on a free port, in front of an upstream that remembers what reached it."""

    def __init__(self, folder: Path, port: int, upstream: httpx.AsyncClient, **options: Any) -> None:
        self.port, self.authority = port, folder / "ca.crt"
        self._server = uvicorn.Server(
            uvicorn.Config(
                FleetProxy(upstream, **options),
                host="127.0.0.1",
                port=port,
                http="h11",
                ws="none",
                lifespan="off",
                log_level="critical",
                timeout_graceful_shutdown=1,
                ssl_certfile=folder / "server.crt",
                ssl_keyfile=folder / "server.key",
            )
        )
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve()), daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self._server.started and time.monotonic() < deadline:
            time.sleep(0.01)

    def end(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    def client(self) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self.authority))
        return httpx.Client(base_url=f"https://localhost:{self.port}", verify=context, trust_env=False)

    def raw(self, request: bytes) -> bytes:
        """The first line of the answer to exactly these bytes."""
        context = ssl.create_default_context(cafile=str(self.authority))
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as stream,
        ):
            stream.sendall(request)
            return stream.recv(4096).split(b"\r\n")[0]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    write_authority(folder / "ca.key", folder / "ca.crt", "test")
    pair = (folder / "ca.key", folder / "ca.crt")
    write_server_certificate(pair, folder / "server.key", folder / "server.crt", ["localhost"])
    return folder


@pytest.fixture
def reached() -> list[httpx.Request]:
    return []


@pytest.fixture
def served(certificates: Path, reached: list[httpx.Request], free_port: Callable[[], int]) -> Iterator[Served]:
    async def answer(request: httpx.Request) -> httpx.Response:
        content = await request.aread()
        reached.append(request)
        headers = {"x-length": str(len(content)), "connection": "x-hidden", "x-hidden": "1"}

        async def pieces() -> AsyncIterator[bytes]:
            yield content[::-1]

        return httpx.Response(200, headers=headers, content=pieces())

    upstream = httpx.AsyncClient(base_url="https://127.0.0.1:1", transport=httpx.MockTransport(answer))
    proxy = Served(certificates, free_port(), upstream, largest_body=2_000_000, silence=1.0)
    yield proxy
    proxy.end()


def test_body_status_and_the_node_s_headers_pass_unchanged(served: Served, reached: list[httpx.Request]) -> None:
    body = bytes(range(256)) * 4000
    headers = {"flwr-public-key": "a", "flwr-signature": "b+/=", "flwr-timestamp": "t", "x-forwarded-for": "1.2.3.4"}
    with served.client() as client:
        answer = client.post("/v1/fleet/push-object", content=body, headers=headers)
    assert (answer.status_code, answer.content) == (200, body[::-1])
    assert "x-hidden" not in answer.headers
    (request,) = reached
    assert request.url.path == "/v1/fleet/push-object"
    assert all(request.headers[name] == headers[name] for name in list(headers)[:3])
    assert "x-forwarded-for" not in request.headers
    assert request.headers["content-length"] == str(len(body))


def test_a_body_beyond_the_limit_is_refused_announced_or_not(served: Served, reached: list[httpx.Request]) -> None:
    with served.client() as client:
        assert client.post("/v1/fleet/push-object", content=b"x" * 2_000_001).status_code == 413
        pieces = (b"x" * 100_000 for _ in range(21))
        assert client.post("/v1/fleet/push-object", content=pieces).status_code == 413
    assert not reached


def test_headers_beyond_the_limit_are_refused(served: Served, reached: list[httpx.Request]) -> None:
    with served.client() as client:
        assert client.get("/health", headers={"x": "a" * (LARGEST_HEAD + 1)}).status_code in (400, 431)
    assert not reached


@pytest.mark.parametrize(
    "line",
    [
        b"POST /v1/control/list-nodes HTTP/1.1",
        b"POST /v1/runtime/acquire-task HTTP/1.1",
        b"POST /v1/fleet/../control/list-nodes HTTP/1.1",
        b"POST /v1/fleet/%2e%2e/control/list-nodes HTTP/1.1",
        b"POST /v1/fleet/..%2fcontrol/list-nodes HTTP/1.1",
        b"POST //v1/fleet/get-run HTTP/1.1",
        b"POST /v1//fleet/get-run HTTP/1.1",
        b"POST https://localhost/v1/fleet/get-run HTTP/1.1",
        b"POST https://localhost/v1/control/list-nodes HTTP/1.1",
        b"GET http://169.254.169.254/ HTTP/1.1",
        b"CONNECT 127.0.0.1:22 HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"GET /v1/fleet/get-run HTTP/1.1",
        b"GET /docs HTTP/1.1",
        b"GET /openapi.json HTTP/1.1",
    ],
)
def test_any_other_request_line_is_404(served: Served, reached: list[httpx.Request], line: bytes) -> None:
    assert served.raw(line + b"\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").split()[1] == b"404"
    assert not reached


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: identity\r\n\r\nabcd",
        b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/fleet/get-run\r\n\r\n",
    ],
)
def test_upgrades_and_ambiguous_requests_never_reach_flower(
    served: Served, reached: list[httpx.Request], request_: bytes
) -> None:
    status = served.raw(request_).split()
    assert not status or status[1][:1] == b"4"  # or the connection is closed
    assert not reached


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_body_that_stops_half_way_is_given_up(served: Served, reached: list[httpx.Request]) -> None:
    begun = time.monotonic()
    status = served.raw(b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").split()
    assert status[1] == b"504"
    assert time.monotonic() - begun < 8
    assert not reached


def test_without_flower_the_device_is_told_to_try_again(certificates: Path, free_port: Callable[[], int]) -> None:
    """502 to 504 make a node wait; after any other failure it would end itself."""
    proxy = Served(certificates, free_port(), upstream_client(free_port(), certificates / "ca.crt"))
    try:
        with proxy.client() as client:
            assert client.post("/v1/fleet/get-run", content=b"").status_code == 502
    finally:
        proxy.end()


def test_an_upstream_of_another_authority_is_not_trusted(
    certificates: Path, free_port: Callable[[], int], tmp_path: Path
) -> None:
    write_authority(tmp_path / "ca.key", tmp_path / "ca.crt", "another")
    proxy = Served(certificates, free_port(), httpx.AsyncClient())
    front = Served(certificates, free_port(), upstream_client(proxy.port, tmp_path / "ca.crt"))
    try:
        with front.client() as client:
            assert client.get("/health").status_code == 502
    finally:
        front.end()
        proxy.end()
