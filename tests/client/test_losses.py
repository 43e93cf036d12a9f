"""The loss of a record: hand-made cases, what is left out, and that no record reads another."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hushrec.client.losses import Record, record_losses
from hushrec.common.recommender import Recommender

DIM = 3


def model(scale: float = 2.0, beta: float = 0.5) -> Recommender:
    encoder: Any = nn.Module()
    encoder.width = 4
    made = Recommender(encoder, DIM, train_heads=True, train_mix=True)
    made.mix.weight.data = torch.tensor([[scale, beta]])
    return made


def inputs(lengths: list[int], width: int = 4, negatives: int = 3) -> dict[str, Tensor]:
    torch.manual_seed(0)
    rows = len(lengths)
    return {
        "users": torch.randn(rows, width, DIM, requires_grad=True),
        "items": torch.randn(rows, width + negatives, DIM, requires_grad=True),
        "log_popularity": torch.randn(rows, width + negatives),
        "mask": (torch.arange(width)[None] < torch.tensor(lengths)[:, None]).float(),
        "twins": torch.zeros(rows, negatives, dtype=torch.bool),
    }


def losses(given: dict[str, Tensor], *, log_correction: float = 0.7, decay: float = 0.9) -> Tensor:
    seen = {name: given[name] for name in ("log_popularity", "mask", "twins")}
    record = Record(**seen, log_correction=log_correction, decay=decay)
    return record_losses(model(), given["users"], given["items"], record)


def test_a_record_of_two_items_and_one_negative_is_as_worked_out_by_hand() -> None:
    users = torch.tensor([[[1.0, 0.0, 0.0], [9.0, 9.0, 9.0]]])
    items = torch.tensor([[[0.5, 0.0, 0.0], [0.25, 0.0, 0.0], [1.0, 0.0, 0.0]]])
    popularity = torch.tensor([[0.0, 2.0, 1.0]])
    record = Record(popularity, torch.ones(1, 2), torch.zeros(1, 1).bool(), log_correction=0.7, decay=0.5)
    found = record_losses(model(), users, items, record)
    # logits of own item 0, own item 1 (the target), negative: 2 x similarity + 0.5 x popularity (+ correction)
    logits = [1.0, 0.5 + 1.0, 2.0 + 0.5 + 0.7]
    assert found.item() == pytest.approx(math.log(sum(map(math.exp, logits))) - logits[1], rel=1e-6)


def test_a_longer_record_is_the_mean_over_its_targets() -> None:
    given = inputs([4])
    users, items, popularity = given["users"][0], given["items"][0], given["log_popularity"][0]
    expected = []
    for target in range(1, 4):
        weights = torch.tensor([0.9 ** (target - 1 - j) for j in range(target)])
        user = (weights[:, None] * users[:target]).sum(0) / weights.sum()
        logits = 2.0 * items @ user + 0.5 * popularity
        logits[4:] += 0.7
        expected.append(torch.logsumexp(logits, 0) - logits[target])
    torch.testing.assert_close(losses(given)[0], torch.stack(expected).mean())


def test_a_negative_that_is_an_own_item_is_left_out() -> None:
    given = inputs([3])
    given["twins"][0, 1] = True
    fewer = {**given, "twins": torch.zeros(1, 2, dtype=torch.bool)}
    keep = [0, 1, 2, 3, 4, 6]
    fewer["items"], fewer["log_popularity"] = given["items"][:, keep], given["log_popularity"][:, keep]
    torch.testing.assert_close(losses(given), losses(fewer))
    losses(given).sum().backward()
    assert given["items"].grad is not None
    assert bool((given["items"].grad[0, 5] == 0).all())


def test_padded_positions_contribute_nothing() -> None:
    given = inputs([2, 4])
    before = losses(given)
    with torch.no_grad():
        given["users"][0, 2:] = 1e3
        given["items"][0, 2:4] = -1e3
    given["log_popularity"][0, 2:4] = 77.0
    torch.testing.assert_close(losses(given), before)
    losses(given).sum().backward()
    for name in ("users", "items"):
        gradient = given[name].grad
        assert gradient is not None
        assert bool((gradient[0, 2:4] == 0).all())


def test_a_wider_window_changes_no_loss() -> None:
    given = inputs([2], width=2)
    wide = inputs([2], width=6)
    for name in ("users", "items", "log_popularity"):
        with torch.no_grad():
            wide[name][:, :2] = given[name][:, :2]
            wide[name][:, 6:] = given[name][:, 2:]
    torch.testing.assert_close(losses(wide), losses(given))


@pytest.mark.parametrize("length", [0, 1])
def test_a_record_without_a_target_has_no_loss_and_no_gradient(length: int) -> None:
    given = inputs([length, 3])
    found = losses(given)
    assert found[0].item() == 0.0
    found.sum().backward()
    for name in ("users", "items"):
        gradient = given[name].grad
        assert gradient is not None
        assert bool((gradient[0] == 0).all())
        assert bool(torch.isfinite(gradient).all())
        assert bool((gradient[1] != 0).any())


def test_no_record_reads_another() -> None:
    given = inputs([4, 3, 2])
    for row in range(3):
        gradients = torch.autograd.grad(losses(given)[row], [given["users"], given["items"]])
        for gradient in gradients:
            others = [n for n in range(3) if n != row]
            assert bool((gradient[others] == 0).all())
            assert bool((gradient[row] != 0).any())


def test_no_target_is_seen_by_the_vector_that_predicts_it() -> None:
    given = inputs([4])
    losses(given).sum().backward()
    assert given["users"].grad is not None
    assert bool((given["users"].grad[0, 3] == 0).all())  # nothing follows the last item


def test_the_correction_makes_negatives_stand_for_the_whole_catalogue() -> None:
    catalogue, sampled = 600, 60
    users, items = torch.zeros(1, 2, DIM), torch.zeros(1, 2 + sampled, DIM)
    record = Record(
        torch.zeros(1, 2 + sampled),
        torch.ones(1, 2),
        torch.zeros(1, sampled).bool(),
        log_correction=math.log(catalogue / sampled),
        decay=0.9,
    )
    found = record_losses(model(), users, items, record)
    assert found.item() == pytest.approx(math.log(2 + catalogue), rel=1e-6)


def test_negatives_push_the_model_too() -> None:
    given = inputs([3])
    losses(given).sum().backward()
    assert given["items"].grad is not None
    assert bool((given["items"].grad[0, 4:] != 0).all())
