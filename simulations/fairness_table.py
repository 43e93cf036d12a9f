"""What `hushrec evaluate --fairness` prints: gaps, exposure and the price of calibration. It computes no figure."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def show_fairness(fair: dict[str, Any], out: Console) -> None:
    """Print the result of `measure_fairness`."""
    out.print(_gaps(fair))
    _say(
        out,
        "Gap: best minus worst served group of at least 20 users, with the interval of that pair. The pair was picked "
        "for its gap, so read p: how often random groups of the same sizes show a gap as large (by chance: their mean "
        "gap); Holm: the same, corrected for the number of rows.",
    )
    out.print(_exposure(fair))
    mix = fair["mix_distance"]
    _say(
        out,
        f"Gini of exposure {fair['gini@10']['mean']:.3f}, coverage {fair['coverage@10']['mean']:.3f}. A list's "
        f"popularity mix differs from its user's history by {mix['mean']:.3f} [{mix['low']:.3f}, {mix['high']:.3f}] "
        "(0: the same, 1: nothing in common).",
    )
    out.print(_prices(fair))
    _say(
        out,
        "Calibrated minus plain lists, paired over users. It happens on the device and costs no privacy: "
        "evaluation.calibration in an experiment file.",
    )


def _gaps(fair: dict[str, Any]) -> Table:
    table = _table("figure", "by", "best served", "worst served", "gap", "by chance", "p", "Holm", text=4)
    for gap in fair["gaps"]:
        best, worst = (f"{gap[which]}: {gap['groups'][gap[which]]['mean']:.3f}" for which in ("best", "worst"))
        tests = (f"{gap['chance']:.3f}", f"{gap['p']:.3f}", f"{gap['p_holm']:.2f}")
        name = gap["figure"].replace("/", " ").replace("_", " ")
        table.add_row(name, gap["attribute"], best, worst, _interval(gap["gap"]), *tests)
    return table


def _exposure(fair: dict[str, Any]) -> Table:
    table = _table("popularity decile of items", "share of top-10 places", "share of training interactions")
    for decile, row in fair["exposure"].items():
        slots = row["slots"]
        shown = f"{slots['mean']:.1%} [{slots['low']:.1%}, {slots['high']:.1%}]"
        table.add_row(f"{decile}{' (most popular)' if decile == '1' else ''}", shown, f"{row['interactions']:.1%}")
    return table


def _prices(fair: dict[str, Any]) -> Table:
    table = _table(
        "calibration", "warm NDCG@10", "tail HR@10", "mix distance", "top decile's places", "gap by activity", "gini"
    )
    for row in fair["price"]:
        paired = row["paired"]
        keys = ("warm/NDCG@10", "tail/HR@10", "mix_distance", "head_share", "gap")
        changes = [_interval(paired[key]) if key in paired else "–" for key in keys]
        table.add_row(f"{row['strength']:g}", *changes, f"{row['gini@10']['mean']:.3f}")
    return table


def _table(*heads: str, text: int = 1) -> Table:
    table = Table(*heads, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in table.columns[text:]:
        column.justify = "right"
    return table


def _interval(figure: dict[str, float]) -> str:
    return f"{figure['mean']:+.3f} [{figure['low']:+.3f}, {figure['high']:+.3f}]"


def _say(out: Console, line: str) -> None:
    out.print(line, markup=False, highlight=False)
