"""The studies that `hushrec evaluate` shows: --faithfulness, --robustness, --dial, --fairness, --wishes, --rules.

It prints; the modules of those names measure.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from hushrec.simulations.dial import measure_dial
from hushrec.simulations.dial_plot import require_matplotlib, write_dial
from hushrec.simulations.fairness import measure_fairness
from hushrec.simulations.fairness_table import show_fairness
from hushrec.simulations.faithfulness import measure_faithfulness
from hushrec.simulations.robustness import measure_robustness
from hushrec.simulations.rule_study import measure_rules
from hushrec.simulations.run import Watcher
from hushrec.simulations.wishes import measure_wishes


def measure(
    target: Path,
    studies: Sequence[str],
    *,
    against: Path | None = None,
    picture: Path | None = None,
    rules: Path | None = None,
    group_by: str = "",
    seed: int | None = None,
    watcher: Watcher,
) -> dict[str, Any]:
    """The studies that are asked for, by name.

    Args:
        studies: of "faithfulness", "robustness", "dial", "fairness", "wishes" and "rules".
        against: another run to compare the robustness with.
        picture: where the dial is drawn.
        rules: the file that "rules" measures.
        group_by: the attribute of users that its groups are of; "" = none.
        seed: None: 0 for what is drawn, and the run's for ties and intervals.
    """
    if picture is not None:
        require_matplotlib()
    found = {}
    if "faithfulness" in studies:
        found["faithfulness"] = measure_faithfulness(target, seed=seed or 0, watcher=watcher)
    if "robustness" in studies:
        found["robustness"] = measure_robustness(target, seed=seed or 0, watcher=watcher, against=against)
    if "dial" in studies:
        found["dial"] = measure_dial(target, seed=seed, watcher=watcher)
        if picture is not None:
            write_dial(found["dial"], picture)
    if "fairness" in studies:
        found["fairness"] = measure_fairness(target, seed=seed, watcher=watcher)
    if "wishes" in studies:
        found["wishes"] = measure_wishes(target, seed=seed, watcher=watcher)
    if "rules" in studies and rules is not None:
        found["rules"] = measure_rules(target, rules, attribute=group_by, seed=seed, watcher=watcher)
    return found


def show(found: dict[str, Any], out: Console) -> None:
    """Print the measurements of `measure`."""
    if (faithful := found.get("faithfulness")) is not None:
        verdict = "meets" if faithful["faithful"]["mean"] >= faithful["goal"] else "misses"
        for line in (
            f"Reasons of {faithful['recommendations']:,} recommendations to {faithful['users']:,} test users; "
            f"{_share(faithful['explained'])} name a history item.",
            "Without the named item the score falls more than without a random other in "
            f"{_share(faithful['faithful'])}: {verdict} the goal of {faithful['goal']:.0%}.",
        ):
            out.print(line, markup=False, highlight=False)
    if (robust := found.get("robustness")) is not None:
        out.print(robustness_table(robust))
        if "paired" in robust:
            out.print(comparison_table(robust))
            note = "Differences are this run minus that one, paired over users; not corrected for their number."
            out.print(note, markup=False, highlight=False)
    if (dial := found.get("dial")) is not None:
        out.print(dial_table(dial))
        for line in _dial_lines(dial):
            out.print(line, markup=False, highlight=False)
    if (fair := found.get("fairness")) is not None:
        show_fairness(fair, out)
    if (wishes := found.get("wishes")) is not None:
        out.print(wishes_table(wishes))
        for line in _wish_lines(wishes):
            out.print(line, markup=False, highlight=False)
    if (ruled := found.get("rules")) is not None:
        out.print(rules_table(ruled))
        for line in _rule_lines(ruled):
            out.print(line, markup=False, highlight=False)


def robustness_table(robust: dict[str, Any]) -> Table:
    """What each perturbation of the item texts costs."""
    name = robust["figure"].replace("/", " ")
    table = numbers_table("item texts", name, "lost", "lost, %", "fakes in top 10")
    table.add_row("as they are", interval(robust["clean"]), "", "", "")
    for text, row in robust["perturbed"].items():
        slots = _share(row["slots"]) if "slots" in row else ""
        table.add_row(text, interval(row["value"]), interval(row["lost"]), f"{row['lost_share']:.0%}", slots)
    return table


def comparison_table(robust: dict[str, Any]) -> Table:
    """This run beside the one it is compared with."""
    other = robust["against"]
    table = numbers_table("item texts", "this run", other["run"], "difference", "difference in what is lost")
    for name, difference in robust["paired"].items():
        ours, theirs = (one["clean"] if name == "clean" else one["perturbed"][name]["value"] for one in (robust, other))
        lost = interval(difference["lost"]) if "lost" in difference else ""
        label = "as they are" if name == "clean" else name
        table.add_row(label, f"{ours['mean']:.4f}", f"{theirs['mean']:.4f}", interval(difference["value"]), lost)
    return table


def dial_table(dial: dict[str, Any]) -> Table:
    """One row per popularity weight, and the references."""
    table = numbers_table(
        "weight", "--discovery", "warm NDCG@10", "minus validated", "tail HR@10", "coverage@10", "gini@10", "popularity"
    )
    for point in dial["points"]:
        discovery = "–" if point["discovery"] is None else f"{point['discovery']:g}"
        difference = "" if point["factor"] == 1 else interval(point["paired"]["warm/NDCG@10"])
        name = f"{point['factor']:g} x {dial['validated']:g}"
        shown = [_half(point[key]) for key in ("tail/HR@10", "coverage@10", "gini@10", "popularity")]
        table.add_row(name, discovery, _half(point["warm/NDCG@10"]), difference, *shown)
    for name, figures in dial["references"].items():
        shown = [_half(figures[key]) for key in ("tail/HR@10", "coverage@10", "gini@10")]
        table.add_row(name, "", _half(figures["warm/NDCG@10"]), "", *shown, "")
    return table


def _dial_lines(dial: dict[str, Any]) -> Sequence[str]:
    return (
        "hushrec recommend --discovery d is this dial from 1 down: weight = (1 - d) x the validated one. Weights above "
        "the validated one have no such option.",
        "Popularity: share of the training users who have a recommended item, on average. HR@10 by popularity decile: "
        "--json. ± is half of the 95 % interval; the validated weight was chosen on validation, the others on nothing.",
    )


def wishes_table(wishes: dict[str, Any]) -> Table:
    """One row per system under each form of wish."""
    table = numbers_table("wish and system", wishes["figure"], "hushrec minus it", "users")
    for form, row in wishes["forms"].items():
        table.add_row(form, "", "", f"{row['users']:,}")
        for name, value in row["systems"].items():
            difference = interval(row["differences"][name]) if name in row["differences"] else ""
            table.add_row(f"  {name}", _half(value), difference, "")
    return table


def _wish_lines(wishes: dict[str, Any]) -> Sequence[str]:
    examples = "; ".join(f'"{row["example"]}"' for row in wishes["forms"].values())
    return (
        f"Typed by new users without a history, for a held-out item that is then left out: {examples}.",
        "encoder_alone: the sentence encoded, nothing held to. popularity_held: popularity among what the wish allows.",
    )


def rules_table(ruled: dict[str, Any]) -> Table:
    """What the rules change."""
    table = numbers_table("figure", "without", "with the rules", "difference")
    for path, row in ruled["figures"].items():
        difference = interval(row["difference"]) if "difference" in row else ""
        means = [f"{row[name]['mean']:.4f}" for name in ("without", "with")]
        table.add_row(path.replace("/", " "), *means, difference)
    return table


def _rule_lines(ruled: dict[str, Any]) -> Sequence[str]:
    users = ", ".join(f"{name or 'in no group'}: {count:,}" for name, count in ruled["users"].items())
    lines = [f"{ruled['rules']} rules; {ruled['allowed']:,} of {ruled['items']:,} items may be shown to everybody."]
    lines.append(f"Users: {users}.")
    if ruled["forbidden"] is not None:
        lines.append(f"Held-out warm items that the rules forbid their users: {_share(ruled['forbidden'])}.")
    return lines


def numbers_table(*heads: str) -> Table:
    """An empty table whose columns but the first hold numbers."""
    table = Table(*heads, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def interval(figure: dict[str, float]) -> str:
    """Mean and ends of the interval."""
    return f"{figure['mean']:.4f} [{figure['low']:.4f}, {figure['high']:.4f}]"


def _half(figure: dict[str, float] | None) -> str:
    return "–" if figure is None else f"{figure['mean']:.4f} ± {(figure['high'] - figure['low']) / 2:.4f}"


def _share(figure: dict[str, float]) -> str:
    return f"{figure['mean']:.1%} [{figure['low']:.1%}, {figure['high']:.1%}]"
