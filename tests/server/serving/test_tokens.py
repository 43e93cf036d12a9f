"""Tokens: kept as hashes, in a file for one owner, with scopes and rates."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.serving import Running, running

from hushrec.common.bundle import Bundle
from hushrec.common.errors import ConfigError
from hushrec.server.serving.tokens import TokenBook, TokenBucket, new_token, read_tokens, revoke_token


def test_only_the_hash_of_a_token_is_stored_in_a_file_of_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    token = new_token(path, "shop", ["read"])
    assert path.stat().st_mode & 0o777 == 0o600
    assert token not in path.read_text()
    book = TokenBook(path)
    found = book.find(token)
    assert found is not None
    assert (found.name, found.scopes) == ("shop", ("read",))
    for other in ("", token[:-1], token + "a", token.upper(), found.sha256):
        assert book.find(other) is None


def test_two_tokens_differ_and_one_can_be_revoked_while_the_service_runs(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    first, second = new_token(path, "a", ["read"]), new_token(path, "b", ["read", "admin"])
    book = TokenBook(path)
    assert first != second
    revoke_token(path, "a")
    time.sleep(1.05)
    assert book.find(first) is None
    assert book.find(second) is not None


@pytest.mark.parametrize(
    ("name", "scopes", "rate"), [("a b", ["read"], 1), ("a", [], 1), ("a", ["root"], 1), ("a", ["read"], 0)]
)
def test_a_wrong_token_is_not_made(name: str, scopes: list[str], rate: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        new_token(tmp_path / "tokens.json", name, scopes, rate)
    assert not (tmp_path / "tokens.json").exists()


def test_a_name_is_given_once_and_an_unknown_one_cannot_be_revoked(tmp_path: Path) -> None:
    new_token(tmp_path / "t", "a", ["read"])
    with pytest.raises(ConfigError, match="has a token called 'a' already"):
        new_token(tmp_path / "t", "a", ["read"])
    with pytest.raises(ConfigError, match="has no token called 'b'; it has: a"):
        revoke_token(tmp_path / "t", "b")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"tokens": [{"name": "a"}]}', b"\xff"])
def test_a_file_that_others_read_or_that_is_damaged_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="damaged"):
        read_tokens(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others"):
        read_tokens(path)


def test_a_bucket_gives_its_rate_and_no_more() -> None:
    bucket = TokenBucket(60)  # one a second, ten at once
    assert [bucket.take(0.0) for _ in range(10)] == [0.0] * 10
    assert bucket.take(0.0) == pytest.approx(1.0)
    assert bucket.take(0.5) == pytest.approx(0.5)
    assert bucket.take(1.0) == 0.0
    assert sum(bucket.take(1.0 + second / 10) == 0 for second in range(1000)) == pytest.approx(100, abs=1)


@pytest.fixture(scope="module")
def open_service(made: tuple[Bundle, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("open") / "bundle"
    shutil.copytree(made[1], folder)
    with running(folder, folder.parent, tokens=False) as service:
        yield service


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/recommend", "read"),
        ("GET", "/v1/similar", "read"),
        ("GET", "/v1/items", "read"),
        ("PUT", "/v1/items", "items"),
        ("GET", "/v1/bundle", "read"),
        ("GET", "/v1/bundle/manifest.json", "read"),
        ("POST", "/v1/admin/reload", "admin"),
        ("GET", "/v1/runs", "admin"),
        ("GET", "/v1/runs/x", "admin"),
        ("GET", "/v1/federations", "admin"),
    ],
)
def test_every_route_wants_a_token_of_its_scope(method: str, path: str, scope: str, shared: Running) -> None:
    for wrong in ("", "hushrec_wrong", "é"):
        headers = {"authorization": f"Bearer {wrong}".encode("latin-1")} if wrong else {}
        response = shared.ask(method, path, "", headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert list(response.json()) == ["error"]
    for other in {"read", "items", "admin"} - {scope}:
        response = shared.ask(method, path, other, json={})
        assert (response.status_code, response.json()) == (403, {"error": f"this token lacks the scope {scope!r}"})
    assert shared.ask(method, path, scope, json={}).status_code in (200, 404, 409, 422)


def test_an_unknown_address_under_v1_tells_strangers_nothing(shared: Running) -> None:
    assert shared.ask("GET", "/v1/nothing", "").status_code == 401
    assert shared.ask("GET", "/v1/nothing").status_code == 404


def test_a_token_that_asks_too_often_has_to_wait(folder: Path, tmp_path: Path) -> None:
    with running(folder, tmp_path) as service:
        slow = new_token(tmp_path / "tokens.json", "slow", ["read"], per_minute=12)
        time.sleep(1.05)
        statuses = [service.ask("GET", "/v1/items", slow) for _ in range(3)]
        assert [response.status_code for response in statuses] == [200, 200, 429]
        assert int(statuses[2].headers["retry-after"]) in (5, 6)
        assert service.ask("GET", "/v1/items").status_code == 200


def test_an_open_service_answers_to_names_of_this_machine_only(folder: Path, tmp_path: Path) -> None:
    with running(folder, tmp_path, tokens=False) as service:
        assert service.ask("GET", "/v1/items", "").status_code == 200
        assert service.ask("GET", "/v1/items", "", headers={"host": f"[::1]:{service.port}"}).status_code == 200
        assert service.ask("GET", "/v1/items", "", headers={"host": "elsewhere.example"}).status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://elsewhere.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "same-origin", "origin": "OWN"}, 200),
        ({"sec-fetch-site": "none"}, 200),
    ],
)
def test_an_open_service_is_not_asked_by_pages_of_other_sites(
    headers: dict[str, str], status: int, open_service: Running
) -> None:
    """A form of any site can post without asking first, so what such a page could do must not depend on an answer."""
    sent = {name: value.replace("OWN", f"http://127.0.0.1:{open_service.port}") for name, value in headers.items()}
    assert open_service.ask("POST", "/v1/admin/reload", "", headers=sent).status_code == status
    assert open_service.ask("GET", "/", "", headers=sent).status_code == 200  # a link to the page is a link
