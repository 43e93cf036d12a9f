"""Tests of client/device/commands.py: each command as an owner types it, and what the package loads for it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from hushrec.client.device.commands import client_app
from hushrec.client.device.folder import DeviceFolder, open_device_folder
from hushrec.common.catalog import Catalog
from hushrec.common.errors import BundleError, ConfigError, DataError, HushrecError, Interrupted
from hushrec.common.invitation import Invitation, write_invitation

HEAVY = {"torch", "pandas", "transformers", "flwr", "opacus", "ray"}


def client(*arguments: object, answer: str = "") -> str:
    """What the command prints; its error is raised."""
    result = CliRunner().invoke(client_app, [str(one) for one in arguments], input=answer, catch_exceptions=True)
    if isinstance(result.exception, HushrecError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def invitation(tmp_path: Path, invite: Callable[..., Invitation]) -> Path:
    path = tmp_path / "invitation.json"
    write_invitation(path, invite())
    return path


def test_init_shows_the_terms_asks_and_prints_the_key_for_the_operator(
    tmp_path: Path, invitation: Path, invite: Callable[..., Invitation]
) -> None:
    said = client("init", tmp_path / "device", invitation, "--name", "kitchen", answer="y\n")
    for part in (invite().fingerprint, "epsilon 8", "noise multiplier 3", "films at localhost:8443", "Take part"):
        assert part in said
    assert said.splitlines()[-1] == open_device_folder(tmp_path / "device").public_key.read_text().strip()


def test_without_consent_nothing_is_written(tmp_path: Path, invitation: Path) -> None:
    with pytest.raises(Interrupted, match="nothing was written"):
        client("init", tmp_path / "device", invitation, answer="n\n")
    assert not (tmp_path / "device").exists()


def test_a_federation_without_privacy_says_so_first(tmp_path: Path, invite: Callable[..., Invitation]) -> None:
    write_invitation(tmp_path / "open.json", invite(privacy__mechanism="none"))
    assert "NO PRIVACY" in client("init", tmp_path / "device", tmp_path / "open.json", "--yes")


def test_devices_without_a_name_get_different_ones(tmp_path: Path, invitation: Path) -> None:
    names = set()
    for number in range(3):
        client("init", tmp_path / str(number), invitation, "--yes")
        names.add(open_device_folder(tmp_path / str(number)).name)
    assert len(names) == 3


def test_another_server_or_authority_is_pinned_only_on_an_explicit_word(
    tmp_path: Path, invitation: Path, authority: Callable[[str], str], invite: Callable[..., Invitation]
) -> None:
    own, other = tmp_path / "own.crt", tmp_path / "other.crt"
    own.write_text(authority("ca"))
    other.write_text(authority("other"))
    client("init", tmp_path / "same", invitation, "--server", "localhost:8443", "--ca", own, "--yes")
    for wrong in (("--server", "elsewhere:1"), ("--ca", other)):
        with pytest.raises(ConfigError, match="--replace"):
            client("init", tmp_path / "device", invitation, *wrong, "--yes")
    with pytest.raises(ConfigError, match="no PEM certificate"):
        client("init", tmp_path / "device", invitation, "--ca", invitation, "--yes")
    with pytest.raises(BundleError, match="HOST:PORT"):
        client("init", tmp_path / "device", invitation, "--server", "elsewhere", "--replace", "--yes")
    assert not (tmp_path / "device").exists()
    said = client("init", tmp_path / "device", invitation, "--server", "a:1", "--ca", other, "--replace", "--yes")
    pinned = open_device_folder(tmp_path / "device").invitation
    assert (pinned.server, pinned.ca_certificate) == ("a:1", authority("other"))
    assert pinned.fingerprint != invite().fingerprint
    assert pinned.fingerprint in said
    assert invite().fingerprint in said


def test_an_import_is_told_and_repeats_change_nothing(kitchen: DeviceFolder, tmp_path: Path) -> None:
    file = tmp_path / "seen.csv"
    file.write_text("item,time,rating\nToy Story,100,4\ni3,200,\ni3,150,\n")
    said = client("import", kitchen.path, file)
    assert "Imported 2 new items" in said
    assert "Left out 1 repeated" in said
    assert "gives no times" not in said
    assert "Imported 0 new items, 2 at a later time" in client("import", kitchen.path, file)
    with kitchen.open_database() as database:
        history = database.history(kitchen.invitation.catalog)
    assert (history.items.tolist(), history.times.tolist()) == ([0, 3], [100, 200])


def test_unknown_items_stop_an_import_unless_they_are_to_be_skipped(kitchen: DeviceFolder, tmp_path: Path) -> None:
    file = tmp_path / "seen.txt"
    file.write_text("Heat\n" + "".join(f"unknown {number}\n" for number in range(7)))
    with pytest.raises(DataError, match=r"7 entries .* nothing was imported") as error:
        client("import", kitchen.path, file)
    assert str(error.value).count("line ") == 5
    assert "and 2 more" in str(error.value)
    with kitchen.open_database() as database:
        assert database.count() == 0
    said = client("import", kitchen.path, file, "--skip-unknown")
    assert "Left out 7 entries" in said
    assert "gives no times" in said
    with kitchen.open_database() as database:
        assert database.count() == 1


def test_lost_data_can_be_imported_again_but_are_never_replaced_silently(kitchen: DeviceFolder, tmp_path: Path) -> None:
    kitchen.database.unlink()
    with pytest.raises(DataError, match="is missing"):
        client("log", kitchen.path, "Heat")
    (tmp_path / "seen.txt").write_text("Heat\n")
    assert "Imported 1 new" in client("import", kitchen.path, tmp_path / "seen.txt")


def test_what_is_logged_is_in_the_very_next_recommendation(
    kitchen: DeviceFolder, export: Callable[[Path, Catalog], Path], tmp_path: Path
) -> None:
    client("update", kitchen.path, export(tmp_path / "edge", kitchen.invitation.catalog))
    client("log", kitchen.path, "Toy Story", "--time", "2020-01-01")
    client("log", kitchen.path, "heat", "--rating", 4.5, "--time", "2020-01-02")
    first = json.loads(client("recommend", kitchen.path, "--n", 2, "--json"))
    assert [one["rank"] for one in first] == [1, 2]
    assert first[0]["title"] == "Casino"
    client("log", kitchen.path, "alien (1979)")
    second = json.loads(client("recommend", kitchen.path, "--json"))
    assert {one["item_id"] for one in second} == {"i2", "i3", "i5"}
    assert second[0]["title"] == "Alien"
    assert "Casino (1995)" in client("recommend", kitchen.path)
    assert "Erased Heat" in client("log", kitchen.path, "i4", "--remove")
    assert "There was no Heat" in client("log", kitchen.path, "i4", "--remove")


def test_recommend_shows_what_was_understood_and_holds_to_rules(
    kitchen: DeviceFolder, export: Callable[[Path, Catalog], Path], tmp_path: Path
) -> None:
    client("update", kitchen.path, export(tmp_path / "edge", kitchen.invitation.catalog))
    client("log", kitchen.path, "Toy Story")
    every = json.loads(client("recommend", kitchen.path, "--json"))
    year = every[0]["year"]
    shown = client("recommend", kitchen.path, "--query", f"from {year}")
    assert f"Understood: {year}" in shown
    rules = tmp_path / "rules.toml"
    rules.write_text(f'[[rule]]\nname = "out"\naction = "exclude"\ngroup = "kids"\nyears = [{year}, {year}]\n')
    left = json.loads(client("recommend", kitchen.path, "--rules", rules, "--group", "kids", "--json"))
    assert left == [one | {"rank": rank} for rank, one in enumerate((o for o in every if o["year"] != year), start=1)]
    assert json.loads(client("recommend", kitchen.path, "--rules", rules, "--json")) == every
    with pytest.raises(ConfigError, match="give --rules FILE too"):
        client("recommend", kitchen.path, "--group", "kids")
    (tmp_path / "interests.toml").write_text('[[like]]\nphrase = "quiet crime"\n')
    with pytest.raises(ConfigError, match="no encoder for a text"):  # of vectors alone
        client("recommend", kitchen.path, "--interests", tmp_path / "interests.toml")


def test_log_keeps_the_later_time_and_refuses_what_means_nothing(kitchen: DeviceFolder) -> None:
    before = int(time.time())
    client("log", kitchen.path, "i1")
    assert "later time" in client("log", kitchen.path, "i1", "--time", "2001-01-01T10:00:00+02:00")
    with kitchen.open_database() as database:
        assert database.history(kitchen.invitation.catalog).times[0] >= before
    wrong_times = [("i1", "--time", text) for text in ("noon", "2999-01-01", "20200101", "7", "1960-01-01")]
    for wrong in (("Alien",), ("zzz",), ("i1", "--rating", "nan"), *wrong_times):
        with pytest.raises(HushrecError):
            client("log", kitchen.path, *wrong)


def test_without_a_model_recommend_says_how_to_get_one(kitchen: DeviceFolder) -> None:
    with pytest.raises(DataError, match=r"no model yet.*hushrec client start.*hushrec client update"):
        client("recommend", kitchen.path)


def test_a_damaged_or_foreign_bundle_leaves_the_model_as_it_was(
    kitchen: DeviceFolder, export: Callable[[Path, Catalog], Path], tmp_path: Path
) -> None:
    good = export(tmp_path / "good", kitchen.invitation.catalog)
    client("update", kitchen.path, good)
    client("log", kitchen.path, "Heat")
    before = client("recommend", kitchen.path, "--json")
    few = Catalog(("i0",), ("x",), ("x",), np.array([-1], dtype=np.int32), ((),))
    with pytest.raises(BundleError, match="lacks 5 items"):
        client("update", kitchen.path, export(tmp_path / "foreign", few))
    for file in good.glob("item_vectors*"):
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    for wrong in (good, tmp_path / "none", kitchen.path):
        with pytest.raises(BundleError):
            client("update", kitchen.path, wrong)
    assert client("recommend", kitchen.path, "--json") == before


def test_the_policy_is_shown_changed_and_checked(kitchen: DeviceFolder) -> None:
    assert "trains at any time" in client("policy", kitchen.path)
    said = client("policy", kitchen.path, "--hours", "22-6", "--power", "mains", "--command", "ask 'the owner'")
    assert "on mains power, from 22h to 6h local time, if ask the owner allows it" in said
    assert kitchen.policy().command == ("ask", "the owner")
    client("policy", kitchen.path, "--hours", "", "--idle", "--most-rounds-a-day", 3)
    assert (kitchen.policy().hours, kitchen.policy().idle, kitchen.policy().power) == ("", True, "mains")
    for wrong in (("--hours", "26-3"), ("--power", "sun"), ("--command", "'open")):
        with pytest.raises(ConfigError):
            client("policy", kitchen.path, *wrong)


def test_status_is_a_table_or_json_and_tells_damage_by_its_exit_code(kitchen: DeviceFolder) -> None:
    assert "NO PRIVACY" not in client("status", kitchen.path)
    found = json.loads(client("status", kitchen.path, "--json"))
    assert found["name"] == "kitchen"
    kitchen.database.write_bytes(b"x" * 5000)
    for arguments in (["status", str(kitchen.path)], ["status", str(kitchen.path), "--json"]):
        result = CliRunner().invoke(client_app, arguments)
        assert result.exit_code == 1
        assert "is damaged" in " ".join(result.output.split())


def test_stop_says_whether_anything_ran(kitchen: DeviceFolder) -> None:
    assert "Nothing was running" in client("stop", kitchen.path)
    with pytest.raises(HushrecError, match="no device's folder"):
        client("stop", kitchen.path.parent / "nowhere")


def test_start_runs_the_launcher_in_this_process_and_gives_its_status(
    kitchen: DeviceFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hushrec.client.device.launcher.run_device", lambda folder: 3)
    assert CliRunner().invoke(client_app, ["start", str(kitchen.path), "--foreground"]).exit_code == 3


def test_forget_asks_says_what_stays_and_erases(kitchen: DeviceFolder) -> None:
    with pytest.raises(Interrupted, match="nothing was erased"):
        client("forget", kitchen.path, answer="n\n")
    assert open_device_folder(kitchen.path).name == "kitchen"
    said = client("forget", kitchen.path, "--ledger-too", answer="y\n")
    assert "stays where it went" in said
    assert "spent a second time" in said
    assert not kitchen.path.exists()


def test_a_device_that_joins_again_takes_its_kept_name(kitchen: DeviceFolder, invitation: Path) -> None:
    kitchen.ledger.write_bytes(b"kept")
    client("forget", kitchen.path, "--yes")
    assert "taken up again" in client("init", kitchen.path, invitation, "--yes")
    assert open_device_folder(kitchen.path).name == "kitchen"


@pytest.mark.parametrize(
    "command", ["init", "import", "log", "start", "stop", "status", "policy", "recommend", "update", "forget"]
)
def test_every_command_explains_itself(command: str) -> None:
    said = client(command, "--help")
    assert "DIR" in said
    assert command in client("--help")


LOADED = """
import json, sys
from typer.testing import CliRunner
from hushrec.client.device.commands import client_app
first = sorted(sys.modules)
for arguments in json.loads(sys.argv[1]):
    result = CliRunner().invoke(client_app, arguments)
    assert result.exit_code == 0, (arguments, result.output, result.exception)
print(json.dumps([first, sorted(sys.modules)]))
"""


def test_no_command_of_a_resting_device_loads_what_training_needs(
    kitchen: DeviceFolder, invitation: Path, tmp_path: Path, export: Callable[[Path, Catalog], Path]
) -> None:
    (tmp_path / "seen.csv").write_text("item,time\ni0,5\ni4,6\n")
    folder, bundle = str(kitchen.path), str(export(tmp_path / "edge", kitchen.invitation.catalog))
    commands: list[list[Any]] = [
        ["init", str(tmp_path / "new"), str(invitation), "--yes"],
        ["import", folder, str(tmp_path / "seen.csv")],
        ["log", folder, "Casino"],
        ["update", folder, bundle],
        ["recommend", folder],
        ["policy", folder, "--idle"],
        ["status", folder],
        ["stop", folder],
        ["forget", folder, "--yes"],
    ]
    child = [sys.executable, "-c", LOADED, json.dumps(commands)]
    ended = subprocess.run(child, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    for names in json.loads(ended.stdout.splitlines()[-1]):
        assert not HEAVY & {name.split(".")[0] for name in names}
