"""The command `hushrec interests`: a person's own interest profile, built from texts, shown and edited.

It parses and prints; common/interests.py mines and common/interest_profile.py keeps the file. No network is used.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hushrec.common.catalog import Catalog
from hushrec.common.interest_profile import InterestProfile, read_interests, write_interests

EXAMPLES = (
    "Examples:\n\n"
    "  hushrec interests build reviews.jsonl --catalog runs/quickstart --out interests.toml\n\n"
    "  hushrec interests show\n\n"
    '  hushrec interests remove "horror"\n\n'
    '  hushrec interests add "slow crime films" --weight 0.5\n\n'
    "  hushrec recommend runs/quickstart --interests interests.toml"
)
DEFAULT_FILE = Path("interests.toml")
interests_app = typer.Typer(
    no_args_is_help=True,
    help="Your interests in words: built from your own reviews and searches, read, edited and deleted by you.",
    epilog=EXAMPLES,
)
InterestsFile = Annotated[Path, typer.Option("--file", metavar="FILE", help="The interests file.")]


@interests_app.command()
def build(
    texts: Annotated[Path, typer.Argument(metavar="FILE", help="Your texts: .txt (one a line), .csv or .jsonl.")],
    catalog: Annotated[
        Path, typer.Option(metavar="BUNDLE", help="A run directory, a bundle or an exported folder: whose items.")
    ],
    out_file: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write.")] = DEFAULT_FILE,
    searches: Annotated[bool, typer.Option("--searches", help="FILE holds searches, not reviews.")] = False,
) -> None:
    """Mine key phrases, names and sentiment from FILE, with personal data masked first; nothing leaves this machine.

    An existing file keeps what you added, and what you removed does not come back.
    """
    from hushrec.common.interests import InterestMiner
    from hushrec.common.user_texts import read_user_texts

    before = read_interests(out_file) if out_file.exists() else InterestProfile()
    found = [dataclasses.replace(text, is_search=text.is_search or searches) for text in read_user_texts(texts)]
    profile = before.rebuilt(InterestMiner(_catalog_of(catalog)).mine(found))
    write_interests(out_file, profile)
    _show(profile)
    _say(f"{len(profile.interests)} interests from {len(found)} texts in {out_file}: read it, change it, delete it.")


@interests_app.command()
def show(
    file: InterestsFile = DEFAULT_FILE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show what the file holds."""
    profile = read_interests(file)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(profile), indent=1, ensure_ascii=False))
        return
    _show(profile)


@interests_app.command()
def remove(phrase: Annotated[str, typer.Argument(metavar="PHRASE")], file: InterestsFile = DEFAULT_FILE) -> None:
    """Delete one interest, and never mine it again."""
    write_interests(file, read_interests(file).without(phrase))
    _say(f"Removed {phrase!r} from {file}; it is listed there as `never`, which you may delete too.")


@interests_app.command()
def add(
    phrase: Annotated[str, typer.Argument(metavar="PHRASE")],
    dislike: Annotated[bool, typer.Option("--dislike", help="It subtracts instead of adding.")] = False,
    weight: Annotated[float, typer.Option(help="Above 0 and at most 1.")] = 1.0,
    file: InterestsFile = DEFAULT_FILE,
) -> None:
    """Add one interest in your own words, or change the one that is there."""
    before = read_interests(file) if file.exists() else InterestProfile()
    write_interests(file, before.with_typed(phrase, liked=not dislike, weight=weight))
    _say(f"Added {phrase!r} to {file}.")


def _catalog_of(path: Path) -> Catalog:
    """The catalogue of a run, a bundle, or the folder that a device holds."""
    from hushrec.client.edge.recommender import EdgeRecommender
    from hushrec.common.bundle import ADAPTER, read_bundle
    from hushrec.common.edge_folder import MANIFEST

    device = path / "edge" if (path / "edge" / MANIFEST).exists() else path
    if (device / MANIFEST).exists() and not (device / ADAPTER).exists():
        return EdgeRecommender.open(device).catalog
    return read_bundle(path).catalog


def _show(profile: InterestProfile) -> None:
    table = Table("", "phrase", "weight", "kind", "from", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for one in sorted(profile.interests, key=lambda interest: not interest.liked):
        sign = Text("likes", "green") if one.liked else Text("dislikes", "red")
        table.add_row(sign, Text(one.phrase, "bold"), f"{one.weight:.2f}", one.kind, Text(one.source))
    Console().print(table)
    if profile.never:
        _say(f"Never: {', '.join(profile.never)}")


def _say(text: str) -> None:
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
