"""What the README promises exists: commands, experiments, settings and files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer.main

from hushrec.common.config import RunConfig
from hushrec.simulations.cli import app, experiment_names
from hushrec.simulations.readme import with_tables

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COMMANDS = re.compile(r"hushrec ([a-z]+)((?: +(?:\"[^\"]*\"|[^\s`|&\"()]+))*)")


def commands(path: Path) -> list[tuple[str, list[str]]]:
    """(command, words after it) of every `hushrec ...` in the document."""
    text = path.read_text(encoding="utf-8")
    code = [*re.findall(r"```(?:bash|sh|text)?\n(.*?)```", text, re.S), *re.findall(r"`([^`\n]+)`", text)]
    return [(name, rest.split()) for block in code for name, rest in COMMANDS.findall(block)]


def ids(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_readme_is_there() -> None:
    assert ROOT / "README.md" in DOCUMENTS
    assert commands(ROOT / "README.md")


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_every_command_that_is_named_exists(path: Path) -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert {name for name, _ in commands(path)} <= known


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_every_experiment_that_is_named_exists(path: Path) -> None:
    simulated = [rest[0] for name, rest in commands(path) if name == "simulate" and rest]
    named = {word for word in simulated if re.fullmatch(r"[a-z0-9][\w-]*", word)}
    named |= set(re.findall(r"<!-- results: ([\w-]+)", path.read_text(encoding="utf-8")))
    assert named <= set(experiment_names())


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_every_setting_that_is_named_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    keys = {key for _, rest in commands(path) for key in re.findall(r"--set ([\w.-]+)=", " ".join(rest))}
    sections = "|".join(sorted({key.split(".")[0] for key in RunConfig().to_flat()} - {"run"}))
    keys |= set(re.findall(rf"`((?:{sections})\.[a-z][a-z0-9-]*)(?: = [^`]*)?`", text))
    files = {key for key in keys if re.search(r"\.(py|md|toml|json|jsonl|safetensors|html)$", key)}
    assert keys - files <= set(RunConfig().to_flat())


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_every_file_that_is_linked_or_named_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    linked = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in linked if link and not (path.parent / link).exists()]
    named = re.findall(r"(?<![\w/.-])((?:server|client|common|simulations|docs|tests)/[\w/]+\.\w+)", text)
    missing += [name for name in named if not (ROOT / name).exists()]
    assert missing == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=ids)
def test_no_machine_is_named(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(?:work|root|home|tmp|Users)/", text)


def test_every_table_of_the_readme_is_the_committed_result() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("<!-- results: ") >= 5
    assert with_tables(text, ROOT / "simulations" / "results") == text


@pytest.mark.parametrize("path", sorted((ROOT / "simulations" / "results").glob("*.json")), ids=lambda path: path.stem)
def test_every_committed_result_names_its_experiment_and_no_machine_path(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert json.loads(text)["experiment"] in experiment_names()
    assert not re.search(r"\"/(?:work|root|home|tmp|Users)/", text)
