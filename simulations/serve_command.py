"""The commands around the service: serve a bundle, and make, list and revoke its tokens. They parse, check and print.

server/serving does the work; without the extra `serve` the commands say how to install it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from hushrec.common.errors import ConfigError

DEFAULT = "<serve>"  # what `hushrec serve RUN_OR_BUNDLE` means; no folder is called so
SERVE_EXAMPLES = (
    "Examples:\n\n"
    "  hushrec serve runs/quickstart --open --runs runs\n\n"
    "  hushrec serve token new --scope read --name shop --tokens tokens.json\n\n"
    "  hushrec serve bundle --host 0.0.0.0 --port 8080 --tokens tokens.json --tls-cert cert.pem --tls-key key.pem\n\n"
    "  hushrec serve bundle --tokens tokens.json --workers 2 --edge edge"
)
TOKEN_EXAMPLES = (
    "Examples:\n\n"
    "  hushrec serve token new --scope read --name shop --tokens tokens.json\n\n"
    "  hushrec serve token new --scope read --scope items --scope admin --name deploy --tokens tokens.json\n\n"
    "  hushrec serve token list --tokens tokens.json\n\n"
    "  hushrec serve token revoke shop --tokens tokens.json"
)


class _ServeGroup(TyperGroup):
    """`serve token ...` is a command of its own; anything else is what is to be served."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return "" if name == DEFAULT else name, command, rest  # the usage line shows what people type


serve_app = typer.Typer(cls=_ServeGroup, help="Serve recommendations over HTTP, and the page in the browser.")
token_app = typer.Typer(no_args_is_help=True, help="Make, list and revoke the service's tokens.", epilog=TOKEN_EXAMPLES)
serve_app.add_typer(token_app, name="token")

TokensFile = Annotated[Path, typer.Option("--tokens", metavar="FILE", help="Where the hashes of the tokens are.")]


@serve_app.command(DEFAULT, epilog=SERVE_EXAMPLES, hidden=True)
def serve(
    target: Annotated[Path, typer.Argument(metavar="RUN_OR_BUNDLE")],
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="What to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where to listen.")] = 8080,
    tokens: Annotated[Path | None, typer.Option(metavar="FILE", help="Of: hushrec serve token new.")] = None,
    open_: Annotated[bool, typer.Option("--open", help="No tokens: every program of this machine may ask.")] = False,
    edge: Annotated[Path | None, typer.Option(metavar="DIR", help="Of hushrec export: what devices fetch.")] = None,
    runs: Annotated[Path | None, typer.Option(metavar="DIR", help="Run directories that the page shows.")] = None,
    federations: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Operators' folders that the page shows.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes; they share the vectors.")] = 1,
    items: Annotated[Path | None, typer.Option(metavar="FILE", help="Keeps items that are put at run time.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key, PEM.")] = None,
) -> None:
    """Serve recommendations over HTTP, and a page in the browser.

    RUN_OR_BUNDLE is a run directory or a bundle folder. A new bundle in its place is taken without a dropped request;
    one that is damaged or makes no privacy claim is refused, and the old one stays. Nothing of a request is kept.
    `hushrec serve token --help` shows how tokens are made.
    """
    try:
        from hushrec.server.serving.listening import listen, listen_with_workers, port_is_free
        from hushrec.server.serving.service import RecommendationService, ServeSettings
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("hushrec"):
            raise
        raise ConfigError(f"hushrec serve needs {error.name}: pip install 'hushrec[serve]'") from error
    paths = {
        "tokens": tokens,
        "edge": edge,
        "runs": runs,
        "federations": federations,
        "items": items,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
    }
    settings = ServeSettings(
        target=str(target.absolute()),
        host=host,
        port=port,
        open=open_,
        workers=workers,
        **{name: "" if path is None else str(path.absolute()) for name, path in paths.items()},
    )
    settings.check()
    if not port_is_free(host, port):
        raise ConfigError(f"cannot listen on {host}, port {port}: it is in use or not this machine's; choose --port")
    console = Console(stderr=True)
    with console.status("reading the bundle; the catalogue of a new one is encoded first"):
        service = RecommendationService(settings)
    found = service.holder.current
    console.print(f"{found.experiment}: {len(found.catalog):,} items.", highlight=False, markup=False)
    console.print(f"Page: {settings.address}  API: {settings.address}docs", highlight=False, markup=False)
    if workers == 1:
        listen(settings, service)
    else:
        service.close()
        del service, found  # each worker opens its own
        listen_with_workers(settings)


@token_app.command("new", epilog=TOKEN_EXAMPLES)
def new(
    scope: Annotated[list[str], typer.Option(metavar="read|items|admin", help="What it may do; repeatable.")],
    tokens: TokensFile,
    name: Annotated[str, typer.Option(metavar="NAME", help="For people and the log.")] = "",
    per_minute: Annotated[int, typer.Option(min=1, help="Requests per minute.")] = 600,
) -> None:
    """Make a token and print it once; only its hash is kept."""
    from hushrec.server.serving.tokens import new_token, read_tokens

    name = name or f"token-{len(read_tokens(tokens)) + 1 if tokens.exists() else 1}"
    made = new_token(tokens, name, scope, per_minute)
    typer.echo(made)
    Console(stderr=True).print(
        f"{name}: {', '.join(scope)}. It is shown this once; {tokens} keeps its hash.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


@token_app.command("list", epilog=TOKEN_EXAMPLES)
def list_tokens(tokens: TokensFile) -> None:
    """Show names, scopes and rates; nobody can show a token again."""
    from hushrec.server.serving.tokens import read_tokens

    for entry in read_tokens(tokens):
        typer.echo(f"{entry.name}\t{','.join(entry.scopes)}\t{entry.per_minute} per minute")


@token_app.command("revoke", epilog=TOKEN_EXAMPLES)
def revoke(name: Annotated[str, typer.Argument(metavar="NAME")], tokens: TokensFile) -> None:
    """Refuse a token from the next second on."""
    from hushrec.server.serving.tokens import revoke_token

    revoke_token(tokens, name)
    typer.echo(f"{name} is revoked")
