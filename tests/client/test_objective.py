"""What a record is trained on beside its loss: hand-made cases, and that a component stays inside its record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from support.records import COMPONENTS, EVERY_COMPONENT, ITEMS, Client, Setup, flat, gather, make_rows, pairs
from torch import Tensor, nn

from hushrec.client.gradients import dropped_out, round_variants
from hushrec.client.losses import Record, record_losses, target_weights
from hushrec.client.objective import contrast_losses, objective, perturbed
from hushrec.client.training import train_cohort
from hushrec.common.protocol import Arrays
from hushrec.common.recommender import Recommender
from hushrec.common.settings import TrainConfig

DIM = 3


def model() -> Recommender:
    encoder: Any = nn.Module()
    encoder.width = 4
    made = Recommender(encoder, DIM, train_heads=True, train_mix=True)
    made.mix.weight.data = torch.tensor([[2.0, 0.5]])
    return made


def batch(lengths: Sequence[int] = (4, 3, 2, 1), negatives: int = 5, **changes: Any) -> tuple[Tensor, Tensor, Record]:
    torch.manual_seed(0)
    rows, width = len(lengths), max(lengths)
    mask = (torch.arange(width)[None] < torch.tensor(lengths)[:, None]).float()
    users, items = torch.randn(rows, width, DIM), torch.randn(rows, width + negatives, DIM)
    given: dict[str, Any] = {
        "log_popularity": torch.randn(rows, width + negatives),
        "mask": mask,
        "twins": torch.zeros(rows, negatives, dtype=torch.bool),
        "log_correction": 0.7,
        "decay": 0.9,
    }
    return users, items, Record(**given | changes)


def test_a_perturbation_is_the_asked_share_long_and_raises_every_loss() -> None:
    users, items, record = batch()
    moved_users, moved_items = perturbed(model(), users, items, record, 0.1)
    read = record.mask.sum(1) > 1  # a record of one item has no loss, so nothing moves
    step = (moved_items - items)[read][record.allowed[read]].norm(dim=-1)
    torch.testing.assert_close(step, 0.1 * items[read][record.allowed[read]].norm(dim=-1))
    before, after = (record_losses(model(), *pair, record) for pair in ((users, items), (moved_users, moved_items)))
    assert bool((after[read] > before[read]).all())
    torch.testing.assert_close(moved_items[~read], items[~read])


def test_a_random_perturbation_of_the_same_length_hurts_less() -> None:
    users, items, record = batch()
    moved_users, moved_items = perturbed(model(), users, items, record, 0.1)
    worst = record_losses(model(), moved_users, moved_items, record)
    for seed in range(20):
        torch.manual_seed(seed)
        other = [v + 0.1 * v.norm(dim=-1, keepdim=True) * nn.functional.normalize(torch.randn(v.shape), dim=-1)
                 for v in (users, items)]  # fmt: skip
        assert bool((record_losses(model(), other[0], other[1], record) <= worst + 1e-6).all())


def test_the_contrast_finds_the_other_half_of_a_record() -> None:
    taste, other = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    users = taste.expand(1, 4, DIM)
    alike = torch.cat([taste.expand(1, 4, DIM), other.expand(1, 5, DIM)], dim=1)
    unlike = torch.cat([other.expand(1, 4, DIM), taste.expand(1, 5, DIM)], dim=1)
    record = batch((4,))[2]
    low, high = (contrast_losses(model(), users, items, record) for items in (alike, unlike))
    # logits: positive 2 x <view, other half>, negatives 2 x similarity + 0.7
    assert low.item() == pytest.approx(torch.logsumexp(torch.tensor([2.0] + [0.7] * 5), 0).item() - 2.0)
    assert high.item() == pytest.approx(torch.logsumexp(torch.tensor([0.0] + [2.7] * 5), 0).item())


def test_a_record_of_one_item_has_no_contrast() -> None:
    users, items, record = batch((1, 2))
    found = contrast_losses(model(), users, items, record)
    assert found[0] == 0
    assert found[1] > 0


def test_inverse_propensities_fall_with_popularity_and_are_clipped() -> None:
    prior = torch.tensor([0.0, 1.0, 2.0, 9.0])
    weights = target_weights(prior, TrainConfig(propensity_power=0.5, propensity_cap=4.0))
    torch.testing.assert_close(weights[:3], torch.exp(-0.5 * (prior[:3] - 3.0)).clamp(max=4.0))
    assert weights[3] == 0.25
    torch.testing.assert_close(target_weights(prior, TrainConfig()), torch.ones(4))


def test_weights_choose_among_targets_and_do_not_change_the_length_of_a_gradient() -> None:
    users, items, record = batch((3,))
    columns = record.log_popularity.shape[1]
    plain = record_losses(model(), users, items, record)
    same = record_losses(model(), users, items, batch((3,), weights=torch.full((1, columns), 7.0))[2])
    torch.testing.assert_close(plain, same)
    only = torch.zeros(1, columns)
    only[0, 1] = 3.0
    first = record_losses(model(), users, items, batch((3,), weights=only)[2])
    cut = batch((2,), twins=torch.zeros(1, 5, dtype=torch.bool))[2]
    assert not torch.allclose(plain, first)
    assert cut.mask.shape == (1, 2)


def test_a_profile_alone_predicts_the_first_item() -> None:
    users, items, record = batch((1,), profiles=torch.tensor([[3.0, 0.0, 0.0]]))
    logits = 2.0 * items[0] @ torch.tensor([3.0, 0.0, 0.0]) + 0.5 * record.log_popularity[0]
    logits[1:] += 0.7
    found = record_losses(model(), users, items, record)
    torch.testing.assert_close(found[0], torch.logsumexp(logits, 0) - logits[0])


def test_switched_off_the_objective_is_the_loss() -> None:
    users, items, record = batch()
    torch.testing.assert_close(
        objective(model(), users, items, record, TrainConfig()), record_losses(model(), users, items, record)
    )


@pytest.mark.parametrize("train", [TrainConfig(adversarial=0.2), TrainConfig(contrast=1.0)], ids=str)
def test_the_objective_of_a_record_does_not_depend_on_the_others(train: TrainConfig) -> None:
    users, items, record = batch((4, 3))
    together = objective(model(), users, items, record, train)
    users[1], items[1] = users[1] + 5.0, items[1] - 3.0
    torch.testing.assert_close(objective(model(), users, items, record, train)[0], together[0])


def test_dropout_is_one_public_draw_per_item_and_round() -> None:
    encoded, index = torch.ones(2, 3, 400), torch.tensor([[0, 1, 0], [1, 1, 2]])
    found = dropped_out(encoded, index, ITEMS, 5, 0.25)
    torch.testing.assert_close(found[0, 0], found[0, 2])
    torch.testing.assert_close(found[0, 1], found[1, 0])
    assert not torch.equal(found[0, 0], found[0, 1])
    assert not torch.equal(found, dropped_out(encoded, index, ITEMS, 6, 0.25))
    torch.testing.assert_close(found.unique(), torch.tensor([0.0, 4 / 3]))
    whole = dropped_out(torch.ones(ITEMS, 400), torch.arange(ITEMS), ITEMS, 5, 0.25)
    assert whole.mean().item() == pytest.approx(1.0, abs=0.02)
    assert dropped_out(encoded, index, ITEMS, 5, 0.0) is encoded


def test_variants_are_drawn_per_item_and_round_the_same_for_everyone(setup: Callable[..., Setup]) -> None:
    made = setup(model__augmentation=2)[0]
    everything = torch.arange(ITEMS)
    drawn = round_variants(made, 3, everything)
    assert set((drawn // ITEMS).tolist()) == {0, 1, 2}
    assert bool((drawn % ITEMS == everything).all())
    torch.testing.assert_close(round_variants(made, 3, everything[5:9]), drawn[5:9])
    assert not torch.equal(round_variants(made, 4, everything), drawn)


@pytest.mark.parametrize("changes", COMPONENTS, ids=str)
def test_every_component_changes_the_gradient(setup: Callable[..., Setup], changes: dict[str, Any]) -> None:
    """A switch that does nothing would pass every other test."""
    plain = setup(**{key: value for key, value in changes.items() if key.startswith(("privacy", "federation"))})
    made = setup(**changes)
    before, after = (gather(one, pairs()) for one in (plain, made))
    assert before.shape != after.shape or not torch.allclose(before, after, atol=1e-6)


@pytest.mark.parametrize("changes", [*COMPONENTS, EVERY_COMPONENT], ids=str)
def test_a_cohort_of_components_is_its_clients_one_by_one(setup: Callable[..., Setup], changes: dict[str, Any]) -> None:
    model, request, config = setup(privacy__mechanism="none", **changes)
    clients = [Client(name, make_rows(lengths)) for name, lengths in (("a", (4,)), ("b", (9,)), ("c", (2,)))]
    together = train_cohort(model, request, clients, config)[0].arrays
    apart: Arrays = {name: value * 0 for name, value in together.items()}
    for client in clients:
        for name, value in train_cohort(model, request, [client], config)[0].arrays.items():
            apart[name] += value
    assert (flat(together) - flat(apart)).norm() <= 1e-5 * flat(apart).norm()
