"""audit.html: one audit on one self-contained page, verdicts first; it computes nothing and needs no matplotlib."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hushrec.simulations.audit.audit import Audit
from hushrec.simulations.audit.check import Check
from hushrec.simulations.audit.ledgers import Spent
from hushrec.simulations.page import Content, Markup, Row, bullets, element, page, table

_CLASSES = {"holds": "above", "VIOLATED": "below", "not tested": "soft"}
_COLOURS = ("--ours", "--untrained", "--third", "--good", "--bad", "--fourth")
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 3", "1 4")
_SHOWN_GROUPS, _SHOWN_NAMES, _SHOWN_POINTS = 40, 6, 300
_WIDTH, _HEIGHT, _LEFT, _BELOW = 360, 220, 46, 36  # of a drawing, with room for its labels


def audit_html(audit: Audit) -> str:
    """The page as text: pure, so that equal input gives equal output."""
    body = [
        *_head(audit),
        *_section("What is not covered", [bullets(audit.card["not_covered"])]),
        *_section("Every check", _checks(audit.checks)),
        *_section("Epsilon over the rounds", _rounds(audit)),
        *_section("Budget of every client", _budgets(audit)),
        *_section("The attack", _attack(audit)),
        *_section("Claim card", _card(audit.card)),
    ]
    return page(f"hushrec audit: {', '.join(audit.targets[:3])}", body)


def _section(title: str, content: Sequence[Content] | Iterator[Content]) -> Iterator[Content]:
    pieces = list(content)
    if pieces:
        yield element("section", element("h2", title), *pieces)


def _head(audit: Audit) -> Iterator[Content]:
    yield element("h1", "Privacy audit")
    yield element("p", ", ".join(audit.targets), class_="soft small")
    good = audit.claim is not None and not audit.named("VIOLATED")
    yield element("p", element("b", audit.summary()), class_="above" if good else "alert")
    if audit.claim is None:
        yield element("div", _tile("NO PRIVACY", "no claim is made", "alert"), class_="tiles")
        return
    claim, told = audit.claim, audit.card["claim"]
    yield element("p", f"Claim {claim.name}. {audit.card['meaning']} It holds against {claim.trust}.")
    tiles = [
        _tile(f"ε = {told['epsilon']:.2f}", f"spent per {claim.unit}, at δ\xa0=\xa0{claim.delta:g}"),
        _tile(f"{claim.target_epsilon:g}", "budget"),
        _tile(f"{told['clients_charged']:,}", "clients charged"),
    ]
    if told["rounds_left"] is not None:
        tiles.append(_tile(f"{told['rounds_left']:,}", "further rounds for the client that spent most"))
    for key, unit in (("user_epsilon", f"user of {claim.max_records} records"), ("interaction_epsilon", "interaction")):
        if told.get(key) is not None:
            tiles.append(_tile(f"ε = {told[key]:.2f}", f"per {unit}"))
    yield element("div", *tiles, class_="tiles")


def _tile(value: str, label: str, class_: str = "") -> Markup:
    return element("div", element("b", value), element("span", label, class_="small"), class_=f"tile {class_}".strip())


def _checks(checks: Sequence[Check]) -> Iterator[Content]:
    order = ("VIOLATED", "holds", "not tested")
    rows = [
        Row(check.name, [element("span", check.verdict, class_=_CLASSES[check.verdict]), check.claim, check.measured])
        for check in sorted(checks, key=lambda check: order.index(check.verdict))
    ]
    if rows:
        yield table("Every check", ["check", "verdict", "what must hold", "what was found"], rows, class_="text")


def _rounds(audit: Audit) -> Iterator[Content]:
    if audit.claim is None or not audit.rounds:
        return
    steps = [] if audit.rounds[0][0] == 0 else [(0.0, 0.0)]
    for server_round, epsilon in audit.rounds:
        steps += [(server_round, steps[-1][1])] if steps else []
        steps.append((server_round, epsilon))
    last, target = max(1, audit.rounds[-1][0]), audit.claim.target_epsilon
    lines = {"spent by the client that spent most (RDP)": steps, "budget": [(0.0, target), (float(last), target)]}
    top = max(target, audit.rounds[-1][1]) * 1.15
    yield _drawing("Epsilon after each round", lines, ("round", f"ε per {audit.claim.unit}"), (last, top))
    yield element(
        "p", "Round 0 is what was released before training. Each ledger counts by itself.", class_="small soft"
    )


def _budgets(audit: Audit) -> Iterator[Content]:
    if audit.claim is None:
        return
    target = audit.claim.target_epsilon
    rows = [
        Row(
            _names(one.clients),
            [
                f"{one.epsilon:.4f}",
                f"{100 * one.epsilon / target:.0f}\xa0%",
                *("–" if value is None else f"{value:.4f}" for value in one.figures.values()),
                "–" if one.rounds_left is None else f"{one.rounds_left:,}",
                _releases(one),
            ],
        )
        for one in audit.spent[:_SHOWN_GROUPS]
    ]
    heads: list[Content] = ["clients", "ε", "of the budget", "RDP", "PRV", "PLD", "rounds left", "charged"]
    yield table("Budget of every client", heads, rows)
    rest = len(audit.spent) - _SHOWN_GROUPS
    more = f" {rest} further histories, with less, are in audit.json." if rest > 0 else ""
    yield element("p", f"Clients with equal histories share a line; audit.json has each.{more}", class_="small soft")


def _names(clients: Sequence[str]) -> str:
    shown = ", ".join(clients[:_SHOWN_NAMES])
    return shown if len(clients) <= _SHOWN_NAMES else f"{shown} and {len(clients) - _SHOWN_NAMES:,} more"


def _releases(one: Spent) -> str:
    return ", ".join(f"{event.steps} × {event.kind} (σ {event.noise_multiplier:.4g})" for event in one.events)


def _attack(audit: Audit) -> Iterator[Content]:
    if audit.curves:
        lines = {**{name: list(points) for name, points in audit.curves.items()}, "guessing": [(0.0, 0.0), (1.0, 1.0)]}
        yield _drawing("ROC of the attack", lines, ("false positive rate", "true positive rate"), (1.0, 1.0))
    if audit.films:
        heads = list(audit.films[0])
        rows = [
            Row(str(film[heads[0]]), [_word(film.get(head)) for head in heads[1:]], "ours" if _watched(film) else "")
            for film in audit.films
        ]
        yield element("h3", "One demo user's films")
        yield table("The demo user's films", [head.replace("_", " ") for head in heads], rows)


def _watched(film: Mapping[str, Any]) -> bool:
    return any(value is True for value in film.values())


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _card(card: Mapping[str, Any]) -> Iterator[Content]:
    if card["claim"] is None:
        yield element("p", element("b", "Nothing is claimed."), class_="alert")
        return
    rows = [Row(one["question"], [one["answer"]]) for one in card["questions"]]
    yield element("p", "The considerations of NIST SP 800-226, one by one; claim_card.json is the same for programs.")
    yield table("Questions and answers", ["question", "answer"], rows, class_="text")
    yield element("h3", "The claim assumes")
    yield bullets(card["assumptions"])
    yield element("h3", "Ledgers")
    ledgers = [
        Row(one["file"], [str(one["entries"]), one["signed_by"] or "not signed", element("code", one["head"])])
        for one in card["ledgers"][:_SHOWN_GROUPS]
    ]
    yield table("Ledgers", ["file", "entries", "signed by", "head"], ledgers, class_="text")


def _drawing(
    title: str, lines: Mapping[str, Sequence[tuple[float, float]]], labels: tuple[str, str], tops: tuple[float, float]
) -> Markup:
    """Lines from the origin to `tops`, as an SVG in the page's colours, with its legend as text."""
    wide, high = _WIDTH - _LEFT - 10, _HEIGHT - _BELOW - 10

    def place(x: float, y: float) -> str:
        return f"{_LEFT + wide * x / tops[0]:.1f},{10 + high * (1 - y / tops[1]):.1f}"

    parts, legend = [], []
    for number, (name, points) in enumerate(lines.items()):
        style = number % len(_COLOURS)
        colour, dash = f"var({_COLOURS[style]})", _DASHES[style]
        kept = points[:: -(-len(points) // _SHOWN_POINTS) or 1]
        path = " ".join(place(x, y) for x, y in [*kept, *points[-1:]])
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" '
                     f'stroke-dasharray="{dash}"/>')  # fmt: skip
        mark = f'<svg viewBox="0 0 30 6" style="display:inline-block;width:30px"><path d="M0 3H30" stroke="{colour}" '
        legend.append(Markup(f'{mark}stroke-width="2" stroke-dasharray="{dash}"/></svg> {html.escape(name)}'))
    for share in (0.0, 0.5, 1.0):
        (x, _), (_, y) = place(share * tops[0], 0).split(","), place(0, share * tops[1]).split(",")
        parts.append(f'<path d="M{_LEFT} {y}H{_WIDTH - 10}" stroke="var(--rule)"/>')
        parts.append(f'<text x="{x}" y="{_HEIGHT - 20}" text-anchor="middle">{share * tops[0]:.3g}</text>')
        parts.append(f'<text x="{_LEFT - 5}" y="{float(y) + 3:.1f}" text-anchor="end">{share * tops[1]:.3g}</text>')
    middle = (_LEFT + _WIDTH) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{html.escape(labels[0])}</text>')
    parts.append(f'<text x="{_LEFT}" y="8">{html.escape(labels[1])}</text>')
    svg = (f'<svg role="img" aria-label="{html.escape(title)}" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-size="10" '
           f'fill="currentColor">{"".join(parts)}</svg>')  # fmt: skip
    told = [element("span", one, class_="small") for one in legend]
    figure = element("figure", element("figcaption", title), Markup(svg), *(element("div", one) for one in told))
    return element("div", figure, class_="plots")
