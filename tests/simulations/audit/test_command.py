"""`hushrec audit` on real small runs and collected ledgers: what holds, what is planted and named, exit codes."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hushrec.common.config import RunConfig
from hushrec.common.ledger import Ledger, read_ledger
from hushrec.simulations import cli
from hushrec.simulations.audit.check import Check
from hushrec.simulations.audit.verify_ledger import verify
from hushrec.simulations.run import execute, new_run

Run = Callable[..., tuple[int | str | None, str, str]]
CLAIMS = ("C1", "C2", "C3")
FILES = ["audit.html", "audit.json", "claim_card.json"]


@pytest.fixture(scope="module")
def runs(tiny: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each claim, and one without privacy; evaluated as every run is."""
    common: dict[str, Any] = {"federation__rounds": 2, "evaluation__every": 0, "privacy__target_delta": 1e-5}
    noise = {"privacy__noise_multiplier": 6.0, "privacy__popularity_noise_multiplier": 24.0}
    central = {"privacy__mechanism": "central", "privacy__sample_rate": 0.3, "federation__clients_per_round": 0}
    silos = {"federation__shape": "silos", "federation__silos": 4, "federation__clients_per_round": 3}
    changes: dict[str, dict[str, Any]] = {
        "C1": noise,
        "C2": {**noise, **silos, "privacy__unit": "user"},
        "C3": {**noise, **central, "privacy__unit": "user"},
        "open": {"privacy__mechanism": "none"},
    }
    folders = {name: tmp_path_factory.mktemp("runs") / name for name in changes}
    for name, settings in changes.items():
        execute(new_run(tiny(**common, **settings), folders[name]))
    return folders


