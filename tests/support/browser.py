"""What a test does to a page in Chromium; where Playwright is missing, tests that import this are skipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.page_server import run

api = pytest.importorskip("playwright.sync_api", reason='needs: pip install "hushrec[page-test]"')
Open = Callable[..., Any]
see: Any = api.expect
see.set_options(timeout=20_000)  # milliseconds: a busy machine is slow, not wrong


def button(page: Any, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def titles(page: Any) -> list[str]:
    return [str(text) for text in page.locator(".results h3").all_inner_texts()]


def two_runs() -> dict[str, Any]:
    """Two with a claim and one without, by name."""
    found = [run("first", level=0.05), run("second", level=0.08, epsilon=3.5), run("open", unit=None, epsilon=None)]
    return {one["name"]: one for one in found}
