"""The command `hushrec rules`: what a rule file says of a catalogue, and which items wait for a person.

It changes no file; common/rules.py reads and applies the rules.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

RULES_EXAMPLES = (
    "Examples:\n\n"
    "  hushrec rules rules.toml runs/quickstart\n\n"
    "  hushrec rules rules.toml bundle --group children --json\n\n"
    "A rule file:\n\n"
    '  blocklist = \\["42"]\n\n'
    '  approved = \\["77"]\n\n'
    "  \\[\\[rule]]\n\n"
    '  name = "nothing scary for children"\n\n'
    '  action = "exclude"          # or require, boost (with strength = 0.5), review\n\n'
    '  group = "children"          # leave out for everyone\n\n'
    '  genres = \\["Horror"]         # also years = \\[1980, 1999], title-words, items'
)


def rules(
    file: Annotated[Path, typer.Argument(metavar="RULES", help="A rule file, TOML.")],
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A run directory or a bundle folder.")],
    group: Annotated[str, typer.Option(metavar="NAME", help="Also the rules of this group of users.")] = "",
    n: Annotated[int, typer.Option("-n", min=1, help="How many waiting items to list; --json lists all.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Check a rule file against a catalogue: how many items each rule is about, and the review queue.

    An item that a review rule is about is not recommended until its id is in the list `approved` of the file.
    """
    found = describe_rules(file, bundle, group)
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    out = Console()
    table = Table("rule", "action", "group", "items", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for rule in found["rules"]:
        about = Text(f"{rule['items']:,}", justify="right")
        table.add_row(Text(rule["name"], "bold"), rule["action"], Text(rule["group"] or "everyone"), about)
    out.print(table)
    waiting = found["waiting"]
    lines = [f"{found['allowed']:,} of {found['items']:,} items may be recommended; {found['blocked']:,} are blocked."]
    lines.append(f"{len(waiting):,} wait for review" + (":" if waiting else "."))
    lines += [f"  {item['item_id']}  {item['title']}" for item in waiting[:n]]
    if len(waiting) > n:
        lines.append(f"  and {len(waiting) - n:,} more; --json lists all")
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def describe_rules(file: Path, bundle: Path, group: str = "") -> dict[str, Any]:
    """What `hushrec rules --json` prints.

    Raises:
        ConfigError: the file or a rule is wrong.
        BundleError: no bundle, or a damaged one.
    """
    from hushrec.common.bundle import read_bundle
    from hushrec.common.rules import read_rules

    read = read_rules(file)
    catalog = read_bundle(bundle).catalog
    applied = read.apply(catalog, group)
    return {
        "items": len(catalog),
        "allowed": int(applied.allowed.sum()),
        "blocked": len(set(read.blocklist)),
        "rules": [
            {
                "name": rule.name,
                "action": rule.action,
                "group": rule.group,
                "items": int(rule.matches(catalog).sum()),
            }
            for rule in read.rules
        ],
        "waiting": [
            {"item_id": catalog.item_ids[item], "title": catalog.titles[item]} for item in applied.waiting.nonzero()[0]
        ],
    }
