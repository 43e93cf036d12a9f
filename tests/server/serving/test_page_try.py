"""The first view in Chromium, at the width of a desk and of a phone: a wish, items, interests, the dial."""

from __future__ import annotations

import re

from support.browser import Open, button, see
from support.page_server import INJECTED, Canned


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


def test_items_are_picked_and_taken_away_with_the_keyboard_alone(open_page: Open) -> None:
    canned = Canned()
    page = open_page(canned)
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "item":
            break
    page.keyboard.type("heat")
    field = page.get_by_role("combobox", name="Items you liked")
    see(field).to_have_attribute("aria-expanded", "true")
    see(field).to_have_attribute("aria-activedescendant", "item-0")
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


def test_the_first_press_of_the_button_counts_after_a_title_was_picked(open_page: Open) -> None:
    canned = Canned()
    page = open_page(canned)
    page.get_by_label("Items you liked").fill("fargo")
    see(page.get_by_role("option", name=re.compile("Fargo"))).to_be_visible()
    page.get_by_label("Items you liked").press("Enter")
    see(page.get_by_text("Fargo (1996) was added.")).to_be_visible()
    before = button(page, "Recommend").bounding_box()
    button(page, "Recommend").click()  # leaving the field takes the words below it away
    see(page.locator(".results > li").first).to_contain_text("because of Fargo")
    assert button(page, "Recommend").bounding_box()["y"] - before["y"] == -page.evaluate("scrollY")
    see(page.get_by_text("Fargo (1996) was added.")).to_be_hidden()


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
    page.get_by_label("Items you liked").fill("onerror")
    see(page.locator("#item-list [role=option]")).to_have_count(1)
    page.get_by_label("Items you liked").press("Enter")
    page.get_by_label("A new interest, in words").fill(INJECTED)
    button(page, "Add to likes").click()
    button(page, "Recommend").click()
    see(page.locator(".results > li").first).to_contain_text(f"because of {INJECTED}")
    see(page.locator(".results > li").first).to_contain_text(f"matches: {INJECTED}")
    see(page.locator(".chips")).to_contain_text(INJECTED)
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script").count() == 0


def test_a_server_that_is_gone_is_named_and_can_be_asked_again(open_page: Open) -> None:
    page = open_page(Canned())
    page.route("**/v1/recommend", lambda route: route.abort())
    button(page, "Recommend").click()
    see(page.get_by_role("alert")).to_contain_text("The server does not answer.")
    page.unroute("**/v1/recommend")
    button(page, "Try again").click()
    see(page.locator(".results > li").first).to_contain_text("Heat (1995)")
    told = open_page.problems
    assert all("ERR_FAILED" in one for one in told)
    told.clear()
