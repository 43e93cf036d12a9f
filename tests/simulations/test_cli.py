"""The command `hushrec`: what it accepts, and that every bad input is one line, exit code 2 and no traceback."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import click
import pytest
import typer

from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError
from hushrec.simulations import cli


@dataclass(frozen=True)
class Ended:
    code: int | str | None
    out: str
    err: str


@pytest.fixture
def hush(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Ended]:
    """`hushrec ARGUMENTS...` in this process, in an empty working directory."""

    def run(*arguments: object) -> Ended:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["hushrec", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            cli.main()
        written = capsys.readouterr()
        return Ended(ended.value.code, written.out, written.err)

    return run


def plain(text: str) -> str:
    """Without colours, frames and line breaks."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", "", text).split())


def test_the_experiments_are_listed_with_what_they_are(hush: Callable[..., Ended]) -> None:
    ended = hush("simulate", "--list")
    assert ended.code == 0
    names = [line.split()[0] for line in ended.out.splitlines() if line and not line.startswith(" ")]
    assert {"quickstart", "smoke"} <= set(names)
    for name in names:
        assert len(cli._first_comment(name)) > 20


def test_every_option_accepts_its_own_default() -> None:
    """Left out, an option must not be refused for what nobody gave."""
    waiting: list[tuple[str, click.Command]] = [("hushrec", typer.main.get_command(cli.app))]
    checked = 0
    while waiting:
        name, command = waiting.pop()
        if isinstance(command, click.Group):
            waiting += [(f"{name} {part}", command.commands[part]) for part in command.commands]
        for option in command.params:
            if isinstance(option, click.Option) and option.default is not None and not callable(option.default):
                assert option.type_cast_value(click.Context(command), option.default) is not None, (name, option.name)
                checked += 1
    assert checked > 60


def test_every_packaged_experiment_is_a_valid_configuration_that_names_itself() -> None:
    for name in cli.experiment_names():
        assert cli.load_experiment(name, []).run.experiment == name


def test_help_shows_examples_and_every_option(hush: Callable[..., Ended]) -> None:
    top, simulate = hush("--help"), hush("simulate", "--help")
    assert (top.code, simulate.code) == (0, 0)
    assert "Start with: hushrec simulate" in plain(top.out)
    for text in ("Examples:", "hushrec simulate --resume runs/silos", "--set", "--out", "--json", "--list"):
        assert text in plain(simulate.out)


def test_examples_in_the_help_name_experiments_and_settings_that_exist(hush: Callable[..., Ended]) -> None:
    text = plain(hush("simulate", "--help").out).split("Examples:")[1]
    named = re.findall(r"hushrec simulate ((?!--|hushrec)[\w-]+)", text)
    assert set(named) <= set(cli.experiment_names())
    for override in re.findall(r"--set ([\w.-]+=\S+)", text):
        assert override.split("=")[0] in RunConfig().to_flat()


