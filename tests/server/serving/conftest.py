"""One tiny bundle, one service of it that tests share where they change nothing, and a browser for the page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.page_server import Canned, page_server
from support.serving import Running, make_bundle, running

from hushrec.common.bundle import Bundle
from hushrec.common.config import RunConfig


@pytest.fixture(scope="session")
def config(tiny: Callable[..., RunConfig]) -> RunConfig:
    return tiny(model__head_core="full")


@pytest.fixture(scope="session")
def made(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    folder = tmp_path_factory.mktemp("made") / "bundle"
    return make_bundle(folder, config), folder


@pytest.fixture
def folder(made: tuple[Bundle, Path], tmp_path: Path) -> Path:
    """A copy of the bundle that a test may change."""
    return Path(shutil.copytree(made[1], tmp_path / "bundle"))


@pytest.fixture(scope="session")
def shared(made: tuple[Bundle, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(made[1], tmp_path_factory.mktemp("shared")) as service:
        yield service


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; the test is skipped where it or Playwright is missing."""
    api = pytest.importorskip("playwright.sync_api", reason='needs: pip install "hushrec[page-test]"')
    found = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
    )
    if not found:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    as_root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=as_root)
        yield started
        started.close()


@pytest.fixture(params=[1280, 390], ids=lambda width: f"{width}px")
def open_page(request: pytest.FixtureRequest, browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a canned page at a place; no console error and no scrolling to the side, whatever the test did."""
    context = browser.new_context(viewport={"width": request.param, "height": 900})
    page, servers, problems = context.new_page(), [], list[str]()
    page.set_default_timeout(20_000)
    page.on("console", lambda told: problems.append(told.text) if told.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))

    def opened(canned: Canned, place: str = "") -> Any:
        servers.append(page_server(canned))
        page.goto(f"{servers[-1].__enter__()}/{place}")
        return page

    opened.problems = problems  # type: ignore[attr-defined]
    yield opened
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    context.close()
    for server in servers:
        server.__exit__(None, None, None)
    assert problems == []
    assert wide <= 0
