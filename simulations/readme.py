"""Keep README.md's tables equal to the committed results: rewrite what stands between its markers.

    python -m hushrec.simulations.readme [README.md]

A marker line `<!-- results: NAME -->` opens a table of simulations/results/NAME.json, `<!-- end -->` closes it;
`<!-- ablation: NAME -->` opens one that `hushrec ablation --out` wrote.
This file writes no prose.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from hushrec.common.errors import DataError
from hushrec.simulations.ablation import ablation_markdown
from hushrec.simulations.table import markdown_table

_ABLATION = re.compile(r"<!-- ablation: (?P<name>[\w-]+) -->\n.*?<!-- end -->", re.DOTALL)
_BLOCK = re.compile(r"<!-- results: (?P<name>[\w-]+) -->\n.*?<!-- end -->", re.DOTALL)


def with_tables(text: str, results: Path) -> str:
    """`text` with every marked table made again from `results`/NAME.json.

    Raises:
        DataError: a marker names a result that is not there.
    """
    text = _ABLATION.sub(lambda block: _ablation_block(block["name"], results), text)
    return _BLOCK.sub(lambda block: _block(block["name"], results), text)


def facts_line(results: dict[str, Any]) -> str:
    """One line under a table: data, privacy, seconds and size of an update."""
    privacy, cost, dataset = results["privacy"], results["cost"], results["dataset"]
    if privacy["mechanism"] == "none":
        promise = "**no privacy**"
    else:
        promise = (
            f"ε = {privacy['epsilon']:.2f} per {privacy['unit']} at δ = {privacy['delta']:g} ({privacy['accountant']})"
        )
        if privacy.get("user_epsilon") is not None:
            promise += f", per user {privacy['user_epsilon']:.1f}"
    size = f"{cost['bytes_up_per_client_round']:,} bytes up per client-round"
    if released := cost.get("bytes_up_per_client_in_releases"):
        size += f" and {released:,} before round 1"
    return (
        f"{dataset['name']}, {dataset['clients']} clients, {promise}; training {cost['seconds']:.0f} s "
        f"({cost['seconds_per_round']:.2f} s a round), {size}, "
        f"peak {cost['peak_rss_mb']:.0f} MB."
    )


def _ablation_block(name: str, folder: Path) -> str:
    return f"<!-- ablation: {name} -->\n{ablation_markdown(_read(name, folder)).strip()}\n<!-- end -->"


def _read(name: str, folder: Path) -> dict[str, Any]:
    path = folder / f"{name}.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"README.md shows {name}, but {path} cannot be read: {error}") from error
    return found


def _block(name: str, folder: Path) -> str:
    results = _read(name, folder)
    return f"<!-- results: {name} -->\n{markdown_table(results).strip()}\n\n{facts_line(results)}\n<!-- end -->"


def main() -> None:
    """Rewrite the file in place."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "README.md")
    results = path.resolve().parent / "simulations" / "results"
    path.write_text(with_tables(path.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main()
