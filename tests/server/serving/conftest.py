"""One tiny bundle, one service of it that tests share where they change nothing, and a browser for the page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
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


@dataclass
class PageOpener:
    """Called with what the service is to answer, opens the page at a place.

    Attributes:
        problems: what the page's console said of errors and warnings.
    """

    page: Any
    servers: ExitStack
    problems: list[str] = field(default_factory=list)

    def __call__(self, canned: Canned, place: str = "") -> Any:
        self.page.goto(f"{self.servers.enter_context(page_server(canned))}/{place}")
        return self.page

    def hear(self, told: Any) -> None:
        """One line of the console."""
        if told.type in ("error", "warning"):
            self.problems.append(told.text)


@pytest.fixture(params=[1280, 390], ids=lambda width: f"{width}px")
def open_page(request: pytest.FixtureRequest, browser: Any) -> Iterator[PageOpener]:
    """Opens a canned page at a place; no console error and no scrolling to the side, whatever the test did."""
    context = browser.new_context(viewport={"width": request.param, "height": 900})
    page = context.new_page()
    page.set_default_timeout(20_000)
    with ExitStack() as servers:
        opener = PageOpener(page, servers)
        page.on("console", opener.hear)
        page.on("pageerror", lambda error: opener.problems.append(str(error)))
        yield opener
        wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        context.close()
    assert opener.problems == []
    assert wide <= 0
