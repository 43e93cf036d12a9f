"""The service's log: one JSON object a line on standard error, and nothing of a request in it.

A line has a route's template, a status, a time and the token's name; of an exception, type and place, never its text.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

LOGGER = logging.getLogger("hushrec.serving")


class JsonLines(logging.Formatter):
    """Formats records as JSON; of an exception the type and the last place in hushrec alone."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
        }
        if record.name == LOGGER.name:
            line |= {"event": record.msg, **getattr(record, "facts", {})}
        else:  # a library's: its first words are its own, its arguments might be a request's
            line |= {"event": "library", "logger": record.name, "words": str(record.msg)[:200]}
        if record.exc_info and record.exc_info[1] is not None:
            line |= exception_facts(record.exc_info[1])
        return json.dumps(line, ensure_ascii=True)


def exception_facts(error: BaseException) -> dict[str, str]:
    """Its type and where it was raised; its text may hold what a person typed."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
    return {"exception": type(error).__name__, "place": place}


def log(event: str, facts: dict[str, Any] | None = None, level: int = logging.INFO) -> None:
    """Write one line."""
    LOGGER.log(level, event, extra={"facts": facts or {}})


def configure_logging() -> None:
    """Send this process's log, and that of uvicorn, to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    LOGGER.setLevel(logging.INFO)
    logging.getLogger("uvicorn.access").disabled = True
