"""A device that fetches its model from a real service: only what is new, wholly or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.serving import Running, make_bundle, running
from typer.testing import CliRunner

from hushrec.client.device.commands import client_app
from hushrec.client.device.folder import DeviceFolder
from hushrec.client.edge import fetch
from hushrec.common.catalog import Catalog
from hushrec.common.config import RunConfig
from hushrec.common.edge_folder import check_edge_folder
from hushrec.common.errors import BundleError, ConfigError, DataError

Export = Callable[[Path, Catalog], Path]


@pytest.fixture
def service(tiny: Callable[..., RunConfig], kitchen: DeviceFolder, export: Export, tmp_path: Path) -> Iterator[Running]:
    """Serves an edge folder of the device's catalogue, at tmp_path/exported."""
    make_bundle(tmp_path / "bundle", tiny(model__head_core="full"))
    export(tmp_path / "exported", kitchen.invitation.catalog)
    with running(tmp_path / "bundle", tmp_path, edge=str(tmp_path / "exported")) as found:
        (tmp_path / "token.txt").write_text(found.tokens["read"] + "\n")
        yield found


def update(kitchen: DeviceFolder, service: Running, token: Path) -> str:
    arguments = ["update", str(kitchen.path), f"http://127.0.0.1:{service.port}/", "--token-file", str(token)]
    return CliRunner().invoke(client_app, arguments, catch_exceptions=False).output


def test_a_model_is_fetched_installed_and_not_fetched_again(
    kitchen: DeviceFolder, service: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, real, asked = tmp_path / "token.txt", fetch._stream, list[str]()
    monkeypatch.setattr(fetch, "_stream", lambda client, path, *rest: asked.append(path) or real(client, path, *rest))
    assert "Installed a model of 6 items." in update(kitchen, service, token)
    assert check_edge_folder(kitchen.edge).manifest == check_edge_folder(tmp_path / "exported").manifest
    assert len(asked) == 5  # the manifest and four files
    asked.clear()
    assert "The model here is the service's already." in update(kitchen, service, token)
    assert asked == ["/v1/edge"]
    assert not list(kitchen.edge.glob("fetched-*"))


def test_a_foreign_model_or_a_damaged_one_leaves_the_device_as_it_was(
    kitchen: DeviceFolder, service: Running, export: Export, tmp_path: Path
) -> None:
    token = tmp_path / "token.txt"
    update(kitchen, service, token)
    before = check_edge_folder(kitchen.edge).manifest
    (kitchen.edge / "fetched-of-one-that-was-killed").mkdir()
    catalog = kitchen.invitation.catalog
    few = Catalog(*(getattr(catalog, name)[:2] for name in ("item_ids", "texts", "titles", "years", "genres")))
    export(tmp_path / "exported", few)
    with pytest.raises(BundleError, match="lacks 4 items"):
        update(kitchen, service, token)
    assert check_edge_folder(kitchen.edge).manifest == before
    assert not list(kitchen.edge.glob("fetched-*"))


def test_a_model_that_was_damaged_on_the_device_is_fetched_again(
    kitchen: DeviceFolder, service: Running, export: Export, tmp_path: Path
) -> None:
    token = tmp_path / "token.txt"
    for changed in (False, True):  # by the same export, and by another that has the damaged file too
        update(kitchen, service, token)
        vectors = check_edge_folder(kitchen.edge).file("item_vectors")
        content = vectors.read_bytes()
        vectors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        if changed:
            export(tmp_path / "exported", kitchen.invitation.catalog)
        assert "Installed a model of 6 items." in update(kitchen, service, token)
        assert vectors.read_bytes() == content
        check_edge_folder(kitchen.edge)


@pytest.mark.parametrize(
    "address", ["https://[", "https://rec.example.org:abc", "https://:0/", "ftp://rec.example.org"]
)
def test_what_is_no_address_is_refused_in_one_sentence(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected an address such as https"):
        fetch.fetch_edge(address, tmp_path, have=tmp_path / "none")


def test_wrong_tokens_and_options_are_one_sentence(kitchen: DeviceFolder, service: Running, tmp_path: Path) -> None:
    (tmp_path / "wrong.txt").write_text("not a token of this service")
    with pytest.raises(ConfigError, match="does not hold one token"):
        update(kitchen, service, tmp_path / "wrong.txt")
    with pytest.raises(ConfigError, match="cannot read a token"):
        update(kitchen, service, tmp_path / "none.txt")
    (tmp_path / "wrong.txt").write_text("revoked")
    with pytest.raises(DataError, match="answers 401; give --token-file"):
        update(kitchen, service, tmp_path / "wrong.txt")
    arguments = ["update", str(kitchen.path), str(tmp_path / "exported"), "--token-file", str(tmp_path / "token.txt")]
    with pytest.raises(ConfigError, match="go with the address of a service"):
        CliRunner().invoke(client_app, arguments, catch_exceptions=False)
