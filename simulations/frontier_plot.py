"""The picture of a frontier as a PNG, for papers and READMEs. It computes no figure and needs matplotlib.

Systems differ in marker and dash as well as in colour (Okabe and Ito's palette), so the picture reads in grey.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hushrec.common.errors import ConfigError
from hushrec.simulations.frontier import NO_OPEN_RUN, Curve, Level
from hushrec.simulations.noise_formula import EXTRAPOLATED_USERS, step_noise
from hushrec.simulations.plots import plots_available
from hushrec.simulations.table import LABELS, OURS, UNTRAINED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# system -> label, colour, dash, marker
STYLES = {
    OURS: ("hushrec, trained", "#0072B2", "-", "o"),
    UNTRAINED: ("frozen LM (no training)", "#D55E00", "--", "s"),
    "dp_popularity": ("DP-popularity, same epsilon", "#009E73", "-.", "^"),
    "popularity": ("popularity (no privacy)", "#8C8C8C", ":", "x"),
    "ease": ("EASE, central (no privacy)", "#000000", (0, (1, 3)), "D"),
}
_PANEL = (6.0, 4.2)  # inches
_EXTREMES = "lowest and highest run"
_OPEN_STEP = 1.2  # from the largest epsilon to "none", in doublings


def write_picture(curves: Sequence[Curve], path: Path, figure_path: str, *, over_users: bool) -> None:
    """One panel per curve; over users a second one below it with the noise of a step by formula.

    Raises:
        ConfigError: matplotlib is not installed, or `path` cannot be written.
    """
    if not plots_available():
        raise ConfigError('a picture needs matplotlib: pip install "hushrec[demo]", or leave out --out')
    from matplotlib.figure import Figure as Drawing

    columns = min(2, len(curves))
    rows = -(-len(curves) // columns) * (2 if over_users else 1)
    drawing = Drawing(figsize=(_PANEL[0] * columns, _PANEL[1] * rows), layout="constrained", dpi=160)
    grid = drawing.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for number, curve in enumerate(curves):
        row, column = divmod(number, columns)
        axes = grid[row * 2 if over_users else row][column]
        _quality(axes, curve, figure_path, over_users=over_users)
        if over_users and any(_noise_points(curve)):
            _noise(grid[row * 2 + 1][column], curve)
    _shared_legend(drawing, columns)
    try:
        drawing.savefig(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write the picture {path}: {error}") from error


def _shared_legend(drawing: Figure, columns: int) -> None:
    """One legend for all panels of quality, in the order of STYLES; a panel of noise has its own."""
    found: dict[str, Any] = {}
    for axes in drawing.axes:
        if axes.get_visible() and axes.get_legend() is None:
            handles, labels = axes.get_legend_handles_labels()
            found |= dict(zip(labels, handles, strict=True))
    order = [*(style[0] for style in STYLES.values()), _EXTREMES]
    labels = [label for label in order if label in found]
    handles = [found[label] for label in labels]
    drawing.legend(handles=handles, loc="outside upper left", ncols=2 * columns, frameon=False, fontsize=8.5)


def _quality(axes: Axes, curve: Curve, figure_path: str, *, over_users: bool) -> None:
    axes.set_visible(True)
    places = {level.place: level.place if over_users else _epsilon_place(level.place, curve) for level in curve.levels}
    for shift, name in enumerate(STYLES):
        _system(axes, curve, name, places, 0.0 if over_users else 0.05 * (shift - 1))
    axes.set_title(f"{curve.title}\n{curve.claim}", fontsize=10, loc="left")
    axes.set_ylabel(LABELS.get(figure_path, figure_path))
    axes.set_ylim(bottom=0)
    if over_users:
        axes.set_xscale("log")
        axes.set_xlabel("users of the data set")
        ticks = [f"{level.place:,.0f}" for level in curve.levels]
    else:
        axes.set_xlabel("epsilon of the budget; in brackets the gain that is retained")
        ticks = [_tick(level) for level in curve.levels]
    axes.set_xticks(list(places.values()), ticks)
    axes.minorticks_off()
    low, high = min(places.values()), max(places.values())
    axes.set_xlim((low / 1.5, high * 1.5) if over_users else (low - 0.6, high + 0.6))
    plain_axes(axes)


def _epsilon_place(epsilon: float, curve: Curve) -> float:
    """Doublings; "none" stands after the largest epsilon."""
    if math.isinf(epsilon):
        return max((math.log2(e.place) for e in curve.levels if not math.isinf(e.place)), default=0.0) + _OPEN_STEP
    return math.log2(epsilon)


def _tick(level: Level) -> str:
    name = "no\nprivacy" if math.isinf(level.place) else f"{level.place:g}"
    if level.retained is None or level.retained.note == NO_OPEN_RUN:
        return name
    kept = level.retained.figure
    return f"{name}\n({'undefined' if kept is None else format(kept['mean'], '.0%')})"


def _system(axes: Axes, curve: Curve, name: str, places: dict[float, float], shift: float) -> None:
    """A line with intervals; for what needs no training and no budget, the interval as a band."""
    label, colour, dash, marker = STYLES[name]
    levels = [level for level in curve.levels if name in level.figures]
    if not levels:
        return
    x = [places[level.place] for level in levels]
    found = [level.figures[name] for level in levels]
    mean = [one["mean"] for one in found]
    style: dict[str, Any] = {"color": colour, "linestyle": dash, "marker": marker, "label": label}
    if name in (OURS, "dp_popularity") or (len(levels) == 1 and name == UNTRAINED):
        shifted = [at + shift for at in x]
        bars = [[m - one["low"] for m, one in zip(mean, found, strict=True)],
                [one["high"] - m for m, one in zip(mean, found, strict=True)]]  # fmt: skip
        axes.errorbar(shifted, mean, yerr=bars, capsize=3, markersize=6, linewidth=1.8, elinewidth=1.1, **style)
        seeds = [(at, end) for at, level in zip(shifted, levels, strict=True) for end in level.spread]
        if name == OURS and any(len(level.runs) > 1 for level in levels):
            axes.plot(*zip(*seeds, strict=True), linestyle="none", marker="_", markersize=13, color="black",
                      label=_EXTREMES)  # fmt: skip
        return
    axes.plot(x, mean, markersize=4.5, linewidth=1.4, **style)
    if name == UNTRAINED:
        axes.fill_between(x, [one["low"] for one in found], [one["high"] for one in found], color=colour, alpha=0.13,
                          linewidth=0)  # fmt: skip


def _noise_points(curve: Curve) -> list[tuple[int, float]]:
    """(training users, noise) of the runs themselves."""
    runs = [level.runs[0].results for level in curve.levels]
    return [(run["dataset"]["training_users"], noise) for run in runs if (noise := step_noise(run)) is not None]


def _noise(axes: Axes, curve: Curve) -> None:
    axes.set_visible(True)
    own, largest = _noise_points(curve), curve.levels[-1].runs[0].results
    axes.plot(*zip(*own, strict=True), color="#0072B2", marker="o", linestyle="-", zorder=3,
              label="at the users of these runs")  # fmt: skip
    ahead = [(users, step_noise(largest, users)) for users in EXTRAPOLATED_USERS]
    axes.plot(
        *zip(own[-1], *ahead, strict=True), color="#0072B2", marker="o", markerfacecolor="white", linestyle="--",
        label="extrapolated",
    )  # fmt: skip
    axes.axhline(1.0, color="#555555", linestyle=":", label="the mean clipped update has at most about this norm")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("training users")
    axes.set_ylabel("norm of the noise of a step / C")
    axes.set_title("Computed by formula, not measured: same sigma, rounds and epsilon", fontsize=10, loc="left")
    plain_axes(axes)
    axes.legend(frameon=False, fontsize=8.5)


def plain_axes(axes: Axes) -> None:
    """Light horizontal lines behind the data, no box."""
    axes.grid(visible=True, axis="y", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
