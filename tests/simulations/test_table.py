"""Tests of simulations/table.py on a small made-up result; no training and no data."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from hushrec.simulations.table import (
    best_systems,
    bytes_text,
    gain_lines,
    markdown_table,
    present_columns,
    privacy_lines,
    results_table,
    verdict_lines,
)

RECORD_CLAIM: dict[str, Any] = {
    "mechanism": "gaussian",
    "name": "C1",
    "unit": "record",
    "relation": "add_remove",
    "epsilon": 7.991,
    "delta": 1e-5,
    "accountant": "an accountant 1.0",
    "trust": "the server and everyone after it",
    "noise_added_by": "device",
    "record_span": "hour",
    "max_records": 4,
    "user_epsilon": 48.18,
    "interaction_epsilon": 18.83,
}


def figure(mean: float, half: float = 0.01) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def system(warm: float, *, cold: bool) -> dict[str, Any]:
    ranked = {name: figure(warm) for name in ("HR@10", "NDCG@10", "sampled99_HR@10", "sampled99_NDCG@10")}
    entry: dict[str, Any] = {"warm": ranked, "tail": {"NDCG@10": figure(warm / 2)}, "coverage@10": figure(0.5)}
    if cold:
        entry["cold_items"] = {"NDCG@20": figure(warm), "Recall@20": figure(warm)}
        entry["cold_users"] = {h: {"NDCG@20": figure(warm)} for h in ("0", "1", "5")}
    return entry


def results(protocol: str = "joint") -> dict[str, Any]:
    means = {"random": 0.9, "popularity": 0.1, "dp_popularity": 0.08, "ease": 0.2, "frozen_lm": 0.15, "hushrec": 0.2}
    difference = {"mean": 0.05, "low": 0.02, "high": 0.08, "verdict": "above"}
    nothing = {"mean": -0.0001, "low": -0.02, "high": 0.02, "verdict": "indistinguishable"}
    return {
        "experiment": "made-up",
        "dataset": {"name": "nowhere", "users": 1200, "items": 34, "interactions": 5678},
        "protocol": protocol,
        "seed": 3,
        "systems": {name: system(mean, cold=protocol == "joint") for name, mean in means.items()},
        "paired": {f"hushrec - {name}": {"warm/NDCG@10": difference, "tail/NDCG@10": nothing} for name in means},
        "privacy": RECORD_CLAIM,
        "cost": {
            "seconds": 12.0,
            "seconds_per_round": 4.0,
            "client_steps_per_second": 5.0,
            "bytes_up_per_client_round": 3200,
            "bytes_down_per_client_round": 1_500_000,
            "peak_rss_mb": 900.0,
            "refused": {"TIMEOUT": 2},
        },
    }


def rendered(value: object, width: int) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - rich closes nothing
    with console.file:
        console.print(value)
        return console.export_text()


def test_the_joint_table_fits_eighty_characters_with_every_number_whole() -> None:
    text = rendered(results_table(results()), 80)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    for name in results()["systems"]:
        assert name in text
    assert text.count("0.200") >= 10
    assert "±.010" in text


def test_columns_a_protocol_does_not_have_are_left_out() -> None:
    labels = [column.label for column in present_columns(results("p1"))]
    assert not any("cold" in label for label in labels)
    assert "cold" not in rendered(results_table(results("p1")), 80)
    assert "cold" not in markdown_table(results("p1"))


def test_columns_of_one_protocol_stand_in_its_tables_only() -> None:
    found = results()
    for entry in found["systems"].values():
        entry["cold_items"] |= {"NDCG@20_all": figure(0.1), "Recall@20_all": figure(0.1)}
        for h in entry["cold_users"].values():
            h["Recall@20"] = figure(0.1)
    assert present_columns(found) == present_columns(results())
    shown = {
        protocol: [column.path for column in present_columns(found | {"protocol": protocol})]
        for protocol in ("p2", "p3")
    }
    assert {"cold_items/NDCG@20_all", "cold_items/Recall@20_all"} <= set(shown["p2"]) - set(shown["p3"])
    assert {f"cold_users/{h}/Recall@20" for h in (0, 1, 5)} <= set(shown["p3"]) - set(shown["p2"])


def test_a_table_with_room_shows_every_column_and_explains_no_other() -> None:
    found = results("p2")
    for name, entry in found["systems"].items():
        cold = {"NDCG@20": figure(0.2), "Recall@20": figure(0.3), "NDCG@20_all": figure(0.1)}
        found["systems"][name] = {"cold_items": cold} if entry else {}
    text = rendered(results_table(found), 80)
    assert "0.300" in text
    assert "R@20: Recall@20." in text
    assert "99neg" not in text
    assert "users h=" not in text


def test_equal_best_systems_are_all_best_and_random_is_none_of_them() -> None:
    assert best_systems(results(), "warm/NDCG@10") == {"ease", "hushrec"}
    lines = markdown_table(results()).splitlines()
    assert all("**0.900**" not in line for line in lines)
    assert any(line.startswith("| **hushrec** | **0.200** ± 0.010") for line in lines)


def test_the_markdown_table_has_as_many_cells_in_every_row() -> None:
    lines = markdown_table(results()).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + len(results()["systems"])


def test_gains_name_the_reference_the_verdict_and_the_interval() -> None:
    text = "\n".join(gain_lines(results()))
    assert "hushrec against frozen_lm (the same language model, untrained):" in text
    assert "  above: warm NDCG@10 +0.050 [+0.020, +0.080]" in text
    assert "  indistinguishable: tail NDCG@10 +0.000 [-0.020, +0.020]" in text
    assert "item_knn" not in text


def test_a_record_epsilon_is_never_printed_as_if_it_were_per_user() -> None:
    lines = privacy_lines(RECORD_CLAIM)
    [of_record] = [line for line in lines if "7.99" in line]
    assert "per RECORD (not per user)" in of_record
    assert "delta 1e-05" in of_record
    assert "an accountant 1.0" in of_record
    [of_user] = [line for line in lines if line.startswith("Per USER")]
    assert "at most 4 records): epsilon 48.18, too large to promise much" in of_user
    [of_interaction] = [line for line in lines if line.startswith("Per INTERACTION")]
    assert "epsilon 18.83" in of_interaction


def test_a_missing_user_epsilon_is_said_to_be_missing() -> None:
    claim = {key: value for key, value in RECORD_CLAIM.items() if key != "user_epsilon"}
    assert "Per USER no epsilon was computed." in privacy_lines(claim)


def test_a_user_claim_has_one_epsilon_line() -> None:
    claim = {**RECORD_CLAIM, "unit": "user", "name": "C2", "noise_added_by": "silo"}
    del claim["interaction_epsilon"]
    lines = privacy_lines(claim)
    assert "per USER: adding or removing one user; " in lines[0]
    assert len(lines) == 2
    assert lines[1].startswith("The silo adds the noise itself")


def test_no_mechanism_is_called_no_privacy_in_capitals() -> None:
    [line] = privacy_lines({"mechanism": "none", "epsilon": None})
    assert line.startswith("NO PRIVACY")


def test_verdicts_end_with_cost_and_notes_and_keep_to_eighty_characters() -> None:
    lines = verdict_lines(results() | {"notes": ["the prior was counted anew"]})
    text = " ".join(" ".join(lines).split())
    assert "receives 1.5 MB and sends 3.2 kB a round; peak memory 900 MB; refused replies: 2 x TIMEOUT." in text
    assert text.endswith("Note: the prior was counted anew")
    assert max(map(len, lines)) <= 80


def test_an_evaluation_without_training_has_no_cost_line() -> None:
    again = {key: value for key, value in results().items() if key != "cost"}
    assert not any("Training took" in line for line in verdict_lines(again))


@pytest.mark.parametrize(("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (3200, "3.2 kB"), (2.5e9, "2.5 GB")])
def test_bytes_are_written_in_powers_of_a_thousand(count: float, text: str) -> None:
    assert bytes_text(count) == text