@pytest.fixture
def copy(runs: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a finished run, to be tampered with."""

    def copied(name: str) -> Path:
        return Path(shutil.copytree(runs[name], tmp_path / name))

    return copied


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """`hushrec audit ARGUMENTS...` in this process and an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> tuple[int | str | None, str, str]:
        monkeypatch.setattr(sys, "argv", ["hushrec", "audit", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        written = capsys.readouterr()
        return ended.value.code, " ".join(written.out.split()), " ".join(written.err.split())

    return run


@dataclass(frozen=True)
class Attacked:
    """What the attack's part reports."""

    checks: list[Check]
    films: list[dict[str, Any]]
    curves: dict[str, list[tuple[float, float]]]


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Stand-ins for the tests of the training code; what they were asked, in order."""
    asked: list[tuple[str, dict[str, Any]]] = []

    def part(name: str, function: str, answer: Any) -> None:
        def run(config: RunConfig, **options: Any) -> Any:
            assert config.run.experiment == "tiny"
            options.pop("progress", lambda text: None)(f"{name} [1/2]")
            asked.append((name, options))
            return answer

        module = ModuleType(f"hushrec.simulations.audit.{name}")
        setattr(module, function, run)
        monkeypatch.setitem(sys.modules, module.__name__, module)

    films = [{"title": "<Alien>", "watched": True, "rank_open": 1, "rank_private": 77.5}]
    roc = {"without privacy": [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)], "with privacy": [(0.0, 0.0), (1.0, 1.0)]}
    part("probes", "run_probes", [Check("sensitivity", "holds", "At most C.", "0.9 C.", {"ratio": float("nan")})])
    part("canaries", "run_canaries", [Check("canaries", "VIOLATED", "At most 1.", "At least 2.3.")])
    part("attack", "run_attack", Attacked([Check("membership", "holds", "Below the cap.", "AUC 0.51.")], films, roc))
    return asked


class Page(HTMLParser):
    """The texts of a page, and its tags in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onload"}

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize("name", CLAIMS)
def test_a_clean_private_run_holds_and_the_page_and_the_card_say_so(name: str, copy: Any, audit: Run) -> None:
    folder = copy(name)
    code, out, err = audit(folder, "--no-probes")
    assert (code, err) == (0, "")
    assert f"Claim {name}: epsilon " in out
    assert "every claim holds in 8 of 8 checks Report: " in out
    assert "VIOLATED" not in out
    found = json.loads((folder / "audit.json").read_text(), parse_constant=pytest.fail)
    replay = read_ledger(folder / "ledger.jsonl")
    claim = replay.header.claim()
    assert {one["client"]: one["rdp"] for one in found["clients"]} == {
        client: claim.epsilon(replay.events(client)) for client in replay.clients()
    }
    assert found["epsilon_by_round"][-1] == [2, max(one["rdp"] for one in found["clients"])]
    results = json.loads((folder / "results.json").read_text())
    assert found["claim_card"]["claim"]["epsilon"] == results["privacy"]["epsilon"] == found["clients"][0]["epsilon"]
    assert verify(folder / "ledger.jsonl", folder / "claim_card.json")[0] == 0
    page = Page((folder / "audit.html").read_text(encoding="utf-8"))
    assert "every claim holds in 8 of 8 checks" in page.texts
    assert {"svg", "table"} <= set(page.tags)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)


def test_a_run_without_privacy_says_so_loudly_and_violates_nothing(copy: Any, audit: Run) -> None:
    folder = copy("open")
    code, out, _ = audit(folder)
    assert code == 0
    assert "NO PRIVACY: this run claims nothing, so no claim is violated" in out
    assert json.loads((folder / "claim_card.json").read_text())["claim"] is None
    assert "NO PRIVACY" in Page((folder / "audit.html").read_text(encoding="utf-8")).texts
    results = json.loads((folder / "results.json").read_text())
    results["privacy"] |= {"mechanism": "gaussian", "epsilon": 1.0}
    (folder / "results.json").write_text(json.dumps(results))
    code, out, _ = audit(folder)
    assert code == 1
    assert "VIOLATED: results.json: It claims mechanism 'gaussian' with epsilon 1.0." in out


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"epsilon": 0.5}, "epsilon is claimed as 0.5, but the ledger says"),
        ({"epsilon": float("nan")}, "epsilon is claimed as nan, but the ledger says"),
        ({"epsilon": None}, "epsilon is claimed as None, but the ledger says"),
        ({"user_epsilon": 0.5}, "user_epsilon is claimed as 0.5, but the ledger says"),
        ({"delta": 1e-9}, "delta is claimed as 1e-09, the ledger says 1e-05"),
        ({"unit": "user"}, "unit is claimed as 'user', the ledger says 'record'"),
        ({"trust": "everyone"}, "trust is claimed as 'everyone', the ledger says"),
        ({"clients_charged": 1}, "clients_charged is claimed as 1, the ledger says"),
        ({"not_covered": []}, "not_covered leaves out"),
    ],
)
def test_a_published_claim_better_than_the_ledger_is_violated(
    change: dict[str, Any], reason: str, copy: Any, audit: Run
) -> None:
    folder = copy("C1")
    results = json.loads((folder / "results.json").read_text())
    results["privacy"] |= change
    (folder / "results.json").write_text(json.dumps(results))
    code, out, _ = audit(folder, "--no-probes")
    assert code == 1
    assert f"VIOLATED: results.json: {reason}" in out
    assert "VIOLATED: results.json Report:" in out
    assert json.loads((folder / "audit.json").read_text())["violated"] == ["results.json"]


def test_a_bundle_that_claims_less_than_was_spent_is_violated(copy: Any, audit: Run) -> None:
    from hushrec.common.manifest import sealed

    folder = copy("C2")
    path = folder / "bundle" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["privacy"]["epsilon"] = 0.1
    path.write_text(sealed(manifest))
    code, out, _ = audit(folder, "--no-probes")
    assert code == 1
    assert "VIOLATED: bundle: epsilon is claimed as 0.1, but the ledger says" in out


def test_a_budget_that_is_passed_is_violated_and_the_claim_in_the_results_with_it(copy: Any, audit: Run) -> None:
    folder = copy("C1")
    path = folder / "ledger.jsonl"
    replay = read_ledger(path)
    with Ledger.open(path, replay.header) as ledger:
        for server_round in range(200):
            ledger.reserve(server_round, [replay.clients()[0]], replay.header.plan[-1])
    code, out, _ = audit(folder, "--no-probes")
    assert code == 1
    assert f"VIOLATED: budget: 1 client(s) passed it, first {replay.clients()[0]}" in out
    assert "VIOLATED: budget, results.json, bundle" in out


