"""The table of a finished run: for a terminal, for a README, and one line of text per verdict.

It reads results.json only and computes no figure; what the figures mean is server/evaluation.py's business.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

Results = Mapping[str, Any]
OURS, UNTRAINED, INTERESTS = "hushrec", "frozen_lm", "hushrec_interests"
ROW_STYLES = {OURS: "cyan", UNTRAINED: "magenta"}
# Every user gets other items from a draw: the highest coverage of all, and no merit.
NEVER_BEST = ("random",)
# What a reader wants to know first: training against none, language against counting, federation against a centre.
REFERENCES = {
    "frozen_lm": "the same language model, untrained",
    "hushrec_no_graph": "the same adapter without the item graph",
    "hushrec_click": "the same ranking, its first 50 re-ordered by the click model",
    "hushrec_student": "a student of one or two layers that was taught its vectors",
    INTERESTS: "the same adapter with interests from the user's own reviews",
    "popularity": "exact counts, no privacy",
    "dp_popularity": "the same epsilon spent on counts alone",
    "ease": "centralised, no privacy",
}
JUDGED = (
    "warm/NDCG@10",
    "tail/NDCG@10",
    "cold_items/NDCG@20",
    "cold_users/0/NDCG@20",
    "cold_users/1/NDCG@20",
    "cold_users/5/NDCG@20",
)


@dataclass(frozen=True)
class Column:
    """One figure of the table.

    Attributes:
        path: where it is in a system's entry of results.json, joined by "/".
        label: for a page or a README.
        short: for a terminal, broken into lines of at most six characters.
        narrow: whether it has a place in a table of 80 characters, where not all columns fit.
        protocol: the only one whose tables show it; "" = all.
        system: the one without which no table shows it; "" = none.
    """

    path: str
    label: str
    short: str
    narrow: bool = True
    protocol: str = ""
    system: str = ""


MOST_COLUMNS = 10  # of a table of 80 characters
_GIVEN_UP = "warm/sampled99_HR@10"  # where even the narrow columns are too many
COLUMNS = (
    Column("warm/HR@10", "HR@10", "warm\nHR\n@10"),
    Column("warm/NDCG@10", "NDCG@10", "warm\nNDCG\n@10"),
    Column("warm/sampled99_HR@10", "99-neg. HR@10", "99neg\nHR\n@10"),
    Column("warm/sampled99_NDCG@10", "99-neg. NDCG@10", "99neg\nNDCG\n@10"),
    Column("warm/AUC", "AUC", "warm\nAUC", system=INTERESTS),
    Column("tail/NDCG@10", "tail NDCG@10", "tail\nNDCG\n@10"),
    Column("cold_items/NDCG@20", "cold items NDCG@20", "cold\nitems\nN@20"),
    Column("cold_items/Recall@20", "cold items Recall@20", "cold\nitems\nR@20", narrow=False),
    Column("cold_items/NDCG@20_all", "cold among all items NDCG@20", "among\nall\nN@20", protocol="p2"),
    Column("cold_items/Recall@20_all", "cold among all items Recall@20", "among\nall\nR@20", protocol="p2"),
    Column("cold_users/0/NDCG@20", "cold users h=0 NDCG@20", "users\nh=0\nN@20"),
    Column("cold_users/1/NDCG@20", "cold users h=1 NDCG@20", "users\nh=1\nN@20"),
    Column("cold_users/5/NDCG@20", "cold users h=5 NDCG@20", "users\nh=5\nN@20"),
    Column("cold_users/0/Recall@20", "cold users h=0 Recall@20", "users\nh=0\nR@20", protocol="p3"),
    Column("cold_users/1/Recall@20", "cold users h=1 Recall@20", "users\nh=1\nR@20", protocol="p3"),
    Column("cold_users/5/Recall@20", "cold users h=5 Recall@20", "users\nh=5\nR@20", protocol="p3"),
    Column("coverage@10", "coverage@10", "cover-\nage\n@10"),
)
LABELS = {c.path: f"warm {c.label}" if c.path.startswith("warm/") else c.label for c in COLUMNS}


def figure(system: Mapping[str, Any], path: str) -> dict[str, float] | None:
    """The figure {"mean", "low", "high"} at `path` of one system's entry, None where the protocol has none."""
    found: Any = system
    for part in path.split("/"):
        found = found.get(part) if isinstance(found, Mapping) else None
    return dict(found) if isinstance(found, Mapping) and "mean" in found else None


