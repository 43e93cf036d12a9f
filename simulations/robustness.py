"""What an adapter loses when item texts are noisy: typos, truncation, dropped fields; users and heads stay the same.

It trains nothing; the texts are changed at inference, for the items of histories and for those that are ranked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hushrec.common.bundle import read_bundle
from hushrec.common.catalog import Catalog, item_text
from hushrec.common.errors import DataError
from hushrec.common.splits import Split
from hushrec.common.workspace import encode_catalog, open_dataset, open_split
from hushrec.server.evaluation import evaluate, paired
from hushrec.simulations.run import Watcher, open_run

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SHORTEST = 4  # letters of a word in which a typo is made: shorter ones are mostly articles
Perturbation = Callable[[Catalog, np.random.Generator], list[str]]


def measure_robustness(target: Path, *, seed: int = 0, watcher: Watcher | None = None) -> dict[str, Any]:
    """NDCG of a finished run under every perturbation of its item texts.

    Args:
        target: a run directory.
        seed: draws the perturbations; ties and intervals are the run's.
    Returns:
        "figure": what was measured, such as "warm/NDCG@10"; "clean": it with its interval; "perturbed": name ->
        "value" with its interval, "lost" = clean - perturbed with its paired interval, and "lost_share" of the clean.
    Raises:
        ConfigError, BundleError, DataError: no run, a damaged bundle, or no test case.
    """
    watcher = watcher or Watcher()
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
    clean = float(found["clean"].per_user[figure].mean())
    rows: dict[str, Any] = {}
    for name in PERTURBATIONS:
        lost = paired(found["clean"], found[name], figure, seed=config.run.seed)
        value = _figure(found[name].figures, figure)
        rows[name] = {"value": value, "lost": lost, "lost_share": lost["mean"] / clean if clean else 0.0}
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


def with_typos(catalog: Catalog, rng: np.random.Generator, share: float) -> list[str]:
    """Swap, drop, double or replace a letter in words of four letters and more, each with probability `share`."""
    return [" ".join(_typo(word, rng) if rng.random() < share else word for word in t.split()) for t in catalog.texts]


def _typo(word: str, rng: np.random.Generator) -> str:
    if sum(letter.isalpha() for letter in word) < _SHORTEST:
        return word
    place = int(rng.integers(len(word) - 1))
    head, letter, after, tail = word[:place], word[place], word[place + 1], word[place + 2 :]
    other = _LETTERS[int(rng.integers(len(_LETTERS)))]
    edits = (after + letter + tail, after + tail, letter + letter + after + tail, other + after + tail)
    return head + edits[int(rng.integers(len(edits)))]


def truncated(catalog: Catalog, rng: np.random.Generator, share: float) -> list[str]:
    """The first `share` of every text's words, at least one."""
    return [" ".join(words[: max(1, round(share * len(words)))]) for words in (t.split() for t in catalog.texts)]


def without_fields(catalog: Catalog, rng: np.random.Generator, *dropped: str) -> list[str]:
    """Texts made again without "title", "year" or "genres"; the whole text where nothing would be left."""
    rows = zip(catalog.titles, catalog.years.tolist(), catalog.genres, catalog.texts, strict=True)
    return [
        item_text(
            "" if "title" in dropped else title,
            -1 if "year" in dropped else year,
            () if "genres" in dropped else genres,
        )
        or text
        for title, year, genres, text in rows
    ]


PERTURBATIONS: dict[str, Perturbation] = {
    "typos in 10 % of words": lambda catalog, rng: with_typos(catalog, rng, 0.1),
    "typos in 30 % of words": lambda catalog, rng: with_typos(catalog, rng, 0.3),
    "first half of the words": lambda catalog, rng: truncated(catalog, rng, 0.5),
    "no genres": lambda catalog, rng: without_fields(catalog, rng, "genres"),
    "no year": lambda catalog, rng: without_fields(catalog, rng, "year"),
    "no title": lambda catalog, rng: without_fields(catalog, rng, "title"),
}
