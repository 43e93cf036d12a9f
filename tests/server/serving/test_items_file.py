"""Items put at run time are kept in a file: by all workers, over swaps and restarts, and never half."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.serving import Running, make_bundle, replace_bundle, running
from support.serving_process import until

from hushrec.common.catalog import ItemRow
from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError, DataError
from hushrec.server.serving import items_file
from hushrec.server.serving.items_file import ItemsFile
from hushrec.server.serving.service import ServeSettings

NEW: dict[str, Any] = {"item_id": "new-1", "title": "Robots and Roses", "year": 2024, "genres": []}
OTHER: dict[str, Any] = {"item_id": "new-2", "title": "Müller & Töchter", "year": None, "genres": ["Drama"]}


def found(service: Running, text: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = service.ask("GET", "/v1/items", params={"search": text}).json()["items"]
    return items


def test_items_survive_a_restart_and_a_swap(folder: Path, config: RunConfig, tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    with running(folder, tmp_path, items=str(file)) as service:
        for item, counts in ((NEW, (1, 0)), (OTHER, (1, 0)), (OTHER | {"year": 1999}, (0, 1))):
            answer = service.ask("PUT", "/v1/items", "items", json={"items": [item]}).json()
            assert (answer["added"], answer["changed"]) == counts
    assert [json.loads(line) for line in file.read_text().splitlines()] == [NEW, OTHER | {"year": 1999}]
    make_bundle(tmp_path / "other", config, seed=6)
    with running(folder, tmp_path / "again", items=str(file)) as service:
        assert found(service, "robots and") == [NEW]
        assert found(service, "müller") == [OTHER | {"year": 1999}]
        replace_bundle(folder, tmp_path / "other")
        until(lambda: service.service.holder.current.experiment == "tiny-6")
        assert found(service, "robots and") == [NEW]
        assert service.recommend(history=["new-1"], n=3)["note"] == ""


def test_what_another_wrote_is_taken_and_what_is_damaged_is_not(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    with running(folder, tmp_path, items=str(file)) as service:
        ItemsFile(file).add([ItemRow("new-1", "Robots and Roses", "2024")])
        until(lambda: found(service, "robots and") == [NEW])
        items = service.ask("GET", "/readyz", "").json()["items"]
        whole = file.read_bytes()
        file.write_bytes(whole + b'{"item_id": "half')
        until(lambda: "items refused" in service.log.getvalue())
        assert found(service, "robots and") == [NEW]
        refused = service.ask("PUT", "/v1/items", "items", json={"items": [OTHER]})
        assert refused.status_code == 422
        assert "line 2" in refused.json()["error"]
        assert found(service, "müller") == []
        file.write_bytes(b"")
        until(lambda: found(service, "robots and") == [])
        assert service.ask("GET", "/readyz", "").json()["items"] == items - 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "line 1: expected a JSON object"),
        (b"\xff", "line 1: not UTF-8"),
        (b'{"item_id": "a", "title": "A"}\n{"item_id": "b"}', "line 2: title: Field required"),
        (b'{"item_id": "a", "title": "A", "price": 1}', "line 1: price: Extra inputs"),
        (b'{"item_id": "a", "title": "A", "year": 3}', "line 1: year: "),
    ],
)
def test_a_damaged_file_is_one_sentence_at_the_start(content: bytes, says: str, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_bytes(content)
    with pytest.raises(DataError) as error, running(folder, tmp_path, items=str(file)):
        pass
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_more_items_than_the_limit_are_refused_and_the_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items_file, "MOST_ITEMS", 3)
    file = ItemsFile(tmp_path / "items.jsonl")
    file.add([ItemRow(str(number), "A title") for number in range(3)])
    before = (tmp_path / "items.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="at most 3 items"):
        file.add([ItemRow("3", "A title")])
    assert (tmp_path / "items.jsonl").read_bytes() == before


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: ItemsFile(tmp_path / "i").add([ItemRow(str(n), f"Title {n}")]), range(40)))
    assert ItemsFile(tmp_path / "i").read().keys() == {str(number) for number in range(40)}


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--items: cannot write to the folder"):
        ServeSettings(target="", open=True, items=str(tmp_path / "none" / "items.jsonl")).check()


def test_several_workers_without_a_file_refuse_and_name_the_option(folder: Path, tmp_path: Path) -> None:
    with running(folder, tmp_path, workers=2) as service:
        refused = service.ask("PUT", "/v1/items", "items", json={"items": [NEW]})
        assert refused.status_code == 409
        assert "--items FILE" in refused.json()["error"]
