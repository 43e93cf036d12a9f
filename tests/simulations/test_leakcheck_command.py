"""`hushrec leakcheck`: files in, one line per check out, and the exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hushrec.simulations import cli

Run = Callable[..., tuple[int | str | None, str, str]]


@pytest.fixture
def leakcheck(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """`hushrec leakcheck ARGUMENTS...` in this process and an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int | str | None, str, str]:
        monkeypatch.setattr(sys, "argv", ["hushrec", "leakcheck", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        written = capsys.readouterr()
        return ended.value.code, written.out, written.err

    return run


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """60 users, 80 items: random scores; negatives drawn uniformly (fair) or never from the test item (spared)."""
    rng = np.random.default_rng(0)
    rows: dict[str, list[str]] = {name: [] for name in ("scores", "plain", "truth", "train", "fair", "spared")}
    for user in range(60):
        listed = rng.permutation(80)
        trained, test, others = listed[:10], listed[10], listed[11:41]
        for item in rng.permutation(np.append(others, test)):
            rows["plain"].append(f"u{user},{item},{rng.random()}")
            rows["scores"].append(f"{rows['plain'][-1]},{int(item == test)}")
        rows["truth"].append(f"u{user},{test}")
        rows["train"] += [f"u{user},{item}" for item in trained]
        rows["fair"] += [f"u{user},{item}" for item in rng.choice(listed[10:], 300)]
        rows["spared"] += [f"u{user},{item}" for item in rng.choice(listed[11:], 300)]
    heads = {"scores": "user,item,score,label", "plain": "user,item,score"}
    for name, lines in rows.items():
        (tmp_path / f"{name}.csv").write_text("\n".join([heads.get(name, "user,item"), *lines]) + "\n")
    return tmp_path


def test_a_clean_evaluation_exits_with_0_and_says_what_was_not_checked(files: Path, leakcheck: Run) -> None:
    code, out, err = leakcheck("scores.csv")
    assert (code, err) == (0, "")
    assert "60 test users, 1,860 scored candidates" in out
    assert "no leak found in 6 of 12 checks; cannot tell: test items in training" in out
    assert "LEAK" not in out
    code, out, _ = leakcheck("scores.csv", "--train", "train.csv", "--negatives", "fair.csv")
    assert code == 0
    assert "no leak found: own draws" in out


def test_a_leak_exits_with_1_and_is_named(files: Path, leakcheck: Run) -> None:
    code, out, _ = leakcheck("scores.csv", "--train", "train.csv", "--negatives", "spared.csv")
    assert code == 1
    assert "LEAK: own draws: ranking candidates by how rarely the user's own" in out
    assert "LEAK: own draws" in out.splitlines()[-1]
    assert "(p < 0.0001)" in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_json_holds_every_check_and_no_nan(files: Path, leakcheck: Run) -> None:
    code, out, _ = leakcheck("plain.csv", "--truth", "truth.csv", "--negatives", "spared.csv", "--json")
    found = json.loads(out, parse_constant=pytest.fail)
    assert (code, found["verdict"], found["users"], found["rows"]) == (1, "LEAK", 60, 1860)
    by_name = {check["name"]: check for check in found["checks"]}
    assert len(by_name) == 12
    assert by_name["own draws"]["verdict"] == "LEAK"
    assert by_name["popularity"]["verdict"] == "cannot tell"
    assert by_name["popularity"]["value"] is None
    assert found["figures"]["random"]["HR@10"]["mean"] == pytest.approx(10 / 31)


def test_labels_in_a_file_of_their_own_give_the_same_figures(files: Path, leakcheck: Run) -> None:
    both = [json.loads(leakcheck(*a, "--json")[1]) for a in (["scores.csv"], ["plain.csv", "--truth", "truth.csv"])]
    assert both[0]["figures"] == both[1]["figures"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["gone.csv"], "gone.csv: no such file"),
        (["scores.txt"], "ends in .csv or .parquet"),
        (["plain.csv"], "no column 'label'"),
        (["scores.csv", "--truth", "truth.csv"], "leave out --truth"),
        (["scores.csv", "--train", "empty.csv"], "empty.csv: the file is empty"),
        (["truth.csv"], "expected a column 'score'"),
    ],
)
def test_unusable_input_is_one_line_and_exit_code_2(
    arguments: list[str], says: str, files: Path, leakcheck: Run
) -> None:
    (files / "empty.csv").write_text("")
    code, out, err = leakcheck(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert says in err


def test_the_help_shows_the_columns_and_examples(leakcheck: Run) -> None:
    code, out, _ = leakcheck("--help")
    assert code == 0
    for text in ("user,item,score,label", "hushrec leakcheck scores.csv --train", "--negatives", "--truth", "--json"):
        assert text in out