def test_the_version_is_the_packages(hush: Callable[..., Ended]) -> None:
    ended = hush("--version")
    assert (ended.code, ended.out.strip()) == (0, f"hushrec {version('hushrec')}")


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        (["simulate", "smok"], "ConfigError", "no experiment 'smok'; known: "),
        (["simulate", "none.toml"], "ConfigError", "no experiment file none.toml"),
        (["simulate", "smoke", "--set", "privacy.epsilon=3"], "ConfigError", "unknown key 'privacy.epsilon' in smoke"),
        (["simulate", "smoke", "--set", "train.windw=3"], "ConfigError", "did you mean 'train.window'?"),
        (["simulate", "smoke", "--set", "train.window=many"], "ConfigError", "a whole number, got 'many'"),
        (["simulate", "smoke", "--set", "privacy.target-epsilon=-1"], "ConfigError", "privacy.target-epsilon at least"),
        (["simulate", "smoke", "--set", "privacy.target-epsilon=nan"], "ConfigError", "got nan"),
        (["simulate", "smoke", "--set", "privacy.mechanism=laplace"], "ConfigError", "one of none, gaussian"),
        (["simulate", "smoke", "--set", "rounds"], "ConfigError", "expected --set key=value, got 'rounds'"),
        (
            ["simulate", "smoke", "--set", "data.name=recbole", "--set", "data.folder=/no/where"],
            "DataError",
            "/no/where",
        ),
        (["simulate", "smoke", "--set", "data.name=nothing"], "ConfigError", "nothing"),
        (["simulate", "smoke", "--set", "privacy.unit=user"], "ConfigError", "silos"),
        (["simulate", "smoke", "--out", "used"], "ConfigError", "used is not an empty folder; choose another --out"),
        (["simulate", "smoke", "--out", "used/file"], "ConfigError", "not an empty folder; choose another --out"),
        (["simulate", "smoke", "--out", "used/file/run"], "ConfigError", "choose another --out"),
        (["simulate", "smoke", "--out", "x" * 300], "ConfigError", "choose another --out"),
        (["simulate", "--resume", "used"], "ConfigError", "used is no run directory"),
        (["simulate", "--resume", "gone"], "ConfigError", "gone is no run directory"),
        (["simulate", "--resume", "used", "--set", "run.seed=1"], "ConfigError", "leave out --set and --out"),
        (["simulate", "broken.toml"], "ConfigError", "cannot read broken.toml"),
        (["simulate", "flat.toml"], "ConfigError", "'window' stands outside a table"),
        (["simulate", "latin.toml"], "ConfigError", "cannot read latin.toml"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_unusable_input_is_one_line_on_stderr_and_exit_code_2(
    arguments: list[str], kind: str, says: str, hush: Callable[..., Ended], tmp_path: Path
) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("mine")
    (tmp_path / "broken.toml").write_text("[train\nwindow = 3")
    (tmp_path / "flat.toml").write_text("window = 3")
    (tmp_path / "folder.toml").write_text('[data]\nname = "recbole"\nfolder = "/no/where"')
    (tmp_path / "latin.toml").write_bytes(b'[data]\nname = "caf\xe9"\n')
    before = sorted(path.name for path in tmp_path.rglob("*"))
    ended = hush(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.count("\n") == 1, ended.err
    assert ended.err.startswith(f"error: {kind}: ")
    assert says in ended.err
    assert sorted(path.name for path in tmp_path.rglob("*")) == before  # nothing was begun


@pytest.mark.parametrize("arguments", [["simulate", "--rounds", "3"], ["train"], ["simulate", "a", "b"], ["--nothing"]])
def test_a_wrong_use_is_explained_and_exits_with_2(arguments: list[str], hush: Callable[..., Ended]) -> None:
    ended = hush(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert "Usage: hushrec" in ended.err
    assert "Traceback" not in ended.err


def test_overrides_are_applied_in_order_over_the_experiment_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[data]\nname = "synthetic"\n[train]\nwindow = 7\n')
    config = cli.load_experiment(str(path), ["train.window=8", "train.window=9", "run.seed=4", "model.dtype=float32"])
    assert (config.train.window, config.run.seed, config.model.dtype, config.run.experiment) == (
        9,
        4,
        "float32",
        "mine",
    )
    with pytest.raises(ConfigError, match=r"mine\.toml and --set"):
        cli.load_experiment(str(path), ["train.window=1"])


def test_json_of_a_finished_run_is_all_that_stands_on_stdout(hush: Callable[..., Ended], smoke_run: Path) -> None:
    ended = hush("simulate", "--resume", smoke_run, "--json")
    assert ended.code == 0
    assert json.loads(ended.out) == json.loads((smoke_run / "results.json").read_text())
    assert "is finished already" in ended.err


def test_a_finished_run_is_shown_with_its_table_its_epsilon_and_its_report(
    hush: Callable[..., Ended], smoke_run: Path
) -> None:
    ended = hush("simulate", "--resume", smoke_run)
    results = json.loads((smoke_run / "results.json").read_text())
    assert ended.code == 0
    for name in results["systems"]:
        assert name in ended.out
    assert f"epsilon {results['privacy']['epsilon']:.2f}" in ended.out
    assert f"Report: {smoke_run / 'report.html'}" in ended.out


def test_a_report_that_was_lost_is_written_again(hush: Callable[..., Ended], smoke_run: Path) -> None:
    report = smoke_run / "report.html"
    content = report.read_bytes()
    report.unlink()
    assert hush("simulate", "--resume", smoke_run, "--json").code == 0
    assert report.read_bytes() == content


def test_a_whole_run_prints_json_on_stdout_and_its_progress_on_stderr(
    hush: Callable[..., Ended], tiny: Callable[..., RunConfig], tmp_path: Path
) -> None:
    (tmp_path / "tiny.toml").write_text(tiny(privacy__mechanism="none", federation__rounds=1).to_toml())
    folder = tmp_path / "a [bold]run[/bold] here"
    ended = hush("simulate", "tiny.toml", "--json", "--out", folder)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out) == json.loads((folder / "results.json").read_text())
    assert "NO PRIVACY" in ended.err
    assert f"run directory: {folder}" in ended.err  # as it is, not as markup
    assert "validation NDCG@10" in ended.err


def test_a_run_without_a_given_folder_gets_one_of_its_own_in_runs(
    hush: Callable[..., Ended], tiny: Callable[..., RunConfig], tmp_path: Path
) -> None:
    flat = tiny(privacy__mechanism="none", federation__rounds=0)
    (tmp_path / "tiny.toml").write_text(flat.to_toml())
    assert hush("simulate", "tiny.toml").code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"tiny-\d{8}-\d{6}", folder.name)


def test_an_error_that_nobody_planned_for_keeps_its_traceback(
    hush: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[str]:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "experiment_names", broken)
    monkeypatch.setattr(sys, "argv", ["hushrec", "simulate", "--list"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_an_interrupt_outside_of_training_is_one_word(
    hush: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hushrec.simulations.audit.command._audited", interrupted)
    ended = hush("audit", "somewhere")
    assert (ended.code, ended.err.strip(), ended.out) == (130, "interrupted", "")


def test_the_installed_command_and_its_module_start_without_loading_torch() -> None:
    """Help and mistakes are answered at once."""
    program = "import sys; from hushrec.simulations import cli; print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    script = Path(sys.executable).with_name("hushrec")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"hushrec {version('hushrec')}"
