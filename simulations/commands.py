"""The commands around a finished run: evaluate, recommend and data. They parse, show and print; they compute nothing.

Results go to stdout, progress to stderr. simulations/cli.py registers them and turns errors into one line.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from hushrec.common.errors import ConfigError

if TYPE_CHECKING:  # flwr and torch take a second to import: commands load them when they run
    from hushrec.common.recommendation import Answer
    from hushrec.simulations.run import Watcher

EVALUATE_EXAMPLES = (
    "Examples:\n\n"
    "  hushrec evaluate runs/quickstart\n\n"
    "  hushrec evaluate runs/quickstart --faithfulness --robustness\n\n"
    "  hushrec evaluate runs/plain --robustness --against runs/adversarial\n\n"
    "  hushrec evaluate runs/quickstart --dial --out dial.png\n\n"
    "  hushrec evaluate runs/quickstart --fairness --wishes\n\n"
    "  hushrec evaluate runs/quickstart --rules rules.toml\n\n"
    "  hushrec evaluate runs/quickstart --data movielens-100k --folder ml-100k\n\n"
    "  hushrec evaluate runs/quickstart --graph text\n\n"
    "  hushrec evaluate bundle --data csv --folder shop --columns user=uid,item=sku --json"
)
RECOMMEND_EXAMPLES = (
    "Examples:\n\n"
    "  hushrec recommend runs/quickstart --history seen.txt\n\n"
    '  hushrec recommend runs/quickstart --query "a recent popular comedy" -n 5\n\n'
    '  hushrec recommend bundle --history seen.txt --profile "teacher, likes history" --discovery 0.5 --json\n\n'
    '  hushrec recommend bundle --query "like Alien before 1985, not horror" --rules rules.toml --group children'
)
DATA_EXAMPLES = "Examples:\n\n  hushrec data list\n\n  hushrec data check recbole --folder data/ml-100k"

data_app = typer.Typer(no_args_is_help=True, help="List and check data sets.", epilog=DATA_EXAMPLES)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Folder = Annotated[str, typer.Option(metavar="DIR", help="Where the files of the data set are.")]
Columns = Annotated[str, typer.Option(metavar="MAP", help="csv only, such as user=uid,item=sku,title=name.")]


def evaluate(
    target: Annotated[Path, typer.Argument(metavar="RUN_OR_BUNDLE")],
    data: Annotated[str, typer.Option(metavar="NAME", help="Another data set; see: hushrec data list.")] = "",
    folder: Folder = "",
    columns: Columns = "",
    protocol: Annotated[str, typer.Option(metavar="joint|p1", help="Default: the protocol of the run.")] = "",
    graph: Annotated[
        Literal["", "none", "attributes", "text", "kg", "all"],
        typer.Option(help="Public item graph under the same adapter; default: the run's."),
    ] = "",
    seed: Annotated[int | None, typer.Option(min=0, help="Of ties, sampled negatives and intervals.")] = None,
    faithfulness: Annotated[
        bool,
        typer.Option("--faithfulness", help="Instead: does a score fall most without the item that a reason names?"),
    ] = False,
    robustness: Annotated[
        bool,
        typer.Option("--robustness", help="Instead: NDCG lost under typos, paraphrase, missing fields, fake items."),
    ] = False,
    against: Annotated[
        Path | None, typer.Option(metavar="RUN", help="With --robustness: beside another run, with paired differences.")
    ] = None,
    dial: Annotated[
        bool, typer.Option("--dial", help="Instead: accuracy and discovery as the popularity weight is turned down.")
    ] = False,
    out_file: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="With --dial: its picture, a PNG or SVG.")
    ] = None,
    fairness: Annotated[
        bool, typer.Option("--fairness", help="Instead: gaps between groups of users, and which items are shown.")
    ] = False,
    wishes: Annotated[
        bool, typer.Option("--wishes", help="Instead: new users who type what they want, against popularity.")
    ] = False,
    rules: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Instead: what a rule file changes; hushrec rules --help."),
    ] = None,
    group_by: Annotated[
        Literal["", "age", "occupation", "gender"], typer.Option(help="With --rules: what its groups of users are.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Evaluate a bundle again beside every control, on the run's own data or on any other data set.

    RUN_OR_BUNDLE is a run directory or a bundle folder. On other data the adapter is applied to the new catalogue as
    it is: nothing is trained, and no file is changed.
    """
    from hushrec.common.splits import PROTOCOLS
    from hushrec.simulations.bundle_evaluation import DataChoice, evaluate_bundle
    from hushrec.simulations.table import results_table, verdict_lines

    if protocol and protocol not in PROTOCOLS:
        raise ConfigError(f"expected --protocol to be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    studies = [name for name, asked in (
        ("faithfulness", faithfulness), ("robustness", robustness), ("dial", dial), ("fairness", fairness),
        ("wishes", wishes), ("rules", rules is not None),
    ) if asked]  # fmt: skip
    if (against and not robustness) or (out_file and not dial) or (group_by and rules is None):
        raise ConfigError("--against goes with --robustness, --out with --dial, and --group-by with --rules")
    if studies:
        if data or folder or columns or protocol or graph:
            raise ConfigError(f"--{studies[0]} measures a run on its own data; leave out the data options and --graph")
        options = {"against": against, "picture": out_file, "rules": rules, "group_by": group_by, "seed": seed}
        _evaluate_options(target, studies, options, as_json)
        return
    with _watcher() as watcher:
        results = evaluate_bundle(
            target, DataChoice(data, folder, columns, protocol, graph), seed=seed, watcher=watcher
        )
    if as_json:
        _print_json(results)
        return
    out = Console()
    out.print(results_table(results))
    for line in verdict_lines(results):
        out.print(line, highlight=False, markup=False)