def present_columns(results: Results) -> list[Column]:
    """The columns of the protocol for which any system has a figure."""
    systems, protocol = results["systems"].values(), results["protocol"]
    columns = [column for column in COLUMNS if column.protocol in ("", protocol)]
    columns = [column for column in columns if not column.system or column.system in results["systems"]]
    return [column for column in columns if any(figure(system, column.path) for system in systems)]


def best_systems(results: Results, path: str) -> set[str]:
    """The systems with the highest mean, equals included; random's lists are never best."""
    means = {
        name: found["mean"]
        for name, system in results["systems"].items()
        if name not in NEVER_BEST and (found := figure(system, path)) is not None
    }
    highest = max(means.values(), default=0.0)
    return {name for name, mean in means.items() if mean >= highest - 5e-5}  # equal in what is printed


def half_interval(found: Mapping[str, float]) -> float:
    """Half the width of the 95 % interval."""
    return (found["high"] - found["low"]) / 2


def results_table(results: Results) -> Table:
    """One row per system, mean above ± half the interval; at most 80 characters wide."""
    data = results["dataset"]
    table = Table(
        title=f"{results['experiment']}: {data['name']}, protocol {results['protocol']}, seed {results['seed']}\n"
        f"{data['users']:,} users, {data['items']:,} items, {data['interactions']:,} interactions",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
        title_justify="left",
        caption_justify="left",
    )
    columns = present_columns(results)
    if len(columns) > MOST_COLUMNS:
        columns = [column for column in columns if column.narrow]
    if len(columns) > MOST_COLUMNS:
        columns = [column for column in columns if column.path != _GIVEN_UP]
    table.caption = "Mean, ± half of the 95 % interval. Bold: best but random." + _legend(columns)
    best = {column.path: best_systems(results, column.path) for column in columns}
    table.add_column("system", no_wrap=True)
    for column in columns:
        table.add_column(column.short, justify="right", no_wrap=True)
    for name, system in results["systems"].items():
        cells = [_cell(figure(system, column.path), name in best[column.path]) for column in columns]
        table.add_row(Text(name), *cells, style=ROW_STYLES.get(name, ""))
    return table


def _legend(columns: Sequence[Column]) -> str:
    """What the short heads mean, as far as they are shown."""
    paths = [column.path for column in columns]
    parts = [
        ("99neg: ranked among 99 sampled negatives.", "warm/sampled99_NDCG@10" in paths),
        ("N@20: NDCG@20.", any(path.endswith("/NDCG@20") for path in paths)),
        ("R@20: Recall@20.", any("/Recall@20" in path for path in paths)),
    ]
    lines = [" ".join(text for text, shown in parts if shown)]
    if any(path.startswith("cold_users") for path in paths):
        lines.append("users h=: new users, of whom h items are known.")
    return "".join(f"\n{line}" for line in lines if line)


def _cell(found: Mapping[str, float] | None, is_best: bool) -> Text:
    if found is None:
        return Text("–")
    cell = Text(f"{found['mean']:.3f}", style="bold" if is_best else "")
    return cell.append(f"\n±{half_interval(found):.3f}".replace("±0.", "±."), style="not bold dim")


