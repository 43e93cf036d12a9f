"""Frontiers: which runs are compared, retained gain with its interval, noise by formula, and the picture."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from hushrec.common.errors import BundleError, ConfigError
from hushrec.common.metrics import figures_of
from hushrec.server.evaluation import Evaluation, retained_gain
from hushrec.simulations import frontier_plot
from hushrec.simulations.frontier import approximate_gain, epsilon_curves, read_runs, user_curves
from hushrec.simulations.frontier_plot import write_picture
from hushrec.simulations.frontier_table import curve_json, epsilon_table, user_tables
from hushrec.simulations.noise_formula import step_noise
from hushrec.simulations.per_user import PER_USER, read_per_user, write_per_user

FIGURE = "warm/NDCG@10"
USERS = np.arange(400)
BASE = np.random.default_rng(0).random(400)  # how easy each user is, the same for every system
Make = Callable[..., Path]


def values(mean: float, seed: int = 0, wobble: float = 0.02) -> np.ndarray:
    """Values per user with the given mean that rise and fall with BASE, as those of real systems do."""
    noise = np.random.default_rng([seed, round(mean * 1e6)]).normal(0, wobble, len(USERS))
    raw = BASE + noise
    found: np.ndarray = np.asarray(raw - raw.mean() + mean)
    return found


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A run directory with results.json, and values per user unless told otherwise."""

    def run(
        name: str, hushrec: float, *, epsilon: float | None = 8.0, frozen: float = 0.4, seed: int = 0, users: int = 500,
        per_user: bool = True, mechanism: str = "gaussian", **config: Any,
    ) -> Path:  # fmt: skip
        own = {"hushrec": values(hushrec, seed), "frozen_lm": values(frozen, 0)}
        others = {"popularity": 0.2, "ease": 0.55} | ({} if epsilon is None else {"dp_popularity": 0.15})
        scored = own | {system: values(mean) for system, mean in others.items()}
        figures = {name: {"warm": figures_of({"NDCG@10": column}, USERS, seed=0)} for name, column in scored.items()}
        settings = {
            "data.seed": 42, "run.seed": seed, "federation.shape": "silos", "federation.clients-per-round": 0,
            "federation.wire": "float16", "privacy.denominator": 20.0, "server.learning-rate": 1.0,
            "privacy.target-epsilon": epsilon or 8.0,
        } | config  # fmt: skip
        private = {"mechanism": "none", "unit": None, "epsilon": None}
        if epsilon is not None:
            private = {
                "mechanism": mechanism, "name": "C2", "unit": "user", "epsilon": epsilon - 0.01,
                "target_epsilon": epsilon, "noise_multiplier": 2.0,
            }  # fmt: skip
        results = {
            "experiment": "made-up", "protocol": "joint", "seed": seed, "systems": figures, "config": settings,
            "dataset": {"name": "nowhere", "users": users, "items": 9, "training_users": 400, "clients": 20},
            "privacy": private, "cost": {"bytes_up_per_client_round": 800},
        }  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps(results))
        if per_user:
            evaluations = {s: Evaluation(s, {}, {FIGURE: column}, {"warm": USERS}) for s, column in own.items()}
            write_per_user(folder / PER_USER, evaluations)
        return folder

    return run


def shown(*tables: Any) -> str:
    console = Console(file=io.StringIO(), width=80)
    for table in tables:
        console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_levels_stand_by_rising_epsilon_with_the_open_run_last_whatever_the_order_given(make: Make) -> None:
    paths = [
        make("b", 0.5, epsilon=8),
        make("open", 0.6, epsilon=None),
        make("a", 0.42, epsilon=0.5),
        make("c", 0.45, epsilon=2),
    ]
    (curve,) = epsilon_curves(read_runs(paths), FIGURE)
    assert [level.place for level in curve.levels] == [0.5, 2, 8, math.inf]
    assert [round(level.figures["hushrec"]["mean"], 6) for level in curve.levels] == [0.42, 0.45, 0.5, 0.6]
    assert "dp_popularity" in curve.levels[0].figures
    assert "dp_popularity" not in curve.levels[-1].figures
    gains = [level.retained.figure["mean"] for level in curve.levels[:-1] if level.retained and level.retained.figure]
    assert gains == pytest.approx([0.1, 0.25, 0.5], abs=1e-5)
    assert curve.levels[-1].retained is None