def _evaluate_options(target: Path, studies: list[str], options: dict[str, Any], as_json: bool) -> None:
    from hushrec.simulations.evaluate_options import measure, show

    with _watcher() as watcher:
        found = measure(target, studies, **options, watcher=watcher)
    if as_json:
        _print_json(found)
    else:
        show(found, Console())


def recommend(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    history: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="One item per line, oldest first: an item id, a title or 'title (year)'."),
    ] = None,
    profile: Annotated[str, typer.Option(metavar="TEXT", help="Who you are, in your words.")] = "",
    query: Annotated[str, typer.Option(metavar="TEXT", help="What you want now; it counts most.")] = "",
    n: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 10,
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
    """Recommend items with reasons, from a history, a profile, a wish or all of them; with none, what is popular.

    BUNDLE is a run directory or a bundle folder. History, profile, interests and query weigh 1, 0.5, 0.5 and 2.
    Genres, years and popularity in a query ("a recent popular comedy", "before 1985, not horror") are held to, and what
    was understood is shown; "like TITLE" asks for items near that one. Nothing you type is written to disk.
    """
    from hushrec.common.bundle import read_bundle
    from hushrec.common.interest_profile import InterestProfile, read_interests
    from hushrec.common.item_names import read_history
    from hushrec.common.rules import read_rules
    from hushrec.common.workspace import encode_catalog
    from hushrec.simulations import recommend as recommender

    if group and rules is None:
        raise ConfigError("--group chooses among the rules of a file: give --rules FILE too")
    found = read_bundle(bundle)
    applied = read_rules(rules).apply(found.catalog, group) if rules else None
    items = read_history(history, found.catalog) if history else recommender.no_history()
    own = read_interests(interests) if interests else InterestProfile()
    with _watcher() as watcher:
        watcher.step("encoding the catalogue")
        encode_catalog(found.model_config, found.catalog, watcher.encoding)
        watcher.step("recommending")
        model, scorer = found.scorer()
        wish = recommender.Wish(items, profile, query, own)
        answer = recommender.recommend(model, scorer, found.catalog, wish, n=n, discovery=discovery, rules=applied)
    if as_json:
        _print_json(dataclasses.asdict(answer) | {"privacy": found.privacy})
        return
    out = Console()
    if answer.understood:
        out.print(f"Understood: {answer.understood}", highlight=False, markup=False)
    out.print(_answer_table(answer))
    if answer.note:
        out.print(f"Note: {answer.note}.", highlight=False, markup=False)


@data_app.command("list")
def list_data(as_json: Json = False) -> None:
    """List the data sets and what each needs."""
    from hushrec.common.datasets import DATASETS

    if as_json:
        _print_json([dataclasses.asdict(entry) for entry in DATASETS.values()])
        return
    table = _plain_table("name", "what it is", "--folder")
    for entry in DATASETS.values():
        table.add_row(Text(entry.name, "bold"), escape(entry.summary), _folder_need(entry.name, entry.needs_folder))
    Console().print(table)


@data_app.command("check", epilog=DATA_EXAMPLES)
def check_data(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    folder: Folder = "",
    columns: Columns = "",
    as_json: Json = False,
) -> None:
    """Read a data set and say what is in it, what was left out and why.

    NAME is one of hushrec data list. The output describes private histories: it stays with whoever holds the data.
    """
    from hushrec.common.datasets import describe, load_dataset

    with _watcher() as watcher:
        watcher.step(f"reading {name}")
        dataset = load_dataset(name, folder=folder, columns=columns)
        lines = describe(dataset)
    if as_json:
        facts = {label: value for label, value in lines if label != "import"}
        _print_json({"facts": facts, "import": dataclasses.asdict(dataset.report)})
        return
    table = _plain_table("", "")
    table.show_header = False
    seen: set[str] = set()
    for label, value in lines:
        table.add_row(Text("" if label in seen else label, "bold"), Text(value))
        seen.add(label)
    Console().print(table)


def _folder_need(name: str, needed: bool) -> str:
    if needed:
        return "needed"
    return "optional" if name in ("movielens-100k", "movielens-1m") else "not taken"


def _answer_table(answer: Answer) -> Table:
    table = _plain_table("#", "title", "genres", "score", "why")
    table.columns[0].justify = table.columns[3].justify = "right"
    for item in answer.recommendations:
        title = f"{item.title} ({item.year})" if item.year >= 0 else item.title
        why = "; ".join(item.reasons)
        table.add_row(
            str(item.rank), Text(title, "bold"), Text(", ".join(item.genres)), f"{item.score:.3f}", Text(why)
        )  # fmt: skip
    return table


def _plain_table(*heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for head in heads:
        table.add_column(head)
    return table


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


@contextmanager
def _watcher() -> Iterator[Watcher]:
    """A line on stderr with what is being done, and a bar while texts are encoded; gone when it is over."""
    from hushrec.simulations.run import Watcher

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        row = progress.add_task("starting", total=None)

        def step(name: str) -> None:
            progress.update(row, description=escape(name), total=None)

        def encoding(done: int, total: int) -> None:
            progress.update(row, completed=done, total=total)

        yield Watcher(step, encoding)
