"""report.html: a finished run on one self-contained page, with plots where matplotlib is installed.

It reads the run directory and computes no figure; equal files give an equal page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hushrec.common.errors import BundleError
from hushrec.server.ranking import validation_top
from hushrec.simulations import plots
from hushrec.simulations.continual_table import continual_markup
from hushrec.simulations.page import Content, Markup, Row, bullets, element, join, page, table
from hushrec.simulations.table import (
    JUDGED,
    LABELS,
    OURS,
    REFERENCES,
    UNTRAINED,
    Column,
    Results,
    best_systems,
    bytes_text,
    choices_lines,
    difference_text,
    figure,
    half_interval,
    present_columns,
    privacy_lines,
)

REPORT = "report.html"
_ROW_CLASSES = {OURS: "ours", UNTRAINED: "untrained"}
_PROTOCOLS = {
    "joint": "Protocol joint: a tenth of the items and a fifth of the users are kept out of training altogether (cold "
    "items, cold users); the last known interaction of every training user is held out (warm).",
    "p1": "Protocol p1: the last interaction of every user is held out for the test, the one before for validation; "
    "there are no cold items or users.",
    "p2": "Protocol p2, strict item cold start: a fifth of the items is kept out of training altogether, half of it "
    "for validation and half for the test; every user trains on everything else. A user's test items are ranked among "
    "all cold items without the user's own validation items, and, marked “among all”, among all items.",
    "p3": "Protocol p3, cold users: a fifth of the users never trains, half of them for validation and half for the "
    "test; all others train on everything they have, and there are no cold items.",
}


def write_report(folder: Path) -> Path:
    """Write report.html beside results.json.

    Args:
        folder: a run directory with results.json; rounds.jsonl is used where it is there.
    Raises:
        BundleError: results.json or rounds.jsonl is missing or damaged.
    """
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        path = folder / "rounds.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        rounds = [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot read the results in {folder}: {error}") from error
    report = folder / REPORT
    report.write_text(report_html(results, rounds), encoding="utf-8")
    return report


def report_html(results: Results, rounds: list[dict[str, Any]]) -> str:
    """The page as text: pure, so that equal input gives equal output."""
    body = [
        *_head(results),
        *_section("What was gained", _gains(results)),
        *_section("Every system, the same cases", _systems(results)),
        *_section("Before and after each time window", continual_markup(results)),
        *_section("Plots", _plots(results, rounds)),
        *_section("Privacy", _privacy(results["privacy"])),
        *_section("Cost", _cost(results)),
        *_section("Chosen on validation", _choices(results)),
        *_section("Configuration", _configuration(results)),
        *_section("How to reproduce", _reproduce(results)),
    ]
    return page(f"hushrec: {results['experiment']}", body)


def _section(title: str, content: Iterator[Content]) -> Iterator[Content]:
    pieces = list(content)
    if pieces:
        yield element("section", element("h2", title), *pieces)


_WHAT_WAS_SENT = {
    "none": "They sent no interaction, but their updates left them in the clear. ",
    "gaussian": "They sent no interaction: each clipped its updates and noised them before they left it; the server "
    "averaged them. ",
    "central": "They sent no interaction, but their updates in the clear, to a server that is trusted with them: it "
    "clipped each and noised their sum. ",
}


def _head(results: Results) -> Iterator[Content]:
    data = results["dataset"]
    yield element("h1", f"hushrec: {results['experiment']}")
    yield element(
        "p",
        f"{data['name']}: {data['users']:,} users, {data['items']:,} items, {data['interactions']:,} interactions; "
        f"protocol {results['protocol']}, seed {results['seed']}",
        class_="soft",
    )
    yield element(
        "p",
        f"{data.get('clients', data['users']):,} clients trained adapters on one frozen language model. "
        + _WHAT_WAS_SENT[results["privacy"]["mechanism"]],
        "The page shows what that training gained over recommenders that learn less or see more, for known users and "
        "items, for new ones, and for the long tail. ",
        _PROTOCOLS.get(results["protocol"], ""),
    )
    yield join(element("p", element("b", "Note: "), note) for note in results.get("notes", ()))
    yield element("div", *_tiles(results), class_="tiles")


def _tiles(results: Results) -> Iterator[Content]:
    privacy, ours = results["privacy"], results["systems"].get(OURS, {})
    shown = {column.path for column in present_columns(results)}
    if privacy["mechanism"] == "none":
        yield _tile("NO PRIVACY", "no claim is made", "alert")
    else:
        unit = privacy["unit"]
        yield _tile(f"ε = {privacy['epsilon']:.2f}", f"per {unit}, at δ\xa0=\xa0{privacy['delta']:g}")
        if unit == "record" and privacy.get("user_epsilon") is not None:
            yield _tile(f"ε = {privacy['user_epsilon']:.2f}", f"per user of at most {privacy['max_records']} records")
    for path in ("warm/NDCG@10", "cold_items/NDCG@20", "cold_items/NDCG@20_all", "cold_users/0/NDCG@20"):
        if path not in shown:
            continue
        if (found := figure(ours, path)) is not None:
            yield _tile(f"{found['mean']:.3f}", f"{LABELS[path]} ±\xa0{half_interval(found):.3f}")
    for key, label in (
        ("bytes_up_per_client_round", "sent by a client per round"),
        ("bytes_up_per_client_in_releases", "sent by a client before round 1"),
    ):
        if sent := results.get("cost", {}).get(key):
            yield _tile(bytes_text(sent), label)


def _tile(value: str, label: str, class_: str = "") -> Markup:
    return element("div", element("b", value), element("span", label, class_="small"), class_=f"tile {class_}".strip())


def _gains(results: Results) -> Iterator[Content]:
    paired = results.get("paired", {})
    names = [name for name in REFERENCES if f"{OURS} - {name}" in paired]
    if not names:
        return
    yield element(
        "p",
        "hushrec minus each reference on the same cases, with 95\xa0% intervals of the paired difference over users "
        "(not corrected for the number of comparisons). “Indistinguishable” means that the interval holds 0.",
    )
    rows = []
    for path in JUDGED:
        found = [paired[f"{OURS} - {name}"].get(path) for name in names]
        if any(found):
            rows.append(Row(LABELS[path], [_difference(d) if d else "–" for d in found]))
    heads: list[Content] = ["figure", *(join([name, element("small", REFERENCES[name])], "") for name in names)]
    yield table("Paired differences", heads, rows)


def _difference(difference: dict[str, Any]) -> Markup:
    word = element("span", difference["verdict"], class_=difference["verdict"])
    return join([word, element("small", difference_text(difference))], "")


def _systems(results: Results) -> Iterator[Content]:
    columns = present_columns(results)
    best = {column.path: best_systems(results, column.path) for column in columns}
    rows = []
    for name, system in results["systems"].items():
        cells: list[Content] = []
        for column in columns:
            found = figure(system, column.path)
            mean = element("b" if name in best[column.path] else "span", f"{found['mean']:.3f}" if found else "–")
            cells.append(join([mean, element("small", f"±\xa0{half_interval(found):.3f}")], "") if found else mean)
        rows.append(Row(name, cells, _ROW_CLASSES.get(name, "")))
    yield table("Figures of every system", ["system", *(column.label for column in columns)], rows)
    yield element(
        "p",
        "Mean and ± half of the 95\xa0% bootstrap interval over users; bold: best of the column (random excepted). "
        f"{_terms(columns)}{UNTRAINED} is the same language model with no training at all; it costs no privacy.",
        class_="small soft",
    )


def _terms(columns: list[Column]) -> str:
    """What the heads of the shown columns mean."""
    explained = (
        ("warm/sampled99", "All candidates are ranked, but “99-neg.” ranks the target among 99 items never seen. "),
        ("tail", "Tail: targets outside the 20 % most popular items. "),
        ("cold_users", "h: how many interactions of a new user are known. "),
    )
    return "".join(text for start, text in explained if any(column.path.startswith(start) for column in columns))


def _plots(results: Results, rounds: list[dict[str, Any]]) -> Iterator[Content]:
    if not plots.plots_available():
        yield element("p", "For plots, install matplotlib and write the report again: ")
        yield element("pre", element("code", 'pip install "hushrec[demo]"'))
        return
    validated = f"NDCG@{validation_top(results['protocol'])}"
    training = [
        ("Learning curve", plots.round_curve(rounds, f"validation_{validated}", f"validation {validated}")),
        (
            "What the budget bought",
            plots.figure_by_epsilon(rounds, results["privacy"], f"validation_{validated}", f"validation {validated}"),
        ),
        ("Privacy spent", plots.budget_curve(rounds, results["privacy"])),
        ("Share of the catalogue that is shown", plots.round_curve(rounds, "coverage@10", "coverage@10")),
        ("Popular and rare items", plots.decile_curves(results)),
    ]
    yield from _figures("Training and the long tail", training)
    for paths, title in ((plots.DRAWN_WARM, "Known users, known items"), (plots.DRAWN_COLD, "New items and new users")):
        columns = [column for column in present_columns(results) if column.path in paths]
        drawings = [(column.label, plots.comparison(results, column)) for column in columns]
        yield from _figures(title, drawings)


def _figures(title: str, drawings: list[tuple[str, str]]) -> Iterator[Content]:
    shown = [element("figure", element("figcaption", name), Markup(svg)) for name, svg in drawings if svg]
    if shown:
        yield element("h3", title)
        yield element("div", *shown, class_="plots")


def _privacy(privacy: dict[str, Any]) -> Iterator[Content]:
    lines = privacy_lines(privacy)
    if privacy["mechanism"] == "none":
        yield element("p", element("b", lines[0]), class_="alert")
        return
    yield element("p", element("b", lines[0]))
    yield join(element("p", line) for line in lines[1:])
    shown = [(name.upper(), privacy.get(name)) for name in ("rdp", "prv", "pld")]
    figures = ", ".join(f"{name} {value:.3f}" if value is not None else f"{name} no answer" for name, value in shown)
    released = ", ".join(f"{count} × {kind}" for kind, count in privacy.get("releases", {}).items())
    yield element(
        "p",
        "Replayed from ledger.jsonl, for the client that spent most "
        f"({privacy.get('clients_charged', '?')} were charged): {released}. By accountant: {figures}; the largest is "
        f"claimed. Budget: {privacy.get('target_epsilon', '?')}. Noise multiplier "
        f"{privacy.get('noise_multiplier', 0):.3f} at clipping norm {privacy.get('max_grad_norm', 0):g}.",
    )
    for title, key in (("The claim assumes", "assumptions"), ("The claim does not cover", "not_covered")):
        if privacy.get(key):
            yield element("h3", title)
            yield bullets(privacy[key])
    if privacy.get("notes"):
        yield bullets(privacy["notes"])
    yield element(
        "p",
        "The figures on this page come from held-out interactions of training users too; showing them is part of a "
        "simulation and in no ledger.",
        class_="small soft",
    )


def _cost(results: Results) -> Iterator[Content]:
    cost = results.get("cost")
    if not cost:
        return
    refused = ", ".join(f"{count} × {code}" for code, count in sorted(cost.get("refused", {}).items()))
    rows = [
        ("training", f"{cost['seconds']:,.1f} s"),
        ("per round", f"{cost['seconds_per_round']:.2f} s"),
        ("client steps per second", f"{cost['client_steps_per_second']:,.1f}"),
        ("received by a client per round", bytes_text(cost["bytes_down_per_client_round"])),
        ("sent by a client per round", bytes_text(cost["bytes_up_per_client_round"])),
        ("sent by a client before round 1", bytes_text(cost.get("bytes_up_per_client_in_releases", 0))),
        ("peak memory of the simulation", f"{cost['peak_rss_mb']:,.0f} MB"),
        ("refused replies", refused or "none"),
        ("machine", str(cost.get("machine", "?"))),
    ]
    yield table("Cost", ["", ""], [Row(name, [value]) for name, value in rows], class_="text")


def _choices(results: Results) -> Iterator[Content]:
    rows = [Row(name, [chosen]) for name, chosen in choices_lines(results)]
    if rows:
        figure_name = f"NDCG@{validation_top(results['protocol'])}"
        yield element("p", f"By validation {figure_name} only, from the same grid for frozen_lm and hushrec.")
        yield table("Choices", ["system", "chosen"], rows, class_="text")


def _configuration(results: Results) -> Iterator[Content]:
    config = {key: value for key, value in results.get("config", {}).items() if key != "run.directory"}
    if config:
        rows = [Row(key, [_toml(value)]) for key, value in config.items()]
        inside = table("Configuration", ["key", "value"], rows, class_="text")
        yield element("details", element("summary", f"All {len(rows)} settings, as resolved"), inside)


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _reproduce(results: Results) -> Iterator[Content]:
    yield element("p", "In the run directory, experiment.toml holds every setting:")
    yield element("pre", element("code", "hushrec simulate experiment.toml --out again"))
    private = results["privacy"]["mechanism"] != "none"
    yield element(
        "p",
        "The noise of a private run comes from the operating system and cannot be replayed: expect figures within the "
        "intervals above, not the same digits."
        if private
        else "Without noise, the same machine gives the same figures.",
        f" Written by hushrec {version('hushrec')}.",
    )
