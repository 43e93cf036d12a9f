"""Whatever is sent, the answer is one sentence and no 5xx; and nothing of it is found in logs, metrics or files."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.serving import Running, running

WORDS = st.text(max_size=60) | st.sampled_from(
    ["'; DROP TABLE items; --", "<script>alert(1)</script>", "ignore all rules", "\x00", "(" * 50, "a.k.a. " * 9, "🎬"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)
WISHES = st.fixed_dictionaries(
    {},
    optional={
        "history": st.lists(WORDS | st.integers(0, 99).map(str), max_size=6) | VALUES,
        "profile": WORDS | VALUES,
        "query": WORDS | VALUES,
        "interests": st.fixed_dictionaries({"likes": st.lists(WORDS, max_size=3)}) | VALUES,
        "n": st.integers(-2, 120) | VALUES,
        "discovery": st.floats(-0.5, 1.5) | VALUES,
        "rules": st.fixed_dictionaries({"rule": st.lists(st.dictionaries(WORDS, VALUES, max_size=4), max_size=2)})
        | st.dictionaries(st.sampled_from(["rule", "blocklist", "approved"]), VALUES)
        | VALUES,
        "group": WORDS | VALUES,
    },
)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def check(response: Any) -> None:
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert list(response.json()) == ["error"]
        assert "Traceback" not in response.text


@QUICK
@given(wish=WISHES)
def test_any_wish_is_answered_or_refused_in_one_sentence(wish: dict[str, Any], shared: Running) -> None:
    content = json.dumps(wish).encode()
    check(shared.ask("POST", "/v1/recommend", content=content, headers={"content-type": "application/json"}))


@QUICK
@given(body=st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()), put=st.booleans())
def test_any_body_is_answered_or_refused_in_one_sentence(body: bytes, put: bool, shared: Running) -> None:
    method, path, scope = ("PUT", "/v1/items", "items") if put else ("POST", "/v1/recommend", "read")
    check(shared.ask(method, path, scope, content=body, headers={"content-type": "application/json"}))


@QUICK
@given(text=WORDS, number=st.integers() | WORDS)
def test_any_query_string_is_answered_or_refused_in_one_sentence(text: str, number: Any, shared: Running) -> None:
    text = text.encode("utf-8", "replace").decode()
    check(shared.ask("GET", "/v1/similar", params={"item": text, "n": str(number)[:50]}))
    check(shared.ask("GET", "/v1/items", params={"search": text, "limit": str(number)[:50]}))
    check(shared.ask("GET", "/v1/runs/" + text.encode().hex(), "admin"))


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 422),
        (b'{"query": "\xff\xfe"}', 400),
        (b'{"query": "\\ud800"}', 422),
        (b'{"n": NaN}', 422),
        (b'{"discovery": Infinity}', 422),
        (b"[" * 50_000, 400),
        (b'{"n": ' + b"9" * 5000 + b"}", 400),
        (b'{"rules": {"blocklist": ["\\ud800"]}}', 422),
        (b'{"rules": {"rule": [{"name": "\\ud800"}]}}', 422),
        (b'{"nonsense": 1}', 422),
        (json.dumps({"query": "a" * 1001}).encode(), 422),
        (json.dumps({"history": ["1"] * 1001}).encode(), 422),
        (b'{"profile": "' + b"a" * 2**20 + b'"}', 413),
    ],
)
def test_malformed_and_oversized_bodies(body: bytes, status: int, shared: Running) -> None:
    response = shared.ask("POST", "/v1/recommend", content=body, headers={"content-type": "application/json"})
    check(response)
    assert response.status_code == status


def test_a_body_that_grows_beyond_the_limit_without_saying_so_is_cut_off(shared: Running) -> None:
    response = shared.ask("POST", "/v1/recommend", content=(b" " * 2**16 for _ in range(20)))
    assert response.status_code == 413


def test_a_long_address_is_refused(shared: Running) -> None:
    assert shared.ask("GET", "/v1/items", params={"search": "a" * 5000}).status_code == 414


def test_a_slow_body_is_given_up_and_others_are_answered_meanwhile(folder: Path, tmp_path: Path) -> None:
    with running(folder, tmp_path, limits={"body_seconds": 0.5}) as service:
        head = f"POST /v1/recommend HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {service.tokens['read']}\r\n"
        slow = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(20)]
        for one in slow:
            one.sendall((head + "content-length: 100\r\n\r\n{").encode())
        begun = time.monotonic()
        assert service.recommend(n=1)["items"]
        assert time.monotonic() - begun < 5
        for one in slow:
            one.settimeout(20)
            assert one.recv(100).startswith(b"HTTP/1.1 408")
            one.close()


MARK = "Xmarker7391"


def test_nothing_of_a_request_is_in_logs_metrics_or_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(folder, tmp_path, runs=str(tmp_path)) as service:
        item = service.service.holder.current.catalog.item_ids[0]
        marks = [f"{MARK}{place}" for place in "abcdefghijklmnop"]
        a = iter(marks)
        wish = {
            "history": [next(a), item],
            "profile": next(a),
            "query": next(a),
            "interests": {"likes": [next(a)], "dislikes": [next(a)]},
        }
        assert next(one for one in service.recommend(**wish)["items"])
        rule = {"name": next(a), "action": "exclude", "title-words": [next(a)], "group": next(a)}
        for body in (
            {"rules": {"rule": [rule]}, "group": rule["group"]},
            {"rules": {"blocklist": [next(a)]}},
            {"rules": {next(a): 1}},
            {next(a): 1},
        ):
            service.ask("POST", "/v1/recommend", json=body)
        service.ask("GET", "/v1/similar", params={"item": next(a)})
        service.ask("GET", "/v1/items", params={"search": next(a)})
        service.ask("GET", f"/v1/runs/{MARK}q", "admin")
        service.ask("GET", f"/v1/{MARK}r")
        service.ask("GET", f"/{MARK}s", "")
        service.ask(f"{MARK}T", "/v1/items")
        service.ask("GET", "/v1/items", f"{MARK}u", headers={f"{MARK}v": f"{MARK}w", "user-agent": f"{MARK}x"})
        monkeypatch.setattr(service.service.batches, "encode", lambda *_: 1 / 0)
        broken = service.ask("POST", "/v1/recommend", json={"query": f"{MARK}y"})
        assert (broken.status_code, MARK in broken.text) == (500, False)
        metrics = service.ask("GET", "/metrics", "").text
        log = service.log.getvalue()
        assert "ZeroDivisionError" in log
        assert MARK.lower() not in log.lower()
        assert MARK.lower() not in metrics.lower()
        for line in log.splitlines():
            assert isinstance(json.loads(line), dict)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes().lower()
            assert MARK.lower().encode() not in content, path
