"""What the commands of a device show: its terms, and recommendations as a table. It decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from hushrec.common.invitation import Invitation
    from hushrec.common.recommendation import Recommendation


def say(text: str) -> None:
    """One line on stdout, as it is."""
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def say_terms(read: Invitation, pinned: Invitation) -> None:
    """What the owner agrees to."""
    from hushrec.client.device.claim import claim_lines, constant_lines

    say(f"Federation {pinned.federation} at {pinned.server}, {len(pinned.catalog):,} items")
    for line in (*claim_lines(pinned.config), *constant_lines(pinned.config)):
        say(f"  {line}")
    say(f"Fingerprint of the invitation: {read.fingerprint}")
    if pinned.fingerprint != read.fingerprint:
        say(f"Server or CA replaced by you, so what is pinned here is another: {pinned.fingerprint}")
    say("Compare the fingerprint with the one that the operator shows you, not with one that came with the file.")


def answer_table(answer: tuple[Recommendation, ...]) -> Table:
    """Rank, title, genres and why."""
    table = Table("#", "title", "genres", "why", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for one in answer:
        title = f"{one.title} ({one.year})" if one.year >= 0 else one.title
        table.add_row(str(one.rank), Text(title, "bold"), Text(", ".join(one.genres)), Text("; ".join(one.reasons)))
    return table
