"""docs/deployment.md and its units say only what exists: commands parse, options exist, refusals have remedies."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer.main
import yaml
from fastapi.routing import APIRoute

from hushrec.common.config import RunConfig, read_experiment
from hushrec.common.protocol import CODES
from hushrec.server.serving.routes import open_router, router
from hushrec.simulations.cli import app
from hushrec.simulations.serve_command import DEFAULT as SERVE

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "deployment.md"
SERVICE = ROOT / "docs" / "service"
UNITS = sorted((ROOT / "docs" / "systemd").glob("hushrec-*.*"))
SERVICES = [path for path in UNITS if path.suffix == ".service"]
TEXT = DOCUMENT.read_text(encoding="utf-8")
ROOT_COMMAND = typer.main.get_command(app)
TOP = frozenset(vars(ROOT_COMMAND)["commands"])


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)


def words_after_hushrec(line: str) -> list[str] | None:
    """The arguments of a line that runs hushrec, whatever stands before it."""
    words = shlex.split(line, comments=True)
    for place, word in enumerate(words[:-1]):
        if (word == "hushrec" or word.endswith("/bin/hushrec")) and words[place + 1] in TOP:
            return words[place + 1 :]
    return None


def parse(words: list[str]) -> click.Command:
    """The command that the words name, after click took every word of them; nothing is run."""
    command, rest, parent = ROOT_COMMAND, list(words), None
    while hasattr(command, "commands"):
        parent = click.Context(command, parent=parent, info_name=command.name)
        assert rest, f"no command in hushrec {' '.join(words)}"
        if SERVE in command.commands and rest[0] not in command.commands:
            rest.insert(0, SERVE)
        assert rest[0] in command.commands, f"no command {rest[0]} in hushrec {' '.join(words)}"
        command = command.commands[rest.pop(0)]
    command.make_context(command.name, rest, parent=parent)
    return command


def every_command(command: click.Command) -> Iterator[click.Command]:
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from every_command(inner)


def options() -> set[str]:
    parameters = [parameter for command in every_command(ROOT_COMMAND) for parameter in command.params]
    return {option for one in parameters for option in (*one.opts, *one.secondary_opts)} | {"--help"}


LINES = [words for block in blocks("bash") for line in block.splitlines() if (words := words_after_hushrec(line))]


def test_the_document_has_commands_of_both_sides() -> None:
    assert {words[0] for words in LINES} >= {"server", "client", "export"}
    assert {words[1] for words in LINES if words[0] == "client"} >= {"init", "import", "log", "forget", "update"}
    assert {words[1] for words in LINES if words[0] == "server"} >= {"init", "invite", "enroll", "run", "bundle"}


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_every_command_line_parses(words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize("words", [["server", "init", "fed"], ["client", "strat", "d"], ["client", "log", "d", "--no"]])
def test_a_line_that_is_wrong_is_noticed(words: list[str]) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        parse(words)


def test_every_command_and_option_in_running_text_exists() -> None:
    prose = re.sub(r"```.*?```", "", TEXT, flags=re.S)
    known = options()
    named = [
        span
        for span in re.findall(r"`([^`]+)`", prose)
        if not span.startswith(("systemd-analyze", "curl", "python", "kubectl"))
    ]
    flags = {word for span in named for word in re.findall(r"(?<!\S)--[a-z][a-z-]*", span)}
    assert flags, "nothing was found to check"
    assert flags - known == set()
    for span in named:
        if span.startswith("hushrec "):
            path = [word for word in span.split()[1:3] if re.fullmatch("[a-z]+", word)]
            inner = ROOT_COMMAND
            for word in path:
                if not hasattr(inner, "commands"):
                    break
                assert word in inner.commands, span
                inner = inner.commands[word]


def test_every_refusal_code_has_a_row() -> None:
    rows = "\n".join(line for line in TEXT.splitlines() if line.startswith("| `"))
    assert {code for code in CODES if f"`{code}`" not in rows} == set()


def test_the_experiment_file_is_one(tmp_path: Path) -> None:
    (text,) = (block for block in blocks("text") if block.startswith("# films.toml"))
    path = tmp_path / "films.toml"
    path.write_text(text, encoding="utf-8")
    config = RunConfig.from_flat(read_experiment(path), path.name)
    assert (config.federation.rounds, config.privacy.target_epsilon) == (6, 8.0)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_every_unit_is_linked_and_its_sections_are_systemds(path: Path) -> None:
    assert f"(systemd/{path.name})" in TEXT
    unit = read_unit(path)
    assert set(unit.sections()) <= {"Unit", "Service", "Timer", "Install"}
    assert unit["Unit"]["Description"]


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_a_service_runs_hushrec_as_a_user_without_privileges(path: Path) -> None:
    service = read_unit(path)["Service"]
    assert service["User"] not in ("", "root")
    assert (service["NoNewPrivileges"], service["ProtectSystem"], service["PrivateTmp"]) == ("yes", "strict", "yes")
    if (words := words_after_hushrec(service["ExecStart"])) is not None:
        parse(words)
        assert service["MemoryMax"]
        assert "--foreground" in words or words[:2] == ["server", "run"] or words[0] == "serve"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_accepts_the_unit(path: Path, tmp_path: Path) -> None:
    for unit in UNITS:  # units name each other; and a program that exists here stands for the one that will
        text = unit.read_text(encoding="utf-8")
        (tmp_path / unit.name).write_text(re.sub(r"/opt/hushrec/bin/\w+", sys.executable, text), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / path.name)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if "hushrec" in line]) == (0, [])


def test_the_examples_of_the_service_are_linked_and_their_yaml_can_be_read() -> None:
    for path in (ROOT / "docs" / "service").iterdir():
        assert f"(service/{path.name})" in TEXT
    documents = {one["kind"]: one for one in yaml.safe_load_all((SERVICE / "kubernetes.yaml").read_text("utf-8"))}
    assert set(documents) == {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"}
    pod = documents["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    parse(["serve", *container["args"]])
    known = set(build_paths())
    assert {container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "readiness", "liveness")} <= known
    mounted = {mount["name"] for one in (container, *pod["spec"]["initContainers"]) for mount in one["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}
    labels = pod["metadata"]["labels"]
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert documents[kind]["spec"]["selector"]["matchLabels"] == labels
    assert documents["Service"]["spec"]["selector"] == labels
    (port,) = container["ports"]
    assert [one["targetPort"] for one in documents["Service"]["spec"]["ports"]] == [port["name"]]
    target = documents["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", documents["Deployment"]["metadata"]["name"])
    scraped = yaml.safe_load((SERVICE / "prometheus.yml").read_text("utf-8"))
    assert [one["job_name"] for one in scraped["scrape_configs"]] == ["hushrec"]


@pytest.mark.parametrize("name", ["nginx.conf", "haproxy.cfg"])
def test_load_balancers_name_addresses_that_exist_and_keep_no_access_log(name: str) -> None:
    text = (SERVICE / name).read_text("utf-8")
    named = set(re.findall(r"/(?:metrics|readyz|healthz|v1/\S+)\b", text))
    assert named
    assert named <= set(build_paths())
    assert not re.search(r"^\s*(access_log (?!off)|log\s|option httplog)", text, re.M)


def build_paths() -> list[str]:
    """Every address of the service."""
    return [route.path for route in (*router.routes, *open_router.routes) if isinstance(route, APIRoute)]


class UnitFile(configparser.ConfigParser):
    """Names of options as they are written: systemd tells capitals from small letters."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def read_unit(path: Path) -> configparser.ConfigParser:
    unit = UnitFile(interpolation=None, strict=False)  # ExecStart may come twice; the last is read
    unit.read_string(path.read_text(encoding="utf-8"))
    return unit
