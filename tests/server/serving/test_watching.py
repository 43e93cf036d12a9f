"""Metrics, runs and federations, the OpenAPI page and the page's files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from filelock import FileLock
from support.serving import Running, running

from hushrec.common.config import RunConfig
from hushrec.server.serving.distribution_drift import LEAST, DistributionDrift
from hushrec.server.serving.metrics import ServiceMetrics
from hushrec.server.serving.run_folders import describe_run, epsilon_left, ledger_summary, list_runs

PROMETHEUS = Path(__file__).parents[3] / "docs" / "prometheus"


def test_metrics_count_requests_by_route_and_what_is_served_by_popularity(folder: Path, tmp_path: Path) -> None:
    with running(folder, tmp_path) as service:
        service.recommend(history=["1", "2"], n=4)
        service.recommend(query="robots", n=3)
        service.ask("GET", "/v1/items", "")
        text = service.ask("GET", "/metrics", "").text
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        assert values['hushrec_requests_total{method="POST",route="/v1/recommend",status="200"}'] == "2.0"
        assert values['hushrec_requests_total{method="GET",route="unmatched",status="401"}'] == "1.0"
        assert values['hushrec_request_history_total{items="1-5"}'] == "1.0"
        assert values['hushrec_request_kind_total{given="text"}'] == "1.0"
        served = sum(float(v) for k, v in values.items() if k.startswith("hushrec_served_items_total"))
        assert served == 7
        assert 3 / int(float(values["hushrec_catalog_items"])) < float(values["hushrec_served_coverage"]) < 1
        assert values['hushrec_vector_cache_total{result="miss"}'] == "1.0"
        assert float(values["hushrec_bundle_written_timestamp_seconds"]) == pytest.approx(
            (folder / "manifest.json").stat().st_mtime, abs=0.01
        )


def test_drift_is_the_distance_of_the_last_window_from_the_first() -> None:
    drift = DistributionDrift(4, 3600.0)
    for second in range(LEAST):
        drift.add([second % 2], float(second))
    assert drift.distance(3599.0) == 0
    for second in range(LEAST):
        drift.add([0, 3], 3700.0 + second)
    assert drift.distance(4000.0) == pytest.approx(0.5)
    for second in range(LEAST):
        drift.add([second % 2], 9000.0 + second)
    assert drift.distance(9300.0) == pytest.approx(0.0)
    assert drift.distance(20_000.0) == 0


def test_requests_that_shift_raise_the_drift_above_the_alert(shared: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    (threshold,) = re.findall(
        r"expr: max by \(of\) \(hushrec_drift\) > ([\d.]+)", (PROMETHEUS / "alerts.yml").read_text()
    )
    served, clock = shared.service.holder.current, [1000.0]
    monkeypatch.setattr("hushrec.server.serving.metrics.time.monotonic", lambda: clock[0])
    measured = ServiceMetrics(baseline_seconds=3600.0)
    rare, popular = ([served.catalog.item_ids[i] for i in np.flatnonzero(served.deciles == d)[:5]] for d in (0, 9))

    def ask(history: int, text: bool, items: list[str], times: int) -> dict[str, float]:
        for _ in range(times):
            clock[0] += 10.0
            measured.observe_recommendation(served, history, text, items)
        found = re.findall(r'^hushrec_drift\{of="(\w+)"\} (\S+)', measured.text().decode(), re.M)
        return {of: float(value) for of, value in found}

    ask(12, False, popular, 400)  # the first hour, and a little more
    assert max(ask(12, False, popular, 300).values()) == 0.0
    shifted = ask(0, True, rare, 360)
    assert shifted.keys() == {"history", "kind", "popularity"}
    assert min(shifted.values()) > float(threshold)
    assert max(ask(12, False, popular, 420).values()) < float(threshold)


PROMTOOL = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


@PROMTOOL
def test_prometheus_accepts_the_alert_rules() -> None:
    done = subprocess.run(
        ["promtool", "check", "rules", str(PROMETHEUS / "alerts.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@PROMTOOL
def test_the_alerts_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    rules = {
        rule["alert"]: rule
        for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
        for rule in group["rules"]
    }
    tests = []
    for name, metric, label, value, calm, values, minute in (
        ("HushrecDrift", "hushrec_drift", "of", "history", 39, "0x10 0.4x60", 45),
        ("HushrecBundleRefused", "hushrec_bundle_refused", "instance", "a", 10, "0x10 1x60", 13),
        ("HushrecBudgetNearlySpent", "hushrec_epsilon_left", "run", "films", 10, "1x10 0.01x60", 12),
    ):
        summary = rules[name]["annotations"]["summary"].replace(f"{{{{ $labels.{label} }}}}", value)
        fired = {"exp_labels": {**rules[name]["labels"], label: value}, "exp_annotations": {"summary": summary}}
        tests.append(
            {
                "interval": "1m",
                "input_series": [{"series": f'{metric}{{{label}="{value}"}}', "values": values}],
                "alert_rule_test": [
                    {"eval_time": f"{calm}m", "alertname": name},
                    {"eval_time": f"{minute}m", "alertname": name, "exp_alerts": [fired]},
                ],
            }
        )
    file = tmp_path / "alerts_test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(PROMETHEUS / "alerts.yml")], "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_and_dashboard_name_metrics_that_exist(shared: Running) -> None:
    shared.recommend(query="robots")
    shared.ask("GET", "/v1/items")
    text = shared.ask("GET", "/metrics", "").text
    known = set(re.findall(r"^(hushrec_\w+)", text, re.M)) | {"hushrec_epsilon_left"}
    known |= {found.group(1) for found in re.finditer(r"^# TYPE (hushrec_\w+) ", text, re.M)}
    dashboard = json.loads((PROMETHEUS / "dashboard.json").read_text())
    asked = (PROMETHEUS / "alerts.yml").read_text() + json.dumps([p["targets"] for p in dashboard["panels"]])
    named = set(re.findall(r"\bhushrec_\w+", asked))
    assert len(named) > 8
    assert named <= known


def test_runs_are_shown_with_results_rounds_and_ledger(smoke_run: Path, folder: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(smoke_run, runs / "smoke")
    (runs / "begun").mkdir()
    begun = '[run]\nexperiment = "smoke"\n[privacy]\nmechanism = "gaussian"\nunit = "record"\n'
    (runs / "begun" / "experiment.toml").write_text(begun)
    (runs / "begun" / "rounds.jsonl").write_text('{"round": 2, "rounds": 9, "epsilon": NaN}\n{"round": 3')
    (runs / "other").mkdir()
    with running(folder, tmp_path, runs=str(runs)) as service:
        listed = {run["name"]: run for run in service.ask("GET", "/v1/runs", "admin").json()["runs"]}
        assert set(listed) == {"smoke", "begun"}
        assert (listed["begun"]["state"], listed["begun"]["round"], listed["begun"]["epsilon"]) == ("stopped", 2, None)
        assert (listed["begun"]["experiment"], listed["begun"]["unit"]) == ("smoke", "record")
        assert listed["smoke"]["state"] == "finished"
        assert listed["smoke"]["unit"] == "record"
        found = service.ask("GET", "/v1/runs/smoke", "admin").json()
        assert found["results"] == json.loads((smoke_run / "results.json").read_text())
        assert next(line["round"] for line in found["rounds"]) == 0
        worst = found["ledger"]["clients"][0]
        assert worst["epsilon"] == pytest.approx(found["results"]["privacy"]["rdp"], rel=1e-6)
        assert worst["epsilon"] <= worst["budget"]
        for wrong in ("other", "nothing", "..", "%2e%2e%2fruns%2fsmoke"):
            assert service.ask("GET", f"/v1/runs/{wrong}", "admin").status_code == 404
        assert service.ask("GET", "/v1/federations", "admin").json() == {"federations": []}
        deadline = 100
        while 'hushrec_epsilon_left{run="smoke"}' not in service.ask("GET", "/metrics", "").text:
            assert (deadline := deadline - 1)
    assert ledger_summary(tmp_path / "nothing") is None


@pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="locks are read from /proc")
def test_a_run_whose_lock_is_held_is_running(tmp_path: Path) -> None:
    run = tmp_path / "one"
    run.mkdir()
    (run / "experiment.toml").write_text("")
    with FileLock(run / "run.lock"):
        assert list_runs(tmp_path)[0]["state"] == "running"
    (run / "experiment.toml").write_text('[privacy]\nmechanism = "none"\nunit = "record"\n')
    assert (list_runs(tmp_path)[0]["experiment"], list_runs(tmp_path)[0]["unit"]) == ("one", None)
    found = describe_run(tmp_path, "one")
    assert found is not None
    assert (found["state"], found["results"], found["rounds"], found["ledger"]) == ("stopped", None, [], None)


def test_federations_are_shown_as_their_operator_sees_them(
    tiny: Callable[..., RunConfig], folder: Path, tmp_path: Path
) -> None:
    from hushrec.server.deployment.federation import init_folder
    from hushrec.server.deployment.folder import ServerSettings

    init_folder(tmp_path / "all" / "films", ServerSettings("films", "localhost", 9999, devices=2), tiny())
    (tmp_path / "all" / "other").mkdir()
    with running(folder, tmp_path, federations=str(tmp_path / "all")) as service:
        (found,) = service.ask("GET", "/v1/federations", "admin").json()["federations"]
        assert (found["name"], found["running"], found["nodes"]) == ("films", False, {})
        assert (found["unit"], found["budget"]) == ("record", 8.0)
    rounds = tmp_path / "all" / "films" / "run" / "rounds.jsonl"
    assert epsilon_left(None, tmp_path / "all") == {"films": 8.0}  # nothing is spent before the first round
    rounds.parent.mkdir(exist_ok=True)
    rounds.write_text('{"round": 1, "epsilon": 2.5}\n{"round": 2, "epsilon": 3.25}\n{"round": 3, "eps')
    assert epsilon_left(None, tmp_path / "all") == {"films": 4.75}
    assert epsilon_left(None, tmp_path / "all" / "films") == {"films": 4.75}  # the folder itself, not its parent
    init_folder(  # a federation without a claim has no budget to tell
        tmp_path / "open" / "films",
        ServerSettings("films", "localhost", 9999, devices=2),
        tiny(privacy__mechanism="none"),
    )
    assert epsilon_left(None, tmp_path / "open") == {}


def test_the_openapi_page_and_the_page_need_no_token_and_load_nothing_from_elsewhere(shared: Running) -> None:
    docs = shared.ask("GET", "/docs", "")
    assert docs.status_code == 200
    assert "/v1/recommend" in docs.text
    assert not re.search(r"(src|href)=['\"]?(https?:)?//", docs.text)
    assert "default-src 'none'" in docs.headers["content-security-policy"]
    description = shared.ask("GET", "/openapi.json", "").json()
    assert {"/v1/recommend", "/v1/similar", "/v1/items", "/v1/bundle", "/metrics"} <= set(description["paths"])
    assert shared.ask("GET", "/healthz", "").json() == {"alive": True}
    page = shared.ask("GET", "/", "")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert shared.ask("GET", "/main.js", "").headers["content-type"].startswith("text/javascript")
