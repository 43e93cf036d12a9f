"""The click loss: what is drawn for a record, binary cross-entropy by hand, both ways to its gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from support.clicks import click_alone
from support.records import DENOMINATOR, ITEMS, C, Client, Setup, alone, flat, gather, make_rows, pairs, release
from torch import Tensor

from hushrec.client.click_losses import click_losses, draw_pairs, round_pairs, summed_click_losses
from hushrec.client.rows import Row
from hushrec.client.training import train_cohort
from hushrec.common import click_model
from hushrec.common.click_model import Pairs

CLICK: dict[str, Any] = {"model__click": True, "model__click_history": 3, "train__click_negatives": 6}


def drawn(rows: Sequence[tuple[str, Row]], seed: int = 3) -> Pairs:
    return draw_pairs(rows, seed=seed, history=3, negatives=6, candidates=np.arange(ITEMS))


# --- what is drawn ---


def test_the_draw_of_a_row_depends_on_no_other_row() -> None:
    rows = pairs()
    whole = drawn(rows)
    for number, pair in enumerate(rows):
        own = drawn([pair])
        for name in ("history", "mask", "candidates", "wanted"):
            assert torch.equal(getattr(whole, name)[number], getattr(own, name)[0])


def test_a_click_is_an_item_of_the_row_beside_the_newest_before_it() -> None:
    row = Row("slot-0", np.array([5, 17, 3, 29, 11, 8], np.int32))
    places = set()
    for seed in range(60):
        one = drawn([("a", row)], seed)
        place = row.items.tolist().index(int(one.candidates[0, 0]))
        read = one.history[0][one.mask[0]].tolist()
        assert read == row.items[max(0, place - 3) : place].tolist()
        assert bool(one.wanted[0, 0])
        places.add(place)
    assert places == {1, 2, 3, 4, 5}


def test_an_item_of_the_row_is_no_negative() -> None:
    row = Row("slot-0", np.arange(30, dtype=np.int32))
    one = drawn([("a", row)])
    assert torch.equal(one.wanted[0, 1:], one.candidates[0, 1:] >= 30)
    assert not bool(one.wanted[0, 1:].all())


def test_a_row_of_one_item_has_no_pair() -> None:
    assert not bool(drawn([("a", Row("slot-0", np.array([4], np.int32)))]).wanted.any())


# --- the loss ---


def test_the_loss_is_binary_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.3, 9.0, 9.0], [7.0, 7.0, 7.0]])
    wanted = torch.tensor([[True, True, True], [True, False, True], [False, False, False]])

    def loss(logit: float, clicked: bool) -> float:
        p = 1 / (1 + math.exp(-(logit - math.log(2))))
        return -math.log(p if clicked else 1 - p)

    expected = [
        (loss(2.0, True) + loss(-1.0, False) + loss(0.5, False)) / 3,
        (loss(0.3, True) + loss(9.0, False)) / 2,
        0.0,
    ]
    assert click_losses(logits, wanted).tolist() == pytest.approx(expected, rel=1e-5)


def test_a_head_that_knows_nothing_has_the_loss_of_the_known_share_of_clicks() -> None:
    share = 1 / 5
    entropy = -(share * math.log(share) + (1 - share) * math.log(1 - share))
    assert float(click_losses(torch.zeros(1, 5), torch.ones(1, 5, dtype=torch.bool))) == pytest.approx(entropy)


# --- gradients ---


@pytest.mark.parametrize("at_once", [1, 10**9])
def test_losses_in_pieces_are_those_of_each_record_alone(
    setup: Callable[..., Setup], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, request, config = setup(**CLICK)
    monkeypatch.setattr(click_model, "TOKENS_PER_PASS", at_once)
    read = round_pairs(model, request, pairs(), config)
    assert read is not None
    found = torch.zeros(len(pairs()))
    for chosen, losses in summed_click_losses(model, read):
        found[torch.from_numpy(chosen)] = losses.detach()
    expected = [float(click_alone(model, request.seed, config, pair).detach()) for pair in pairs()]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    assert max(expected) > 0.1


@pytest.mark.parametrize("hooks", [False, True])
@pytest.mark.parametrize("more", [{"model__adapter": k} for k in ("lora", "ffa", "sb")] + [{"model__top_layers": 2}])
def test_a_records_gradient_holds_its_click_loss(
    setup: Callable[..., Setup], more: dict[str, Any], hooks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = setup(**CLICK, **more)
    if hooks:
        monkeypatch.setattr(made[0].recommender.encoder, "stack", None)
    found, rows = gather(made, pairs()), pairs()
    for number in range(1, len(rows)):
        expected = alone(made, rows[number])
        assert (found[number] - expected).norm() <= 1e-5 * expected.norm()
    without = gather((made[0], made[1], made[2].replace(train__click_weight=1e-9)), rows)
    assert (without - found)[1:].norm(dim=1).min() > 1e-3


def test_the_open_sum_is_that_of_the_private_rows(setup: Callable[..., Setup], no_noise: None) -> None:
    made, rows = setup(privacy__max_grad_norm=1e9, **CLICK), make_rows()
    private = flat(train_cohort(*made[:2], [Client("a", rows)], made[2])[0].arrays) * DENOMINATOR
    clear = made[2].replace(privacy__mechanism="none")
    mean = flat(train_cohort(*made[:2], [Client("a", rows)], clear)[0].arrays)
    assert (mean * len(rows) - private).norm() <= 1e-5 * private.norm()


def test_an_open_cohort_is_the_sum_of_its_clients(setup: Callable[..., Setup]) -> None:
    model, request, config = setup(privacy__mechanism="none", **CLICK)
    clients = [Client("a", make_rows()), Client("b", make_rows([4, 7], first=9))]

    def total(some: Sequence[Client]) -> Tensor:
        return flat(train_cohort(model, request, some, config)[0].arrays)

    together = total(clients)
    assert (together - total(clients[:1]) - total(clients[1:])).norm() <= 1e-5 * together.norm()


@pytest.mark.parametrize("strength", [1.0, 30.0])
def test_removing_any_record_moves_the_sum_by_at_most_the_clipping_norm(
    setup: Callable[..., Setup], no_noise: None, strength: float
) -> None:
    made, rows = setup(strength, **CLICK), make_rows()
    whole = release(made, [Client("a", rows)])[0]
    rests = [release(made, [Client("a", rows[:n] + rows[n + 1 :])])[0] for n in range(len(rows))]
    moved = max(float((whole - rest).norm()) for rest in rests)
    assert 0.99 * C <= moved <= C * (1 + 1e-5)
