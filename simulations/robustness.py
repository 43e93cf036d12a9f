"""What an adapter loses when item texts are noisy, written otherwise or joined by fakes; users and heads stay the same.

It trains nothing; the texts are changed at inference, for the items of histories and for those that are ranked. The
fakes are those of shilling.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hushrec.common import metrics
from hushrec.common.augmentation import SYNONYMS, truncated, with_synonyms_in, with_typos, without_fields
from hushrec.common.bundle import read_bundle
from hushrec.common.catalog import Catalog
from hushrec.common.errors import ConfigError, DataError
from hushrec.common.metrics import Floats
from hushrec.common.splits import Split
from hushrec.common.workspace import encode_catalog, open_dataset, open_split
from hushrec.server.evaluation import Evaluation, evaluate, paired
from hushrec.simulations.run import Watcher, open_run
from hushrec.simulations.shilling import fake_items, slot_shares, with_candidates, with_items

Perturbation = Callable[[Catalog, np.random.Generator], list[str]]


@dataclass(frozen=True)
class _Measured:
    """One run under every perturbation, "clean" among them; "slots" where there are fakes."""

    figure: str
    seed: int
    found: dict[str, Evaluation]
    slots: dict[str, Floats]

    @property
    def lost(self) -> dict[str, Floats]:
        """Perturbation -> (cases,) clean - perturbed."""
        clean = self.found["clean"].per_user[self.figure]
        return {name: clean - one.per_user[self.figure] for name, one in self.found.items() if name != "clean"}


def measure_robustness(
    target: Path, *, seed: int = 0, watcher: Watcher | None = None, against: Path | None = None
) -> dict[str, Any]:
    """NDCG of a finished run under every perturbation of its item texts, and beside another run's.

    Args:
        target: a run directory.
        seed: draws the perturbations; ties and intervals are the run's.
        against: another run on the same data and split, trained without what `target` was trained with, say.
    Returns:
        "figure": what was measured, such as "warm/NDCG@10"; "clean": it with its interval; "perturbed": name ->
        "value" with its interval, "lost" = clean - perturbed with its paired interval, "lost_share" of the clean, and
        for fake items "slots", their share of the first ten places. With `against`: "against", the same of that run
        and "run", its directory; and "paired": name ("clean" too) -> "value" and "lost", this run minus that one.
    Raises:
        ConfigError, BundleError, DataError: no run, a damaged bundle, no test case, or runs that were not asked about
            the same cases.
    """
    watcher = watcher or Watcher()
    first = _measure(target, seed, watcher)
    summary = _summary(first) | {"texts_seed": seed}
    if against is None:
        return summary
    if open_run(target).data != open_run(against).data:
        raise ConfigError(
            f"{against} is a run on other data, protocol or split than {target}; compare runs on the same"
        )
    second = _measure(against, seed, watcher)
    users = first.found["clean"].users[first.figure.rpartition("/")[0]]
    differences: dict[str, Any] = {}
    for name, one in first.found.items():
        differences[name] = {"value": paired(one, second.found[name], first.figure, seed=first.seed)}
        if name != "clean":
            lost = metrics.paired_bootstrap(first.lost[name], second.lost[name], users, seed=first.seed)
            differences[name]["lost"] = lost
    return summary | {"against": {"run": str(against), **_summary(second)}, "paired": differences}


def _measure(target: Path, seed: int, watcher: Watcher) -> _Measured:
    watcher.step("reading the run")
    config, bundle = open_run(target), read_bundle(target)
    dataset, split = open_dataset(config.data), open_split(config.data)
    group, figure = _asked(split)
    watcher.step("encoding the catalogue")
    encode_catalog(bundle.model_config, bundle.catalog, watcher.encoding)
    model, scorer = bundle.scorer()
    found = {}
    for name, perturb in {"clean": _clean, **PERTURBATIONS}.items():
        watcher.step(f"encoding and ranking: {name}")
        # All texts go the same way, the clean ones too, so that nothing but the perturbation differs.
        texts = perturb(bundle.catalog, np.random.default_rng(seed))
        noisy = scorer.with_encoded(model.encode_texts(texts).numpy())
        found[name] = evaluate(noisy, split, dataset, seed=config.run.seed, groups=[group])
        if name == "clean":
            plain = noisy
    slots: dict[str, Floats] = {}
    fakes = fake_items(bundle.catalog, bundle.log_popularity)
    watcher.step(f"encoding {len(fakes.texts)} fake items")
    encoded = model.encode_texts(list(fakes.texts)).numpy()
    for name, popularity in (("unknown", fakes.unknown), ("pushed", fakes.copied)):
        name = f"{len(fakes.texts)} fake items, {name}"
        attacked, wider = with_items(plain, encoded, popularity), with_candidates(split, len(fakes.texts))
        found[name] = evaluate(attacked, wider, dataset, seed=config.run.seed, groups=[group])
        slots[name] = slot_shares(attacked, wider, group, len(fakes.texts), seed=config.run.seed)
    return _Measured(figure, config.run.seed, found, slots)


def _summary(measured: _Measured) -> dict[str, Any]:
    figure, found, seed = measured.figure, measured.found, measured.seed
    clean = float(found["clean"].per_user[figure].mean())
    rows: dict[str, Any] = {}
    for name, one in found.items():
        if name == "clean":
            continue
        lost = paired(found["clean"], one, figure, seed=seed)
        rows[name] = {
            "value": _figure(one.figures, figure),
            "lost": lost,
            "lost_share": lost["mean"] / clean if clean else 0.0,
        }
        if name in measured.slots:
            users = one.users[figure.rpartition("/")[0]]
            rows[name]["slots"] = metrics.figures_of({"slots": measured.slots[name]}, users, seed=seed)["slots"]
    return {"figure": figure, "seed": seed, "clean": _figure(found["clean"].figures, figure), "perturbed": rows}


def _asked(split: Split) -> tuple[str, str]:
    """The group and the figure that a protocol is about."""
    for group, name in (("warm", "NDCG@10"), ("cold_items", "NDCG@20"), ("cold_users/5", "NDCG@20")):
        if split.cases.get(group):
            return group, f"{group}/{name}"
    raise DataError(f"split {split.protocol!r} has no test case with a history; use more users")


def _figure(figures: dict[str, Any], name: str) -> dict[str, float]:
    for part in name.split("/"):
        figures = figures[part]
    return figures


def _clean(catalog: Catalog, rng: np.random.Generator) -> list[str]:
    return list(catalog.texts)


def paraphrased(catalog: Catalog, rng: np.random.Generator) -> list[str]:
    """The same said otherwise: fields in another order and in a phrase, every known genre word by a near-synonym."""
    rows = zip(catalog.titles, catalog.years.tolist(), catalog.genres, catalog.texts, strict=True)
    return [_paraphrase(title, year, genres, text, rng) for title, year, genres, text in rows]


def _paraphrase(title: str, year: int, genres: tuple[str, ...], text: str, rng: np.random.Generator) -> str:
    words = with_synonyms_in(" ".join(genres), rng, 1.0)
    kind = "film" if any(genre.lower() in SYNONYMS for genre in genres) else "title"
    if genres and title == text:  # its genres are all that is known of it
        return f"A {kind}: {words}"
    if year < 0:
        return (f"{words}: {title}", f"{title}, {words}")[int(rng.integers(2))] if words else f"A {kind} called {title}"
    if not words:
        return (f"From {year}: {title}", f"{title}, a {kind} from {year}")[int(rng.integers(2))]
    return (
        f"{words} {kind} from {year}: {title}",
        f"From {year}, {title}: {words}",
        f"{title}, a {kind} from {year}. {words}",
        f"{words}. {title}, released in {year}",
    )[int(rng.integers(4))]


PERTURBATIONS: dict[str, Perturbation] = {
    "typos in 10 % of words": lambda catalog, rng: with_typos(catalog, rng, 0.1),
    "typos in 30 % of words": lambda catalog, rng: with_typos(catalog, rng, 0.3),
    "first half of the words": lambda catalog, rng: truncated(catalog, rng, 0.5),
    "paraphrased": lambda catalog, rng: paraphrased(catalog, rng),
    "no genres": lambda catalog, rng: without_fields(catalog, rng, "genres"),
    "no year": lambda catalog, rng: without_fields(catalog, rng, "year"),
    "no title": lambda catalog, rng: without_fields(catalog, rng, "title"),
}
