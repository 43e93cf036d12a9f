"""`hushrec server`: the operator's commands. They parse, show and print; what they do is in the files beside.

Results go to stdout, progress to stderr; errors are one line, which the program that registers them prints.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError, Interrupted
from hushrec.server.deployment.display import rounds_bar, say, show_json, show_table, status_rows, working
from hushrec.server.deployment.folder import open_folder

Resolve = Callable[[str, list[str]], RunConfig]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The operator's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting; repeatable.")
]

EXAMPLES = (
    "Examples:\n\n"
    "  hushrec server init fed --experiment shop.toml --host rec.example.org --devices 500\n\n"
    "  hushrec server start fed\n\n"
    "  hushrec server enroll fed annas-phone node_key.pub\n\n"
    "  hushrec server run fed --nodes 3\n\n"
    "  hushrec server status fed"
)


def server_app(resolve: Resolve) -> typer.Typer:
    """The commands.

    Args:
        resolve: the configuration of an experiment's name or file, with `key=value` overrides.
    """
    app = typer.Typer(
        no_args_is_help=True, help="Serve a real federation to devices.", epilog=EXAMPLES, rich_markup_mode="rich"
    )
    app.command("init")(_init(resolve))
    app.command("run")(_run(resolve))
    for command in (start, stop, status, enroll, revoke, invite, renew):
        app.command()(command)
    app.command("list")(list_nodes)
    return app


def _init(resolve: Resolve) -> Callable[..., None]:
    def init(
        folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
        experiment: Annotated[str, typer.Option(help="A packaged experiment or a .toml file.")],
        host: Annotated[str, typer.Option(help="Name or IP address by which devices reach this server.")],
        name: Annotated[str, typer.Option(help="Of the federation, for people; default: the folder's name.")] = "",
        port: Annotated[int, typer.Option(help="The public port.")] = 8443,
        address: Annotated[str, typer.Option(metavar="IP,...", help="Further IP addresses of the server.")] = "",
        listen: Annotated[str, typer.Option(metavar="IP", help="Local address of the public port.")] = "0.0.0.0",
        devices: Annotated[
            int, typer.Option(min=0, help="How many will be enrolled; default: as many as are asked in a round.")
        ] = 0,
        set_: Overrides = None,
    ) -> None:
        """Make the folder of a new federation: keys, certificates, Flower's app, and the invitation for devices.

        The experiment's data set is your own public catalogue and panel; nothing of it but the catalogue leaves.
        """
        from hushrec.common.invitation import read_invitation
        from hushrec.server.deployment import federation
        from hushrec.server.deployment.folder import ServerSettings

        addresses = tuple(part.strip() for part in address.split(",") if part.strip())
        chosen = name or folder.absolute().name
        settings = ServerSettings(chosen, host, port, listen=listen, addresses=addresses, devices=devices)
        config = resolve(experiment, set_ or [])
        with working("making the federation"):
            made = federation.init_folder(folder, settings, config)
        invitation = read_invitation(made.invitation)
        say(f"federation {invitation.federation} at {invitation.server}, {len(invitation.catalog)} items")
        say(*federation.privacy_words(invitation.config, made.settings().devices))
        say(*federation.send_words(invitation, made.invitation))
        say(f"start it with: hushrec server start {folder}")

    return init


def _run(resolve: Resolve) -> Callable[..., None]:
    def run(
        folder: Folder,
        experiment: Annotated[str, typer.Argument(help="Checked against what devices pinned.")] = "",
        nodes: Annotated[int, typer.Option(min=0, help="Wait until so many are online; default: of init.")] = 0,
        end: Annotated[bool, typer.Option("--stop", help="End the run; its finished rounds stay.")] = False,
        set_: Overrides = None,
    ) -> None:
        """Train, or go on where the last run stood, and wait until it is done. Ctrl-C leaves it running."""
        from hushrec.server.deployment import federation, training

        opened = open_folder(folder)
        if end:
            stopped = training.stop_runs(opened)
            say(f"stopped run {', '.join(map(str, stopped))}" if stopped else "no run goes on")
            return
        config = opened.config()
        if experiment or set_:
            other = resolve(experiment, set_ or []) if experiment else config
            asked = federation.deployed_config(other, opened.settings().devices, opened.run)
            federation.refuse_other_constants(config, asked)
        done = f"all {config.federation.rounds} rounds are done; what was learned is in {opened.run}"
        if training.finished_round(opened) == config.federation.rounds:  # no error: a service may ask at every boot
            say(done)
            return
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the run goes on without us
        with working("handing the run to Flower"):
            begun, new = training.begin(opened, config, nodes)
        say(f"run {begun.run_id} {'started' if new else 'goes on already; following it'}", error=True)
        try:
            with rounds_bar(config.federation.rounds, training.finished_round(opened)) as tell:
                training.follow(opened, begun, tell)
        except KeyboardInterrupt:
            raise Interrupted(
                f"run {begun.run_id} goes on; follow it with: hushrec server run {folder}; "
                f"end it with: hushrec server run {folder} --stop"
            ) from None
        say(done)

    return run


def start(
    folder: Folder,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, as systemd wants; Ctrl-C ends all.")] = False,
) -> None:
    """Serve the federation: SuperLink, SuperExec and the public port. What dies is started again."""
    from hushrec.server.deployment import service
    from hushrec.server.deployment.supervisor import Supervisor

    opened = open_folder(folder)
    service.require_linux()
    if foreground:
        say(f"serving {opened.settings().federation} at {opened.settings().address} until Ctrl-C", error=True)
        Supervisor(opened).run()
        return
    with working("starting"):
        service.start(opened)
    say(f"serving {opened.settings().federation} at {opened.settings().address}")


def stop(folder: Folder) -> None:
    """End everything that serves the federation; nothing is lost, a run goes on from its last round later."""
    from hushrec.server.deployment import service

    say("stopped" if service.stop(open_folder(folder)) else "it was not running")


def status(folder: Folder, as_json: Json = False) -> None:
    """Show what runs, who is online, how far training is and what devices refused."""
    from hushrec.server.deployment import service

    facts = service.describe(open_folder(folder))
    if as_json:
        show_json(facts)
        return
    show_table((), status_rows(facts))


def enroll(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="For people: a-z, 0-9 and -.")],
    public_key: Annotated[Path, typer.Argument(metavar="PUBKEY", help="The device's node_key.pub.")],
) -> None:
    """Let a device take part."""
    from hushrec.server.deployment import nodes, service

    opened = open_folder(folder)
    service.require_served(opened)
    node = nodes.enroll(opened, name, public_key)
    say(f"{name} is enrolled as node {node.node_id}, key {node.key}")


def revoke(folder: Folder, name: Annotated[str, typer.Argument(help="As it was enrolled.")]) -> None:
    """Shut a device out for good; it may come back with a new key."""
    from hushrec.server.deployment import nodes, service

    opened = open_folder(folder)
    service.require_served(opened)
    node = nodes.revoke(opened, name)
    say(f"{name} (node {node.node_id}) is shut out")


def list_nodes(folder: Folder, as_json: Json = False) -> None:
    """List the enrolled devices and whether they are online."""
    from hushrec.server.deployment import flower, nodes, service

    opened = open_folder(folder)
    service.require_served(opened)
    states = flower.node_states(opened)
    rows = [
        {
            "name": name,
            "state": "revoked" if node.revoked else states.get(node.node_id, "unknown"),
            "node_id": str(node.node_id),
            "enrolled": node.enrolled,
            "key": node.key,
        }
        for name, node in sorted(nodes.read_nodes(opened).items())
    ]
    if as_json:
        show_json(rows)
        return
    # The keys are too wide for a terminal; --json has them.
    show_table(("name", "state", "node", "enrolled"), [list(row.values())[:4] for row in rows])


def invite(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="Copy the invitation to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Show what to send to device owners, and the fingerprint to tell them."""
    from hushrec.common.invitation import read_invitation
    from hushrec.server.deployment import federation

    opened = open_folder(folder)
    invitation = read_invitation(opened.invitation)
    if out is not None:
        try:
            shutil.copyfile(opened.invitation, out)
        except OSError as error:
            raise ConfigError(f"cannot write {out}: {error.strerror}") from error
    if as_json:
        show_json({"fingerprint": invitation.fingerprint, "file": str(out or opened.invitation)})
        return
    say(*federation.privacy_words(invitation.config, opened.settings().devices))
    say(*federation.send_words(invitation, out or opened.invitation))


def renew(folder: Folder) -> None:
    """Give the server a new key and certificate from the same authority; devices notice nothing."""
    from hushrec.server.deployment import certificates, service
    from hushrec.server.deployment.supervisor import write_server_pair

    opened = open_folder(folder)
    write_server_pair(opened)
    say(
        f"new certificate for {certificates.days_left(opened.server_certificate)} days; {service.restart_words(opened)}"
    )
