"""The frame of the page, the devices, and all of it before the real service, in Chromium."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.browser import Open, button, see, titles, two_runs
from support.page_server import INJECTED, Canned, audit, run
from support.serving import running


def test_names_of_runs_devices_and_checks_stay_text_too(open_page: Open) -> None:
    bad = run(INJECTED) | {"audit": audit()}
    bad["audit"]["checks"][0]["measured"] = bad["results"]["privacy"]["trust"] = INJECTED
    federation = {"name": INJECTED, "nodes": {INJECTED: INJECTED}, "refused": {INJECTED: 1}}
    page = open_page(Canned(runs={INJECTED: bad}, federations=[federation]), "#privacy")
    see(page.locator("dl")).to_contain_text(INJECTED)
    see(page.get_by_role("region", name="Every check")).to_contain_text(INJECTED)
    page.get_by_role("link", name="Devices").click()
    see(page.get_by_role("region", name="Refusals")).to_contain_text(INJECTED)
    page.get_by_role("link", name="Runs").click()
    page.get_by_role("link", name=INJECTED).click()
    see(page.locator("#runs h1")).to_have_text(INJECTED)
    see(page.get_by_role("region", name="Figures of every system")).to_be_visible()
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script").count() == 0


def test_devices_and_their_refusals_are_listed(open_page: Open) -> None:
    nodes = {"phone-1": "online", "phone-2": "offline", "phone-3": "revoked"}
    federation = {"name": "shop", "nodes": nodes, "refused": {"NOT_NOW": 12}, "round": 4, "rounds": 20}
    page = open_page(Canned(federations=[federation | {"last_round": {"epsilon": 3.2}}]), "#devices")
    see(page.locator(".tile").first).to_contain_text("1 of 2")
    see(page.get_by_role("region", name="All devices")).to_contain_text("revoked")
    see(page.get_by_role("region", name="Refusals")).to_contain_text("12")
    assert "ε" not in page.locator("#devices").inner_text()  # nobody told of which unit


def test_what_devices_spent_is_told_with_its_unit(open_page: Open) -> None:
    federation = {"name": "shop", "nodes": {}, "round": 4, "rounds": 20, "last_round": {"epsilon": 3.2}}
    page = open_page(Canned(federations=[federation | {"unit": "record", "budget": 8.0}]), "#devices")
    see(page.locator(".tile", has_text="ε = 3.20 of 8.00")).to_contain_text("per record, of the device that spent most")


@pytest.mark.parametrize(
    ("place", "words"), [("#runs", "--runs FOLDER"), ("#devices", "--federations FOLDER"), ("#try", "Any of these")]
)
def test_where_nothing_is_the_page_says_what_to_do(open_page: Open, place: str, words: str) -> None:
    page = open_page(Canned(federations=[]), place)
    see(page.locator("main")).to_contain_text(words)


def test_a_token_is_asked_for_and_kept_in_the_tab(open_page: Open) -> None:
    page = open_page(Canned(token="secret", runs=two_runs()), "#runs")
    see(page.get_by_label("Token", exact=True)).to_be_focused()
    page.get_by_label("Token", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    see(page.locator("#token-told")).to_contain_text("was refused")
    page.get_by_label("Token", exact=True).fill("secret")
    page.keyboard.press("Enter")
    see(page.get_by_role("region", name="All runs")).to_contain_text("second")
    assert page.evaluate("[Object.values(sessionStorage), localStorage.length]") == [["secret"], 0]
    button(page, "Forget token").click()
    see(page.get_by_label("Token", exact=True)).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0
    told = open_page.problems
    assert all("401" in one for one in told)
    told.clear()  # Chromium tells of every 401 by itself


def test_views_are_reached_by_keyboard_and_say_where_the_reader_is(open_page: Open) -> None:
    page = open_page(Canned(runs=two_runs(), federations=[]))
    page.keyboard.press("Tab")
    see(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    for name in ("Runs", "Privacy", "Devices"):
        page.get_by_role("link", name=name, exact=True).focus()
        page.keyboard.press("Enter")
        see(page.get_by_role("link", name=name, exact=True)).to_have_attribute("aria-current", "page")
        see(page.locator(f"#{name.lower()}-title")).to_be_focused()
        see(page).to_have_title(f"{name} · hushrec")


def test_the_real_service_serves_the_page_and_answers_it(browser: Any, folder: Path, tmp_path: Path) -> None:
    finished = run("trained")
    kept = tmp_path / "runs" / "trained"
    kept.mkdir(parents=True)
    (kept / "results.json").write_text(json.dumps(finished["results"]))
    (kept / "rounds.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in finished["rounds"]))
    context = browser.new_context(viewport={"width": 390, "height": 900})
    problems: list[str] = []
    with running(folder, tmp_path, runs=str(tmp_path / "runs")) as service:
        page = context.new_page()
        page.on("console", lambda told: problems.append(told.text) if not re.search("40[13]", told.text) else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"http://127.0.0.1:{service.port}/")
        button(page, "Recommend").click()
        page.get_by_label("Token", exact=True).fill(service.tokens["read"])
        page.keyboard.press("Enter")
        see(page.locator(".results > li")).to_have_count(10)
        first = titles(page)[0]
        page.get_by_label("Items you liked").fill(re.sub(r" \(\d{4}\)$", "", first))
        see(page.get_by_role("combobox", name="Items you liked")).to_have_attribute("aria-expanded", "true")
        page.get_by_label("Items you liked").press("Enter")
        see(page.locator(".results")).to_contain_text("because of")
        assert first not in titles(page)
        page.get_by_label("A new interest, in words").fill("alien planets")
        button(page, "Add to likes").click()
        see(page.locator(".results")).to_contain_text("your interest in alien planets")
        page.get_by_role("link", name="What that means").click()
        see(page.locator("#privacy .panel")).to_contain_text("per record (not per user)")
        page.get_by_role("link", name="Runs").click()  # which a token of scope read may not see
        see(page.get_by_role("alert").filter(has_text="Here this token lacks the scope 'admin'.")).to_be_visible()
        page.get_by_label("Token", exact=True).fill(service.tokens["admin"])
        page.keyboard.press("Enter")
        page.get_by_role("link", name="trained").click()
        see(page.get_by_role("region", name="Figures of every system")).to_contain_text("hushrec")
        context.close()
    assert problems == []
