"""Tests of simulations/report.py on a small made-up run; the drawings are only looked at as text."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hushrec.common.errors import BundleError
from hushrec.simulations import plots
from hushrec.simulations.report import report_html, write_report

VOID = {"meta", "br", "hr", "img", "link", "input"}


def figure(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean * 0.9, "high": mean * 1.1}


def results(**changes: Any) -> dict[str, Any]:
    systems = {
        name: {
            "warm": {key: figure(0.2) for key in ("HR@10", "NDCG@10", "sampled99_HR@10", "sampled99_NDCG@10")},
            "tail": {"NDCG@10": figure(0.1)},
            "cold_items": {"NDCG@20": figure(0.3), "Recall@20": figure(0.3)},
            "cold_users": {h: {"NDCG@20": figure(0.3)} for h in ("0", "1", "5")},
            "coverage@10": figure(0.5),
            "deciles": {"1": {"HR@10": figure(0.4), "users": 9}, "7": {"HR@10": figure(0.1), "users": 2}},
        }
        for name in ("popularity", "ease", "frozen_lm", "hushrec")
    }
    found: dict[str, Any] = {
        "experiment": "made-up",
        "dataset": {"name": "nowhere", "users": 12, "items": 34, "interactions": 56, "clients": 10},
        "protocol": "joint",
        "seed": 0,
        "systems": systems,
        "paired": {
            "hushrec - frozen_lm": {"warm/NDCG@10": {"mean": 0.1, "low": 0.05, "high": 0.2, "verdict": "above"}}
        },
        "choices": {"random": {}, "hushrec": {"recency_decay": 0.9}},
        "privacy": {
            "mechanism": "gaussian",
            "name": "C1",
            "unit": "record",
            "relation": "add_remove",
            "epsilon": 7.99,
            "rdp": 7.99,
            "prv": None,
            "pld": 7.4,
            "delta": 1e-5,
            "accountant": "an accountant",
            "trust": "the server",
            "target_epsilon": 8.0,
            "max_records": 4,
            "user_epsilon": 48.18,
            "releases": {"popularity": 1, "training": 2},
            "assumptions": ["the device adds the noise"],
            "not_covered": ["a broken random number generator"],
            "noise_multiplier": 0.9,
            "max_grad_norm": 0.5,
        },
        "cost": {
            "seconds": 1.0,
            "seconds_per_round": 0.5,
            "client_steps_per_second": 2.0,
            "bytes_up_per_client_round": 3200,
            "bytes_down_per_client_round": 3600,
            "peak_rss_mb": 100.0,
            "machine": "a machine",
        },
        "config": {"data.name": "nowhere", "run.directory": "/home/somebody/run"},
    }
    return found | changes


ROUNDS = [
    {"round": 0, "epsilon": 0.7, "validation_NDCG@10": 0.1, "coverage@10": 0.5},
    {"round": 1, "epsilon": 5.0},
    {"round": 2, "epsilon": 7.99, "validation_NDCG@10": 0.2, "coverage@10": 0.5},
]


class Page(HTMLParser):
    """Checks that elements close in order, and collects tags, text and what is loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def html() -> str:
    return report_html(results(), ROUNDS)


def test_the_page_is_well_formed_and_loads_nothing(html: str) -> None:
    page = Page(html)
    assert page.loaded == []
    assert "script" not in page.tags
    assert "@import" not in html
    assert "http" not in html.replace("http://www.w3.org/", "")


def test_the_page_has_every_section(html: str) -> None:
    text = Page(html).text
    for title in (
        "What was gained",
        "Every system",
        "Plots",
        "Privacy",
        "Cost",
        "Chosen",
        "Configuration",
        "reproduce",
    ):
        assert title in text
    assert "hushrec simulate experiment.toml" in text
    assert "a broken random number generator" in text


def test_each_epsilon_on_the_page_has_its_unit(html: str) -> None:
    text = Page(html).text
    assert "ε = 7.99 per record, at" in text
    assert "ε = 48.18 per user of at most 4 records" in text
    assert "PRV no answer" in text


def test_a_run_without_privacy_says_so_and_draws_no_budget() -> None:
    rounds = [line | {"epsilon": None} for line in ROUNDS]
    text = Page(report_html(results(privacy={"mechanism": "none", "epsilon": None}), rounds)).text
    assert "NO PRIVACY" in text
    assert "ε" not in text
    assert "Privacy spent" not in text


def test_the_page_says_who_sees_the_updates_in_the_clear() -> None:
    privacy = results()["privacy"]
    local = Page(report_html(results(), ROUNDS)).text
    trusted = Page(report_html(results(privacy=privacy | {"mechanism": "central"}), ROUNDS)).text
    assert "noised them before they left it" in local
    assert "in the clear" not in local
    assert "in the clear, to a server that is trusted" in trusted
    assert "before they left" not in trusted


def test_text_from_results_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "plots_available", lambda: False)
    html = report_html(results(experiment="<script>alert(1)</script>"), ROUNDS)
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_the_page_names_no_folder_of_this_machine(html: str) -> None:
    assert "/home/somebody" not in html


def test_equal_input_gives_an_equal_page(html: str) -> None:
    assert report_html(results(), ROUNDS) == html


def test_plots_are_drawn_with_text_and_page_colours(html: str) -> None:
    assert html.count("<svg") == 5 + 4 + 4  # training and tail, warm, cold
    assert "validation NDCG@10</text>" in html
    assert "var(--ours)" in html
    assert "#030303" not in html
    assert "<dc:date>" not in html


def test_without_matplotlib_the_tables_stay_and_the_page_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "plots_available", lambda: False)
    html = report_html(results(), ROUNDS)
    assert "<svg" not in html
    assert "hushrec[demo]" in html
    assert "Every system" in html


def test_a_protocol_without_cold_cases_gets_no_cold_plots() -> None:
    found = results(protocol="p1")
    for system in found["systems"].values():
        del system["cold_items"], system["cold_users"], system["deciles"]
    html = report_html(found, [])
    assert "New items and new users" not in html
    assert html.count("<svg") == 4


def test_p2_is_explained_with_its_own_figures_and_notes() -> None:
    found = results(protocol="p2", notes=["nothing was <validated>"], paired={})
    for system in found["systems"].values():
        cold = {name: {"mean": 0.2, "low": 0.1, "high": 0.3} for name in ("NDCG@20", "Recall@20", "NDCG@20_all")}
        for group in ("warm", "tail", "cold_users", "deciles", "coverage@10"):
            del system[group]
        system["cold_items"] = cold
    page = Page(report_html(found, [{"round": 0, "epsilon": None, "validation_NDCG@20": 0.1, "coverage@10": 0.5}]))
    text = " ".join(page.words)
    assert "strict item cold start" in text
    assert "nothing was <validated>" in text
    assert "cold among all items NDCG@20" in text
    assert "By validation NDCG@20 only" in text
    assert "validation NDCG@20" in text.replace("By validation NDCG@20", "")
    for absent in ("99-neg.", "Tail:", "h: how many", "warm"):
        assert absent not in text


def test_the_report_is_written_beside_the_results(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(results()), encoding="utf-8")
    (tmp_path / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in ROUNDS), encoding="utf-8")
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("content", [None, "{"])
def test_missing_or_damaged_results_are_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content, encoding="utf-8")
    with pytest.raises(BundleError, match="cannot read the results"):
        write_report(tmp_path)
