"""Tests of simulations/interests_command.py, and of what recommend does with the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hushrec.common.errors import BundleError, DataError, HushrecError
from hushrec.common.interest_profile import read_interests
from hushrec.simulations.cli import app


def hushrec(*arguments: object) -> str:
    """What the command prints; its error is raised."""
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if isinstance(result.exception, HushrecError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    texts = ["I love crime stories, mail me at jo@example.org", "The fantasy ones are awful"]
    lines = [json.dumps({"reviewText": text}) for text in texts]
    (tmp_path / "reviews.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "interests.toml"


def test_a_profile_is_built_shown_edited_and_built_again(smoke_run: Path, file: Path) -> None:
    build = ("interests", "build", "reviews.jsonl", "--catalog", smoke_run)
    assert "interests from 2 texts in interests.toml" in hushrec(*build)
    found = {interest.phrase.lower(): interest for interest in read_interests(file).interests}
    assert found["crime"].liked
    assert not found["fantasy"].liked
    assert "jo@example.org" not in file.read_text()
    shown = hushrec("interests", "show")
    assert "dislikes" in shown
    assert "line 2" in shown
    hushrec("interests", "remove", "crime")
    hushrec("interests", "add", "slow trains", "--weight", "0.5", "--dislike")
    hushrec(*build)
    again = json.loads(hushrec("interests", "show", "--json"))
    assert again["never"] == ["crime"]
    phrases = [interest["phrase"].lower() for interest in again["interests"]]
    assert {"slow trains", "fantasy"} <= set(phrases)
    assert "crime" not in phrases


def test_recommendations_follow_the_file(smoke_run: Path, file: Path) -> None:
    def first(*more: object) -> list[dict[str, object]]:
        found = json.loads(hushrec("recommend", smoke_run, "--json", "-n", "5", *more))["recommendations"]
        assert isinstance(found, list)
        return found

    hushrec("interests", "add", "Western", "--file", file)
    liked = first("--interests", file, "--discovery", 1)
    assert liked != first()
    assert any("your interest in Western" in item["reasons"] for item in liked)  # type: ignore[operator]
    hushrec("interests", "add", "Western", "--dislike", "--file", file)
    disliked = first("--interests", file, "--discovery", 1)
    assert not {item["item_id"] for item in liked} & {item["item_id"] for item in disliked}


def test_bad_input_is_one_clear_error(smoke_run: Path, file: Path) -> None:
    with pytest.raises(DataError, match=r"ends in \.txt"):
        hushrec("interests", "build", "reviews.doc", "--catalog", smoke_run)
    with pytest.raises(BundleError):
        hushrec("interests", "build", "reviews.jsonl", "--catalog", "nowhere")
    hushrec("interests", "add", "tea")
    with pytest.raises(DataError, match="no interest 'coffee'"):
        hushrec("interests", "remove", "coffee")
    assert read_interests(file).phrases == ["tea"]