def markdown_table(results: Results) -> str:
    """The same as a Markdown table with every column, for a README."""
    columns = present_columns(results)
    lines = ["| system | " + " | ".join(column.label for column in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    best = {column.path: best_systems(results, column.path) for column in columns}
    for name, system in results["systems"].items():
        cells = [f"**{name}**" if name == OURS else name]
        for column in columns:
            found = figure(system, column.path)
            mean = f"{found['mean']:.3f}" if found else "–"
            mean = f"**{mean}**" if name in best[column.path] else mean
            cells.append(f"{mean} ± {half_interval(found):.3f}" if found else mean)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def verdict_lines(results: Results) -> list[str]:
    """What a person should take home: gains with paired intervals, then privacy, then the price; plain text."""
    sentences = [
        *privacy_lines(results["privacy"]),
        *cost_lines(results),
        *(f"Note: {n}" for n in results.get("notes", ())),
    ]
    return gain_lines(results) + [line for sentence in sentences for line in _wrapped("", sentence.split(" "), " ")]


def gain_lines(results: Results) -> list[str]:
    """hushrec minus each reference: above, below or indistinguishable, with the paired 95 % interval."""
    lines = []
    for name, meaning in REFERENCES.items():
        differences = results.get("paired", {}).get(f"{OURS} - {name}", {})
        paths = (*JUDGED, "warm/AUC") if name == INTERESTS else JUDGED
        judged = [(path, differences[path]) for path in paths if path in differences]
        if not judged:
            continue
        lines.append(f"{OURS} against {name} ({meaning}):")
        for verdict in ("above", "below", "indistinguishable"):
            found = [f"{LABELS[path]} {difference_text(d)}" for path, d in judged if d["verdict"] == verdict]
            if found:
                lines += _wrapped(f"  {verdict}: ", found)
    return lines


def _wrapped(start: str, parts: Sequence[str], separator: str = "; ") -> list[str]:
    """Parts joined in lines of 80 characters, none broken inside, the second and later lines indented."""
    glued = separator.join(part.replace(" ", "\xa0") for part in parts)
    found = textwrap.wrap(glued, 80, initial_indent=start, subsequent_indent="    ", break_on_hyphens=False)
    return [line.replace("\xa0", " ") for line in found]


def difference_text(difference: Mapping[str, Any]) -> str:
    """A paired difference as "+0.012 [+0.003, +0.021]"."""
    mean, low, high = (f"{round(difference[key], 3) + 0.0:+.3f}" for key in ("mean", "low", "high"))  # no "-0.000"
    return f"{mean} [{low}, {high}]"


_UNITS = {
    "record": "RECORD (not per user)",
    "user": "USER",
    "interaction": "INTERACTION (not per user)",
}
_SPANS = {"hour": "clock hours", "day": "days", "week": "weeks"}
_RELATIONS = {"add_remove": "adding or removing", "replace_one": "replacing"}
WEAK_EPSILON = 10.0  # above it a guarantee is weak to none: Ponomareva et al. 2023, arXiv:2303.00654


def privacy_lines(privacy: Mapping[str, Any]) -> list[str]:
    """The exact claim: epsilon always with its unit, relation, delta, accountant, and who adds the noise."""
    if privacy["mechanism"] == "none":
        return ["NO PRIVACY: no noise was added and no claim is made; updates leave the clients in the clear."]
    unit = str(privacy["unit"])
    relation = _RELATIONS.get(privacy["relation"], str(privacy["relation"]))
    lines = [
        f"epsilon {privacy['epsilon']:.2f} at delta {privacy['delta']:g} per {_UNITS.get(unit, unit)}: "
        f"{relation} one {unit}{_record_of(privacy)}; accountant {privacy['accountant']}.",
        f"The {privacy.get('noise_added_by', 'client')} adds the noise itself; the claim ({privacy.get('name', '?')}) "
        f"holds against {privacy['trust']}.",
    ]
    if unit == "record":
        user, capped = privacy.get("user_epsilon"), privacy.get("max_records")
        lines.append(
            "Per USER no epsilon was computed."
            if user is None
            else f"Per USER (all of a device, at most {capped} records): epsilon {user:.2f}{_weak(user)}."
        )
    if (interaction := privacy.get("interaction_epsilon")) is not None:
        lines.append(f"Per INTERACTION (replacing one): epsilon {interaction:.2f}{_weak(interaction)}.")
    return lines


def _record_of(privacy: Mapping[str, Any]) -> str:
    span = _SPANS.get(str(privacy.get("record_span")))
    if span is None or privacy["unit"] != "record":
        return ""
    slots = privacy.get("max_records")
    return f" (all that a device does in the {span} of one of its {slots} slots: {span} counted modulo {slots})"


def _weak(epsilon: float) -> str:
    return ", too large to promise much" if epsilon > WEAK_EPSILON else ""


def cost_lines(results: Results) -> list[str]:
    """Time, traffic and memory; empty for an evaluation that trained nothing."""
    cost = results.get("cost")
    if not cost:
        return []
    refused = ", ".join(f"{count} x {code}" for code, count in sorted(cost.get("refused", {}).items())) or "none"
    return [
        f"Training took {cost['seconds']:,.1f} s ({cost['seconds_per_round']:.2f} s a round, "
        f"{cost['client_steps_per_second']:,.1f} client steps a second); a client receives "
        f"{bytes_text(cost['bytes_down_per_client_round'])} and sends {bytes_text(cost['bytes_up_per_client_round'])} "
        f"a round{_released(cost)}; peak memory {cost['peak_rss_mb']:,.0f} MB; refused replies: {refused}."
    ]


def _released(cost: Results) -> str:
    sent = cost.get("bytes_up_per_client_in_releases", 0)
    return f" and {bytes_text(sent)} before round 1" if sent else ""


def bytes_text(count: float) -> str:
    """A number of bytes for people, in powers of 1,000."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1_000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1_000
    return f"{count:.1f} GB"


def choices_lines(results: Results) -> Sequence[tuple[str, str]]:
    """(system, what was chosen for it on validation), systems without a choice left out."""
    return [
        (name, ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in chosen.items()))
        for name, chosen in results.get("choices", {}).items()
        if chosen
    ]
