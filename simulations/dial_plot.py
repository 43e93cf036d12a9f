"""The picture of a dial: accuracy against the tail and against the catalogue, one point per popularity weight.

It computes no figure and needs matplotlib; the look is that of frontier_plot.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hushrec.common.errors import ConfigError
from hushrec.simulations.frontier_plot import STYLES, plain_axes
from hushrec.simulations.plots import plots_available
from hushrec.simulations.table import OURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL = (5.0, 4.0)  # inches
_LABELS = {
    "tail/HR@10": "tail recall (HR@10 of items outside the 20 % most popular)",
    "coverage@10": "coverage@10 (share of the catalogue in some list)",
}


def write_dial(dial: dict[str, Any], path: Path) -> None:
    """Draw the result of `measure_dial` into `path`, a PNG or SVG by its ending.

    Raises:
        ConfigError: matplotlib is not installed, or `path` cannot be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    panels = [key for key in _LABELS if dial["points"][0][key] is not None]
    drawing = Figure(figsize=(_PANEL[0] * len(panels), _PANEL[1]), layout="constrained", dpi=160)
    for axes, key in zip(drawing.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        _panel(axes, dial, key)
    handles, labels = drawing.axes[0].get_legend_handles_labels()
    handles, labels = [handles[-1], *handles[:-1]], [labels[-1], *labels[:-1]]  # matplotlib puts bars with lines last
    drawing.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False, fontsize=8.5)
    try:
        drawing.savefig(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write the picture {path}: {error}") from error


def require_matplotlib() -> None:
    """Refuse a picture before anything is computed for it.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    if not plots_available():
        raise ConfigError('a picture needs matplotlib: pip install "hushrec[demo]", or leave out --out')


def _panel(axes: Axes, dial: dict[str, Any], key: str) -> None:
    points = dial["points"]
    _, colour, _, marker = STYLES[OURS]
    x, y = [point[key] for point in points], [point["warm/NDCG@10"] for point in points]
    axes.errorbar(
        [one["mean"] for one in x], [one["mean"] for one in y], xerr=_bars(x), yerr=_bars(y), color=colour,
        marker=marker, markersize=4.5, linewidth=1.6, elinewidth=0.6, ecolor="#9DB9D1",
        label="hushrec, popularity weight turned",
    )  # fmt: skip
    for point in points:
        place = (point[key]["mean"], point["warm/NDCG@10"]["mean"])
        if point["factor"] == 1:
            axes.plot(*place, color=colour, marker="*", markersize=15, linestyle="none", label="validated weight")
        if point["factor"] in (2, 1, 0.5, 0):
            offset = (7, 6) if point["factor"] <= 1 else (7, -11)
            axes.annotate(f"{point['factor']:g}x", place, xytext=offset, textcoords="offset points", fontsize=8.5)
    for name, figures in dial["references"].items():
        if figures[key] is not None and figures["warm/NDCG@10"] is not None:
            label, other, _, shape = STYLES[name]
            axes.plot(figures[key]["mean"], figures["warm/NDCG@10"]["mean"], color=other, marker=shape, markersize=7,
                      linestyle="none", label=label)  # fmt: skip
    axes.set_xlabel(_LABELS[key])
    axes.set_ylabel("warm NDCG@10")
    axes.set_xlim(left=-0.03 * max(one["high"] for one in x))  # marks at 0 are not cut
    axes.set_ylim(bottom=0)
    plain_axes(axes)


def _bars(figures: list[dict[str, float]]) -> list[list[float]]:
    return [[one["mean"] - one["low"] for one in figures], [one["high"] - one["mean"] for one in figures]]
