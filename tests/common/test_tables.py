"""Tests of common/tables.py."""

from pathlib import Path

import numpy as np
import pytest

from hushrec.common.errors import DataError
from hushrec.common.tables import Table, read_table


def tsv(folder: Path, text: str | bytes) -> Table:
    path = folder / "log.tsv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(path, separator="\t")


def csv_file(folder: Path, text: str) -> Table:
    path = folder / "log.csv"
    path.write_text(text, encoding="utf-8")
    return read_table(path, separator=",", quoted=True)


def test_cells_are_read_as_text(tmp_path: Path) -> None:
    table = tsv(tmp_path, '\ufeffid\ttitle\n007\t"Alien" NA\r\n 7\tNULL\n\n\n')
    assert len(table) == 2
    assert table.cells("title") == ['"Alien" NA', "NULL"]
    ids, codes = table.ids("id")
    assert [ids[code] for code in codes] == ["007", "7"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "log.tsv: the file is empty"),
        (b"  \n", "log.tsv: the file is empty"),
        (b"a\tb\n", "header but no row"),
        (b"a\tb\n\n\n", "header but no row"),
        (b"a\tb\n1\t2\n\xff\t3\n", "log.tsv, line 3: not utf-8 text; save the file as UTF-8"),
        ("a\tb\n1\t2\n".encode("utf-16"), "line 1: not utf-8 text"),
        (b"a\tb\n1\t\x002\n", "log.tsv, line 2: a zero byte"),
        (b"a\tb\n1\t2\n1\t2\t3\n", "log.tsv, line 3: expected 2 cells, got 3"),
        (b"a\tb\n1\t2\t3\n1\t2\n", "log.tsv, line 2: expected 2 cells, got 3"),
        (b"a\tb\n1\t2\n1\n", "log.tsv, line 3: expected 2 cells, got 1"),
        (b"a\ta\n1\t2\n", "log.tsv, line 1: expected each column once"),
    ],
)
def test_broken_file_is_an_error_naming_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        tsv(tmp_path, content)


def test_missing_file_and_folder_as_file_are_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.tsv", tmp_path):
        with pytest.raises(DataError, match=r"check the folder"):
            read_table(path, separator="\t")


@pytest.mark.parametrize("cell", ["", "NaN", "null", "None", " "])
def test_missing_id_is_an_error_naming_the_line(tmp_path: Path, cell: str) -> None:
    with pytest.raises(DataError, match=r"line 3: expected an id in column 'id'"):
        tsv(tmp_path, f"id\tx\n1\t1\n{cell}\t1\n").ids("id")


@pytest.mark.parametrize("cell", ["", "nan", "inf", "-inf", "five", "1e300"])
def test_cell_that_is_no_finite_number_is_an_error_naming_the_line(tmp_path: Path, cell: str) -> None:
    table = tsv(tmp_path, f"id\tx\n1\t1\n2\t{cell}\n")
    for read in (table.numbers, table.times):
        with pytest.raises(DataError, match=r"log.tsv, line 3: expected a finite number in column 'x'"):
            read("x")


@pytest.mark.parametrize(("factor", "unit"), [(10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")])
def test_finer_times_are_converted_and_reported(tmp_path: Path, factor: int, unit: str) -> None:
    table = tsv(tmp_path, f"t\n{1_500_000_000 * factor}\n{1_500_000_007 * factor}\n")
    times, notes = table.times("t")
    assert times.tolist() == [1_500_000_000, 1_500_000_007]
    assert times.dtype == np.int64
    assert unit in notes[0]


def test_mixed_units_and_negative_times_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: column 't' mixes units"):
        tsv(tmp_path, "t\n1500000000\n1500000000000\n").times("t")
    with pytest.raises(DataError, match=r"line 3: expected a time in seconds since 1970"):
        tsv(tmp_path, "t\n1500000000\n-5\n").times("t")


def test_small_and_zero_times_stay(tmp_path: Path) -> None:
    assert tsv(tmp_path, "t\n0\n5\n1500000000.9\n").times("t")[0].tolist() == [0, 5, 1_500_000_000]
    assert tsv(tmp_path, "t\n0\n0\n").times("t")[0].tolist() == [0, 0]


def test_iso_dates_are_read_where_allowed(tmp_path: Path) -> None:
    table = csv_file(tmp_path, "t\n2024-05-01\n2024-05-01 00:00:09\n2024-05-01T02:00:00+02:00\n")
    assert (table.times("t", allow_dates=True)[0] - 1_714_521_600).tolist() == [0, 9, 0]
    with pytest.raises(DataError, match=r"line 3: expected an ISO 8601 date"):
        csv_file(tmp_path, "t\n2024-05-01\nyesterday\n").times("t", allow_dates=True)
    with pytest.raises(DataError, match=r"line 2: expected a finite number"):
        csv_file(tmp_path, "t\n2024-05-01\n").times("t")


def test_line_is_right_after_a_quoted_line_end(tmp_path: Path) -> None:
    table = csv_file(tmp_path, 'id,text\n1,"two\nlines, one cell"\n,x\n')
    assert table.cells("text")[0] == "two\nlines, one cell"
    with pytest.raises(DataError, match=r"line 4: expected an id"):
        table.ids("id")


def test_quoted_file_with_wrong_cells_is_an_error(tmp_path: Path) -> None:
    for text, line in (("a,b\n1,2\n1,2,3\n", 3), ("a,b\n1\n", 2)):
        with pytest.raises(DataError, match=f"line {line}: expected 2 cells"):
            csv_file(tmp_path, text)
    with pytest.raises(DataError, match=r"never closed"):
        csv_file(tmp_path, 'a,b\n1,"open\n')


def test_missing_column_is_an_error_that_lists_the_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1: expected a column 'c', got a, b; do this"):
        tsv(tmp_path, "a\tb\n1\t2\n").require(("a", "c"), "do this")
