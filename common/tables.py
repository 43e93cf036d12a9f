"""Delimited text files with errors that name file and line.

It knows nothing of users and items; the importers say which column means what.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hushrec.common.errors import DataError
from hushrec.common.interactions import TimeUnit

_MISSING = {"", "nan", "none", "null", "n/a", "<na>"}
_LARGEST = 2.0**63  # nanoseconds until 2262
# Largest value read as seconds: 1e11 s is the year 5138, 1e11 ms is 1973.
_SECONDS_END = 1e11


@dataclass(frozen=True, eq=False)
class Table:
    """One file, every column as text.

    Attributes:
        columns: name -> (distinct cell texts, int (rows,) positions in them).
        quoted: cells may be quoted and hold line ends, as in CSV.
        text: the whole file; empty for Parquet.
    """

    path: Path
    columns: dict[str, tuple[tuple[str, ...], NDArray[np.intp]]]
    rows: int
    has_header: bool
    quoted: bool
    text: str
    separator: str

    def __len__(self) -> int:
        return self.rows

    def place(self, row: int) -> str:
        """Return "file, line N" of a row (0 = first data row); "file, row N" where the file has no lines."""
        return f"{self.path}, line {_line_of(self, row)}" if self.text else f"{self.path}, row {row + 1}"

    def cells(self, name: str) -> list[str]:
        """Return a column as plain strings, outer white space removed."""
        values, codes = self.columns[name]
        stripped = [value.strip() for value in values]
        return [stripped[code] for code in codes.tolist()]

    def require(self, names: Sequence[str], remedy: str) -> None:
        """Raise DataError if a column is not there."""
        for name in names:
            if name not in self.columns:
                found = ", ".join(self.columns)
                where = f"{self.path}, line 1" if self.text else str(self.path)
                raise DataError(f"{where}: expected a column {name!r}, got {found}; {remedy}")

    def ids(self, name: str) -> tuple[tuple[str, ...], NDArray[np.intp]]:
        """Return distinct ids, sorted, and the position of each row's id.

        Raises:
            DataError: an id is empty or a word for "missing", such as NaN.
        """
        values, codes = self.columns[name]
        stripped = np.array([value.strip() for value in values], dtype=object)
        missing = np.array([value.lower() in _MISSING for value in stripped], dtype=np.bool_)[codes]
        if missing.any():
            row = int(np.argmax(missing))
            cell = stripped[codes[row]]
            raise DataError(
                f"{self.place(row)}: expected an id in column {name!r}, got {cell!r}; fill it in or remove the row"
            )
        distinct, inverse = np.unique(stripped, return_inverse=True)
        return tuple(distinct.tolist()), inverse.astype(np.intp)[codes]

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column as float64 (rows,), finite and below 2**63.

        Raises:
            DataError: a cell is empty, no number, NaN, infinite or too large.
        """
        values, codes = self.columns[name]
        parsed = np.array([_number(value) for value in values], dtype=np.float64)
        bad = ~(np.abs(parsed) < _LARGEST)[codes]
        if bad.any():
            row = int(np.argmax(bad))
            cell = values[codes[row]]
            raise DataError(
                f"{self.place(row)}: expected a finite number in column {name!r}, got {cell!r}; "
                "correct the cell or remove the row"
            )
        result: NDArray[np.float64] = parsed[codes]
        return result

    def times(self, name: str, *, allow_dates: bool = False) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Return times as int64 seconds since 1970 UTC, and a note if they were converted.

        Milli-, micro- and nanoseconds are recognised by size and converted; a mix of units is an error.

        Args:
            allow_dates: accept ISO 8601 dates ("2024-05-01 12:30:00"; UTC unless they say otherwise) as well.
        Raises:
            DataError: no number, not finite, negative, or two units in one column.
        """
        values, codes = self.columns[name]
        first = values[codes[0]]
        if allow_dates and not np.isfinite(_number(first)) and _is_date(first):
            return self._dates(name), (f"times in column {name!r} were read as ISO 8601 dates, UTC",)
        seconds = self.numbers(name)
        if len(seconds) and seconds.min() < 0:
            row = int(np.argmin(seconds))
            raise DataError(
                f"{self.place(row)}: expected a time in seconds since 1970 in column {name!r}, got {seconds[row]:g}; "
                "correct the cell or remove the row"
            )
        powers = np.where(seconds > 0, np.floor(np.log10(np.maximum(seconds, 1) / _SECONDS_END) / 3) + 1, 0)
        powers = np.clip(powers, 0, 3).astype(np.int64)
        timed = seconds > 0
        if not timed.any() or not powers.any():
            return np.floor(seconds).astype(np.int64), ()
        power = int(powers.max())
        odd = timed & (powers != power)
        if odd.any():
            row = int(np.argmax(odd))
            raise DataError(
                f"{self.place(row)}: column {name!r} mixes units: {seconds[row]:.0f} here, {seconds.max():.0f} "
                "elsewhere; give all times in seconds since 1970"
            )
        unit = ("seconds", "milliseconds", "microseconds", "nanoseconds")[power]
        note = f"times in column {name!r} were in {unit} and are kept in whole seconds"
        return np.floor(seconds / 1000.0**power).astype(np.int64), (note,)

    def _dates(self, name: str) -> NDArray[np.int64]:
        values, codes = self.columns[name]
        parsed = pd.to_datetime(pd.Series(list(values), dtype=object), format="ISO8601", utc=True, errors="coerce")
        bad = parsed.isna().to_numpy()[codes]
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(
                f"{self.place(row)}: expected an ISO 8601 date in column {name!r} as in the first row, "
                f"got {values[codes[row]]!r}; correct the cell or remove the row"
            )
        seconds = parsed.dt.tz_localize(None).to_numpy().astype("datetime64[s]").astype(np.int64)
        result: NDArray[np.int64] = seconds[codes]
        return result


def positions(table: Table, name: str) -> tuple[NDArray[np.int64], TimeUnit]:
    """Read an order column such as RecBole's `seq_order`: whole numbers that count, not clock times."""
    return np.floor(table.numbers(name)).astype(np.int64), "position"