def test_retained_gain_is_that_of_the_evaluation_paired_over_users(make: Make) -> None:
    (curve,) = epsilon_curves(read_runs([make("private", 0.5), make("open", 0.6, epsilon=None)]), FIGURE)
    retained = curve.levels[0].retained
    assert retained is not None
    assert retained.note == "paired"
    three = [
        Evaluation("", {}, {FIGURE: values(mean).astype(np.float32).astype(np.float64)}, {"warm": USERS})
        for mean in (0.5, 0.4, 0.6)
    ]
    assert retained.figure == retained_gain(*three, FIGURE, seed=0)


def test_without_values_per_user_the_interval_is_approximate_says_so_and_is_wider(make: Make) -> None:
    paired, approximate = (
        epsilon_curves(
            read_runs([make(f"p{kept}", 0.5, per_user=kept), make(f"o{kept}", 0.6, epsilon=None, per_user=kept)]),
            FIGURE,
        )[0]
        for kept in (True, False)
    )
    first, second = paired.levels[0].retained, approximate.levels[0].retained
    assert first
    assert second
    assert (first.note, second.note) == ("paired", "approximate")
    assert first.figure
    assert second.figure
    assert first.figure["mean"] == pytest.approx(second.figure["mean"], abs=1e-5)
    assert second.figure["high"] - second.figure["low"] > 3 * (first.figure["high"] - first.figure["low"])
    assert "~ 0.50" in shown(epsilon_table(approximate, FIGURE))
    assert "approximate" not in shown(epsilon_table(paired, FIGURE))


def test_the_approximate_interval_covers_the_ratio_of_independent_means_at_its_level() -> None:
    rng, covered = np.random.default_rng(1), 0
    for _ in range(1_000):
        private, frozen, full = (rng.normal(mean, 0.01) for mean in (0.5, 0.4, 0.6))
        figures = [{"mean": m, "low": m - 0.0196, "high": m + 0.0196} for m in (private, frozen, full)]
        found = approximate_gain(*figures).figure
        assert found is not None
        covered += found["low"] <= 0.5 <= found["high"]
    assert 0.93 <= covered / 1_000 <= 0.97


@pytest.mark.parametrize("per_user", [True, False])
def test_retained_gain_is_undefined_where_the_open_run_gains_nothing(make: Make, per_user: bool) -> None:
    for name, full in (("equal", 0.4002), ("worse", 0.3)):
        runs = [make(f"p-{name}", 0.5, per_user=per_user), make(name, full, epsilon=None, per_user=per_user)]
        (curve,) = epsilon_curves(read_runs(runs), FIGURE)
        retained = curve.levels[0].retained
        assert retained is not None
        assert retained.figure is None
        assert "holds 0 or less" in retained.note
        assert "undefined" in shown(epsilon_table(curve, FIGURE))


def test_an_open_run_that_only_has_better_counts_has_no_gain_to_retain(make: Make) -> None:
    """Its own frozen control holds the exact counts; the private run's does not."""
    open_run = make("open", 0.6, epsilon=None, frozen=0.65)
    results = json.loads((open_run / "results.json").read_text())
    results["paired"] = {"hushrec - frozen_lm": {FIGURE: {"mean": -0.05, "low": -0.1, "high": 0.0, "verdict": "below"}}}
    (open_run / "results.json").write_text(json.dumps(results))
    (curve,) = epsilon_curves(read_runs([make("private", 0.5), open_run]), FIGURE)
    retained = curve.levels[0].retained
    assert retained is not None
    assert retained.figure is None
    assert "its own frozen control" in retained.note


def test_seeds_are_averaged_and_their_spread_is_shown(make: Make) -> None:
    runs = [
        make("s0", 0.5, seed=0),
        make("s1", 0.53, seed=1),
        make("s2", 0.47, seed=2),
        make("open", 0.6, epsilon=None),
    ]
    (curve,) = epsilon_curves(read_runs(runs), FIGURE)
    level = curve.levels[0]
    assert level.figures["hushrec"]["mean"] == pytest.approx(0.5)
    assert level.spread == pytest.approx((0.47, 0.53))
    assert level.retained
    assert level.retained.figure
    assert level.retained.figure["mean"] == pytest.approx(0.5, abs=1e-5)
    assert level.retained.note == "paired"
    text = shown(epsilon_table(curve, FIGURE))
    assert "0.470" in text
    assert "0.530" in text
    assert "…" not in text  # 80 characters hold the widest table


