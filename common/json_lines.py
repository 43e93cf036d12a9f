"""Files of one JSON object per line, plain or gzip, with errors that name file and line.

It knows no field; the importers say what an object holds.
"""

from __future__ import annotations

import ast
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hushrec.common.errors import DataError

_SHOWN = 40  # characters of a bad line in an error


def read_json_lines(path: Path, *, literals: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers, from 1, and objects; empty lines are skipped. Read as it is asked for, so files may be large.

    Args:
        literals: also accept Python literals ({'a': 1}), as which Amazon metadata of 2014 were published.
    Raises:
        DataError: missing, damaged or cut off, not UTF-8, or a line that is no JSON object.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, _object(path, number, line, literals)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}, after line {number}: damaged or cut off ({error}); fetch it again") from None
    except OSError as error:
        raise DataError(f"{path}: {(error.strerror or 'cannot be read').lower()}; check the folder") from None


def _object(path: Path, number: int, line: bytes, literals: bool) -> dict[str, Any]:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {number}: not UTF-8 text at byte {error.start}; save it as UTF-8") from None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # ValueError also for numbers of thousands of digits
        found = _literal(text) if literals else None
    if not isinstance(found, dict):
        shown = text[:_SHOWN] + ("..." if len(text) > _SHOWN else "")
        raise DataError(f"{path}, line {number}: expected a JSON object, got {shown!r}; correct or remove the line")
    return found


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None
