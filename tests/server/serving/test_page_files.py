"""The files of the page as they are: nothing inline, nothing from elsewhere, and colours that can be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.page_server import PAGE

FILES = sorted(path for path in PAGE.iterdir() if path.is_file())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
STYLE = (PAGE / "page.css").read_text(encoding="utf-8")
SINKS = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|\.cssText|DOMParser"
TEXTS = [("ink", "paper"), ("ink", "panel"), ("soft", "paper"), ("soft", "panel"), ("main", "paper"), ("main", "panel")]
TEXTS += [("main", "tint"), ("ink", "tint"), ("soft", "tint"), ("on-main", "main"), ("ink", "bad-tint")]
TEXTS += [("good", "paper"), ("bad", "paper"), ("bad", "panel"), ("s0", "tint"), ("s1", "paper")]
DRAWN = [(f"s{place}", "paper") for place in range(6)] + [("edge", "paper"), ("edge", "panel"), ("main", "paper")]


def colours(scheme: str) -> dict[str, str]:
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", STYLE, re.S)
    )
    return light if scheme == "light" else light | dark


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_and_every_line_can_be_read_by_wcag_aa(scheme: str) -> None:
    known = colours(scheme)
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert {pair: c for pair in TEXTS if (c := contrast(known[pair[0]], known[pair[1]])) < 4.5} == {}
    assert {pair: c for pair in DRAWN if (c := contrast(known[pair[0]], known[pair[1]])) < 3} == {}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_comes_from_elsewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", text) == []


def test_the_document_has_no_inline_script_or_style() -> None:
    text = (PAGE / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:|<script(?![^>]*\ssrc=)", text) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_makes_markup_from_a_string(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.findall(SINKS, text) == []
    assert not re.search(r"\bstyle:|setAttribute\(.style", text)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_module_that_is_imported_is_there(path: Path) -> None:
    found = re.findall(r'from "\./([\w.]+)"', path.read_text(encoding="utf-8"))
    assert {name for name in found if not (PAGE / name).is_file()} == set()