def read_table(
    path: Path,
    *,
    separator: str,
    names: Sequence[str] | None = None,
    quoted: bool = False,
    encoding: str = "utf-8",
    separator_in_file: str = "",
) -> Table:
    """Read a delimited text file, every cell as text.

    Args:
        separator: one character.
        names: column names of a file without a header; None = the first line names them.
        quoted: double quotes protect separators and line ends.
        separator_in_file: a longer separator, such as "::", to be replaced by `separator` first.
    Raises:
        DataError: missing, unreadable, empty, header only, not text in `encoding`, or a line with another number
            of cells.
    """
    text = _read_text(path, encoding)
    if separator_in_file:
        text = text.replace(separator_in_file, separator)
    if not text.strip():
        raise DataError(f"{path}: the file is empty; export it again")
    if names is None:
        header = next(csv.reader(io.StringIO(text), delimiter=separator))
        if len(set(header)) != len(header):
            raise DataError(f"{path}, line 1: expected each column once, got {', '.join(header)}; remove one")
    frame = _parse(path, text, separator, names, quoted)
    blank = np.ones(len(frame), dtype=np.bool_)
    for column in frame.columns:
        codes = frame[column].cat.codes.to_numpy()
        empty = [code for code, value in enumerate(frame[column].cat.categories) if value == ""]
        blank &= np.isin(codes, empty)
    used = len(blank) - int(np.argmax(~blank[::-1])) if not blank.all() else 0
    if not used:
        raise DataError(f"{path}: there is a header but no row below it; export it again")
    columns = {
        str(column).strip(): (
            tuple(map(str, frame[column].cat.categories)),
            frame[column].cat.codes.to_numpy()[:used].astype(np.intp),
        )
        for column in frame.columns
    }
    table = Table(path, columns, used, names is None, quoted, text, separator)
    _check_cells(table)
    return table