def test_two_configurations_at_one_epsilon_are_refused_since_choosing_is_for_validation(make: Make) -> None:
    runs = [make("x", 0.5), make("y", 0.6, **{"server.learning-rate": 2.0})]
    with pytest.raises(
        ConfigError, match=r"differ in server.learning-rate; give the one that was chosen on validation"
    ):
        epsilon_curves(read_runs(runs), FIGURE)


def test_other_data_users_splits_and_claims_are_never_on_one_curve(make: Make) -> None:
    runs = [
        make("a", 0.5),
        make("b", 0.5, users=100),
        make("c", 0.5, **{"data.seed": 1}),
        make("open", 0.6, epsilon=None),
    ]
    curves = epsilon_curves(read_runs(runs), FIGURE)
    assert [[level.place for level in curve.levels] for curve in curves] == [[8, math.inf], [8], [8]]
    assert [curve.levels[0].retained.note[:6] for curve in curves if curve.levels[0].retained] == [
        "paired",
        "no run",
        "no run",
    ]


def test_repetitions_on_other_cases_are_refused(make: Make) -> None:
    runs = [make("s0", 0.5), make("s1", 0.5, seed=1), make("open", 0.6, epsilon=None)]
    other = {s: Evaluation(s, {}, {FIGURE: values(0.5)}, {"warm": USERS + 1}) for s in ("hushrec", "frozen_lm")}
    write_per_user(runs[1] / PER_USER, other)
    with pytest.raises(ConfigError, match="other cases"):
        epsilon_curves(read_runs(runs), FIGURE)


def test_runs_are_found_in_files_folders_and_sweeps_each_once(make: Make, tmp_path: Path) -> None:
    one, two = make("one", 0.5), make("two", 0.6, epsilon=None)
    assert len(read_runs([tmp_path, one, two / "results.json"])) == 2
    assert read_runs([one])[0].values.keys() == {"hushrec", "frozen_lm"}
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"neither a results.json nor a folder"):
            read_runs([path])


def test_damaged_files_and_unknown_figures_are_one_sentence(make: Make) -> None:
    folder = make("run", 0.5)
    with pytest.raises(ConfigError, match=r"no figure 'warm/HR@10'; it has warm/NDCG@10"):
        epsilon_curves(read_runs([folder]), "warm/HR@10")
    (folder / PER_USER).write_bytes(b"PK damaged")
    with pytest.raises(BundleError, match=r"per_user.npz is damaged"):
        read_runs([folder])
    (folder / "results.json").write_text("[]")
    with pytest.raises(BundleError, match=r"is no results.json of a run"):
        read_runs([folder])


def test_values_per_user_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = {
        s: Evaluation(s, {}, {"cold_users/0/NDCG@20": np.array([0.25, 1.0])}, {"cold_users/0": np.array([3, 9])})
        for s in ("hushrec", "frozen_lm", "ease")
    }
    assert read_per_user(tmp_path / PER_USER) == {}
    write_per_user(tmp_path / PER_USER, written)
    found = read_per_user(tmp_path / PER_USER)
    assert found.keys() == {"hushrec", "frozen_lm"}
    for system, evaluation in found.items():
        assert evaluation.users["cold_users/0"].tolist() == [3, 9]
        assert evaluation.per_user["cold_users/0/NDCG@20"].tolist() == [0.25, 1.0]
        assert evaluation.system == system


def noise(make: Make, name: str, mechanism: str, shape: str, denominator: float, users: int | None = None) -> float:
    folder = make(
        name, 0.5, mechanism=mechanism, **{"federation.shape": shape, "privacy.denominator": denominator}
    )  # fmt: skip
    found = step_noise(json.loads((folder / "results.json").read_text()), users)
    assert found is not None
    return found


def test_noise_follows_the_formulas_of_the_three_mechanisms(make: Make) -> None:
    """sigma = 2, d = 400 numbers of two bytes, 20 clients."""
    assert noise(make, "central", "central", "devices", 40.0) == pytest.approx(2 * math.sqrt(400) / 40)
    assert noise(make, "silos", "gaussian", "silos", 20.0) == pytest.approx(2 * math.sqrt(400 * 20) / (20 * 20))
    assert noise(make, "devices", "gaussian", "devices", 2.0) == pytest.approx(2 * math.sqrt(400 * 20) / (20 * 2))


