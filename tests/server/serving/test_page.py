"""What a person does on the page, in Chromium at the width of a desk and of a phone; the answers are canned."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.page_server import INJECTED, Canned, audit, page_server, run
from support.serving import running

api = pytest.importorskip("playwright.sync_api", reason='needs: pip install "hushrec[page-test]"')
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
WIDTHS = [1280, 390]
Open = Callable[..., Any]
see: Any = api.expect
see.set_options(timeout=20_000)  # milliseconds: a busy machine is slow, not wrong


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    as_root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=as_root)
        yield started
        started.close()


@pytest.fixture(params=WIDTHS, ids=lambda width: f"{width}px")
def open_page(request: pytest.FixtureRequest, browser: Any) -> Iterator[Open]:
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


def button(page: Any, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def titles(page: Any) -> list[str]:
    return [str(text) for text in page.locator(".results h3").all_inner_texts()]


def two_runs() -> dict[str, Any]:
    found = [run("first", level=0.05), run("second", level=0.08, epsilon=3.5), run("open", unit=None, epsilon=None)]
    return {one["name"]: one for one in found}


def test_a_wish_is_answered_with_titles_years_genres_and_reasons(open_page: Open) -> None:
    canned = Canned()
    page = open_page(canned)
    page.get_by_label("A wish, in plain words").fill("a funny heist from the 90s")
    button(page, "Recommend").click()
    first = page.locator(".results > li").first
    see(first).to_contain_text("Heat (1995)")
    see(first).to_contain_text("Action · Crime · Thriller")
    see(first).to_contain_text("matches: a funny heist from the 90s")
    see(page.locator(".understood")).to_have_text("Understood: comedy, 1990 to 1999")
    see(page.locator(".answer")).to_contain_text("ε = 7.99 per record")
    see(first).to_be_in_viewport()
    assert canned.asked[0]["query"] == "a funny heist from the 90s"


def test_films_are_picked_and_taken_away_with_the_keyboard_alone(open_page: Open) -> None:
    canned = Canned()
    page = open_page(canned)
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "film":
            break
    page.keyboard.type("heat")
    field = page.get_by_role("combobox", name="Films you liked")
    see(field).to_have_attribute("aria-expanded", "true")
    see(field).to_have_attribute("aria-activedescendant", "film-0")
    page.keyboard.press("ArrowDown")
    see(page.get_by_role("option", name=re.compile("Heathers"))).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    see(field).to_have_attribute("aria-expanded", "false")
    see(field).to_be_focused()
    page.keyboard.type("far")
    see(field).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Enter")
    see(page.locator(".chips li")).to_have_count(2)
    page.keyboard.type("sting")
    see(field).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Escape")
    see(field).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("Tab")
    see(button(page, "Remove Heathers (1989)")).to_be_focused()
    page.keyboard.press("Enter")
    see(button(page, "Remove Fargo (1996)")).to_be_focused()
    for _ in range(3):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Recommend":
            page.keyboard.press("Enter")
    see(page.locator(".results > li").first).to_contain_text("because of Fargo")
    assert canned.asked[-1]["history"] == ["5"]


def test_the_dial_has_words_and_asks_again_when_it_moves(open_page: Open) -> None:
    canned = Canned()
    page = open_page(canned)
    see(page.locator("#dial-ends")).to_have_text(re.compile("familiar.*surprising", re.S))
    button(page, "Recommend").click()
    see(page.locator(".results > li").first).to_contain_text("Heat (1995)")
    dial = page.get_by_role("slider", name="Discovery")
    dial.focus()
    page.keyboard.press("End")
    see(dial).to_have_attribute("aria-valuetext", "1.00, surprising")
    see(page.locator(".results > li").first).to_contain_text("Delicatessen (1991)")
    see(dial).to_be_focused()
    assert [asked["discovery"] for asked in canned.asked] == [0, 1]


def test_interests_are_edited_deleted_and_kept_in_the_tab(open_page: Open) -> None:
    canned = Canned()
    page = open_page(canned)
    see(page.locator("fieldset")).to_contain_text("Kept in this browser tab only")
    page.get_by_label("A new interest, in words").fill("slow westerns")
    button(page, "Add to likes").click()
    page.get_by_label("A new interest, in words").fill("gore")
    button(page, "Add to dislikes").click()
    button(page, "Edit slow westerns").click()
    page.get_by_label("Change slow westerns").fill("space westerns")
    page.keyboard.press("Enter")
    see(button(page, "Edit space westerns")).to_be_focused()
    page.reload()
    button(page, "Recommend").click()
    see(page.locator(".results > li").first).to_contain_text("your interest in space westerns")
    assert canned.asked[-1]["interests"] == {"likes": ["space westerns"], "dislikes": ["gore"]}
    button(page, "Delete gore").click()
    page.wait_for_function("document.querySelectorAll('.interests li').length === 1")
    button(page, "Delete space westerns").click()
    see(page.locator(".results > li").first).to_contain_text("popular")
    assert canned.asked[-1]["interests"] == {"likes": [], "dislikes": []}
    assert page.evaluate("localStorage.length") == 0
    assert page.context.cookies() == []


def test_markup_and_script_in_titles_and_reasons_stay_text(open_page: Open) -> None:
    page = open_page(Canned())
    page.get_by_label("A wish, in plain words").fill(INJECTED)
    page.get_by_label("Films you liked").fill("onerror")
    see(page.locator("#film-list [role=option]")).to_have_count(1)
    page.get_by_label("Films you liked").press("Enter")
    page.get_by_label("A new interest, in words").fill(INJECTED)
    button(page, "Add to likes").click()
    button(page, "Recommend").click()
    see(page.locator(".results > li").first).to_contain_text(f"because of {INJECTED}")
    see(page.locator(".results > li").first).to_contain_text(f"matches: {INJECTED}")
    see(page.locator(".chips")).to_contain_text(INJECTED)
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script").count() == 0


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


def test_two_runs_are_compared_figure_by_figure(open_page: Open) -> None:
    page = open_page(Canned(runs=two_runs()), "#runs")
    page.get_by_label("Run", exact=True).select_option("first")
    page.get_by_label("against run").select_option("second")
    button(page, "Compare").click()
    row = page.get_by_role("region", name="Figures of both runs").get_by_role("row").filter(has_text="NDCG@10")
    see(row.first).to_contain_text("0.050")
    see(row.first).to_contain_text("[0.064, 0.096]")
    see(row.first).to_contain_text("+0.030")
    see(page.get_by_role("region", name="Settings that differ")).to_contain_text("server.learning-rate")
    see(page.get_by_role("img", name=re.compile("^Learning curve. first: .*; second: "))).to_be_visible()
    see(page.get_by_role("img", name=re.compile("^Popular and rare films"))).to_be_visible()
    page.get_by_label("System").select_option("ease")
    see(page.get_by_role("heading", name="Figures of ease")).to_be_visible()


def test_runs_of_different_data_are_not_to_be_compared(open_page: Open) -> None:
    runs = copy.deepcopy(two_runs())
    runs["second"]["results"]["dataset"]["name"] = "amazon"
    page = open_page(Canned(runs=runs), "#compare/first/second")
    see(page.get_by_role("alert")).to_contain_text("cannot be compared")


def test_the_frontier_never_draws_two_units_together(open_page: Open) -> None:
    per_user = run("per-user", unit="user", epsilon=2.0)
    page = open_page(Canned(runs={**two_runs(), "per-user": per_user}), "#runs")
    see(page.get_by_role("img", name=re.compile("^NDCG@10 by ε per record"))).to_be_visible()
    page.locator("#runs figure summary").click()
    data = page.get_by_role("region", name="Data of: NDCG@10 by ε per record")
    see(data).to_contain_text("second: ε = 3.50 per record")
    see(data).to_contain_text("without privacy (open)")
    see(data).not_to_contain_text("per-user")
    page.get_by_label("Data, protocol and unit").select_option(label="movielens-100k, protocol joint, ε per user")
    see(page.get_by_role("region", name="Data of: NDCG@10 by ε per user")).to_contain_text(
        "per-user: ε = 2.00 per user"
    )
    page.get_by_label("Figure").focus()
    page.get_by_label("Figure").select_option("cold_items/NDCG@20")
    see(page.get_by_role("img", name=re.compile("^cold items NDCG@20 by ε per user"))).to_be_visible()
    see(page.get_by_label("Figure")).to_be_focused()


def test_a_running_run_is_followed_until_it_is_done(open_page: Open) -> None:
    canned = Canned(runs={"long": run("long", done=7)})
    page = open_page(canned, "#run/long")
    see(page.get_by_role("heading", name="Running: round 7 of 20")).to_be_visible()
    see(page.locator(".live")).to_contain_text("2 × BUDGET_EXHAUSTED")
    page.locator("summary").first.click()
    canned.runs["long"] = run("long", done=9)
    see(page.get_by_role("heading", name="Running: round 9 of 20")).to_be_visible()
    assert page.locator("details").first.evaluate("one => one.open")
    canned.runs["long"] = run("long")
    see(page.get_by_role("region", name="Figures of every system")).to_contain_text("hushrec")
    see(page.locator(".live")).to_have_count(0)


def test_the_claim_card_says_unit_relation_and_what_is_not_covered(open_page: Open) -> None:
    page = open_page(Canned(runs={"first": run("first") | {"audit": audit()}}), "#privacy/first")
    card = page.locator(".panel", has_text="Claim card")
    see(card).to_contain_text("per record (not per user), at δ = 1e-5")
    see(card.locator("dl")).to_contain_text("record (not per user)")
    see(card).to_contain_text("add_remove: adding or removing one record")
    see(card).to_contain_text("the server, the other clients and everyone after them")
    see(card).to_contain_text("hyper-parameters chosen by looking at private data")
    see(card.locator(".tile", has_text="per user of at most 4 records")).to_contain_text("ε = 48.18")
    assert not re.search(r"7\.99\S* per user", card.inner_text())
    budgets = page.get_by_role("region", name="Budget of every client")
    see(budgets.get_by_role("row").nth(1)).to_contain_text("device-0")
    see(budgets.get_by_role("row").nth(1)).to_contain_text("7.990")
    see(budgets.get_by_role("row").nth(1)).to_contain_text("0.010")
    page.get_by_label("Find a client").fill("device-59")
    see(budgets.get_by_role("row")).to_have_count(2)
    see(page.get_by_role("region", name="Every check")).to_contain_text("7.99 of 8")
    see(page.get_by_role("region", name="The demo user's films")).to_contain_text("Fargo")


def test_a_run_without_privacy_says_so_and_shows_no_epsilon(open_page: Open) -> None:
    page = open_page(Canned(runs={"open": run("open", unit=None, epsilon=None)}), "#privacy/open")
    see(page.locator("#privacy .panel")).to_contain_text("NO PRIVACY: updates leave the clients in the clear")
    assert "ε" not in page.locator("#privacy .panel").inner_text()


def test_the_served_model_has_a_claim_of_its_own(open_page: Open) -> None:
    page = open_page(Canned(runs={"first": run("first")}), "#privacy")
    see(page.locator("dl")).to_contain_text("record (not per user)")
    page.get_by_label("What is promised by").select_option(index=0)
    see(page.locator("#privacy .panel")).to_contain_text("no claim is made")
    assert page.evaluate("location.hash") == "#served"


def test_devices_and_their_refusals_are_listed(open_page: Open) -> None:
    nodes = {"phone-1": "online", "phone-2": "offline", "phone-3": "revoked"}
    federation = {"name": "shop", "nodes": nodes, "refused": {"NOT_NOW": 12}, "round": 4, "rounds": 20}
    page = open_page(Canned(federations=[federation | {"last_round": {"epsilon": 3.2}}]), "#devices")
    see(page.locator(".tile").first).to_contain_text("1 of 2")
    see(page.get_by_role("region", name="All devices")).to_contain_text("revoked")
    see(page.get_by_role("region", name="Refusals")).to_contain_text("12")
    assert "ε" not in page.locator("#devices").inner_text()  # nobody told of which unit


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
    told = open_page.problems  # type: ignore[attr-defined]
    assert all("401" in one for one in told)
    told.clear()  # Chromium tells of every 401 by itself


def test_a_server_that_is_gone_is_named_and_can_be_asked_again(open_page: Open) -> None:
    page = open_page(Canned())
    page.route("**/v1/recommend", lambda route: route.abort())
    button(page, "Recommend").click()
    see(page.get_by_role("alert")).to_contain_text("The server does not answer.")
    page.unroute("**/v1/recommend")
    button(page, "Try again").click()
    see(page.locator(".results > li").first).to_contain_text("Heat (1995)")
    told = open_page.problems  # type: ignore[attr-defined]
    assert all("ERR_FAILED" in one for one in told)
    told.clear()


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
        page.on("console", lambda told: problems.append(told.text) if "401" not in told.text else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"http://127.0.0.1:{service.port}/")
        button(page, "Recommend").click()
        page.get_by_label("Token", exact=True).fill(service.tokens["read"])
        page.keyboard.press("Enter")
        see(page.locator(".results > li")).to_have_count(10)
        first = titles(page)[0]
        page.get_by_label("Films you liked").fill(re.sub(r" \(\d{4}\)$", "", first))
        see(page.get_by_role("combobox", name="Films you liked")).to_have_attribute("aria-expanded", "true")
        page.get_by_label("Films you liked").press("Enter")
        see(page.locator(".results")).to_contain_text("because of")
        assert first not in titles(page)
        page.get_by_label("A new interest, in words").fill("alien planets")
        button(page, "Add to likes").click()
        see(page.locator(".results")).to_contain_text("your interest in alien planets")
        page.get_by_role("link", name="What that means").click()
        see(page.locator("#privacy .panel")).to_contain_text("per record (not per user)")
        page.get_by_role("link", name="Runs").click()
        page.get_by_role("link", name="trained").click()
        see(page.get_by_role("region", name="Figures of every system")).to_contain_text("hushrec")
        context.close()
    assert problems == []
