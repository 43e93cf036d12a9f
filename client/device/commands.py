"""The commands of a device's owner: `hushrec client ...`. They parse, show and ask; they decide nothing.

Results go to stdout. Errors are raised, and whoever registers `client_app` turns them into one line and exit code 2.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import shlex
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hushrec.client.device.display import answer_table, say, say_terms
from hushrec.common.errors import ConfigError, DataError, Interrupted

DAMAGED = 1  # exit code of `status` where something could not be read


def _examples(*lines: str) -> str:
    return "\n\n".join(("Examples:", *(f"  hushrec client {line}" for line in lines)))


client_app = typer.Typer(
    no_args_is_help=True,
    help="Take part in a federation with this device: its data stay in a file here, and so does the say.",
    epilog=_examples("init DIR invitation.json", "import DIR seen.csv", "start DIR", "recommend DIR", "status DIR"),
)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The device's folder.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@client_app.command(
    epilog=_examples(
        "init ~/hushrec invitation.json",
        "init ~/hushrec invitation.json --name kitchen --yes",
        "init ~/hushrec invitation.json --server 10.0.0.7:8443 --ca ca.crt --replace",
    )
)
def init(
    folder: Folder,
    invitation: Annotated[Path, typer.Argument(metavar="INVITATION", help="The operator's file.", show_default=False)],
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="Must be the invitation's; see --replace.")] = "",
    ca: Annotated[Path | None, typer.Option(metavar="FILE", help="Must be the invitation's; see --replace.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Pin --server and --ca instead of the invitation's.")
    ] = False,
    name: Annotated[str, typer.Option(help="What the operator calls this device; default: a random name.")] = "",
    yes: Yes = False,
) -> None:
    """Agree to an invitation: show what it promises, pin it in a new folder, and print the key for the operator."""
    from hushrec.client.device.address import with_address
    from hushrec.client.device.folder import DeviceFolder, create_device
    from hushrec.common.invitation import read_invitation

    read = read_invitation(invitation)
    pinned = with_address(read, server, ca, replace)
    say_terms(read, pinned)
    if not yes and not typer.confirm("Take part under these terms?"):
        raise Interrupted("not joined; nothing was written")
    kept = DeviceFolder(folder)
    if not name:
        name = kept.name if kept.ledger.exists() and kept.settings_file.exists() else f"device-{secrets.token_hex(3)}"
    made = create_device(folder, pinned, name)
    if made.ledger.exists():
        say("The ledger that was kept here is taken up again: what was spent stays spent.")
    say(f"Made {made.path}. Send the operator this line, to be enrolled as {name}:")
    typer.echo(made.public_key.read_text("ascii").strip())


@client_app.command("import", epilog=_examples("import DIR seen.csv", "import DIR seen.txt --skip-unknown"))
def import_(
    folder: Folder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, JSON lines or one item a line.")],
    kind: Annotated[
        Literal["csv", "jsonl", "list", ""], typer.Option("--format", help="Default: by suffix; else a list.")
    ] = "",
    skip_unknown: Annotated[bool, typer.Option(help="Leave out what the catalogue does not have.")] = False,
) -> None:
    """Read what you used from a file into this device's database; nothing leaves the device by that.

    Items are ids, titles or "title (year)". CSV and JSON lines have fields item (or item_id, or title), and optionally
    time (seconds since 1970 or ISO 8601, UTC unless it says otherwise) and rating.
    """
    from hushrec.client.device.database import DeviceDatabase
    from hushrec.client.device.folder import open_device_folder
    from hushrec.client.device.history_file import read_history_file

    device = open_device_folder(folder)
    read = read_history_file(file, device.invitation.catalog, int(time.time()), kind)
    if read.unknown:
        named = "\n".join(f"  {problem}" for problem in read.problems)
        if (more := read.unknown - len(read.problems)) > 0:
            named += f"\n  and {more:,} more"
        if not skip_unknown:
            raise DataError(
                f"{read.unknown:,} entries of {file} cannot be placed, so nothing was imported; correct them, or leave "
                f"them out with --skip-unknown:\n{named}"
            )
        say(f"Left out {read.unknown:,} entries that cannot be placed:\n{named}")
    with DeviceDatabase(device.database, create=True) as database:
        added = database.add_interactions(read.interactions)
        total = database.count()
    say(f"Imported {added.new:,} new items, {added.later:,} at a later time than before; {total:,} in all.")
    if left := read.repeated + added.earlier:
        say(f"Left out {left:,} repeated entries: of an item, the latest counts.")
    if not read.timed and read.interactions:
        say(
            f"{file} gives no times: the entries count as one second apart, ending now. Records are cut by time, so "
            "they fall into one or a few records."
        )


@client_app.command(epilog=_examples('log DIR "Toy Story (1995)"', "log DIR 42 --rating 4", "log DIR 42 --remove"))
def log(
    folder: Folder,
    item: Annotated[str, typer.Argument(metavar="ITEM", help="An item id, a title or 'title (year)'.")],
    rating: Annotated[float | None, typer.Option(help="As you rate it.")] = None,
    when: Annotated[str, typer.Option("--time", metavar="ISO", help="UTC unless it says so; default: now.")] = "",
    remove: Annotated[bool, typer.Option("--remove", help="Erase this item instead.")] = False,
) -> None:
    """Add one item that you used; the next recommendation knows it, without any training."""
    from hushrec.client.device.database import Interaction
    from hushrec.client.device.folder import open_device_folder
    from hushrec.client.device.history_file import read_time
    from hushrec.common.item_names import ItemNames

    if rating is not None and rating - rating != 0:  # NaN or infinite
        raise ConfigError(f"expected --rating as a finite number, got {rating}")
    device = open_device_folder(folder)
    catalog = device.invitation.catalog
    position = ItemNames(catalog).find(item)
    item_id, now = catalog.item_ids[position], int(time.time())
    if when and "-" not in when:  # "20240501" would pass for seconds
        raise ConfigError(f"expected --time as in 2024-05-01T12:30, got {when!r}")
    moment = read_time(when, now, "--time") if when else now
    with device.open_database() as database:
        if remove:
            gone = database.remove(item_id)
            say(f"{'Erased' if gone else 'There was no'} {catalog.titles[position]}.")
            return
        added = database.add_interactions([Interaction(item_id, moment, rating)])
    what = "Left as it was, since it has a later time:" if added.earlier else "Logged"
    say(f"{what} {catalog.titles[position]}.")


@client_app.command(epilog=_examples("start DIR", "start DIR --foreground"))
def start(
    folder: Folder,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay in this process, for services.")] = False,
) -> None:
    """Take part: connect to the server, and answer what the pinned constants, the budget and your policy allow."""
    from hushrec.client.device import background
    from hushrec.client.device.folder import open_device_folder

    device = open_device_folder(folder)
    if foreground:
        raise typer.Exit(background.run(device))
    pid = background.start(device)
    say(
        f"Started as process {pid}; it writes {device.logs / background.LOG}. Look with: hushrec client status {folder}"
    )


@client_app.command()
def stop(folder: Folder) -> None:
    """End the launcher and its SuperNode; what was spent and answered is kept."""
    from hushrec.client.device import background
    from hushrec.client.device.folder import DeviceFolder

    device = DeviceFolder(folder)
    device.require()
    say("Stopped." if background.stop(device) else "Nothing was running.")


@client_app.command(epilog=_examples("status DIR", "status DIR --json"))
def status(folder: Folder, as_json: Json = False) -> None:
    """Tell what is promised, spent, left, done and refused. Exit code 1 where something is damaged."""
    from hushrec.client.device.folder import open_device_folder
    from hushrec.client.device.status import device_status, status_rows

    found = device_status(open_device_folder(folder), datetime.now().astimezone())
    if as_json:
        _print_json(found)
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        for label, text in status_rows(found):
            table.add_row(Text(label, "bold red" if label == "problem" else "bold"), Text(text))
        Console().print(table)
    if found["problems"]:
        raise typer.Exit(DAMAGED)


@client_app.command(
    epilog=_examples("policy DIR", "policy DIR --hours 22-6 --power mains", "policy DIR --command 'on-wifi --home'")
)
def policy(
    folder: Folder,
    power: Annotated[str | None, typer.Option(metavar="any|mains", help="mains: only while plugged in.")] = None,
    idle: Annotated[bool | None, typer.Option("--idle/--not-idle", help="Only while the machine is idle.")] = None,
    hours: Annotated[str | None, typer.Option(metavar="22-6", help="Local hours; '' for always.")] = None,
    rounds: Annotated[int | None, typer.Option("--most-rounds-a-day", min=0, help="In 24 hours; 0: no limit.")] = None,
    command: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A program whose exit status 0 allows; '' for none.")
    ] = None,
) -> None:
    """Say when this device may train; without options, show it. A running launcher follows at its next request."""
    from hushrec.client.device.folder import open_device_folder

    device = open_device_folder(folder)
    given = {"power": power, "idle": idle, "hours": hours, "most_rounds_a_day": rounds}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if command is not None:
        try:
            changes["command"] = tuple(shlex.split(command))
        except ValueError as error:
            raise ConfigError(f"cannot read --command {command!r}: {error}") from error
    if changes:
        device.set_policy(dataclasses.replace(device.policy(), **changes))
    say(f"This device trains {device.policy().words()}.")


@client_app.command(
    epilog=_examples(
        "recommend DIR", 'recommend DIR --query "a quiet comedy" -n 5 --json', "recommend DIR --rules rules.toml"
    )
)
def recommend(
    folder: Folder,
    query: Annotated[str, typer.Option(metavar="TEXT", help="What you want now; it stays in memory.")] = "",
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="How many.")] = 10,
    discovery: Annotated[
        float, typer.Option(min=0, max=1, help="0: popularity as validated; 1: popularity ignored, for rarer items.")
    ] = 0.0,
    rules: Annotated[Path | None, typer.Option(metavar="FILE", help="A rule file; see: hushrec rules --help.")] = None,
    group: Annotated[str, typer.Option(metavar="NAME", help="Also the rules of this group of users.")] = "",
    interests: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Your interests; see: hushrec interests --help.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Recommend from everything logged here, with the model on this device, offline.

    Genres, years and popularity in a query ("a recent popular comedy") are held to, and what was understood is shown.
    """
    from hushrec.client.device.folder import open_device_folder
    from hushrec.client.device.recommendations import recommend_here
    from hushrec.common.interest_profile import read_interests
    from hushrec.common.rules import read_rules

    if group and rules is None:
        raise ConfigError("--group chooses among the rules of a file: give --rules FILE too")
    read = read_rules(rules) if rules else None
    device = open_device_folder(folder)
    own = read_interests(interests) if interests else None
    answer = recommend_here(device, query=query, interests=own, n=n, discovery=discovery, rules=read, group=group)
    if as_json:
        _print_json([dataclasses.asdict(one) for one in answer.recommendations])
        return
    if answer.understood:
        say(f"Understood: {answer.understood}")
    Console().print(answer_table(answer.recommendations))
    if answer.note:
        say(f"Note: {answer.note}.")


