"""Is a typed wish worth typing? New users who say what they want, against popularity held to the same words.

A simulated user wishes for a held-out film of her own: its genre and decade, or something like it. That film is then
taken out, and what is ranked are her other held-out films that fit the wish. It trains and chooses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hushrec.common import metrics
from hushrec.common.catalog import Catalog
from hushrec.common.constraints import Constraints
from hushrec.common.errors import DataError
from hushrec.common.metrics import Ints
from hushrec.common.recommend import Wish, no_history, recommend
from hushrec.common.recommendation import QUERY_WEIGHT, Answer, ReadText, recommend_items
from hushrec.common.rules import AppliedRules
from hushrec.common.splits import Case
from hushrec.common.wish import WishReader
from hushrec.server.ranking import ranked_items, train_counts
from hushrec.simulations.finished_run import FinishedRun, open_finished
from hushrec.simulations.run import Watcher

GROUP = "cold_users/0"
TOP = 20
SYSTEMS = ("hushrec", "encoder_alone", "popularity_held", "popularity")


@dataclass(frozen=True, eq=False)
class TypedWish:
    """What one simulated user typed.

    Attributes:
        form: the kind of sentence.
        read: of `text`, by the grammar of common/wish.py.
        wished: the held-out item that made her type it; it is not ranked.
        relevant: her other held-out items that satisfy the wish; never empty.
        allowed: bool (items,), what is ranked.
    """

    form: str
    text: str
    read: Constraints
    user: int
    wished: int
    relevant: Ints
    allowed: NDArray[np.bool_]


def measure_wishes(target: Path, *, seed: int | None = None, watcher: Watcher | None = None) -> dict[str, Any]:
    """Measure typed wishes of a finished run's new users, who have no history.

    Args:
        target: a run directory under a protocol with new users (joint, p3).
        seed: of the wished item, of ties and of intervals; None = the run's.
    Returns:
        "figure"; "forms": form -> "example", "users", "systems": NDCG@20 of "hushrec" (the wish as `recommend` reads
        it), "encoder_alone" (the sentence encoded, nothing held to), "popularity_held" (popularity among what satisfies
        the wish) and "popularity", and "differences": hushrec minus each other, paired over users.
    Raises:
        ConfigError, BundleError, DataError: no run, a damaged bundle, or no new user who could wish for anything.
    """
    watcher = watcher or Watcher()
    run = open_finished(target, watcher)
    seed = run.config.run.seed if seed is None else seed
    if not run.split.cases.get(GROUP):
        raise DataError(
            f"--wishes asks new users, and protocol {run.split.protocol!r} has none here; use a run under joint or p3"
        )
    watcher.step("typing wishes")
    reader = WishReader(run.catalog)
    gains: dict[str, list[list[float]]] = {}
    examples: dict[str, str] = {}
    popular = train_counts(run.split).astype(np.float64)
    for wish in typed_wishes(run, reader, seed):
        rng = np.random.default_rng([seed, wish.user])
        lists = _lists(run, reader, wish, popular, rng)
        gains.setdefault(wish.form, []).append([_ndcg(lists[name], wish.relevant) for name in SYSTEMS])
        examples.setdefault(wish.form, wish.text)
    if not gains:
        raise DataError("no new user has two held-out items that fit one wish; use a data set with genres and years")
    return {
        "figure": f"NDCG@{TOP}",
        "seed": seed,
        "forms": {form: {"example": examples[form], **_figures(rows, seed)} for form, rows in gains.items()},
    }


def typed_wishes(run: FinishedRun, reader: WishReader, seed: int) -> Iterator[TypedWish]:
    """The wishes of every new user, one of each form that one of her held-out items allows."""
    for case in run.split.cases[GROUP]:
        wished = int(np.random.default_rng([seed, case.user]).choice(case.targets))
        for form, text in sentences(run.catalog, wished).items():
            read = reader.read(text)
            fits = read.allowed(run.catalog)
            if read == Constraints(words=text) or not (fits[wished] or wished in read.like):
                continue  # not a wish for this item: not recent, or a title that the grammar takes for another
            relevant = case.targets[fits[case.targets] & (case.targets != wished)].astype(np.int64)
            if len(relevant):
                yield TypedWish(form, text, read, case.user, wished, relevant, _allowed(run, case, wished))


def sentences(catalog: Catalog, item: int) -> dict[str, str]:
    """What somebody could type who wants this item, by form; without genre or year there are fewer."""
    found = {"like a title": f"something like {catalog.titles[item]}"}
    if catalog.genres[item]:
        genre = catalog.genres[item][0].lower()
        found["recent, popular, genre"] = f"I want to see a recent popular {genre}"
        if (year := int(catalog.years[item])) >= 0:
            found["genre and decade"] = f"{genre} from the {year // 10 * 10}s"
    return found


def _allowed(run: FinishedRun, case: Case, wished: int) -> NDArray[np.bool_]:
    allowed = np.zeros(run.split.n_items, dtype=np.bool_)
    allowed[ranked_items(case, run.split.candidates[GROUP])[0]] = True
    allowed[wished] = False
    return allowed


def _lists(
    run: FinishedRun, reader: WishReader, wish: TypedWish, popular: metrics.Floats, rng: np.random.Generator
) -> Mapping[str, Ints]:
    """System -> the first TOP items."""
    rules = AppliedRules(wish.allowed, np.zeros(len(wish.allowed)), np.zeros(len(wish.allowed), dtype=np.bool_))
    ours = recommend(
        run.model, run.scorer, run.catalog, Wish(no_history(), query=wish.text), n=TOP, rules=rules, reader=reader
    )
    vector = run.scorer.project(run.model.encode_texts([wish.text]).numpy())[0]
    sentence = ReadText(wish.text, QUERY_WEIGHT, vector)
    alone = recommend_items(run.scorer, run.catalog, no_history(), [sentence], n=TOP, discovery=0.0, rules=rules)
    held = wish.allowed & wish.read.allowed(run.catalog)
    return {
        "hushrec": _positions(run.catalog, ours),
        "encoder_alone": _positions(run.catalog, alone),
        "popularity_held": _most_popular(popular, held, rng),
        "popularity": _most_popular(popular, wish.allowed, rng),
    }


def _positions(catalog: Catalog, answer: Answer) -> Ints:
    return np.array([catalog.index_of(item.item_id) for item in answer.recommendations], dtype=np.int64)


def _most_popular(popular: metrics.Floats, allowed: NDArray[np.bool_], rng: np.random.Generator) -> Ints:
    items = np.flatnonzero(allowed)
    return items[metrics.top_items(popular[items], TOP, rng)]


def _ndcg(items: Ints, relevant: Ints) -> float:
    """Of a list of at most TOP items; a relevant item that is not in it gains nothing."""
    places = {int(item): place for place, item in enumerate(items, start=1)}
    return metrics.ndcg(np.array([places.get(int(item), TOP + 1) for item in relevant]), TOP)


def _figures(rows: list[list[float]], seed: int) -> dict[str, Any]:
    values = np.array(rows)
    owners = np.arange(len(values))
    columns = {name: values[:, column] for column, name in enumerate(SYSTEMS)}
    ours = columns["hushrec"]
    return {
        "users": len(values),
        "systems": metrics.figures_of(columns, owners, seed=seed),
        "differences": {name: metrics.paired_bootstrap(ours, columns[name], owners, seed=seed) for name in SYSTEMS[1:]},
    }
