"""The edge folder over a real service: devices fetch what is new of it, whole, and a damaged one changes nothing."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.serving import Running, running

from hushrec.client.edge import fetch
from hushrec.client.edge.fetch import fetch_edge
from hushrec.common.edge_folder import check_edge_folder, write_edge_folder
from hushrec.common.errors import BundleError, ConfigError, DataError

CONTENT = {"catalog": b"[]", "item_vectors": b"v" * 300_000, "encoder": b"e" * 1000}


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    write_edge_folder(tmp_path / "exported", {"encoder": None}, CONTENT)
    return tmp_path / "exported"


@pytest.fixture
def service(folder: Path, exported: Path, tmp_path: Path) -> Iterator[Running]:
    with running(folder, tmp_path, edge=str(exported)) as found:
        yield found


def address(service: Running) -> str:
    return f"http://127.0.0.1:{service.port}"


def fetched(service: Running, tmp_path: Path, have: Path) -> bool:
    shutil.rmtree(tmp_path / "fetched", ignore_errors=True)
    (tmp_path / "fetched").mkdir()
    return fetch_edge(address(service), tmp_path / "fetched", have=have, token=service.tokens["read"])


def test_the_manifest_and_the_files_have_their_hashes_as_tags(service: Running, exported: Path) -> None:
    answer = service.ask("GET", "/v1/edge")
    assert answer.content == (exported / "manifest.json").read_bytes()
    digest = hashlib.sha256(answer.content).hexdigest()
    assert answer.headers["etag"] == f'"{digest}"'
    assert service.ask("GET", "/readyz", "").json()["edge"] == digest
    assert service.ask("GET", "/v1/edge", headers={"if-none-match": f'"{digest}"'}).status_code == 304
    for role, entry in answer.json()["files"].items():
        found = service.ask("GET", f"/v1/edge/{entry['name']}")
        assert (found.content, found.headers["etag"]) == (CONTENT[role], f'"{entry["sha256"]}"')
        again = service.ask("GET", f"/v1/edge/{entry['name']}", headers={"if-none-match": f'"{entry["sha256"]}"'})
        assert (again.status_code, again.content) == (304, b"")
    for wrong in ("manifest.json", "nothing", "..%2fbundle%2fmanifest.json", "edge.lock"):
        assert service.ask("GET", f"/v1/edge/{wrong}").status_code == 404
    assert service.ask("GET", "/v1/edge", "").status_code == 401
    assert service.ask("GET", "/v1/edge", "items").status_code == 403


def test_without_an_edge_folder_there_is_none(shared: Running) -> None:
    for path in ("/v1/edge", "/v1/edge/encoder.onnx"):
        answer = shared.ask("GET", path)
        assert (answer.status_code, answer.json()["error"]) == (
            404,
            "this service has no edge folder; it was started without --edge",
        )
    assert "edge" not in shared.ask("GET", "/readyz", "").json()


def test_a_device_fetches_only_what_is_new(
    service: Running, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, real, asked = tmp_path / "here", fetch._stream, list[str]()
    monkeypatch.setattr(fetch, "_stream", lambda client, path, *rest: asked.append(path) or real(client, path, *rest))
    assert fetched(service, tmp_path, here)
    shutil.copytree(tmp_path / "fetched", here)
    assert check_edge_folder(here).manifest == check_edge_folder(exported).manifest
    assert not fetched(service, tmp_path, here)
    assert list((tmp_path / "fetched").iterdir()) == []
    write_edge_folder(exported, {"encoder": "int8"}, CONTENT | {"encoder": b"another"})
    asked.clear()
    assert fetched(service, tmp_path, here)
    assert check_edge_folder(tmp_path / "fetched").read("encoder") == b"another"
    (name,) = (file.name for file in (tmp_path / "fetched").glob("encoder-*"))
    assert asked == ["/v1/edge", f"/v1/edge/{name}"]
    assert "edge folder swapped" in service.log.getvalue()


def test_a_device_that_began_with_the_old_export_ends_with_it(service: Running, exported: Path) -> None:
    name = service.ask("GET", "/v1/edge").json()["files"]["encoder"]["name"]
    write_edge_folder(exported, {"encoder": "int8"}, CONTENT | {"encoder": b"another"})
    assert service.ask("GET", "/v1/edge").json()["files"]["encoder"]["name"] != name
    assert service.ask("GET", f"/v1/edge/{name}").content == CONTENT["encoder"]
    (exported / name).unlink()
    assert service.ask("GET", f"/v1/edge/{name}").status_code == 404


def test_a_damaged_export_is_refused_until_it_is_whole(service: Running, exported: Path, tmp_path: Path) -> None:
    before = service.ask("GET", "/v1/edge").content
    new = write_edge_folder(tmp_path / "new", {"encoder": "int8"}, CONTENT | {"encoder": b"another"})
    shutil.copy(new.path / "manifest.json", exported)  # the manifest first, its files later
    state = service.ask("GET", "/readyz", "").json()
    assert state["ready"]
    assert "cannot read" in state["edge_refused"]
    assert service.ask("GET", "/v1/edge").content == before
    assert "edge folder refused" in service.log.getvalue()
    new.file("encoder").replace(exported / new.file("encoder").name)
    assert service.ask("GET", "/v1/edge").content == (exported / "manifest.json").read_bytes()
    assert service.ask("GET", "/readyz", "").json()["edge_refused"] == ""


def test_a_damaged_folder_is_refused_at_the_start(folder: Path, exported: Path, tmp_path: Path) -> None:
    (file,) = exported.glob("encoder-*")
    file.write_bytes(b"x" * 1000)
    with (
        pytest.raises(BundleError, match=r"is not the file its manifest describes; fetch it again"),
        running(folder, tmp_path, edge=str(exported)),
    ):
        pass


def test_a_file_is_read_in_pieces(service: Running, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = service.ask("GET", "/v1/edge").json()["files"]["item_vectors"]["name"]
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read whole"))
    with service.client.stream(
        "GET", f"/v1/edge/{name}", headers={"authorization": f"Bearer {service.tokens['read']}"}
    ) as answer:
        pieces = [len(piece) for piece in answer.iter_raw()]
    assert sum(pieces) == 300_000
    assert max(pieces) <= 2**16


def test_what_is_no_safe_service_is_refused_in_one_sentence(service: Running, tmp_path: Path) -> None:
    (tmp_path / "into").mkdir()
    for wrong, kind, says in (
        ("http://rec.example.org", ConfigError, "is not encrypted"),
        ("ftp://127.0.0.1", ConfigError, "expected an address"),
        ("http://127.0.0.1:1", DataError, "does not answer"),
        (address(service), DataError, "give --token-file"),
    ):
        with pytest.raises(kind, match=says):
            fetch_edge(wrong, tmp_path / "into", have=tmp_path / "none")
    with pytest.raises(ConfigError, match="certificate authority"):
        fetch_edge(address(service), tmp_path / "into", have=tmp_path / "none", ca=tmp_path / "no.crt")


def test_more_than_was_announced_is_not_written(
    service: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "LARGEST_MANIFEST", 10)
    with pytest.raises(BundleError, match="larger than the 10 bytes"):
        fetched(service, tmp_path, tmp_path / "none")


def test_a_service_that_answers_something_else_is_refused(
    service: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fetch._stream

    def forged(client: httpx.Client, path: str, into: Path, most: int, headers: dict[str, str]) -> bool:
        found = real(client, path, into, most, headers)
        if path != "/v1/edge":
            into.write_bytes(b"x" * into.stat().st_size)
        return found

    monkeypatch.setattr(fetch, "_stream", forged)
    with pytest.raises(BundleError, match="is not the file its manifest describes"):
        fetched(service, tmp_path, tmp_path / "none")
