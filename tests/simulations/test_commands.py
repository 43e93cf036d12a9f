"""Tests of the commands evaluate, recommend and data on an untrained bundle of the synthetic data set."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from hushrec.common.bundle import Bundle, write_bundle
from hushrec.common.config import RunConfig
from hushrec.common.errors import ConfigError, DataError
from hushrec.common.scoring import ScoringChoices
from hushrec.common.workspace import build_model, open_dataset
from hushrec.simulations import commands
from hushrec.simulations.rules_command import rules

app = typer.Typer()
app.command()(rules)
app.command()(commands.evaluate)
app.command()(commands.recommend)
app.add_typer(commands.data_app, name="data")

NO_PRIVACY = {"mechanism": "none", "epsilon": None}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run directory without its training: the configuration and a bundle of the adapter before round 1."""
    folder = tmp_path_factory.mktemp("run")
    overrides: dict[str, Any] = {
        "data.name": "synthetic",
        "data.protocol": "p1",
        "model.head-dim": 16,
        "model.dtype": "float32",
        "privacy.mechanism": "none",
        "run.experiment": "untrained",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUSHREC_CACHE", str(tmp_path_factory.mktemp("cache")))
        config = RunConfig.from_flat(overrides)
        catalog = open_dataset(config.data).catalog
        model = build_model(config.model, catalog)
        prior = (model.prefix.lengths.numpy() * 0.01).astype("float32")
        bundle = Bundle(
            model_config=config.model,
            base_sha256=model.base.sha256,
            catalog=catalog,
            adapter=model.recommender.read(),
            log_popularity=prior,
            choices=ScoringChoices(),
            privacy=NO_PRIVACY,
            experiment="untrained",
        )
        write_bundle(folder / "bundle", bundle)
        (folder / "experiment.toml").write_text(config.to_toml(), encoding="utf-8")
        yield folder


def call(*arguments: object) -> str:
    """Standard output of a command; what it raises comes through."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    if result.exit_code:
        raise AssertionError(result.output)
    return result.stdout


def test_recommend_prints_titles_and_reasons(run: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen.txt"
    seen.write_text("s000\ns001\n", encoding="utf-8")
    before = sorted(run.rglob("*"))
    out = call("recommend", run, "--history", seen, "--query", "a lonely western", "-n", 3)
    assert "Understood: western" in out
    assert "matches: a" in out
    assert sorted(run.rglob("*")) == before


def test_recommend_as_json_is_nothing_but_json(run: Path) -> None:
    found = json.loads(call("recommend", run / "bundle", "--profile", "likes space", "-n", 4, "--json"))
    assert [item["rank"] for item in found["recommendations"]] == [1, 2, 3, 4]
    assert all(item["reasons"] for item in found["recommendations"])
    assert found["privacy"] == NO_PRIVACY


def test_recommend_with_nothing_says_that_it_shows_what_is_popular(run: Path) -> None:
    assert "most popular items" in " ".join(call("recommend", run, "-n", 1).split())


def test_recommend_names_file_and_line_of_an_unknown_title(run: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen.txt"
    seen.write_text("s000\nno such film\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"seen\.txt, line 2"):
        call("recommend", run, "--history", seen)


RULES = """
blocklist = ["s000"]
[[rule]]
name = "no westerns for children"
action = "exclude"
group = "children"
genres = ["western"]
[[rule]]
name = "a person looks first"
action = "review"
items = ["s001", "s002"]
"""


def test_rules_are_described_and_hold_in_recommend(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(RULES)
    found = json.loads(call("rules", file, run, "--group", "children", "--json"))
    assert [item["item_id"] for item in found["waiting"]] == ["s001", "s002"]
    assert [rule["items"] for rule in found["rules"]] == [found["rules"][0]["items"], 2]
    shown = call("rules", file, run, "-n", 1)
    assert "2 wait for review:" in shown
    assert "and 1 more" in shown
    answer = json.loads(call("recommend", run, "-n", 200, "--rules", file, "--group", "children", "--json"))
    assert len(answer["recommendations"]) == found["allowed"]
    assert not {"s000", "s001", "s002"} & {item["item_id"] for item in answer["recommendations"]}
    assert not any("Western" in item["genres"] for item in answer["recommendations"])
    with pytest.raises(ConfigError, match="give --rules FILE too"):
        call("recommend", run, "--group", "children")
    file.write_text(RULES.replace('"western"', '"wstern"'))
    with pytest.raises(ConfigError, match="rule 'no westerns for children': the catalogue has no genre 'wstern'"):
        call("recommend", run, "--rules", file)


def test_evaluate_measures_faithfulness_and_robustness_of_a_run(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    found = json.loads(call("evaluate", run, "--faithfulness", "--robustness", "--json"))
    assert set(found) == {"faithfulness", "robustness"}
    assert found["robustness"]["figure"] == "warm/NDCG@10"
    shown = " ".join(call("evaluate", run, "--faithfulness", "--robustness").split())
    assert "Without the named item" in shown
    assert "as they are" in shown
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    with pytest.raises(ConfigError, match="leave out the data options"):
        call("evaluate", run, "--robustness", "--data", "synthetic")


def test_evaluate_turns_the_dial_and_judges_fairness(run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "dial.svg"
    shown = " ".join(call("evaluate", run, "--dial", "--fairness", "--out", picture).split())
    assert picture.read_text().startswith("<?xml")
    for line in ("0.5 x 1", "recommend --discovery d is this dial", "share of top-10 places", "Calibrated minus plain"):
        assert line in shown
    found = json.loads(call("evaluate", run, "--dial", "--fairness", "--json"))
    assert len(found["dial"]["points"]) == 9
    assert found["dial"]["references"] == {}  # this run has no results.json
    assert {gap["attribute"] for gap in found["fairness"]["gaps"]} <= {"activity"}  # all that synthetic data have


def test_evaluate_measures_a_rule_file_and_refuses_wishes_without_new_users(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(RULES)
    shown = " ".join(call("evaluate", run, "--rules", file).split())
    for line in ("with the rules", "warm NDCG@10", "Held-out warm items that the rules forbid their users"):
        assert line in shown
    assert json.loads(call("evaluate", run, "--rules", file, "--json"))["rules"]["figures"]["warm/NDCG@10"]
    with pytest.raises(DataError, match="--wishes asks new users, and protocol 'p1' has none"):
        call("evaluate", run, "--wishes")
    with pytest.raises(ConfigError, match="--group-by with --rules"):
        call("evaluate", run, "--group-by", "age")


def test_evaluate_sets_two_runs_side_by_side(run: Path, tmp_path: Path) -> None:
    found = json.loads(call("evaluate", run, "--robustness", "--against", run, "--json"))["robustness"]
    assert found["against"]["clean"] == found["clean"]
    assert {(d["value"]["mean"], d["value"]["high"]) for d in found["paired"].values()} == {(0.0, 0.0)}
    assert set(found["paired"]) == {"clean", *found["perturbed"]}
    fakes = [row for name, row in found["perturbed"].items() if "fake items" in name]
    assert [0 <= row["slots"]["mean"] <= 1 for row in fakes] == [True, True]
    other = tmp_path / "other"
    shutil.copytree(run, other)
    config = (other / "experiment.toml").read_text().replace('protocol = "p1"', 'protocol = "joint"')
    (other / "experiment.toml").write_text(config)
    with pytest.raises(ConfigError, match="other data, protocol or split"):
        call("evaluate", run, "--robustness", "--against", other)
    for wrong in (("--against", run), ("--out", tmp_path / "x.png")):
        with pytest.raises(ConfigError, match="--against goes with --robustness"):
            call("evaluate", run, *wrong)


def test_evaluate_of_a_run_uses_its_own_data_and_changes_nothing(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    found = json.loads(call("evaluate", run, "--json"))
    assert found["dataset"]["name"] == "synthetic"
    assert found["protocol"] == "p1"
    assert set(found["systems"]) == {"random", "popularity", "item_knn", "ease", "ease_recency", "frozen_lm", "hushrec"}
    assert found["notes"] == []
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_evaluate_on_another_catalogue_counts_a_new_prior_and_says_so(run: Path, tmp_path: Path) -> None:
    titles = [f"Film of the {kind} number {n}" for kind in ("sea", "desert", "moon") for n in range(20)]
    rows = ["item,title", *(f"f{number},{title}" for number, title in enumerate(titles))]
    (tmp_path / "items.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    seen = ["user,item,time", *(f"u{u},f{(7 * u + 3 * t) % 60},{1000 + t}" for u in range(12) for t in range(6))]
    (tmp_path / "interactions.csv").write_text("\n".join(seen) + "\n", encoding="utf-8")
    out = " ".join(call("evaluate", run, "--data", "csv", "--folder", tmp_path, "--protocol", "p1").split())
    assert "12 users, 60 items" in out
    assert "the popularity prior is counted anew" in out


def test_evaluate_under_a_protocol_the_run_did_not_train_for_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="some test interactions of protocol 'joint' were trained on"):
        call("evaluate", run, "--protocol", "joint")


def test_evaluate_of_a_bundle_alone_needs_a_data_set(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for file in (run / "bundle").iterdir():
        (alone / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match="give --data NAME"):
        call("evaluate", alone)


def test_evaluate_refuses_an_unknown_protocol(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"one of p1, joint, p2, p3, got 'p9'"):
        call("evaluate", run, "--protocol", "p9")


def test_data_list_names_every_data_set_and_its_needs() -> None:
    out = call("data", "list")
    for name in ("synthetic", "movielens-small", "recbole", "csv"):
        assert name in out
    assert {entry["name"]: entry["needs_folder"] for entry in json.loads(call("data", "list", "--json"))}["csv"]


def test_data_check_shows_counts_and_what_was_left_out() -> None:
    assert "60 users, 120 items" in call("data", "check", "synthetic")
    found = json.loads(call("data", "check", "synthetic", "--json"))
    assert found["facts"]["users"] == "60"
    assert found["import"]["users"] == 60


@pytest.mark.parametrize(
    "command", [["evaluate"], ["recommend"], ["rules"], ["data"], ["data", "list"], ["data", "check"]]
)
def test_every_command_explains_itself(command: list[str]) -> None:
    assert "Usage" in call(*command, "--help")
