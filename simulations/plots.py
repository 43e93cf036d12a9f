"""The plots of a report as inline SVG: learning curve, budget, comparison bars and popularity deciles.

Colours are CSS variables of the page, so that one drawing serves light and dark; text stays text. It computes no
figure and needs matplotlib, which the extra "demo" installs.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from hushrec.simulations.table import OURS, UNTRAINED, Column, Results, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.6  # inches = 331 units: text of 9 units is still readable on a phone
DRAWN_WARM = ("warm/HR@10", "warm/NDCG@10", "warm/sampled99_NDCG@10", "tail/NDCG@10")
DRAWN_COLD = (
    "cold_items/NDCG@20",
    "cold_items/NDCG@20_all",
    "cold_users/0/NDCG@20",
    "cold_users/1/NDCG@20",
    "cold_users/5/NDCG@20",
)
DRAWN_DECILES = (OURS, UNTRAINED, "ease", "popularity")
# matplotlib draws with these stand-ins; the page replaces them by its own variables.
_INK, _GRID = "#010101", "#020202"
_COLOURS = {OURS: "#030303", UNTRAINED: "#040404", "ease": "#050505", "popularity": "#060606"}
_OTHER = "#070707"
_VARIABLES = {
    _INK: "currentColor",
    _GRID: "var(--rule)",
    _COLOURS[OURS]: "var(--ours)",
    _COLOURS[UNTRAINED]: "var(--untrained)",
    _COLOURS["ease"]: "var(--third)",
    _COLOURS["popularity"]: "var(--fourth)",
    _OTHER: "var(--other)",
}
_DASHES = {OURS: "-", UNTRAINED: "--", "ease": "-.", "popularity": ":"}
_MARKERS = {OURS: "o", UNTRAINED: "s", "ease": "^", "popularity": "D"}


def plots_available() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def round_curve(rounds: Sequence[Mapping[str, Any]], key: str, label: str) -> str:
    """One figure of the evaluated rounds, with round 0 (nothing trained) as a line across; "" without points."""
    points = [(int(line["round"]), float(line[key])) for line in rounds if key in line]
    if not points:
        return ""
    drawing = _drawing(2.5)
    axes = drawing.add_subplot()
    x, y = zip(*points, strict=True)
    axes.plot(x, y, color=_COLOURS[OURS], marker="o", markersize=3.5, label="after this round")
    if points[0][0] == 0:
        axes.axhline(y[0], color=_COLOURS[UNTRAINED], linestyle="--", label="before training")
    room = max(max(y) - min(y), 0.1 * max(y), 1e-3) * 0.6  # a flat curve looks flat, a rising one fills the panel
    axes.set_ylim(max(0.0, min(y) - room), max(y) + room)
    _rounds_axis(axes)
    axes.set_ylabel(label)
    _legend(axes, columns=2)
    return _svg(drawing, key, f"{label} after each evaluated round, and before training")


def budget_curve(rounds: Sequence[Mapping[str, Any]], privacy: Mapping[str, Any]) -> str:
    """Epsilon spent after each round by the client that took part most; "" for a run without privacy."""
    points = [(int(line["round"]), float(line["epsilon"])) for line in rounds if line.get("epsilon") is not None]
    if not points or privacy["mechanism"] == "none":
        return ""
    drawing = _drawing(2.5)
    axes = drawing.add_subplot()
    x, y = zip(*points, strict=True)
    axes.step(x, y, where="post", color=_COLOURS[OURS], label="spent")
    axes.plot(x, y, color=_COLOURS[OURS], marker="o", markersize=3, linestyle="none")
    top = max(y)
    if (target := privacy.get("target_epsilon")) is not None:
        axes.axhline(target, color=_INK, linestyle=":", label="budget")
        top = max(top, target)
    axes.set_ylim(0, top * 1.25)
    _rounds_axis(axes)
    axes.set_ylabel(f"ε per {privacy['unit']}")
    _legend(axes, columns=2)
    return _svg(drawing, "budget", f"Epsilon per {privacy['unit']} spent after each round, and the budget")


def figure_by_epsilon(rounds: Sequence[Mapping[str, Any]], privacy: Mapping[str, Any], key: str, label: str) -> str:
    """One figure of the evaluated rounds over the epsilon spent by then; "" without privacy or with fewer than two."""
    points = [
        (float(line["epsilon"]), float(line[key])) for line in rounds if key in line and line.get("epsilon") is not None
    ]
    if len(points) < 2 or privacy["mechanism"] == "none":
        return ""
    drawing = _drawing(2.5)
    axes = drawing.add_subplot()
    x, y = zip(*points, strict=True)
    axes.plot(x, y, color=_COLOURS[OURS], marker="o", markersize=3.5)
    room = max(max(y) - min(y), 0.1 * max(y), 1e-3) * 0.6
    axes.set_ylim(max(0.0, min(y) - room), max(y) + room)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"ε per {privacy['unit']} spent")
    axes.set_ylabel(label)
    return _svg(drawing, f"{key}-epsilon", f"{label} over the epsilon per {privacy['unit']} spent by then")


def comparison(results: Results, column: Column) -> str:
    """One bar per system with its 95 % interval."""
    systems = [(name, found) for name, entry in results["systems"].items() if (found := figure(entry, column.path))]
    drawing = _drawing(0.62 + 0.22 * len(systems))
    axes = drawing.add_subplot()
    for place, (name, found) in enumerate(systems):
        mean, low, high = found["mean"], found["low"], found["high"]
        colour = _COLOURS[name] if name in (OURS, UNTRAINED) else _OTHER
        axes.barh(place, mean, height=0.68, color=colour, alpha=0.75)
        axes.plot([low, high], [place, place], color=_INK, linewidth=1.1, marker="|", markersize=5)
        axes.annotate(
            f"{mean:.3f}", (max(high, mean), place), xytext=(5, 0), textcoords="offset points", va="center", color=_INK
        )
    axes.set_yticks(range(len(systems)), [name for name, _ in systems])
    axes.invert_yaxis()
    limit = max(max(found["high"] for _, found in systems) * 1.2, 1e-3)
    axes.set_xlim(0, limit)
    if limit > 1:  # the room is for the numbers; no figure passes 1
        axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    return _svg(drawing, column.path, f"{column.label} of each system with 95 % intervals")


def decile_curves(results: Results) -> str:
    """HR@10 by popularity decile of the target for four systems; "" where there are no deciles."""
    found = {
        name: results["systems"][name]["deciles"]
        for name in DRAWN_DECILES
        if results["systems"].get(name, {}).get("deciles")
    }
    if not found:
        return ""
    drawing = _drawing(2.9)
    axes = drawing.add_subplot()
    for name, deciles in found.items():
        x = sorted(map(int, deciles))
        figures = [deciles[str(decile)]["HR@10"] for decile in x]
        axes.plot(
            x,
            [f["mean"] for f in figures],
            color=_COLOURS[name],
            linestyle=_DASHES[name],
            marker=_MARKERS[name],
            markersize=4,
            label=name,
        )
        if name == OURS:
            band = ([f["low"] for f in figures], [f["high"] for f in figures])
            axes.fill_between(x, *band, color=_COLOURS[name], alpha=0.15, linewidth=0)
    axes.set_xticks(range(1, 11))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("popularity decile of the wanted item (1 = most popular tenth)")
    axes.set_ylabel("HR@10")
    _legend(axes, columns=4)
    return _svg(drawing, "deciles", "HR@10 by popularity decile of the wanted item; the band is hushrec's interval")


def _drawing(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def _rounds_axis(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.set_xlabel("round")


def _legend(axes: Axes, columns: int) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, frameon=False, borderaxespad=0.2, handlelength=1.8,
        columnspacing=1.2,
    )  # fmt: skip


def _svg(drawing: Figure, salt: str, label: str) -> str:
    """The drawing as an <svg> element: equal input gives equal bytes."""
    from matplotlib import rc_context

    for axes in drawing.axes:
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(_GRID)
        axes.set_axisbelow(True)
        axes.set_facecolor("none")
        axes.tick_params(colors=_INK, labelsize=8.5)
        axes.xaxis.label.set(color=_INK, size=8.5)
        axes.yaxis.label.set(color=_INK, size=8.5)
        wanted = [axes.xaxis, axes.yaxis] if axes.get_legend() else [axes.xaxis]
        for axis in wanted:
            axis.grid(visible=True, color=_GRID, linewidth=0.7)
        for text in [*axes.texts, *(legend.get_texts() if (legend := axes.get_legend()) else [])]:
            text.set(color=_INK, size=8.5)
    drawing.patch.set_visible(False)
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": ["sans-serif"]}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        drawing.savefig(buffer, format="svg", metadata=nothing)
    return _inline(buffer.getvalue(), label)


def _inline(document: str, label: str) -> str:
    """An SVG file as an element of a page: no prolog, no ids that collide, the page's colours and font."""
    svg = document[document.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r' id="[A-Za-z.0-9]+_\d+"', "", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.S)  # it would style the whole page
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
