"""Low-rank adapters: what they compute, what of them is trained, and that every participant builds the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hushrec.common import adapters
from hushrec.common.adapters import KINDS, ROLES, AdaptedLinear, Factor, RowLayout, add_adapters, hash_seed
from hushrec.common.errors import ConfigError

WIDE, HIGH, R = 6, 5, 3


def adapted(kind: str, seed: int = 1, r: int = R, rows: int = 1) -> AdaptedLinear:
    torch.manual_seed(0)
    base = nn.Linear(WIDE, HIGH).requires_grad_(False)
    return AdaptedLinear(base, kind, r, 2.0, RowLayout(rows), torch.Generator().manual_seed(seed))


def weight(factor: Factor | nn.Parameter | None) -> Tensor:
    assert factor is not None
    return factor.weight if isinstance(factor, Factor) else factor


def trained(layer: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in layer.named_parameters() if p.requires_grad}


class Attention(nn.Module):
    """The layer names of BERT's self-attention, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": nn.ModuleDict({"query": nn.Linear(4, 4), "value": nn.Linear(4, 4)})})


@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_adapter_changes_nothing(kind: str) -> None:
    layer, x = adapted(kind), torch.randn(2, 4, WIDE)
    torch.testing.assert_close(layer(x), layer.base(x), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_adds_the_scaled_low_rank_product(kind: str) -> None:
    layer, x = adapted(kind, rows=2), torch.randn(4, 3, WIDE)
    for parameter in layer.parameters():
        parameter.data.normal_()
    middle = torch.eye(R) if layer.core is None else layer.core.weight
    product = weight(layer.lora_B) @ middle @ weight(layer.lora_A)
    torch.testing.assert_close(layer(x), layer.base(x) + 2.0 * x @ product.T)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("lora", {"lora_A.weight": (R, WIDE), "lora_B.weight": (HIGH, R)}),
        ("ffa", {"lora_B.weight": (HIGH, R)}),
        ("sb", {"core.weight": (R, R)}),
    ],
)
def test_each_kind_trains_its_own_factors_and_no_other(kind: str, expected: dict[str, tuple[int, ...]]) -> None:
    assert trained(adapted(kind)) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_factor_sees_one_row_per_privacy_unit(kind: str) -> None:
    layer = adapted(kind, rows=2)
    seen = []
    for module in layer.modules():
        if isinstance(module, Factor):
            module.register_forward_pre_hook(lambda _module, args: seen.append(tuple(args[0].shape[:2])))
    layer(torch.randn(6, 4, WIDE))  # 2 units of 3 texts with 4 tokens
    assert set(seen) == {(2, 12)}


def test_factors_stay_in_float32_when_activations_are_bfloat16() -> None:
    layer = adapted("lora")
    layer.base.bfloat16()
    assert layer(torch.randn(1, 2, WIDE, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert {p.dtype for p in layer.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize("kind", KINDS)
def test_every_participant_builds_the_same_adapter(kind: str) -> None:
    def build() -> dict[str, Tensor]:
        torch.manual_seed(int(torch.randint(1000, ())))  # whatever else torch's generator was used for
        layers = nn.ModuleList([Attention(), Attention()])
        for parameter in layers.parameters():
            parameter.data.copy_(torch.arange(parameter.numel()).view(parameter.shape).sin())
        add_adapters(layers, ("query", "value"), kind=kind, r=2, lora_alpha=4.0, layout=RowLayout(), seed=3)
        return layers.state_dict()

    first, second = build(), build()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_random_factors_differ_between_layers_and_roles() -> None:
    layers = nn.ModuleList([Attention(), Attention()])
    add_adapters(layers, ("query", "value"), kind="ffa", r=2, lora_alpha=4.0, layout=RowLayout(), seed=3)
    drawn = [value for name, value in layers.state_dict().items() if name.endswith("lora_A")]
    assert len(drawn) == 4
    assert all(not torch.equal(a, b) for place, a in enumerate(drawn) for b in drawn[:place])


def test_the_sb_basis_does_not_depend_on_the_signs_a_machine_gives_singular_vectors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual, svd = adapted("sb"), torch.linalg.svd

    def flipped(matrix: Tensor, full_matrices: bool) -> tuple[Tensor, Tensor, Tensor]:
        left, singular, right = svd(matrix, full_matrices=full_matrices)
        sign = torch.tensor([-1.0, 1.0, -1.0, -1.0, 1.0])
        return left * sign, singular, right * sign[:, None]

    monkeypatch.setattr(adapters.torch.linalg, "svd", flipped)
    other = adapted("sb")
    torch.testing.assert_close(weight(usual.lora_A), weight(other.lora_A))
    torch.testing.assert_close(weight(usual.lora_B), weight(other.lora_B))


def test_the_sb_core_at_full_rank_reaches_every_matrix() -> None:
    layer = adapted("sb", r=HIGH)
    assert layer.core is not None
    wanted = weight(layer.base.weight)
    layer.core.weight.data = weight(layer.lora_B).T @ wanted @ weight(layer.lora_A).T
    torch.testing.assert_close(weight(layer.lora_B) @ layer.core.weight @ weight(layer.lora_A), wanted)


def test_an_unknown_kind_role_or_rank_is_refused_by_name() -> None:
    layers, layout = nn.ModuleList([Attention()]), RowLayout()
    with pytest.raises(ConfigError, match=r"model\.adapter .*'dora'"):
        add_adapters(layers, ("query",), kind="dora", r=1, lora_alpha=1.0, layout=layout, seed=0)
    with pytest.raises(ConfigError, match=r"model\.targets .*'key'"):
        add_adapters(layers, ("key",), kind="lora", r=1, lora_alpha=1.0, layout=layout, seed=0)
    for r in (0, 5):
        with pytest.raises(ConfigError, match=rf"model\.r in 1\.\.4, got {r}"):
            add_adapters(layers, ("query",), kind="lora", r=r, lora_alpha=1.0, layout=layout, seed=0)


def test_an_architecture_without_the_role_is_refused_with_the_layers_it_has() -> None:
    fused = nn.ModuleList([nn.ModuleDict({"qkv": nn.Linear(4, 12)})])
    with pytest.raises(ConfigError, match=r"no separate 'query' layer .*\['qkv'\]"):
        add_adapters(fused, ("query",), kind="lora", r=1, lora_alpha=1.0, layout=RowLayout(), seed=0)


def test_seeds_of_different_places_differ() -> None:
    places = [(seed, layer, role) for seed in range(3) for layer in range(24) for role in range(len(ROLES))]
    assert len({hash_seed(*place) for place in places}) == len(places)
    assert all(0 <= hash_seed(*place) < 2**63 for place in places)
