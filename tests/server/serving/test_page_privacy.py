"""What is promised, as the page shows it in Chromium: always with its unit."""

from __future__ import annotations

import re

from support.browser import Open, see
from support.page_server import Canned, audit, run


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
    see(page.get_by_role("region", name="The demo user's items")).to_contain_text("Fargo")


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