@client_app.command(
    epilog=_examples("update DIR exported", "update DIR https://rec.example.org --token-file token.txt")
)
def update(
    folder: Folder,
    bundle: Annotated[
        str,
        typer.Argument(metavar="BUNDLE", help="An exported edge folder, or a service.", show_default=False),
    ],
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The token for the service, scope read.")
    ] = None,
    ca: Annotated[Path | None, typer.Option(metavar="FILE", help="Authority of the service's certificate.")] = None,
) -> None:
    """Install an exported model for recommend, after checking every file; the old one stays if it does not fit.

    From a `hushrec serve --edge` only what is new is fetched.
    """
    from hushrec.client.device.folder import open_device_folder
    from hushrec.client.device.recommendations import fetch_and_install, install_edge, read_token

    device = open_device_folder(folder)
    if "://" not in bundle:
        if token_file or ca:
            raise ConfigError("--token-file and --ca go with the address of a service")
        say(f"Installed a model of {install_edge(device, Path(bundle)):,} items.")
        return
    items = fetch_and_install(device, bundle, token=read_token(token_file) if token_file else "", ca=ca)
    say("The model here is the service's already." if items is None else f"Installed a model of {items:,} items.")


@client_app.command(epilog=_examples("forget DIR", "forget DIR --keep-data", "forget DIR --ledger-too --yes"))
def forget(
    folder: Folder,
    yes: Yes = False,
    keep_data: Annotated[bool, typer.Option("--keep-data", help="Keep the interactions, to join again.")] = False,
    ledger_too: Annotated[
        bool, typer.Option("--ledger-too", help="Also forget what was spent: joining again would spend it twice.")
    ] = False,
) -> None:
    """Leave: erase data, replies, keys and model. The ledger stays, unless told, so that nothing is spent twice.

    On flash memory, snapshots and in backups old blocks may survive; only an encrypted disk helps there.
    """
    from hushrec.client.device.erasure import STAYS, forget_device
    from hushrec.client.device.folder import DeviceFolder

    device = DeviceFolder(folder)
    what = "replies, keys and model" if keep_data else "data, replies, keys and model"
    say(f"This erases {what} in {device.path}. {STAYS}")
    if ledger_too:
        say("THE LEDGER GOES TOO: if this person's data join a federation again, the budget is spent a second time.")
    if not yes and not typer.confirm("Erase them?"):
        raise Interrupted("nothing was erased")
    left = forget_device(device, keep_data=keep_data, ledger_too=ledger_too)
    say(f"Erased. Still in {device.path}: {', '.join(left)}." if left else "Erased, the folder too.")


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))