def altered(path: Path, change: Callable[[list[bytes]], None]) -> None:
    lines = path.read_bytes().split(b"\n")
    change(lines)
    path.write_bytes(b"\n".join(lines))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda lines: lines.__setitem__(1, lines[1].replace(b'"steps":1', b'"steps":2')), "(edited: its hash is not"),
        (lambda lines: lines.__delitem__(2), "(removed: entry 3 stands where entry 2 belongs)"),
        (lambda lines: lines.insert(2, lines.pop(3)), "(reordered: entry 3 stands where entry 2 belongs)"),
    ],
    ids=["edited", "removed", "reordered"],
)
@pytest.mark.parametrize("name", CLAIMS)
def test_a_ledger_that_was_tampered_with_is_unusable(
    change: Callable[[list[bytes]], None], reason: str, name: str, copy: Any, audit: Run
) -> None:
    folder = copy(name)
    altered(folder / "ledger.jsonl", change)
    code, out, err = audit(folder, "--no-probes")
    assert (code, out) == (2, "")
    assert err.startswith("error: LedgerCorrupted: ")
    assert reason in err
    assert not (folder / "audit.json").exists()


@pytest.mark.parametrize(
    ("name", "lines", "reason"), [("C1", 2, "steps"), ("C1", 1, "replies"), ("C2", 2, "steps"), ("C3", 1, "steps")]
)
def test_a_ledger_cut_behind_the_checkpoint_is_unusable(
    name: str, lines: int, reason: str, copy: Any, audit: Run
) -> None:
    folder = copy(name)
    altered(folder / "ledger.jsonl", lambda content: content.__delitem__(slice(-1 - lines, -1)))
    code, _, err = audit(folder, "--no-probes")
    assert code == 2
    assert "is truncated, or an older copy: the checkpoint of round 2 says that" in err
    assert f"{reason} were released, the ledger has" in err


def test_the_ledger_of_another_experiment_is_unusable(copy: Any, audit: Run) -> None:
    folder = copy("C1")
    text = (folder / "experiment.toml").read_text().replace("noise-multiplier = 6.0", "noise-multiplier = 60.0")
    (folder / "experiment.toml").write_text(text)
    code, _, err = audit(folder, "--no-probes")
    assert code == 2
    assert "is the ledger of another experiment than" in err
    assert "plan is popularity sigma 24 q 1 steps 1; training sigma 6 q 1 steps 1 in the ledger and" in err


def test_a_missing_ledger_and_a_damaged_result_are_unusable(copy: Any, audit: Run) -> None:
    folder = copy("C1")
    (folder / "results.json").write_text('{"privacy": 1}')
    code, _, err = audit(folder, "--no-probes")
    assert (code, "results.json is damaged" in err) == (2, True)
    (folder / "results.json").unlink()
    (folder / "ledger.jsonl").unlink()
    assert "has no ledger.jsonl, so what was spent is unknown" in audit(folder, "--no-probes")[2]


def test_an_unfinished_run_is_audited_as_far_as_it_got(copy: Any, audit: Run) -> None:
    folder = copy("C1")
    for name in ("results.json", "checkpoint.safetensors"):
        (folder / name).unlink()
    shutil.rmtree(folder / "bundle")
    code, out, _ = audit(folder, "--no-probes")
    assert code == 0
    assert "every claim holds in 5 of 8 checks; not tested: checkpoint, results.json, bundle" in out


