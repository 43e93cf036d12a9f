"""The command leakcheck: it names the files, prints one line per check and answers with an exit code.

It computes nothing; server/score_checks.py does, and docs/leakcheck.md explains every check.
"""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:  # pandas takes a while to import: the command loads it when it runs
    from hushrec.server.leakcheck import LeakCheck
    from hushrec.server.score_checks import ScoreReport

LEAKCHECK_EXAMPLES = (
    "SCORES has a line for every scored candidate: each test user's held-out item and the negatives, or all items. "
    "Columns (any order, others are ignored):\n\n"
    "  user,item,score,label\n\n"
    "  u1,i7,0.93,1\n\n"
    "  u1,i2,0.41,0\n\n"
    "Files end in .csv (comma, UTF-8, a header line) or .parquet. Exit code: 0 no leak found, 1 LEAK, 2 unusable "
    "input.\n\n"
    "Examples:\n\n"
    "  hushrec leakcheck scores.csv\n\n"
    "  hushrec leakcheck scores.csv --train train.csv --negatives negatives.csv\n\n"
    "  hushrec leakcheck scores.parquet --truth test.csv --train train.csv --json"
)
_WIDTH = 80
_STYLES = {"LEAK": "bold red", "cannot tell": "yellow", "no leak found": "green"}


def leakcheck(
    scores: Annotated[Path, typer.Argument(metavar="SCORES", help="Columns user, item, score and label.")],
    truth: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Held-out test items: user, item; instead of label.")
    ] = None,
    train: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Interactions used in training: user, item.")
    ] = None,
    negatives: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Negatives that training drew: user, item[, count].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Is the evaluation of a recommender believable? Leak tests on the scores of anybody's system.

    Each check ends in "no leak found", "LEAK" or "cannot tell", with what was measured. The more files are given, the
    more is checked; the leak that matters most, negatives that avoid the test items, needs --negatives.
    """
    from hushrec.server.score_checks import check_scores
    from hushrec.server.score_lists import read_score_lists

    with Console(stderr=True).status("reading the files") as status:
        lists = read_score_lists(scores, truth=truth, train=train, negatives=negatives)
        status.update(f"checking {len(lists):,} lists")
        report = check_scores(lists)
    leaks = any(check.leaks for check in report.checks)
    if as_json:
        facts = {"scores": str(scores), "users": len(lists), "rows": len(lists.item)}
        typer.echo(json.dumps(facts | _as_json(report), indent=1, ensure_ascii=False, allow_nan=False))
    else:
        _show(report, f"{scores}: {len(lists):,} test users, {len(lists.item):,} scored candidates")
    raise typer.Exit(int(leaks))


def overall(report: ScoreReport) -> str:
    """The verdict in one line."""
    by_verdict = {name: [c.name for c in report.checks if c.verdict == name] for name in _STYLES}
    untold = by_verdict["cannot tell"]
    limits = f"; cannot tell: {', '.join(untold)}" if untold else ""
    if by_verdict["LEAK"]:
        return f"LEAK: {', '.join(by_verdict['LEAK'])}{limits}"
    return f"no leak found in {len(by_verdict['no leak found'])} of {len(report.checks)} checks{limits}"


def check_line(check: LeakCheck) -> str:
    """One check as "verdict: name: what was measured (p)"."""
    p_value = "" if check.p_value is None else f" (p {_probability(check.p_value)})"
    return f"{check.verdict}: {check.name}: {check.detail}{p_value}"


def _probability(p_value: float) -> str:
    return "< 0.0001" if p_value < 1e-4 else f"= {p_value:.2g}"


def _as_json(report: ScoreReport) -> dict[str, Any]:
    checks = [{"name": check.name, "verdict": check.verdict} | dataclasses.asdict(check) for check in report.checks]
    finite = [
        {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in check.items()}
        for check in checks
    ]
    leaks = any(check.leaks for check in report.checks)
    return {
        "verdict": "LEAK" if leaks else "no leak found",
        "summary": overall(report),
        "figures": report.figures,
        "checks": finite,
    }


def _show(report: ScoreReport, head: str) -> None:
    out = Console()

    def show(text: str, style: str = "") -> None:
        for line in textwrap.wrap(text, _WIDTH, subsequent_indent="    ", break_on_hyphens=False):
            out.print(line, style=style, markup=False, highlight=False, soft_wrap=True)

    show(head, "bold")
    for name, figures in report.figures.items():
        parts = [
            f"{key} {value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]" for key, value in figures.items()
        ]
        show(f"{name}: {', '.join(parts)}")
    out.print()
    for check in report.checks:
        show(check_line(check), _STYLES[check.verdict] if check.leaks else "")
    out.print()
    verdict = overall(report)
    show(verdict, _STYLES["LEAK" if verdict.startswith("LEAK") else "no leak found"])
