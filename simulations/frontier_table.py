"""The tables of a frontier, for a terminal and as JSON. It computes no figure."""

from __future__ import annotations

import math
from typing import Any

from rich import box
from rich.table import Table

from hushrec.common.metrics import Figure
from hushrec.simulations.frontier import SHOWN, Curve, Level, Retained
from hushrec.simulations.noise_formula import EXTRAPOLATED_USERS, released_numbers, step_noise
from hushrec.simulations.table import LABELS, OURS, half_interval

_HEADS = {OURS: "hushrec", "frozen_lm": "frozen\nLM", "dp_popularity": "DP-\npop.", "popularity": "popu-\nlarity"}


def epsilon_table(curve: Curve, path: str) -> Table:
    """One row per epsilon."""
    table = _table(curve, path)
    for head in (
        "budget\nspent",
        *(_HEADS.get(name, name) for name in SHOWN),
        "runs",
        "seeds'\nrange",
        "retained gain",
    ):
        table.add_column(head, justify="right", no_wrap=True)
    notes: dict[str, None] = {}
    for level in curve.levels:
        spent = "" if level.spent is None else f"{level.spent:.2f}"
        place = "none" if math.isinf(level.place) else f"{level.place:g}"
        if level.retained and level.retained.figure is None:
            notes[level.retained.note] = None
        table.add_row(f"{place}\n{spent}", *_figures(level), *_runs(level), _retained(level.retained))
    table.caption = f"Epsilon: budget, then spent. {_caption(curve)}"
    if any(level.retained and level.retained.note == "approximate" for level in curve.levels):
        notes["~: approximate interval, by the delta method from independent intervals"] = None
    table.caption += "".join(f"\n{note}." for note in notes)
    return table


def user_tables(curve: Curve, path: str) -> list[Table]:
    """One row per number of users; for a private curve a second table with the noise of a step by formula."""
    table = _table(curve, path)
    for head in ("users", *(_HEADS.get(name, name) for name in SHOWN), "runs", "seeds'\nrange"):
        table.add_column(head, justify="right", no_wrap=True)
    for level in curve.levels:
        table.add_row(f"{level.place:,.0f}", *_figures(level), *_runs(level))
    table.caption = _caption(curve)
    rows = noise_rows(curve)
    if not rows:
        return [table]
    noise = Table(title="Noise of one step, BY FORMULA, NOT MEASURED", box=box.SIMPLE_HEAD, title_justify="left")
    for head in ("training users", "norm / C", ""):
        noise.add_column(head, justify="right")
    for row in rows:
        kind = "extrapolated" if row["extrapolated"] else "users of a run"
        noise.add_row(f"{row['training_users']:,}", f"{row['noise_over_C']:.3g}", kind)
    noise.caption_justify = "left"
    numbers = released_numbers(curve.levels[-1].runs[0].results)
    noise.caption = (
        f"At most {numbers:,} noised numbers; sigma, rounds, share of clients and epsilon as in the largest run."
    )
    return [table, noise]


def noise_rows(curve: Curve) -> list[dict[str, Any]]:
    """Noise at the users of every level and, from the largest, at 10^5 to 10^8; empty without privacy."""
    runs = [level.runs[0].results for level in curve.levels]
    own = [(run["dataset"]["training_users"], step_noise(run), False) for run in runs]
    ahead = [(users, step_noise(runs[-1], users), True) for users in EXTRAPOLATED_USERS]
    return [
        {"training_users": users, "noise_over_C": noise, "extrapolated": is_ahead}
        for users, noise, is_ahead in [*own, *ahead]
        if noise is not None
    ]


def curve_json(curve: Curve, path: str, *, over_users: bool) -> dict[str, Any]:
    """A curve for programs; an epsilon of null is no privacy."""
    levels = []
    for level in curve.levels:
        entry: dict[str, Any] = {
            "users": level.runs[0].users,
            "target_epsilon": None if math.isinf(level.runs[0].epsilon) else level.runs[0].epsilon,
            "epsilon": level.spent,
            "runs": [str(run.path) for run in level.runs],
            "systems": dict(level.figures),
            "spread": {"low": level.spread[0], "high": level.spread[1]},
        }
        if level.retained:
            entry["retained_gain"] = {"figure": level.retained.figure, "note": level.retained.note}
        levels.append(entry)
    found = {"data": curve.title, "claim": curve.claim, "figure": path, "levels": levels}
    return found | ({"noise_by_formula": noise_rows(curve)} if over_users else {})


def _table(curve: Curve, path: str) -> Table:
    title = f"{LABELS.get(path, path)}: {curve.title}; {curve.claim}"
    return Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), title_justify="left",
                 caption_justify="left")  # fmt: skip


def _caption(curve: Curve) -> str:
    text = "± half of the 95 % interval over users"
    return text + (", mean over the runs." if any(len(level.runs) > 1 for level in curve.levels) else ".")


def _figures(level: Level) -> list[str]:
    return [_figure(level.figures.get(name)) for name in SHOWN]


def _figure(found: Figure | None) -> str:
    return "–" if found is None else f"{found['mean']:.3f}\n±{half_interval(found):.3f}".replace("±0.", "±.")


def _runs(level: Level) -> list[str]:
    low, high = level.spread
    return [f"{len(level.runs)}", f"{low:.3f}\n{high:.3f}" if len(level.runs) > 1 else ""]


def _retained(retained: Retained | None) -> str:
    if retained is None:
        return ""
    if retained.figure is None:
        return "undefined" if retained.note.startswith("undefined") else "–"
    mean, low, high = (retained.figure[end] for end in ("mean", "low", "high"))
    return f"{'~ ' if retained.note == 'approximate' else ''}{mean:.2f}\n[{low:.2f}, {high:.2f}]"