def test_ledgers_alone_are_audited_into_the_current_folder(runs: dict[str, Path], tmp_path: Path, audit: Run) -> None:
    code, out, _ = audit(runs["C2"] / "ledger.jsonl", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["violated"] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    code, _, err = audit(runs["C2"] / "ledger.jsonl", runs["C1"] / "ledger.jsonl")
    assert (code, "is the ledger of another experiment" in err) == (2, True)
    head = read_ledger(runs["C2"] / "ledger.jsonl").head
    assert audit(runs["C2"] / "ledger.jsonl", "--head", head)[0] == 0
    assert audit(runs["C2"] / "ledger.jsonl", "--head", "00" * 32)[0] == 2
    assert audit(runs["C2"] / "ledger.jsonl", "--key", "00" * 32)[0] == 2


def test_the_tests_of_the_code_run_when_asked_and_their_verdicts_count(
    copy: Any, audit: Run, parts: list[tuple[str, dict[str, Any]]]
) -> None:
    folder = copy("C1")
    assert audit(folder)[0] == 0
    assert parts == [("probes", {"seed": 0})]
    out = folder.parent / "elsewhere"
    code, told, _ = audit(folder, "--canaries", "--attack", "--thorough", "--seed", 3, "--out", out)
    assert code == 1
    assert parts[1:] == [
        ("probes", {"seed": 3}),
        ("canaries", {"thorough": True, "seed": 3}),
        ("attack", {"seed": 3}),
    ]
    assert "VIOLATED: canaries: At least 2.3." in told
    assert sorted(path.name for path in out.iterdir()) == FILES
    found = json.loads((out / "audit.json").read_text(), parse_constant=pytest.fail)
    assert found["violated"] == ["canaries"]
    assert found["attack"]["films"][0]["title"] == "<Alien>"
    assert [check["figures"] for check in found["checks"] if check["name"] == "sensitivity"] == [{"ratio": None}]
    assert {"name": "canaries", "verdict": "VIOLATED"} in found["claim_card"]["checks"]
    page = Page((out / "audit.html").read_text(encoding="utf-8"))
    assert {"<Alien>", "77.5", "ROC of the attack"} <= set(page.texts)
    assert page.tags.count("polyline") == 5  # spent, budget, two attacks and guessing


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nowhere.jsonl"],
        ["{run}", "{run}"],
        ["{ledger}", "--canaries"],
        ["{ledger}", "--attack"],
        ["{run}", "--target-epsilon", "1"],
        ["{run}", "--plan", "rounds=1,sigma=1"],
        ["--plan", "rounds=10"],
        ["--plan", "sigma=0,rounds=1"],
        ["--plan", "sigma=nan,rounds=1"],
        ["--plan", "sigma=2,rounds=1,q=2"],
        ["--plan", "sigma=2,rounds=1.5"],
        ["--plan", "sigma=2,sigma=2"],
        ["--plan", "noise=2"],
        ["--plan", "sigma=2,rounds=1,unit=film"],
        ["--plan", "sigma=0.2", "--target-epsilon", "1"],
        ["--plan", "rounds=10", "--target-epsilon", "nan"],
    ],
)
def test_unusable_input_is_one_line_and_exit_code_2(arguments: list[str], runs: dict[str, Path], audit: Run) -> None:
    places = {"run": runs["C1"], "ledger": runs["C1"] / "ledger.jsonl"}
    code, out, err = audit(*(argument.format(**places) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_a_plan_is_priced_and_what_it_leaves_open_is_solved(audit: Run) -> None:
    code, out, _ = audit("--plan", "rounds=100,sigma=2.27,q=0.1", "--json")
    priced = json.loads(out)
    assert (code, priced["fits"]) == (0, None)
    assert priced["epsilon"] == max(priced["rdp"], priced["prv"], priced["pld"]) == pytest.approx(2, abs=0.3)
    code, out, _ = audit("--plan", "rounds=100,q=0.1", "--target-epsilon", 2, "--json")
    solved = json.loads(out)
    assert (code, solved["solved"], solved["fits"]) == (0, ["sigma"], True)
    assert 1.95 < solved["rdp"] <= 2
    code, out, _ = audit("--plan", f"sigma={solved['sigma']},q=0.1", "--target-epsilon", 2, "--json")
    assert json.loads(out)["rounds"] in range(100, 104)
    code, out, _ = audit("--plan", "rounds=100,sigma=2,q=0.1,unit=interaction")
    assert code == 0
    assert "per interaction (replacing one)" in out
    code, out, _ = audit("--plan", "rounds=100,sigma=2,unit=user,records=4", "--target-epsilon", 2)
    assert code == 1
    assert "VIOLATED: budget: RDP " in out