def read_parquet(path: Path) -> Table:
    """Read a Parquet file as a table of text; numbers keep their value, a missing cell reads "nan", "None" or "<NA>".

    Raises:
        DataError: missing, unreadable, without a row or a column; or no Parquet engine is installed.
    """
    try:
        frame = pd.read_parquet(path)
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs an engine; pip install pyarrow, or export CSV") from None
    except OSError as error:
        raise DataError(f"{path}: {(error.strerror or 'cannot be read').lower()}; check the path") from None
    except Exception:  # each engine has errors of its own for a damaged file
        raise DataError(f"{path}: not a Parquet file that can be read; export it again") from None
    if frame.empty:
        raise DataError(f"{path}: the table has no row; export it again")
    columns = {}
    for name in frame.columns:
        codes, values = pd.factorize(frame[name].astype(str).to_numpy(dtype=object), use_na_sentinel=False)
        columns[str(name).strip()] = (tuple(map(str, values)), codes.astype(np.intp))
    return Table(path, columns, len(frame), has_header=False, quoted=False, text="", separator="")


def _parse(path: Path, text: str, separator: str, names: Sequence[str] | None, quoted: bool) -> pd.DataFrame:
    """Let pandas cut the text into categorical columns; its errors become DataError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(
                io.StringIO(text),
                sep=separator,
                header=0 if names is None else None,
                names=None if names is None else list(names),
                dtype="category",
                na_filter=False,
                skip_blank_lines=False,
                index_col=False,
                quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            )
    except (pd.errors.ParserError, pd.errors.ParserWarning):
        where = _first_ragged(text, separator, quoted) or ": a quoted cell is never closed; correct the file"
        raise DataError(f"{path}{where}") from None


def _read_text(path: Path, encoding: str) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {(error.strerror or 'cannot be read').lower()}; check the folder") from None
    try:
        text = raw.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not {encoding} text; save the file as UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{path}, line {line}: a zero byte, so this is no UTF-8 text; save the file as UTF-8")
    return text


def _check_cells(table: Table) -> None:
    """Refuse lines with too few cells, which pandas fills up without a word."""
    if table.quoted:
        values, _ = list(table.columns.values())[-1]
        where = _first_ragged(table.text, table.separator, True) if "" in values else ""
        if where:
            raise DataError(f"{table.path}{where}")
        return
    body = table.text.rstrip("\r\n")
    lines = table.rows + int(table.has_header)
    if body.count(table.separator) != lines * (len(table.columns) - 1):
        where = _first_ragged(table.text, table.separator, False)
        if where:
            raise DataError(f"{table.path}{where}")


def _first_ragged(text: str, separator: str, quoted: bool) -> str:
    """Describe the first line whose number of cells differs from the first line's."""
    lines = io.StringIO(text.rstrip("\r\n"), newline="")
    reader = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
    width = 0
    try:
        for cells in reader:
            width = width or len(cells)
            if len(cells) != width and cells:
                return (
                    f", line {reader.line_num}: expected {width} cells, got {len(cells)}; "
                    f"correct the line (separator {separator!r})"
                )
    except csv.Error as error:
        return f", line {reader.line_num}: {error}; correct the line"
    return ""


def _line_of(table: Table, row: int) -> int:
    if not table.quoted:
        return row + 1 + int(table.has_header)
    reader = csv.reader(io.StringIO(table.text, newline=""), delimiter=table.separator)
    start = 1
    for number, _ in enumerate(reader):
        if number == row + int(table.has_header):
            return start
        start = reader.line_num + 1
    return start


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _is_date(cell: str) -> bool:
    return not pd.isna(pd.to_datetime(pd.Series([cell]), format="ISO8601", utc=True, errors="coerce").iloc[0])
