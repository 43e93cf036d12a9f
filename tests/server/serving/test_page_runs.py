"""The runs on the page in Chromium: one, two, all by their epsilon, and one that still trains."""

from __future__ import annotations

import copy
import re

from support.browser import Open, button, see, two_runs
from support.page_server import Canned, run


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
    see(page.get_by_role("img", name=re.compile("^Popular and rare items"))).to_be_visible()
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


def test_no_epsilon_of_the_list_is_without_its_unit(open_page: Open) -> None:
    page = open_page(Canned(runs={**two_runs(), "long": run("long", done=7, unit="user")}), "#runs")
    rows = page.get_by_role("region", name="All runs").locator("tbody tr")
    see(rows.filter(has_text="long")).to_contain_text("ε = 4.73 per user")
    see(rows.filter(has_text="first")).to_contain_text("ε = 7.99 per record")
    see(rows.filter(has_text="open")).to_contain_text("no privacy claim")


def test_a_running_run_is_followed_until_it_is_done(open_page: Open) -> None:
    canned = Canned(runs={"long": run("long", done=7)})
    page = open_page(canned, "#run/long")
    see(page.get_by_role("heading", name="Running: round 7 of 20")).to_be_visible()
    see(page.locator(".live")).to_contain_text("2 × BUDGET_EXHAUSTED")
    see(page.locator(".live")).to_contain_text("ε = 4.73 per record spent")
    see(page.get_by_role("img", name=re.compile("^Privacy spent"))).to_contain_text("ε per record")
    page.locator("summary").first.click()
    canned.runs["long"] = run("long", done=9)
    see(page.get_by_role("heading", name="Running: round 9 of 20")).to_be_visible()
    assert page.locator("details").first.evaluate("one => one.open")
    canned.runs["long"] = run("long")
    see(page.get_by_role("region", name="Figures of every system")).to_contain_text("hushrec")
    see(page.locator(".live")).to_have_count(0)
