"""Clients that are slow on purpose: each is given up in time, and none keeps others from their answers."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.serving import Running, running

from hushrec.server.serving import listening
from hushrec.server.serving.service import THREADS

HEAD = 0.6  # seconds, here
REQUEST = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"


@pytest.fixture
def quick(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(listening, "HEAD_SECONDS", HEAD)
    monkeypatch.setattr(listening, "READ_SECONDS", HEAD)
    with running(folder, tmp_path) as service:
        yield service


def connect(service: Running) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", service.port), timeout=20)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


def ended(one: socket.socket) -> bool:
    """Wait until the other side has closed; False if something is answered instead."""
    try:
        return one.recv(1000) == b""
    except ConnectionError:
        return True


def drip(one: socket.socket, content: bytes, seconds: float) -> bool:
    """Send byte after byte; whether the other side closed before that ended."""
    for byte in content:
        try:
            one.sendall(bytes([byte]))
        except ConnectionError:
            return True
        time.sleep(seconds)
    return False


@pytest.mark.parametrize("before", [0, 1, 3])
def test_the_headers_of_every_request_of_a_connection_must_come_in_time(before: int, quick: Running) -> None:
    with connect(quick) as one:
        for _ in range(before):
            one.sendall(REQUEST)
            assert one.recv(1000).startswith(b"HTTP/1.1 200")
            time.sleep(HEAD * 1.5 if before == 1 else 0)  # idle between two requests is nothing slow
        begun = time.monotonic()
        assert drip(one, b"GET /healthz HTTP/1.1\r\nx-" + b"a" * 200, 0.05)
        assert HEAD * 0.8 < time.monotonic() - begun < HEAD + 3


def test_a_connection_that_says_nothing_is_closed(quick: Running) -> None:
    with connect(quick) as one:
        begun = time.monotonic()
        assert ended(one)
        assert HEAD * 0.8 < time.monotonic() - begun < HEAD + 3


def test_a_body_that_nobody_reads_any_more_is_not_waited_for(quick: Running) -> None:
    with connect(quick) as one:
        one.sendall(b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-length: 5000\r\n\r\n{")
        assert one.recv(1000).startswith(b"HTTP/1.1 401")
        assert drip(one, b" " * 200, 0.05)
    with connect(quick) as one:  # one that comes in time leaves the connection usable, and idle is not slow
        one.sendall(b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{")
        assert one.recv(1000).startswith(b"HTTP/1.1 401")
        one.sendall(b"}")
        time.sleep(HEAD * 1.5)
        one.sendall(REQUEST)
        assert one.recv(1000).startswith(b"HTTP/1.1 200")


def test_two_requests_sent_at_once_are_both_answered_and_half_a_third_is_given_up(quick: Running) -> None:
    with connect(quick) as one:
        one.sendall(REQUEST + REQUEST + REQUEST[:9])
        found = b""
        while found.count(b'{"alive":true}') < 2:
            found += one.recv(1000)
        assert ended(one)


def test_readers_that_take_nothing_hold_no_thread_and_are_given_up(
    quick: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = list[object]()
    closed = listening.PatientProtocol.connection_lost
    monkeypatch.setattr(
        listening.PatientProtocol,
        "connection_lost",
        lambda self, error: (lost.append(self), closed(self, error)),
    )
    with ExitStack() as stack:
        for one in [stack.enter_context(connect(quick)) for _ in range(THREADS + 2)]:
            one.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * 600)  # more than buffers hold
        begun = time.monotonic()
        assert quick.recommend(query="robots", n=1)["items"]
        assert time.monotonic() - begun < 5
        while len(lost) < THREADS + 2:
            assert time.monotonic() - begun < 20
            time.sleep(0.05)


def test_an_answer_that_is_read_in_time_comes_whole(quick: Running) -> None:
    with connect(quick) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
        found = b""
        while part := one.recv(2048):
            found += part
            time.sleep(0.002)
        length = int(found.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        assert len(found.partition(b"\r\n\r\n")[2]) == length


def test_half_open_connections_make_room_for_a_new_one(quick: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "HEAD_SECONDS", 60.0)
    monkeypatch.setattr(listening, "CONNECTIONS", 20)
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(quick)) for _ in range(60)]
        for one in slow[-18:]:
            one.sendall(b"GET /heal")
        time.sleep(0.2)
        for _ in range(5):
            assert quick.recommend(n=1)["items"]
        assert all(ended(one) for one in slow[:20])  # those that waited longest


def test_what_is_no_http_is_refused_in_one_sentence_of_json(quick: Running) -> None:
    with connect(quick) as one:
        one.sendall(b"\x16\x03\x01 no http\r\n\r\n")
        answer = one.recv(1000)
        assert answer.startswith(b"HTTP/1.1 400")
        assert answer.endswith(b'{"error": "Invalid HTTP request received."}')
        assert ended(one)


def test_a_full_service_says_so_in_one_sentence_of_json(quick: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "CONNECTIONS", 0)
    with connect(quick) as one:
        one.sendall(REQUEST)
        assert ended(one)  # it waited longest itself
    monkeypatch.setattr(listening.PatientProtocol, "is_waiting", property(lambda _: False))
    with connect(quick) as one:
        one.sendall(REQUEST)
        answer = one.recv(1000)
        assert answer.startswith(b"HTTP/1.1 503")
        assert answer.endswith(listening.BUSY)