def test_without_rounds_the_noise_is_that_of_the_statistics(make: Make) -> None:
    """sigma = 3 and the triangle of 10 x 10, from a server and from 20 silos of 400 users."""
    found = {}
    for mechanism, shape in (("central", "devices"), ("gaussian", "silos")):
        path = make(mechanism, 0.5) / "results.json"
        results = json.loads(path.read_text())
        results["privacy"]["mechanism"] = mechanism
        results["dataset"] |= {"training_users": 400, "clients": 20}
        results["config"] |= {
            "federation.shape": shape,
            "federation.rounds": 0,
            "model.core-init": "statistics",
            "model.head-dim": 10,
            "privacy.statistics-noise-multiplier": 3.0,
        }
        found[mechanism] = step_noise(results)
        assert step_noise(results, 4_000) == pytest.approx(found[mechanism] / 10)
    assert found["central"] == pytest.approx(3 * math.sqrt(55) / 400)
    assert found["gaussian"] == pytest.approx(3 * math.sqrt(55 * 20) / 400)


def test_hundred_times_the_users_divide_the_noise_by_hundred_or_on_devices_by_ten(make: Make) -> None:
    for name, mechanism, shape, factor in (
        ("c", "central", "devices", 100),
        ("s", "gaussian", "silos", 100),
        ("d", "gaussian", "devices", 10),
    ):
        here = noise(make, name, mechanism, shape, 2.0)
        assert noise(make, f"{name}-more", mechanism, shape, 2.0, users=40_000) == pytest.approx(here / factor)


def test_extrapolated_noise_is_marked_wherever_it_is_shown(make: Make) -> None:
    runs = [make("few", 0.45, users=100), make("many", 0.5, users=500)]
    (curve,) = user_curves(read_runs(runs), FIGURE)
    assert [level.place for level in curve.levels] == [100, 500]
    text = shown(*user_tables(curve, FIGURE))
    assert "BY FORMULA, NOT MEASURED" in text
    assert text.count("extrapolated") == 4
    rows = curve_json(curve, FIGURE, over_users=True)["noise_by_formula"]
    assert [row["extrapolated"] for row in rows] == [False, False, True, True, True, True]
    open_only = user_curves(read_runs([make("open", 0.6, epsilon=None)]), FIGURE)[0]
    assert len(user_tables(open_only, FIGURE)) == 1


def test_the_picture_shows_every_system_and_a_missing_matplotlib_is_one_sentence(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    runs = read_runs([make("a", 0.45, epsilon=2), make("b", 0.5), make("open", 0.6, epsilon=None)])
    path = tmp_path / "picture.png"
    write_picture(epsilon_curves(runs, FIGURE), path, FIGURE, over_users=False)
    assert path.read_bytes().startswith(b"\x89PNG")
    write_picture(epsilon_curves(runs, FIGURE), tmp_path / "picture.svg", FIGURE, over_users=False)
    assert "svg" in (tmp_path / "picture.svg").read_text()
    write_picture(user_curves(runs, FIGURE), tmp_path / "users.png", FIGURE, over_users=True)
    with pytest.raises(ConfigError, match="cannot write the picture"):
        write_picture(epsilon_curves(runs, FIGURE), tmp_path / "x.docx", FIGURE, over_users=False)
    monkeypatch.setattr(frontier_plot, "plots_available", lambda: False)
    with pytest.raises(ConfigError, match=r"hushrec\[demo\]"):
        write_picture(epsilon_curves(runs, FIGURE), path, FIGURE, over_users=False)


def test_systems_differ_in_marker_dash_and_brightness() -> None:
    styles = list(frontier_plot.STYLES.values())
    for part in (2, 3):
        assert len({str(style[part]) for style in styles}) == len(styles)
    grey = sorted(sum(w * int(s[1][i : i + 2], 16) for w, i in ((0.299, 1), (0.587, 3), (0.114, 5))) for s in styles)
    assert min(b - a for a, b in pairwise(grey)) > 5


def test_the_command_prints_json_that_says_what_is_paired(
    make: Make, hushrec: Callable[..., Any], tmp_path: Path
) -> None:
    make("private", 0.5)
    make("open", 0.6, epsilon=None)
    ended = hushrec("frontier", tmp_path, "--json", "--out", tmp_path / "x.png").wait()
    assert ended.code == 0, ended.stderr
    (curve,) = json.loads(ended.stdout)
    assert [level["target_epsilon"] for level in curve["levels"]] == [8.0, None]
    assert curve["levels"][0]["retained_gain"]["note"] == "paired"
    assert (tmp_path / "x.png").exists()
    bad = hushrec("frontier", tmp_path / "nowhere").wait()
    assert bad.code == 2
    assert "Traceback" not in bad.stderr
