"""A new bundle takes the old one's place without a dropped request; a bad one changes nothing."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest
from support.serving import Running, make_bundle, replace_bundle, running, serves

from hushrec.common.bundle import Bundle, write_bundle
from hushrec.common.config import RunConfig
from hushrec.common.errors import BundleError
from hushrec.common.manifest import sealed
from hushrec.server.serving import bundle_holder
from hushrec.server.serving.prepare import bundle_sha256, prepare, prepare_apart
from hushrec.server.serving.served_bundle import KEPT, load_served, vectors_folder
from hushrec.server.serving.service import THREADS


@pytest.fixture(scope="module")
def other(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other") / "bundle"
    make_bundle(folder, config, seed=6)
    return folder


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_bundles_are_swapped_under_load_without_an_error(
    folder: Path, other: Path, made: tuple[Bundle, Path], tmp_path: Path
) -> None:
    # Encoding in this process would use the language model beside the requests; the service never does.
    prepare(other, bundle_sha256(other), vectors_folder(folder, bundle_sha256(other)))
    with running(folder, tmp_path) as service:
        answered: list[tuple[int, str]] = []
        ended = threading.Event()

        def load(number: int) -> None:
            while not ended.is_set():
                wish = (
                    {"query": "robots"}
                    if number % 2
                    else {"history": [service.service.holder.current.catalog.item_ids[0]]}
                )
                response = service.ask("POST", "/v1/recommend", json=wish)
                found = response.json().get("bundle", {}).get("experiment", response.text)
                answered.append((response.status_code, found))
                time.sleep(0.005)

        threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        try:
            for turn in range(6):
                source, name = ((other, "tiny-6"), (made[1], "tiny-5"))[turn % 2]
                replace_bundle(folder, source)
                until(partial(serves, service, name))
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        assert {status for status, _ in answered} == {200}
        assert {experiment for _, experiment in answered} == {"tiny-5", "tiny-6"}
        assert service.service.holder.swaps == 6
        assert "hushrec_bundle_swaps_total 6.0" in service.ask("GET", "/metrics", "").text
        assert service.log.getvalue().count('"bundle swapped"') == 6


def damage(folder: Path, made: Bundle) -> None:
    (folder / "adapter.safetensors").write_bytes((folder / "adapter.safetensors").read_bytes()[:-1] + b"\x01")


def foreign_base(folder: Path, made: Bundle) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(sealed(manifest | {"base_sha256": "0" * 64}))


def no_claim(folder: Path, made: Bundle) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(sealed(manifest | {"privacy": {}}))


def nothing(folder: Path, made: Bundle) -> None:
    (folder / "manifest.json").unlink()


def nonsense(folder: Path, made: Bundle) -> None:
    (folder / "manifest.json").write_bytes(b"\xff\xfe")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (damage, "is not the file its manifest describes"),
        (foreign_base, "was trained on a base model"),
        (no_claim, "has no privacy section"),
        (nothing, "no bundle in"),
        (nonsense, "damaged"),
    ],
)
def test_a_bad_bundle_is_refused_and_the_old_one_stays(
    harm: Callable[[Path, Bundle], None], says: str, folder: Path, tmp_path: Path, made: tuple[Bundle, Path]
) -> None:
    with running(folder, tmp_path) as service:
        before = service.recommend(query="robots")
        harm(folder, made[0])
        until(lambda: service.service.holder.refused != "")
        state = service.ask("GET", "/readyz", "")
        assert (state.status_code, state.json()["ready"]) == (200, True)
        assert says in state.json()["refused"]
        assert says in service.log.getvalue()
        assert service.recommend(query="robots") == before
        assert "hushrec_bundle_refused 1.0" in service.ask("GET", "/metrics", "").text
        refused = service.ask("POST", "/v1/admin/reload", "admin")
        assert refused.status_code == 409
        assert says in refused.json()["error"]
        shutil.rmtree(folder)
        shutil.copytree(made[1], folder)
        assert service.ask("POST", "/v1/admin/reload", "admin").status_code == 200
        assert service.ask("GET", "/readyz", "").json()["refused"] == ""
        assert "hushrec_bundle_refused 0.0" in service.ask("GET", "/metrics", "").text


def test_a_bad_first_bundle_is_an_error(folder: Path, tmp_path: Path, made: tuple[Bundle, Path]) -> None:
    no_claim(folder, made[0])
    with pytest.raises(BundleError, match="no privacy section"), running(folder, tmp_path):
        pass


def test_items_put_at_run_time_outlive_a_swap(folder: Path, other: Path, tmp_path: Path) -> None:
    with running(folder, tmp_path, interval=60) as service:
        item = {"item_id": "new-1", "title": "Robots and Roses", "year": 2024, "genres": []}
        assert service.ask("PUT", "/v1/items", "items", json={"items": [item]}).status_code == 200
        replace_bundle(folder, other)
        assert service.ask("POST", "/v1/admin/reload", "admin").status_code == 200
        assert service.recommend()["bundle"]["experiment"] == "tiny-6"
        assert service.ask("GET", "/v1/items", params={"search": "new-1"}).json()["items"] == [item]


def test_a_run_directory_is_served_by_its_bundle(folder: Path, tmp_path: Path) -> None:
    with running(tmp_path, tmp_path) as service:
        assert service.recommend()["bundle"]["sha256"] == bundle_sha256(folder)


def test_devices_get_the_bundle_once(shared: Running, made: tuple[Bundle, Path]) -> None:
    manifest = shared.ask("GET", "/v1/bundle")
    assert manifest.content == (made[1] / "manifest.json").read_bytes()
    tag = manifest.headers["etag"]
    assert tag == f'"{bundle_sha256(made[1])}"'
    for name in manifest.json()["files"]:
        assert shared.ask("GET", f"/v1/bundle/{name}").content == (made[1] / name).read_bytes()
    again = shared.ask("GET", "/v1/bundle", headers={"if-none-match": f'"x", {tag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert shared.ask("GET", "/v1/bundle", headers={"if-none-match": '"x"'}).status_code == 200
    assert shared.ask("GET", "/v1/bundle/..%2Fother").status_code == 404


def test_stored_vectors_are_used_again_and_damaged_ones_made_anew(folder: Path) -> None:
    first = load_served(folder, prepare)
    again = load_served(folder, lambda *_: pytest.fail("the vectors are there"))
    assert (first.cached, again.cached) == (False, True)
    assert (again.scorer.item_vectors == first.scorer.item_vectors).all()
    vectors = vectors_folder(folder, first.sha256)
    assert vectors.parent == folder.parent.resolve()
    content = (vectors / "item_vectors.npy").read_bytes()
    (vectors / "item_vectors.npy").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    mended = load_served(folder, prepare)
    assert not mended.cached
    assert (vectors / "item_vectors.npy").read_bytes() == content


def test_vectors_of_old_bundles_are_removed(folder: Path, made: tuple[Bundle, Path]) -> None:
    for number in range(KEPT + 2):
        write_bundle(folder, Bundle(**{**made[0].__dict__, "experiment": f"number {number}"}))
        load_served(folder, prepare)
    assert len([path for path in folder.parent.glob("bundle-vectors-*") if path.is_dir()]) == KEPT


def test_a_catalogue_is_encoded_by_a_process_of_its_own(folder: Path) -> None:
    sha256 = bundle_sha256(folder)
    prepare_apart(folder, sha256, vectors_folder(folder, sha256))
    assert load_served(folder, lambda *_: pytest.fail("the vectors are there")).cached
    (folder / "catalog.json").write_bytes(b"{}")
    with pytest.raises(BundleError, match="is not the file its manifest describes"):
        prepare_apart(folder, sha256, folder.parent / "elsewhere")


def test_changes_that_wait_for_each_other_keep_nobody_from_answers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_holder, "PATIENCE", 0.5)
    with running(folder, tmp_path, interval=60) as service, ThreadPoolExecutor(2 * THREADS) as pool:
        with service.service.holder._alone():  # as while a large catalogue is encoded
            item = {"items": [{"item_id": "new-1", "title": "Robots"}]}
            headers, url = {"authorization": f"Bearer {service.tokens['items']}"}, f"{service.client.base_url}/v1/items"

            def put(_number: int) -> int:
                return httpx.put(url, json=item, headers=headers, timeout=60, trust_env=False).status_code

            waiting = pool.map(put, range(2 * THREADS))
            time.sleep(0.1)
            begun = time.monotonic()
            assert service.ask("GET", "/v1/items").status_code == 200
            assert time.monotonic() - begun < 0.5 * THREADS  # not after those who wait, one after the other
            assert list(waiting) == [503] * 2 * THREADS
        assert service.ask("PUT", "/v1/items", "items", json=item).status_code == 200


def test_a_disk_that_is_away_does_not_end_the_looking(
    folder: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(other, bundle_sha256(other), vectors_folder(folder, bundle_sha256(other)))

    def stale(target: Path) -> Path:
        raise OSError(116, "Stale file handle")

    with running(folder, tmp_path) as service:
        holder = service.service.holder
        with monkeypatch.context() as patch:
            patch.setattr(bundle_holder, "bundle_folder", stale)
            until(lambda: "Stale file handle" in holder.refused)
            assert service.ask("GET", "/v1/items").status_code == 200
        replace_bundle(folder, other)
        until(lambda: holder.current.sha256 == bundle_sha256(other))
        assert holder.refused == ""
