"""Clipping bounds what each record can move, and the check that says so finds planted faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.records import (
    COMPONENTS,
    DENOMINATOR,
    RATE,
    C,
    Client,
    Pairs,
    Setup,
    alone,
    flat,
    gather,
    make_rows,
    pairs,
    parameters,
    release,
)
from torch import Tensor

from hushrec.client.gradients import Batch, batch_losses, round_inputs
from hushrec.client.private import NoisedSum, per_row_gradients
from hushrec.client.rows import Row
from hushrec.client.training import train_cohort

# --- clipping and the bound on each record's influence ---


def test_without_noise_and_clipping_a_private_round_is_plain_sgd_on_the_summed_loss(
    setup: Callable[..., Setup], no_noise: None
) -> None:
    made, rows = setup(privacy__max_grad_norm=1e9), make_rows()
    expected = torch.stack([alone(made, pair) for pair in pairs(rows)]).sum(0)
    (update,) = train_cohort(*made[:2], [Client("a", rows)], made[2])
    found = flat(update.arrays)
    assert update.clients == 1
    assert (found + RATE * expected / DENOMINATOR).norm() <= 1e-5 * found.norm()
    clear = made[2].replace(privacy__mechanism="none")
    mean = flat(train_cohort(*made[:2], [Client("a", rows)], clear)[0].arrays)
    assert (mean * len(rows) - found * DENOMINATOR).norm() <= 1e-5 * (mean * len(rows)).norm()


def influence(summed: Callable[[Pairs], Tensor], rows: Pairs) -> float:
    """Largest change of the sum, in units of C, when one record is removed."""
    whole = summed(rows)
    rests = [summed([pair for place, pair in enumerate(rows) if place != n]) for n in range(len(rows))]
    return max(float((whole - rest).norm()) / C for rest in rests)


def real(setup: Setup) -> Callable[[Pairs], Tensor]:
    return lambda rows: release(setup, [Client("a", tuple(row for _, row in rows))])[0]


KINDS: list[dict[str, Any]] = [{"model__adapter": kind} for kind in ("lora", "ffa", "sb")]
KINDS += [{"model__top_layers": 0}, {"model__head_core": "full"}, {"model__head_core": "scale"}, *COMPONENTS]


@pytest.mark.parametrize("strength", [1.0, 30.0])
@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_removing_any_record_moves_the_sum_by_at_most_the_clipping_norm(
    setup: Callable[..., Setup], no_noise: None, changes: dict[str, Any], strength: float
) -> None:
    made, rows = setup(strength, **changes), pairs()
    gradients = gather(made, rows).norm(dim=1)
    assert gradients.max() > (100 if strength > 1 else 1) * C  # the bound is not met by chance
    assert 0.99 <= influence(real(made), rows) <= 1 + 1e-5


def test_removing_any_user_of_a_silo_moves_the_sum_by_at_most_the_clipping_norm(
    setup: Callable[..., Setup], no_noise: None
) -> None:
    made = setup(5.0, federation__shape="silos", privacy__unit="user")
    assert 0.99 <= influence(real(made), pairs(make_rows([20, 4, 9, 30, 2]))) <= 1 + 1e-5


def test_a_record_moves_its_own_clients_sum_only(setup: Callable[..., Setup], no_noise: None) -> None:
    made = setup()
    first, second = Client("a", make_rows()), Client("b", make_rows([4, 7]))
    both = release(made, [first, second])
    less = release(made, [Client("a", first.rows[1:3]), second])
    assert (both[1] - less[1]).norm() <= 1e-5 * C
    assert (both[0] - less[0]).norm() > 0.1 * C


# --- the check above catches the faults it is there for ---


def clipped(rows: Tensor) -> Tensor:
    made = NoisedSum(rows.shape[1], max_grad_norm=C, noise_multiplier=0.0, denominator=1.0)
    made.add(rows)
    return made.release()


def flattened_candidates(setup: Setup) -> Callable[[Pairs], Tensor]:
    """Each text is its own row for Opacus, so a record is clipped text by text."""
    model, request, config = setup
    recommender = model.recommender

    def summed(rows: Pairs) -> Tensor:
        batch = Batch.of(round_inputs(model, request, rows, config))
        with per_row_gradients(recommender):
            recommender.encoder.layout.rows = batch.index.numel()
            texts = recommender.encoder(*model.prefix.padded(batch.index.flatten()))
            encoded = texts.view(*batch.index.shape, -1)
            users = recommender.user_vectors(encoded[:, : batch.mask.shape[1]])
            losses = batch_losses(
                model, users, recommender.item_vectors(encoded), batch, torch.from_numpy(request.log_popularity), config
            )
            with pytest.warns(UserWarning, match="Full backward hook is firing"):  # as flat_rows knows
                losses.sum().backward()
            recommender.encoder.layout.rows = 1
            samples = [parameter.grad_sample.flatten(1) for parameter in parameters(model)]
        return clipped(torch.cat(samples, dim=1))

    return summed


def in_batch_negatives(setup: Setup) -> Callable[[Pairs], Tensor]:
    """A record's negatives are the items of the other records."""

    def summed(rows: Pairs) -> Tensor:
        others = [[int(i) for other in rows if other is not pair for i in other[1].items] for pair in rows]
        return clipped(torch.stack([alone(setup, pair, items) for pair, items in zip(rows, others, strict=True)]))

    return summed


def clipped_by_tensor(setup: Setup) -> Callable[[Pairs], Tensor]:
    sizes = [parameter.numel() for parameter in parameters(setup[0])]
    return lambda rows: torch.cat([clipped(part) for part in gather(setup, rows).split(sizes, dim=1)])


def not_clipped(setup: Setup) -> Callable[[Pairs], Tensor]:
    return lambda rows: gather(setup, rows).sum(0)


def drawn_by_position(setup: Setup) -> Callable[[Pairs], Tensor]:
    """A record's negatives depend on its place among the sampled records."""

    def summed(rows: Pairs) -> Tensor:
        return clipped(gather(setup, [("a", Row(str(place), row.items)) for place, (_, row) in enumerate(rows)]))

    return summed


FAULTS = [flattened_candidates, in_batch_negatives, clipped_by_tensor, not_clipped, drawn_by_position]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_influence_check_catches_planted_faults(
    setup: Callable[..., Setup], fault: Callable[[Setup], Callable[[Pairs], Tensor]], no_noise: None
) -> None:
    made, rows = setup(3.0, model__train_heads=False, model__train_mix=False), pairs(make_rows([20, 2, 2, 2]))
    assert influence(real(made), rows) <= 1 + 1e-5
    assert influence(fault(made), rows) > 1.05
